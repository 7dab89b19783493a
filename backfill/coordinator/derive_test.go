package coordinator_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"barkeep/backfill/coordinator"
	"barkeep/backfill/coverage"
	"barkeep/backfill/source"
	"barkeep/backfill/source/sim"
	"barkeep/backfill/source/sourcetest"
	"barkeep/backfill/topic"
	"barkeep/internal/market"
)

// few are the timeframes of a source that has not many, Coinbase's.
func few() []market.Timeframe {
	return []market.Timeframe{market.M1, market.M5, market.M15, market.H1, market.H6, market.D1}
}

// deriving is a rig whose source has few timeframes.
func deriving(t *testing.T, config sim.Config, native ...market.Timeframe) *rig {
	t.Helper()
	r := newRig(t, config)
	r.source.native = few()
	if len(native) > 0 {
		r.source.native = native
	}
	return r
}

func (r *rig) stored(series market.Series) (bars []market.Bar) {
	rows, err := r.db.Pool.Query(r.t.Context(), `SELECT ts, open, high, low, close, volume FROM public.ohlcv
	  WHERE symbol = $1 AND timeframe = $2 ORDER BY ts`, string(series.Symbol), series.Timeframe.String())
	require.NoError(r.t, err)
	var ts time.Time
	var b market.Bar
	_, err = pgx.ForEachRow(rows, []any{&ts, &b.Open, &b.High, &b.Low, &b.Close, &b.Volume}, func() error {
		b.TS = market.FromTime(ts)
		bars = append(bars, b)
		return nil
	})
	require.NoError(r.t, err)
	return bars
}

// made returns the bars of tf that those of the base in r make, of a coin of the simulated market.
func made(coin string, base, tf market.Timeframe, r market.Range) []market.Bar {
	for _, c := range sim.Coins() {
		if c.Symbol() == coin {
			return sourcetest.RollUp(c.Bars(nil, base, r), tf)
		}
	}
	return nil
}

func TestRule9_ATimeframeThatTheSourceHasNot(t *testing.T) {
	t.Parallel()
	r := deriving(t, sim.Config{PageLimit: 100})
	r.consumer()
	r.producer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for tf, base := range map[market.Timeframe]market.Timeframe{
		market.M30: market.M15, market.H4: market.H1, market.H12: market.H6, market.D3: market.D1, market.W1: market.D1, market.Mo1: market.D1,
	} {
		req := need("sim:GAPUSD", tf, "2023-11-20T05:00:00Z", "2024-02-10T00:00:00Z")
		_, err := c.Ensure(ctx, req, nil)
		require.NoError(t, err, "%s", tf)
		whole := req.Requirements[0].Ranges.Outward(tf).Bounds()
		series := market.Series{Symbol: "sim:GAPUSD", Timeframe: tf}
		require.Equal(t, made("GAPUSD", base, tf, whole), r.stored(series), "%s from %s", tf, base)
		for _, s := range c.Snapshot().Segments(series) {
			require.Equal(t, base, s.DerivedFrom)
			require.True(t, s.State.Settled())
		}
		fetched := r.source.fetches.Load()
		_, err = c.Ensure(ctx, req, nil)
		require.NoError(t, err)
		require.Equal(t, fetched, r.source.fetches.Load())
	}
}

