package proxy

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgproto3"
)

// exchange sends the proxy's own messages and a Sync, and returns the replies, of which the client sees nothing.
func (s *session) exchange(ctx context.Context, messages []byte) (*exchange, error) {
	own := &exchange{done: make(chan struct{})}
	s.mu.Lock()
	s.push(entry{kind: kindOwn, own: own})
	s.mu.Unlock()
	if _, err := s.upstream.Write(append(messages, encode(&pgproto3.Sync{})...)); err != nil {
		return nil, fmt.Errorf("write to upstream: %w", err)
	}
	select {
	case <-own.done:
		return own, nil
	case <-s.gone:
		return nil, errUpstreamGone
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// quiesce returns when nothing is outstanding upstream. A segment that is open there without a Bind is closed by a Sync
// of the proxy's own; it reports false for one with a Bind, which a Sync might commit. It returns errSegmentFailed for one
// that has failed there.
func (s *session) quiesce(ctx context.Context) (bool, error) {
	r := &s.reader
	if r.open {
		s.mu.Lock()
		erred := s.erred
		s.mu.Unlock()
		switch {
		case erred:
			return false, errSegmentFailed
		case r.usedUp:
			return false, nil
		}
		own, err := s.exchange(ctx, nil)
		if err != nil {
			return false, err
		}
		r.open = false
		if own.behind {
			return false, errSegmentFailed
		}
	}
	for {
		s.mu.Lock()
		if s.waiting == 0 {
			s.mu.Unlock()
			return true, nil
		}
		if s.calm == nil {
			s.calm = make(chan struct{})
		}
		calm := s.calm
		s.mu.Unlock()
		select {
		case <-calm:
		case <-s.gone:
			return false, errUpstreamGone
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}

// failMark is a name that no statement has; the upstream's error about it mentions it.
const failMark = "barkeep/failed"

// fail answers the segment, or the Query, with an error in its place. The end is the message at scan that ended it: Q, S
// or H, or 0 for none; it is consumed.
func (s *session) fail(ctx context.Context, failure error, end byte, size int) error {
	r := &s.reader
	if ctx.Err() != nil || errors.Is(failure, errClientGone) {
		return failure
	}
	if errors.Is(failure, errSegmentFailed) {
		return s.dropRest(end, size)
	}
	var raw []byte
	if refused, ok := failure.(*refusal); ok { //nolint:errorlint // made by gate itself, never wrapped
		raw = refused.message
	} else {
		public := publicError(ctx, s.log, failure)
		if public.Fatal {
			return failure
		}
		raw = public.encode()
	}
	s.server.cfg.Metrics.outcome("failed")
	r.dropHeld(size)
	r.skipping = end == 'H' || end == 0
	ends := !r.skipping
	if ends {
		r.inSegment, r.used, r.segmentEffects = false, false, false
	}
	s.mu.Lock()
	tx := s.tx
	local := s.waiting == 0 && !r.open && tx != 'T'
	s.mu.Unlock()
	checked := r.checked
	r.checked = false
	if local {
		if tx == 'E' && !checked { // since gate looked: by what was outstanding then
			raw = errBlockFailed.encode()
		}
		if ends {
			raw = append(raw, encode(&pgproto3.ReadyForQuery{TxStatus: tx})...)
		}
		_ = s.inject(raw)
		return nil
	}
	return s.failUpstream(raw, ends)
}

// dropHeld forgets the segment or the Query that is held, and the message of that size that ended it.
func (r *reader) dropHeld(size int) {
	r.scan += size
	r.start, r.segment = r.scan, r.scan
	clear(r.pending)
	r.pending, r.units, r.gated = r.pending[:0], nil, false
}

// dropRest drops what PostgreSQL would drop: the rest of a segment whose error the client has got already.
func (s *session) dropRest(end byte, size int) error {
	r := &s.reader
	r.dropHeld(size)
	r.skipping = end != 'S'
	if r.skipping {
		return nil
	}
	r.inSegment, r.used, r.segmentEffects, r.open, r.usedUp = false, false, false, false, false
	s.mu.Lock()
	s.push(entry{kind: kindSync})
	s.mu.Unlock()
	if _, err := s.upstream.Write(encode(&pgproto3.Sync{})); err != nil {
		return fmt.Errorf("write to upstream: %w", err)
	}
	return nil
}

// failUpstream makes the upstream fail at this place too, and puts the error in the place of its own.
func (s *session) failUpstream(raw []byte, ends bool) error {
	r := &s.reader
	out := encode(&pgproto3.Bind{PreparedStatement: failMark})
	s.mu.Lock()
	s.failures = append(s.failures, raw)
	if ends {
		s.push(entry{kind: kindSync, clears: true})
	}
	s.mu.Unlock()
	if ends {
		out = append(out, encode(&pgproto3.Sync{})...)
		r.open, r.usedUp = false, false
	} else {
		r.open, r.marked = true, true
	}
	if _, err := s.upstream.Write(out); err != nil {
		return fmt.Errorf("write to upstream: %w", err)
	}
	return nil
}
