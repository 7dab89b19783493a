package proxy

import (
	"context"
	"encoding/binary"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestStripPlus(t *testing.T) {
	message := append([]byte{'R', 0, 0, 0, 0, 0, 0, 0, 10}, "SCRAM-SHA-256-PLUS\x00SCRAM-SHA-256\x00\x00"...)
	out := stripPlus(mechanisms(message))
	require.Equal(t, "SCRAM-SHA-256\x00\x00", string(out[9:]))
	require.EqualValues(t, len(out)-1, binary.BigEndian.Uint32(out[1:]))
}

func TestTrustIsForLoopback(t *testing.T) {
	require.True(t, onLoopback(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}))
	require.True(t, onLoopback(&net.UnixAddr{}))
	require.False(t, onLoopback(&net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)}))
}

func TestCancelReachesUpstream(t *testing.T) {
	b := start(t, nil)
	conn := b.connect(t, nil)
	done := make(chan error, 1)
	go func() { _, err := conn.Exec(context.Background(), "select pg_sleep(30)"); done <- err }()
	for range 100 {
		require.NoError(t, conn.PgConn().CancelRequest(t.Context()))
		select {
		case err := <-done:
			require.Equal(t, "57014", code(err))
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
	t.Fatal("not cancelled")
}

func TestReplicates(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]bool{
		"": false, "database": true, "true": true, "T": true, "on": true, "y": true, "1": true, "false": false, "FAL": false, "f": false, "no": false, "n": false,
		"off": false, "of": false, "0": false, "o": true, "offf": true, "00": true, "falsee": true, // the last four are refused
	} {
		require.Equal(t, want, replicates(value), value)
	}
}

func TestNamed(t *testing.T) {
	t.Parallel()
	longest := strings.Repeat("n", 63)
	require.True(t, named("market", "market"))
	require.False(t, named("market2", "market"))
	require.False(t, named("Market", "market"))
	require.True(t, named(longest, longest))
	require.True(t, named(longest+"nn", longest), "PostgreSQL before 17 cuts it")
	require.False(t, named(longest[1:]+"mm", longest))
}

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "": 0, "5s": 5 * time.Second, "30min": 30 * time.Minute, "250": 250 * time.Millisecond, "1.5 h": 90 * time.Minute, "x": 0, "500us": 500 * time.Microsecond,
	} {
		require.Equal(t, want, duration(text), text)
	}
}
