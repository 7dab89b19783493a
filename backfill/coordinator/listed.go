package coordinator

import (
	"context"
	"time"

	"github.com/jackc/pgerrcode"

	"barkeep/backfill/directory"
)

// errUnlisted is returned by Listed.
var errUnlisted = &Error{
	Code:    pgerrcode.SystemError,
	Message: "the sources' lists of symbols have not been read yet",
	Advice:  "Is a barkeep producer running? Ask again in a moment.",
}

// patternAge is the age up to which the list of a vendor is believed to hold all that a pattern may match: producers read it hourly.
const patternAge = 2 * time.Hour

// Listed returns when the lists of all sources are known that may have a symbol with the prefix, no older than they are kept: a symbol that one
// of them has is in directory.ListingSQL then. It waits for at most ListWait; a list that was read before is good enough after that.
func (c *Coordinator) Listed(ctx context.Context, prefix string) error {
	began, maxAge := c.config.Now(), max(patternAge, c.config.ListAge)
	for {
		listed := c.listedChan()
		waited := c.config.Now().Sub(began)
		ready, err := directory.Listed(ctx, c.config.Pool, prefix, maxAge, waited, c.config.ListWait)
		switch {
		case err != nil || ready:
			return err
		case waited > 2*c.config.ListWait:
			return errUnlisted
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-listed:
		case <-time.After(listRetry):
		}
		if c.config.Now().Sub(began) > c.config.ListWait {
			maxAge = forever // a newer list did not come
		}
	}
}
