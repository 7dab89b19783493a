package consumer

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"barkeep/backfill/coverage"
	"barkeep/backfill/topic"
	"barkeep/internal/dbtest"
	"barkeep/internal/market"
)

const (
	minute = market.Instant(60_000_000)
	t0     = market.Instant(1_704_067_200_000_000) // 2024-01-01
)

// world is a database and a broker with topics.
type world struct {
	db         *dbtest.DB
	opts       []kgo.Opt
	client     *kgo.Client
	names      topic.Names
	deployment string
	pages      int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{db: dbtest.New(t), names: topic.Names{Prefix: dbtest.TopicPrefix(t)}}
	w.opts = []kgo.Opt{kgo.SeedBrokers(dbtest.Broker(t)...)}
	require.NoError(t, w.db.Pool.QueryRow(t.Context(), `SELECT id::text FROM barkeep.deployment`).Scan(&w.deployment))
	_, err := w.db.Pool.Exec(t.Context(), `INSERT INTO barkeep.symbol (symbol, source, vendor_id) VALUES ('sim:BTCUSD', 'sim', 'X')`)
	require.NoError(t, err)
	require.NoError(t, topic.Ensure(t.Context(), w.opts, w.names, w.deployment))
	w.client, err = kgo.NewClient(append(w.opts, kgo.ProducerLinger(0))...)
	require.NoError(t, err)
	t.Cleanup(w.client.Close)
	return w
}

// page is the next ten minutes, each worth its number.
func (w *world) page(job string) topic.Page {
	p := topic.Page{
		RecordID: uuid.NewString(), Deployment: w.deployment, Source: "sim", Generation: 1, FetchedAt: t0 + 1e15/100,
		Series: market.Series{Symbol: "sim:BTCUSD", Timeframe: market.M1}, JobID: job,
	}
	p.Asked.Start = t0 + market.Instant(10*w.pages)*minute
	p.Asked.End = p.Asked.Start + 10*minute
	p.Segments = []topic.Segment{{Range: p.Asked, State: coverage.Final}}
	for i := range 10 {
		v := float64(10*w.pages + i)
		p.Bars = append(p.Bars, market.Bar{
			TS: p.Asked.Start + market.Instant(i)*minute, Open: v, High: v, Low: v, Close: v, Volume: 1,
		})
	}
	w.pages++
	return p
}

func (w *world) publish(t *testing.T, records ...*kgo.Record) {
	t.Helper()
	require.NoError(t, w.client.ProduceSync(t.Context(), records...).FirstErr())
}

func (w *world) publishPages(t *testing.T, n int) {
	t.Helper()
	for range n {
		w.publish(t, w.names.PageRecord(w.page("")))
	}
}

func (w *world) consumer(t *testing.T) *Consumer {
	t.Helper()
	c, err := New(Config{Brokers: w.opts, Pool: w.db.Pool, Names: w.names, Deployment: w.deployment})
	require.NoError(t, err)
	return c
}

