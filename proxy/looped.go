package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"

	"barkeep/internal/netloop"
)

// maxLooped is the longest message that is looked at in a loop's callback: what takes long to parse goes elsewhere.
const maxLooped = 16 << 10

// errWouldWait says that a loop's callback cannot go on, and the reader's goroutine must.
var errWouldWait = errors.New("would have to wait")

// looped is what a session has whose sockets are watched by an event loop: both directions are relayed in the loop's
// goroutine, and only what has to wait (a hold, settings to be read, an upstream that does not read) is done in the
// session's own. The reader belongs to the loop while the client is watched, and to the session's goroutine from turn to the
// next WatchRead.
//
//	watched ──▶ would wait ──turn──▶ session's goroutine ──WatchRead──▶ watched
//	   │                                    │
//	   └──── end of stream, error ──turn──▶ end
//
// Sessions with TLS have a goroutine for each direction instead: the records are the connection's own affair.
type looped struct {
	client, upstream *netloop.Conn
	buffers          *shelf // the loop's
	away             bool   // the session's goroutine has the reader, or is about to; guarded by the session's mu
	// turn gives the reader to the session's goroutine, with the error that ends the session, or nil. It has room for
	// the one that can be under way.
	turn chan error
}

// eventLoop is a loop with what its callbacks share.
type eventLoop struct {
	*netloop.Loop

	buffers shelf
}

// enterLoop has an event loop watch the session's sockets from now on, where that can be.
func (s *session) enterLoop() {
	loop := s.server.nextLoop()
	if loop == nil || s.clientTLS || s.place.TLS != nil {
		return
	}
	client, err := loop.Take(s.client)
	if err != nil {
		return
	}
	s.client = client
	upstream, err := loop.Take(s.upstream)
	if err != nil {
		return // a mixture works as well, only slower
	}
	s.upstream = upstream
	s.looped = &looped{client: client, upstream: upstream, buffers: &loop.buffers, away: true, turn: make(chan error, 1)}
}

// readLooped returns when the client has no more, or one side is gone.
func (s *session) readLooped(ctx context.Context) error {
	l := s.looped
	l.upstream.Handle(s.upstreamReadable(), nil)
	l.client.Handle(s.clientReadable(ctx), s.clientWritable)
	if err := s.pumpOnce(); err != nil { // what came with the greeting
		return err
	}
	s.out.Lock()
	if len(s.unsent) == 0 {
		l.upstream.WatchRead(true)
	}
	s.out.Unlock()
	s.giveReader()
	for {
		select {
		case err := <-l.turn:
			if err != nil {
				return err
			}
			for given := false; !given; given = s.giveReader() {
				if err := s.advance(ctx); err != nil {
					return err
				}
				if err := s.attend(ctx); err != nil {
					return err
				}
			}
		case <-s.gone:
			return nil
		}
	}
}

// clientReadable takes what the client sends. The function runs in the loop's goroutine.
func (s *session) clientReadable(ctx context.Context) func() {
	r, l := &s.reader, s.looped
	return func() {
		r.room(l.buffers)
		n, err := l.client.TryRead(r.buf[r.end:])
		r.end += n
		if n == 0 && err == nil {
			r.rest(l.buffers)
			return
		}
		if err != nil {
			err = fmt.Errorf("read from client: %w", err)
		} else {
			r.trying = true
			if err = s.advance(ctx); err == nil {
				err = s.payOwed()
			}
			r.trying = false
			if err == nil {
				r.rest(l.buffers)
				return
			}
			if errors.Is(err, errWouldWait) {
				err = nil
			}
		}
		s.mu.Lock()
		l.take(err)
		s.mu.Unlock()
	}
}

// giveReader gives the reader to the loop, unless there is something left to do.
func (s *session) giveReader() bool {
	s.reader.rest(nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live.due.Load() {
		return false
	}
	s.looped.away = false
	s.looped.client.WatchRead(true)
	return true
}

// upstreamReadable copies what the upstream sends. The function runs in the loop's goroutine.
func (s *session) upstreamReadable() func() {
	l := s.looped
	return func() {
		s.roomUpstream(l.buffers)
		n, err := l.upstream.TryRead(s.upBuf[s.have:])
		s.have += n
		if err != nil {
			s.endPump(fmt.Errorf("read from upstream: %w", err))
			return
		}
		s.out.Lock()
		out, err := s.pass(l.upstream.Woken())
		if err == nil && len(out) > 0 {
			err = s.sendLooped(out)
		}
		s.restUpstream(l.buffers)
		s.out.Unlock()
		if err != nil {
			s.endPump(err)
		}
	}
}

// sendLooped writes to the client what its socket has room for. The rest waits in unsent, and the upstream is not read
// until it is gone: a slow client makes no memory grow. The caller holds out.
func (s *session) sendLooped(b []byte) error {
	l := s.looped
	if len(s.unsent) > 0 {
		s.unsent = append(slices.Clip(s.unsent), b...)
		return nil
	}
	n, err := l.client.TryWrite(b)
	if err != nil {
		return fmt.Errorf("write to client: %w", err)
	}
	if n < len(b) {
		s.unsent = b[n:]
		l.upstream.WatchRead(false)
		l.client.WatchWrite(true)
	}
	return nil
}

// clientWritable goes on with unsent. It runs in the loop's goroutine.
func (s *session) clientWritable() {
	s.out.Lock()
	n, err := s.looped.client.TryWrite(s.unsent)
	s.unsent = s.unsent[n:]
	if err == nil && len(s.unsent) == 0 {
		s.unsent = nil
		s.restUpstream(s.looped.buffers)
		s.looped.client.WatchWrite(false)
		s.looped.upstream.WatchRead(true)
		s.wakeNotifying()
	}
	s.out.Unlock()
	if err != nil {
		s.endPump(fmt.Errorf("write to client: %w", err))
	}
}

// mayAsk reports whether the catalog may have to ask the database what it contains.
func (s *session) mayAsk() bool {
	c := s.server.asked.suspected
	return c != nil && c.Suspected()
}

// startLoops starts the event loops, one for two goroutines that may run at one time (runtime.GOMAXPROCS): one that is busy keeps its
// place while it waits, and half of them are for all else. It returns what ends them. Where there are no loops for this system,
// sessions do without.
func (s *Server) startLoops(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	for range max(1, runtime.GOMAXPROCS(0)/2) {
		loop, err := netloop.New()
		if err != nil {
			if !errors.Is(err, errors.ErrUnsupported) {
				s.cfg.Logger.WarnContext(ctx, "no event loop; each session takes two goroutines", slog.Any("error", err))
			}
			break
		}
		s.loops = append(s.loops, &eventLoop{Loop: loop})
		running.Go(func() {
			if err := loop.Run(ctx); err != nil {
				s.cfg.Logger.ErrorContext(ctx, "event loop ended", slog.Any("error", err))
			}
		})
	}
	return func() {
		cancel()
		running.Wait()
		for _, loop := range s.loops {
			if err := loop.Close(); err != nil {
				s.cfg.Logger.WarnContext(ctx, "close event loop", slog.Any("error", err))
			}
		}
	}
}

// nextLoop returns the loops in turn, nil if there is none.
func (s *Server) nextLoop() *eventLoop {
	if len(s.loops) == 0 {
		return nil
	}
	return s.loops[s.turn.Add(1)%uint64(len(s.loops))]
}
