package coordinator_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"barkeep/backfill/coordinator"
	"barkeep/backfill/coverage"
	"barkeep/backfill/source/sim"
	"barkeep/internal/market"
)

var liveSeries = market.Series{Symbol: "sim:BTCUSD", Timeframe: market.M1}

// liveRig is a rig with a source whose list has been read.
func liveRig(t *testing.T) *rig {
	t.Helper()
	r := newRig(t, sim.Config{})
	r.producer()
	return r
}

// followerWith starts a coordinator whose topics stay for so long, and is stopped by the returned function.
func (r *rig) followerWith(grace time.Duration) (*coordinator.Coordinator, func()) {
	store := coverage.NewStore(r.db.Pool, coverage.Config{Logger: r.log})
	require.NoError(r.t, store.Load(r.t.Context()))
	c, err := coordinator.New(coordinator.Config{
		Options: r.opts, Pool: r.db.Pool, Names: r.names, Deployment: r.dep, Coverage: store, Actors: &r.actors, Logger: r.log, LiveGrace: grace,
		ListWait: 2 * time.Second, LiveRenewal: 50 * time.Millisecond,
	})
	require.NoError(r.t, err)
	r.t.Cleanup(c.Close)
	r.start(store.Run)
	return c, r.start(c.Run)
}

func (r *rig) topics() []string {
	client, err := kgo.NewClient(r.opts...)
	require.NoError(r.t, err)
	defer client.Close()
	list, err := kadm.NewClient(client).ListTopics(r.t.Context())
	require.NoError(r.t, err)
	return list.Names()
}

func (r *rig) hasTopic(series market.Series) bool {
	return slices.Contains(r.topics(), r.names.Series(series))
}

func (r *rig) exec(sql string, args ...any) int64 {
	tag, err := r.db.Pool.Exec(context.Background(), sql, args...)
	require.NoError(r.t, err)
	return tag.RowsAffected()
}

// TestRule12_LiveTopicIsMadeOnInterest, with explicit settings, and once however many want it.
func TestRule12_LiveTopicIsMadeOnInterest(t *testing.T) {
	t.Parallel()
	r := liveRig(t)
	a, _ := r.followerWith(time.Hour)
	b, _ := r.followerWith(time.Hour)
	require.False(t, r.hasTopic(liveSeries))
	for _, c := range []*coordinator.Coordinator{a, b} {
		lost, err := c.Follow(t.Context(), liveSeries, "me")
		require.NoError(t, err)
		require.NotNil(t, lost)
	}
	require.True(t, r.hasTopic(liveSeries))
	var rows int
	require.NoError(t, r.db.Pool.QueryRow(t.Context(), `select count(*) from barkeep.live where symbol = $1 and timeframe = '1m' and asked_by = 'me'
	  and wanted_until > clock_timestamp()`, string(liveSeries.Symbol)).Scan(&rows))
	require.Equal(t, 2, rows)
}

// TestLiveInterestIsRenewed, and ends with Unfollow and with its coordinator.
func TestLiveInterestIsRenewed(t *testing.T) {
	t.Parallel()
	r := liveRig(t)
	c, stop := r.followerWith(time.Hour)
	other := market.Series{Symbol: "sim:ETHUSD", Timeframe: market.M1}
	for _, each := range []market.Series{liveSeries, other} {
		_, err := c.Follow(t.Context(), each, "me")
		require.NoError(t, err)
	}
	r.exec(`update barkeep.live set wanted_until = clock_timestamp() + interval '1 s', asked_at = asked_at - interval '1 min'`)
	wanted := func() []string {
		rows, err := r.db.Pool.Query(t.Context(), `select symbol from barkeep.live where wanted_until > clock_timestamp() + interval '5 s' order by 1`)
		require.NoError(t, err)
		defer rows.Close()
		list := []string{}
		for rows.Next() {
			var symbol string
			require.NoError(t, rows.Scan(&symbol))
			list = append(list, symbol)
		}
		return list
	}
	until := func(want ...string) {
		t.Helper()
		require.Eventually(t, func() bool { return slices.Equal(append([]string{}, want...), wanted()) }, time.Minute, 10*time.Millisecond)
	}
	until("sim:BTCUSD", "sim:ETHUSD")
	c.Unfollow(other)
	until("sim:BTCUSD")
	require.True(t, r.hasTopic(other), "the topic stays for its grace")
	stop()
	until()
}

