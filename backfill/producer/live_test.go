package producer_test

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"barkeep/backfill/consumer"
	"barkeep/backfill/coverage"
	"barkeep/backfill/producer"
	"barkeep/backfill/source"
	"barkeep/backfill/source/sim"
	"barkeep/backfill/topic"
	"barkeep/internal/actor"
	"barkeep/internal/dbtest"
	"barkeep/internal/market"
)

// exchange is the simulated market on a clock of its own, with a feed that says what the test says, where it has one.
type exchange struct {
	*sim.Source
	now  func() time.Time
	lag  time.Duration
	told *told
	// quiet is how long the feed may tell nothing, zero for the default.
	quiet time.Duration

	fetches atomic.Int64
	// held, where it is not nil, holds answers of the history back until it is closed.
	held chan struct{}
}

type told struct {
	mu    sync.Mutex
	tells []func(source.Tick)
}

func (e *exchange) Info() source.Info {
	info := e.Source.Info()
	info.Poll, info.Finality = 5*time.Millisecond, source.Lag{Default: e.lag}
	return info
}

func (e *exchange) Fetch(ctx context.Context, q source.Query) (source.Answer, error) {
	e.fetches.Add(1)
	if e.held != nil {
		select {
		case <-e.held:
		case <-ctx.Done():
			return source.Answer{}, ctx.Err()
		}
	}
	return e.Source.Fetch(ctx, q)
}

func (e *exchange) Feed(*slog.Logger) source.Feed {
	if e.told == nil {
		return nil
	}
	return e.told
}

func (*told) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func (f *told) Follow(_ source.Instance, tell func(source.Tick)) func() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tells = append(f.tells, tell)
	return func() {}
}

func (f *told) followers() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.tells)
}

func (f *told) tell(tick source.Tick) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, tell := range f.tells {
		tell(tick)
	}
}

type liveRig struct {
	t      *testing.T
	db     *dbtest.DB
	opts   []kgo.Opt
	names  topic.Names
	dep    string
	source *exchange
	actors actor.Registry
	store  *coverage.Store
	log    *slog.Logger
}

var btc = market.Series{Symbol: "sim:BTCUSD", Timeframe: market.M1} //nolint:gochecknoglobals // a constant

// began is when the clocks of the exchanges begin: half a minute into a bar.
var began = time.Date(2024, 1, 1, 12, 5, 30, 0, time.UTC) //nolint:gochecknoglobals // a constant

func newLiveRig(t *testing.T, e *exchange) *liveRig {
	t.Helper()
	r := &liveRig{t: t, db: dbtest.New(t), names: topic.Names{Prefix: dbtest.TopicPrefix(t)}, source: e, log: slog.New(slog.DiscardHandler)}
	if os.Getenv("BARKEEP_TEST_LOG") != "" {
		r.log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	e.Source = sim.New(sim.Config{Now: e.now})
	r.opts = []kgo.Opt{kgo.SeedBrokers(dbtest.Broker(t)...)}
	require.NoError(t, r.db.Pool.QueryRow(t.Context(), `SELECT id::text FROM barkeep.deployment`).Scan(&r.dep))
	require.NoError(t, topic.Ensure(t.Context(), r.opts, r.names, r.dep))
	client, err := kgo.NewClient(r.opts...)
	require.NoError(t, err)
	defer client.Close()
	require.NoError(t, topic.EnsureSeries(t.Context(), client, r.names, btc))
	_, err = r.db.Pool.Exec(t.Context(), `INSERT INTO barkeep.symbol (symbol, source, vendor_id) VALUES ($1, 'sim', 'BTCUSD')`, string(btc.Symbol))
	require.NoError(t, err)
	r.want("1 h")
	r.store = coverage.NewStore(r.db.Pool, coverage.Config{Logger: r.log})
	r.start(r.store.Run)
	c, err := consumer.New(consumer.Config{Brokers: r.opts, Pool: r.db.Pool, Names: r.names, Deployment: r.dep, Logger: r.log})
	require.NoError(t, err)
	r.start(c.Run)
	return r
}

// want writes the interest of a proxy, which lasts as long as is said.
func (r *liveRig) want(lease string) {
	_, err := r.db.Pool.Exec(r.t.Context(), `INSERT INTO barkeep.live (symbol, timeframe, proxy, wanted_until)
	  VALUES ($1, '1m', '00000000-0000-0000-0000-000000000001', now() + $2::interval)
	  ON CONFLICT (symbol, timeframe, proxy) DO UPDATE SET wanted_until = excluded.wanted_until`, string(btc.Symbol), lease)
	require.NoError(r.t, err)
	_, err = r.db.Pool.Exec(r.t.Context(), "NOTIFY "+topic.LiveChannel)
	require.NoError(r.t, err)
}

func (r *liveRig) start(run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := run(ctx); err != nil {
			r.t.Errorf("run: %v", err)
		}
	}()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	r.t.Cleanup(stop)
	return stop
}

