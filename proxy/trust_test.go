//go:build linux

package proxy

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/internal/verifier"
)

// onSocket has a barkeep listen on a unix socket, whose folder it returns.
func onSocket(t *testing.T) (folder string, wrap func(net.Listener) net.Listener) {
	t.Helper()
	folder, err := os.MkdirTemp("", "barkeep-trust-") //nolint:usetesting // a socket's path is short
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(folder)) })
	return folder, func(l net.Listener) net.Listener {
		require.NoError(t, l.Close())
		listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", filepath.Join(folder, ".s.PGSQL.5433"))
		require.NoError(t, err)
		return listener
	}
}

// TestAuthPeerIsNoProof: peer lets barkeep's own user in, and through barkeep only who is that user. Where pg_hba.conf has such a
// line, nobody can say by which one somebody came in of whom no proof was asked.
func TestAuthPeerIsNoProof(t *testing.T) {
	u := startAuthUpstream(t)
	database := verifier.NewDatabase(u.pool)
	for leg, judged := range map[string]bool{"unix": true, "plaintext": false, "TLS": false} {
		up := u.leg(leg)
		up.JudgesProcess = database.JudgesProcess
		folder, wrap := onSocket(t)
		shut, open := u.open(t, up, nil, nil), u.open(t, up, func(c *Config) { c.AllowTrust = true }, nil)
		u.open(t, up, nil, wrap)
		for user, byPeer := range map[string]bool{"peered": leg == "unix", "trusted": false, "cleared": false} {
			got := byPGX(t, u.url(shut.address, user))
			if judged && user != "cleared" {
				require.Contains(t, got.failure, errByProcess.Message, "%s over %s", user, leg)
			} else if user != "peered" {
				require.Equal(t, outcome{user, ""}, got, "%s over %s", user, leg)
			}
			if byPeer {
				require.Equal(t, outcome{user, ""}, byPGX(t, u.url(open.address, user)), "%s over %s", user, leg)
			}
			same := byPGX(t, "host="+folder+" port=5433 dbname="+u.database+" user="+user+" password='pencil of "+user+"'")
			if user != "peered" || byPeer {
				require.Equal(t, outcome{user, ""}, same, "%s over %s, by barkeep's own user", user, leg)
			}
		}
	}
}

// TestAuthRulesUnread: while the rules cannot be read nobody is let in by them.
func TestAuthRulesUnread(t *testing.T) {
	u := startAuthUpstream(t)
	up := u.leg("unix")
	up.JudgesProcess = func(context.Context, bool) (bool, error) { return false, context.DeadlineExceeded }
	got := byPGX(t, u.url(u.open(t, up, nil, nil).address, "trusted"))
	require.Contains(t, got.failure, errNoRules.Message)
}

func TestRunsAs(t *testing.T) {
	t.Parallel()
	folder, wrap := onSocket(t)
	tcp, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	listener := wrap(tcp)
	defer listener.Close()
	client, err := new(net.Dialer).DialContext(t.Context(), "unix", filepath.Join(folder, ".s.PGSQL.5433"))
	require.NoError(t, err)
	defer client.Close()
	conn, err := listener.Accept()
	require.NoError(t, err)
	defer conn.Close()
	require.True(t, runsAs(conn, os.Geteuid()))
	require.False(t, runsAs(conn, os.Geteuid()+1))
	require.False(t, runsAs(away{conn}, os.Geteuid()))
}
