package coordinator_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"barkeep/backfill/coverage"
	"barkeep/backfill/source/sim"
	"barkeep/internal/market"
)

// BenchmarkOnePageGap is the time to answer for one page that is missing, the source taking none: ≤ 30 ms.
func BenchmarkOnePageGap(b *testing.B) {
	r := newRig(b, sim.Config{PageLimit: 1000})
	r.consumer()
	r.producer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(b.Context(), 5*time.Minute)
	defer cancel()
	req := need("sim:BTCUSD", market.M1, "2024-01-01T00:00:00Z", "2024-01-01T01:00:00Z")
	_, err := c.Ensure(ctx, req, nil)
	require.NoError(b, err)
	next := req.Requirements[0].Ranges[0]
	for b.Loop() {
		next = market.Range{Start: market.M1.Add(next.Start, 1000), End: market.M1.Add(next.End, 1000)}
		req.Requirements[0].Ranges = market.RangeSet{next}
		if _, err := c.Ensure(ctx, req, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRollUp is the time to derive a year of hours from its minutes, which are stored.
func BenchmarkRollUp(b *testing.B) {
	r := newRig(b, sim.Config{})
	r.source.native = []market.Timeframe{market.M1}
	r.consumer()
	r.producer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(b.Context(), 5*time.Minute)
	defer cancel()
	_, err := c.Ensure(ctx, need("sim:BTCUSD", market.M1, "2023-01-01T00:00:00Z", "2024-01-01T00:00:00Z"), nil)
	require.NoError(b, err)
	req := need("sim:BTCUSD", market.H1, "2023-01-01T00:00:00Z", "2024-01-01T00:00:00Z")
	for b.Loop() {
		err := pgx.BeginFunc(ctx, r.db.Pool, func(tx pgx.Tx) error {
			return coverage.Withdraw(ctx, tx, req.Requirements[0].Series, market.RangeSet{market.Always})
		})
		require.NoError(b, err)
		require.Eventually(b, func() bool { _, covered := c.Missing("", req.Requirements, 0); return !covered }, 10*time.Second, time.Millisecond)
		_, err = c.Ensure(ctx, req, nil)
		require.NoError(b, err)
	}
	b.ReportMetric(525_600/b.Elapsed().Seconds()*float64(b.N), "base_bars/s")
}
