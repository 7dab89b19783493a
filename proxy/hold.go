package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"barkeep/internal/actor"
	"barkeep/internal/market"
	"barkeep/planner"
)

const (
	// readAhead bounds what is taken from a client that is held.
	readAhead = 256 << 10
	// transactionMargin is how long before transaction_timeout a hold ends.
	transactionMargin = 100 * time.Millisecond
)

// hold is one statement's or segment's wait, over all its rounds.
type hold struct {
	session *session
	units   []unit
	bracket planner.Bracket // of the round, once bracketed says so
	// stages counts the questions that are planned inside of each other; explains says that nothing is waited for.
	stages   int
	explains bool
	// forced is how long to wait though nothing may be missing, zero once that is done; covered says that nothing is.
	forced    time.Duration
	covered   bool
	bracketed bool
	// less says that begin has found that less is needed than was planned.
	less bool

	started time.Time       // zero before the first wait
	armed   context.Context //nolint:containedctx // the life of the hold is shorter than a call of gate, which ends it
	until   context.Context //nolint:containedctx // armed with the deadlines of the wait; nil where there are none yet
	finish  []func()
	noticed time.Time
	machine *actor.Machine // nil before the first wait

	mu       sync.Mutex // guards progress
	progress market.Progress
	known    bool
}

// began is what now() of the upstream's transaction lies in. Most plans do not hang on it.
func (h *hold) began() planner.Bracket {
	if !h.bracketed {
		h.bracket, h.bracketed = h.session.bracket(), true
	}
	return h.bracket
}

// within returns ctx with the deadlines of the wait, once there is one. Until then it has that of statement_timeout, if the
// statement is the next to be executed: questions of the planner may take long, too.
func (h *hold) within(ctx context.Context) context.Context {
	if h.until != nil {
		return h.until
	}
	s := h.session
	s.mu.Lock()
	next := s.waiting == 0
	s.mu.Unlock()
	if t := s.reader.settings.statementTimeout; t > 0 && next {
		var stop context.CancelFunc
		h.until, stop = context.WithTimeoutCause(ctx, t, errStatementTimeout)
		h.finish = append(h.finish, stop)
		return h.until
	}
	return ctx
}

// why returns the cause where err is no more than that the hold's time is over.
func (h *hold) why(err error) error {
	var own *Error
	if err == nil || h.until == nil || h.until.Err() == nil || h.armed.Err() != nil || errors.As(err, &own) || errors.Is(err, errClientGone) {
		return err
	}
	return context.Cause(h.until)
}

// outcome says for the metrics how it went.
func (h *hold) outcome() string {
	if h.started.IsZero() {
		return "covered"
	}
	return "held"
}

// arm has cancel requests end the hold, from the first look at its statement on: the upstream knows nothing of it yet.
func (h *hold) arm(ctx context.Context) {
	s := h.session
	armed, cancel := context.WithCancelCause(ctx)
	h.armed = armed
	s.mu.Lock()
	s.holdEnd = cancel
	s.mu.Unlock()
	h.finish = append(h.finish, func() {
		s.mu.Lock()
		s.holdEnd, s.held = nil, false
		s.mu.Unlock()
		s.wakeNotifying()
		cancel(nil)
	})
}

// letGo is asked last before the units go upstream: it returns why they must not, if a cancel request came until now.
// Those that come later are the upstream's.
func (h *hold) letGo() error {
	s := h.session
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holdEnd, s.held = nil, false
	if h.armed.Err() != nil {
		return context.Cause(h.armed)
	}
	if s.released == nil {
		s.released = make(chan struct{})
	}
	return nil
}

// end takes back what arm and begin took.
func (h *hold) end() {
	for _, undo := range slices.Backward(h.finish) {
		undo()
	}
}

// settle ends the statement's actor.
func (h *hold) settle(err error) {
	switch {
	case h.machine == nil:
		return
	case err != nil:
		h.machine.Fail()
	default:
		h.machine.To(actor.ReturningData)
		h.machine.To(actor.Idle)
	}
	h.machine.Close()
}

