package coordinator_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"barkeep/backfill/coordinator"
	"barkeep/backfill/coverage"
	"barkeep/backfill/source"
	"barkeep/backfill/source/sim"
	"barkeep/internal/market"
)

// The sequence: a source cannot say what there was before some day. It must not be taken for a day without bars, nor asked again at
// once; the user hears from when on there are bars, and who else has them, and in mode partial gets the rest (PIPELINE 3, 5).
func TestRule3_UnavailableIsToldAndAbsentIsNot(t *testing.T) {
	t.Parallel()
	r := newRig(t, sim.Config{})
	r.consumer()
	r.producer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := c.Ensure(ctx, need("sim:BTCUSD", market.M1, "2024-03-10T00:00:00Z", "2024-03-10T01:00:00Z"), nil)
	require.NoError(t, err)
	_, err = r.db.Pool.Exec(ctx, `INSERT INTO barkeep.source (name, declared) VALUES ('coinbase', '{}')`)
	require.NoError(t, err)
	_, err = r.db.Pool.Exec(ctx, `INSERT INTO barkeep.instrument (source, vendor_id, symbol, base, quote)
	  SELECT 'coinbase', 'X', 'BTC-Y', i.base, i.quote FROM barkeep.instrument i JOIN barkeep.symbol s USING (source, vendor_id) WHERE s.symbol = 'sim:BTCUSD'`)
	require.NoError(t, err)
	say := func(state coverage.State, start, end string, expires market.Instant) {
		require.NoError(t, pgx.BeginFunc(ctx, r.db.Pool, func(tx pgx.Tx) error {
			return coverage.Apply(ctx, tx, market.Series{Symbol: "sim:BTCUSD", Timeframe: market.M1}, coverage.Segment{
				Range: market.Range{Start: at(start), End: at(end)}, State: state, Source: "sim", Generation: 1,
				FetchedAt: market.FromTime(time.Now()), Reason: "kept for a week only", ExpiresAt: expires,
			})
		}))
	}
	say(coverage.Absent, "2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z", 0)
	say(coverage.Unavailable, "2024-01-02T00:00:00Z", "2024-01-05T00:00:00Z", 0)
	say(coverage.Absent, "2024-01-05T00:00:00Z", "2024-01-06T00:00:00Z", 0)
	say(coverage.Unavailable, "2024-01-06T00:00:00Z", "2024-01-08T00:00:00Z", 0)
	btc, all := market.Series{Symbol: "sim:BTCUSD", Timeframe: market.M1}, market.RangeSet{{Start: at("2024-01-01T00:00:00Z"), End: at("2024-01-09T00:00:00Z")}}
	require.Eventually(t, func() bool { return len(c.Snapshot().Unavailable(btc, all, market.FromTime(time.Now()))) == 2 }, 30*time.Second, 5*time.Millisecond)
	asked := r.source.fetches.Load()

	req := need("sim:BTCUSD", market.M1, "2024-01-01T00:00:00Z", "2024-01-09T00:00:00Z")
	_, err = c.Ensure(ctx, req, nil)
	require.ErrorContains(t, err, "kept for a week only; there are bars from 2024-01-08T00:00:00Z on")
	require.ErrorContains(t, err, "[2024-01-02T00:00:00Z, 2024-01-08T00:00:00Z)")
	var told *coordinator.Error
	require.ErrorAs(t, err, &told)
	require.Equal(t, "58000", told.SQLState())
	require.Contains(t, told.Hint(), "coinbase:BTC-Y")
	require.Equal(t, asked, r.source.fetches.Load(), "nobody was asked")

	_, err = c.Ensure(ctx, need("sim:BTCUSD", market.M1, "2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z"), nil)
	require.NoError(t, err, "that there are none is an answer")
	require.Equal(t, asked, r.source.fetches.Load())

	req.Mode = coordinator.ModePartial
	warnings, err := c.Ensure(ctx, req, nil)
	require.NoError(t, err)
	require.Len(t, warnings, 1)
	require.Contains(t, warnings[0], "there are bars from 2024-01-08T00:00:00Z on")
	require.Contains(t, warnings[0], "coinbase:BTC-Y")
	require.Equal(t, 1440, r.bars("sim:BTCUSD", "1m", "2024-01-08Z", "2024-01-09Z"), "the rest was fetched")

	say(coverage.Unavailable, "2024-01-02T00:00:00Z", "2024-01-08T00:00:00Z", market.FromTime(time.Now().Add(time.Millisecond)))
	req.Mode = ""
	require.Eventually(t, func() bool { _, err = c.Ensure(ctx, req, nil); return err == nil }, 30*time.Second, 10*time.Millisecond,
		"what has expired is asked for again")
	require.Equal(t, 6*1440, r.bars("sim:BTCUSD", "1m", "2024-01-02Z", "2024-01-09Z"), "but for the day without bars")
}

// The sequence: what is asked for lies deeper than its source reaches, and so does what comes after it. The user hears from when on there are bars, which
// is where the source begins, not the end of what was asked for; and after a delisting there are none, however deep that lies.
func TestRule3_FromWhenOnThereAreBars(t *testing.T) {
	t.Parallel()
	r := newRig(t, sim.Config{})
	shallow := newVenue("shallow", 0)
	shallow.depth.Store(int64(10 * 24 * time.Hour))
	r.others = []source.Source{shallow}
	c, ctx := r.all()
	reach := func() string { return market.H1.Ceil(market.FromTime(time.Now()).Shift(-10 * 24 * time.Hour)).String() }
	before := reach()
	_, err := c.Ensure(ctx, asking(market.H1, last(market.H1, 30, 20)), nil)
	if before == reach() { // else an hour began meanwhile
		require.ErrorContains(t, err, "shallow keeps 1h bars for 10 days only: it has them from "+before+" on; there are bars from "+before+" on")
	}
	var told *coordinator.Error
	require.ErrorAs(t, err, &told)
	require.Equal(t, "58000", told.SQLState())

	delisted := coordinator.Request{Requirements: []market.Requirement{{
		Series: market.Series{Symbol: "OLDUSD", Timeframe: market.H1}, Ranges: market.RangeSet{last(market.H1, 30, 2)},
	}}}
	_, err = c.Ensure(ctx, delisted, nil)
	require.NoError(t, err, "that there are none is an answer")
}
