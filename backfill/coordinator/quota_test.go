package coordinator_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/coordinator"
	"barkeep/backfill/coverage"
	"barkeep/backfill/source/sim"
	"barkeep/internal/market"
)

func code(err error) string {
	var coded interface{ SQLState() string }
	if errors.As(err, &coded) {
		return coded.SQLState()
	}
	return ""
}

// TestQuotaHoldsAcrossProxies: what one proxy has begun counts at the other, and what is refused leaves no job.
func TestQuotaHoldsAcrossProxies(t *testing.T) {
	t.Parallel()
	r := newRig(t, sim.Config{})
	_, err := r.db.Pool.Exec(t.Context(), `INSERT INTO barkeep.quota (role, max_bars, bars_per_hour, jobs)
		VALUES ('test', 2000, 3000, 3), ('small', null, null, 0)`)
	require.NoError(t, err)
	r.bind("sim:BTCUSD", "BTCUSD")
	one, two := r.coordinator(), r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err = one.Ensure(ctx, need("sim:BTCUSD", market.M1, "2024-01-01T00:00:00Z", "2024-01-03T00:00:00Z"), nil)
	require.Equal(t, "54000", code(err))
	require.ErrorContains(t, err, "the statement needs about 2880 bars (sim:BTCUSD 1m among them), more than the quota of role test allows: max_bars = 2000")
	require.Empty(t, r.jobStates())

	// Nobody fetches here: each stays open.
	asked := []<-chan error{ensure(ctx, one, need("sim:BTCUSD", market.M1, "2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z"), nil)}
	queued := func(n int) {
		t.Helper()
		require.Eventually(t, func() bool { return r.jobStates()["queued"] == n }, time.Minute, 10*time.Millisecond)
	}
	queued(1)
	asked = append(asked, ensure(ctx, two, need("sim:BTCUSD", market.M1, "2024-02-01T00:00:00Z", "2024-02-02T00:00:00Z"), nil))
	queued(2)
	_, err = one.Ensure(ctx, need("sim:BTCUSD", market.M1, "2024-03-01T00:00:00Z", "2024-03-01T03:00:00Z"), nil)
	require.Equal(t, "53000", code(err))
	require.ErrorContains(t, err, "180 bars are to be fetched, 2880 were within the hour, more than the quota of role test allows: bars_per_hour = 3000")
	asked = append(asked, ensure(ctx, one, need("sim:BTCUSD", market.M1, "2024-03-01T00:00:00Z", "2024-03-01T02:00:00Z"), nil))
	queued(3)
	_, err = r.db.Pool.Exec(ctx, `UPDATE barkeep.job SET costs = 1`)
	require.NoError(t, err)
	_, err = two.Ensure(ctx, need("sim:BTCUSD", market.M1, "2024-04-01T00:00:00Z", "2024-04-01T00:10:00Z"), nil)
	require.Equal(t, "53000", code(err))
	require.ErrorContains(t, err, "4 fetches would be under way, more than the quota of role test allows: jobs = 3")
	require.Equal(t, map[string]int{"queued": 3}, r.jobStates())

	// Another role pays for itself, and one that joins what is fetched already pays nothing.
	other := need("sim:BTCUSD", market.M1, "2024-04-01T00:00:00Z", "2024-04-01T00:10:00Z")
	other.AskedBy = "somebody else"
	asked = append(asked, ensure(ctx, two, other, nil))
	queued(4)
	small := need("sim:BTCUSD", market.M1, "2024-04-02T00:00:00Z", "2024-04-02T00:10:00Z")
	small.AskedBy = "small"
	_, err = two.Ensure(ctx, small, nil)
	require.Equal(t, "53000", code(err))
	require.Equal(t, 4, two.Awaited()+one.Awaited())
	cancel()
	for _, each := range asked {
		require.ErrorIs(t, <-each, context.Canceled)
	}
}

