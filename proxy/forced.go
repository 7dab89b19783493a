package proxy

import (
	"context"
	"math/rand/v2"
	"time"
)

// What Config.ForceHold does goes the way of a gap: the gate, the hold with its deadlines, cancel requests and notices, and another
// round of planning. So a suite that passes with it has had all of its statements held. What it must not do is to refuse, or plan,
// what cannot read ohlcv.

// forces reports whether each statement is held.
func (s *session) forces() bool { return s.server.cfg.ForceHold > 0 }

// pause returns how long the next hold lasts at least: a random time above zero, where each statement is held.
func (s *session) pause() time.Duration {
	if !s.forces() {
		return 0
	}
	return 1 + rand.N(s.server.cfg.ForceHold)
}

// mayRead makes the check the executor would make, where bars are to be fetched.
func (h *hold) mayRead(ctx context.Context, what need) error {
	if h.covered {
		return nil
	}
	return h.session.mayRead(ctx, what)
}

// fill waits as long as is forced, and for what is missing.
func (h *hold) fill(ctx context.Context, request Request) (warnings []string, err error) {
	if d := h.forced; d > 0 {
		h.forced = 0
		if wait(ctx, d) != nil {
			return nil, context.Cause(ctx)
		}
		if h.covered {
			return nil, nil
		}
	}
	return h.session.server.cfg.Coordinator.Ensure(ctx, request, h.note)
}
