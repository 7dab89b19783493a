//go:build !386 && !s390x

package netloop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// eventsPerWait bounds what one epoll_wait(2) returns.
const eventsPerWait = 256

// wakeToken is the pipe's by which Run is ended.
const wakeToken token = 0

// token is what the epoll instance knows a connection by: its place in conns, and in the upper half how many had that place
// before, so that what was told of one is not taken for another's.
type token uint64

const tokenPlace = 1<<32 - 1

func (t token) place() uint64 { return uint64(t & tokenPlace) }

// Loop waits for its connections on one epoll instance. Its methods are safe for concurrent use. A Loop that is not
// needed any more must be closed, after Run has returned and its connections are closed.
type Loop struct {
	epoll int
	wake  [2]int // a pipe; a byte in it ends Run
	quick int    // Run's: how many turns in a row were short
	// woken is Run's, and its callbacks': when the events came that are dealt with.
	woken time.Time
	// handed says that a goroutine was woken: one that waits in Read or Write, or the one that is to go on with a
	// connection that a callback has stopped to watch.
	handed atomic.Bool

	mu    sync.Mutex // guards what follows
	conns []*Conn    // nil where none is; the first place is nobody's
	free  []token    // of such places, for their next connections
}

// New returns a loop without connections. Nothing happens before Run.
func New() (*Loop, error) {
	epoll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create epoll instance: %w", os.NewSyscallError("epoll_create1", err))
	}
	l := &Loop{epoll: epoll, conns: make([]*Conn, 1)}
	if err := syscall.Pipe2(l.wake[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK); err != nil {
		_ = syscall.Close(epoll)
		return nil, fmt.Errorf("create pipe: %w", os.NewSyscallError("pipe2", err))
	}
	if err := l.control(syscall.EPOLL_CTL_ADD, l.wake[0], wakeToken, syscall.EPOLLIN); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Close releases the epoll instance.
func (l *Loop) Close() error {
	return errors.Join(syscall.Close(l.epoll), syscall.Close(l.wake[0]), syscall.Close(l.wake[1]))
}

// Run calls back for the connections that are ready until ctx ends. It keeps a thread of the operating system to itself: a goroutine that is
// busy is moved to another thread with every turn that the scheduler ends, and what the kernel knows of the one before, which processor
// it is on and whom it wakes, is lost for a client that waits for each answer.
func (l *Loop) Run(ctx context.Context) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		_, _ = syscall.Write(l.wake[1], []byte{0})
	})
	defer func() {
		if !stop() {
			<-ended // Close must not come before the write
		}
	}()
	events := make([]syscall.EpollEvent, eventsPerWait)
	ready := make([]*Conn, eventsPerWait)
	for {
		n, err := l.wait(events)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return fmt.Errorf("wait for connections: %w", os.NewSyscallError("epoll_wait", err))
		}
		if n <= 0 {
			continue
		}
		l.mu.Lock()
		for i, e := range events[:n] {
			ready[i] = l.conn(tokenOf(e))
		}
		l.mu.Unlock()
		for i, e := range events[:n] {
			if tokenOf(e) == wakeToken {
				return nil
			}
			if c := ready[i]; c != nil { // else it was closed meanwhile
				c.dispatch(e.Events)
			}
			ready[i] = nil
		}
	}
}

// A loop is busy after busyTurns turns that took less than busyTurn each, from the events of one to those of the next.
const (
	busyTurns = 16
	busyTurn  = 2 * time.Millisecond
	// keepProcessor is in milliseconds. It is longer than a tick of the kernel's clock, so that no timer of the machine's is
	// set for each wait, and as long as a turn that the scheduler gives any goroutine.
	keepProcessor = 10
)

// wait returns the events that are there, and waits for one if there is none.
//
// A loop that is busy keeps its processor while it waits, as it does in its other calls: to tell the scheduler of each wait
// costs more than the wait. Goroutines that the loop woke do not have to wait for that: it lets them go first.
func (l *Loop) wait(events []syscall.EpollEvent) (int, error) {
	if l.handed.Load() && l.handed.Swap(false) {
		runtime.Gosched()
		l.woken = time.Now() // what others take is not the loop's
	}
	patience := uintptr(0)
	if l.quick >= busyTurns {
		patience = keepProcessor
	}
	found, failure := poll(l.epoll, events, patience)
	n, err := int(found), error(nil)
	switch {
	case failure != 0:
		n, err = 0, failure
	case n == 0:
		n, err = syscall.EpollWait(l.epoll, events, -1)
	}
	before := l.woken
	l.woken = time.Now()
	if l.woken.Sub(before) < busyTurn {
		l.quick++
	} else {
		l.quick = 0
	}
	return n, err
}

// Take returns the connection as one of the loop's. conn must be a *net.TCPConn or *net.UnixConn that nobody reads or
// writes; Take closes it, and the socket lives on. On an error conn is as it was.
func (l *Loop) Take(conn net.Conn) (*Conn, error) {
	var raw syscall.RawConn
	var err error
	switch socket := conn.(type) {
	case *net.TCPConn:
		raw, err = socket.SyscallConn()
	case *net.UnixConn:
		raw, err = socket.SyscallConn()
	default:
		return nil, fmt.Errorf("take connection: %T: %w", conn, errors.ErrUnsupported)
	}
	if err != nil {
		return nil, fmt.Errorf("take connection: %w", err)
	}
	// A descriptor of its own, so that the runtime's poller forgets the socket when conn is closed. Both share the open file
	// description, which does not block.
	var fd uintptr
	var failure syscall.Errno
	if err := raw.Control(func(old uintptr) {
		fd, _, failure = syscall.Syscall(syscall.SYS_FCNTL, old, syscall.F_DUPFD_CLOEXEC, 0)
	}); err != nil {
		return nil, fmt.Errorf("take connection: %w", err)
	}
	if failure != 0 {
		return nil, fmt.Errorf("take connection: %w", os.NewSyscallError("fcntl", failure))
	}
	c := newConn(l, int(fd), conn.LocalAddr(), conn.RemoteAddr())
	l.remember(c)
	_ = conn.Close()
	return c, nil
}

// remember gives c its token.
func (l *Loop) remember(c *Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if last := len(l.free) - 1; last >= 0 {
		c.token, l.free = l.free[last], l.free[:last]
		l.conns[c.token.place()] = c
		return
	}
	c.token = token(len(l.conns))
	l.conns = append(l.conns, c)
}

func (l *Loop) forget(c *Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[c.token.place()] = nil
	l.free = append(l.free, c.token+tokenPlace+1)
}

// conn returns the connection, nil if it was closed. The caller holds mu.
func (l *Loop) conn(t token) *Conn {
	if c := l.conns[t.place()]; c != nil && c.token == t {
		return c
	}
	return nil
}

func (l *Loop) control(op, fd int, t token, events uint32) error {
	e := syscall.EpollEvent{Events: events, Fd: int32(uint32(t)), Pad: int32(uint32(t >> 32))} //nolint:gosec // the two halves of epoll_data
	if err := syscall.EpollCtl(l.epoll, op, fd, &e); err != nil {
		return fmt.Errorf("watch connection: %w", os.NewSyscallError("epoll_ctl", err))
	}
	return nil
}

func tokenOf(e syscall.EpollEvent) token {
	return token(uint32(e.Pad))<<32 | token(uint32(e.Fd)) //nolint:gosec // the two halves of epoll_data
}
