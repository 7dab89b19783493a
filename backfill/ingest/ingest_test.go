package ingest_test

import (
	"context"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"barkeep/backfill/coverage"
	"barkeep/backfill/ingest"
	"barkeep/backfill/topic"
	"barkeep/internal/dbtest"
	"barkeep/internal/market"
)

const minute = market.Instant(60_000_000)

// t0 is a round start in the past: 2024-01-01.
const t0 = market.Instant(1_704_067_200_000_000)

var btc = market.Series{Symbol: "sim:BTCUSD", Timeframe: market.M1}

// world is one database with a writer and its place in the log.
type world struct {
	*dbtest.DB
	writer *ingest.Writer
	part   ingest.Partition
	at     ingest.Position
}

func newWorld(t *testing.T, db *dbtest.DB) *world {
	t.Helper()
	bind(t, db, "sim:BTCUSD", 1)
	return &world{DB: db, writer: ingest.New(db.Pool, nil), part: ingest.Partition{ClusterID: "c", TopicID: "t", Number: 3}}
}

func bind(t *testing.T, db *dbtest.DB, symbol string, generation int64) {
	t.Helper()
	_, err := db.Pool.Exec(t.Context(), `INSERT INTO barkeep.symbol (symbol, source, vendor_id, generation)
	  VALUES ($1, 'sim', 'X', $2) ON CONFLICT (symbol) DO UPDATE SET generation = $2`, symbol, generation)
	require.NoError(t, err)
}

// page is n final bars from minute `from`, all priced value, read at fetched seconds after t0.
func page(from, n int, value float64, fetched int64) *topic.Page {
	p := &topic.Page{
		RecordID: uuid.NewString(), Series: btc, Source: "sim", Generation: 1, FetchedAt: t0 + market.Instant(fetched*1e6),
	}
	p.Asked = market.Range{Start: t0 + market.Instant(from)*minute, End: t0 + market.Instant(from+n)*minute}
	p.Segments = []topic.Segment{{Range: p.Asked, State: coverage.Final}}
	for i := range n {
		p.Bars = append(p.Bars, market.Bar{
			TS: p.Asked.Start + market.Instant(i)*minute, Open: value, High: value, Low: value, Close: value, Volume: 1,
		})
	}
	return p
}

func (w *world) batch(pages ...*topic.Page) ingest.Batch {
	b := ingest.Batch{Partition: w.part, From: w.at}
	for i, p := range pages {
		b.Records = append(b.Records, ingest.Record{Offset: w.at.Next + int64(i), ID: p.RecordID, Page: p})
	}
	return b
}

func (w *world) commit(t *testing.T, pages ...*topic.Page) ingest.Result {
	t.Helper()
	b := w.batch(pages...)
	result, err := w.writer.Commit(t.Context(), b)
	require.NoError(t, err)
	w.at = b.To()
	return result
}

// closes returns the stored closes of a series by minute since t0.
func (w *world) closes(t *testing.T, s market.Series) map[int]float64 {
	t.Helper()
	rows, err := w.Pool.Query(t.Context(), `SELECT ts, close FROM public.ohlcv WHERE symbol = $1 AND timeframe = $2`,
		string(s.Symbol), s.Timeframe.String())
	require.NoError(t, err)
	found := map[int]float64{}
	var ts time.Time
	var c float64
	_, err = pgx.ForEachRow(rows, []any{&ts, &c}, func() error {
		found[int((market.FromTime(ts)-t0)/minute)] = c
		return nil
	})
	require.NoError(t, err)
	return found
}

func (w *world) segments(t *testing.T, s market.Series) []coverage.Segment {
	t.Helper()
	store := coverage.NewStore(w.Pool, coverage.Config{})
	require.NoError(t, store.Load(t.Context()))
	return store.Snapshot().Segments(s)
}

func (w *world) job(t *testing.T) string {
	t.Helper()
	id := uuid.NewString()
	_, err := w.Pool.Exec(t.Context(), `INSERT INTO barkeep.job (id, symbol, timeframe, range_start, range_end, source, generation)
	  VALUES ($1, 'sim:BTCUSD', '1m', '2024-01-01', '2024-01-02', 'sim', 1)`, id)
	require.NoError(t, err)
	return id
}