// start runs a consumer until the returned function, or the test, ends it.
func start(t *testing.T, c *Consumer) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	stop = func() {
		cancel()
		if err, open := <-ended; open {
			close(ended)
			require.NoError(t, err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func (w *world) rows(t *testing.T) (count int, sum float64) {
	t.Helper()
	require.NoError(t, w.db.Pool.QueryRow(t.Context(), `SELECT count(*), coalesce(sum(close), 0) FROM public.ohlcv`).Scan(&count, &sum))
	return count, sum
}

// complete waits until all pages made so far are stored, and checks them.
func (w *world) complete(t *testing.T) {
	t.Helper()
	n := 10 * w.pages
	var count int
	var sum float64
	require.Eventually(t, func() bool {
		// The test may have cut the pool's connections.
		err := w.db.Pool.QueryRow(t.Context(), `SELECT count(*), coalesce(sum(close), 0) FROM public.ohlcv`).Scan(&count, &sum)
		return err == nil && count >= n
	}, 60*time.Second, 20*time.Millisecond)
	require.Equal(t, n, count)
	require.InDelta(t, float64(n*(n-1)/2), sum, 0)
}

func (w *world) job(t *testing.T) string {
	t.Helper()
	id := uuid.NewString()
	_, err := w.db.Pool.Exec(t.Context(), `INSERT INTO barkeep.job (id, symbol, timeframe, range_start, range_end, source, generation)
	  VALUES ($1, 'sim:BTCUSD', '1m', '2024-01-01', '2024-01-02', 'sim', 1)`, id)
	require.NoError(t, err)
	return id
}

func (w *world) jobState(t *testing.T, id string) (state string, pages int) {
	t.Helper()
	require.NoError(t, w.db.Pool.QueryRow(t.Context(), `SELECT state, pages_done FROM barkeep.job WHERE id = $1`, id).Scan(&state, &pages))
	return state, pages
}

func (w *world) jobBecomes(t *testing.T, id, want string) {
	t.Helper()
	require.Eventually(t, func() bool { state, _ := w.jobState(t, id); return state == want }, 30*time.Second, 20*time.Millisecond)
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPagesAndEndsReachTheDatabase(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.job(t)
	for range 5 {
		w.publish(t, w.names.PageRecord(w.page(id)))
	}
	c := w.consumer(t)
	stop := start(t, c)
	w.complete(t)
	series := market.Series{Symbol: "sim:BTCUSD", Timeframe: market.M1}
	w.publish(t, w.names.EndRecord(topic.End{
		RecordID: uuid.NewString(), Deployment: w.deployment, JobID: id, Series: series, State: topic.Done,
	}))
	w.jobBecomes(t, id, "done")
	_, pages := w.jobState(t, id)
	require.Equal(t, 5, pages)
	group := w.names.Group("ingest", w.deployment)
	require.Eventually(t, func() bool {
		offsets, err := kadm.NewClient(w.client).FetchOffsets(t.Context(), group)
		var sum int64
		offsets.Each(func(o kadm.OffsetResponse) { sum += o.At })
		return err == nil && sum == 6
	}, 30*time.Second, 20*time.Millisecond)
	stop()
	require.Equal(t, int64(6), c.Stats().Records)
	require.Equal(t, int64(50), c.Stats().Bars)
}

func TestRule19_KilledBetweenDatabaseAndOffsetCommit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.job(t)
	for range 5 {
		w.publish(t, w.names.PageRecord(w.page(id)))
	}
	first := w.consumer(t)
	committed := make(chan struct{}, 16)
	first.config.committed = func(int32) error {
		committed <- struct{}{}
		return errors.New("killed")
	}
	stop := start(t, first)
	<-committed
	stop()
	for range 5 {
		w.publish(t, w.names.PageRecord(w.page(id)))
	}
	// Whatever the broker believes, even if it lost all of it, the row rules.
	_, _ = kadm.NewClient(w.client).DeleteGroup(t.Context(), w.names.Group("ingest", w.deployment))
	second := w.consumer(t)
	start(t, second)
	w.complete(t)
	_, pages := w.jobState(t, id)
	require.Equal(t, 10, pages, "no page is counted twice")
	require.Zero(t, second.Stats().Replays)
}

func TestRule20_LogMadeAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.consumer(t)
	start(t, c)
	w.publishPages(t, 5)
	w.complete(t)
	admin := kadm.NewClient(w.client)
	_, err := admin.DeleteTopic(t.Context(), w.names.Bars())
	require.NoError(t, err)
	w.client.PurgeTopicsFromClient(w.names.Bars())
	require.NoError(t, topic.Ensure(t.Context(), w.opts, w.names, w.deployment))
	w.publishPages(t, 3)
	w.complete(t)
}

func TestRule20_AnotherRecordStandsBefore(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]string{
		"other id":  `next_offset = 3, last_record_id = 'other'`,
		"log ended": `next_offset = 99, last_record_id = 'other'`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			stop := start(t, w.consumer(t))
			w.publishPages(t, 5)
			w.complete(t)
			stop()
			// The log is another one under the same topic id: a broker restored from an older copy.
			_, err := w.db.Pool.Exec(t.Context(), `UPDATE barkeep.ingest_offset SET `+row+` WHERE next_offset > 0`)
			require.NoError(t, err)
			w.publishPages(t, 2)
			c := w.consumer(t)
			start(t, c)
			w.complete(t)
			require.Equal(t, int64(1), c.Stats().Replays)
		})
	}
}

