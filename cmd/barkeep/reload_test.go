package main

import (
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// Every setting is said to be taken or to need a restart, as it is, and never by its value.
func TestDifferences(t *testing.T) {
	t.Parallel()
	a, b := defaultConfig(), defaultConfig()
	require.Empty(t, differences(&a, &b))
	no := false
	b.Upstream.URL, b.Sessions.MaxPerUser, b.Statement.Timeout = "postgres://u:secret@h/db", 7, time.Second
	b.Sources = map[string]Source{"sim": {Enabled: &no}, "binance": {Rate: 2}}
	require.Equal(t, []string{"sessions.max_per_user", "sources.binance.rate", "sources.sim.enabled", "statement.timeout", "upstream.url"}, differences(&a, &b))
	require.True(t, canReload("statement.timeout"))
	require.False(t, canReload("holds.force"))
	require.False(t, canReload("upstream.url"))
}

// TestReload: SIGHUP takes what can be taken, says what cannot, and keeps all where there is an error in any of it.
func TestReload(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	path := writeFile(t, "barkeep.yaml", "sessions: {max_per_user: 1}\nstatement: {timeout: 11s}\n")
	p := s.start("proxy", "--config="+path)
	s.connect(p)
	s.until("what has no effect is told", func() bool { return p.log.contains("key=statement.timeout setting=barkeep.timeout value=10min") })
	refused := func() bool {
		config := s.db.Pool.Config().ConnConfig
		conn, err := pgx.Connect(t.Context(), "postgres://"+config.User+":"+config.Password+"@"+p.addr+"/"+config.Database+"?sslmode=disable")
		if err == nil {
			require.NoError(t, conn.Close(t.Context()))
			return false
		}
		var told *pgconn.PgError
		require.ErrorAs(t, err, &told)
		require.Equal(t, pgerrcode.TooManyConnections, told.Code)
		return true
	}
	require.True(t, refused())
	hangUp := func(content, says string) {
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		require.NoError(t, p.cmd.Process.Signal(syscall.SIGHUP))
		s.until(says, func() bool { return p.log.contains(says) })
	}
	hangUp("sessions: {max_per_user: 1}\nstatement: {timeout: never}\n", "configuration not reloaded, all settings stay")
	require.True(t, refused(), "as before")
	hangUp("sessions: {max_per_user: 5}\nstatement: {timeout: 11s}\ntopic_prefix: other\nlog: {level: debug}\n",
		`settings changed that need a restart" keys=[topic_prefix]`)
	require.True(t, p.log.contains(`msg="configuration reloaded" taken="[log.level sessions.max_per_user]"`))
	require.False(t, refused())
	s.until("debug is logged", func() bool {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", p.addr)
		require.NoError(t, err)
		require.NoError(t, conn.Close())
		return p.log.contains("level=DEBUG")
	})
}