func (r *liveRig) producer() (p *producer.Producer, stop func()) {
	p, err := producer.New(producer.Config{
		Options: r.opts, Pool: r.db.Pool, Names: r.names, Deployment: r.dep, Registry: source.RegistryOf(r.source), Coverage: r.store,
		Backoff: 10 * time.Millisecond, BackoffLimit: 50 * time.Millisecond, Logger: r.log, Actors: &r.actors,
		LivePoll: 50 * time.Millisecond, LiveEvery: 10 * time.Millisecond, LiveQuiet: r.source.quiet, Now: r.source.now,
	})
	require.NoError(r.t, err)
	return p, r.start(p.Run)
}

// read reads the series' topic as it is now.
func (r *liveRig) read() (all []topic.Live) {
	client, err := kgo.NewClient(append(r.opts, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{r.names.Series(btc): {0: kgo.NewOffset().AtStart()}}))...)
	require.NoError(r.t, err)
	defer client.Close()
	ends, err := kadm.NewClient(client).ListEndOffsets(r.t.Context(), r.names.Series(btc))
	require.NoError(r.t, err)
	end, _ := ends.Lookup(r.names.Series(btc), 0)
	for next := int64(0); next < end.Offset; {
		fetches := client.PollFetches(r.t.Context())
		require.NoError(r.t, fetches.Err())
		for _, record := range fetches.Records() {
			l, err := topic.ReadLive(record, r.dep)
			require.NoError(r.t, err)
			all = append(all, l)
			next = record.Offset + 1
		}
	}
	return all
}

// finals returns the final bars as a reader passes them on, and requires that none is missing between them.
func (r *liveRig) finals() (bars []market.Bar) {
	last := market.NegInf
	for _, l := range r.read() {
		if l.Bar.TS <= last {
			continue // PIPELINE 12: what a second producer repeats
		}
		if l.Final {
			if len(bars) > 0 {
				require.Equal(r.t, market.M1.Next(last), l.Bar.TS, "a bar is missing")
			}
			bars, last = append(bars, l.Bar), l.Bar.TS
		}
	}
	return bars
}

func (r *liveRig) eventually(what string, condition func() bool) {
	r.t.Helper()
	require.Eventually(r.t, condition, time.Minute, 20*time.Millisecond, what)
}

func truth(from market.Instant, n int) []market.Bar {
	coin := sim.Coins()[0]
	return coin.Bars(nil, market.M1, market.Range{Start: from, End: market.M1.Add(from, int64(n))})
}

// requireStored waits until the database has the bars, and vouches for them as final.
func (r *liveRig) requireStored(bars []market.Bar) {
	r.t.Helper()
	r.eventually("the database has the bars", func() bool {
		var n int
		require.NoError(r.t, r.db.Pool.QueryRow(r.t.Context(), `SELECT count(*) FROM public.ohlcv WHERE symbol = $1 AND timeframe = '1m' AND ts BETWEEN $2 AND $3`,
			string(btc.Symbol), bars[0].TS.Time(), bars[len(bars)-1].TS.Time()).Scan(&n))
		var covered bool
		require.NoError(r.t, r.db.Pool.QueryRow(r.t.Context(), `SELECT EXISTS (SELECT FROM barkeep.segments WHERE symbol = $1 AND timeframe = '1m'
		  AND state = 'final' AND range_start <= $2 AND range_end > $3)`, string(btc.Symbol), bars[0].TS.Time(), bars[len(bars)-1].TS.Time()).Scan(&covered))
		return n == len(bars) && covered
	})
}

