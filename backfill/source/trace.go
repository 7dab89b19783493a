package source

import (
	"context"
	"time"
)

type traceKey struct{}

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
