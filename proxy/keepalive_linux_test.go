package proxy

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// TestKeepAlive: a peer that is gone without a word is found, on both legs, once their sockets are an event loop's too (PROTOCOL 3): the kernel
// has a timer for each that asks whether it is still there.
func TestKeepAlive(t *testing.T) {
	t.Parallel()
	b := start(t, nil)
	conn, err := pgx.Connect(t.Context(), b.url)
	require.NoError(t, err)
	defer conn.Close(t.Context())
	var upstreamLeg int // the proxy's end of it
	require.NoError(t, conn.QueryRow(t.Context(), "select inet_client_port()").Scan(&upstreamLeg))
	straight, err := pgx.ParseConfig(b.db.URL)
	require.NoError(t, err)
	near, ok := conn.PgConn().Conn().LocalAddr().(*net.TCPAddr)
	require.True(t, ok)
	require.Eventually(t, func() bool {
		return keptAlive(t, int(conn.Config().Port), near.Port) && keptAlive(t, upstreamLeg, int(straight.Port))
	}, 10*time.Second, 10*time.Millisecond)
}

// keptAlive reports whether the socket of these ports, over IPv4, waits to ask its peer: its timer is of kind 2 (the kernel's proc_net_tcp),
// which is kind 1 while something is sent and not acknowledged.
func keptAlive(t *testing.T, local, remote int) bool {
	t.Helper()
	table, err := os.ReadFile("/proc/self/net/tcp")
	require.NoError(t, err)
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) > 5 && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", local)) && strings.HasSuffix(f[2], fmt.Sprintf(":%04X", remote)) {
			return strings.HasPrefix(f[5], "02:")
		}
	}
	return false
}
