package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"barkeep/planner"
)

// session is one client with its one upstream connection.
type session struct {
	// What each message touches comes first: when a session's turn comes, nothing of it is in the processor's cache.
	server *Server
	looped *looped // nil: a goroutine of its own for each direction

	// The pump's, and before it the authentication's: upBuf[from:have] is not looked at yet.
	upBuf      []byte // nil while nothing is in it
	from, have int    // from is where pumpOnce has come to; what is before it may still be in unsent
	skip       int    // bytes of a message whose header has passed
	skipDrop   bool
	planned    bool

	out      sync.Mutex // held by whoever writes to the client; guards what follows
	midway   bool       // the client has a part of a message
	deferred []byte     // to be written when it has all of it
	unsent   []byte     // what the client's socket had no room for; looped sessions only

	mu sync.Mutex // guards what follows
	ledger
	running   bool
	opened    bool // a segment of the client's is upstream without its Sync
	ended     bool
	held      bool                    // a statement waits for bars
	canceling int                     // cancel requests that are on their way upstream
	canceled  chan struct{}           // closed when canceling gets 0
	released  chan struct{}           // closed when what was held is upstream; nil where nothing is on its way
	holdEnd   context.CancelCauseFunc // set from the first look at a statement until it goes upstream
	waits     waits                   // for these bars
	info      SessionInfo             // but its State

	reader reader
	live   listening

	log              *slog.Logger
	client, upstream net.Conn
	place            *Place // the upstream's
	clientTLS        bool
	admitted         bool              // guarded by the server's mu: it counts for its user
	shown            *tls.Certificate  // the one that the client was shown; nil without TLS
	peer             *x509.Certificate // the client's, if it showed one that the authorities vouch for
	user             string
	number           uint64 // from 1, in the order of arrival
	pid              uint32
	life             string // of the database that upstream is connected to (PIPELINE 19)
	secret           []byte
	greeting         []byte

	gone    chan struct{} // closed when the pump has ended, after pumpErr was set
	pumpEnd sync.Once
	pumpErr error
	cancel  context.CancelFunc // ends what the reader waits for
}

func newSession(server *Server, conn net.Conn) *session {
	s := &session{server: server, log: server.cfg.Logger, client: conn, gone: make(chan struct{})}
	s.tx = 'I'
	s.reader.init()
	s.live.wakes = make(chan struct{}, 1)
	return s
}

// serve runs the session from its first byte to its last.
func (s *session) serve(ctx context.Context) error {
	defer s.server.remove(s)
	if err := s.login(ctx); err != nil || s.upstream == nil {
		s.logRefused(ctx, err)
		return err
	}
	return s.run(ctx)
}

// logRefused logs why a login came to nothing, with the client's address, which the upstream's own log does not have. Who went away, or
// spoke no protocol, is not worth a line: anybody can make any number of those.
func (s *session) logRefused(ctx context.Context, err error) {
	var told *Error
	var unverified *tls.CertificateVerificationError
	if !errors.As(err, &told) && !errors.As(err, &unverified) {
		return
	}
	log := s.log
	if s.number == 0 { // not described
		log = log.With(slog.String("client", clientName(s.client.RemoteAddr())))
	}
	log.InfoContext(ctx, "login refused", slog.Any("reason", err))
}

// login takes the session to its first ReadyForQuery, unless it was for a cancel request only.
func (s *session) login(work context.Context) error {
	ctx, leave := s.server.arrive(work, s)
	defer leave()
	if err := s.client.SetDeadline(time.Now().Add(s.server.limits().StartupTimeout)); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	raw := s.client
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	packet, err := s.startup(ctx)
	switch {
	case err != nil:
	case binary.BigEndian.Uint32(packet[4:]) == codeCancel:
		stop()
		return s.server.cancel(ctx, work, packet)
	default:
		err = s.enter(ctx, packet)
	}
	if !stop() {
		return s.sentAway(context.Cause(ctx))
	}
	return err
}

