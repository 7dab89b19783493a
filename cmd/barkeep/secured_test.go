//go:build unix

package main

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"barkeep/internal/certtest"
	"barkeep/internal/embedded"
)

// TestSecuredStack: TLS and channel binding on both sides, two hosts of which one answers, a user with a password, and an empty market: the bars come.
func TestSecuredStack(t *testing.T) {
	if os.Getenv("TEST_DATABASE_URL") == "" {
		t.Skip("TEST_DATABASE_URL is not set: no database to test with (make test provides one)")
	}
	authority := certtest.NewAuthority(t)
	upstream := securedDatabase(t, authority)
	requireFound(t, upstream)
	certFile, keyFile := authority.Issue(t, "barkeep")
	s := startStack(t, t.TempDir(), func(c *Config) {
		c.Upstream.URL = strings.Replace(upstream, "localhost:", "localhost:1,localhost:", 1) // nobody is at the first
		c.TLS.CertFile, c.TLS.KeyFile = certFile, keyFile
	})
	client, err := url.Parse(upstream)
	require.NoError(t, err)
	client.Host, client.User = s.addr, url.UserPassword("alice", "pencil")
	conn, err := pgx.Connect(t.Context(), client.String())
	require.NoError(t, err)
	defer conn.Close(context.Background())
	var bars int
	require.NoError(t, conn.QueryRow(t.Context(), `select count(*) from ohlcv
		where symbol = 'sim:BTCUSD' and timeframe = '1m' and ts >= '2024-01-01Z' and ts < '2024-01-02Z'`).Scan(&bars))
	require.Equal(t, 1440, bars)
	var encrypted bool
	require.NoError(t, conn.QueryRow(t.Context(), "select ssl from pg_stat_ssl where pid = pg_backend_pid()").Scan(&encrypted))
	require.True(t, encrypted)

	client.User = url.UserPassword("alice", "pen")
	_, err = pgx.Connect(t.Context(), client.String())
	require.ErrorContains(t, err, `password authentication failed for user "alice" (SQLSTATE 28P01)`)
}

// securedDatabase starts a server that lets nobody in over TCP but by SCRAM on TLS, and returns its address for barkeep's user.
func securedDatabase(t *testing.T, authority *certtest.Authority) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "barkeep-secured-") //nolint:usetesting // its folders are for this user alone, and the server may run as another
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(folder)) })
	require.NoError(t, os.Chmod(folder, 0o755))
	server, err := embedded.Start(t.Context(), embedded.Config{DataDir: folder, Database: "market", Throwaway: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop(context.WithoutCancel(t.Context()))) })
	conn, err := pgx.Connect(t.Context(), server.URL)
	require.NoError(t, err)
	defer conn.Close(context.Background())
	var hba, data string
	require.NoError(t, conn.QueryRow(t.Context(), "select current_setting('hba_file'), current_setting('data_directory')").Scan(&hba, &data))
	_, err = conn.Exec(t.Context(), `set password_encryption = 'scram-sha-256'; create role keeper superuser login password 'secret';
		create role barkeep_reader; create role alice login password 'pencil' in role barkeep_reader`)
	require.NoError(t, err)
	owner, err := os.Stat(hba)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(hba, []byte("hostssl all all 127.0.0.1/32 scram-sha-256\n"), 0o600))
	certFile, keyFile := authority.Issue(t, "localhost")
	for name, from := range map[string]string{"server.crt": certFile, "server.key": keyFile} {
		text, err := os.ReadFile(from)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(data, name), text, 0o600))
		if stat, ok := owner.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
			require.NoError(t, os.Chown(filepath.Join(data, name), int(stat.Uid), int(stat.Gid)))
		}
	}
	for _, statement := range []string{"alter system set ssl = on", "select pg_reload_conf()"} {
		_, err := conn.Exec(t.Context(), statement)
		require.NoError(t, err)
	}
	address, err := url.Parse(server.URL)
	require.NoError(t, err)
	address.User = url.UserPassword("keeper", "secret")
	address.RawQuery = url.Values{"sslmode": {"verify-full"}, "sslrootcert": {authority.File}, "channel_binding": {"require"}}.Encode()
	require.Eventually(t, func() bool { // the reload is done when TLS is spoken
		conn, err := pgx.Connect(t.Context(), address.String())
		return err == nil && conn.Close(t.Context()) == nil
	}, 20*time.Second, 20*time.Millisecond)
	return address.String()
}
