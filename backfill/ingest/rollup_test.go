package ingest_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"barkeep/backfill/coverage"
	"barkeep/backfill/ingest"
	"barkeep/backfill/source/sourcetest"
	"barkeep/backfill/topic"
	"barkeep/internal/dbtest"
	"barkeep/internal/market"
)

// random returns bars of a base in r, about one in three of them missing, priced in dyadic fractions.
func random(rng *rand.Rand, tf market.Timeframe, r market.Range) (bars []market.Bar) {
	for ts := tf.Ceil(r.Start); ts < r.End; ts = tf.Next(ts) {
		if rng.IntN(3) == 0 {
			continue
		}
		low := 100 + float64(rng.IntN(1000))/64
		bars = append(bars, market.Bar{
			TS: ts, Open: low + 1, High: low + 2 + float64(rng.IntN(100))/64, Low: low, Close: low + float64(rng.IntN(64))/64,
			Volume: float64(rng.IntN(10_000)) / 64,
		})
	}
	return bars
}

// pageOf is a reading of r of a series, all in one state.
func pageOf(series market.Series, r market.Range, state coverage.State, bars []market.Bar, fetched market.Instant) *topic.Page {
	return &topic.Page{
		RecordID: uuid.NewString(), Series: series, Asked: r, Source: "sim", Generation: 1, FetchedAt: fetched, Bars: bars,
		Segments: []topic.Segment{{Range: r, State: state}},
	}
}

// rollUp commits an order to derive tf in r.
func (w *world) rollUp(t *testing.T, base, tf market.Timeframe, r market.Range, now market.Instant) ingest.Result {
	t.Helper()
	order := &topic.RollUp{
		RecordID: uuid.NewString(), Series: market.Series{Symbol: btc.Symbol, Timeframe: tf}, Base: base, Range: r, AskedAt: now,
		Source: "sim", Generation: 1,
	}
	b := ingest.Batch{Partition: w.part, From: w.at, Records: []ingest.Record{{Offset: w.at.Next, ID: order.RecordID, RollUp: order}}}
	result, err := w.writer.Commit(t.Context(), b)
	require.NoError(t, err)
	w.at = b.To()
	return result
}

func (w *world) bars(t *testing.T, tf market.Timeframe) (bars []market.Bar) {
	t.Helper()
	rows, err := w.Pool.Query(t.Context(), `SELECT ts, open, high, low, close, volume FROM public.ohlcv
	  WHERE symbol = $1 AND timeframe = $2 ORDER BY ts`, string(btc.Symbol), tf.String())
	require.NoError(t, err)
	var ts time.Time
	var b market.Bar
	_, err = pgx.ForEachRow(rows, []any{&ts, &b.Open, &b.High, &b.Low, &b.Close, &b.Volume}, func() error {
		b.TS = market.FromTime(ts)
		bars = append(bars, b)
		return nil
	})
	require.NoError(t, err)
	return bars
}

func series(tf market.Timeframe) market.Series {
	return market.Series{Symbol: btc.Symbol, Timeframe: tf}
}

// Every pair of base and timeframe, over sparse bases with whole buckets empty, equals the roll-up made in Go.
func TestRule9_RollUpsAreThoseOfTheirBase(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, w *world) {
		t.Helper()
		rng := rand.New(rand.NewPCG(9, 9))
		bases := map[market.Timeframe]market.Range{
			market.M1:  {Start: t0, End: t0.Shift(8 * 24 * time.Hour)},
			market.M15: {Start: t0, End: t0.Shift(40 * 24 * time.Hour)},
			market.H6:  {Start: t0, End: t0.Shift(200 * 24 * time.Hour)},
			market.D1:  {Start: t0.Shift(-500 * 24 * time.Hour), End: t0.Shift(400 * 24 * time.Hour)},
		}
		for base, r := range bases {
			bars := random(rng, base, r)
			hole := market.Range{Start: r.Start + (r.End-r.Start)/4, End: r.Start + (r.End-r.Start)/2}
			bars = slices.DeleteFunc(bars, func(b market.Bar) bool { return hole.Contains(b.TS) })
			w.commit(t, pageOf(series(base), r, coverage.Final, bars, t0))
			for _, tf := range market.Timeframes() {
				whole := r.Inward(tf)
				if !base.Divides(tf) || whole.Empty() || bases[tf] != (market.Range{}) {
					continue
				}
				_, err := w.Pool.Exec(t.Context(), `DELETE FROM public.ohlcv WHERE timeframe = $1`, tf.String())
				require.NoError(t, err)
				_, err = w.Pool.Exec(t.Context(), `DELETE FROM barkeep.coverage WHERE timeframe = $1`, tf.String())
				require.NoError(t, err)
				require.Equal(t, 1, w.rollUp(t, base, tf, market.Always, market.PosInf).RollUps, "%s from %s", tf, base)
				var want []market.Bar
				for _, b := range sourcetest.RollUp(bars, tf) {
					if whole.Contains(b.TS) {
						want = append(want, b)
					}
				}
				require.NotEmpty(t, want)
				require.Equal(t, want, w.bars(t, tf), "%s from %s", tf, base)
				require.Equal(t, []coverage.Segment{{
					Range: whole, State: coverage.Final, Source: "sim", Generation: 1, FetchedAt: t0, DerivedFrom: base,
				}}, w.segments(t, series(tf)), "%s from %s", tf, base)
			}
		}
	})
}

