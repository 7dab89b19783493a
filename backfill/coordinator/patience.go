package coordinator

import (
	"context"
	"time"

	"barkeep/internal/schema"
)

// patience is how long the database may be out of reach before a statement that waits is told.
const patience = 10 * time.Second

// patiently calls step until its error is none of the connection's: a database that starts again is back in a moment, and
// the connections that it broke are found out one by one.
func (f *filling) patiently(ctx context.Context, step func(context.Context) (int64, error)) (missing int64, err error) {
	began := f.c.config.Now()
	for backoff := 50 * time.Millisecond; ; backoff = min(2*backoff, time.Second) {
		missing, err = step(ctx)
		if err == nil || !schema.Lost(err) || f.c.config.Now().Sub(began) > patience {
			return missing, err
		}
		if !pause(ctx, backoff) {
			return 0, context.Cause(ctx)
		}
	}
}