func (w *world) jobState(t *testing.T, id string) (state, code string, pages int, bars int64) {
	t.Helper()
	require.NoError(t, w.Pool.QueryRow(t.Context(),
		`SELECT state, error_code, pages_done, bars_done FROM barkeep.job WHERE id = $1`, id).Scan(&state, &code, &pages, &bars))
	return state, code, pages, bars
}

// The sequence: many pages are read again before any statistics of the tables were collected, as after a crash in the middle
// of a backfill. A plan that compares each row with each holds the pipeline up for minutes.
func TestRule19_ALargeBatchThatIsReadAgain(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, w *world) {
		t.Helper()
		var first, again []*topic.Page
		for from := 0; from < 30_000; from += 1000 {
			first = append(first, page(from, 1000, 1, 1e7))
			again = append(again, page(from, 1000, 2, 1e7+1))
		}
		require.True(t, w.commit(t, first...).Direct)
		began := time.Now()
		require.False(t, w.commit(t, again...).Direct)
		require.Less(t, time.Since(began), 15*time.Second)
	})
}

// both runs a test on a hypertable and on a plain table.
func both(t *testing.T, run func(t *testing.T, w *world)) {
	t.Helper()
	t.Run("hypertable", func(t *testing.T) { t.Parallel(); run(t, newWorld(t, dbtest.New(t))) })
	t.Run("plain", func(t *testing.T) { t.Parallel(); run(t, newWorld(t, dbtest.NewPlain(t))) })
}

func TestRule19_OneTransaction(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, w *world) {
		t.Helper()
		id := w.job(t)
		p := page(0, 100, 1, 9e7)
		p.JobID = id
		b := w.batch(p)
		b.Records = append(b.Records, ingest.Record{Offset: 1, ID: "end", End: &topic.End{JobID: id, State: topic.Done}})
		result, err := w.writer.Commit(t.Context(), b)
		require.NoError(t, err)
		require.Equal(t, ingest.Result{Rows: 100, Pages: 1, Direct: true}, result)
		require.Len(t, w.closes(t, btc), 100)
		at, found, err := w.writer.Position(t.Context(), w.part)
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, ingest.Position{Next: 2, LastID: "end"}, at)
		state, _, pages, bars := w.jobState(t, id)
		require.Equal(t, []any{"done", 1, int64(100)}, []any{state, pages, bars})
		segments := w.segments(t, btc)
		require.Len(t, segments, 1)
		require.Equal(t, p.Asked, segments[0].Range)
	})
}

// The sequence: a batch ends many jobs while the coordinator renews them, and the producer reports on them. All lock rows by id; who does not
// meets the others in a deadlock, and the batch is done again (PIPELINE 9).
func TestRule9_JobsAreLockedInOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, dbtest.New(t))
	for range 15 {
		b := ingest.Batch{Partition: w.part, From: w.at}
		var jobs []string
		for i := range 40 {
			jobs = append(jobs, w.job(t))
			b.Records = append(b.Records, ingest.Record{Offset: w.at.Next + int64(i), ID: uuid.NewString(), End: &topic.End{JobID: jobs[i], State: topic.Done}})
		}
		ctx, stop := context.WithCancel(t.Context())
		renewed, once := make(chan error, 1), make(chan struct{})
		go func() {
			begun := sync.OnceFunc(func() { close(once) })
			var err error
			for ; err == nil && ctx.Err() == nil; begun() {
				_, err = w.Pool.Exec(context.WithoutCancel(ctx), `WITH locked AS (SELECT id FROM barkeep.job WHERE id = ANY ($1::uuid[]) ORDER BY id FOR UPDATE)
				  UPDATE barkeep.job j SET wanted_until = now() FROM locked WHERE j.id = locked.id`, jobs)
			}
			renewed <- err
		}()
		<-once
		_, err := w.writer.Commit(t.Context(), b)
		stop()
		require.NoError(t, err)
		require.NoError(t, <-renewed)
		w.at = b.To()
	}
}

func TestRule19_OffsetIsComparedAndSet(t *testing.T) {
	t.Parallel()
	w := newWorld(t, dbtest.New(t))
	first := page(0, 10, 1, 9e7)
	b := w.batch(first)
	w.commit(t, first)
	_, err := w.writer.Commit(t.Context(), b) // another consumer that still believes the start
	require.ErrorIs(t, err, ingest.ErrOffsetMoved)
	var moved *ingest.OffsetError
	require.ErrorAs(t, err, &moved)
	require.Equal(t, w.at, moved.Found)
	// The same number after another record is another log.
	w.at.LastID = "else"
	_, err = w.writer.Commit(t.Context(), w.batch(page(10, 10, 1, 9e7)))
	require.ErrorIs(t, err, ingest.ErrOffsetMoved)
	require.Len(t, w.closes(t, btc), 10)
}

