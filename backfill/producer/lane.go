package producer

import (
	"context"
	"slices"
	"sync"

	"barkeep/backfill/source"
	"barkeep/internal/actor"
)

// lane is the way to one source: places for requests in flight, of which bulk may take half, and a breaker.
//
// A free place goes to the slot of a user's job that has had the fewest requests, so that a job of one page does not stand
// behind the pages of others who want years; of equal ones to who came first. When bulk has seen patience requests of users
// pass it, the next place is its own.
type lane struct {
	source  source.Source
	active  chan struct{} // one token per job that fetches
	breaker *breaker

	mu     sync.Mutex
	free   int       // guarded by mu
	bulk   int       // what bulk may still take, guarded by mu
	queue  []*ticket // guarded by mu, in the order of arrival
	passed int       // users' requests since bulk last had a place while it waits, guarded by mu
}

// patience is how many requests of users bulk lets pass.
const patience = 8

// ticket is a request that waits for a place. bulk is set before granted is closed.
type ticket struct {
	slot    *slot
	granted chan struct{}
	bulk    bool
}

func newLane(s source.Source, places, jobs int, actors *actor.Registry) *lane {
	return &lane{
		source: s, active: make(chan struct{}, jobs), breaker: newBreaker(actors, s.Name()), free: places, bulk: max(1, places/2),
	}
}

// enter waits for a place.
func (l *lane) enter(ctx context.Context, s *slot) (leave func(), err error) {
	t := &ticket{slot: s, granted: make(chan struct{})}
	l.mu.Lock()
	l.queue = append(l.queue, t)
	l.grantLocked()
	l.mu.Unlock()
	if s.inLine != nil {
		s.inLine()
	}
	raised := s.raised
	for {
		select {
		case <-t.granted:
			return func() { l.leave(t) }, nil
		case <-raised:
			raised = nil
			l.mu.Lock()
			l.grantLocked()
			l.mu.Unlock()
		case <-ctx.Done():
			l.mu.Lock()
			waiting := slices.Contains(l.queue, t)
			l.queue = slices.DeleteFunc(l.queue, func(o *ticket) bool { return o == t })
			l.mu.Unlock()
			if !waiting {
				l.leave(t)
			}
			return nil, context.Cause(ctx)
		}
	}
}

func (l *lane) leave(t *ticket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.free++
	if t.bulk {
		l.bulk++
	}
	l.grantLocked()
}

// grantLocked gives the free places away; l.mu is held.
func (l *lane) grantLocked() {
	for l.free > 0 {
		i, urgent := l.nextLocked()
		if i < 0 {
			return
		}
		t := l.queue[i]
		l.queue = slices.Delete(l.queue, i, i+1)
		l.free--
		if !urgent {
			t.bulk = true
			l.bulk--
		}
		for _, r := range t.slot.wanted() {
			r.requests.Add(1)
		}
		close(t.granted)
	}
}

// nextLocked returns who is to have the next place, and whether that is a user, or a negative index; l.mu is held.
func (l *lane) nextLocked() (next int, urgent bool) {
	user, bulk := -1, -1
	var least int64
	for i, t := range l.queue {
		if !t.slot.urgent() {
			if bulk < 0 {
				bulk = i
			}
			continue
		}
		if had := t.slot.requests(); user < 0 || had < least {
			user, least = i, had
		}
	}
	switch {
	case bulk < 0:
		l.passed = 0
		return user, user >= 0
	case user >= 0 && (l.bulk == 0 || l.passed < patience):
		l.passed++
		return user, true
	case l.bulk == 0:
		return -1, false
	}
	l.passed = 0
	return bulk, false
}