// TestLiveTopicIsRemovedWhenUnused: after its grace, not before, and not while another proxy wants it.
func TestLiveTopicIsRemovedWhenUnused(t *testing.T) {
	t.Parallel()
	r := liveRig(t)
	a, _ := r.followerWith(time.Second)
	b, _ := r.followerWith(time.Second)
	for _, c := range []*coordinator.Coordinator{a, b} {
		_, err := c.Follow(t.Context(), liveSeries, "me")
		require.NoError(t, err)
	}
	a.Unfollow(liveSeries)
	r.exec(`update barkeep.live set asked_at = asked_at - interval '1 min'`)
	require.Eventually(t, func() bool {
		var rows int
		require.NoError(t, r.db.Pool.QueryRow(t.Context(), `select count(*) from barkeep.live where wanted_until < clock_timestamp() - interval '2 s'`).Scan(&rows))
		return rows == 1
	}, time.Minute, 10*time.Millisecond)
	require.True(t, r.hasTopic(liveSeries), "the other one wants it")
	b.Unfollow(liveSeries)
	require.Eventually(t, func() bool { // the topic goes before what takes the rows is committed
		var rows int
		require.NoError(t, r.db.Pool.QueryRow(t.Context(), `select count(*) from barkeep.live`).Scan(&rows))
		return rows == 0
	}, time.Minute, 10*time.Millisecond)
	// Apache Kafka answers before all of its brokers have heard of it.
	require.Eventually(t, func() bool { return !r.hasTopic(liveSeries) }, time.Minute, 10*time.Millisecond)
	_, err := a.Follow(t.Context(), liveSeries, "me")
	require.NoError(t, err)
	require.True(t, r.hasTopic(liveSeries), "and is made anew")
}

// TestLiveRemovalAgainstNewInterest: Follow waits for a removal that has begun and makes the topic anew; a removal that comes after finds the row.
func TestLiveRemovalAgainstNewInterest(t *testing.T) {
	t.Parallel()
	r := liveRig(t)
	c, _ := r.followerWith(time.Millisecond)
	_, err := c.Follow(t.Context(), liveSeries, "me")
	require.NoError(t, err)
	// A removal of another process, halfway: it has the lock and has deleted the rows.
	tx, err := r.db.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(context.Background())
	_, err = tx.Exec(t.Context(), `select pg_advisory_xact_lock(1818850917, hashtext($1))`, r.names.Series(liveSeries))
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `delete from barkeep.live`)
	require.NoError(t, err)
	other, _ := r.followerWith(time.Hour)
	followed := make(chan error, 1)
	go func() { _, err := other.Follow(context.Background(), liveSeries, "me"); followed <- err }()
	require.Eventually(t, func() bool {
		var waits bool
		require.NoError(t, r.db.Pool.QueryRow(t.Context(), `select exists (select from pg_locks where locktype = 'advisory' and classid = 1818850917 and not granted
		  and database = (select oid from pg_database where datname = current_database()))`).Scan(&waits))
		return waits
	}, time.Minute, 5*time.Millisecond)
	r.dropTopic(r.names.Series(liveSeries))
	require.NoError(t, tx.Commit(t.Context()))
	require.NoError(t, <-followed)
	require.True(t, r.hasTopic(liveSeries))
}

// TestLiveInterestLost: a coordinator whose rows are gone, as after it stood still or after a crash of the database, says so.
func TestLiveInterestLost(t *testing.T) {
	t.Parallel()
	r := liveRig(t)
	c, _ := r.followerWith(time.Hour)
	lost, err := c.Follow(t.Context(), liveSeries, "me")
	require.NoError(t, err)
	r.exec(`truncate barkeep.live`)
	select {
	case <-lost:
	case <-time.After(time.Minute):
		require.FailNow(t, "nobody said so")
	}
	_, err = c.Follow(t.Context(), liveSeries, "me")
	require.NoError(t, err)
}

// TestLiveUnknown: what nobody lists, or has no bars of but derived ones, is refused with the codes of a statement, and makes no topic.
func TestLiveUnknown(t *testing.T) {
	t.Parallel()
	r := liveRig(t)
	c, _ := r.followerWith(time.Hour)
	_, err := c.Follow(t.Context(), market.Series{Symbol: "sim:NOSUCH", Timeframe: market.M1}, "me")
	var coded interface{ SQLState() string }
	require.ErrorAs(t, err, &coded)
	require.Equal(t, pgerrcode.InvalidParameterValue, coded.SQLState())
	require.Empty(t, slices.DeleteFunc(r.topics(), func(name string) bool {
		return !slices.Contains([]string{r.names.Series(market.Series{Symbol: "sim:NOSUCH", Timeframe: market.M1})}, name)
	}))

	nobody := newRig(t, sim.Config{})
	alone, _ := nobody.followerWith(time.Hour)
	err = alone.Known(t.Context(), liveSeries)
	require.ErrorAs(t, err, &coded)
	require.Equal(t, pgerrcode.SystemError, coded.SQLState())
	require.ErrorContains(t, err, "lists of symbols have not been read")

	few := newRig(t, sim.Config{})
	few.source.native = []market.Timeframe{market.M1, market.H1}
	few.producer()
	c, _ = few.followerWith(time.Hour)
	require.NoError(t, c.Known(t.Context(), market.Series{Symbol: liveSeries.Symbol, Timeframe: market.H1}))
	err = c.Known(t.Context(), market.Series{Symbol: liveSeries.Symbol, Timeframe: market.H4})
	require.ErrorAs(t, err, &coded)
	require.Equal(t, pgerrcode.InvalidParameterValue, coded.SQLState())
	require.ErrorContains(t, err, "cannot be listened to")
}