// coordinatorWith starts a coordinator that awaits at most so many jobs.
func (r *rig) coordinatorWith(maxJobs int) *coordinator.Coordinator {
	r.t.Helper()
	store := coverage.NewStore(r.db.Pool, coverage.Config{Logger: r.log})
	require.NoError(r.t, store.Load(r.t.Context()))
	c, err := coordinator.New(coordinator.Config{
		Options: r.opts, Pool: r.db.Pool, Names: r.names, Deployment: r.dep, Coverage: store, Actors: &r.actors, Logger: r.log, MaxJobs: maxJobs,
	})
	require.NoError(r.t, err)
	r.t.Cleanup(c.Close)
	r.start(store.Run)
	r.start(c.Run)
	return c
}

// TestQueueFull: a process that waits for as many fetches as it may takes no more, and says so at once.
func TestQueueFull(t *testing.T) {
	t.Parallel()
	r := newRig(t, sim.Config{})
	r.bind("sim:BTCUSD", "BTCUSD")
	c := r.coordinatorWith(1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	first := ensure(ctx, c, need("sim:BTCUSD", market.M1, "2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z"), nil)
	require.Eventually(t, func() bool { return r.jobStates()["queued"] == 1 }, time.Minute, 10*time.Millisecond)
	_, err := c.Ensure(ctx, need("sim:BTCUSD", market.M1, "2024-02-01T00:00:00Z", "2024-02-02T00:00:00Z"), nil)
	require.Equal(t, "53000", code(err))
	require.ErrorContains(t, err, "1 fetches are under way, no more are taken")
	require.Equal(t, 1, r.jobStates()["queued"])

	// One that needs more than all of them by itself is told so, whatever is under way.
	alone := r.coordinatorWith(2)
	many := need("sim:BTCUSD", market.M1, "2024-03-01T00:00:00Z", "2024-03-02T00:00:00Z")
	for _, day := range []string{"2024-04-01", "2024-05-01"} {
		more := need("sim:BTCUSD", market.M1, day+"T00:00:00Z", day+"T12:00:00Z")
		many.Requirements[0].Ranges = many.Requirements[0].Ranges.Union(more.Requirements[0].Ranges)
	}
	for c, limit := range map[*coordinator.Coordinator]int{c: 1, alone: 2} {
		_, err = c.Ensure(ctx, many, nil)
		require.Equal(t, "53000", code(err))
		require.ErrorContains(t, err, fmt.Sprintf("the statement needs 3 fetches at one time, more than holds.max_jobs = %d", limit))
	}
	cancel()
	require.ErrorIs(t, <-first, context.Canceled)
}

// TestQuotaOfLiveSeries: what one proxy follows for a role counts at the other.
func TestQuotaOfLiveSeries(t *testing.T) {
	t.Parallel()
	r := newRig(t, sim.Config{})
	_, err := r.db.Pool.Exec(t.Context(), `INSERT INTO barkeep.quota (role, live_series) VALUES ('test', 1)`)
	require.NoError(t, err)
	r.bind("sim:BTCUSD", "BTCUSD")
	r.bind("sim:ETHUSD", "ETHUSD")
	one, two := r.coordinator(), r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	series := func(symbol market.Symbol) market.Series { return market.Series{Symbol: symbol, Timeframe: market.M1} }
	err = one.MayFollow(ctx, "test", series("sim:BTCUSD"), series("sim:ETHUSD"))
	require.Equal(t, "53000", code(err))
	require.NoError(t, one.MayFollow(ctx, "test", series("sim:BTCUSD")))
	require.NoError(t, one.Want(ctx, "test", series("sim:BTCUSD")))
	for _, refuse := range []func() error{
		func() error { return two.MayFollow(ctx, "test", series("sim:ETHUSD")) },
		func() error { return two.Want(ctx, "test", series("sim:ETHUSD")) },
	} {
		err = refuse()
		require.Equal(t, "53000", code(err))
		require.ErrorContains(t, err, "2 series would be live, more than the quota of role test allows: live_series = 1")
	}
	require.NoError(t, two.Want(ctx, "test", series("sim:BTCUSD")), "it is counted once")
	require.NoError(t, two.Want(ctx, "somebody else", series("sim:ETHUSD")))
	_, err = two.Follow(ctx, series("sim:ETHUSD"), "somebody else")
	require.NoError(t, err)
	require.NoError(t, two.MayFollow(ctx, "test", series("sim:ETHUSD")), "what somebody else follows is not asked for")
	require.NoError(t, two.Want(ctx, "test", series("sim:ETHUSD")))
}
