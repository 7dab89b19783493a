package netfault_test

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"barkeep/internal/netfault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo serves a TCP address that sends back what it gets.
func echo(t *testing.T) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { defer conn.Close(); _, _ = io.Copy(conn, conn) }()
		}
	}()
	t.Cleanup(func() { _ = listener.Close(); <-done })
	return listener.Addr().String()
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
	require.NoError(t, err)
	require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestLink(t *testing.T) {
	link := netfault.New(t, echo(t))
	conn := dial(t, link.Addr())
	say := func(conn net.Conn, text string) error {
		if _, err := conn.Write([]byte(text)); err != nil {
			return err
		}
		_, err := io.ReadFull(conn, make([]byte, len(text)))
		return err
	}
	reach := func() error {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", link.Addr())
		if err != nil {
			return err
		}
		defer conn.Close()
		return say(conn, "x")
	}
	require.NoError(t, say(conn, "hello"))
	require.Equal(t, int64(10), link.Bytes())

	link.Stall()
	_, err := conn.Write([]byte("wait"))
	require.NoError(t, err)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	_, err = conn.Read(make([]byte, 4))
	require.Error(t, err, "a stalled link lets nothing through")
	link.Up()
	require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	_, err = io.ReadFull(conn, make([]byte, 4))
	require.NoError(t, err)

	link.Strand()
	require.NoError(t, reach(), "a new connection is let through")
	_, err = conn.Write([]byte("wait"))
	require.NoError(t, err)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	_, err = conn.Read(make([]byte, 4))
	require.Error(t, err, "one that was open is not")
	link.Up()
	require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	_, err = io.ReadFull(conn, make([]byte, 4))
	require.NoError(t, err)

	link.CutAfter(7)
	require.Error(t, say(conn, "hello"), "the answer is cut in its middle")
	require.Error(t, reach(), "and the link is down")
	link.Up()
	require.NoError(t, say(dial(t, link.Addr()), "again"))
	link.Down()
	require.Error(t, reach())
	link.Up()
}
