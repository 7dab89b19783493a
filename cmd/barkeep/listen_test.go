package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"barkeep/internal/certtest"
)

// TestListeners is one barkeep on IPv4, IPv6 and a unix socket, before a database on a unix socket where there is one: clients
// are answered on each, a killed process's socket is taken over, and SIGHUP has new clients shown a new certificate while sessions go on.
func TestListeners(t *testing.T) {
	t.Parallel()
	folder, err := os.MkdirTemp("", "bk") //nolint:usetesting // short enough for a socket in it
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	authority := certtest.NewAuthority(t)
	cert, key := authority.Issue(t, "barkeep")
	s := newSite(t)
	var socketFolder string
	require.NoError(t, s.db.Pool.QueryRow(t.Context(), "select split_part(current_setting('unix_socket_directories'), ',', 1)").Scan(&socketFolder))
	config := s.db.Pool.Config().ConnConfig
	if filepath.IsAbs(strings.TrimSpace(socketFolder)) {
		s.databaseURL = "host=" + socketFolder + " port=" + portOf(t, s.db.URL) + " user=" + config.User + " dbname=" + config.Database
	}
	arguments := []string{"--set=listen=127.0.0.1:0,[::1]:0," + folder, "--set=tls.cert_file=" + cert, "--set=tls.key_file=" + key}
	open := func() *process {
		return s.run(append([]string{"serve", "--upstream-url=" + s.databaseURL, "--brokers=" + s.brokers}, arguments...)...)
	}
	killed := open()
	_, six, err := net.SplitHostPort(killed.addr)
	require.NoError(t, err)
	killed.kill()
	left, err := filepath.Glob(filepath.Join(folder, ".s.PGSQL.*"))
	require.NoError(t, err)
	require.Len(t, left, 2, "the killed process has left its socket and its lock")
	arguments[0] = "--set=listen=127.0.0.1:0,[::1]:" + six + "," + strings.TrimSuffix(left[0], ".lock")
	p := open()
	ask := func(host, port, settings string) (bars int, err error) {
		conn, err := pgx.Connect(t.Context(), "host="+host+" port="+port+" user="+config.User+" dbname="+config.Database+" "+settings)
		if err != nil {
			return 0, err
		}
		defer conn.Close(context.WithoutCancel(t.Context()))
		err = conn.QueryRow(t.Context(), "select count(*) from ohlcv where symbol='sim:BTCUSD' and timeframe='1m' and ts >= '2024-01-01Z' and ts < '2024-01-01 01:00Z'").Scan(&bars)
		return bars, err
	}
	_, port, err := net.SplitHostPort(p.addr)
	require.NoError(t, err)
	for _, each := range [][3]string{
		{"127.0.0.1", port, "sslmode=verify-full sslrootcert=" + authority.File},
		{"::1", six, "sslmode=verify-full sslrootcert=" + authority.File},
		{folder, strings.TrimPrefix(filepath.Base(strings.TrimSuffix(left[0], ".lock")), ".s.PGSQL."), ""},
	} {
		bars, err := ask(each[0], each[1], each[2])
		require.NoError(t, err, each)
		require.Equal(t, 60, bars)
	}

	session := s.connect(p)
	other := certtest.NewAuthority(t)
	other.Renew(t, "barkeep", cert, key)
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGHUP))
	require.Eventually(t, func() bool {
		_, err := ask("127.0.0.1", port, "sslmode=verify-full sslrootcert="+other.File)
		return err == nil
	}, 30*time.Second, 50*time.Millisecond)
	_, err = ask("127.0.0.1", port, "sslmode=verify-full sslrootcert="+authority.File)
	require.ErrorContains(t, err, "unknown authority")
	require.NoError(t, session.Ping(t.Context()))
}

func portOf(t *testing.T, address string) string {
	t.Helper()
	_, rest, _ := strings.Cut(strings.TrimPrefix(address, "postgres://"), "@")
	hostPort, _, _ := strings.Cut(rest, "/")
	_, port, err := net.SplitHostPort(hostPort)
	require.NoError(t, err)
	return port
}
