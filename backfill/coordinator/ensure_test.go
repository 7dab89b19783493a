package coordinator_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"barkeep/backfill/consumer"
	"barkeep/backfill/coordinator"
	"barkeep/backfill/coverage"
	"barkeep/backfill/producer"
	"barkeep/backfill/source"
	"barkeep/backfill/source/sim"
	"barkeep/backfill/topic"
	"barkeep/internal/actor"
	"barkeep/internal/dbtest"
	"barkeep/internal/market"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// counted is the simulated market, counting requests and failing as told.
type counted struct {
	*sim.Source
	// native are the timeframes that it has, nil for all.
	native  []market.Timeframe
	mu      sync.Mutex
	pages   map[market.Range]int
	fetches atomic.Int64
	fail    atomic.Pointer[func(q source.Query) error]
	alter   atomic.Pointer[func(a *source.Answer)]
}

func (c *counted) Info() source.Info {
	info := c.Source.Info()
	if c.native != nil {
		info.Native = c.native
	}
	return info
}

func (c *counted) Fetch(ctx context.Context, q source.Query) (source.Answer, error) {
	c.fetches.Add(1)
	if fail := c.fail.Load(); fail != nil {
		if err := (*fail)(q); err != nil {
			return source.Answer{}, err
		}
	}
	c.mu.Lock()
	c.pages[q.Range]++
	c.mu.Unlock()
	answer, err := c.Source.Fetch(ctx, q)
	if alter := c.alter.Load(); alter != nil && err == nil {
		(*alter)(&answer)
	}
	return answer, err
}

type rig struct {
	t      testing.TB
	db     *dbtest.DB
	opts   []kgo.Opt
	names  topic.Names
	dep    string
	source *counted
	// others are further sources, and fallback is what the coordinators are told of them.
	others   []source.Source
	fallback map[string][]string
	actors   actor.Registry
	log      *slog.Logger
}