func TestRule4_PageReplacesItsRange(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, w *world) {
		t.Helper()
		w.commit(t, page(0, 10, 1, 9e7))
		newer := page(2, 4, 2, 9e7+1)
		newer.Bars = append(newer.Bars[:1], newer.Bars[2:]...) // the vendor withdrew minute 3
		result := w.commit(t, newer)
		require.False(t, result.Direct)
		require.Equal(t, []int64{3, 1}, []int64{result.Revised, result.Withdrawn}, "what the source has changed is counted")
		require.Equal(t, map[int]float64{0: 1, 1: 1, 2: 2, 4: 2, 5: 2, 6: 1, 7: 1, 8: 1, 9: 1}, w.closes(t, btc))
		result = w.commit(t, page(0, 10, 3, 9e7)) // late, and the same again
		require.Equal(t, 1, result.Stale)
		require.Zero(t, result.Revised+result.Withdrawn)
		require.InDelta(t, 2, w.closes(t, btc)[2], 0)
		require.NotContains(t, w.closes(t, btc), 3)
	})
}

func TestRule4_RowsWithoutCoverageAreReplaced(t *testing.T) {
	t.Parallel()
	w := newWorld(t, dbtest.New(t))
	_, err := w.Pool.Exec(t.Context(), `INSERT INTO public.ohlcv VALUES ('sim:BTCUSD', '1m', '2024-01-01 00:03', 9,9,9,9,9),
	  ('sim:BTCUSD', '1m', '2024-01-01 00:20', 9,9,9,9,9)`)
	require.NoError(t, err)
	p := page(0, 10, 1, 9e7)
	p.Bars = append(p.Bars[:3], p.Bars[4:]...)
	require.False(t, w.commit(t, p).Direct)
	stored := w.closes(t, btc)
	require.NotContains(t, stored, 3)
	require.InDelta(t, 9, stored[20], 0)
	require.Len(t, stored, 10)
}

func TestRule19_OneRowPerKeyWithinABatch(t *testing.T) {
	t.Parallel()
	w := newWorld(t, dbtest.New(t))
	result := w.commit(t, page(0, 10, 1, 9e7), page(5, 10, 2, 9e7+2), page(0, 20, 3, 9e7+1))
	require.Equal(t, int64(20), result.Rows)
	stored := w.closes(t, btc)
	require.Len(t, stored, 20)
	require.Equal(t, []float64{3, 2, 2, 3}, []float64{stored[0], stored[5], stored[14], stored[15]})
	require.Len(t, w.segments(t, btc), 1, "final neighbours merge")
}

// TestFreshBarsAscend: the pages of a batch go to the table in the order of time, in which ever order they came and were read.
func TestFreshBarsAscend(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, w *world) {
		t.Helper()
		require.True(t, w.commit(t, page(20, 10, 1, 3), page(0, 10, 1, 2), page(30, 10, 1, 1), page(10, 10, 1, 4)).Direct)
		rows, err := w.Pool.Query(t.Context(), `SELECT ts FROM public.ohlcv ORDER BY ctid`)
		require.NoError(t, err)
		stored, err := pgx.CollectRows(rows, pgx.RowTo[time.Time])
		require.NoError(t, err)
		require.Len(t, stored, 40)
		require.True(t, slices.IsSortedFunc(stored, time.Time.Compare), "%v", stored)
	})
}

func TestRule4_NeighboursOfOneBatchDoNotHideEachOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t, dbtest.New(t))
	w.commit(t, page(0, 10, 1, 1e6))
	w.commit(t, page(10, 10, 2, 1e6+9), page(0, 10, 2, 1e6+9))
	require.InDelta(t, 2, w.closes(t, btc)[0], 0)
}

func TestRule8_WrongGenerationIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, dbtest.New(t))
	bind(t, w.DB, "sim:BTCUSD", 2)
	id := w.job(t)
	p := page(0, 10, 1, 9e7)
	p.JobID = id
	other := page(0, 10, 1, 9e7)
	other.Series.Symbol = "sim:NONE"
	require.Equal(t, 2, w.commit(t, p, other).Superseded)
	require.Empty(t, w.closes(t, btc))
	state, _, _, _ := w.jobState(t, id)
	require.Equal(t, "superseded", state)
	require.Equal(t, int64(2), w.at.Next)
}

