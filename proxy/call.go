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
	if len(body) >= 4 {
		if c := s.catalog(); c != nil {
			if name, in := c.Calls[binary.BigEndian.Uint32(body)]; in {
				if done, err := s.gateCall(ctx, name, size); done || err != nil {
					return err
				}
			}
		}
	}
	if r.inSegment || r.open {
		size = s.markOpen(size)
	}
	r.pending = append(r.pending, entry{kind: kindCall})
	r.snapshot, r.dirty = true, true
	r.scan += size
	return nil
}

// gateCall reports whether the call has been answered.
func (s *session) gateCall(ctx context.Context, name string, size int) (done bool, err error) {
	if s.reader.gated {
		if ok, err := s.release(ctx, 0, 0); err != nil {
			return false, err
		} else if !ok {
			return true, s.discard(size)
		}
	}
	const most = 64 // arguments that the planner tells apart
	text := "select " + pgx.Identifier{name}.Sanitize() + "(" + strings.Repeat("lower(''), ", most-1) + "lower(''))"
	s.settle()
	if err := s.forward(); err != nil {
		return false, err
	}
	switch failure := s.gate(ctx, []unit{{stmt: s.classify(text, nil)}}); {
	case errors.Is(failure, errWouldWait):
		return false, failure
	case failure != nil:
		return true, s.fail(ctx, failure, 'Q', size)
	}
	return false, nil
}
