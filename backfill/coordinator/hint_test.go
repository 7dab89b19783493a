package coordinator_test

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/source"
	"barkeep/backfill/source/sim"
	"barkeep/internal/actor"
	"barkeep/internal/market"
)

// busy answers 429 with a Retry-After.
func busy(after time.Duration) *func(source.Query) error {
	fail := func(source.Query) error {
		return &source.Error{Source: "sim", Op: "fetch", Err: source.ErrRateLimited, Again: true, RetryAfter: after}
	}
	return &fail
}

// TestRule18_DeadlineBeforeTheEarliestStart: the source wants to be left alone for longer than one waiter has: that one fails
// at once and says until when, the other is told of the delay and waits.
func TestRule18_DeadlineBeforeTheEarliestStart(t *testing.T) {
	t.Parallel()
	r := newRig(t, sim.Config{})
	r.consumer()
	r.producer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := c.Ensure(ctx, need("sim:BTCUSD", market.M1, "2024-01-01T00:00:00Z", "2024-01-01T05:00:00Z"), nil)
	require.NoError(t, err)
	r.source.fail.Store(busy(50 * time.Second))
	req := need("sim:BTCUSD", market.M1, "2023-01-01T00:00:00Z", "2023-01-01T05:00:00Z")

	patient, leave := context.WithTimeout(t.Context(), 2*time.Minute)
	defer leave()
	var delayed atomic.Pointer[market.Progress]
	waiting := make(chan error, 1)
	go func() {
		_, err := c.Ensure(patient, req, func(p market.Progress) {
			if p.Delay != "" {
				delayed.Store(&p)
			}
		})
		waiting <- err
	}()
	require.Eventually(t, func() bool { return delayed.Load() != nil }, 20*time.Second, 10*time.Millisecond)
	require.Contains(t, delayed.Load().Delay, "rate limited")

	began := time.Now()
	hasty, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	_, err = c.Ensure(hasty, req, nil)
	requireState(t, err, "58000")
	require.ErrorContains(t, err, "not before "+time.Now().UTC().Format("2006-"))
	require.Less(t, time.Since(began), 5*time.Second)

	// Another range of the source waits for the same: its job is new.
	_, err = c.Ensure(hasty, need("sim:BTCUSD", market.M1, "2022-01-01T00:00:00Z", "2022-01-01T05:00:00Z"), nil)
	requireState(t, err, "58000")
	require.Less(t, time.Since(began), 10*time.Second)
	leave()
	require.Error(t, <-waiting)
}

// TestRule18_OpenBreakerFailsAtOnce: one that waits to ask again and one that comes anew are not left to find out that the
// source is down.
func TestRule18_OpenBreakerFailsAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, sim.Config{})
	r.consumer()
	r.producer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	slow := market.H1
	fail := func(q source.Query) error {
		after := 2 * time.Minute // longer than is waited out: the breaker opens
		if q.Series.Timeframe == slow {
			after = 50 * time.Second
		}
		return (*busy(after))(q)
	}
	r.source.fail.Store(&fail)
	waiting := make(chan error, 1)
	var delayed atomic.Bool
	go func() {
		_, err := c.Ensure(context.WithoutCancel(t.Context()), need("sim:ETHUSD", slow, "2023-01-01T00:00:00Z", "2023-01-02T00:00:00Z"),
			func(p market.Progress) { delayed.CompareAndSwap(false, p.Delay != "") })
		waiting <- err
	}()
	require.Eventually(t, delayed.Load, 20*time.Second, 10*time.Millisecond)
	began := time.Now()
	_, err := c.Ensure(ctx, need("sim:BTCUSD", market.M1, "2023-01-01T00:00:00Z", "2023-01-01T05:00:00Z"), nil)
	requireState(t, err, "58000")
	err = <-waiting
	requireState(t, err, "58000")
	require.ErrorContains(t, err, "asked again after "+time.Now().UTC().Format("2006-"))
	asked := r.source.fetches.Load()
	_, err = c.Ensure(ctx, need("sim:BTCUSD", market.M1, "2022-01-01T00:00:00Z", "2022-01-01T05:00:00Z"), nil)
	requireState(t, err, "58000")
	require.Equal(t, asked, r.source.fetches.Load())
	require.Less(t, time.Since(began), 10*time.Second)
}

