package ingest_test

import (
	"bytes"
	"log/slog"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"barkeep/backfill/coverage"
	"barkeep/backfill/ingest"
	"barkeep/backfill/topic"
	"barkeep/internal/dbtest"
	"barkeep/internal/market"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// answer is what the vendor would answer at a moment: a sparse history whose bars are revised once, and withdrawn.
func answer(from, to int, moment int64) *topic.Page {
	p := page(from, to-from, 1, 1e6+moment)
	bars := p.Bars[:0]
	for i, bar := range p.Bars {
		minute := from + i
		switch {
		case minute%5 == 0: // no trade
			continue
		case minute%7 == 0 && moment >= 10: // withdrawn
			continue
		case minute%3 == 0 && moment >= 10: // revised
			bar.Close = 0.5
			bar.Low = 0.5
		}
		bars = append(bars, bar)
	}
	p.Bars = bars
	return p
}

// Pages in any order, any of them again, cut into any batches, after losing the consumer's memory at any point: what is
// covered is what the vendor said last, whole pages at a time, and nothing is stored outside.
func TestRule4And19_AnyDeliveryComesToTheNewestReading(t *testing.T) {
	t.Parallel()
	w := newWorld(t, dbtest.New(t))
	rapid.Check(t, func(r *rapid.T) {
		_, err := w.Pool.Exec(t.Context(), `TRUNCATE public.ohlcv, barkeep.coverage, barkeep.chunk`)
		require.NoError(r, err)
		const size = 40
		var pages []*topic.Page
		var newest [size]int64 // the moment of the newest reading of a minute, 0 for none
		for range rapid.IntRange(1, 6).Draw(r, "readings") {
			a, b := rapid.IntRange(0, size).Draw(r, "a"), rapid.IntRange(0, size).Draw(r, "b")
			a, b = min(a, b), max(a, b)
			// Old readings, and one new reading of everything: merged neighbours cannot tell older ones apart (rule 3).
			pages = append(pages, answer(a, b, 1))
			for i := a; i < b; i++ {
				newest[i] = max(newest[i], 1)
			}
		}
		if rapid.Bool().Draw(r, "revision") {
			pages = append(pages, answer(0, size, 10))
			for i := range newest {
				newest[i] = 10
			}
		}
		delivered := rapid.Permutation(append(pages, pages[:rapid.IntRange(0, len(pages)).Draw(r, "again")]...)).Draw(r, "order")
		w.part.TopicID, w.at = uuid.NewString(), ingest.Position{}
		for len(delivered) > 0 {
			n := rapid.IntRange(1, len(delivered)).Draw(r, "batch")
			b := w.batch(delivered[:n]...)
			_, err := w.writer.Commit(t.Context(), b)
			require.NoError(r, err)
			if rapid.Bool().Draw(r, "killed before the offset commit") {
				_, err := w.writer.Commit(t.Context(), b)
				require.ErrorIs(r, err, ingest.ErrOffsetMoved)
			}
			w.at, delivered = b.To(), delivered[n:]
		}
		want := map[int]float64{}
		covered := market.RangeSet{}
		for i, moment := range newest {
			if moment == 0 {
				continue
			}
			covered = covered.Add(market.Range{Start: t0 + market.Instant(i)*minute, End: t0 + market.Instant(i+1)*minute})
			for _, bar := range answer(i, i+1, moment).Bars {
				want[i] = bar.Close
			}
		}
		require.Equal(r, want, w.closes(t, btc))
		var got []market.Range
		for _, s := range w.segments(t, btc) {
			require.Equal(r, coverage.Final, s.State)
			got = append(got, s.Range)
		}
		require.Equal(r, covered.String(), market.NewRangeSet(got...).String())
	})
}

func TestRule23_ChunksAreMadeBeforehand(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	w := newWorld(t, db)
	var log bytes.Buffer
	w.writer = ingest.New(db.Pool, slog.New(slog.NewTextHandler(&log, nil)))
	chunks := func() (names []string) {
		rows, err := db.Pool.Query(t.Context(), `SELECT c.table_name::text FROM _timescaledb_catalog.chunk c ORDER BY 1`)
		if err != nil {
			return nil // no TimescaleDB here
		}
		names, err = pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return nil
		}
		return names
	}
	before := page(-1_000_000, 1, 1, 1e6) // 1968 days before, so that negative starts do not matter: 2022
	old := page(0, 1, 1, 1e6)
	old.Asked.Start, old.Asked.End = 0, minute
	old.Segments[0].Range = old.Asked
	old.Bars[0].TS = 0
	ancient := page(0, 1, 1, 1e6)
	ancient.Asked = market.Range{Start: -minute, End: 0}
	ancient.Segments[0].Range = ancient.Asked
	ancient.Bars[0].TS = -minute
	w.commit(t, before, old, ancient, page(0, 10, 1, 1e6))
	made := chunks()
	require.Empty(t, log.String())
	w.commit(t, page(10, 10, 1, 1e6))
	require.Equal(t, made, chunks())
	require.Len(t, w.closes(t, btc), 23)
	if made != nil {
		require.Len(t, made, 4)
	}
}