// The listing lies in the middle of a bucket of each, and everything before it is absent; the newest bucket forms.
func TestRule9_AnEntireHistory(t *testing.T) {
	t.Parallel()
	r := deriving(t, sim.Config{PageLimit: 500}, market.H8)
	r.consumer()
	r.producer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, tf := range []market.Timeframe{market.D1, market.D3, market.W1, market.Mo1} {
		series := market.Series{Symbol: "sim:NEWUSD", Timeframe: tf}
		req := coordinator.Request{Requirements: []market.Requirement{{Series: series, Ranges: market.RangeSet{market.Always}}}}
		_, err := c.Ensure(ctx, req, nil)
		require.NoError(t, err)
		now := market.FromTime(time.Now())
		got := r.stored(series)
		want := made("NEWUSD", market.H8, tf, market.Range{Start: at("2023-06-01T00:00:00Z"), End: now})
		require.Len(t, got, len(want), "%s", tf)
		require.Equal(t, want[:len(want)-1], got[:len(got)-1], "%s", tf)
		segments := c.Snapshot().Segments(series)
		require.Equal(t, market.Range{Start: market.NegInf, End: tf.Floor(at("2023-06-15T04:00:00Z"))}, segments[0].Range)
		require.Equal(t, coverage.Absent, segments[0].State)
		last := segments[len(segments)-1]
		require.Equal(t, market.Range{Start: tf.Floor(now), End: tf.Next(now)}, last.Range)
		require.Equal(t, coverage.Provisional, last.State, "the bar that forms is never vouched for")
	}
}

// What was delisted is absent after the bucket that its last bar lies in.
func TestRule9_ADelistedInstrument(t *testing.T) {
	t.Parallel()
	r := deriving(t, sim.Config{PageLimit: 50}, market.H1)
	r.consumer()
	r.producer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req := need("sim:OLDUSD", market.D3, "2022-05-01T00:00:00Z", "2022-07-01T00:00:00Z")
	_, err := c.Ensure(ctx, req, nil)
	require.NoError(t, err)
	whole := req.Requirements[0].Ranges.Outward(market.D3).Bounds()
	require.Equal(t, made("OLDUSD", market.H1, market.D3, whole), r.stored(req.Requirements[0].Series))
	segments := c.Snapshot().Segments(req.Requirements[0].Series)
	require.Len(t, segments, 2)
	require.Equal(t, []coverage.State{coverage.Final, coverage.Absent}, []coverage.State{segments[0].State, segments[1].State})
	require.Equal(t, market.D3.Ceil(at("2022-05-13T03:00:00Z")), segments[1].Range.Start)
}

// No consumer is there: the order is published again and again, and what comes of it is the same.
func TestRule9_AnOrderThatIsPublishedAgain(t *testing.T) {
	t.Parallel()
	r := deriving(t, sim.Config{})
	stop := r.consumer()
	r.producer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := c.Ensure(ctx, need("sim:GAPUSD", market.H1, "2024-01-01T00:00:00Z", "2024-02-01T00:00:00Z"), nil)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return r.jobStates()["done"] == 1 }, 10*time.Second, 10*time.Millisecond)
	stop()
	req := need("sim:GAPUSD", market.H4, "2024-01-01T00:00:00Z", "2024-02-01T00:00:00Z")
	result := ensure(ctx, c, req, nil)
	client, err := kgo.NewClient(append(r.opts, kgo.ConsumeTopics(r.names.Bars()))...)
	require.NoError(t, err)
	defer client.Close()
	for orders := 0; orders < 2; {
		for _, record := range client.PollFetches(ctx).Records() {
			value, err := topic.UnmarshalBars(record.Value)
			require.NoError(t, err)
			if value.RollUp != nil {
				orders++
			}
		}
		require.NoError(t, ctx.Err())
	}
	r.consumer()
	require.NoError(t, <-result)
	require.Equal(t, made("GAPUSD", market.H1, market.H4, req.Requirements[0].Ranges.Bounds()), r.stored(req.Requirements[0].Series))
	require.Eventually(t, func() bool { return r.jobStates()["done"] == 2 }, 10*time.Second, 10*time.Millisecond)
}

