package proxy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgerrcode"
)

// Limits are what of a Server's configuration can be set anew while it runs (SetLimits). Those of zero are replaced by DESIGN
// §14's defaults, but where a field says what zero means.
type Limits struct {
	// MaxSessions and MaxHolds bound what there is at one time, MaxUserSessions and MaxUserHolds what there is of each user;
	// zero does not bound these. A session counts from its StartupMessage on, and for its user once that has proven who it is:
	// nobody can take another's room.
	MaxSessions, MaxUserSessions, MaxHolds, MaxUserHolds int
	// MaxStarting bounds the connections that have not logged in; beyond it the one that has waited longest, of the address that
	// has the most, is refused. Zero is MaxSessions.
	MaxStarting int
	// MaxBars, Timeout and Freshness hold where the session has no setting of its own; a Freshness of zero is that of each
	// timeframe.
	MaxBars                           int64
	Freshness                         time.Duration
	Timeout, NoticeAfter, NoticeEvery time.Duration
	// StartupTimeout bounds the time from accept to the first ReadyForQuery, as authentication_timeout does. IdleTimeout
	// ends sessions that are idle outside of a transaction for longer, as idle_session_timeout does; zero ends none. Grace is
	// what sessions have to finish when the server stops.
	StartupTimeout, IdleTimeout, Grace time.Duration
}

func (l Limits) withDefaults() Limits {
	set := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	setTime := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	set(&l.MaxSessions, 300)
	set(&l.MaxHolds, 200)
	set(&l.MaxStarting, l.MaxSessions)
	setTime(&l.Timeout, 10*time.Minute)
	setTime(&l.NoticeAfter, 500*time.Millisecond)
	setTime(&l.NoticeEvery, time.Second)
	setTime(&l.StartupTimeout, time.Minute)
	setTime(&l.Grace, 30*time.Second)
	if l.MaxBars <= 0 {
		l.MaxBars = 20_000_000
	}
	return l
}

// SetLimits sets all limits anew. Sessions and holds beyond them stay; those that begin from now on are bounded.
func (s *Server) SetLimits(limits Limits) {
	limits = limits.withDefaults()
	s.limited.Store(&limits)
}

// limits returns those that hold now. The caller changes nothing.
func (s *Server) limits() *Limits { return s.limited.Load() }

// The texts are PostgreSQL's own: InitProcess and InitializeSessionUserId of its utils/init, and ProcessInterrupts of
// tcop/postgres.c.
var (
	errTooManySessions = &Error{Code: pgerrcode.TooManyConnections, Message: "sorry, too many clients already", Fatal: true}
	errIdleTimeout     = &Error{Code: pgerrcode.IdleSessionTimeout, Message: "terminating connection due to idle-session timeout", Fatal: true}
	errLoginTimeout    = &Error{Code: pgerrcode.QueryCanceled, Message: "canceling authentication due to timeout", Fatal: true}
	errTooManyHolds    = &Error{
		Code: pgerrcode.TooManyConnections, Message: "too many statements are waiting for bars already",
		HintText: "Try again later, or set barkeep.mode to stored to read what is there.",
	}
)

func tooManyOf(user string) *Error {
	return &Error{Code: pgerrcode.TooManyConnections, Message: fmt.Sprintf("too many connections for role %q", user), Fatal: true}
}

func tooManyHoldsOf(user string) *Error {
	return &Error{
		Code: pgerrcode.TooManyConnections, Message: fmt.Sprintf("too many statements of role %q are waiting for bars already", user),
		HintText: errTooManyHolds.HintText,
	}
}

// counts are how many there are, in all and of each user.
type counts struct {
	all int
	of  map[string]int
}

func newCounts() counts { return counts{of: map[string]int{}} }

func (c *counts) give(user string) {
	c.all++
	c.of[user]++
}

func (c *counts) take(user string) {
	c.all--
	c.of[user]--
	if c.of[user] == 0 {
		delete(c.of, user)
	}
}

// admit counts a session for the user that it has proven to be, or refuses it.
func (s *Server) admit(each *session) *Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if each.admitted {
		return nil
	}
	if most := s.limits().MaxUserSessions; most > 0 && s.proven.of[each.user] >= most {
		return tooManyOf(each.user)
	}
	s.proven.give(each.user)
	each.admitted = true
	return nil
}

// takeHold counts a hold of the user until release is called, or refuses it.
func (s *Server) takeHold(user string) (release func(), err error) {
	limits := s.limits()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.holds.all >= limits.MaxHolds:
		return nil, errTooManyHolds
	case limits.MaxUserHolds > 0 && s.holds.of[user] >= limits.MaxUserHolds:
		return nil, tooManyHoldsOf(user)
	}
	s.holds.give(user)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.holds.take(user)
	}, nil
}

// loginEnded tells a client that was not done with its login in time, or whose upstream went away meanwhile, and returns why.
func (s *session) loginEnded(ctx context.Context, err error) error {
	var reason *Error
	switch {
	case ctx.Err() != nil:
		return err
	case errors.Is(err, os.ErrDeadlineExceeded):
		reason = errLoginTimeout
	case errors.Is(err, errUpstreamGone):
		reason = unreachable()
	default:
		return err
	}
	if s.client.SetWriteDeadline(time.Now().Add(time.Second)) != nil {
		return err
	}
	_, _ = s.client.Write(reason.encode()) // it may be gone
	return reason
}

// idleCheck is how often sessions are looked at that may have been idle for too long: a tenth of the time at most.
func idleCheck(timeout time.Duration) time.Duration {
	const seldom = time.Second
	if timeout <= 0 {
		return seldom // the limit may be set at any time
	}
	return max(min(timeout/10, seldom), time.Millisecond)
}

// endIdle ends sessions that are idle for too long, until ctx ends. One goroutine looks at all of them: a timer for each would be
// set and stopped with every statement.
func (s *Server) endIdle(ctx context.Context) {
	for wait(ctx, idleCheck(s.limits().IdleTimeout)) == nil {
		timeout := s.limits().IdleTimeout
		if timeout <= 0 {
			continue
		}
		before := time.Now().Add(-timeout)
		for _, each := range s.list() {
			if each.idleSince(before) {
				each.terminate(errIdleTimeout)
			}
		}
	}
}

// Holds returns how many sessions are held.
func (s *Server) Holds() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.holds.all
}
