package main

import (
	"context"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"barkeep/internal/embedded"
	"barkeep/internal/schema"
)

// The sequence: the address of the database leads to another server from some moment on, as after a change of names or a
// failover; there the coverage that barkeep knows is not true, and a SELECT would find a silent hole.
func TestRule24_AnotherServerOrAStandbyIsRefused(t *testing.T) {
	t.Parallel()
	var link *turnout
	s := startStack(t, t.TempDir(), func(cfg *Config) {
		address, err := url.Parse(cfg.Upstream.URL)
		require.NoError(t, err)
		link = newTurnout(t, hostOf(t, cfg.Upstream.URL))
		address.Host = link.listener.Addr().String()
		cfg.Upstream.URL = address.String()
	})
	home := link.target.Load()
	requireHour(t, connect(t, s.clientURL()), coveredHour)

	config := embedded.Config{DataDir: childFolder(t), Database: s.db.Pool.Config().ConnConfig.Database, Throwaway: true}
	other := startOther(t, config)
	link.target.Store(hostOf(t, other.URL))
	requireRefused(t, s, "another server")
	s.app.pool.Reset()
	require.ErrorIs(t, s.app.pool.Ping(t.Context()), schema.ErrOtherServer)

	require.NoError(t, other.Stop(t.Context()))
	require.NoError(t, os.WriteFile(filepath.Join(config.DataDir, "postgres", "data", "standby.signal"), nil, 0o600))
	standby := hostOf(t, startOther(t, config).URL)
	link.target.Store(standby)
	requireRefused(t, s, "in recovery")
	require.ErrorIs(t, s.app.pool.Ping(t.Context()), schema.ErrInRecovery)

	// With both named it is the primary that is found, whichever comes first.
	for _, hosts := range []string{*standby + "," + *home, *home + "," + *standby} {
		place, err := found(t, strings.Replace(s.db.URL, *home, hosts, 1))
		require.NoError(t, err, hosts)
		require.Equal(t, *home, place.Address)
	}

	link.target.Store(home)
	requireHour(t, connect(t, s.clientURL()), coveredHour)
}

func requireRefused(t *testing.T, s *stack, why string) {
	t.Helper()
	_, err := pgx.Connect(t.Context(), s.clientURL())
	var pgErr *pgconn.PgError
	require.ErrorAs(t, err, &pgErr)
	require.Equal(t, pgerrcode.CannotConnectNow, pgErr.Code)
	require.Contains(t, pgErr.Message, why)
	require.NotEmpty(t, pgErr.Hint)
}

// childFolder can be entered by the user that root's children run as; those of t.TempDir cannot.
func childFolder(t *testing.T) string {
	t.Helper()
	path, err := os.MkdirTemp("", "barkeep-identity-") //nolint:usetesting // see above
	require.NoError(t, err)
	require.NoError(t, os.Chmod(path, 0o755))
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(path)) })
	return path
}

func startOther(t *testing.T, config embedded.Config) *embedded.Postgres {
	t.Helper()
	server, err := embedded.Start(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Stop(context.WithoutCancel(t.Context())) }) // it may be stopped already
	return server
}

func hostOf(t *testing.T, address string) *string {
	t.Helper()
	at, err := url.Parse(address)
	require.NoError(t, err)
	return &at.Host
}

// turnout is an address that leads where the test says.
type turnout struct {
	listener net.Listener
	target   atomic.Pointer[string]
	open     sync.WaitGroup
}

func newTurnout(t *testing.T, target *string) *turnout {
	t.Helper()
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l := &turnout{listener: listener}
	l.target.Store(target)
	l.open.Go(l.accept)
	t.Cleanup(func() { require.NoError(t, listener.Close()); l.open.Wait() })
	return l
}

func (l *turnout) accept() {
	for {
		near, err := l.listener.Accept()
		if err != nil {
			return // closed
		}
		far, err := (&net.Dialer{}).Dial("tcp", *l.target.Load())
		if err != nil {
			_ = near.Close() // as a server that is not there
			continue
		}
		for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
			l.open.Go(func() {
				_, _ = io.Copy(way[0], way[1]) // either end may break
				_ = near.Close()
				_ = far.Close()
			})
		}
	}
}