// enter makes a session of a connection that has sent its StartupMessage.
func (s *session) enter(ctx context.Context, packet []byte) error {
	if !s.server.add(s) {
		return s.refuse(errTooManySessions)
	}
	return s.connect(ctx, packet)
}

func (s *session) connect(ctx context.Context, packet []byte) error {
	s.describe(packet)
	if err := s.admit(ctx); err != nil {
		return err
	}
	var err error
	if s.upstream, s.place, err = s.server.dial(ctx); err != nil {
		s.log.WarnContext(ctx, "upstream not reached", slog.Any("error", err))
		return s.refuse(unreachable())
	}
	upstream := s.upstream
	if err := upstream.SetDeadline(time.Now().Add(s.server.limits().StartupTimeout)); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = upstream.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := s.upstream.Write(packet); err != nil {
		return s.loginEnded(ctx, fmt.Errorf("write to upstream: %w", errors.Join(errUpstreamGone, err)))
	}
	s.params = map[string]string{}
	s.statements = map[string]candidates{}
	s.reader.settings = s.withOwn(settings{}, planner.Own{}) // until they are read
	if err := s.authenticate(ctx); err != nil {
		return s.loginEnded(ctx, err)
	}
	if err := errors.Join(s.client.SetDeadline(time.Time{}), s.upstream.SetDeadline(time.Time{})); err != nil {
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
	s.running, s.changed = true, time.Now()
	s.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { s.terminate(errShutdown) })
	defer stop()
	var pump sync.WaitGroup
	var err error
	if s.looped != nil {
		err = s.readLooped(work)
	} else {
		pump.Go(func() { s.endPump(s.pump()) })
		err = s.read(work)
	}
	var own *Error
	switch {
	case errors.As(err, &own) && own.Fatal:
		s.terminate(own)
	case errors.Is(err, io.EOF):
		s.awaitEnd()
	}
	s.closeUpstream()
	pump.Wait()
	<-s.gone
	s.tellLost()
	s.endListening()
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		err = nil
		if s.pumpErr != nil && !errors.Is(s.pumpErr, io.EOF) && !errors.Is(s.pumpErr, net.ErrClosed) {
			err = s.pumpErr
		}
	}
	return err
}

// awaitEnd tells the upstream that the client has no more to say, and returns when all that it answers to what came before is with the client,
// who may have ended its own direction only. One that is gone is found out by the first answer, as it is by PostgreSQL.
func (s *session) awaitEnd() {
	half, ok := s.upstream.(interface{ CloseWrite() error })
	if !ok {
		return
	}
	s.mu.Lock()
	s.announced = true
	s.mu.Unlock()
	if half.CloseWrite() == nil {
		<-s.gone
	}
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
func (s *session) idle() bool { return s.idleSince(time.Now()) }

// idleSince reports whether the session is idle since that time or longer, and its client has all that was answered: a slow one may still
// be taking it.
func (s *session) idleSince(at time.Time) bool {
	if !s.out.TryLock() {
		return false // something is written this moment
	}
	defer s.out.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.quietNow() && len(s.unsent) == 0 && !s.changed.After(at)
}

// quietNow is idle for who holds mu.
func (s *session) quietNow() bool {
	return s.running && s.waiting == 0 && !s.opened && !s.unended && s.tx == 'I' && s.holdEnd == nil
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
// client is gone, which the session's reader finds out as well. Nothing comes behind a FATAL of the upstream's: a client shows what it
// was told last, which would be the progress of a hold.
func (s *session) inject(message []byte) error {
	s.out.Lock()
	defer s.out.Unlock()
	s.mu.Lock()
	over := s.fatal
	s.mu.Unlock()
	if over {
		return nil
	}
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

// cstring cuts the text up to its zero byte, and returns what follows.
func cstring(data []byte) (text, rest []byte, ok bool) {
	return bytes.Cut(data, []byte{0})
}
