// Package netfault is a TCP link on loopback that tests can break: it can refuse, cut after a number of bytes, stall
// and delay. It is for tests only.
package netfault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// Link forwards connections from Addr to its target until it is told otherwise. All methods are safe for concurrent
// use.
type Link struct {
	listener net.Listener
	target   string
	wg       sync.WaitGroup

	mu      sync.Mutex // guards what follows
	conns   map[net.Conn]struct{}
	down    bool
	stall   chan struct{} // closed when the link moves again; nil while it moves
	strand  chan struct{} // the same, for the connections made before era
	era     int           // counts calls of Strand
	delay   time.Duration
	cutAt   int64 // bytes still let through, both ways together; negative: no limit
	through int64
	closed  bool
}

// New opens a link to target, a TCP address, and closes it with the test.
func New(tb testing.TB, target string) *Link {
	tb.Helper()
	listener, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("listen on loopback: %v", err)
	}
	l := &Link{listener: listener, target: target, conns: map[net.Conn]struct{}{}, cutAt: -1}
	l.wg.Add(1)
	go l.accept()
	tb.Cleanup(l.close)
	return l
}

// Addr is the address to connect to.
func (l *Link) Addr() string { return l.listener.Addr().String() }

// Bytes is how many bytes have passed, both ways together.
func (l *Link) Bytes() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.through
}

// Down resets every connection and every new one, until Up.
func (l *Link) Down() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = true
	l.reset()
}

// Up ends Down, Stall, Strand, Delay and CutAfter for new connections and bytes.
func (l *Link) Up() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down, l.delay, l.cutAt = false, 0, -1
	if l.stall != nil {
		close(l.stall)
		l.stall = nil
	}
	if l.strand != nil {
		close(l.strand)
		l.strand = nil
	}
}

// Stall keeps connections open and lets no byte through, until Up: a peer that is gone without a word.
func (l *Link) Stall() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stall == nil {
		l.stall = make(chan struct{})
	}
}

// Strand stalls the connections that are open, until Up, and lets new ones through: an address that leads to another server
// from now on, without a word from the one that was there.
func (l *Link) Strand() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.era++
	if l.strand == nil {
		l.strand = make(chan struct{})
	}
}

// Delay holds each piece back for d.
func (l *Link) Delay(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.delay = d
}

// CutAfter lets n more bytes through, both ways together, then resets every connection and goes down.
func (l *Link) CutAfter(n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cutAt = n
}

func (l *Link) close() {
	l.Up()
	l.mu.Lock()
	l.closed = true
	_ = l.listener.Close()
	l.reset()
	l.mu.Unlock()
	l.wg.Wait()
}

// reset ends all connections without a farewell. The caller holds mu.
func (l *Link) reset() {
	for conn := range l.conns {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = conn.Close()
	}
}

func (l *Link) accept() {
	defer l.wg.Done()
	for {
		near, err := l.listener.Accept()
		if err != nil {
			return
		}
		if !l.keep(near) {
			continue
		}
		far, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(context.Background(), "tcp", l.target) //nolint:forbidigo // a test helper makes its own root
		if err != nil || !l.keep(far) {
			l.drop(near)
			continue
		}
		l.wg.Add(1)
		go l.join(near, far)
	}
}

// keep registers conn; it closes it and reports false while the link is down.
func (l *Link) keep(conn net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down || l.closed {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = conn.Close()
		return false
	}
	l.conns[conn] = struct{}{}
	return true
}

func (l *Link) drop(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, conn)
	_ = conn.Close()
}

// join copies both ways until both ends have said farewell or one has failed.
func (l *Link) join(near, far net.Conn) {
	defer l.wg.Done()
	defer l.drop(near)
	defer l.drop(far)
	l.mu.Lock()
	era := l.era
	l.mu.Unlock()
	back := make(chan struct{})
	go func() {
		defer close(back)
		l.pump(far, near, era)
	}()
	l.pump(near, far, era)
	<-back
}

// pump copies one way. An end of the stream is passed on as such; an error ends both ways.
func (l *Link) pump(from, to net.Conn, era int) {
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			allowed, passErr := l.pass(n, era)
			if _, writeErr := to.Write(buf[:allowed]); writeErr != nil || passErr != nil {
				err = errors.Join(passErr, writeErr)
			}
		}
		if errors.Is(err, io.EOF) {
			if half, ok := to.(*net.TCPConn); ok && half.CloseWrite() == nil {
				return
			}
		}
		if err != nil {
			_ = from.Close()
			_ = to.Close()
			return
		}
	}
}

// errCut says that the link's budget of bytes is spent.
var errCut = errors.New("link cut")

// pass waits while the link is stalled or delayed and reports how many of n bytes may go.
func (l *Link) pass(n, era int) (int, error) {
	for {
		l.mu.Lock()
		stall, delay := l.stall, l.delay
		if l.strand != nil && era < l.era {
			stall = l.strand
		}
		l.mu.Unlock()
		if stall != nil {
			<-stall
			continue
		}
		if delay > 0 {
			<-time.After(delay)
		}
		break
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cutAt >= 0 && int64(n) >= l.cutAt {
		n = int(l.cutAt)
		l.cutAt, l.down = -1, true
		l.through += int64(n)
		defer l.resetSoon()
		return n, fmt.Errorf("%w after %d bytes", errCut, l.through)
	}
	if l.cutAt >= 0 {
		l.cutAt -= int64(n)
	}
	l.through += int64(n)
	return n, nil
}

// resetSoon ends the connections other than by the pump that called it, which ends its own.
func (l *Link) resetSoon() {
	l.wg.Go(func() {
		<-time.After(5 * time.Millisecond)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.reset()
	})
}
