package coordinator_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/coordinator"
	"barkeep/backfill/source/sim"
	"barkeep/internal/market"
)

func TestExplainFetchesAndBindsNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, sim.Config{PageLimit: 100})
	r.consumer()
	r.producer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req := need("sim:BTCUSD", market.M1, "2024-01-01T00:00:00Z", "2024-01-01T04:10:00Z")
	require.Eventually(t, func() bool { // once the source's list is there
		list, err := c.Explain(ctx, req)
		return err == nil && list[0].Source == "sim"
	}, 10*time.Second, 20*time.Millisecond)
	list, err := c.Explain(ctx, req)
	require.NoError(t, err)
	require.Equal(t, req.Requirements[0].Ranges, list[0].Needed)
	require.Equal(t, list[0].Needed, list[0].Missing)
	require.EqualValues(t, 3, list[0].Pages)
	require.Negative(t, list[0].Took, "nothing is known of the source's speed")
	require.NoError(t, list[0].Failure)
	require.Zero(t, r.source.fetches.Load())
	var bound int
	require.NoError(t, r.db.Pool.QueryRow(ctx, `SELECT count(*) FROM barkeep.symbol`).Scan(&bound))
	require.Zero(t, bound)

	_, err = c.Ensure(ctx, need("sim:BTCUSD", market.M1, "2024-01-01T00:00:00Z", "2024-01-01T01:40:00Z"), nil)
	require.NoError(t, err)
	fetched := r.source.fetches.Load()
	require.Eventually(t, func() bool { // once the job has ended: its bars are there before
		list, err = c.Explain(ctx, req)
		return err == nil && list[0].Took > 0
	}, 10*time.Second, 20*time.Millisecond)
	require.Less(t, list[0].Missing.Count(market.M1), int64(250))
	require.Equal(t, at("2024-01-01T04:10:00Z"), list[0].Missing.Bounds().End)

	newest := coordinator.Request{Requirements: []market.Requirement{
		{Series: market.Series{Symbol: "sim:BTCUSD", Timeframe: market.D1}, Counts: []market.Count{{N: 5, Within: market.Always, Newest: true}}},
		{Series: market.Series{Symbol: "sim:NEWUSD", Timeframe: market.D1}, Ranges: market.RangeSet{market.Always}},
		{Series: market.Series{Symbol: "sim:NOPE", Timeframe: market.D1}, Ranges: market.RangeSet{market.Always}},
	}}
	list, err = c.Explain(ctx, newest)
	require.NoError(t, err)
	require.Equal(t, newest.Requirements[0].Counts, list[0].Open)
	require.GreaterOrEqual(t, list[0].Missing.Count(market.D1), int64(5))
	require.Equal(t, at("2023-06-15T00:00:00Z"), list[1].Needed.Bounds().Start, "the listing is known")
	require.ErrorContains(t, list[2].Failure, "sim:NOPE")
	require.Equal(t, fetched, r.source.fetches.Load())
}
