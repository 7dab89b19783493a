package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"
)

const (
	pumpBuffer   = 64 << 10
	readerBuffer = 16 << 10
)

// session is one client with its one upstream connection.
type session struct {
	server           *Server
	log              *slog.Logger
	client, upstream net.Conn
	clientTLS        bool
	planned          bool
	user             string
	pid              uint32
	life             string // of the database that upstream is connected to (PIPELINE 19)
	secret           []byte

	// The pump's, and before it the authentication's: upBuf[from:have] is not looked at yet.
	upBuf      []byte
	from, have int // from is where pumpOnce has come to; what is before it may still be in unsent
	greeting   []byte
	skip       int // bytes of a message whose header has passed
	skipDrop   bool
	gone       chan struct{} // closed when the pump has ended, after pumpErr was set
	pumpEnd    sync.Once
	pumpErr    error
	cancel     context.CancelFunc // ends what the reader waits for

	reader reader

	out      sync.Mutex // held by whoever writes to the client; guards what follows
	midway   bool       // the client has a part of a message
	deferred []byte     // to be written when it has all of it
	unsent   []byte     // what the client's socket had no room for; looped sessions only

	looped *looped // nil: a goroutine of its own for each direction

	mu sync.Mutex // guards what follows
	ledger
	holdEnd context.CancelCauseFunc // set from the first look at a statement until it goes upstream
	held    bool                    // and it waits for bars
	info    SessionInfo             // but its State
	running bool
	ended   bool
}

func newSession(server *Server, conn net.Conn) *session {
	s := &session{server: server, log: server.cfg.Logger, client: conn, gone: make(chan struct{})}
	s.tx = 'I'
	s.reader.init()
	return s
}

// serve runs the session from its first byte to its last.
func (s *session) serve(ctx context.Context) error {
	if err := s.client.SetDeadline(time.Now().Add(s.server.cfg.StartupTimeout)); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	raw := s.client
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	packet, err := s.startup(ctx)
	if err != nil || packet == nil {
		stop()
		return err
	}
	if !s.server.add(s) {
		stop()
		return s.refuse(errTooManySessions)
	}
	defer s.server.remove(s)
	err = s.connect(ctx, packet)
	if !stop() && err == nil {
		err = s.refuse(errShutdown)
	}
	if err != nil {
		return err
	}
	return s.run(ctx)
}

func (s *session) connect(ctx context.Context, packet []byte) error {
	s.describe(packet)
	var err error
	if s.upstream, err = s.server.dial(ctx); err != nil {
		s.log.WarnContext(ctx, "upstream not reached", slog.Any("error", err))
		return s.refuse(unreachable())
	}
	if _, err := s.upstream.Write(packet); err != nil {
		return fmt.Errorf("write to upstream: %w", err)
	}
	s.upBuf = make([]byte, pumpBuffer)
	s.params = map[string]string{}
	s.statements = map[string]candidates{}
	if err := s.authenticate(); err != nil {
		return err
	}
	if err := s.client.SetDeadline(time.Time{}); err != nil {
		return fmt.Errorf("clear deadline: %w", err)
	}
	return nil
}

// run relays until one side is gone.
func (s *session) run(ctx context.Context) error {
	work, cancel := context.WithCancel(ctx)
	defer cancel()
	s.cancel = cancel
	s.enterLoop()
	s.mu.Lock()
	s.running = true
	s.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { s.terminate(errShutdown) })
	defer stop()
	s.reader.buf = make([]byte, readerBuffer)
	var pump sync.WaitGroup
	var err error
	if s.looped != nil {
		err = s.readLooped(work)
	} else {
		pump.Go(func() { s.endPump(s.pump()) })
		err = s.read(work)
	}
	var own *Error
	if errors.As(err, &own) && own.Fatal {
		s.terminate(own)
	}
	s.closeUpstream()
	pump.Wait()
	<-s.gone
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		err = nil
		if s.pumpErr != nil && !errors.Is(s.pumpErr, io.EOF) && !errors.Is(s.pumpErr, net.ErrClosed) {
			err = s.pumpErr
		}
	}
	return err
}

// endPump is the end of what comes from the upstream; only the first call counts.
func (s *session) endPump(err error) {
	s.pumpEnd.Do(func() {
		s.pumpErr = err
		s.sayLost(err)
		_ = s.upstream.Close()
		s.cancel()
		// The reader may be waiting for a client that will not speak again.
		_ = s.client.Close()
		close(s.gone)
	})
}

// sayLost tells a client whose upstream went away without a word. The FATAL that PostgreSQL sends has passed by then.
func (s *session) sayLost(err error) {
	s.mu.Lock()
	silent := !s.ended && !s.announced && err != nil
	s.ended = true
	s.mu.Unlock()
	if silent {
		_ = s.inject(errUpstreamGone.encode())
	}
}

func (s *session) closeUpstream() {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	_ = s.upstream.Close()
	if s.looped != nil {
		s.endPump(net.ErrClosed) // nobody calls back for a closed connection
	}
}

func (s *session) close() {
	_ = s.client.Close()
	if s.upstream != nil {
		_ = s.upstream.Close()
	}
	if s.looped != nil {
		s.endPump(net.ErrClosed)
	}
}

// idle reports whether the session can be ended without a loss.
func (s *session) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running && s.waiting == 0 && s.tx == 'I' && s.holdEnd == nil
}

// terminate ends the session with a FATAL.
func (s *session) terminate(reason *Error) {
	s.mu.Lock()
	if s.ended || !s.running {
		s.mu.Unlock()
		return
	}
	s.ended = true
	end := s.holdEnd
	s.mu.Unlock()
	// A client that does not read must not keep the session.
	_ = s.client.SetWriteDeadline(time.Now().Add(time.Second))
	_ = s.inject(reason.encode())
	if end != nil { // not before: who waits closes the connection
		end(reason)
	}
	s.close()
}

// inject writes the proxy's own message to the client, at the next boundary between messages. An error says that the
// client is gone, which the session's reader finds out as well.
func (s *session) inject(message []byte) error {
	s.out.Lock()
	defer s.out.Unlock()
	if s.midway {
		s.deferred = append(s.deferred, message...)
		return nil
	}
	err := s.send(message)
	if err != nil {
		s.log.Debug("client not written to", slog.Any("error", err))
	}
	return err
}

// cancelStatement ends what waits, or is looked at, before it goes upstream, and reports whether that was it: a cancel
// request is the upstream's while it works on what was sent before.
func (s *session) cancelStatement() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.holdEnd == nil || s.waiting > s.owned {
		return false
	}
	s.holdEnd(errCanceled)
	return true
}

// endHold ends a hold and reports whether there was one.
func (s *session) endHold(reason error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held {
		s.holdEnd(reason)
	}
	return s.held
}

// cstring cuts the text up to its zero byte, and returns what follows.
func cstring(data []byte) (text, rest []byte, ok bool) {
	return bytes.Cut(data, []byte{0})
}