func hours(from, to int) market.Range {
	return market.Range{Start: t0.Shift(time.Duration(from) * time.Hour), End: t0.Shift(time.Duration(to) * time.Hour)}
}

// stretches returns the ranges of a series' segments in a state.
func (w *world) stretches(t *testing.T, tf market.Timeframe, state coverage.State) (ranges market.RangeSet) {
	t.Helper()
	for _, s := range w.segments(t, series(tf)) {
		if s.State == state {
			ranges = ranges.Add(s.Range)
		}
	}
	return ranges
}

// flat are bars of one price in each hour of r.
func flat(r market.Range, price float64) (bars []market.Bar) {
	for ts := r.Start; ts < r.End; ts = market.H1.Next(ts) {
		bars = append(bars, market.Bar{TS: ts, Open: price, High: price, Low: price, Close: price, Volume: 1})
	}
	return bars
}

// The sequence: bars are rolled up, then their base is read anew with other prices. Were the coverage of the rolled up bars
// left, the old prices would be answered for good.
func TestRule9_ARevisedBaseWithdrawsWhatWasMadeOfIt(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, w *world) {
		t.Helper()
		w.commit(t, pageOf(series(market.H1), hours(0, 48), coverage.Final, flat(hours(0, 48), 1), t0))
		for _, tf := range []market.Timeframe{market.H4, market.D1} {
			w.rollUp(t, market.H1, tf, hours(0, 48), market.PosInf)
			require.Equal(t, market.RangeSet{hours(0, 48)}, w.stretches(t, tf, coverage.Final))
		}
		revised := pageOf(series(market.H1), hours(5, 9), coverage.Final, flat(hours(5, 9), 2), t0+1)
		w.commit(t, revised)
		require.Equal(t, market.RangeSet{hours(0, 4), hours(12, 48)}, w.stretches(t, market.H4, coverage.Final), "buckets that were touched, and no more")
		require.Equal(t, market.RangeSet{hours(24, 48)}, w.stretches(t, market.D1, coverage.Final))
		for _, s := range w.segments(t, series(market.H4)) {
			require.Equal(t, market.H1, s.DerivedFrom)
		}

		w.rollUp(t, market.H1, market.H4, hours(4, 12), market.PosInf)
		require.Equal(t, market.RangeSet{hours(0, 48)}, w.stretches(t, market.H4, coverage.Final))
		var want []market.Bar
		for _, b := range sourcetest.RollUp(flat(hours(0, 48), 1), market.H4) {
			if b.TS == t0.Shift(4*time.Hour) || b.TS == t0.Shift(8*time.Hour) {
				b.High, b.Close = 2, 2
				if b.TS == t0.Shift(8*time.Hour) {
					b.Open, b.Close = 2, 1
				}
			}
			want = append(want, b)
		}
		require.Equal(t, want, w.bars(t, market.H4))

		require.Equal(t, 1, w.rollUp(t, market.H1, market.H4, hours(0, 48), market.PosInf).Stale, "a second time changes nothing")
		require.Equal(t, 1, w.commit(t, revised).Stale, "and neither does a page that comes again")
		require.Equal(t, market.RangeSet{hours(0, 48)}, w.stretches(t, market.H4, coverage.Final))

		// A bar that the vendor withdrew goes, and its bucket with the last one.
		w.commit(t, pageOf(series(market.H1), hours(0, 4), coverage.Absent, nil, t0+2))
		w.rollUp(t, market.H1, market.H4, hours(0, 48), market.PosInf)
		require.Equal(t, want[1:], w.bars(t, market.H4))
		require.Equal(t, market.RangeSet{hours(0, 4)}, w.stretches(t, market.H4, coverage.Absent))
	})
}

