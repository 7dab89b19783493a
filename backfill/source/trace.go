package source

import (
	"context"
	"time"
)

type (
	traceKey  struct{}
	raisedKey struct{}
)

// WithRaised returns a context under which a bulk request that waits for the rate limit is a user's once raised is closed:
// somebody has begun to wait for its page (PIPELINE 16).
func WithRaised(ctx context.Context, raised <-chan struct{}) context.Context {
	return context.WithValue(ctx, raisedKey{}, raised)
}

// raisedOf returns the context's channel, nil where there is none.
func raisedOf(ctx context.Context) <-chan struct{} {
	raised, _ := ctx.Value(raisedKey{}).(<-chan struct{})
	return raised
}

// WithTrace returns a context under which every request tells waited how long the source's rate limit held it back.
func WithTrace(ctx context.Context, waited func(time.Duration)) context.Context {
	return context.WithValue(ctx, traceKey{}, waited)
}

// traceWait tells the context's trace, where there is one.
func traceWait(ctx context.Context, d time.Duration) {
	if waited, ok := ctx.Value(traceKey{}).(func(time.Duration)); ok {
		waited(d)
	}
}