// hurried is a clock on which a minute passes in 300 ms: long enough for a look at the bar that forms on a machine that is busy.
func hurried() func() time.Time {
	start := time.Now()
	return func() time.Time { return began.Add(200 * time.Since(start)) }
}

// TestLiveSeriesIsPolledWhereThereIsNoFeed: final bars come once and in order, the forming one before them, and the database has
// them. The next producer goes on where the one before stopped, with the numbers too.
func TestLiveSeriesIsPolledWhereThereIsNoFeed(t *testing.T) {
	t.Parallel()
	r := newLiveRig(t, &exchange{now: hurried()})
	formed := int64(0)
	for _, n := range []int{4, 8, 12} {
		p, stop := r.producer()
		r.eventually("final bars", func() bool { return len(r.finals()) >= n })
		r.eventually("seen", func() bool {
			for _, m := range r.actors.Machines() {
				if m.ID == "live sim:BTCUSD 1m" && m.Kind == "producer" {
					return true
				}
			}
			return false
		})
		require.EqualValues(t, 1, p.Live().Following)
		stop()
		formed += p.Live().Forming
	}
	bars := r.finals()
	require.Equal(t, truth(bars[0].TS, len(bars)), bars)
	final, seq := market.NegInf, int64(0)
	for _, l := range r.read() {
		require.Greater(t, l.Seq, seq, "numbers go on; a broker may have compacted a forming bar away")
		seq = l.Seq
		require.Greater(t, l.Bar.TS, final, "no bar comes after it was final")
		if l.Final {
			final = l.Bar.TS
		}
	}
	require.Positive(t, formed, "by count: the broker may have compacted them all away")
	require.Zero(t, r.actors.Undeclared())
	r.requireStored(bars)
}

// TestLiveSeriesMovesWithItsPartition: two producers, of which the one that has the series goes away while both run; and for a
// moment both have it.
func TestLiveSeriesMovesWithItsPartition(t *testing.T) {
	t.Parallel()
	r := newLiveRig(t, &exchange{now: hurried()})
	one, stopOne := r.producer()
	r.eventually("followed", func() bool { return one.Live().Final > 2 })
	two, stopTwo := r.producer()
	r.eventually("one of both", func() bool { return one.Live().Following+two.Live().Following >= 1 })
	stopOne()
	before := len(r.finals())
	r.eventually("the other goes on", func() bool { return two.Live().Final > 3 && len(r.finals()) > before+3 })
	stopTwo()
	bars := r.finals()
	require.Equal(t, truth(bars[0].TS, len(bars)), bars)
}

// TestLiveSeriesOfTwoProducersForAMoment: one that does not know that it lost the series writes between, an old bar again, and as
// if more were due. Who has it notices by the place of its own record, and goes on; readers get no bar twice, and none is missing.
func TestLiveSeriesOfTwoProducersForAMoment(t *testing.T) {
	t.Parallel()
	r := newLiveRig(t, &exchange{now: hurried()})
	p, _ := r.producer()
	r.eventually("followed", func() bool { return p.Live().Final > 2 })
	client, err := kgo.NewClient(r.opts...)
	require.NoError(t, err)
	defer client.Close()
	for range 3 {
		all, failed := r.read(), p.Live().Failed
		first, last := all[0], all[len(all)-1]
		for _, stale := range []topic.Live{
			{Bar: first.Bar, Due: first.Bar.TS, Seq: last.Seq}, {Bar: first.Bar, Final: true, Due: market.M1.Next(first.Bar.TS), Seq: last.Seq + 1},
		} {
			stale.Deployment, stale.Series = r.dep, btc
			record, err := r.names.LiveRecord(stale)
			require.NoError(t, err)
			require.NoError(t, client.ProduceSync(t.Context(), record).FirstErr())
		}
		r.eventually("noticed", func() bool { return p.Live().Failed > failed })
		n := len(r.finals())
		r.eventually("goes on", func() bool { return len(r.finals()) > n+1 })
	}
	bars := r.finals()
	require.Equal(t, truth(bars[0].TS, len(bars)), bars)
	r.requireStored(bars)
}