// A native series of a longer timeframe is nobody's roll-up: its base's revision leaves it alone. So it is where both come in
// one batch, and where the series was rolled up before its source had it.
func TestRule9_NativeBarsStayWhatTheyAre(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, w *world) {
		t.Helper()
		w.commit(t, pageOf(series(market.H1), hours(0, 48), coverage.Final, flat(hours(0, 48), 1), t0),
			pageOf(series(market.D1), hours(0, 48), coverage.Final, nil, t0))
		w.rollUp(t, market.H1, market.H4, hours(0, 48), market.PosInf)
		native := pageOf(series(market.H4), hours(4, 8), coverage.Final, []market.Bar{{TS: t0.Shift(4 * time.Hour), Open: 5, High: 5, Low: 5, Close: 5}}, t0+1)
		w.commit(t, pageOf(series(market.H1), hours(0, 6), coverage.Final, flat(hours(0, 6), 2), t0+1), native)
		require.Equal(t, market.RangeSet{hours(0, 48)}, w.stretches(t, market.D1, coverage.Final))
		require.Equal(t, market.RangeSet{hours(4, 48)}, w.stretches(t, market.H4, coverage.Final), "the first bucket was derived, the second is native now")
		w.commit(t, pageOf(series(market.H1), hours(0, 48), coverage.Final, flat(hours(0, 48), 3), t0+2))
		require.Equal(t, market.RangeSet{hours(4, 8)}, w.stretches(t, market.H4, coverage.Final))
		require.Zero(t, w.segments(t, series(market.H4))[0].DerivedFrom)
	})
}

func TestRule9_TheBarThatFormsIsNeverFinal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, dbtest.NewPlain(t))
	now := t0.Shift(30*time.Hour + 20*time.Minute)
	young := pageOf(series(market.H1), hours(0, 31), coverage.Final, flat(hours(0, 31), 1), now-5)
	young.Segments = []topic.Segment{{Range: hours(0, 29), State: coverage.Final}, {Range: hours(29, 31), State: coverage.Provisional}}
	w.commit(t, young)
	w.rollUp(t, market.H1, market.D1, market.Always, now)
	require.Equal(t, market.RangeSet{hours(0, 24)}, w.stretches(t, market.D1, coverage.Final))
	require.Equal(t, market.RangeSet{hours(24, 48)}, w.stretches(t, market.D1, coverage.Provisional))
	require.Equal(t, now-5, w.segments(t, series(market.D1))[1].FetchedAt)
	require.Equal(t, sourcetest.RollUp(young.Bars, market.D1), w.bars(t, market.D1))

	// Read again a little later, it is as new as that reading, and settles no earlier than its base does.
	w.commit(t, pageOf(series(market.H1), hours(29, 31), coverage.Provisional, flat(hours(29, 31), 2), now+5))
	require.Equal(t, market.RangeSet{hours(24, 48)}, w.stretches(t, market.D1, coverage.Provisional), "it says as of when it is")
	w.rollUp(t, market.H1, market.D1, market.Always, now+6)
	require.Equal(t, now+5, w.segments(t, series(market.D1))[1].FetchedAt)
	require.InDelta(t, 2, w.bars(t, market.D1)[1].Close, 0)
	w.commit(t, pageOf(series(market.H1), hours(29, 48), coverage.Final, flat(hours(29, 48), 3), now+7))
	w.rollUp(t, market.H1, market.D1, market.Always, now+8)
	require.Equal(t, market.RangeSet{hours(0, 48)}, w.stretches(t, market.D1, coverage.Final))
	require.InDelta(t, 3, w.bars(t, market.D1)[1].Close, 0)
}

// What is withdrawn takes with it what was made of it, in every state; a roll-up of it then vouches for nothing.
func TestRule9_AWithdrawnBaseWithdrawsWhatWasMadeOfIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, dbtest.NewPlain(t))
	w.commit(t, pageOf(series(market.H1), hours(0, 48), coverage.Final, flat(hours(0, 48), 1), t0))
	w.rollUp(t, market.H1, market.H4, hours(0, 48), market.PosInf)
	require.NoError(t, pgx.BeginFunc(t.Context(), w.Pool, func(tx pgx.Tx) error {
		return coverage.Withdraw(t.Context(), tx, series(market.H1), market.RangeSet{hours(6, 7), hours(22, 26)})
	}))
	left := market.RangeSet{hours(0, 4), hours(8, 20), hours(28, 48)}
	require.Equal(t, left, w.stretches(t, market.H4, coverage.Final))
	w.rollUp(t, market.H1, market.H4, hours(0, 48), market.PosInf)
	require.Equal(t, left, w.stretches(t, market.H4, coverage.Final))
}

