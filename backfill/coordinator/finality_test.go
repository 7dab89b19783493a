package coordinator_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/coordinator"
	"barkeep/backfill/coverage"
	"barkeep/backfill/source/sim"
	"barkeep/internal/market"
)

// The sequence: bars that may still change are read, and then believed for ever, or read again for ever. They are an answer while they
// are fresh, are read again when somebody asks later, and become final once, after which nobody asks for them; the bar that
// forms is answered and never vouched for.
func TestRule6_ProvisionalIsReadAgainAndTurnsFinalOnce(t *testing.T) {
	t.Parallel()
	const lag = 150 * time.Second
	r := newRig(t, sim.Config{FinalityLag: lag})
	r.consumer()
	r.producer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	btc := market.Series{Symbol: "sim:BTCUSD", Timeframe: market.M1}
	began := market.FromTime(time.Now())
	tail := market.Range{Start: market.M1.Add(market.M1.Floor(began), -6), End: began}
	req := coordinator.Request{
		AskedBy: "test", Freshness: time.Second,
		Requirements: []market.Requirement{{Series: btc, Ranges: market.RangeSet{tail}}},
	}
	ensure := func() {
		t.Helper()
		_, err := c.Ensure(ctx, req, nil)
		require.NoError(t, err)
	}
	// vouched checks what is stored against the clocks, and returns the end of what is final.
	vouched := func() (end market.Instant) {
		t.Helper()
		for _, s := range c.Snapshot().Segments(btc) {
			if s.State == coverage.Final && !s.Range.Intersect(tail).Empty() {
				end = max(end, s.Range.End)
			}
		}
		require.LessOrEqual(t, end, market.FromTime(time.Now().Add(-lag)), "nothing is final before its lag has passed")
		return end
	}
	ensure()
	first := r.source.fetches.Load()
	require.Positive(t, first)
	open := market.M1.Floor(began)
	require.Equal(t, 1, r.bars("sim:BTCUSD", "1m", open.String(), market.M1.Next(open).String()), "the bar that forms is answered")
	old := vouched()
	require.Positive(t, old, "what is old enough is final at once")

	require.Eventually(t, func() bool { ensure(); return r.source.fetches.Load() > first }, 30*time.Second, 50*time.Millisecond, "older than freshness: it is read again")
	vouched()
	settled := req
	settled.Requirements = []market.Requirement{{Series: btc, Ranges: market.RangeSet{{Start: tail.Start, End: old}}}}
	again := r.source.fetches.Load()
	for range 20 {
		_, err := c.Ensure(ctx, settled, nil)
		require.NoError(t, err)
	}
	require.Equal(t, again, r.source.fetches.Load(), "what is final is not asked for again")
}
