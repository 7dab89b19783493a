package proxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
)

// TestHeadersOnly: from upstream to client only headers are looked at. Messages of every type whose bodies are nonsense reach the
// client as they were sent, and the session goes on.
func TestHeadersOnly(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var nonsense []byte
	for kind := range 256 {
		if kind == 'Z' { // its one byte is the state of the transaction
			continue
		}
		size := random.IntN(1 << random.IntN(18))
		nonsense = append(nonsense, byte(kind))
		nonsense = binary.BigEndian.AppendUint32(nonsense, uint32(4+size))
		for range size {
			nonsense = append(nonsense, byte(random.IntN(256)))
		}
	}
	answer := slices.Concat(nonsense, encode(&pgproto3.ReadyForQuery{TxStatus: 'I'}))
	b := start(t, func(c *Config) { c.Upstream.Address = answering(t, answer) })
	client := dialRaw(t, b.url, false)
	for range 3 {
		client.send(&pgproto3.Query{String: "select 1"})
		got := make([]byte, len(answer))
		_, err := io.ReadFull(client.conn, got)
		require.NoError(t, err)
		require.True(t, bytes.Equal(answer, got), "the bytes differ")
	}
}

// answering is an upstream that admits everybody and answers each message with the same bytes.
func answering(t *testing.T, answer []byte) string {
	t.Helper()
	return accepting(t, func(conn net.Conn) {
		if _, err := readStartup(conn); err != nil {
			return
		}
		out := append(encode(&pgproto3.AuthenticationOk{}), encode(&pgproto3.ReadyForQuery{TxStatus: 'I'})...)
		for {
			if _, err := conn.Write(out); err != nil {
				return
			}
			if _, _, err := readMessage(conn); err != nil {
				return
			}
			out = answer
		}
	})
}

// TestNoAllocationPerRow: what is relayed from the upstream costs no memory, however many rows it is.
func TestNoAllocationPerRow(t *testing.T) {
	s, _, _ := memorySession(t)
	s.client = &memoryConn{in: deafReader{}, write: func([]byte) {}}
	var rows []byte
	count := 0
	for row := encode(&pgproto3.DataRow{Values: [][]byte{[]byte("2024-01-01 00:00:00+00"), []byte("42000.5")}}); len(rows)+len(row) <= bufferSize; count++ {
		rows = append(rows, row...)
	}
	require.Greater(t, count, 1000)
	allocs := testing.AllocsPerRun(200, func() {
		s.roomUpstream(nil)
		s.have += copy(s.upBuf[s.have:], rows)
		if err := s.pumpOnce(); err != nil {
			t.Error(err)
		}
	})
	if raceEnabled { // a sync.Pool forgets some of what it was given
		require.Less(t, allocs, 2.0, "for %d rows", count)
		return
	}
	require.Zero(t, allocs, "for %d rows", count)
}

