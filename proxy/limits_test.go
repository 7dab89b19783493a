package proxy

import (
	"context"
	"io"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
)

// as returns the proxy's address for another user.
func (b *bar) as(t *testing.T, user string) string {
	t.Helper()
	config, err := pgx.ParseConfig(b.url)
	require.NoError(t, err)
	return strings.Replace(b.url, "//"+config.User, "//"+user, 1)
}

// makeRole makes a role that is dropped with the test.
func (b *bar) makeRole(t *testing.T, name string) {
	t.Helper()
	_, err := b.db.Pool.Exec(t.Context(), "create role "+name+" login")
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := b.db.Pool.Exec(context.Background(), "drop role "+name)
		require.NoError(t, err)
	})
}

// Each user has its own room, which nobody takes who has not proven to be that user.
func TestSessionsPerUser(t *testing.T) {
	b := start(t, func(c *Config) { c.MaxUserSessions = 2 })
	b.makeRole(t, "limited_user")
	first := b.connect(t, nil)
	for range 5 { // the upstream refuses what it is asked for, each time
		_, err := pgx.Connect(t.Context(), b.url+"&no_such_setting=1")
		require.Equal(t, "42704", code(err))
	}
	b.connect(t, nil)
	_, err := pgx.Connect(t.Context(), b.url)
	require.Equal(t, "53300", code(err))
	require.ErrorContains(t, err, `too many connections for role "postgres"`)
	other, err := pgx.Connect(t.Context(), b.as(t, "limited_user"))
	require.NoError(t, err, "another user has its own room")
	require.NoError(t, other.Close(t.Context()))
	require.NoError(t, first.Close(t.Context()))
	require.Eventually(t, func() bool {
		again, err := pgx.Connect(t.Context(), b.url)
		return err == nil && again.Close(t.Context()) == nil
	}, 10*time.Second, 5*time.Millisecond)
	b.server.SetLimits(Limits{MaxUserSessions: 5})
	for range 3 {
		b.connect(t, nil)
	}
}

// PROTOCOL 3: past the bounds of holds a statement is told so at once.
func TestHoldsPerUserAndInTotal(t *testing.T) {
	b := start(t, func(c *Config) { c.MaxHolds, c.MaxUserHolds = 2, 1 })
	b.makeRole(t, "holding_user")
	_, err := b.db.Pool.Exec(t.Context(), "grant select on public.ohlcv to holding_user, pg_monitor")
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := b.db.Pool.Exec(context.Background(), "revoke select on public.ohlcv from holding_user")
		require.NoError(t, err)
	})
	b.block = make(chan struct{})
	done := make(chan error, 2)
	hold := func(conn *pgx.Conn) {
		go func() { _, err := conn.Exec(context.Background(), read); done <- err }()
		<-b.began
	}
	hold(b.connect(t, nil))
	third := b.connect(t, nil)
	_, err = third.Exec(t.Context(), read)
	require.Equal(t, "53300", code(err))
	require.ErrorContains(t, err, `too many statements of role "postgres"`)
	other, err := pgx.Connect(t.Context(), b.as(t, "holding_user"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = other.Close(context.Background()) })
	hold(other)
	b.server.SetLimits(Limits{MaxHolds: 2})
	_, err = third.Exec(t.Context(), read)
	require.Equal(t, "53300", code(err))
	require.ErrorContains(t, err, "too many statements are waiting")
	close(b.block)
	require.NoError(t, <-done)
	require.NoError(t, <-done)
	_, err = third.Exec(t.Context(), read)
	require.NoError(t, err)
	require.Zero(t, b.server.Holds())
}

// An idle session is told as PostgreSQL tells one; what works, is in a transaction, has a pipeline open or is held is not idle.
func TestIdleTimeout(t *testing.T) {
	b := start(t, func(c *Config) { c.IdleTimeout = 100 * time.Millisecond })
	idle := dialRaw(t, b.url, false)
	inBlock := b.connect(t, nil)
	_, err := inBlock.Exec(t.Context(), "begin")
	require.NoError(t, err)
	open := dialRaw(t, b.url, false)
	open.send(&pgproto3.Parse{Query: "select 1"}, &pgproto3.Flush{})
	open.until('1')
	unplanned, err := pgx.Connect(t.Context(), otherDatabase(t, b.url))
	require.NoError(t, err)
	const asleep = "select pg_sleep(0.5)"
	slept := make(chan error, 2)
	go func() { _, err := unplanned.Exec(context.Background(), asleep); slept <- err }()
	working := b.connect(t, nil)
	go func() { _, err := working.Exec(context.Background(), asleep); slept <- err }()
	require.Equal(t, "57P05", idle.until('E'))
	require.NoError(t, <-slept)
	require.NoError(t, <-slept)
	_, err = inBlock.Exec(t.Context(), "select 1")
	require.NoError(t, err)
	open.send(&pgproto3.Sync{})
	open.until('Z')
	require.Eventually(t, func() bool { return b.server.Sessions() == 1 }, 10*time.Second, 5*time.Millisecond, "all but the one in a transaction are idle now")
}