func TestRule9_TheNewestAndTheOldest(t *testing.T) {
	t.Parallel()
	r := deriving(t, sim.Config{PageLimit: 100}, market.M5)
	r.consumer()
	r.producer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	series := market.Series{Symbol: "sim:GAPUSD", Timeframe: market.H4}
	for _, newest := range []bool{true, false} {
		req := coordinator.Request{Requirements: []market.Requirement{{Series: series, Counts: []market.Count{
			{N: 7, Within: market.Range{Start: market.NegInf, End: at("2024-01-01T00:00:00Z")}, Newest: newest},
		}}}}
		_, err := c.Ensure(ctx, req, nil)
		require.NoError(t, err)
		fetched := r.source.fetches.Load()
		_, err = c.Ensure(ctx, req, nil)
		require.NoError(t, err)
		require.Equal(t, fetched, r.source.fetches.Load())
	}
	want := made("GAPUSD", market.M5, market.H4, market.Range{Start: at("2023-12-01T00:00:00Z"), End: at("2024-01-01T00:00:00Z")})
	got := r.stored(series)
	require.Equal(t, want[len(want)-7:], got[len(got)-7:])
	require.Equal(t, made("GAPUSD", market.M5, market.H4, market.Range{Start: at("2015-01-01T00:00:00Z"), End: at("2015-01-02T00:00:00Z")}), got[:6])
	require.Less(t, len(got), 60, "a page of a source is no measure for bars that are made of many")
}

// Two barkeeps and many sessions ask for the same bars, some of the base too: each page is fetched once.
func TestRule9_TwoAtOnce(t *testing.T) {
	t.Parallel()
	r := deriving(t, sim.Config{PageLimit: 100})
	r.consumer()
	r.consumer()
	r.producer()
	coordinators := []*coordinator.Coordinator{r.coordinator(), r.coordinator()}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var sessions sync.WaitGroup
	for i := range 24 {
		tf := []market.Timeframe{market.H4, market.H8, market.H2, market.H1}[i/2%4]
		sessions.Go(func() {
			_, err := coordinators[i%2].Ensure(ctx, need("sim:GAPUSD", tf, "2024-01-01T00:00:00Z", "2024-02-01T00:00:00Z"), nil)
			if err != nil {
				t.Errorf("%s: %v", tf, err)
			}
		})
	}
	sessions.Wait()
	whole := market.Range{Start: at("2024-01-01T00:00:00Z"), End: at("2024-02-01T00:00:00Z")}
	for _, tf := range []market.Timeframe{market.H2, market.H4, market.H8} {
		require.Equal(t, made("GAPUSD", market.H1, tf, whole), r.stored(market.Series{Symbol: "sim:GAPUSD", Timeframe: tf}), "%s", tf)
	}
	r.source.mu.Lock()
	defer r.source.mu.Unlock()
	for page, times := range r.source.pages {
		require.Equal(t, 1, times, "%s", page)
	}
}

// The base is there, and its roll-up is not, as after a crash between the two: who asks next has it rolled up, and no source is asked.
func TestRule9_TheBaseIsThereAlready(t *testing.T) {
	t.Parallel()
	r := deriving(t, sim.Config{PageLimit: 24})
	r.consumer()
	stop := r.producer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := c.Ensure(ctx, need("sim:GAPUSD", market.H1, "2024-01-01T00:00:00Z", "2024-02-01T00:00:00Z"), nil)
	require.NoError(t, err)
	stop()
	list, err := c.Explain(ctx, need("sim:GAPUSD", market.H4, "2024-01-01T00:00:00Z", "2024-02-01T00:00:00Z"))
	require.NoError(t, err)
	require.Equal(t, market.H1, list[0].Base)
	require.EqualValues(t, 186, list[0].Missing.Count(market.H4))
	require.Empty(t, list[0].BaseMissing)
	require.Zero(t, list[0].Pages)
	_, err = c.Ensure(ctx, need("sim:GAPUSD", market.H4, "2024-01-01T00:00:00Z", "2024-02-01T00:00:00Z"), nil)
	require.NoError(t, err)
	list, err = c.Explain(ctx, need("sim:GAPUSD", market.H4, "2023-12-31T22:00:00Z", "2024-02-01T01:00:00Z"))
	require.NoError(t, err)
	require.Equal(t, market.RangeSet{
		{Start: at("2023-12-31T20:00:00Z"), End: at("2024-01-01T00:00:00Z")}, {Start: at("2024-02-01T00:00:00Z"), End: at("2024-02-01T04:00:00Z")},
	}, list[0].BaseMissing)
	require.EqualValues(t, 2, list[0].Pages)
}

