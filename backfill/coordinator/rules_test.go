package coordinator_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"barkeep/backfill/coordinator"
	"barkeep/backfill/producer"
	"barkeep/backfill/source"
	"barkeep/backfill/source/binance"
	"barkeep/backfill/source/sim"
	"barkeep/backfill/topic"
	"barkeep/internal/market"
)

// gate holds requests back as a test says.
type gate struct {
	*counted
	hold func(ctx context.Context, q source.Query) error
}

func (g *gate) Fetch(ctx context.Context, q source.Query) (source.Answer, error) {
	if err := g.hold(ctx, q); err != nil {
		return source.Answer{}, err
	}
	return g.counted.Fetch(ctx, q)
}

// gated starts a producer whose requests pass hold first.
func (r *rig) gated(concurrency int, hold func(ctx context.Context, q source.Query) error) (stop func()) {
	p, err := producer.New(producer.Config{
		Options: r.opts, Pool: r.db.Pool, Names: r.names, Deployment: r.dep,
		Registry: source.RegistryOf(&gate{counted: r.source, hold: hold}), Concurrency: concurrency,
		Backoff: 10 * time.Millisecond, BackoffLimit: 50 * time.Millisecond, Breaker: 50 * time.Millisecond, Logger: r.log,
		Report: 100 * time.Millisecond, ListPoll: 200 * time.Millisecond,
	})
	require.NoError(r.t, err)
	return r.start(p.Run)
}

// bind binds a symbol without a producer.
func (r *rig) bind(symbol, vendorID string) {
	_, err := r.db.Pool.Exec(r.t.Context(), `INSERT INTO barkeep.symbol (symbol, source, vendor_id, listed_at)
	  VALUES ($1, 'sim', $2, '2015-01-01Z')`, symbol, vendorID)
	require.NoError(r.t, err)
}

// bulk publishes a job that nobody waits for.
func (r *rig) bulk(symbol market.Symbol, vendorID, start, end string) (id string) {
	id = uuid.NewString()
	_, err := r.db.Pool.Exec(r.t.Context(), `INSERT INTO barkeep.job (id, symbol, timeframe, range_start, range_end, source, generation, priority)
	  VALUES ($1, $2, '1m', $3::timestamptz, $4::timestamptz, 'sim', 1, 0)`, id, string(symbol), start, end)
	require.NoError(r.t, err)
	client, err := kgo.NewClient(r.opts...)
	require.NoError(r.t, err)
	defer client.Close()
	require.NoError(r.t, client.ProduceSync(r.t.Context(), r.names.JobRecord(topic.Job{
		ID: id, Deployment: r.dep, Series: market.Series{Symbol: symbol, Timeframe: market.M1},
		Range: market.Range{Start: at(start), End: at(end)}, Source: "sim", VendorID: vendorID, Generation: 1,
		AskedAt: market.FromTime(time.Now()),
	})).FirstErr())
	return id
}

// ensure begins an Ensure and gives its error when it ends.
func ensure(ctx context.Context, c *coordinator.Coordinator, req coordinator.Request, progress func(market.Progress)) <-chan error {
	result := make(chan error, 1)
	go func() {
		_, err := c.Ensure(ctx, req, progress)
		result <- err
	}()
	return result
}

func (r *rig) jobStates() map[string]int {
	rows, err := r.db.Pool.Query(r.t.Context(), `SELECT state, count(*) FROM barkeep.job GROUP BY state`)
	require.NoError(r.t, err)
	defer rows.Close()
	states := map[string]int{}
	for rows.Next() {
		var state string
		var n int
		require.NoError(r.t, rows.Scan(&state, &n))
		states[state] = n
	}
	return states
}

