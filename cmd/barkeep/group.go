package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"
)

// part is something that runs until its context ends.
type part struct {
	name   string
	cancel context.CancelFunc
	done   chan struct{}
	err    error // valid once done is closed, or the part has failed
}

// group runs parts, and stops them in the reverse order of their start: those that others depend on are started first.
// It is used by one goroutine.
type group struct {
	log    *slog.Logger
	work   context.Context //nolint:containedctx // the life of all parts, which outlives the call that starts them
	failed chan *part
	parts  []*part
}

func newGroup(work context.Context, log *slog.Logger) *group {
	return &group{log: log, work: work, failed: make(chan *part, 1)}
}

// start runs a part. Should it end before it is told to, the group ends.
func (g *group) start(name string, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(g.work)
	p := &part{name: name, cancel: cancel, done: make(chan struct{})}
	g.parts = append(g.parts, p)
	go func() {
		defer close(p.done)
		if p.err = run(ctx); p.err == nil && ctx.Err() == nil {
			p.err = errors.New("ended by itself")
		}
		if ctx.Err() == nil {
			select {
			case g.failed <- p:
			default: // another part was first; stop reports this one too
			}
		}
	}()
}

// wait returns when intake ends or a part does.
func (g *group) wait(intake context.Context) {
	select {
	case <-intake.Done():
	case p := <-g.failed:
		g.log.ErrorContext(intake, "a part ended; stopping", slog.String("part", p.name), slog.Any("error", p.err))
	}
}

// stop ends the parts one after the other, newest first, and returns what went wrong. When work has ended it does not
// wait for those that take longer than abandonAfter.
func (g *group) stop() error {
	var errs []error
	for _, p := range slices.Backward(g.parts) {
		p.cancel()
		if !g.gone(p) {
			errs = append(errs, fmt.Errorf("%s: %w", p.name, context.Cause(g.work)))
			continue
		}
		if p.err != nil && !errors.Is(p.err, context.Canceled) {
			errs = append(errs, fmt.Errorf("%s: %w", p.name, p.err))
		}
	}
	g.parts = nil
	return errors.Join(errs...)
}

// abandonAfter is what a part is given once work has ended, to close what it holds.
const abandonAfter = time.Second

// gone waits for a part, and reports whether it ended.
func (g *group) gone(p *part) bool {
	select {
	case <-p.done:
		return true
	case <-g.work.Done():
	}
	timer := time.NewTimer(abandonAfter)
	defer timer.Stop()
	select {
	case <-p.done:
		return true
	case <-timer.C:
		return false
	}
}

var (
	errInterrupted = errors.New("stopped by a signal")
	errSecond      = errors.New("ended at once by a second signal")
	errGrace       = errors.New("grace period is over")
)

// lifetimes are the two contexts of a process. intake ends with the first signal: take no more. work ends with the second
// one, or when grace has passed since the first: abandon.
type lifetimes struct {
	intake, work context.Context //nolint:containedctx // a pair of results
	stop         func()
}

// newLifetimes listens for SIGINT and SIGTERM until stop is called, which waits for its goroutine.
func newLifetimes(parent context.Context, grace time.Duration) lifetimes {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	work, abandon := context.WithCancelCause(context.WithoutCancel(parent))
	intake, drain := context.WithCancelCause(work)
	ended, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-signals:
			drain(errInterrupted)
		case <-parent.Done():
			drain(context.Cause(parent))
		case <-ended:
			return
		}
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-signals:
			abandon(errSecond)
		case <-timer.C:
			abandon(errGrace)
		case <-ended:
		}
	}()
	return lifetimes{intake: intake, work: work, stop: func() {
		signal.Stop(signals)
		close(ended)
		<-done
		abandon(nil)
	}}
}
