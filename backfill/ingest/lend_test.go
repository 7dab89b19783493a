package ingest_test

import (
	"maps"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"barkeep/backfill/coverage"
	"barkeep/backfill/ingest"
	"barkeep/backfill/topic"
	"barkeep/internal/market"
)

var lender = market.Series{Symbol: "alt:BTCUSD", Timeframe: market.M1}

// lending is a world in which alt:BTCUSD has the minutes [0, 60), at 7, but for [40, 50), which it has provisionally, and a gap of [50, 60) in
// its coverage.
func (w *world) lending(t *testing.T) {
	t.Helper()
	_, err := w.Pool.Exec(t.Context(), `INSERT INTO barkeep.symbol (symbol, source, vendor_id) VALUES ('alt:BTCUSD', 'alt', 'Y')`)
	require.NoError(t, err)
	p := page(0, 50, 7, 100)
	p.Series, p.Source = lender, "alt"
	p.Segments = []topic.Segment{{Range: slots(0, 40), State: coverage.Final}, {Range: slots(40, 50), State: coverage.Provisional}}
	w.commit(t, p)
}

func slots(from, to int) market.Range {
	return market.Range{Start: t0 + market.Instant(from)*minute, End: t0 + market.Instant(to)*minute}
}

// denied is a page that says that its source cannot say, read at so many seconds after t0.
func denied(from, n int, fetched int64) *topic.Page {
	p := page(from, 0, 0, fetched)
	p.Asked = slots(from, from+n)
	p.Segments = []topic.Segment{{Range: p.Asked, State: coverage.Unavailable, Reason: "too deep", RetryAt: p.FetchedAt.Shift(time.Hour)}}
	return p
}

// lend commits an order to lend r to sim:BTCUSD.
func (w *world) lend(t *testing.T, r market.Range) ingest.Result {
	t.Helper()
	order := &topic.RollUp{
		RecordID: uuid.NewString(), Series: btc, Base: market.M1, Lender: lender.Symbol, Range: r, Source: "sim", Generation: 1,
	}
	b := ingest.Batch{Partition: w.part, From: w.at, Records: []ingest.Record{{Offset: w.at.Next, ID: order.RecordID, RollUp: order}}}
	result, err := w.writer.Commit(t.Context(), b)
	require.NoError(t, err)
	w.at = b.To()
	return result
}

func priced(from, to int, value float64, more ...map[int]float64) map[int]float64 {
	all := map[int]float64{}
	for i := from; i < to; i++ {
		all[i] = value
	}
	for _, m := range more {
		maps.Copy(all, m)
	}
	return all
}

// The sequence: a source cannot say, another one lends, and then the source has the bars after all. They are its own; an order to lend that comes
// late, or again, changes nothing.
func TestRule10_LentAndThenOwn(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, w *world) {
		t.Helper()
		w.lending(t)
		w.commit(t, denied(0, 30, 200), page(30, 5, 1, 200))
		require.Equal(t, int64(30), w.lend(t, market.Always).Rows)
		require.Equal(t, priced(0, 30, 7, priced(30, 35, 1)), w.closes(t, btc))
		retry := (t0 + 200_000_000).Shift(time.Hour)
		require.Equal(t, []coverage.Segment{
			{Range: slots(0, 30), State: coverage.Final, Source: "alt", Generation: 1, FetchedAt: t0 + 200_000_000, RetryAt: retry},
			{Range: slots(30, 35), State: coverage.Final, Source: "sim", Generation: 1, FetchedAt: t0 + 200_000_000},
		}, w.segments(t, btc))
		require.Equal(t, ingest.Result{Stale: 1, Direct: true}, w.lend(t, market.Always), "again")

		w.commit(t, denied(10, 5, 300))
		require.Equal(t, priced(0, 30, 7, priced(30, 35, 1)), w.closes(t, btc), "it still cannot say")
		w.commit(t, page(10, 10, 1, 150))
		require.Equal(t, priced(0, 30, 7, priced(10, 20, 1), priced(30, 35, 1)), w.closes(t, btc), "its own, though read before it could not say")
		w.commit(t, page(0, 10, 1, 400))
		require.Equal(t, ingest.Result{Stale: 1, Direct: true}, w.lend(t, market.Always), "late")
		require.Equal(t, priced(0, 20, 1, priced(20, 30, 7), priced(30, 35, 1)), w.closes(t, btc))
	})
}