// TestLargeMessagesStream: one row, and one piece of a COPY, that are larger than everything barkeep may hold pass through it in
// memory that does not depend on their size; so does what a client asks for and does not read.
func TestLargeMessagesStream(t *testing.T) {
	large, most := int64(1<<30), int64(4<<20) // a few buffers, and what the collector leaves for later
	if raceEnabled {                          // the detector remembers, and a sync.Pool forgets
		large, most = 1<<28, 24<<20
	}
	for _, role := range []string{"plain", "tls"} {
		t.Run(role, func(t *testing.T) {
			folder := t.TempDir()
			child(t, "upstream", folder)
			ask := child(t, role, folder)
			conn, err := idleClient(t.Context(), folder, role)
			require.NoError(t, err)
			defer conn.Close()
			stalled, err := idleClient(t.Context(), folder, role)
			require.NoError(t, err)
			defer stalled.Close()
			ask()
			before := ask()
			grew := func(what string) {
				now := ask()
				t.Logf("%s of %d MB: at most %d kB more", what, large>>20, (int64(now.Peak)-int64(before.Resident))>>10)
				require.Less(t, int64(now.Peak), int64(before.Resident)+most, what)
			}
			sized := func(kind byte) []byte { return binary.BigEndian.AppendUint32([]byte{kind}, uint32(4+large)) }

			_, err = conn.Write(encode(&pgproto3.Query{String: "select repeat('x', " + itoa(int(large)) + ")"}))
			require.NoError(t, err)
			var head [5]byte
			_, err = io.ReadFull(conn, head[:])
			require.NoError(t, err)
			require.Equal(t, sized('D'), head[:])
			n, err := io.CopyN(io.Discard, conn, large)
			require.NoError(t, err)
			require.Equal(t, large, n)
			require.NoError(t, untilReady(conn))
			grew("a row")

			_, err = conn.Write(append(encode(&pgproto3.Query{String: "copy c from stdin"}), sized('d')...))
			require.NoError(t, err)
			_, err = io.CopyN(conn, zeros{}, large)
			require.NoError(t, err)
			_, err = conn.Write(encode(&pgproto3.CopyDone{}))
			require.NoError(t, err)
			require.NoError(t, untilReady(conn))
			grew("a piece of a COPY")

			_, err = stalled.Write(encode(&pgproto3.Query{String: "select repeat('x', " + itoa(int(large)) + ")"}))
			require.NoError(t, err)
			for range 3 { // others are served meanwhile
				_, err = conn.Write(encode(&pgproto3.Query{String: "select 1"}))
				require.NoError(t, err)
				require.NoError(t, untilReady(conn))
			}
			grew("an answer that is not read")
		})
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

func untilReady(r io.Reader) error {
	for {
		if kind, _, err := readMessage(r); err != nil || kind == 'Z' {
			return err
		}
	}
}

// BenchmarkRoundTrip is a Query that is not planned, and its answer, of eight clients at once, with all that the clients and the
// upstream do themselves.
func BenchmarkRoundTrip(b *testing.B) {
	const clients = 8
	folder := b.TempDir()
	up, err := new(net.ListenConfig).Listen(b.Context(), "unix", folder+"/upstream")
	require.NoError(b, err)
	listener, err := new(net.ListenConfig).Listen(b.Context(), "unix", folder+"/plain")
	require.NoError(b, err)
	ctx, cancel := context.WithCancel(b.Context())
	var running sync.WaitGroup
	b.Cleanup(running.Wait)
	b.Cleanup(func() { _ = up.Close() })
	b.Cleanup(cancel)
	running.Go(func() { acceptIdle(up) })
	running.Go(func() { _ = New(idleConfig(folder)).Serve(ctx, listener) })
	query := encode(&pgproto3.Query{String: "select 1"})
	var conns [clients]net.Conn
	for i := range conns {
		conns[i], err = idleClient(ctx, folder, "plain")
		require.NoError(b, err)
		b.Cleanup(func() { _ = conns[i].Close() })
	}
	b.ReportAllocs()
	b.ResetTimer()
	var all sync.WaitGroup
	for _, conn := range conns {
		all.Go(func() {
			for range b.N/clients + 1 {
				if _, err := conn.Write(query); err != nil || untilReady(conn) != nil {
					b.Error("the session has ended")
					return
				}
			}
		})
	}
	all.Wait()
}

// TestNothingBehindAFatal: what the proxy itself has to say, of a hold or of its own end, does not come behind the upstream's last word.
func TestNothingBehindAFatal(t *testing.T) {
	t.Parallel()
	fatal := encode(&pgproto3.ErrorResponse{Severity: "FATAL", SeverityUnlocalized: "FATAL", Code: "57P01", Message: "the end"})
	row := encode(&pgproto3.DataRow{Values: [][]byte{[]byte("one")}})
	for name, cut := range map[string]int{"between messages": 0, "in a message": len(row) - 3} {
		s, _, seen := memorySession(t)
		pump := func(b []byte) {
			s.roomUpstream(nil)
			s.have += copy(s.upBuf[s.have:], b)
			require.NoError(t, s.pumpOnce(), name)
		}
		pump(row[:cut])
		if cut > 0 {
			require.NoError(t, s.inject(notice("NOTICE", "on its way")), name)
		}
		pump(append(bytes.Clone(row[cut:]), fatal...))
		require.NoError(t, s.inject(notice("NOTICE", "too late")), name)
		require.Equal(t, append(bytes.Clone(row), fatal...), seen.Bytes(), name)
	}
}