// The producer dies with pages ingested and others not fetched: who gets the job again fetches only these.
func TestRule15_RedeliveredJobResumes(t *testing.T) {
	t.Parallel()
	r := newRig(t, sim.Config{PageLimit: 360})
	r.consumer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var passed atomic.Int64
	kill := r.gated(1, func(ctx context.Context, _ source.Query) error {
		if passed.Add(1) <= 7 {
			return nil
		}
		<-ctx.Done()
		return ctx.Err()
	})
	result := ensure(ctx, c, need("sim:BTCUSD", market.M1, "2024-01-01T00:00:00Z", "2024-01-06T00:00:00Z"), nil)
	require.Eventually(t, func() bool { return r.bars("sim:BTCUSD", "1m", "2024-01-01Z", "2024-01-06Z") == 7*360 }, 30*time.Second, 5*time.Millisecond)
	kill()
	r.gated(1, func(context.Context, source.Query) error { return nil })
	require.NoError(t, <-result)
	require.Equal(t, 5*1440, r.bars("sim:BTCUSD", "1m", "2024-01-01Z", "2024-01-06Z"))
	r.source.mu.Lock()
	defer r.source.mu.Unlock()
	require.Len(t, r.source.pages, 5*1440/360)
	for page, n := range r.source.pages {
		require.Equal(t, 1, n, "%s was fetched again", page)
	}
}

// Nobody takes the job up: its coordinator publishes it again under its id, and doing it twice fetches once.
func TestRule15_SilentJobIsPublishedAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, sim.Config{PageLimit: 360})
	r.bind("sim:BTCUSD", "BTCUSD")
	r.consumer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	result := ensure(ctx, c, need("sim:BTCUSD", market.M1, "2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z"), nil)
	client, err := kgo.NewClient(append([]kgo.Opt{kgo.ConsumeTopics(r.names.Jobs()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())}, r.opts...)...)
	require.NoError(t, err)
	defer client.Close()
	ids := map[string]int{}
	for seen := 0; seen < 2; {
		fetches := client.PollFetches(ctx)
		require.NoError(t, ctx.Err())
		for _, record := range fetches.Records() {
			ids[topic.ReadHeaders(record).JobID]++
			seen++
		}
	}
	require.Len(t, ids, 1, "the job kept its id")
	r.gated(1, func(context.Context, source.Query) error { return nil })
	require.NoError(t, <-result)
	r.source.mu.Lock()
	for page, n := range r.source.pages {
		require.Equal(t, 1, n, page.String())
	}
	r.source.mu.Unlock()
	require.Eventually(t, func() bool { return r.jobStates()["done"] == 1 }, 10*time.Second, 20*time.Millisecond)
}

// The sequence: jobs are asked for and their rows are there, but their records are not: their coordinator was killed before it could publish them, or was gone
// when the broker lost its log. Another one looks after them, and each ends; but not those that somebody waits for.
func TestRule15_AJobWhoseCoordinatorIsGoneEnds(t *testing.T) {
	t.Parallel()
	r := deriving(t, sim.Config{PageLimit: 360})
	r.bind("sim:BTCUSD", "BTCUSD")
	r.bind("sim:ETHUSD", "ETHUSD")
	r.consumer()
	r.producer()
	insert := func(symbol, timeframe, start, end string, generation int, wanted string) (id string) {
		id = uuid.NewString()
		_, err := r.db.Pool.Exec(t.Context(), `INSERT INTO barkeep.job
		    (id, symbol, timeframe, range_start, range_end, source, generation, wanted_until, asked_at, updated_at)
		  VALUES ($1, $2, $3, $4::timestamptz, $5::timestamptz, 'sim', $6, now() + $7::interval, now() - interval '1 minute', now() - interval '50 seconds')`,
			id, symbol, timeframe, start, end, generation, wanted)
		require.NoError(t, err)
		return id
	}
	state := func(id string) (state string) {
		require.NoError(t, r.db.Pool.QueryRow(t.Context(), `SELECT state FROM barkeep.job WHERE id = $1`, id).Scan(&state))
		return state
	}
	const gone, waited = "-40 seconds", "1 hour"
	fetch := insert("sim:BTCUSD", "1m", "2024-01-01Z", "2024-01-02Z", 1, gone)
	rollUp := insert("sim:BTCUSD", "4h", "2024-01-01Z", "2024-01-02Z", 1, gone)
	former := insert("sim:BTCUSD", "1m", "2024-01-01Z", "2024-01-02Z", 7, gone)
	unbound := insert("sim:XRPUSD", "1m", "2024-01-01Z", "2024-01-02Z", 1, gone)
	wanted := insert("sim:ETHUSD", "1m", "2024-01-01Z", "2024-01-02Z", 1, waited)
	require.Eventually(t, func() bool { // the source has told what it has
		var told bool
		err := r.db.Pool.QueryRow(t.Context(), `SELECT declared ? 'native' FROM barkeep.source WHERE name = 'sim'`).Scan(&told)
		return err == nil && told
	}, 30*time.Second, 10*time.Millisecond)
	r.coordinator()
	for id, want := range map[string]string{fetch: "done", rollUp: "done", former: "superseded", unbound: "superseded"} {
		require.Eventually(t, func() bool { return state(id) == want }, 30*time.Second, 20*time.Millisecond, want)
	}
	require.Equal(t, 1440, r.bars("sim:BTCUSD", "1m", "2024-01-01Z", "2024-01-02Z"))
	require.Equal(t, "queued", state(wanted), "its own coordinator looks after it")
	require.Zero(t, r.bars("sim:ETHUSD", "1m", "2024-01-01Z", "2024-01-02Z"))
}

