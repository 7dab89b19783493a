//go:build !386 && !s390x

package netloop

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair returns a connection of a running loop and its peer.
func pair(t *testing.T) (*Conn, *net.TCPConn) {
	t.Helper()
	loop, err := New()
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { require.NoError(t, loop.Run(ctx)) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
		require.NoError(t, loop.Close())
	})
	return pairOf(t, loop)
}

// pairOf returns a connection of the loop and its peer.
func pairOf(t *testing.T, loop *Loop) (*Conn, *net.TCPConn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	dialled, err := net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	peer, ok := dialled.(*net.TCPConn)
	require.True(t, ok)
	accepted, err := listener.Accept()
	require.NoError(t, err)
	conn, err := loop.Take(accepted)
	require.NoError(t, err)
	t.Cleanup(func() { _, _ = conn.Close(), peer.Close() })
	return conn, peer
}

func TestReadAndWriteBlock(t *testing.T) {
	t.Parallel()
	conn, peer := pair(t)
	large := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // more than the sockets take
	var got []byte
	var reading sync.WaitGroup
	reading.Go(func() { got, _ = io.ReadAll(peer) })
	n, err := conn.Write(large)
	require.NoError(t, err)
	require.Equal(t, len(large), n)
	require.NoError(t, conn.Close())
	reading.Wait()
	require.True(t, bytes.Equal(large, got))
	_, err = conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, net.ErrClosed)
	require.ErrorIs(t, conn.Close(), net.ErrClosed)
}

func TestDeadlines(t *testing.T) {
	t.Parallel()
	conn, peer := pair(t)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
	_, err := conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, conn.SetReadDeadline(time.Time{}))

	// A deadline set meanwhile ends a read that waits; what comes afterwards is not lost.
	ended := make(chan error, 1)
	go func() {
		_, err := conn.Read(make([]byte, 1))
		ended <- err
	}()
	require.Eventually(t, func() bool {
		conn.mu.Lock()
		defer conn.mu.Unlock()
		return conn.in.waiting
	}, 10*time.Second, time.Millisecond)
	require.NoError(t, conn.SetReadDeadline(time.Unix(1, 0)))
	require.ErrorIs(t, <-ended, os.ErrDeadlineExceeded)
	_, err = peer.Write([]byte("x"))
	require.NoError(t, err)
	require.NoError(t, conn.SetReadDeadline(time.Time{}))
	var one [1]byte
	_, err = conn.Read(one[:])
	require.NoError(t, err)
	require.Equal(t, "x", string(one[:]))

	require.NoError(t, conn.SetWriteDeadline(time.Now().Add(20*time.Millisecond)))
	_, err = conn.Write(make([]byte, 64<<20)) // the peer does not read
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
}

func TestCallbacks(t *testing.T) {
	t.Parallel()
	conn, peer := pair(t)
	type told struct {
		text string
		err  error
	}
	heard := make(chan told, 16)
	writable := make(chan struct{}, 1)
	conn.Handle(func() {
		buf := make([]byte, 4)
		n, err := conn.TryRead(buf)
		if err != nil {
			conn.WatchRead(false)
		}
		heard <- told{string(buf[:n]), err}
	}, func() {
		conn.WatchWrite(false)
		writable <- struct{}{}
	})
	_, err := peer.Write([]byte("abcdefgh"))
	require.NoError(t, err)
	conn.WatchRead(true)
	require.Equal(t, told{text: "abcd"}, <-heard)
	require.Equal(t, told{text: "efgh"}, <-heard, "what was left is told again")
	conn.WatchWrite(true)
	<-writable
	n, err := conn.TryRead(make([]byte, 1))
	require.NoError(t, err)
	require.Zero(t, n)
	// An end that comes with the last bytes is told too.
	_, err = peer.Write([]byte("ij"))
	require.NoError(t, err)
	require.NoError(t, peer.CloseWrite())
	require.Equal(t, told{text: "ij"}, <-heard)
	require.ErrorIs(t, (<-heard).err, io.EOF)
}

// TestTurns reads by callback and by Read in turn, as a session does around a hold.
func TestTurns(t *testing.T) {
	t.Parallel()
	conn, peer := pair(t)
	heard := make(chan byte)
	conn.Handle(func() {
		var one [1]byte
		if n, _ := conn.TryRead(one[:]); n == 1 {
			conn.WatchRead(false)
			heard <- one[0]
		}
	}, nil)
	for i := range byte(100) {
		conn.WatchRead(true)
		_, err := peer.Write([]byte{i, i + 100})
		require.NoError(t, err)
		require.Equal(t, i, <-heard)
		var one [1]byte
		_, err = conn.Read(one[:])
		require.NoError(t, err)
		require.Equal(t, i+100, one[0])
	}
}