func newRig(tb testing.TB, config sim.Config) *rig {
	tb.Helper()
	r := &rig{t: tb, db: dbtest.New(tb), names: topic.Names{Prefix: dbtest.TopicPrefix(tb)}, log: slog.New(slog.DiscardHandler)}
	if os.Getenv("BARKEEP_TEST_LOG") != "" {
		r.log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	r.opts = []kgo.Opt{kgo.SeedBrokers(dbtest.Broker(tb)...)}
	require.NoError(tb, r.db.Pool.QueryRow(tb.Context(), `SELECT id::text FROM barkeep.deployment`).Scan(&r.dep))
	require.NoError(tb, topic.Ensure(tb.Context(), r.opts, r.names, r.dep))
	r.source = &counted{Source: sim.New(config), pages: map[market.Range]int{}}
	return r
}

// start runs a part until the returned stop, or the end of the test.
func (r *rig) start(run func(context.Context) error) (stop func()) {
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

func (r *rig) consumer() func() {
	c, err := consumer.New(consumer.Config{Brokers: r.opts, Pool: r.db.Pool, Names: r.names, Deployment: r.dep, Logger: r.log})
	require.NoError(r.t, err)
	return r.start(c.Run)
}

func (r *rig) producer() func() { return r.producerAt(time.Now) }

// producerAt starts a producer on a machine with a clock of its own.
func (r *rig) producerAt(now func() time.Time) func() {
	p, err := producer.New(producer.Config{
		Options: r.opts, Pool: r.db.Pool, Names: r.names, Deployment: r.dep, Registry: source.RegistryOf(append([]source.Source{r.source}, r.others...)...),
		Backoff: 10 * time.Millisecond, BackoffLimit: 50 * time.Millisecond, Breaker: 50 * time.Millisecond, Logger: r.log,
		Actors: &r.actors, ListPoll: 200 * time.Millisecond, Now: now,
	})
	require.NoError(r.t, err)
	return r.start(p.Run)
}

func (r *rig) dropTopic(name string) {
	client, err := kgo.NewClient(r.opts...)
	require.NoError(r.t, err)
	defer client.Close()
	_, err = kadm.NewClient(client).DeleteTopic(r.t.Context(), name)
	require.NoError(r.t, err)
}

func (r *rig) coordinator() *coordinator.Coordinator { return r.coordinatorAt(time.Now) }

// coordinatorAt starts a coordinator on a machine with a clock of its own.
func (r *rig) coordinatorAt(now func() time.Time) *coordinator.Coordinator {
	store := coverage.NewStore(r.db.Pool, coverage.Config{Logger: r.log, Now: now})
	require.NoError(r.t, store.Load(r.t.Context()))
	c, err := coordinator.New(coordinator.Config{
		Options: r.opts, Pool: r.db.Pool, Names: r.names, Deployment: r.dep, Coverage: store, Actors: &r.actors, Logger: r.log,
		Silence: 2 * time.Second, Now: now, Fallback: r.fallback,
	})
	require.NoError(r.t, err)
	r.t.Cleanup(c.Close)
	require.NoError(r.t, c.Mix(r.t.Context()))
	r.start(store.Run)
	r.start(c.Run)
	return c
}

func at(text string) market.Instant {
	parsed, err := time.Parse(time.RFC3339, text)
	if err != nil {
		panic(err)
	}
	return market.FromTime(parsed)
}

func need(symbol market.Symbol, tf market.Timeframe, start, end string) coordinator.Request {
	return coordinator.Request{AskedBy: "test", Requirements: []market.Requirement{{
		Series: market.Series{Symbol: symbol, Timeframe: tf}, Ranges: market.NewRangeSet(market.Range{Start: at(start), End: at(end)}),
	}}}
}

func (r *rig) bars(symbol, tf, start, end string) (n int) {
	require.NoError(r.t, r.db.Pool.QueryRow(r.t.Context(), `SELECT count(*) FROM public.ohlcv WHERE symbol = $1 AND timeframe = $2
	  AND ts >= $3::timestamptz AND ts < $4::timestamptz`, symbol, tf, start, end).Scan(&n))
	return n
}

func TestEnsureFillsOnce(t *testing.T) { //nolint:paralleltest // it counts allocations
	r := newRig(t, sim.Config{})
	r.consumer()
	r.producer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req := need("sim:BTCUSD", market.M1, "2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z")
	warnings, err := c.Ensure(ctx, req, nil)
	require.NoError(t, err)
	require.Empty(t, warnings)
	require.Equal(t, 1440, r.bars("sim:BTCUSD", "1m", "2024-01-01Z", "2024-01-02Z"))
	fetched := r.source.fetches.Load()
	_, err = c.Ensure(ctx, req, nil)
	require.NoError(t, err)
	require.Equal(t, fetched, r.source.fetches.Load())
	require.Zero(t, testing.AllocsPerRun(100, func() { _, _ = c.Ensure(ctx, req, nil) }))
	began := time.Now()
	_, err = c.Ensure(ctx, need("sim:ETHUSD", market.M1, "2024-01-01T00:00:00Z", "2024-01-01T10:00:00Z"), nil)
	require.NoError(t, err)
	t.Logf("one-page gap answered in %s", time.Since(began))
	began = time.Now()
	_, err = c.Ensure(ctx, need("sim:ETHUSD", market.M1, "2023-01-01T00:00:00Z", "2024-01-01T00:00:00Z"), nil)
	require.NoError(t, err)
	t.Logf("a year answered in %s", time.Since(began))
	require.Equal(t, 525600, r.bars("sim:ETHUSD", "1m", "2023-01-01Z", "2024-01-01Z"))
	require.Zero(t, r.actors.Undeclared())
	var ended int
	require.Eventually(t, func() bool {
		err := r.db.Pool.QueryRow(ctx, `SELECT count(*) FROM barkeep.job WHERE state = 'done'`).Scan(&ended)
		return err == nil && ended == 3
	}, 10*time.Second, 20*time.Millisecond)
}

func TestManyWaitersFetchEachPageOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, sim.Config{PageLimit: 1000, Latency: 2 * time.Millisecond})
	r.consumer()
	r.producer()
	one, two := r.coordinator(), r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var group sync.WaitGroup
	for i := range 100 {
		c := one
		if i%2 == 0 {
			c = two
		}
		group.Go(func() {
			_, err := c.Ensure(ctx, need("sim:BTCUSD", market.M1, "2024-03-01T00:00:00Z", "2024-03-08T00:00:00Z"), nil)
			if err != nil {
				t.Errorf("ensure: %v", err)
			}
		})
	}
	group.Wait()
	require.Equal(t, 10080, r.bars("sim:BTCUSD", "1m", "2024-03-01Z", "2024-03-08Z"))
	r.source.mu.Lock()
	defer r.source.mu.Unlock()
	for page, n := range r.source.pages {
		require.Equal(t, 1, n, page.String())
	}
}