// The sequence: a source that is faster than the database; the job has ended, its pages wait in the log for minutes, and it is
// published again, as nothing is heard of it. What is in the log already is not fetched again.
func TestRule15_IngestThatIsBehindIsNotFetchedAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, sim.Config{PageLimit: 360})
	r.bind("sim:BTCUSD", "BTCUSD")
	var later atomic.Int64
	r.producerAt(func() time.Time { return time.Now().Add(time.Duration(later.Load())) })
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	result := ensure(ctx, c, need("sim:BTCUSD", market.M1, "2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z"), nil)
	client, err := kgo.NewClient(append([]kgo.Opt{kgo.ConsumeTopics(r.names.Bars()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())}, r.opts...)...)
	require.NoError(t, err)
	defer client.Close()
	for ends := 0; ends < 3; {
		fetches := client.PollFetches(ctx)
		require.NoError(t, ctx.Err(), "%d ends", ends)
		for _, record := range fetches.Records() {
			value, err := topic.UnmarshalBars(record.Value)
			require.NoError(t, err)
			if value.End != nil {
				ends++
				later.Store(int64(time.Hour))
			}
		}
	}
	later.Store(0)
	r.consumer()
	require.NoError(t, <-result)
	require.Equal(t, 1440, r.bars("sim:BTCUSD", "1m", "2024-01-01Z", "2024-01-02Z"))
	r.source.mu.Lock()
	defer r.source.mu.Unlock()
	require.Len(t, r.source.pages, 4)
	for page, n := range r.source.pages {
		require.Equal(t, 1, n, "%s was fetched again", page)
	}
}

// A bulk job has claimed the slots and waits for the one place that bulk may take; a user who wants one of them does not
// wait for that place.
func TestRule16_AUserRaisesASlotOfABulkJob(t *testing.T) {
	t.Parallel()
	r := newRig(t, sim.Config{PageLimit: 360})
	r.bind("sim:BTCUSD", "BTCUSD")
	r.consumer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	held := make(chan market.Range, 16)
	r.gated(2, func(ctx context.Context, q source.Query) error {
		if q.Priority == source.User {
			return nil
		}
		held <- q.Range
		<-ctx.Done()
		return ctx.Err()
	})
	r.bulk("sim:BTCUSD", "BTCUSD", "2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z")
	first := <-held
	wanted := need("sim:BTCUSD", market.M1, "2024-01-01T00:00:00Z", "2024-01-01T03:00:00Z")
	if first.Start == at("2024-01-01T00:00:00Z") {
		wanted = need("sim:BTCUSD", market.M1, "2024-01-01T18:00:00Z", "2024-01-01T20:00:00Z")
	}
	_, err := c.Ensure(ctx, wanted, nil)
	require.NoError(t, err)
	require.Empty(t, held, "bulk has one place of the two")
}

// A user who wants one day does not wait for the years that a bulk job fetches.
func TestRule16_OneDayDoesNotWaitForTenYears(t *testing.T) {
	t.Parallel()
	r := newRig(t, sim.Config{PageLimit: 360, Latency: 2 * time.Millisecond})
	r.bind("sim:BTCUSD", "BTCUSD")
	r.consumer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r.gated(2, func(context.Context, source.Query) error { return nil })
	r.bulk("sim:BTCUSD", "BTCUSD", "2015-01-01T00:00:00Z", "2024-12-31T00:00:00Z")
	require.Eventually(t, func() bool { return r.source.fetches.Load() > 10 }, 10*time.Second, time.Millisecond)
	_, err := c.Ensure(ctx, need("sim:BTCUSD", market.M1, "2024-11-01T00:00:00Z", "2024-11-02T00:00:00Z"), nil)
	require.NoError(t, err)
	require.Less(t, r.source.fetches.Load(), int64(3000), "of 14,600 pages")
}