func TestCloseInCallback(t *testing.T) {
	t.Parallel()
	conn, peer := pair(t)
	closed := make(chan struct{})
	conn.Handle(func() {
		_ = conn.Close()
		close(closed)
	}, nil)
	conn.WatchRead(true)
	_, err := peer.Write([]byte("x"))
	require.NoError(t, err)
	<-closed
	conn.WatchRead(true) // of no effect
	_, err = conn.TryRead(make([]byte, 1))
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = peer.Read(make([]byte, 1))
	require.Error(t, err)
}

// TestResetUnwatched: a reset is told once, whether anybody watches or not, and is found all the same when somebody does.
func TestResetUnwatched(t *testing.T) {
	t.Parallel()
	conn, peer := pair(t)
	other, otherPeer := pairOf(t, conn.loop)
	broken, turns := make(chan error, 1), make(chan struct{})
	conn.Handle(func() {
		_, err := conn.TryRead(make([]byte, 1))
		conn.WatchRead(false)
		broken <- err
	}, nil)
	other.Handle(func() {
		_, _ = other.TryRead(make([]byte, 2))
		turns <- struct{}{}
	}, nil)
	other.WatchRead(true)
	conn.WatchRead(true)
	conn.WatchRead(false)
	require.NoError(t, peer.SetLinger(0))
	require.NoError(t, peer.Close())
	_, err := otherPeer.Write([]byte("x"))
	require.NoError(t, err)
	<-turns // the loop was told of the reset no later
	conn.WatchRead(true)
	require.ErrorIs(t, <-broken, syscall.ECONNRESET)
}

// TestCalledAgain: what a callback leaves is told again, though the kernel tells of each change but once: bytes not read, an end of
// stream behind them, room that was not used.
func TestCalledAgain(t *testing.T) {
	t.Parallel()
	conn, peer := pair(t)
	heard := make(chan string, 10)
	idles, writes := 0, 0
	conn.Handle(func() {
		idles++
		if idles <= 3 {
			return // reads nothing
		}
		var two [2]byte
		n, err := conn.TryRead(two[:])
		if err != nil {
			heard <- err.Error()
			conn.WatchRead(false)
			return
		}
		heard <- string(two[:n])
	}, func() {
		writes++
		if writes > 3 {
			conn.WatchWrite(false)
			heard <- "written"
			return
		}
		_, _ = conn.TryWrite([]byte("x")) // leaves room
	})
	_, err := peer.Write([]byte("abcde"))
	require.NoError(t, err)
	require.NoError(t, peer.CloseWrite())
	conn.WatchRead(true)
	for _, want := range []string{"ab", "cd", "e", "EOF"} {
		require.Equal(t, want, <-heard)
	}
	conn.WatchWrite(true)
	require.Equal(t, "written", <-heard)
	got := make([]byte, 3)
	_, err = io.ReadFull(peer, got)
	require.NoError(t, err)
	require.Equal(t, "xxx", string(got))
}

func TestTakeOthers(t *testing.T) {
	t.Parallel()
	loop, err := New()
	require.NoError(t, err)
	defer loop.Close()
	a, b := net.Pipe()
	defer b.Close()
	defer a.Close()
	_, err = loop.Take(a)
	require.ErrorIs(t, err, errors.ErrUnsupported)
}

// TestTokens: what the kernel told of a connection that is closed meanwhile is not taken for the next one's in its place.
func TestTokens(t *testing.T) {
	t.Parallel()
	loop, err := New()
	require.NoError(t, err)
	defer loop.Close()
	var kept []*Conn
	for range 3 {
		c := &Conn{loop: loop}
		loop.remember(c)
		kept = append(kept, c)
	}
	old := kept[1].token
	require.Same(t, kept[1], loop.conn(old))
	loop.forget(kept[1])
	require.Nil(t, loop.conn(old))
	next := &Conn{loop: loop}
	loop.remember(next)
	require.Equal(t, old.place(), next.token.place(), "the place is taken again")
	require.Nil(t, loop.conn(old))
	require.Same(t, next, loop.conn(next.token))
	require.Same(t, kept[0], loop.conn(kept[0].token))
	require.Same(t, kept[2], loop.conn(kept[2].token))
	require.Nil(t, loop.conn(wakeToken))
}