// TestLiveSeriesEndsWithItsLease: what nobody wants any more is not followed, nor asked of the source.
func TestLiveSeriesEndsWithItsLease(t *testing.T) {
	t.Parallel()
	r := newLiveRig(t, &exchange{now: hurried()})
	p, _ := r.producer()
	r.eventually("followed", func() bool { return p.Live().Final > 1 })
	r.want("-1 s")
	r.eventually("left", func() bool { return p.Live().Following == 0 })
	fetched := r.source.fetches.Load()
	r.want("1 h")
	r.eventually("followed again", func() bool { return p.Live().Following == 1 && r.source.fetches.Load() > fetched })
	n := len(r.finals())
	r.eventually("goes on", func() bool { return len(r.finals()) > n+2 })
	bars := r.finals()
	require.Equal(t, truth(bars[0].TS, len(bars)), bars)
}

// TestRule6_FeedWithHolesIsFilledFromTheHistory: what a feed says twice, late, out of order or before its time is published once
// and in order; what it does not say is read from the source once it is final there, and goes before what is newer.
func TestRule6_FeedWithHolesIsFilledFromTheHistory(t *testing.T) {
	t.Parallel()
	var clock atomic.Pointer[time.Time]
	set := func(after time.Duration) {
		at := time.Date(2024, 1, 1, 12, 5, 0, 0, time.UTC).Add(after)
		clock.Store(&at)
	}
	set(30 * time.Second)
	feed := &told{}
	r := newLiveRig(t, &exchange{now: func() time.Time { return *clock.Load() }, lag: 70 * time.Second, told: feed, quiet: time.Hour})
	p, _ := r.producer()
	r.eventually("followed", func() bool { return feed.followers() > 0 })
	bars := truth(market.FromTime(time.Date(2024, 1, 1, 12, 5, 0, 0, time.UTC)), 8)
	closed := func(i int) { feed.tell(source.Tick{Bar: bars[i], Closed: true}) }
	finals := func(n int) {
		t.Helper()
		r.eventually("final bars", func() bool { return len(r.finals()) >= n })
		require.Equal(t, bars[:n], r.finals())
	}

	form := bars[0]
	form.Close = form.Low
	feed.tell(source.Tick{Bar: form})
	r.eventually("forming", func() bool { return p.Live().Forming == 1 })
	closed(0) // 30 s before its end
	r.eventually("too early", func() bool { return p.Live().Late == 1 })
	set(time.Minute + 5*time.Millisecond)
	closed(0)
	finals(1)
	closed(0)
	feed.tell(source.Tick{Bar: form})
	r.eventually("twice, and late", func() bool { return p.Live().Late >= 2 })

	set(3*time.Minute + 5*time.Millisecond)
	closed(2) // out of order
	closed(1)
	finals(3)
	require.Zero(t, p.Live().Read)

	set(5*time.Minute + 5*time.Millisecond)
	closed(4) // and 3 never comes
	feed.tell(source.Tick{Bar: bars[5]})
	r.eventually("the forming one is told meanwhile", func() bool { return p.Live().Forming == 2 })
	require.Len(t, r.finals(), 3, "what is newer waits for what is missing")
	set(5*time.Minute + 11*time.Second)
	finals(5)
	require.EqualValues(t, 1, p.Live().Read)

	set(9*time.Minute + 11*time.Second) // silence
	finals(8)
	require.EqualValues(t, 4, p.Live().Read)
	r.requireStored(bars)
	require.Zero(t, r.actors.Undeclared())
}