func TestRule6_FetchedAheadIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, dbtest.New(t))
	id := w.job(t)
	p := page(0, 10, 1, 0)
	p.JobID = id
	p.FetchedAt = market.FromTime(time.Now().Add(time.Minute))
	require.Equal(t, 1, w.commit(t, p).Ahead)
	state, code, _, _ := w.jobState(t, id)
	require.Equal(t, []string{"failed", "58000"}, []string{state, code})
	require.Empty(t, w.closes(t, btc))
}

func TestRule22_BadPageIsTheRecordsFault(t *testing.T) {
	t.Parallel()
	w := newWorld(t, dbtest.New(t))
	for name, spoil := range map[string]func(p *topic.Page){
		"order": func(p *topic.Page) { p.Bars[0], p.Bars[1] = p.Bars[1], p.Bars[0] },
		"grid":  func(p *topic.Page) { p.Bars[1].TS++ },
		"timestamp": func(p *topic.Page) { // beyond PostgreSQL's range
			p.Bars[9].TS = market.M1.Floor(math.MaxInt64 - 1e9)
			p.Segments[0].Range.End = market.PosInf
		},
		"text": func(p *topic.Page) { p.Segments[0].Reason = "\x00" },
	} {
		p := page(0, 10, 1, 9e7)
		spoil(p)
		_, err := w.writer.Commit(t.Context(), w.batch(p))
		var stated interface{ SQLState() string }
		require.ErrorAs(t, err, &stated, name)
		require.Equal(t, "22", stated.SQLState()[:2], name)
	}
	require.Empty(t, w.closes(t, btc))
}

func TestUnavailableDeletesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, dbtest.New(t))
	w.commit(t, page(0, 10, 1, 9e7))
	p := page(0, 20, 1, 9e7+5)
	p.Bars, p.Segments[0].State, p.Segments[0].RetryAt = nil, coverage.Unavailable, t0
	w.commit(t, p)
	require.Len(t, w.closes(t, btc), 10)
	segments := w.segments(t, btc)
	require.Len(t, segments, 2)
	require.Equal(t, []coverage.State{coverage.Final, coverage.Unavailable},
		[]coverage.State{segments[0].State, segments[1].State})
	require.Equal(t, t0, segments[1].RetryAt)
}

func TestAbsenceReachesToMinusInfinity(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, w *world) {
		t.Helper()
		p := page(0, 10, 1, 9e7)
		p.Segments = append([]topic.Segment{{Range: market.Range{Start: market.NegInf, End: t0}, State: coverage.Absent}}, p.Segments...)
		w.commit(t, p)
		w.commit(t, page(-5, 10, 2, 9e7+1))
		require.Len(t, w.closes(t, btc), 15)
		require.Equal(t, market.NegInf, w.segments(t, btc)[0].Range.Start)
	})
}

func TestRule9_WritersOfOneSymbolTakeTurns(t *testing.T) {
	t.Parallel()
	w := newWorld(t, dbtest.New(t))
	bind(t, w.DB, "sim:ETHUSD", 1)
	eth := func(p *topic.Page) *topic.Page { p.Series.Symbol = "sim:ETHUSD"; return p }
	errs := make(chan error)
	for k := range 2 {
		go func() {
			part, at := ingest.Partition{ClusterID: "c", TopicID: "t", Number: int32(10 + k)}, ingest.Position{}
			var err error
			for i := range 20 {
				pages := []*topic.Page{page(i, 5, float64(k), int64(9e7+2*i+k)), eth(page(i, 5, float64(k), int64(9e7+2*i+k)))}
				if k == 1 {
					pages[0], pages[1] = pages[1], pages[0]
				}
				b := ingest.Batch{Partition: part, From: at}
				for j, p := range pages {
					b.Records = append(b.Records, ingest.Record{Offset: int64(2*i + j), ID: p.RecordID, Page: p})
				}
				if _, err = w.writer.Commit(context.WithoutCancel(t.Context()), b); err != nil {
					break
				}
				at = b.To()
			}
			errs <- err
		}()
	}
	require.NoError(t, <-errs)
	require.NoError(t, <-errs)
	require.Len(t, w.closes(t, btc), 24)
}
