// Package look lets those who ask one question at the same time share its answer, and says how old an answer they may be given.
//
// It is not golang.org/x/sync/singleflight because of two things that matter here. An answer that is shared there may have begun before
// the one who is given it came: rules that were read before a login, definitions that were read before the statement that saw the
// last one made. And the question runs there in the first one's context, or in none: one who goes away takes the others' answer
// along, or is waited for.
package look

import (
	"context"
	"sync"
)

// Shared is a question of which at most one is under way. Its zero value is ready. It is safe for concurrent use.
//
// A question runs in the goroutine and the context of one of those who share its answer. An error is an answer to all of them, but where the
// context of the one who asked has ended: then another one of them asks again.
type Shared[T any] struct {
	mu      sync.Mutex    // guards what follows
	turn    chan struct{} // holds one token; who has taken it asks
	running *round[T]     // what is asked now, or was and has to be asked again; nil: nothing
	next    *round[T]     // of those who came since that began; nil: nobody did
	sharing int
}

// round is a question of those who share its answer.
type round[T any] struct {
	done  chan struct{} // closed after what follows was set
	value T
	err   error
}

// Fresh returns an answer to a question that begins after the call: none of those who came before is given to one who came
// because something may have changed since. It asks at most once, and waits at most for the question that is under way and one
// more. ask is what to ask; those who share an answer must mean the same by it. The error is ask's, or the cause of the end of ctx.
func (s *Shared[T]) Fresh(ctx context.Context, ask func(context.Context) (T, error)) (T, error) {
	s.mu.Lock()
	if s.next == nil {
		s.next = newRound[T]()
	}
	return s.join(ctx, s.next, ask)
}

// Latest is Fresh for one who also takes the answer to a question that has begun before the call, and has not ended. It waits for
// that only.
func (s *Shared[T]) Latest(ctx context.Context, ask func(context.Context) (T, error)) (T, error) {
	s.mu.Lock()
	mine := s.running
	if mine == nil {
		if s.next == nil {
			s.next = newRound[T]()
		}
		mine = s.next
	}
	return s.join(ctx, mine, ask)
}

// Sharing returns how many are asking or waiting now.
func (s *Shared[T]) Sharing() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sharing
}

func newRound[T any]() *round[T] { return &round[T]{done: make(chan struct{})} }

// join waits for the answer of a round, or asks where nobody does. It is called with mu locked, and unlocks it.
func (s *Shared[T]) join(ctx context.Context, mine *round[T], ask func(context.Context) (T, error)) (T, error) {
	if s.turn == nil {
		s.turn = make(chan struct{}, 1)
		s.turn <- struct{}{}
	}
	turn := s.turn
	s.sharing++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.sharing--
	}()
	select {
	case <-mine.done:
	case <-turn:
		defer func() { turn <- struct{}{} }()
		if s.begin(mine) {
			value, err := ask(ctx)
			if err != nil && ctx.Err() != nil {
				return value, err // of our own end; the others have their own turn
			}
			s.end(mine, value, err)
		}
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
	return mine.value, mine.err
}

// begin reports whether a round has to be asked for, by the one who has the turn: it may have been answered while both of what was
// waited for came true.
func (s *Shared[T]) begin(mine *round[T]) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-mine.done:
		return false
	default:
	}
	if s.next == mine {
		s.next = nil // who comes from here on has come too late for it
	}
	s.running = mine
	return true
}

func (s *Shared[T]) end(mine *round[T], value T, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = nil
	mine.value, mine.err = value, err
	close(mine.done)
}