// TestRule6_NoBarWaitsForTheHistory: while the source does not answer what is final there, the feed's bars are told, those that form and those that
// close; what it has not told is filled when the answer comes, and stored.
func TestRule6_NoBarWaitsForTheHistory(t *testing.T) {
	t.Parallel()
	var clock atomic.Pointer[time.Time]
	set := func(after time.Duration) {
		at := time.Date(2024, 1, 1, 12, 5, 0, 0, time.UTC).Add(after)
		clock.Store(&at)
	}
	set(30 * time.Second)
	feed := &told{}
	r := newLiveRig(t, &exchange{
		now: func() time.Time { return *clock.Load() }, lag: 10 * time.Second, told: feed, quiet: time.Hour, held: make(chan struct{}),
	})
	p, _ := r.producer()
	r.eventually("followed, and the history is asked", func() bool { return feed.followers() > 0 && r.source.fetches.Load() > 0 })
	bars := truth(market.FromTime(time.Date(2024, 1, 1, 12, 5, 0, 0, time.UTC)), 5)
	closes := func(i int) {
		t.Helper()
		set(time.Duration(i+1)*time.Minute + 30*time.Second)
		feed.tell(source.Tick{Bar: bars[i], Closed: true})
		feed.tell(source.Tick{Bar: bars[i+1]})
	}
	closes(0)
	closes(1)
	r.eventually("told while the history is silent", func() bool { return len(r.finals()) == 2 && p.Live().Forming >= 1 })
	require.Equal(t, bars[:2], r.finals())
	require.EqualValues(t, 1, r.source.fetches.Load(), "one look at a time")

	closes(3) // 2 never comes
	r.eventually("the forming one", func() bool {
		all := r.read()
		return all[len(all)-1].Bar.TS == bars[4].TS
	})
	require.Len(t, r.finals(), 2, "what is newer waits for what is missing")
	close(r.source.held)
	r.eventually("final bars", func() bool { return len(r.finals()) == 4 })
	require.Equal(t, bars[:4], r.finals())
	require.EqualValues(t, 2, p.Live().Read, "by then the history had 3 as well")
	r.requireStored(bars[:4])
	seq := int64(0)
	for _, l := range r.read() {
		require.Greater(t, l.Seq, seq)
		seq = l.Seq
	}
	require.Zero(t, r.actors.Undeclared())
}

// TestFeedThatIsQuietIsStoodInForByTheHistory: a forming bar that the feed does not tell is read from the source, and final ones
// still once that they are due; what the feed tells then goes before.
func TestFeedThatIsQuietIsStoodInForByTheHistory(t *testing.T) {
	t.Parallel()
	var clock atomic.Pointer[time.Time]
	set := func(after time.Duration) {
		at := time.Date(2024, 1, 1, 12, 5, 0, 0, time.UTC).Add(after)
		clock.Store(&at)
	}
	set(30 * time.Second)
	feed := &told{}
	r := newLiveRig(t, &exchange{now: func() time.Time { return *clock.Load() }, lag: 10 * time.Second, told: feed, quiet: 50 * time.Millisecond})
	p, _ := r.producer()
	bars := truth(market.FromTime(time.Date(2024, 1, 1, 12, 5, 0, 0, time.UTC)), 3)
	shows := func(i int) {
		t.Helper()
		r.eventually("forming", func() bool {
			all := r.read()
			return len(all) > 0 && !all[len(all)-1].Final && all[len(all)-1].Bar.TS == bars[i].TS
		})
	}
	shows(0)
	set(90 * time.Second)
	r.eventually("final", func() bool { return len(r.finals()) == 1 })
	shows(1)
	set(150 * time.Second)
	r.eventually("final", func() bool { return len(r.finals()) == 2 })
	require.Equal(t, bars[:2], r.finals())
	require.EqualValues(t, 2, p.Live().Read)
	form := bars[2]
	form.Volume += 7
	r.eventually("the feed's own", func() bool {
		feed.tell(source.Tick{Bar: form})
		all := r.read()
		return all[len(all)-1].Bar == form
	})
	require.Zero(t, r.actors.Undeclared())
}
