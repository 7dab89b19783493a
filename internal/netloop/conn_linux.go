//go:build !386 && !s390x

package netloop

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Conn is a connection of a Loop. Its methods are safe for concurrent use; at one time one goroutine may read, by Read or
// as the loop's callback, and one may write.
//
// What each message touches comes first: of many connections, none is in the processor's cache when its turn comes.
type Conn struct {
	loop *Loop

	mu       sync.Mutex // guards what follows; held during each system call on fd, so that Close cannot come between
	fd       int
	interest uint32 // as the epoll instance has it
	closed   bool
	added    bool // to the epoll instance
	in, out  side

	token         token
	local, remote net.Addr
	done          chan struct{} // closed by Close
}

// side is one direction of a connection.
type side struct {
	call    func() // when ready and watched
	bit     uint32
	watched bool // call is to be called
	left    bool // since it was called last, nothing has found the socket empty, or full
	waiting bool // a goroutine is in await
	*wait
}

// wait is what a goroutine waits for.
type wait struct {
	ready    chan struct{} // wakes it
	changed  chan struct{} // closed and replaced with deadline
	deadline time.Time
}

// edge is EPOLLET, which package syscall has as a negative number.
const edge = 1 << 31

func newConn(l *Loop, fd int, local, remote net.Addr) *Conn {
	newSide := func(bit uint32) side {
		return side{bit: bit, wait: &wait{ready: make(chan struct{}, 1), changed: make(chan struct{})}}
	}
	return &Conn{
		loop: l, fd: fd, local: local, remote: remote, done: make(chan struct{}),
		in: newSide(syscall.EPOLLIN | syscall.EPOLLRDHUP), out: newSide(syscall.EPOLLOUT),
	}
}

// Handle sets what the loop's goroutine calls when the connection can be read or written. It may be called once, before
// the first Watch.
func (c *Conn) Handle(readable, writable func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.in.call, c.out.call = readable, writable
}

// WatchRead says whether readable is to be called. It is called again and again until everything has been read.
func (c *Conn) WatchRead(on bool) { c.watch(&c.in, on) }

// WatchWrite says whether writable is to be called.
func (c *Conn) WatchWrite(on bool) { c.watch(&c.out, on) }

func (c *Conn) watch(s *side, on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.watched && !on {
		c.loop.handed.Store(true)
	}
	s.watched = on
	c.update()
}

// Woken returns when the loop was told of the events whose callbacks it calls now. Only callbacks of the same loop may ask.
func (c *Conn) Woken() time.Time { return c.loop.woken }

// TryRead reads what is there. It returns 0 and no error where nothing is, and io.EOF at the end of the stream.
//
// It has the system call in it, as TryWrite has: what returns behind one returns to where the processor did not expect it, since the
// kernel's own calls have taken the place of those that it remembers. Each function in between costs some ten nanoseconds.
func (c *Conn) TryRead(b []byte) (int, error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return 0, net.ErrClosed
	}
	n, failure := receive(c.fd, b)
	for failure == syscall.EINTR {
		n, failure = receive(c.fd, b)
	}
	switch {
	case failure == 0 && n > 0:
		c.in.left = c.in.left && int(n) == len(b)
		c.mu.Unlock()
		return int(n), nil
	case failure == syscall.EAGAIN:
		c.in.left = false
	}
	c.mu.Unlock()
	switch {
	case failure == syscall.EAGAIN, failure == 0 && len(b) == 0:
		return 0, nil
	case failure == 0:
		return 0, io.EOF
	}
	return 0, os.NewSyscallError("recvfrom", failure)
}

// TryWrite writes what can be written, which may be less than b or nothing, without an error.
func (c *Conn) TryWrite(b []byte) (int, error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return 0, net.ErrClosed
	}
	n, failure := send(c.fd, b)
	for failure == syscall.EINTR {
		n, failure = send(c.fd, b)
	}
	if failure == 0 {
		c.out.left = c.out.left && int(n) == len(b)
		c.mu.Unlock()
		return int(n), nil
	}
	if failure == syscall.EAGAIN {
		c.out.left = false
		c.mu.Unlock()
		return 0, nil
	}
	c.mu.Unlock()
	return 0, os.NewSyscallError("sendto", failure)
}

// Read implements net.Conn. The connection must not be watched for reading meanwhile.
func (c *Conn) Read(b []byte) (int, error) {
	for {
		if err := c.expired(&c.in); err != nil {
			return 0, err
		}
		if n, err := c.TryRead(b); n > 0 || err != nil || len(b) == 0 {
			return n, err
		}
		if err := c.await(&c.in); err != nil {
			return 0, err
		}
	}
}

