package roster

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"barkeep/internal/dbtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sessions is a proxy with a list of sessions and one secret.
type sessions struct {
	list   []Session
	stuck  chan struct{} // nil: it answers
	looked atomic.Int64
	ended  chan uint64
	secret string // of process 7
	cancel func(context.Context) error
}

func (s *sessions) Sessions() []Session {
	s.looked.Add(1)
	if s.stuck != nil {
		<-s.stuck
	}
	return s.list
}

func (s *sessions) EndHold(number uint64) { s.ended <- number }

func (s *sessions) Find(pid uint32, matches func([]byte) bool) func(context.Context) error {
	if pid == 7 && s.secret != "" && matches([]byte(s.secret)) {
		return s.cancel
	}
	return nil
}

// run puts a proxy on the roster until the test ends, and returns once it is there.
func run(t *testing.T, db *dbtest.DB, name string, proxy *sessions) *Roster {
	t.Helper()
	r := New(db.Pool, proxy, name, slog.New(slog.DiscardHandler))
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = r.Run(ctx) })
	t.Cleanup(func() { stop(); running.Wait() })
	require.Eventually(t, func() bool { return r.place() != 0 }, 10*time.Second, time.Millisecond)
	return r
}

func (r *Roster) place() int32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.id
}

func user(t *testing.T, db *dbtest.DB, notices *[]string) *pgx.Conn {
	t.Helper()
	config, err := pgx.ParseConfig(db.URL)
	require.NoError(t, err)
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if notices != nil {
			*notices = append(*notices, n.Message)
		}
	}
	conn, err := pgx.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// Nothing is written while nobody looks, nor for as long as the transaction of somebody goes on who did.
func TestListedOnlyForWhoLooks(t *testing.T) {
	db := dbtest.New(t)
	proxy := &sessions{list: make([]Session, 10_000)}
	for i := range proxy.list {
		proxy.list[i] = Session{
			Number: uint64(i + 1), PID: uint32(i + 1), User: "postgres", Database: "d", Client: "127.0.0.1:1", Application: "a", State: "idle",
			Started: time.Now(), Since: time.Now(),
		}
	}
	run(t, db, "one", proxy)
	conn := user(t, db, nil)
	<-time.After(3 * look)
	require.Zero(t, proxy.looked.Load())
	_, err := conn.Exec(t.Context(), "begin read only")
	require.NoError(t, err)
	var n int
	began := time.Now()
	require.NoError(t, conn.QueryRow(t.Context(), "select count(*) from barkeep.session").Scan(&n))
	t.Logf("10,000 sessions shown after %s", time.Since(began))
	require.Equal(t, 10_000, n)
	<-time.After(2 * look) // one more may have begun
	at := proxy.looked.Load()
	<-time.After(4 * look)
	require.Equal(t, at, proxy.looked.Load(), "nobody looks any more")
	_, err = conn.Exec(t.Context(), "commit")
	require.NoError(t, err)
	var held int
	require.NoError(t, conn.QueryRow(t.Context(), "select count(*) from pg_locks where locktype = 'advisory' and classid = "+lockClass+" and objid = 0").Scan(&held))
	require.Zero(t, held)
}

// One that does not answer is named: its sessions are not left out in silence.
func TestOneThatDoesNotAnswerIsNamed(t *testing.T) {
	db := dbtest.New(t)
	stuck := &sessions{stuck: make(chan struct{})}
	run(t, db, "stuck one", stuck)
	run(t, db, "other", &sessions{list: []Session{{Number: 1, PID: 5, User: "postgres", State: "idle"}}})
	t.Cleanup(func() { close(stuck.stuck) })
	var notices []string
	conn := user(t, db, &notices)
	var n int
	require.NoError(t, conn.QueryRow(t.Context(), "select count(*) from barkeep.session").Scan(&n))
	require.Equal(t, 1, n)
	require.Len(t, notices, 1)
	require.Contains(t, notices[0], "no answer from barkeep stuck one")
}

