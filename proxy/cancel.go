package proxy

import (
	"context"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// A cancel request names a session, not a statement: PostgreSQL ends what the session does when it deals with the request. So
// that no request ends what the client sends after it, nothing goes upstream for a session from the moment on that a
// request for it is passed on, until the upstream has closed the request's connection: then the signal has been sent, and a
// session that is not busy has ignored it (PROTOCOL 4). What counts as sent before is decided under the session's mu.

const (
	// cancelPatience bounds how long a request may take upstream. After it the request is taken for lost, and the session goes on.
	cancelPatience = 10 * time.Second
	// maxCancels bounds the requests that are on their way upstream; others wait for their turn.
	maxCancels = 64
	// keyAt is where the key of a CancelRequest begins; it is at most maxKey long (protocol 3.2).
	keyAt, maxKey = 12, 256
)

var errCancelLost = errors.New("the database does not deal with the cancel request")

// cancel ends the hold of the session that the key names, or passes the request on. It returns when the upstream has
// dealt with it, so that the client's connection closes no earlier. ctx ends where the connection has to give way (arrival) and
// the request does not go upstream yet; what does ends with work alone, or it could come late.
func (s *Server) cancel(ctx, work context.Context, packet []byte) error {
	if len(packet) < keyAt+4 || len(packet) > keyAt+maxKey {
		return fmt.Errorf("cancel request of %d bytes", len(packet))
	}
	ctx, giveUp := context.WithTimeoutCause(ctx, s.patience, errCancelLost)
	defer giveUp()
	target := s.find(binary.BigEndian.Uint32(packet[8:]), packet[keyAt:])
	switch {
	case target != nil:
		return s.cancelAt(ctx, work, target, packet)
	case s.elsewhere(ctx, packet):
		return nil
	}
	return s.passCancel(ctx, work, s.whereabouts.place.Load(), packet)
}

// cancelAt deals with a request for a session of this server.
func (s *Server) cancelAt(ctx, work context.Context, target *session, packet []byte) error {
	end, err := target.takeCancel(ctx)
	if err != nil || end == nil {
		return err
	}
	defer end()
	return s.passCancel(ctx, work, target.place, packet)
}

// passCancel hands a cancel request to the upstream at a place, and returns when that has dealt with it.
func (s *Server) passCancel(ctx, work context.Context, place *Place, packet []byte) error {
	ctx, stopWaiting := context.WithTimeoutCause(ctx, s.patience, errCancelLost)
	defer stopWaiting()
	select {
	case s.cancels <- struct{}{}:
		defer func() { <-s.cancels }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	deadline, _ := ctx.Deadline()
	ctx, giveUp := context.WithDeadlineCause(work, deadline, errCancelLost)
	defer giveUp()
	conn, err := s.dialAt(ctx, place)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // nothing is left to be lost
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := conn.Write(packet); err != nil {
		return fmt.Errorf("pass cancel request on: %w", err)
	}
	_, _ = conn.Read(make([]byte, 1)) // the server closes when it is done
	if ctx.Err() != nil {
		s.cfg.Logger.WarnContext(ctx, "cancel request not dealt with", slog.Any("error", context.Cause(ctx)))
		return context.Cause(ctx)
	}
	return nil
}

func (s *Server) find(pid uint32, secret []byte) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, each := range s.keys[pid] {
		if subtle.ConstantTimeCompare(each.secret, secret) == 1 {
			return each
		}
	}
	return nil
}

// EndBlockingHold ends the hold of the session whose upstream has this process id with 55P03, where it has one: its locks
// keep the bars from being stored that it waits for (PIPELINE 23).
func (s *Server) EndBlockingHold(pid uint32) {
	s.mu.Lock()
	sessions := slices.Clone(s.keys[pid])
	s.mu.Unlock()
	for _, each := range sessions {
		if each.endHold(errBlocksIngest) {
			s.cfg.Logger.Warn("hold ended: its session blocks ingest", slog.Int64("pid", int64(pid)))
		}
	}
}

// cancelStatement deals with a cancel request as far as that is the proxy's. It ends what waits, or is looked at, before it
// goes upstream; it ignores a request for a session that does nothing. Otherwise the request is the upstream's: it works on what was
// sent before. Then end is to be called when the upstream has dealt with it, and nothing is sent until then; or, where a statement is on
// its way from its hold, the request is to be dealt with anew when again is closed.
func (s *session) cancelStatement() (end func(), again <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.holdEnd != nil && s.waiting <= s.owned:
		s.holdEnd(errCanceled)
		return nil, nil
	case s.released != nil:
		return nil, s.released
	case s.planned && s.waiting == 0 && !s.copying && !s.opened && !s.unended:
		return nil, nil
	}
	if s.canceling == 0 {
		s.canceled = make(chan struct{})
	}
	s.canceling++
	return s.endCancel, nil
}

// takeCancel is cancelStatement that waits for what is on its way. A nil end says that nothing is left to do.
func (s *session) takeCancel(ctx context.Context) (end func(), err error) {
	for {
		end, again := s.cancelStatement()
		if again == nil {
			return end, nil
		}
		select {
		case <-again:
		case <-s.gone:
			return nil, errUpstreamGone
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (s *session) endCancel() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.canceling--
	if s.canceling == 0 {
		close(s.canceled)
	}
}

// awaitCancel returns when no cancel request is on its way upstream, with mu locked. Where that may not be waited for it returns
// errWouldWait, and mu is not locked.
func (s *session) awaitCancel() error {
	for {
		s.mu.Lock()
		if s.canceling == 0 {
			return nil
		}
		canceled := s.canceled
		s.mu.Unlock()
		if s.reader.trying {
			return errWouldWait
		}
		select { // within cancelPatience
		case <-canceled:
		case <-s.gone:
			return errUpstreamGone
		}
	}
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

// sent notes that what was released from its hold is upstream.
func (s *session) sent() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.released)
	s.released = nil
}