// The sequence: bars are rolled up, the base is withdrawn and comes back with other prices. Nothing of the old ones is answered.
func TestRule9_ARevisionIsRolledUpAgain(t *testing.T) {
	t.Parallel()
	r := deriving(t, sim.Config{})
	r.consumer()
	r.producer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req := need("sim:BTCUSD", market.H4, "2024-01-01T00:00:00Z", "2024-01-03T00:00:00Z")
	_, err := c.Ensure(ctx, req, nil)
	require.NoError(t, err)
	before := r.stored(req.Requirements[0].Series)
	snapshot := c.Snapshot()

	doubled := func(a *source.Answer) {
		for i := range a.Bars {
			a.Bars[i].Volume *= 2
		}
	}
	r.source.alter.Store(&doubled)
	hour := market.Range{Start: at("2024-01-01T06:00:00Z"), End: at("2024-01-01T07:00:00Z")}
	require.NoError(t, pgx.BeginFunc(ctx, r.db.Pool, func(tx pgx.Tx) error {
		return coverage.Withdraw(ctx, tx, market.Series{Symbol: "sim:BTCUSD", Timeframe: market.H1}, market.RangeSet{hour})
	}))
	require.Eventually(t, func() bool {
		_, covered := c.Missing("", req.Requirements, 0)
		return !covered
	}, 10*time.Second, 10*time.Millisecond)
	_, err = c.Ensure(ctx, req, nil)
	require.NoError(t, err)
	after := r.stored(req.Requirements[0].Series)
	require.Greater(t, after[1].Volume, before[1].Volume)
	before[1], after[1] = market.Bar{}, market.Bar{}
	require.Equal(t, before, after)

	old := req
	old.At = snapshot
	_, err = c.Ensure(ctx, old, nil)
	require.NoError(t, err, "what was there at the snapshot is there")
	old.At = &coverage.Index{}
	_, err = c.Ensure(ctx, old, nil)
	requireState(t, err, "40001")
}

// Only the newest bars of the base come before the deadline: in mode partial what they make is the answer.
func TestRule9_ModePartialAnswersWithWhatCouldBeMade(t *testing.T) {
	t.Parallel()
	r := deriving(t, sim.Config{PageLimit: 24})
	r.consumer()
	r.producer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := c.Ensure(ctx, need("sim:GAPUSD", market.H1, "2024-01-27T00:00:00Z", "2024-02-01T00:00:00Z"), nil)
	require.NoError(t, err)
	stuck := make(chan struct{})
	slow := func(source.Query) error { <-stuck; return nil }
	r.source.fail.Store(&slow)
	t.Cleanup(func() { close(stuck) }) // before the producer is stopped
	req := need("sim:GAPUSD", market.H4, "2024-01-01T00:00:00Z", "2024-02-01T00:00:00Z")
	req.Mode = coordinator.ModePartial
	short, end := context.WithTimeout(ctx, 5*time.Second)
	defer end()
	warnings, err := c.Ensure(short, req, nil)
	require.NoError(t, err)
	newest := market.Range{Start: at("2024-01-27T00:00:00Z"), End: at("2024-02-01T00:00:00Z")}
	require.Equal(t, []string{"bars of sim:GAPUSD 4h are missing in " + market.Range{Start: at("2024-01-01T00:00:00Z"), End: newest.Start}.String()}, warnings)
	require.Equal(t, made("GAPUSD", market.H1, market.H4, newest), r.stored(req.Requirements[0].Series))
}

