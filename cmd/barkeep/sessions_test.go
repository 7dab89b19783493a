package main

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// address is how a user reaches a proxy.
func (s *site) address(p *process, user string) string {
	account := s.db.Pool.Config().ConnConfig
	return "postgres://" + user + ":" + account.Password + "@" + p.addr + "/" + account.Database + "?sslmode=disable"
}

// heldSession is a session whose statement is held.
type heldSession struct {
	conn  *pgx.Conn
	ended <-chan error
}

// hold opens a session and has it wait for bars that nobody fetches.
func (s *site) hold(p *process, user string) heldSession {
	t := s.t
	t.Helper()
	config, err := pgx.ParseConfig(s.address(p, user))
	require.NoError(t, err)
	notices := make(chan struct{}, 1000)
	config.OnNotice = func(*pgconn.PgConn, *pgconn.Notice) { notices <- struct{}{} }
	conn, err := pgx.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	ended := make(chan error, 1)
	go func() { _, err := ask(context.Background(), conn, minutes("2024-01-01T00:00:00Z", 1)); ended <- err }()
	s.receive("the hold's notice", notices)
	return heldSession{conn, ended}
}

// holding is hold as the service's user, and how it ends.
func (s *site) holding(p *process) <-chan error {
	s.t.Helper()
	return s.hold(p, s.db.Pool.Config().ConnConfig.User).ended
}

// role makes a role that is dropped with the test.
func (s *site) role(name, more string) {
	t := s.t
	t.Helper()
	_, err := s.db.Pool.Exec(t.Context(), "create role "+name+" login; grant barkeep_reader to "+name+"; "+more)
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := s.db.Pool.Exec(context.Background(), "drop owned by "+name+"; drop role "+name)
		require.NoError(t, err)
	})
}

func codeOf(err error) string {
	if told, ok := errors.AsType[*pgconn.PgError](err); ok {
		return told.Code
	}
	return ""
}

// shown is a row of barkeep.session.
type shown struct {
	Instance                         string
	PID                              uint32
	Username                         string
	Client, Application, State, Wait *string
	Bars                             *int64
}

func (s *site) sessions(conn *pgx.Conn) map[uint32]shown {
	s.t.Helper()
	rows, err := conn.Query(s.t.Context(), `select instance, pid, username, client_address, application_name, state, waits_for, bars from barkeep.session`)
	require.NoError(s.t, err)
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[shown])
	require.NoError(s.t, err)
	byPID := map[uint32]shown{}
	for _, each := range list {
		byPID[each.PID] = each
	}
	return byPID
}

// TestSessionsOfAllBarkeeps: the view shows what is now, of every barkeep and of none that is gone; details to those alone to whom
// pg_stat_activity shows them. barkeep.cancel ends a hold anywhere, with the rights of pg_cancel_backend.
func TestSessionsOfAllBarkeeps(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a, b := s.start("proxy", "--set=holds.notice_after=20ms"), s.start("proxy", "--set=holds.notice_after=20ms")
	s.role("view_owner_role", "")
	s.role("view_other_role", "")
	s.role("view_signal_role", "grant pg_signal_backend to view_signal_role")
	waits := s.hold(b, "view_owner_role")
	super := s.hold(b, s.db.Pool.Config().ConnConfig.User)
	conn, err := pgx.Connect(t.Context(), s.address(a, s.db.Pool.Config().ConnConfig.User)+"&application_name=looker")
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	as := func(p *process, user string) *pgx.Conn {
		conn, err := pgx.Connect(t.Context(), s.address(p, user))
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close(context.Background()) })
		return conn
	}
	other, own, signal := as(b, "view_other_role"), as(a, "view_owner_role"), as(a, "view_signal_role")

	list := s.sessions(conn)
	require.Len(t, list, 6)
	me, it := list[conn.PgConn().PID()], list[waits.conn.PgConn().PID()]
	require.Equal(t, []string{"looker", "active"}, []string{*me.Application, *me.State})
	require.Nil(t, me.Wait)
	require.Contains(t, me.Instance, a.addr)
	require.Contains(t, it.Instance, b.addr)
	require.Equal(t, []string{"view_owner_role", "held"}, []string{it.Username, *it.State})
	require.Contains(t, *it.Wait, "binance:BTCUSDT 1m")
	require.Contains(t, *it.Client, "127.0.0.1:")
	require.Positive(t, *it.Bars)
	require.Equal(t, "idle", *list[own.PgConn().PID()].State)
	it = s.sessions(other)[waits.conn.PgConn().PID()]
	require.Equal(t, "view_owner_role", it.Username)
	require.Equal(t, []*string{nil, nil, nil, nil}, []*string{it.Client, it.Application, it.State, it.Wait})
	require.Equal(t, "held", *s.sessions(own)[waits.conn.PgConn().PID()].State)
	_, err = conn.Exec(t.Context(), "begin isolation level repeatable read; select * from barkeep.session")
	require.Equal(t, pgerrcode.FeatureNotSupported, codeOf(err))
	_, err = conn.Exec(t.Context(), "rollback")
	require.NoError(t, err)

	cancel := func(by *pgx.Conn, of uint32) (ended bool, err error) {
		err = by.QueryRow(t.Context(), "select barkeep.cancel($1)", int32(of)).Scan(&ended)
		return ended, err
	}
	_, err = cancel(other, waits.conn.PgConn().PID())
	require.Equal(t, pgerrcode.InsufficientPrivilege, codeOf(err))
	_, err = other.Exec(t.Context(), "insert into barkeep.hold_end (instance, number) select instance, number from barkeep.session_held where held")
	require.Error(t, err, "not by another way either")
	_, err = cancel(signal, super.conn.PgConn().PID())
	require.Equal(t, pgerrcode.InsufficientPrivilege, codeOf(err))
	for range 2 { // by the role itself, then by who may signal
		by := own
		ended, err := cancel(by, waits.conn.PgConn().PID())
		require.NoError(t, err)
		require.True(t, ended)
		s.endsWith(waits.ended, pgerrcode.QueryCanceled, "the hold", 5*time.Second)
		ended, err = cancel(by, waits.conn.PgConn().PID())
		require.NoError(t, err)
		require.False(t, ended, "nothing is held there any more")
		waits, own = s.hold(b, "view_owner_role"), signal
	}
	ended, err := cancel(conn, 999_999)
	require.NoError(t, err)
	require.False(t, ended)

	b.kill()
	s.until("the sessions of a barkeep that is gone are", func() bool {
		for _, each := range s.sessions(conn) {
			if each.Instance != me.Instance {
				return false
			}
		}
		return true
	})
	require.Contains(t, s.sessions(conn), conn.PgConn().PID())
}