func TestProducerKilledMidJob(t *testing.T) {
	t.Parallel()
	r := newRig(t, sim.Config{PageLimit: 1000, Latency: 5 * time.Millisecond})
	r.consumer()
	kill := r.producer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	result := make(chan error, 1)
	go func() {
		_, err := c.Ensure(ctx, need("sim:BTCUSD", market.M1, "2024-01-01T00:00:00Z", "2024-04-01T00:00:00Z"), nil)
		result <- err
	}()
	require.Eventually(t, func() bool { return r.source.fetches.Load() > 20 }, 30*time.Second, time.Millisecond)
	kill()
	r.producer()
	require.NoError(t, <-result)
	require.Equal(t, 91*1440, r.bars("sim:BTCUSD", "1m", "2024-01-01Z", "2024-04-01Z"))
}

func TestSourceFailsThenRecovers(t *testing.T) {
	t.Parallel()
	r := newRig(t, sim.Config{PageLimit: 1000})
	r.consumer()
	r.producer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var times atomic.Int64
	failing := func(source.Query) error {
		switch times.Add(1) {
		case 1:
			return &source.Error{Source: "sim", Op: "fetch", Err: source.ErrRateLimited, Again: true, RetryAfter: 20 * time.Millisecond}
		case 2, 3:
			return &source.Error{Source: "sim", Op: "fetch", Err: source.ErrServer, Again: true}
		}
		return nil
	}
	r.source.fail.Store(&failing)
	_, err := c.Ensure(ctx, need("sim:BTCUSD", market.M1, "2024-01-01T00:00:00Z", "2024-01-01T05:00:00Z"), nil)
	require.NoError(t, err)
	refusing := func(source.Query) error {
		return &source.Error{Source: "sim", Op: "fetch", Err: source.ErrRefused}
	}
	r.source.fail.Store(&refusing)
	req := need("sim:BTCUSD", market.M1, "2022-01-01T00:00:00Z", "2022-01-01T05:00:00Z")
	_, err = c.Ensure(ctx, req, nil)
	requireState(t, err, "58000")
	req.Mode = coordinator.ModePartial
	warnings, err := c.Ensure(ctx, req, nil)
	require.NoError(t, err)
	require.Len(t, warnings, 1)
}

func requireState(t *testing.T, err error, code string) {
	t.Helper()
	var coded interface {
		SQLState() string
		Hint() string
	}
	require.ErrorAs(t, err, &coded)
	require.Equal(t, code, coded.SQLState(), err.Error())
	require.NotEmpty(t, coded.Hint())
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	r := newRig(t, sim.Config{})
	r.consumer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	waited := make(chan error, 1)
	go func() { // waits for a list that was never read
		_, err := c.Ensure(ctx, need("sim:NOSUCH", market.M1, "2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z"), nil)
		waited <- err
	}()
	r.producer()
	err := <-waited
	requireState(t, err, "22023")
	require.ErrorContains(t, err, "sim")
	_, err = c.Ensure(ctx, need("BTCUSD", market.M1, "2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z"), nil)
	requireState(t, err, "22023")
	big := need("sim:BTCUSD", market.M1, "2024-01-01T00:00:00Z", "2024-02-01T00:00:00Z")
	big.MaxBars = 1000
	_, err = c.Ensure(ctx, big, nil)
	requireState(t, err, "54000")
	require.Zero(t, r.source.fetches.Load())
	short, stop := context.WithTimeoutCause(ctx, 0, errors.New("deadline"))
	defer stop()
	big.MaxBars = 0
	_, err = c.Ensure(short, big, nil)
	require.Error(t, err)
}

func TestEntireHistoryTailAndSnapshot(t *testing.T) {
	t.Parallel()
	r := newRig(t, sim.Config{})
	r.consumer()
	r.producer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	old := c.Snapshot()
	series := market.Series{Symbol: "sim:NEWUSD", Timeframe: market.D1}
	req := coordinator.Request{Requirements: []market.Requirement{{Series: series, Ranges: market.RangeSet{market.Always}}}}
	var calls atomic.Int64
	_, err := c.Ensure(ctx, req, func(market.Progress) { calls.Add(1) })
	require.NoError(t, err)
	days := int(time.Since(time.Date(2023, 6, 15, 0, 0, 0, 0, time.UTC)).Hours()/24) + 1
	require.Equal(t, days, r.bars("sim:NEWUSD", "1d", "-infinity", "infinity"))
	_, covered := c.Missing("", req.Requirements, 0)
	require.True(t, covered)
	_, covered = c.Missing("another", req.Requirements, 0)
	require.False(t, covered)
	other := req
	other.Life = "another"
	for _, other.Mode = range []string{coordinator.ModeWait, coordinator.ModePartial} {
		_, err = c.Ensure(ctx, other, nil)
		requireState(t, err, "55000")
	}
	require.False(t, c.CoveredAt(c.Snapshot(), "another", req.Requirements, 0))
	req.At = old
	_, err = c.Ensure(ctx, req, nil)
	requireState(t, err, "40001")
	req.At = c.Snapshot()
	_, err = c.Ensure(ctx, req, nil)
	require.NoError(t, err)
	delisted := need("sim:OLDUSD", market.H1, "2022-05-01T00:00:00Z", "2022-06-01T00:00:00Z")
	_, err = c.Ensure(ctx, delisted, nil)
	require.NoError(t, err)
}