func TestRule20_RetentionRemovedNext(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stop := start(t, w.consumer(t))
	w.publishPages(t, 3)
	w.complete(t)
	stop()
	w.publishPages(t, 4)
	admin := kadm.NewClient(w.client)
	starts, err := admin.ListEndOffsets(t.Context(), w.names.Bars())
	require.NoError(t, err)
	cut := make(kadm.Offsets)
	starts.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			cut.AddOffset(o.Topic, o.Partition, 5, -1)
		}
	})
	_, err = admin.DeleteRecords(t.Context(), cut)
	require.NoError(t, err)
	c := w.consumer(t)
	start(t, c)
	require.Eventually(t, func() bool { n, _ := w.rows(t); return n == 50 }, 30*time.Second, 20*time.Millisecond)
	require.Zero(t, c.Stats().Replays)
}

func TestRule19_DatabaseGoneBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.consumer(t)
	start(t, c)
	w.publishPages(t, 1)
	w.complete(t)
	var next int64
	var last string
	require.NoError(t, w.db.Pool.QueryRow(t.Context(), `SELECT next_offset, last_record_id FROM barkeep.ingest_offset
	  WHERE next_offset > 0`).Scan(&next, &last))
	w.publishPages(t, 4)
	w.complete(t)
	// A failover lost all commits but the first.
	_, err := w.db.Pool.Exec(t.Context(), `DELETE FROM public.ohlcv WHERE ts >= '2024-01-01 00:10'`)
	require.NoError(t, err)
	_, err = w.db.Pool.Exec(t.Context(), `UPDATE barkeep.coverage SET range_end = '2024-01-01 00:10'`)
	require.NoError(t, err)
	_, err = w.db.Pool.Exec(t.Context(), `UPDATE barkeep.ingest_offset SET next_offset = $1, last_record_id = $2
	  WHERE next_offset > 0`, next, last)
	require.NoError(t, err)
	_, err = w.db.Pool.Exec(t.Context(), `UPDATE barkeep.coverage SET fetched_at = fetched_at - interval '1 hour'`)
	require.NoError(t, err)
	w.publishPages(t, 1)
	w.complete(t)
	require.Equal(t, int64(1), c.Stats().Moved)
	require.Zero(t, c.Stats().Replays)
}

func TestRule22_PoisonBetweenGoodPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id, other := w.job(t), w.job(t)
	var records []*kgo.Record
	for range 4 {
		records = append(records, w.names.PageRecord(w.page("")))
	}
	poison := w.page(id)
	w.pages--
	poison.Bars[9].TS = market.M1.Floor(math.MaxInt64 - 1e9) // a time PostgreSQL does not have
	poison.Segments[0].Range.End = market.PosInf
	garbage := w.names.PageRecord(w.page(other))
	w.pages--
	garbage.Value = append([]byte{1}, "\xff\xff\xff\xff"...)
	records = append(records, w.names.PageRecord(poison), garbage)
	for range 4 {
		records = append(records, w.names.PageRecord(w.page("")))
	}
	w.publish(t, records...)
	c := w.consumer(t)
	start(t, c)
	w.complete(t)
	w.jobBecomes(t, id, "failed")
	w.jobBecomes(t, other, "failed")
	require.Equal(t, int64(2), c.Stats().Dead)
	ends, err := kadm.NewClient(w.client).ListEndOffsets(t.Context(), w.names.Dead())
	require.NoError(t, err)
	end, _ := ends.Lookup(w.names.Dead(), 0)
	require.Equal(t, int64(2), end.Offset)
}

func TestRule13_ForeignRecordsAreDropped(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	foreign := w.page("")
	w.pages--
	foreign.Deployment = uuid.NewString()
	w.publish(t, w.names.PageRecord(foreign))
	c := w.consumer(t)
	start(t, c)
	w.publishPages(t, 2)
	w.complete(t)
	require.Equal(t, int64(1), c.Stats().Foreign)
}

func TestRule21_AnotherMemberJoinsAndLeaves(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	start(t, w.consumer(t))
	w.publishPages(t, 5)
	second := start(t, w.consumer(t))
	w.publishPages(t, 20)
	w.complete(t)
	second()
	w.publishPages(t, 5)
	w.complete(t)
}

func barAt(i int) market.Bar {
	return market.Bar{TS: t0 + market.Instant(i)*minute, Open: 1, High: 2, Low: 0.5, Close: float64(i), Volume: 1}
}