// A cancel request is dealt with once: by the one that has the session, or else by the asker. Who can only notify can neither see
// a key's hash, nor ask, nor ask again what was asked.
func TestCancelRequests(t *testing.T) {
	db := dbtest.New(t)
	asker := run(t, db, "asker", &sessions{})
	dealt, err := asker.Cancel(t.Context(), 7, []byte("key"))
	require.NoError(t, err)
	require.False(t, dealt, "it is alone")
	var count atomic.Int64
	release := make(chan struct{})
	has := &sessions{secret: "key", ended: make(chan uint64, 10), cancel: func(ctx context.Context) error {
		count.Add(1)
		select {
		case <-release:
		case <-ctx.Done():
		}
		return nil
	}}
	run(t, db, "has", has)
	run(t, db, "another", &sessions{secret: "other key"})

	result := make(chan bool, 1)
	go func() {
		dealt, err := asker.Cancel(context.WithoutCancel(t.Context()), 7, []byte("key"))
		result <- dealt && err == nil
	}()
	require.Eventually(t, func() bool { return count.Load() == 1 }, 10*time.Second, time.Millisecond)
	var errand int64
	require.NoError(t, db.Pool.QueryRow(t.Context(), "select id from barkeep.errand where claimed").Scan(&errand))
	_, err = db.Pool.Exec(t.Context(), "select pg_notify('barkeep_errand', $1::bigint::text), pg_notify('barkeep_errand', 'nonsense'), pg_notify('barkeep_errand', '')", errand)
	require.NoError(t, err)
	select {
	case <-result:
		require.Fail(t, "the asker does not wait until it is dealt with")
	case <-time.After(2 * patience):
	}
	close(release)
	require.True(t, <-result)
	require.EqualValues(t, 1, count.Load())

	for _, key := range []string{"wrong", "ke", ""} {
		dealt, err = asker.Cancel(t.Context(), 7, []byte(key))
		require.NoError(t, err)
		require.False(t, dealt, "the asker's again")
	}
	require.EqualValues(t, 1, count.Load())
	var left int
	require.NoError(t, db.Pool.QueryRow(t.Context(), "select count(*) from barkeep.errand").Scan(&left))
	require.Zero(t, left)

	conn := user(t, db, nil)
	_, err = conn.Exec(t.Context(), "set role pg_monitor")
	require.NoError(t, err)
	for _, sql := range []string{
		"select * from barkeep.errand", "insert into barkeep.errand (instance, number) values (1, 1)", "select * from barkeep.session_row",
		"insert into barkeep.hold_end (instance, number) values (1, 1)", "delete from barkeep.hold_end", "update barkeep.instance set name = 'x'",
	} {
		_, err = conn.Exec(t.Context(), sql)
		require.Error(t, err, sql)
		require.True(t, strings.Contains(err.Error(), "42501") || strings.Contains(err.Error(), "44000"), err)
	}
}

// A barkeep whose connection breaks is on the roster again soon, under another number, and its old place is cleared.
func TestBackOnTheRoster(t *testing.T) {
	db := dbtest.New(t)
	r := run(t, db, "one", &sessions{list: []Session{{Number: 1, PID: 5, User: "postgres", State: "idle"}}})
	conn := user(t, db, nil)
	count := func() (n int) {
		require.NoError(t, conn.QueryRow(t.Context(), "select count(*) from barkeep.session").Scan(&n))
		return n
	}
	require.Equal(t, 1, count())
	first := r.place()
	_, err := conn.Exec(t.Context(), "select pg_terminate_backend(pid, 10000) from barkeep.instance")
	require.NoError(t, err)
	require.Eventually(t, func() bool { at := r.place(); return at != 0 && at != first }, 10*time.Second, time.Millisecond)
	require.Equal(t, 1, count())
	var rows int
	require.NoError(t, conn.QueryRow(t.Context(), "select count(*) from barkeep.instance").Scan(&rows))
	require.Equal(t, 1, rows)
}

// Many requests for sessions of nobody, as anybody can send them, keep neither the listing nor a request that means somebody.
func TestManyRequestsForNobody(t *testing.T) {
	db := dbtest.New(t)
	asker := run(t, db, "asker", &sessions{})
	run(t, db, "has", &sessions{
		secret: "key", list: []Session{{Number: 1, PID: 7, User: "postgres", State: "idle"}}, cancel: func(context.Context) error { return nil },
	})
	ctx, stop := context.WithCancel(t.Context())
	var flood sync.WaitGroup
	for range 200 {
		flood.Go(func() {
			for ctx.Err() == nil {
				_, _ = asker.Cancel(ctx, 8, []byte("none"))
			}
		})
	}
	defer flood.Wait()
	defer stop()
	conn := user(t, db, nil)
	for range 3 {
		began := time.Now()
		dealt, err := asker.Cancel(t.Context(), 7, []byte("key"))
		require.NoError(t, err)
		require.True(t, dealt)
		t.Logf("dealt with after %s", time.Since(began))
		var n int
		require.NoError(t, conn.QueryRow(t.Context(), "select count(*) from barkeep.session").Scan(&n))
		require.Equal(t, 1, n)
	}
}