func TestRule20_WhatCannotBeDerived(t *testing.T) {
	t.Parallel()
	r := deriving(t, sim.Config{}, market.H2, market.D3)
	r.consumer()
	r.producer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := c.Ensure(ctx, need("sim:BTCUSD", market.H1, "2024-01-01T00:00:00Z", "2024-01-03T00:00:00Z"), nil)
	requireState(t, err, "22023")
	hinted, found := errors.AsType[*coordinator.Error](err)
	require.True(t, found)
	require.Equal(t, "There are 2h, 4h, 6h, 8h, 12h, 1d, 3d, 1w, 1M.", hinted.Hint())
	list, err := c.Explain(ctx, need("sim:BTCUSD", market.H1, "2024-01-01T00:00:00Z", "2024-01-03T00:00:00Z"))
	require.NoError(t, err)
	requireState(t, list[0].Failure, "22023")

	// The bars that have to be read count, not only those that are asked for.
	big := need("sim:BTCUSD", market.Mo1, "2023-01-01T00:00:00Z", "2024-01-01T00:00:00Z")
	big.MaxBars = 1000
	_, err = c.Ensure(ctx, big, nil)
	requireState(t, err, "54000")
	require.Zero(t, r.source.fetches.Load())
	big.MaxBars = 365*12 + 12
	big.Requirements = append(big.Requirements, market.Requirement{ // the base itself is read once
		Series: market.Series{Symbol: "sim:BTCUSD", Timeframe: market.H2}, Ranges: big.Requirements[0].Ranges,
	})
	var told []market.Series
	_, err = c.Ensure(ctx, big, func(p market.Progress) { told = append(told, p.Series) })
	require.NoError(t, err)
	require.NotEmpty(t, told)
	require.Equal(t, market.H2, told[0].Timeframe, "what is fetched is told, not what will be made of it")
	require.Equal(t, 12, r.bars("sim:BTCUSD", "1M", "2023-01-01Z", "2024-01-01Z"))
}

// A base that cannot be had is the statement's error, and in mode partial its warning; one that cannot be refreshed excuses
// what is made of it.
func TestRule9_ABaseThatCannotBeHad(t *testing.T) {
	t.Parallel()
	r := deriving(t, sim.Config{})
	r.consumer()
	r.producer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	now := market.FromTime(time.Now())
	tail := coordinator.Request{Freshness: 15 * time.Second, Requirements: []market.Requirement{{
		Series: market.Series{Symbol: "sim:BTCUSD", Timeframe: market.W1},
		Ranges: market.RangeSet{{Start: market.W1.Add(now, -3), End: market.PosInf}},
	}}}
	_, err := c.Ensure(ctx, tail, nil)
	require.NoError(t, err)

	refusing := func(source.Query) error { return &source.Error{Source: "sim", Op: "fetch", Err: source.ErrRefused} }
	r.source.fail.Store(&refusing)
	req := need("sim:BTCUSD", market.H4, "2024-01-01T00:00:00Z", "2024-01-03T00:00:00Z")
	_, err = c.Ensure(ctx, req, nil)
	requireState(t, err, "58000")
	require.ErrorContains(t, err, "sim:BTCUSD 1h")
	req.Mode = coordinator.ModePartial
	warnings, err := c.Ensure(ctx, req, nil)
	require.NoError(t, err)
	require.Len(t, warnings, 1)
	require.Contains(t, warnings[0], "bars of sim:BTCUSD 4h are missing")
	require.Contains(t, warnings[0], "sim:BTCUSD 1h")

	r.age(20 * time.Second) // more than its freshness, and far less than what excuses nothing any more
	require.Eventually(t, func() bool {
		_, covered := c.Missing("", tail.Requirements, tail.Freshness)
		return !covered
	}, 30*time.Second, 5*time.Millisecond)
	warnings, err = c.Ensure(ctx, tail, nil)
	require.NoError(t, err)
	require.Len(t, warnings, 1)
	require.Contains(t, warnings[0], "could not be refreshed")
}

// age has all that is provisional have been read so much earlier.
func (r *rig) age(by time.Duration) {
	r.t.Helper()
	aged := r.exec(`WITH aged AS (UPDATE barkeep.coverage SET fetched_at = fetched_at - make_interval(secs => $1) WHERE state = $2 RETURNING symbol)
	  UPDATE barkeep.symbol SET version = version + 1 WHERE symbol IN (SELECT symbol FROM aged)`, by.Seconds(), int(coverage.Provisional))
	require.NotZero(r.t, aged, "nothing is provisional")
}