// A statement that may be answered before all is there gets the newest bars first, one that needs all the oldest.
func TestWhatIsFetchedFirst(t *testing.T) {
	t.Parallel()
	for mode, first := range map[string]string{coordinator.ModeWait: "2024-01-01T00:00:00Z", coordinator.ModePartial: "2024-01-01T18:00:00Z"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, sim.Config{PageLimit: 360})
			r.bind("sim:BTCUSD", "BTCUSD")
			r.consumer()
			c := r.coordinator()
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			var order []market.Instant
			r.gated(1, func(_ context.Context, q source.Query) error {
				order = append(order, q.Range.Start) // one request at a time
				return nil
			})
			req := need("sim:BTCUSD", market.M1, "2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z")
			req.Mode = mode
			_, err := c.Ensure(ctx, req, nil)
			require.NoError(t, err)
			require.Equal(t, at(first), order[0])
		})
	}
}

// The only waiter leaves: what is left of its job goes on as bulk.
func TestRule16_NoWaiterLeftTurnsBulk(t *testing.T) {
	t.Parallel()
	r := newRig(t, sim.Config{PageLimit: 360})
	r.consumer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	turned, first := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	r.gated(1, func(ctx context.Context, q source.Query) error {
		if once.CompareAndSwap(false, true) {
			close(first)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-turned:
			return nil
		case <-time.After(50 * time.Millisecond):
		}
		if q.Priority == source.Bulk {
			close(turned)
		}
		return nil
	})
	asking, leave := context.WithCancel(ctx)
	result := ensure(asking, c, need("sim:BTCUSD", market.M1, "2020-01-01T00:00:00Z", "2020-06-01T00:00:00Z"), nil)
	<-first
	leave()
	require.ErrorIs(t, <-result, context.Canceled)
	require.Eventually(t, func() bool { // and not only when the renewal of 10 s runs out
		var left bool
		err := r.db.Pool.QueryRow(ctx, `SELECT wanted_until <= now() FROM barkeep.job WHERE state IN ('queued', 'fetching')`).Scan(&left)
		return err == nil && left
	}, 6*time.Second, 20*time.Millisecond)
	select {
	case <-turned:
	case <-ctx.Done():
		require.Fail(t, "requests stayed a user's")
	}
}

// cancel_job ends the job in the middle of a request, and the statement of who asked for it; who had only joined it asks
// anew.
func TestRule16_CancelJob(t *testing.T) {
	t.Parallel()
	r := newRig(t, sim.Config{PageLimit: 360})
	r.consumer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var open atomic.Bool
	begun, ended := make(chan struct{}, 64), make(chan struct{}, 64)
	r.gated(1, func(ctx context.Context, _ source.Query) error {
		if open.Load() {
			return nil
		}
		begun <- struct{}{}
		<-ctx.Done()
		ended <- struct{}{}
		return ctx.Err()
	})
	mine := need("sim:BTCUSD", market.M1, "2024-01-01T00:00:00Z", "2024-01-01T06:00:00Z")
	asker := ensure(ctx, c, mine, nil)
	<-begun
	other := mine
	other.AskedBy = "another"
	waits := make(chan struct{}, 1)
	joined := ensure(ctx, c, other, func(market.Progress) {
		select {
		case waits <- struct{}{}:
		default: // it was told
		}
	})
	<-waits
	var cancelled bool
	require.NoError(t, r.db.Pool.QueryRow(ctx, `SELECT barkeep.cancel_job(id) FROM barkeep.job`).Scan(&cancelled))
	require.True(t, cancelled)
	open.Store(true)
	<-ended
	requireState(t, <-asker, "57014")
	require.NoError(t, <-joined)
	require.Eventually(t, func() bool {
		states := r.jobStates()
		return states["cancelled"] == 1 && states["done"] == 1
	}, 10*time.Second, 20*time.Millisecond)
}