func TestNewestAndOldest(t *testing.T) {
	t.Parallel()
	r := newRig(t, sim.Config{PageLimit: 100})
	r.consumer()
	r.producer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	gappy := market.Series{Symbol: "sim:GAPUSD", Timeframe: market.M1}
	for _, newest := range []bool{true, false} {
		req := coordinator.Request{Requirements: []market.Requirement{{Series: gappy, Counts: []market.Count{
			{N: 500, Within: market.Range{Start: market.NegInf, End: at("2024-01-01T00:00:00Z")}, Newest: newest},
		}}}}
		_, err := c.Ensure(ctx, req, nil)
		require.NoError(t, err)
		fetched := r.source.fetches.Load()
		_, err = c.Ensure(ctx, req, nil)
		require.NoError(t, err)
		require.Equal(t, fetched, r.source.fetches.Load())
	}
	require.GreaterOrEqual(t, r.bars("sim:GAPUSD", "1m", "2023-12-01Z", "2024-01-01Z"), 500)
	require.GreaterOrEqual(t, r.bars("sim:GAPUSD", "1m", "2015-01-01Z", "2015-02-01Z"), 500)
	require.Less(t, r.bars("sim:GAPUSD", "1m", "-infinity", "infinity"), 4000)
}

// Where all is covered that the newest or oldest n bars are among, nobody has to count which they are.
func TestNothingIsCountedWhereAllIsCovered(t *testing.T) {
	t.Parallel()
	r := newRig(t, sim.Config{})
	r.consumer()
	r.producer()
	c := r.coordinator()
	old := c.Snapshot()
	day := market.Range{Start: at("2024-01-01T00:00:00Z"), End: at("2024-01-02T00:00:00Z")}
	of := func(n int64, within market.Range) []market.Requirement {
		return []market.Requirement{{Series: market.Series{Symbol: "sim:BTCUSD", Timeframe: market.M1}, Counts: []market.Count{
			{N: n, Within: within, Newest: n%2 == 0},
		}}}
	}
	_, err := c.Ensure(t.Context(), need("sim:BTCUSD", market.M1, "2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z"), nil)
	require.NoError(t, err)
	beyond := market.Range{Start: day.Start, End: at("2024-06-01T00:00:00Z")}
	for _, n := range []int64{1, 10, 1440, 100_000, 100_001} {
		missing, covered := c.Missing("", of(n, day), 0)
		require.True(t, covered, n)
		require.Zero(t, missing, n)
		require.True(t, c.CoveredAt(c.Snapshot(), "", of(n, day), 0), n)
		require.False(t, c.CoveredAt(old, "", of(n, day), 0), n)
		missing, covered = c.Missing("", of(n, beyond), 0)
		require.False(t, covered, n)
		require.Equal(t, n, missing)
		require.False(t, c.CoveredAt(c.Snapshot(), "", of(n, beyond), 0), n)
	}
}

func TestTailThatCannotBeRefreshed(t *testing.T) {
	t.Parallel()
	r := newRig(t, sim.Config{})
	r.consumer()
	r.producer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	now := market.FromTime(time.Now())
	req := coordinator.Request{Freshness: time.Second, Requirements: []market.Requirement{{
		Series: market.Series{Symbol: "sim:BTCUSD", Timeframe: market.D1},
		Ranges: market.RangeSet{{Start: market.D1.Add(now, -5), End: market.PosInf}},
	}}}
	warnings, err := c.Ensure(ctx, req, nil)
	require.NoError(t, err)
	require.Empty(t, warnings)
	refusing := func(source.Query) error { return &source.Error{Source: "sim", Op: "fetch", Err: source.ErrRefused} }
	r.source.fail.Store(&refusing)
	require.Eventually(t, func() bool {
		_, covered := c.Missing("", req.Requirements, req.Freshness)
		return !covered
	}, 10*time.Second, 50*time.Millisecond)
	warnings, err = c.Ensure(ctx, req, nil)
	require.NoError(t, err)
	require.Len(t, warnings, 1)
}