// TestRule17_EventsMayBeLost: the topic of events is gone, and jobs are done all the same.
func TestRule17_EventsMayBeLost(t *testing.T) {
	t.Parallel()
	r := newRig(t, sim.Config{})
	r.consumer()
	r.producer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r.dropTopic(r.names.Events())
	_, err := c.Ensure(ctx, need("sim:BTCUSD", market.M1, "2023-01-01T00:00:00Z", "2023-04-01T00:00:00Z"), nil)
	require.NoError(t, err)
	require.Equal(t, 90*1440, r.bars("sim:BTCUSD", "1m", "2023-01-01Z", "2023-04-01Z"))
}

// TestRule18_UnavailableIsAskedForLessAndLess: a range that the source cannot give is not asked for again before its time, and
// that grows.
func TestRule18_UnavailableIsAskedForLessAndLess(t *testing.T) {
	t.Parallel()
	r := newRig(t, sim.Config{})
	none := func(a *source.Answer) { a.Bars, a.Unavailable = nil, "not on this plan" }
	r.source.alter.Store(&none)
	r.consumer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req := need("sim:BTCUSD", market.M1, "2024-01-01T00:00:00Z", "2024-01-01T05:00:00Z")
	for i, want := range []float64{30, 60, 120} {
		stop := r.producer() // a new one remembers nothing but what is stored
		require.Eventually(t, func() bool {
			_, err := c.Ensure(ctx, req, nil)
			requireState(t, err, "58000")
			require.ErrorContains(t, err, "not on this plan")
			return r.source.fetches.Load() == int64(i+1)
		}, 10*time.Second, 20*time.Millisecond)
		_, err := c.Ensure(ctx, req, nil)
		requireState(t, err, "58000")
		require.Equal(t, int64(i+1), r.source.fetches.Load(), "it is remembered")
		stop()
		var wait float64
		require.NoError(t, r.db.Pool.QueryRow(ctx, `SELECT extract(epoch FROM retry_at - fetched_at)::float8 FROM barkeep.coverage
		  WHERE state = 4`).Scan(&wait))
		require.InEpsilon(t, want, wait, 0.36) // three times ± 10 %
		_, err = r.db.Pool.Exec(ctx, `WITH old AS (UPDATE barkeep.coverage SET retry_at = retry_at - interval '1 h',
		    fetched_at = fetched_at - interval '1 h') UPDATE barkeep.symbol SET version = version + 1`)
		require.NoError(t, err)
	}
}

// TestRule16_CancelledJobEnds: cancel_job, or the row's end, stops the pages; the end comes by the log.
func TestRule16_CancelledJobEnds(t *testing.T) {
	t.Parallel()
	r := newRig(t, sim.Config{PageLimit: 100, Latency: 20 * time.Millisecond})
	r.consumer()
	r.producer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, end := range []struct {
		symbol     market.Symbol
		sql, state string
	}{
		{"sim:BTCUSD", `SELECT barkeep.cancel_job(id) FROM barkeep.job WHERE state = 'fetching'`, "cancelled"},
		{"sim:ETHUSD", `UPDATE barkeep.job SET state = 'failed', ended_at = now() WHERE state = 'fetching'`, "failed"},
	} {
		before := r.source.fetches.Load()
		waiting, leave := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() {
			_, err := c.Ensure(waiting, need(end.symbol, market.M1, "2020-01-01T00:00:00Z", "2024-01-01T00:00:00Z"), nil)
			ended <- err
		}()
		require.Eventually(t, func() bool { return r.source.fetches.Load() > before+20 }, 20*time.Second, time.Millisecond)
		leave()
		require.Error(t, <-ended)
		require.Eventually(t, func() bool {
			tag, err := r.db.Pool.Exec(ctx, end.sql)
			return err == nil && tag.RowsAffected() == 1
		}, 10*time.Second, 10*time.Millisecond)
		require.Eventually(t, func() bool {
			return !slices.ContainsFunc(r.actors.Machines(), func(m actor.Snapshot) bool { return m.Kind != actor.Breaker().Name })
		}, 10*time.Second, 10*time.Millisecond)
		var state string
		require.Eventually(t, func() bool {
			err := r.db.Pool.QueryRow(ctx, `SELECT state FROM barkeep.job ORDER BY asked_at DESC LIMIT 1`).Scan(&state)
			return err == nil && state == end.state
		}, 10*time.Second, 10*time.Millisecond)
	}
}