// Every notification is lost: coverage releases the waiter, its job's row fails it, and polls find both.
func TestRule17_NotificationsLost(t *testing.T) {
	t.Parallel()
	r := newRig(t, sim.Config{PageLimit: 360})
	_, err := r.db.Pool.Exec(t.Context(), `CREATE OR REPLACE FUNCTION pg_catalog.pg_notify(text, text) RETURNS void LANGUAGE sql AS 'SELECT 1'`)
	require.NoError(t, err)
	r.consumer()
	r.producer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, err = c.Ensure(ctx, need("sim:BTCUSD", market.M1, "2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z"), nil)
	require.NoError(t, err)
	refusing := func(source.Query) error { return &source.Error{Source: "sim", Op: "fetch", Err: source.ErrRefused} }
	r.source.fail.Store(&refusing)
	_, err = c.Ensure(ctx, need("sim:BTCUSD", market.M1, "2023-01-01T00:00:00Z", "2023-01-02T00:00:00Z"), nil)
	requireState(t, err, "58000")
}

// A vendor that cannot be reached: whoever asks hears so within seconds, with the time of the next attempt, whether the
// symbol is bound or its list was never read.
func TestRule18_UnreachableVendor(t *testing.T) {
	t.Parallel()
	r := newRig(t, sim.Config{})
	var config net.ListenConfig
	closed, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	vendor, err := binance.New(source.Config{URL: "http://" + closed.Addr().String()})
	require.NoError(t, err)
	_, err = r.db.Pool.Exec(t.Context(), `INSERT INTO barkeep.symbol (symbol, source, vendor_id, listed_at)
	  VALUES ('binance:BTCUSDT', 'binance', 'BTCUSDT', '2018-01-01Z')`)
	require.NoError(t, err)
	p, err := producer.New(producer.Config{
		Options: r.opts, Pool: r.db.Pool, Names: r.names, Deployment: r.dep, Registry: source.RegistryOf(vendor), Logger: r.log,
	})
	require.NoError(t, err)
	r.start(p.Run)
	r.consumer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	began := time.Now()
	_, err = c.Ensure(ctx, need("binance:BTCUSDT", market.M1, "2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z"), nil)
	requireState(t, err, "58000")
	require.ErrorContains(t, err, source.ErrUnreachable.Error())
	require.ErrorContains(t, err, "connection refused")
	require.ErrorContains(t, err, "it is asked again after ")
	_, err = c.Ensure(ctx, need("binance:ETHUSDT", market.M1, "2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z"), nil)
	requireState(t, err, "58000")
	require.ErrorContains(t, err, source.ErrUnreachable.Error())
	require.Less(t, time.Since(began), 15*time.Second)
}

// PIPELINE 6: now() of a statement is the database's. Bars that are in the future by our clock only are not passed over.
func TestRule6_OurClockIsBehindTheDatabases(t *testing.T) {
	t.Parallel()
	r := newRig(t, sim.Config{})
	r.consumer()
	r.producer()
	c := r.coordinatorAt(func() time.Time { return time.Now().Add(-5 * time.Minute) })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	closed := market.M1.Floor(market.FromTime(time.Now().Add(-10 * time.Second)))
	req := coordinator.Request{Requirements: []market.Requirement{{
		Series: market.Series{Symbol: "sim:BTCUSD", Timeframe: market.M1},
		Ranges: market.NewRangeSet(market.Range{Start: closed.Shift(-3 * time.Minute), End: closed}),
	}}}
	_, covered := c.Missing("", req.Requirements, 0)
	require.False(t, covered)
	_, err := c.Ensure(ctx, req, nil)
	require.NoError(t, err)
	require.Equal(t, 3, r.bars("sim:BTCUSD", "1m", closed.Shift(-3*time.Minute).Time().Format(time.RFC3339), closed.Time().Format(time.RFC3339)))
}

