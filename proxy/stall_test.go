package proxy

import (
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
)

// stalled is a client that has sent until nobody took any more, and has read nothing.
type stalled struct {
	net.Conn

	left    []byte // of what it wants to send
	queries int
}

// stall sends statements with large answers until the proxy's socket is full: the upstream waits for the client to read, and
// the proxy for the upstream.
func stall(t *testing.T, b *bar) *stalled {
	t.Helper()
	conn := b.connect(t, nil)
	hijacked, err := conn.PgConn().Hijack()
	require.NoError(t, err)
	out := &stalled{Conn: hijacked.Conn}
	t.Cleanup(func() { _ = out.Close() })
	text := "select repeat('x', 50000) /* " + strings.Repeat("y", 30_000) + " */"
	for range 1200 { // more than the buffers of four sockets can hold
		out.left, err = (&pgproto3.Query{String: text}).Encode(out.left)
		require.NoError(t, err)
		out.queries++
	}
	for { // nothing is taken for a whole second: what the kernel's buffers grow by comes sooner
		require.NoError(t, out.SetWriteDeadline(time.Now().Add(time.Second)))
		n, err := out.Write(out.left)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded, "all was taken: nothing stalls")
		out.left = out.left[n:]
		if n == 0 {
			break
		}
	}
	require.NoError(t, out.SetWriteDeadline(time.Time{}))
	return out
}

// TestBothDirectionsStall: no byte is lost and no wake-up is missed where neither side reads for a while.
func TestBothDirectionsStall(t *testing.T) {
	for _, procs := range []int{1, 4} {
		t.Run(itoa(procs), func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
			b := start(t, nil)
			client := stall(t, b)
			var sending sync.WaitGroup
			defer sending.Wait()
			sending.Go(func() { _, _ = client.Write(client.left) })
			require.NoError(t, client.SetReadDeadline(time.Now().Add(time.Minute)))
			frontend := pgproto3.NewFrontend(client, io.Discard)
			rows, ready := 0, 0
			for ready < client.queries {
				message, err := frontend.Receive()
				require.NoError(t, err, "%d of %d", ready, client.queries)
				switch m := message.(type) {
				case *pgproto3.DataRow:
					require.Len(t, m.Values[0], 50_000)
					rows++
				case *pgproto3.ReadyForQuery:
					ready++
				case *pgproto3.ErrorResponse:
					t.Fatal(m.Message)
				}
			}
			require.Equal(t, client.queries, rows)
		})
	}
}

// TestEndWhileStalled: a client that neither reads nor takes its leave keeps neither its session nor the server.
func TestEndWhileStalled(t *testing.T) {
	gone := func(t *testing.T, b *bar) {
		t.Helper()
		require.Eventually(t, func() bool { return b.server.Sessions() == 0 }, 10*time.Second, 5*time.Millisecond)
		require.Eventually(t, func() bool {
			var n int
			err := b.db.Pool.QueryRow(t.Context(), "select count(*) from pg_stat_activity where datname = current_database() and query like 'select repeat%'").Scan(&n)
			return err == nil && n == 0
		}, 10*time.Second, 20*time.Millisecond)
	}
	t.Run("reset", func(t *testing.T) {
		b := start(t, nil)
		client := stall(t, b)
		socket, ok := client.Conn.(*net.TCPConn)
		require.True(t, ok)
		require.NoError(t, socket.SetLinger(0))
		require.NoError(t, socket.Close())
		gone(t, b)
	})
	t.Run("server stops", func(t *testing.T) {
		b := start(t, nil)
		stall(t, b)
		began := time.Now()
		b.stop()
		require.Less(t, time.Since(began), 10*time.Second)
		gone(t, b)
	})
	t.Run("upstream ends", func(t *testing.T) {
		b := start(t, nil)
		client := stall(t, b)
		_, err := b.db.Pool.Exec(t.Context(), "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and query like 'select repeat%'")
		require.NoError(t, err)
		require.NoError(t, client.SetReadDeadline(time.Now().Add(time.Minute)))
		_, err = io.Copy(io.Discard, client)
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
		gone(t, b)
	})
}
