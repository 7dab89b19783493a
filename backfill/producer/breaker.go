package producer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"barkeep/internal/actor"
)

// breaker keeps a source that has failed for good from being asked for a while (PIPELINE 18).
//
//	closed ──trip──▶ open ──its time is over──▶ half open ──the probe succeeds──▶ closed
//	                  ▲                             │
//	                  └────────the probe fails──────┘
//
// While it is open everybody fails at once. Then the first who comes is the probe: one request, without retries; the others
// wait for what comes of it, as long as a request may take. A probe that ends without an answer, as its job does, leaves its
// place to the next. It is safe for concurrent use.
type breaker struct {
	machine *actor.Machine

	mu      sync.Mutex
	state   actor.State   // guarded by mu: Closed, Open or HalfOpen
	probing bool          // guarded by mu; a probe is under way, which is so in HalfOpen alone
	until   time.Time     // guarded by mu; when Open ends
	cause   error         // guarded by mu; why it is open
	trips   int64         // guarded by mu
	changed chan struct{} // guarded by mu; closed and replaced at each change
}

// errShut is what a request is told that was admitted before the breaker opened and had not been sent by then.
var errShut = errors.New("the breaker has opened meanwhile")

func newBreaker(registry *actor.Registry, source string) *breaker {
	return &breaker{machine: registry.New(actor.Breaker(), source), state: actor.Closed, changed: make(chan struct{})}
}

// toLocked changes the state and wakes who waits for that; b.mu is held.
func (b *breaker) toLocked(state actor.State) {
	b.state = state
	b.machine.To(state)
	close(b.changed)
	b.changed = make(chan struct{})
}

// admit returns when a request may be made, and whether it is the probe: then conclude has to be called with what came of it.
// While the breaker is open it returns the error that those get who would have asked.
func (b *breaker) admit(ctx context.Context, now func() time.Time) (probe bool, err error) {
	for {
		probe, changed, err := b.tryAdmit(now())
		if changed == nil {
			return probe, err
		}
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-changed:
		}
	}
}

// tryAdmit does what admit does, or returns what is closed when there is something new, where a probe is under way.
func (b *breaker) tryAdmit(now time.Time) (probe bool, changed <-chan struct{}, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.state == actor.Closed:
		return false, nil, nil
	case b.state == actor.Open && now.Before(b.until):
		return false, nil, b.errorLocked()
	case b.probing:
		return false, b.changed, nil
	}
	b.probing = true
	if b.state == actor.Open {
		b.toLocked(actor.HalfOpen)
	}
	return true, nil, nil
}

// shut reports whether a request that is not the probe has to wait.
func (b *breaker) shut() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state != actor.Closed
}

// conclude ends the probe: well closes the breaker; else the next who comes is the probe.
func (b *breaker) conclude(well bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.probing {
		return
	}
	b.probing = false
	if well {
		b.cause = nil
		b.toLocked(actor.Closed)
		return
	}
	b.toLocked(actor.HalfOpen)
}

// trip opens the breaker: who waits to ask again fails at once. It returns the error that those get. A request that fails when it
// is open already makes it open for longer, never for shorter; it does not end another's probe.
func (b *breaker) trip(until time.Time, cause error, probe bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.state == actor.HalfOpen && !probe:
		return cause
	case b.state == actor.Open:
		if until.After(b.until) {
			b.until, b.cause = until, cause
		}
		return b.errorLocked()
	}
	b.probing = false
	b.until, b.cause = until, cause
	b.trips++
	b.toLocked(actor.Open)
	return b.errorLocked()
}

func (b *breaker) errorLocked() error {
	return fmt.Errorf("%w; it is asked again after %s", b.cause, b.until.UTC().Format(time.RFC3339))
}

// rest waits for d, or until the breaker is not closed any more. It reports false when ctx ended.
func (b *breaker) rest(ctx context.Context, d time.Duration) bool {
	b.mu.Lock()
	changed, shut := b.changed, b.state != actor.Closed
	b.mu.Unlock()
	if shut {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-changed:
	case <-timer.C:
	}
	return true
}

// Breaker is where the breaker of a source is.
type Breaker struct {
	Source string
	// State is actor.Closed, actor.Open or actor.HalfOpen.
	State actor.State
	// Trips is how often it has opened.
	Trips int64
}

// Breakers returns where the breaker of each source is. The caller owns the slice.
func (p *Producer) Breakers() []Breaker {
	list := make([]Breaker, 0, len(p.lanes))
	for name, l := range p.lanes {
		l.breaker.mu.Lock()
		list = append(list, Breaker{Source: name, State: l.breaker.state, Trips: l.breaker.trips})
		l.breaker.mu.Unlock()
	}
	return list
}