// cancelAt sends a session's cancel request to a proxy, and returns when it is dealt with.
func (s *site) cancelAt(p *process, conn *pgconn.PgConn) {
	t := s.t
	t.Helper()
	to, err := new(net.Dialer).DialContext(t.Context(), "tcp", p.addr)
	require.NoError(t, err)
	defer to.Close()
	packet := binary.BigEndian.AppendUint32(nil, uint32(12+len(conn.SecretKey())))
	packet = binary.BigEndian.AppendUint32(packet, 80877102)
	packet = binary.BigEndian.AppendUint32(packet, conn.PID())
	_, err = to.Write(append(packet, conn.SecretKey()...))
	require.NoError(t, err)
	_, err = io.ReadAll(to)
	require.NoError(t, err)
}

// TestCancelAtAnotherBarkeep: behind one address a cancel request may come to any barkeep. It ends the hold, or what the database
// does, as if it had come to the one that has the session, and nothing that comes later.
func TestCancelAtAnotherBarkeep(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a, b := s.start("proxy", "--set=holds.notice_after=20ms"), s.start("proxy")
	var conn *pgx.Conn
	var took []time.Duration
	for range 5 {
		waits := s.hold(a, s.db.Pool.Config().ConnConfig.User)
		conn = waits.conn
		began := time.Now()
		s.cancelAt(b, conn.PgConn())
		s.endsWith(waits.ended, pgerrcode.QueryCanceled, "the hold", 10*time.Second)
		took = append(took, time.Since(began))
		_, err := conn.Exec(t.Context(), "select 1")
		require.NoError(t, err)
	}
	slices.Sort(took)
	t.Logf("ended after %s", took)
	require.Less(t, took[len(took)/2], 100*time.Millisecond, "the median: others work on this machine too")

	running := func(conn *pgx.Conn) <-chan error {
		ended := make(chan error, 1)
		go func() { _, err := conn.Exec(context.Background(), "select pg_sleep(100)"); ended <- err }()
		s.until("it runs", func() bool {
			var n int
			err := s.db.Pool.QueryRow(t.Context(), "select count(*)::int from pg_stat_activity where state = 'active' and pid = $1", int32(conn.PgConn().PID())).Scan(&n)
			return err == nil && n == 1
		})
		return ended
	}
	ended := running(conn)
	s.cancelAt(b, conn.PgConn())
	s.endsWith(ended, pgerrcode.QueryCanceled, "the statement that runs", 10*time.Second)
	for range 50 { // idle: nothing is to be hit
		s.cancelAt(b, conn.PgConn())
		_, err := conn.Exec(t.Context(), "select 1")
		require.NoError(t, err)
	}
	straight, err := pgx.Connect(t.Context(), s.db.URL)
	require.NoError(t, err)
	t.Cleanup(func() { _ = straight.Close(context.Background()) })
	ended = running(straight)
	s.cancelAt(b, straight.PgConn())
	s.endsWith(ended, pgerrcode.QueryCanceled, "a session of no barkeep", 10*time.Second)
	var left int
	require.NoError(t, s.db.Pool.QueryRow(t.Context(), "select count(*)::int from barkeep.errand").Scan(&left))
	require.Zero(t, left)
}