// otherDatabase is the address of a database that is not planned.
func otherDatabase(t *testing.T, address string) string {
	t.Helper()
	config, err := pgx.ParseConfig(address)
	require.NoError(t, err)
	return strings.Replace(address, "/"+config.Database, "/postgres", 1)
}

// A session that is not planned is idle between its statements, in both protocols, with errors, COPY and pipelines among them.
func TestIdleUnplanned(t *testing.T) {
	b := start(t, nil)
	conn, err := pgx.Connect(t.Context(), otherDatabase(t, b.url))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	idle := func() bool { return b.server.list()[0].idle() }
	for name, run := range map[string]func() error{
		"simple":   func() error { _, err := conn.Exec(t.Context(), "select 1; select 2"); return err },
		"prepared": func() error { _, err := conn.Exec(t.Context(), "select $1::int", 1); return err },
		"error": func() error {
			_, err := conn.Exec(t.Context(), "select $1::int / 0", 1)
			require.Equal(t, "22012", code(err))
			return nil
		},
		"copy": func() error {
			_, err := conn.Exec(t.Context(), "create temp table x (a text)")
			require.NoError(t, err)
			_, err = conn.PgConn().CopyFrom(t.Context(), strings.NewReader(strings.Repeat(strings.Repeat("y", 100)+"\n", 5000)), "copy x from stdin")
			return err
		},
		"copy that fails": func() error {
			_, err := conn.PgConn().CopyFrom(t.Context(), strings.NewReader("a\tb\n"), "copy x from stdin")
			require.Equal(t, "22P04", code(err))
			return nil
		},
		"pipeline": func() error {
			batch := &pgconn.Batch{}
			for range 20 {
				batch.ExecParams("select 1", nil, nil, nil, nil)
			}
			_, err := conn.PgConn().ExecBatch(t.Context(), batch).ReadAll()
			return err
		},
	} {
		if name == "copy that fails" {
			_, err := conn.Exec(t.Context(), "create temp table if not exists x (a text)")
			require.NoError(t, err)
		}
		if name == "copy" {
			_, err := conn.Exec(t.Context(), "drop table if exists x")
			require.NoError(t, err)
		}
		require.NoError(t, run(), name)
		require.Eventually(t, idle, 10*time.Second, time.Millisecond, name) // at once, but for who has written it and holds out yet
		slept := make(chan error, 1)
		go func() { _, err := conn.Exec(context.Background(), "select pg_sleep(0.1)"); slept <- err }()
		require.Eventually(t, func() bool { return !idle() }, 10*time.Second, time.Millisecond, name)
		require.NoError(t, <-slept)
	}
}

// A drain lets a statement of a session finish that is not planned.
func TestDrainLetsUnplannedFinish(t *testing.T) {
	b := start(t, func(c *Config) { c.Grace = 20 * time.Second })
	conn, err := pgx.Connect(t.Context(), otherDatabase(t, b.url))
	require.NoError(t, err)
	slept := make(chan error, 1)
	go func() { _, err := conn.Exec(context.Background(), "select pg_sleep(0.3)"); slept <- err }()
	require.Eventually(t, func() bool { return !b.server.list()[0].idle() }, 10*time.Second, time.Millisecond)
	b.stop()
	require.NoError(t, <-slept)
}

// A login that takes too long is ended with PostgreSQL's words, whoever is to blame.
func TestLoginTimeout(t *testing.T) {
	mute, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = mute.Close() })
	b := start(t, func(c *Config) { c.Upstream.Address, c.StartupTimeout = mute.Addr().String(), 100*time.Millisecond })
	_, err = pgx.Connect(t.Context(), b.url)
	require.Equal(t, "57014", code(err))
	require.ErrorContains(t, err, "canceling authentication due to timeout")
	require.Eventually(t, func() bool { return b.server.Sessions() == 0 }, 10*time.Second, time.Millisecond)
}

// Who has not logged in keeps nobody: a drain waits for statements, not for a silent connection or a database that does not answer.
func TestDrainWaitsForNoLogin(t *testing.T) {
	t.Parallel()
	mute := accepting(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	const grace = 30 * time.Second
	b := start(t, func(c *Config) { c.Upstream.Address, c.Grace = mute, grace })
	login := askRaw(t, b.url, false)
	require.Eventually(t, func() bool { return b.server.Sessions() == 1 }, 10*time.Second, time.Millisecond)
	target, err := url.Parse(b.url)
	require.NoError(t, err)
	silent, err := new(net.Dialer).DialContext(t.Context(), "tcp", target.Host)
	require.NoError(t, err)
	defer silent.Close()
	require.Eventually(t, func() bool {
		b.server.mu.Lock()
		defer b.server.mu.Unlock()
		return b.server.arrivals.all == 2
	}, 10*time.Second, time.Millisecond)
	began := time.Now()
	b.stop()
	require.Less(t, time.Since(began), grace/2)
	require.Equal(t, "57P01", login.until('E'))
	require.Equal(t, "57P01", (&rawClient{t: t, conn: silent}).until('E'))
}
