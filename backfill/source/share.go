package source

import (
	"context"
	"math"
	"sync"
	"time"
)

// Ledger is where all processes that ask a source with one key keep what its limit leaves to them (PIPELINE 18).
type Ledger interface {
	// Lease takes up to want requests out of it, at least one, and returns how many it was given. Where that is none, wait is how
	// long there is none at least.
	Lease(ctx context.Context, want int) (granted int, wait time.Duration, err error)
	// Pause has it grant nothing for d from now; it never shortens a pause. An error is for the ledger itself to tell of.
	Pause(ctx context.Context, d time.Duration) error
}

const (
	// leased bounds how long requests that were taken out of the ledger may be used: a process that goes away, or has nothing to ask
	// any more, takes no more of the limit along than that.
	leased = time.Second
	// remembered is over how long a process looks back for the share that it had.
	remembered = 10 * time.Second
	// leastShare is the part of the limit that a process goes on with whose share is not known or smaller, while the ledger
	// cannot be reached.
	leastShare = 0.1
	// leaseWithin bounds a question to the ledger.
	leaseWithin = time.Second
	// leastWait is after what time an empty ledger is asked again at the earliest: it may be short of one request by less than a
	// nanosecond's worth, and would be asked without end meanwhile.
	leastWait = time.Millisecond
	// pauseWithin bounds how long the ledger is told of a pause.
	pauseWithin = 5 * time.Second
)

// share is this process's part of a limit that holds for several. Requests are taken out of the ledger in blocks when somebody wants
// to ask, by one of those who wait. Where the ledger cannot be reached, the process goes on with half of the share that it had
// last. Its invariant: no more requests are let go than the ledger granted in the last second, but while it cannot be reached.
type share struct {
	ledger Ledger
	rate   float64 // requests a second of all processes

	mu      sync.Mutex
	left    int           // requests of the block; guarded by mu, as all that follows
	until   time.Time     // when they lapse
	users   int           // that wait
	waiting int           // users and bulk
	leasing bool          // one of those who wait asks the ledger
	changed chan struct{} // closed when one of these has changed
	none    time.Time     // until when the ledger has none
	grants  []grant       // of the time remembered
}

type grant struct {
	at time.Time
	n  int
}

func newShare(ledger Ledger, perSecond float64) *share {
	return &share{ledger: ledger, rate: perSecond, changed: make(chan struct{})}
}

// take returns when one request may be sent. Bulk takes none while users wait. It returns errRaised when raised or patience say that
// it is a user's now, and the context's cause where that ends.
func (s *share) take(ctx context.Context, p Priority, raised <-chan struct{}, patience <-chan time.Time) error {
	s.count(p, 1)
	defer s.count(p, -1)
	for {
		s.mu.Lock()
		ready := s.left > 0 && time.Now().Before(s.until)
		switch changed := s.changed; {
		case ready && (p >= User || s.users == 0):
			s.left--
			s.mu.Unlock()
			return ctx.Err()
		case ready || s.leasing:
			s.mu.Unlock()
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-raised:
				return errRaised
			case <-patience:
				return errRaised
			case <-changed:
			}
		default:
			s.leasing = true
			want := s.wantLocked()
			s.mu.Unlock()
			if err := s.lease(ctx, want, raised); err != nil {
				return err
			}
		}
	}
}

// count counts those that wait.
func (s *share) count(p Priority, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting += n
	if p >= User {
		s.users += n
	}
	s.changeLocked()
}

func (s *share) changeLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// wantLocked is what a block has: enough for those who wait, and a tenth of a second of the limit, at most a second of it.
func (s *share) wantLocked() int {
	want := max(float64(s.waiting), math.Ceil(s.rate/10))
	return max(1, int(min(want, s.rate*leased.Seconds())))
}

// lease takes a block out of the ledger, for all who wait. Where there is none it comes back when there may be one.
func (s *share) lease(ctx context.Context, want int, raised <-chan struct{}) error {
	bounded, cancel := context.WithTimeout(ctx, leaseWithin)
	defer cancel()
	granted, wait, err := s.ledger.Lease(bounded, want)
	switch {
	case err == nil:
		if granted == 0 {
			wait = max(wait, leastWait)
		}
		s.note(granted, wait)
	case ctx.Err() == nil:
		granted, wait = 1, s.alone()
	}
	err = context.Cause(ctx)
	if wait > 0 && err == nil {
		err = sleep(ctx, wait, raised)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leasing = false
	if granted > 0 && (wait == 0 || err == nil) {
		if !time.Now().Before(s.until) {
			s.left = 0
		}
		s.left += granted
		s.until = time.Now().Add(leased)
	}
	s.changeLocked()
	return err
}

// note remembers what the ledger said.
func (s *share) note(granted int, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if granted == 0 {
		s.none = now.Add(wait)
		return
	}
	s.grants = append(s.grants, grant{now, granted})
	for len(s.grants) > 0 && now.Sub(s.grants[0].at) > remembered {
		s.grants = s.grants[1:]
	}
}

// pause tells the ledger that the vendor wants to be left alone. What is left of the block lapses in this process by Limiter's own pause.
func (s *share) pause(ctx context.Context, d time.Duration) {
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), pauseWithin)
	defer cancel()
	_ = s.ledger.Pause(bounded, d) // it holds here all the same, and the ledger has told of it
}

// alone returns how far requests are apart while the ledger cannot be reached: by half of the last share (PIPELINE 18), as long as
// it cannot, and not before the time until which it had none, which may be a pause.
func (s *share) alone() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	granted := 0
	for _, g := range s.grants {
		granted += g.n
	}
	last := min(max(float64(granted)/remembered.Seconds(), s.rate*leastShare), s.rate)
	return max(time.Duration(float64(time.Second)*2/last), time.Until(s.none))
}

// earliest is how long a request that came now would wait at least.
func (s *share) earliest() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left > 0 && time.Now().Before(s.until) {
		return 0
	}
	return max(time.Until(s.none), 0)
}