// An order of another generation or source is refused whole, and its job superseded; one whose base is not there does nothing.
func TestRule9_OrdersThatDoNotHold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, dbtest.NewPlain(t))
	require.Equal(t, 1, w.rollUp(t, market.H1, market.H4, hours(0, 48), market.PosInf).Stale)
	w.commit(t, pageOf(series(market.H1), hours(0, 48), coverage.Final, flat(hours(0, 48), 1), t0))
	bind(t, w.DB, "sim:BTCUSD", 2)
	require.Equal(t, 1, w.rollUp(t, market.H1, market.H4, hours(0, 48), market.PosInf).Superseded)
	require.Empty(t, w.bars(t, market.H4))

	// In a batch with the pages before it, it would not see them.
	order := ingest.Record{Offset: w.at.Next + 1, ID: uuid.NewString(), RollUp: &topic.RollUp{Series: series(market.H4), Base: market.H1}}
	b := w.batch(page(0, 1, 1, 1))
	require.False(t, b.Takes(&order))
	b.Records = append(b.Records, order)
	_, err := w.writer.Commit(t.Context(), b)
	require.ErrorContains(t, err, "a roll-up begins a batch")
}

// Whatever comes in whatever order, readings of all states, late ones, roll-ups and withdrawals: settled coverage of a derived
// series says that its rows are those that the stored ones of its base make, and that these are settled too.
func TestRule9_WhatIsSettledIsWhatTheBaseMakes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, dbtest.NewPlain(t))
	derived := []market.Timeframe{market.H2, market.H4, market.D1}
	seen := 0
	rapid.Check(t, func(rt *rapid.T) {
		_, err := w.Pool.Exec(t.Context(), `DELETE FROM public.ohlcv; DELETE FROM barkeep.coverage`, pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err)
		clock := t0
		for range rapid.IntRange(3, 14).Draw(rt, "steps") {
			from := rapid.IntRange(0, 60).Draw(rt, "from")
			r := hours(from, from+rapid.IntRange(1, 40).Draw(rt, "hours"))
			clock += market.Instant(rapid.Int64Range(-2, 5).Draw(rt, "later"))
			switch rapid.IntRange(0, 5).Draw(rt, "step") {
			case 0, 1, 2:
				state := rapid.SampledFrom([]coverage.State{coverage.Final, coverage.Final, coverage.Provisional, coverage.Absent, coverage.Unavailable}).Draw(rt, "state")
				var bars []market.Bar
				if state == coverage.Final || state == coverage.Provisional {
					for _, b := range flat(r, float64(rapid.IntRange(1, 9).Draw(rt, "price"))) {
						if rapid.IntRange(0, 3).Draw(rt, "there") > 0 {
							bars = append(bars, b)
						}
					}
				}
				w.commit(t, pageOf(series(market.H1), r, state, bars, clock))
			case 3, 4:
				now := market.PosInf
				if rapid.Bool().Draw(rt, "forming") {
					now = r.End
				}
				w.rollUp(t, market.H1, rapid.SampledFrom(derived).Draw(rt, "timeframe"), r, now)
			default:
				require.NoError(t, pgx.BeginFunc(t.Context(), w.Pool, func(tx pgx.Tx) error {
					return coverage.Withdraw(t.Context(), tx, series(market.H1), market.RangeSet{r})
				}))
			}
			base := w.bars(t, market.H1)
			settled := w.stretches(t, market.H1, coverage.Final).Union(w.stretches(t, market.H1, coverage.Absent))
			for _, tf := range derived {
				vouched := w.stretches(t, tf, coverage.Final).Union(w.stretches(t, tf, coverage.Absent))
				within := func(b market.Bar) bool { return !vouched.Contains(b.TS) }
				got := slices.DeleteFunc(w.bars(t, tf), within)
				want := slices.DeleteFunc(sourcetest.RollUp(base, tf), within)
				if !slices.Equal(want, got) || !vouched.Subtract(settled).Empty() {
					rt.Fatalf("%s in %s:\nwant %v\ngot  %v\nbase settled in %s", tf, vouched, want, got, settled)
				}
				seen += len(got)
			}
		}
	})
	require.Greater(t, seen, 100, "nothing is shown")
}