// Write implements net.Conn. The connection must not be watched for writing meanwhile.
func (c *Conn) Write(b []byte) (int, error) {
	written := 0
	for {
		if err := c.expired(&c.out); err != nil {
			return written, err
		}
		n, err := c.TryWrite(b[written:])
		written += n
		switch {
		case err != nil || written == len(b):
			return written, err
		case n > 0:
			continue
		}
		if err := c.await(&c.out); err != nil {
			return written, err
		}
	}
}

func (c *Conn) expired(s *side) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !s.deadline.IsZero() && !time.Now().Before(s.deadline) {
		return os.ErrDeadlineExceeded
	}
	return nil
}

// await returns when the side may be ready, or with the error that ends the wait.
func (c *Conn) await(s *side) error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return net.ErrClosed
	}
	s.waiting = true
	c.update()
	deadline, changed := s.deadline, s.changed
	c.mu.Unlock()
	var expire <-chan time.Time
	if !deadline.IsZero() {
		timer := time.NewTimer(time.Until(deadline))
		defer timer.Stop()
		expire = timer.C
	}
	select {
	case <-s.ready:
		return nil
	case <-c.done:
		return net.ErrClosed
	case <-changed: // the caller looks at the deadline again
	case <-expire:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s.waiting = false
	c.update()
	return nil
}

// dispatch deals with what epoll_wait told. It runs in the loop's goroutine.
func (c *Conn) dispatch(events uint32) {
	const broken = syscall.EPOLLHUP | syscall.EPOLLERR
	for _, s := range [...]*side{&c.out, &c.in} {
		if events&(s.bit|broken) == 0 || !c.tell(s) {
			continue
		}
		s.call()
		c.called(s, events&(broken|syscall.EPOLLRDHUP) != 0)
	}
}

// tell wakes the goroutine that waits for the side. It reports whether there is a callback to be called instead.
func (c *Conn) tell(s *side) bool {
	c.mu.Lock()
	switch {
	case c.closed:
	case s.waiting:
		s.waiting = false
		c.loop.handed.Store(true)
		select {
		case s.ready <- struct{}{}:
		default: // an earlier one is still there
		}
		c.update()
	case s.watched:
		s.left = true
		c.mu.Unlock()
		return true
	}
	c.mu.Unlock()
	return false
}

// called has the kernel tell again what a callback has left. An end of stream that was told together with the last bytes is not told
// for itself.
func (c *Conn) called(s *side, ended bool) {
	c.mu.Lock()
	if s.watched && (s.left || ended) && !c.closed {
		c.interested(c.interest)
	}
	c.mu.Unlock()
}

// update tells the kernel what is of interest. The caller holds mu.
func (c *Conn) update() {
	if c.closed {
		return
	}
	var interest uint32
	for _, s := range [...]*side{&c.in, &c.out} {
		if s.watched || s.waiting {
			interest |= s.bit
		}
	}
	if interest != c.interest {
		c.interested(interest)
	}
}

// interested has the kernel tell what is there of that kind, now and whenever more comes. The caller holds mu.
func (c *Conn) interested(in uint32) {
	op := syscall.EPOLL_CTL_MOD
	if !c.added {
		op = syscall.EPOLL_CTL_ADD
	}
	if err := c.loop.control(op, c.fd, c.token, in|edge); err != nil {
		// The kernel has no memory for it: nothing would ever be told of this connection.
		c.end()
		return
	}
	c.added, c.interest = true, in
}

// CloseWrite ends the direction that is written: the peer reads to the end of the stream, and can still be read from.
func (c *Conn) CloseWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	if err := syscall.Shutdown(c.fd, syscall.SHUT_WR); err != nil {
		return fmt.Errorf("end what is written: %w", err)
	}
	return nil
}

// Close implements net.Conn. Callbacks that run go on; no further one begins.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.end()
	return nil
}

// end closes the socket. The caller holds mu.
func (c *Conn) end() {
	if c.added {
		_ = c.loop.control(syscall.EPOLL_CTL_DEL, c.fd, c.token, 0)
	}
	c.closed = true
	close(c.done)
	_ = syscall.Close(c.fd)
	c.loop.forget(c)
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn. It does not concern TryRead.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadline(&c.in, t) }

// SetWriteDeadline implements net.Conn. It does not concern TryWrite.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadline(&c.out, t) }

func (c *Conn) setDeadline(s *side, t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	s.deadline = t
	close(s.changed)
	s.changed = make(chan struct{})
	return nil
}