// The sequence: a name has passed to another instrument, and a stretch of the old one's life was never read. Called absent
// "before the listing", it would be an empty answer for history that there was, and the absence would take the stretch
// with it that had been read.
func TestRule11_TheOldInstrumentsLifeIsNotAbsent(t *testing.T) {
	t.Parallel()
	r := newRig(t, sim.Config{PageLimit: 360})
	r.consumer()
	r.producer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	read := need("sim:BTCUSD", market.M1, "2024-01-02T00:00:00Z", "2024-01-03T00:00:00Z")
	_, err := c.Ensure(ctx, read, nil)
	require.NoError(t, err)
	_, err = r.db.Pool.Exec(ctx, `INSERT INTO barkeep.instrument (source, vendor_id, symbol, base, quote, listed_at, delisted_at)
	  VALUES ('sim', 'OLD', 'BTCUSD', 'BTC', 'USD', '2024-01-01Z', '2024-01-10Z')`)
	require.NoError(t, err)
	_, err = r.db.Pool.Exec(ctx, `DELETE FROM barkeep.coverage WHERE range_start = '-infinity' OR range_end = 'infinity'`)
	require.NoError(t, err)
	_, err = r.db.Pool.Exec(ctx, `UPDATE barkeep.symbol SET generation = 2, version = version + 1, listed_at = '2024-01-20Z'`)
	require.NoError(t, err)

	_, err = c.Ensure(ctx, need("sim:BTCUSD", market.M1, "2024-01-05T00:00:00Z", "2024-01-06T00:00:00Z"), nil)
	requireState(t, err, "58000")
	require.ErrorContains(t, err, "until 2024-01-10T00:00:00Z the name was another instrument's of sim, OLD")
	for _, nothing := range [][2]string{{"2023-01-01T00:00:00Z", "2024-01-01T00:00:00Z"}, {"2024-01-10T00:00:00Z", "2024-01-20T00:00:00Z"}} {
		_, err = c.Ensure(ctx, need("sim:BTCUSD", market.M1, nothing[0], nothing[1]), nil)
		require.NoError(t, err, "nobody had the name")
	}
	_, err = c.Ensure(ctx, read, nil)
	require.NoError(t, err, "what was read stays")
	require.Equal(t, 1440, r.bars("sim:BTCUSD", "1m", "2024-01-01Z", "2024-01-20Z"))
	_, err = c.Ensure(ctx, need("sim:BTCUSD", market.M1, "2024-01-19T00:00:00Z", "2024-01-21T00:00:00Z"), nil)
	require.NoError(t, err)
	require.Equal(t, 1440, r.bars("sim:BTCUSD", "1m", "2024-01-10Z", "2024-01-21Z"))
}

// A job's record that cannot be read fails its job by the headers; one of another deployment is dropped, and its job is not
// touched. Both are passed: the next one is done.
func TestRule12And13_JobsThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	r := newRig(t, sim.Config{PageLimit: 360})
	r.bind("sim:BTCUSD", "BTCUSD")
	r.consumer()
	client, err := kgo.NewClient(r.opts...)
	require.NoError(t, err)
	defer client.Close()
	send := func(deployment string, spoil bool) (id string) {
		id = uuid.NewString()
		_, err := r.db.Pool.Exec(t.Context(), `INSERT INTO barkeep.job (id, symbol, timeframe, range_start, range_end, source, generation)
		  VALUES ($1, 'sim:BTCUSD', '1m', '2024-01-01Z', '2024-01-02Z', 'sim', 1)`, id)
		require.NoError(t, err)
		record := r.names.JobRecord(topic.Job{
			ID: id, Deployment: deployment, Series: market.Series{Symbol: "sim:BTCUSD", Timeframe: market.M1}, Source: "sim", VendorID: "BTCUSD",
			Range: market.Range{Start: at("2024-01-01T00:00:00Z"), End: at("2024-01-02T00:00:00Z")}, Generation: 1, AskedAt: market.FromTime(time.Now()),
		})
		if spoil {
			record.Value[0] = 99 // a version of a later barkeep
		}
		require.NoError(t, client.ProduceSync(t.Context(), record).FirstErr())
		return id
	}
	unreadable, foreign, good := send(r.dep, true), send(uuid.NewString(), false), send(r.dep, false)
	r.producer()
	state := func(id string) (state string) {
		require.NoError(t, r.db.Pool.QueryRow(t.Context(), `SELECT state FROM barkeep.job WHERE id = $1`, id).Scan(&state))
		return state
	}
	require.Eventually(t, func() bool { return state(good) == "done" }, 30*time.Second, 20*time.Millisecond)
	require.Eventually(t, func() bool { return state(unreadable) == "failed" }, 30*time.Second, 20*time.Millisecond)
	require.Equal(t, "queued", state(foreign))
	require.Equal(t, 1440, r.bars("sim:BTCUSD", "1m", "2024-01-01Z", "2024-01-02Z"))
	r.source.mu.Lock()
	defer r.source.mu.Unlock()
	require.Len(t, r.source.pages, 4, "only the good one was fetched")
}
