package main

import (
	"context"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// endsWith demands how a statement ends, and when at the latest.
func (s *site) endsWith(ended <-chan error, code, what string, within time.Duration) {
	s.t.Helper()
	select {
	case err := <-ended:
		if code == "" {
			require.NoError(s.t, err, what)
			return
		}
		var told *pgconn.PgError
		require.ErrorAs(s.t, err, &told, what)
		require.Equal(s.t, code, told.Code, what)
	case <-time.After(within):
		require.Fail(s.t, "still there: "+what)
	}
}

// TestDrain: after SIGTERM nobody comes in and idle sessions go; what runs finishes within the grace; holds end with it.
func TestDrain(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	const grace = 6 * time.Second
	p := s.start("proxy", "--set=shutdown.grace="+grace.String(), "--set=holds.notice_after=20ms")
	held := s.holding(p)
	idle := s.connect(p)
	running := make(chan error, 1)
	worker := s.connect(p)
	go func() { _, err := worker.Exec(context.Background(), "select pg_sleep(1.5)"); running <- err }()
	s.until("it runs", func() bool {
		var n int
		err := s.db.Pool.QueryRow(t.Context(), "select count(*)::int from pg_stat_activity where state = 'active' and query = 'select pg_sleep(1.5)'").Scan(&n)
		return err == nil && n == 1
	})
	began := time.Now()
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	s.until("nobody comes in", func() bool {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", p.addr)
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	})
	s.endsWith(running, "", "the statement that runs", 30*time.Second)
	require.Less(t, time.Since(began), grace*5/6)
	_, err := idle.Exec(t.Context(), "select 1")
	require.Error(t, err)
	s.endsWith(held, pgerrcode.AdminShutdown, "the hold", 30*time.Second)
	require.GreaterOrEqual(t, time.Since(began), grace*5/6-time.Second, "a hold has the grace")
	require.NoError(t, p.exited(), "exit code")
	require.Less(t, time.Since(began), grace+5*time.Second)
}

// TestSecondSignal: with a second signal nobody is waited for.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.start("proxy", "--set=shutdown.grace=5m", "--set=holds.notice_after=20ms")
	held := s.holding(p)
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	s.until("it drains", func() bool { return p.log.contains("a second signal ends it at once") })
	began := time.Now()
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	s.endsWith(held, pgerrcode.AdminShutdown, "the hold", 10*time.Second)
	_ = p.exited() // parts that were abandoned are an error
	require.Less(t, time.Since(began), 10*time.Second)
}