// begin makes sure that waiting makes sense: the session is quiet, may read, there is room, and the text parses.
func (h *hold) begin(ctx context.Context, what need) (pass bool, err error) {
	s := h.session
	r := &s.reader
	if _, err := s.quiesce(ctx); err != nil {
		return false, err
	}
	if s.blockFailed() {
		return true, nil
	}
	if err := h.mayRead(ctx, what); err != nil {
		return false, err
	}
	release, err := s.server.takeHold(s.user)
	if err != nil {
		return false, err
	}
	h.finish = append(h.finish, release)
	h.started = time.Now()
	h.machine = s.server.cfg.Actors.New(actor.Datastore(), fmt.Sprintf("session %d, %s", s.pid, s.user))
	for _, state := range []actor.State{actor.Processing, actor.CheckingCoverage, actor.DataMissing, actor.RequestingFetch} {
		h.machine.To(state)
	}
	h.finish = append(h.finish, s.server.cfg.Metrics.hold(h.started))
	h.noticed = h.started.Add(s.server.limits().NoticeAfter - s.server.limits().NoticeEvery)
	until, stop := h.deadlines(ctx, what.set)
	h.until = until
	h.finish = append(h.finish, stop)
	s.mu.Lock()
	s.held = true
	s.mu.Unlock()
	pinned := r.repeatable() && s.inTransaction() // a Parse would take the snapshot
	for i := range h.units {
		u := &h.units[i]
		single := h.single(*u)
		if (u.parsed || u.alone) && !u.parseOnly && single && !pinned && !r.open {
			if fails, err := s.fails(until, u); fails || err != nil {
				return fails, h.placed(err, u)
			}
			h.less = h.less || u.doomed
		}
	}
	return false, nil
}

// single reports whether the unit's text is one statement that a Parse says of what its execution would: a Query with a parameter
// is wrong in another way. What cannot read ohlcv is not parsed here.
func (h *hold) single(u unit) bool {
	switch {
	case !u.portal && strings.Contains(u.stmt.text, "$"):
		return false
	case u.forced:
		return !strings.Contains(strings.TrimRight(u.stmt.text, "; \t\r\n"), ";")
	}
	env := h.session.env()
	return h.session.template(u.stmt, &env).Statements == 1
}

// deadlines are those that end a hold, each with its own cause.
func (h *hold) deadlines(ctx context.Context, set settings) (context.Context, func()) {
	r := &h.session.reader
	var stops []context.CancelFunc
	limit := func(at time.Time, cause error) {
		var stop context.CancelFunc
		ctx, stop = context.WithDeadlineCause(ctx, at, cause) //nolint:fatcontext // at most three, one inside the other: each deadline has its own cause
		stops = append(stops, stop)
	}
	limit(h.started.Add(set.timeout), errHoldTimeout)
	if t := r.settings.statementTimeout; t > 0 {
		from := h.started
		if r.open && !r.timing.IsZero() && r.timing.Before(from) {
			from = r.timing // what is left of the upstream's (PROTOCOL 3)
		}
		limit(from.Add(t), errStatementTimeout)
	}
	if t := r.settings.transactionTimeout; t > 0 {
		began := h.started
		if h.session.inTransaction() && !r.began.IsZero() {
			began = r.began
		}
		limit(began.Add(t-transactionMargin), errTransactionTimeout)
	}
	return ctx, func() {
		for _, stop := range stops {
			stop()
		}
	}
}

// wait waits for one round's gap. It reports whether the units may go as they are.
func (h *hold) wait(ctx context.Context, request Request, what need) (bool, error) {
	s := h.session
	if h.started.IsZero() {
		if pass, err := h.begin(ctx, what); err != nil || pass {
			return pass, err
		}
		if h.less {
			return false, nil
		}
	} else if err := h.mayRead(ctx, what); err != nil {
		return false, err
	}
	h.machine.To(actor.WaitingForData)
	warnings, err := h.ensure(request) //nolint:contextcheck // until is ctx with the hold's deadlines
	gave := err == nil && len(warnings) > 0
	ended := context.Cause(h.until) //nolint:contextcheck // as above
	switch {
	case ended != nil && (err != nil || gave && (request.Mode != "partial" || !errors.Is(ended, errHoldTimeout))):
		return false, ended
	case !gave:
		return false, err
	}
	// What is missing after this is missing with the user's leave, and would be the next time.
	s.warn(slices.Concat(what.warnings, warnings))
	s.server.cfg.Metrics.outcome(h.outcome())
	s.count(what.reasons)
	return true, nil
}

// ensure runs the coordinator's Ensure, and meanwhile looks after both connections.
func (h *hold) ensure(request Request) ([]string, error) {
	ctx, cancel := context.WithCancelCause(h.until)
	defer cancel(nil)
	var warnings []string
	var failure error
	done, finished := make(chan struct{}), make(chan struct{})
	client := h.session.client
	go func() {
		defer close(finished)
		warnings, failure = h.fill(ctx, request)
		// In this order: watch sets a deadline of its own, then looks at done.
		close(done)
		_ = client.SetReadDeadline(time.Unix(1, 0))
	}()
	watchErr := h.watch(done)
	if watchErr != nil {
		cancel(watchErr)
	}
	<-finished
	if err := client.SetReadDeadline(time.Time{}); err != nil && watchErr == nil {
		watchErr = fmt.Errorf("clear deadline: %w", err)
	}
	if watchErr != nil {
		return nil, watchErr
	}
	return warnings, failure
}

