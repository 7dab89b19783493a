package source

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Limiter is the rate limit of one source and key: a token bucket, users before bulk, and a pause while the vendor wants to be
// left alone; with Share a ledger holds limit and pause across processes. It is safe for concurrent use.
type Limiter struct {
	bucket *rate.Limiter
	name   string
	share  atomic.Pointer[share] // nil where the limit is this process's alone
	now    func() time.Time

	mu sync.Mutex
	// users counts the waiting users, guarded by mu.
	users int
	// idle is closed when users falls to zero, guarded by mu; nil while no bulk request waits for that.
	idle chan struct{}
	// until ends the pause, guarded by mu.
	until time.Time
}

// NewLimiter returns a limiter of perSecond requests and burst at once; a perSecond of zero means no limit.
func NewLimiter(perSecond float64, burst int, now func() time.Time) *Limiter {
	limit := rate.Inf
	if perSecond > 0 {
		limit = rate.Limit(perSecond)
	}
	if now == nil {
		now = time.Now
	}
	return &Limiter{bucket: rate.NewLimiter(limit, max(burst, 1)), now: now}
}

// Rate returns the requests per second and at once.
func (l *Limiter) Rate() (perSecond float64, burst int) {
	return float64(l.bucket.Limit()), l.bucket.Burst()
}

// Name is that of the source, with what tells its key from others: those who ask with one key share a limit. The key is not
// in it.
func (l *Limiter) Name() string { return l.name }

// Share has every request from now on be taken out of the ledger too. It does nothing where there is no limit.
func (l *Limiter) Share(ledger Ledger) {
	if limit := l.bucket.Limit(); limit != rate.Inf {
		l.share.Store(newShare(ledger, float64(limit)))
	}
}

// shared returns when the ledger, if there is one, lets a request go.
func (l *Limiter) shared(ctx context.Context, p Priority, raised <-chan struct{}, patience <-chan time.Time) error {
	if s := l.share.Load(); s != nil {
		return s.take(ctx, p, raised, patience)
	}
	return nil
}

// Pause holds every request back for d from now; it never shortens a pause. With Share it does so in every process, but for requests
// that one has leased already, which lapse within a second; where the ledger cannot be reached, in this process alone. It goes on
// for pauseWithin at most, also when ctx has ended: whoever gives up does not undo what the vendor wants.
func (l *Limiter) Pause(ctx context.Context, d time.Duration) {
	l.mu.Lock()
	if until := l.now().Add(d); until.After(l.until) {
		l.until = until
	}
	l.mu.Unlock()
	if s := l.share.Load(); s != nil {
		s.pause(ctx, d)
	}
}

// Earliest returns how long a user's request that came now would wait at least (PIPELINE 18).
func (l *Limiter) Earliest() time.Duration {
	l.mu.Lock()
	pause := l.until.Sub(l.now())
	l.mu.Unlock()
	if limit := l.bucket.Limit(); limit != rate.Inf {
		if missing := 1 - l.bucket.Tokens(); missing > 0 {
			pause = max(pause, time.Duration(missing/float64(limit)*float64(time.Second)))
		}
	}
	if s := l.share.Load(); s != nil {
		pause = max(pause, s.earliest())
	}
	return max(pause, 0)
}

// bulkPatience is how long a bulk request waits for users: there may always be one.
const bulkPatience = 5 * time.Second

// Wait returns when a request may be sent, or the context's cause. Bulk waits while a user does, for bulkPatience, and becomes a
// user's when the context's WithRaised says so.
func (l *Limiter) Wait(ctx context.Context, p Priority) error {
	if p < User {
		if err := l.waitBulk(ctx, raisedOf(ctx)); !errors.Is(err, errRaised) {
			return err
		}
	}
	l.enter()
	defer l.leave()
	for {
		if err := l.pausedOut(ctx, nil); err != nil {
			return err
		}
		if err := l.bucket.Wait(ctx); err != nil {
			return err
		}
		if err := l.shared(ctx, User, nil, nil); err != nil {
			return err
		}
		if !l.paused() {
			return nil
		}
	}
}

// errRaised ends a wait as bulk, to go on as a user's.
var errRaised = errors.New("the request is a user's now")

func (l *Limiter) waitBulk(ctx context.Context, raised <-chan struct{}) error {
	patience := time.NewTimer(bulkPatience)
	defer patience.Stop()
	for {
		if err := l.noUser(ctx, raised, patience.C); err != nil {
			return err
		}
		if err := l.pausedOut(ctx, raised); err != nil {
			return err
		}
		// A bulk request takes a token only where it need not wait for it: a reservation would stand before the next user.
		reservation := l.bucket.Reserve()
		delay := reservation.Delay()
		if delay == 0 {
			if err := l.shared(ctx, Bulk, raised, patience.C); err != nil || !l.paused() {
				return err
			}
			continue
		}
		reservation.Cancel()
		if err := sleep(ctx, delay, raised); err != nil {
			return err
		}
	}
}

func (l *Limiter) enter() {
	l.mu.Lock()
	l.users++
	l.mu.Unlock()
}

func (l *Limiter) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.users--
	if l.users == 0 && l.idle != nil {
		close(l.idle)
		l.idle = nil
	}
}

// noUser waits until no user does, or there is no more patience: then the request goes on as a user's.
func (l *Limiter) noUser(ctx context.Context, raised <-chan struct{}, patience <-chan time.Time) error {
	for {
		l.mu.Lock()
		if l.users == 0 {
			l.mu.Unlock()
			return ctx.Err()
		}
		if l.idle == nil {
			l.idle = make(chan struct{})
		}
		idle := l.idle
		l.mu.Unlock()
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-raised:
			return errRaised
		case <-patience:
			return errRaised
		case <-idle:
		}
	}
}

func (l *Limiter) paused() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.until.After(l.now())
}

func (l *Limiter) pausedOut(ctx context.Context, raised <-chan struct{}) error {
	for {
		l.mu.Lock()
		left := l.until.Sub(l.now())
		l.mu.Unlock()
		if left <= 0 {
			return ctx.Err()
		}
		if err := sleep(ctx, left, raised); err != nil {
			return err
		}
	}
}

func sleep(ctx context.Context, d time.Duration, raised <-chan struct{}) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-raised:
		return errRaised
	case <-timer.C:
		return nil
	}
}
