package coordinator_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

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