// The sequence: an order to lend comes before the word that nothing is to be had, and names more than that. It takes no gap and nothing that its
// source has, final, provisional or absent; nor does it lend what the lender has provisionally, or not at all.
func TestRule10_NoMoreIsLentThanMayBe(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, w *world) {
		t.Helper()
		w.lending(t)
		require.Equal(t, 1, w.lend(t, market.Always).Stale)
		require.Empty(t, w.closes(t, btc), "all of it is a gap")
		young, none := page(5, 5, 2, 100), page(10, 0, 0, 100)
		young.Segments[0].State = coverage.Provisional
		none.Asked, none.Segments = slots(10, 15), []topic.Segment{{Range: slots(10, 15), State: coverage.Absent}}
		w.commit(t, page(0, 5, 1, 100), young, none)
		require.Equal(t, 1, w.lend(t, market.Always).Stale)
		own := priced(0, 5, 1, priced(5, 10, 2))
		require.Equal(t, own, w.closes(t, btc))

		w.commit(t, denied(20, 40, 200))
		require.Equal(t, 1, w.lend(t, market.Always).RollUps)
		require.Equal(t, priced(20, 40, 7, own), w.closes(t, btc))
		require.Equal(t, slots(40, 60), w.segments(t, btc)[4].Range)
		require.Equal(t, coverage.Unavailable, w.segments(t, btc)[4].State)
	})
}

// A page of the lender, or an order of another binding, is refused as ever.
func TestRule10_NobodyElsesPages(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, w *world) {
		t.Helper()
		w.lending(t)
		w.commit(t, denied(0, 30, 200))
		foreign := page(0, 30, 9, 300)
		foreign.Source = "alt"
		require.Equal(t, 1, w.commit(t, foreign).Superseded)
		_, err := w.Pool.Exec(t.Context(), `UPDATE barkeep.symbol SET generation = 2 WHERE symbol = 'sim:BTCUSD'`)
		require.NoError(t, err)
		require.Equal(t, 1, w.lend(t, market.Always).Superseded)
		require.Empty(t, w.closes(t, btc))
	})
}

// What was made of lent bars goes with them when the source has its own.
func TestRule9_ARollUpOfLentBars(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, w *world) {
		t.Helper()
		w.lending(t)
		w.commit(t, denied(0, 20, 200), page(20, 10, 1, 100))
		w.lend(t, market.Always)
		require.Equal(t, 1, w.rollUp(t, market.M1, market.M15, slots(0, 30), t0+60*minute).RollUps)
		made := w.segments(t, series(market.M15))
		require.Len(t, made, 1)
		require.Equal(t, []any{"alt", coverage.Final, (t0 + 200_000_000).Shift(time.Hour)}, []any{made[0].Source, made[0].State, made[0].RetryAt})
		require.Equal(t, []market.Bar{{TS: t0, Open: 7, High: 7, Low: 7, Close: 7, Volume: 15}}, w.bars(t, market.M15)[:1])

		w.commit(t, page(0, 20, 1, 300))
		require.Empty(t, w.segments(t, series(market.M15)))
		require.Equal(t, 1, w.rollUp(t, market.M1, market.M15, slots(0, 30), t0+60*minute).RollUps)
		made = w.segments(t, series(market.M15))
		require.Equal(t, []any{1, "sim", market.Instant(0)}, []any{len(made), made[0].Source, made[0].RetryAt})
		require.Equal(t, []market.Bar{{TS: t0, Open: 1, High: 1, Low: 1, Close: 1, Volume: 15}}, w.bars(t, market.M15)[:1])
	})
}
