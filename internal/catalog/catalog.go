package catalog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"barkeep/internal/look"
	"barkeep/internal/schema"
	"barkeep/planner"
)

// answerTime bounds a question to the database: a statement waits for it, and a server that is gone does not say so.
const answerTime = 5 * time.Second

var errNoAnswer = errors.New("the database does not answer")

// loadTime is answerTime for the closure, which is larger.
const loadTime = 2 * answerTime

// whileLost asks again until the error is none of the connection's, within answerTime: the connections that a server broke
// as it started again are found out one by one.
func whileLost(ctx context.Context, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, answerTime, errNoAnswer)
	defer cancel()
	for {
		err := ask(ctx)
		if !schema.Lost(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(askAgain):
		}
	}
}

const askAgain = 50 * time.Millisecond

// pollEvery is how often the fingerprint is read.
const pollEvery = 2 * time.Second

// Catalog is safe for concurrent use.
type Catalog struct {
	pool *pgxpool.Pool
	log  *slog.Logger
	now  func() time.Time

	// constants are the IMMUTABLE results that are known, by the question's key.
	constants *lru.Cache[string, *string]
	// listing is a query of one text column with the symbols of a planner.Listing: $1 is its prefix, $2 its names as text[].
	listing string

	current atomic.Pointer[planner.Catalog]
	// loaded is what the newest was made of.
	loaded atomic.Pointer[loaded]
	// defining counts the definitions that are on their way, defined those that have ended, and seen is how many had when the newest
	// look began; see Defining.
	defining      atomic.Int64
	defined, seen atomic.Uint64
	// until is how long, in Unix nanoseconds, each statement looks because of those on their way, lost because of one whose end nobody saw.
	until, lost atomic.Int64

	reloads atomic.Uint64

	refreshes look.Shared[struct{}]
	// forced says that the next look is not to be left out.
	forced atomic.Bool
	// wake has Run look before its next poll is due, heard says that another process has told of what it found, and id is this one's.
	wake  chan struct{}
	heard atomic.Bool
	id    string
	poll  time.Duration
	// What follows is the business of the refresh that is under way.
	known      looked    // the newest, and its fingerprint is that of current
	configured time.Time // when a connection of the pool last took up the server's configuration files

	mayRead struct {
		sync.Mutex
		known map[readKey]readAnswer
	}
}

// New returns a catalog that has read nothing yet. The pool is the service's; the caller keeps and closes it. A nil log
// drops what would be logged. listing is a query of one text column with the symbols of a planner.Listing, of which $1 is the prefix and
// $2 the names, an array; it is run with the settings of pg_catalog alone.
func New(pool *pgxpool.Pool, log *slog.Logger, listing string) *Catalog {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	c := &Catalog{pool: pool, log: log, now: time.Now, listing: listing, wake: make(chan struct{}, 1), id: uuid.NewString(), poll: pollEvery}
	c.constants, _ = lru.New[string, *string](constantsKept)
	c.mayRead.known = map[readKey]readAnswer{}
	return c
}

// loaded is what was read last. It is never written to.
type loaded struct{ shelf shelf }

// Current returns the newest catalog, or nil before the first successful Refresh. It costs an atomic load.
func (c *Catalog) Current() *planner.Catalog { return c.current.Load() }

// suspectFor is how long a definition that is on its way has the database looked at for every statement. One that takes longer, like
// that of a large index, must not slow all others down until it ends: meanwhile the poll goes on.
const suspectFor = 10 * time.Second

// Defining tells that a statement is on its way which may define, change or drop a view or function, or which ends the block that
// one was defined in. Until Defined or Lost tells of its end, Fresh looks before it answers: others may see what it defines before
// its end is known here.
func (c *Catalog) Defining() {
	c.until.Store(c.now().Add(suspectFor).UnixNano())
	c.defining.Add(1)
}

// Defined tells that a statement which Defining has told of was answered, before anybody is told so: whoever comes after that
// answer is given what a look that began after this call has found.
func (c *Catalog) Defined() {
	c.defined.Add(1)
	c.defining.Add(-1)
	c.wakeUp() // for the other processes
}

func (c *Catalog) wakeUp() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Lost is Defined for a statement whose answer nobody will see. It may still be running.
func (c *Catalog) Lost() {
	c.lost.Store(c.now().Add(suspectFor).UnixNano())
	c.Defined()
}

// Fresh returns Current, after a Refresh where something may just have changed. Where that fails what was known stays, and the
// next one looks again.
func (c *Catalog) Fresh(ctx context.Context) *planner.Catalog {
	if c.Suspected() {
		if _, err := c.refreshes.Fresh(ctx, c.look); err != nil {
			c.log.WarnContext(ctx, "catalog could not be read; what was known stays in force", slog.Any("error", err))
		}
	}
	return c.Current()
}

