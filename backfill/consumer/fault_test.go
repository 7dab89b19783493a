package consumer

import (
	"context"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"barkeep/backfill/ingest"
	"barkeep/backfill/topic"
	"barkeep/internal/dbtest"
	"barkeep/internal/netfault"
)

// A batch that waits for a lock has 2 s when its partition goes, and is abandoned then.
func TestRule21_AbandonedAfterTheGrace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.consumer(t)
	states := make(chan string, 1024)
	c.config.Observe = func(_ int32, state string) { states <- state }
	stop := start(t, c)
	tx, err := w.db.Pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `SELECT 1 FROM barkeep.symbol FOR UPDATE`)
	require.NoError(t, err)
	w.publishPages(t, 1)
	for state := range states {
		if state == StateWriting {
			break
		}
	}
	began := time.Now()
	stop()
	require.Less(t, time.Since(began), 8*time.Second)
	require.NoError(t, tx.Rollback(t.Context()))
	n, _ := w.rows(t)
	require.Zero(t, n, "nothing was written after the end")
	start(t, w.consumer(t))
	w.complete(t)
}

// The database goes away in the middle: batches are tried again until it is back.
func TestRule22_DatabaseGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.consumer(t)
	start(t, c)
	w.publishPages(t, 1)
	w.complete(t)
	killer, err := pgx.Connect(t.Context(), w.db.URL)
	require.NoError(t, err)
	defer killer.Close(context.WithoutCancel(t.Context()))
	for range 5 {
		w.publishPages(t, 3)
		_, err := killer.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		  WHERE datname = current_database() AND pid <> pg_backend_pid()`)
		require.NoError(t, err)
	}
	w.complete(t)
	require.Zero(t, c.Stats().Dead)
}

// The database is away when the partitions are assigned: their offsets are asked for until it is there, and the membership of
// the group outlives it.
func TestRule20_DatabaseAwayAtAssignment(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	config := w.db.Pool.Config()
	link := netfault.New(t, net.JoinHostPort(config.ConnConfig.Host, strconv.Itoa(int(config.ConnConfig.Port))))
	address, err := net.ResolveTCPAddr("tcp", link.Addr())
	require.NoError(t, err)
	config.ConnConfig.Host, config.ConnConfig.Port = address.IP.String(), address.AddrPort().Port()
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	link.Down()
	w.publishPages(t, 3)
	c := w.consumer(t)
	c.config.Pool = pool
	c.writer = ingest.New(pool, nil)
	var log strings.Builder
	c.config.Logger = slog.New(slog.NewTextHandler(&log, nil))
	failed := make(chan struct{}, 1024)
	c.config.Observe = func(_ int32, state string) {
		if state == StateError {
			select {
			case failed <- struct{}{}:
			default: // enough of them
			}
		}
	}
	stop := start(t, c)
	for range 2 * 32 { // twice for each partition
		<-failed
	}
	link.Up()
	w.complete(t)
	stop()
	require.NotContains(t, log.String(), "starts anew", "the session of the group went on")
}

// A lock that a stranger holds longer than the lock timeout only delays.
func TestRule23_LockTimeoutIsTriedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tx, err := w.db.Pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `LOCK TABLE public.ohlcv IN ACCESS EXCLUSIVE MODE`)
	require.NoError(t, err)
	c := w.consumer(t)
	failed := make(chan struct{}, 1024)
	c.config.Observe = func(_ int32, state string) {
		if state == StateError {
			failed <- struct{}{}
		}
	}
	start(t, c)
	w.publishPages(t, 2)
	<-failed
	require.NoError(t, tx.Rollback(t.Context()))
	w.complete(t)
}

// The broker is gone for a while: nothing is lost, nothing is read twice into the counts.
func TestBrokerGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	link := netfault.New(t, dbtest.FakeBroker(t).ListenAddrs()[0])
	w.through(t, link)
	c := w.consumer(t)
	start(t, c)
	w.publishPages(t, 2)
	w.complete(t)
	for range 2 {
		link.Down()
		sent := make(chan struct{})
		go func() { defer close(sent); w.publishPages(t, 2) }()
		<-time.After(time.Second)
		link.Up()
		<-sent
		w.complete(t)
	}
	require.Zero(t, c.Stats().Replays)
	require.Zero(t, c.Stats().Stale)
}

// through puts the world's broker behind a link: the fake one advertises its own address, so the dialer is what changes.
func (w *world) through(t *testing.T, link *netfault.Link) {
	t.Helper()
	var dialer net.Dialer
	w.opts = []kgo.Opt{kgo.SeedBrokers(link.Addr()), kgo.Dialer(func(ctx context.Context, network, _ string) (net.Conn, error) {
		return dialer.DialContext(ctx, network, link.Addr())
	})}
	require.NoError(t, topic.Ensure(t.Context(), w.opts, w.names, w.deployment))
	client, err := kgo.NewClient(append(w.opts, kgo.ProducerLinger(0))...)
	require.NoError(t, err)
	w.client = client
	t.Cleanup(client.Close)
}
