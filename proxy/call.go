package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"
)

// call deals with FunctionCall, which names a function by its oid. One through which ohlcv may be read is to the planner what
// a SELECT of it is, of arguments that nobody knows.
func (s *session) call(ctx context.Context, body []byte, size int) error {
	r := &s.reader
	units := s.calls(body)
	for i := range units {
		units[i].revived = r.revives && r.inSegment
	}
	if r.gated || len(units) > 0 {
		if done, err := s.gateCall(ctx, units, size); done || err != nil {
			return err
		}
	}
	if r.inSegment || r.open {
		size = s.markOpen(size)
	}
	call := entry{kind: kindCall}
	if c := s.catalog(); c != nil && len(c.Definers) > 0 {
		call.defines = s.defining(definingCall) // which function it is matters little: calls are rare
		if r.inside.note(definingCall) {
			r.overtake()
		}
	}
	r.pending = append(r.pending, call)
	r.snapshot, r.dirty = true, true
	r.scan += size
	r.open, r.usedUp = false, false
	r.leaveSegment()
	s.settle()
	return nil
}

// definingCall stands for a call of what may define something.
var definingCall = &statement{scan: scan{definer: true, conceals: true}}

// calls returns what has to be planned, or held, before the call goes upstream.
func (s *session) calls(body []byte) []unit {
	if c := s.catalog(); c != nil && len(body) >= 4 {
		if name, in := c.Calls[binary.BigEndian.Uint32(body)]; in {
			const most = 64 // arguments that the planner tells apart
			text := "select " + pgx.Identifier{name}.Sanitize() + "(" + strings.Repeat("lower(''), ", most-1) + "lower(''))"
			return []unit{{stmt: s.classify([]byte(text), nil)}}
		}
	}
	if s.forces() {
		return []unit{{stmt: closedStatement, forced: true}}
	}
	return nil
}

// gateCall reports whether the call has been answered. What is held of the segment before it goes first: no Sync need follow a call.
func (s *session) gateCall(ctx context.Context, units []unit, size int) (done bool, err error) {
	if s.reader.gated {
		if ok, err := s.release(ctx, 0, 0); err != nil {
			return false, err
		} else if !ok {
			return true, s.discard(size)
		}
	}
	s.settle()
	if err := s.forwardPart(ctx); err != nil {
		return false, err
	}
	if len(units) == 0 {
		return false, nil
	}
	switch failure := s.gate(ctx, units); {
	case errors.Is(failure, errWouldWait):
		return false, failure
	case failure != nil:
		return true, s.fail(ctx, failure, 'Q', size)
	}
	return false, nil
}