// Suspected reports whether Fresh would ask the database.
func (c *Catalog) Suspected() bool {
	return c.defined.Load() != c.seen.Load() || c.defining.Load() > 0 && c.before(&c.until) || c.before(&c.lost)
}

// before reports whether a time has not come; zero is none.
func (c *Catalog) before(at *atomic.Int64) bool {
	until := at.Load()
	return until != 0 && c.now().UnixNano() < until
}

// Reloads returns a number that grows when the server has taken up its configuration files anew (pg_reload_conf): what running sessions
// have from there may have changed. It may grow several times for one reload. It costs an atomic load.
func (c *Catalog) Reloads() uint64 { return c.reloads.Load() }

// Run keeps the catalog fresh until ctx ends, and tells other processes at once of what is defined through this one, as they do. An
// error of the database is logged and the poll goes on: what was known stays in force.
func (c *Catalog) Run(ctx context.Context) error {
	var hearing sync.WaitGroup
	defer hearing.Wait()
	hearing.Go(func() { c.hear(ctx) })
	ticker := time.NewTicker(c.poll)
	defer ticker.Stop()
	due := true
	for {
		if c.heard.Swap(false) || due {
			if err := c.Refresh(ctx); err != nil && ctx.Err() == nil {
				c.log.WarnContext(ctx, "catalog could not be read; what was known stays in force", slog.Any("error", err))
			}
		} else {
			c.Fresh(ctx)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			due = true
		case <-c.wake:
			due = false
		}
	}
}

// Refresh loads the closure again if the system catalogs changed since it was loaded. Those who ask while one is under way
// share the next, one that has begun before may have looked too early: who saw a definition end may ask for what it defined.
func (c *Catalog) Refresh(ctx context.Context) error {
	c.forced.Store(true)
	_, err := c.refreshes.Fresh(ctx, c.look)
	return err
}

// look is refresh, but where neither a Refresh has come nor a definition ended since the last one began.
func (c *Catalog) look(ctx context.Context) (none struct{}, err error) {
	if !c.forced.Swap(false) && !c.Suspected() {
		return none, nil
	}
	if err = c.refresh(ctx); err != nil {
		c.forced.Store(true) // a Refresh may have been sharing it
	}
	return none, err
}

// refresh does what Refresh says. It is not called twice at one time.
func (c *Catalog) refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, loadTime, errNoAnswer)
	defer cancel()
	defined := c.defined.Load() // what ends from here on may be too late for this look
	found, err := lookFrom(ctx, c.pool, c.known)
	if err != nil {
		return err
	}
	if found.configured.After(c.configured) { // each connection has a time of its own
		if !c.configured.IsZero() {
			c.reloads.Add(1)
		}
		c.configured = found.configured
	}
	old := c.current.Load()
	if old != nil && found.parts == c.known.parts {
		c.known.state = found.state
		c.seen.Store(defined)
		return nil
	}
	var next shelf
	if before := c.loaded.Load(); before != nil {
		next = before.shelf
	}
	err = pgx.BeginTxFunc(ctx, c.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		// The fingerprint is looked at again in the snapshot that the closure is read in, so that the two belong together.
		if found, err = lookFrom(ctx, tx, found); err != nil {
			return err
		}
		return next.load(ctx, tx, found.since(c.known))
	})
	if err != nil {
		return fmt.Errorf("read catalog: %w", err)
	}
	version := uint64(1)
	if old != nil {
		version = old.Version + 1
	}
	c.loaded.Store(&loaded{shelf: next})
	c.current.Store(next.graph().catalog(version))
	c.known = found
	if own := c.seen.Swap(defined) != defined || c.defining.Load() > 0; own && !sameNames(old, c.current.Load()) {
		c.tell(ctx)
	}
	return nil
}

// looked is what a look has found: what the state of the database is called, and the fingerprint of the definitions in it. Its zero value
// is one that has found nothing.
type looked struct {
	state      string
	parts      [parts]string
	configured time.Time
}

// since returns which parts of the fingerprint are others than they were.
func (l looked) since(before looked) changes {
	var changed changes
	for i, part := range l.parts {
		changed[i] = part != before.parts[i]
	}
	return changed
}

// lookFrom reads the fingerprint, or knows it where no transaction has committed since it was read.
func lookFrom(ctx context.Context, from interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}, known looked,
) (looked, error) {
	found := looked{parts: known.parts}
	var fingerprint []string
	if err := from.QueryRow(ctx, lookSQL, known.state).Scan(&found.state, &found.configured, &fingerprint); err != nil {
		return looked{}, fmt.Errorf("read catalog fingerprint: %w", err)
	}
	if fingerprint != nil {
		copy(found.parts[:], fingerprint)
	}
	return found, nil
}