func (h *hold) note(progress market.Progress) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.progress, h.known = progress, true
}

// watch reads what the client pipelines, tells it of the progress and keeps the upstream session alive, until done.
func (h *hold) watch(done <-chan struct{}) error {
	s := h.session
	r := &s.reader
	beat := time.Time{}
	if t := r.settings.idleTimeout; t > 0 && !r.open {
		beat = time.Now().Add(t / 3)
	}
	for {
		next := h.noticed.Add(s.server.limits().NoticeEvery)
		if !beat.IsZero() && beat.Before(next) {
			next = beat
		}
		if err := h.listen(next, done); err != nil {
			return err
		}
		select {
		case <-done:
			return nil
		case <-s.gone:
			return errClientGone // the upstream's last words have passed
		default:
		}
		if s.segmentFailed() {
			return errSegmentFailed // by what it had of it: it drops the rest
		}
		now := time.Now()
		if !now.Before(h.noticed.Add(s.server.limits().NoticeEvery)) {
			h.noticed = now
			if h.tell() != nil {
				return errClientGone
			}
		}
		if !beat.IsZero() && !now.Before(beat) {
			beat = now.Add(r.settings.idleTimeout / 3)
			if _, err := s.exchange(h.until, nil); err != nil && h.until.Err() == nil {
				return err
			}
		}
	}
}

// segmentFailed reports whether what the upstream has of the open segment has failed.
func (s *session) segmentFailed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reader.open && s.erred && s.waiting == 0 // else it is one before that has
}

// listen reads from the client until the time comes, done is closed, or the client ends the session.
func (h *hold) listen(until time.Time, done <-chan struct{}) error {
	s := h.session
	r := &s.reader
	for time.Now().Before(until) {
		if r.end-r.scan-h.size() >= readAhead {
			h.sit(until, done)
			return nil
		}
		r.room(nil)
		if err := s.client.SetReadDeadline(until); err != nil {
			return errClientGone
		}
		select {
		case <-done: // its own deadline may have come before ours
			return nil
		default:
		}
		n, err := s.client.Read(r.buf[r.end:])
		r.end += n
		var timeout net.Error
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
			return nil
		case err != nil || n > 0 && h.terminated():
			return errClientGone
		}
	}
	return nil
}

// size is the length of what is held and not behind scan.
func (h *hold) size() int {
	r := &h.session.reader
	if r.end-r.scan < 5 {
		return 0
	}
	return min(int(binary.BigEndian.Uint32(r.buf[r.scan+1:]))+1, h.session.server.cfg.MaxMessage)
}

// sit waits without reading.
func (h *hold) sit(until time.Time, done <-chan struct{}) {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-done:
	case <-h.session.gone:
	}
}

// terminated reports whether the client has sent Terminate behind what is held.
func (h *hold) terminated() bool {
	r := &h.session.reader
	for at := r.scan; r.end-at >= 5; {
		if r.buf[at] == 'X' {
			return true
		}
		size := int(binary.BigEndian.Uint32(r.buf[at+1:])) + 1
		if size < 5 || size > r.end-at {
			break
		}
		at += size
	}
	return false
}

// tell sends the NOTICE. It returns an error if the client is gone.
func (h *hold) tell() error {
	if !h.session.reader.settings.notices("NOTICE") {
		return nil
	}
	h.mu.Lock()
	progress, known := h.progress, h.known
	h.mu.Unlock()
	text := "barkeep: fetching bars"
	if known {
		text = progressText(progress)
	}
	return h.session.inject(notice("NOTICE", text))
}

// progressText is for people.
func progressText(p market.Progress) string {
	text := fmt.Sprintf("barkeep: fetching %s %s", p.Series.Symbol, p.Series.Timeframe)
	if p.Total > 0 {
		done := min(p.Done, p.Total)
		text += fmt.Sprintf(": %d %% (%s of about %s bars)", done*100/p.Total, grouped(done), grouped(p.Total))
	}
	switch {
	case p.Left < 0 || p.Total <= 0:
	case p.Left < time.Second:
		text += ", almost done"
	case p.Left < 2*time.Minute:
		text += fmt.Sprintf(", about %d s left", int64(p.Left.Seconds()))
	default:
		text += fmt.Sprintf(", about %d min left", int64(p.Left.Minutes()))
	}
	if p.Delay != "" {
		text += "; " + p.Delay
	}
	return text
}

// grouped writes 4840000 as 4,840,000.
func grouped(n int64) string {
	text := strconv.FormatInt(n, 10)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
