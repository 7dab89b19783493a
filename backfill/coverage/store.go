package coverage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"barkeep/internal/market"
)

// Channel is where a change of coverage is notified, as "symbol version" (PIPELINE 7).
const Channel = "barkeep_coverage"

// DefaultLease is how long an index may be relied on after a poll began that confirmed it (PIPELINE 7).
const DefaultLease = 5 * time.Second

// Config sets a Store. The zero value means the defaults.
type Config struct {
	// Poll is the mean time between two polls, default 2 s; each is drawn from ± 50 %.
	Poll time.Duration
	// Lease is how long the index may be relied on after a poll began that confirmed it, default 5 s.
	Lease time.Duration
	// Logger takes what goes wrong between two polls; nil discards it.
	Logger *slog.Logger
	// Now is the clock, default time.Now.
	Now func() time.Time
}

// Store keeps the newest Index. Make it with NewStore, then Run it. Its methods are safe for concurrent use.
type Store struct {
	pool   *pgxpool.Pool
	config Config

	index atomic.Pointer[Index]
	// confirmed is when the last whole poll began; nil while the index may not be relied on.
	confirmed atomic.Pointer[time.Time]
	// breaks counts the connections that broke: a poll that began before says nothing after.
	breaks atomic.Int64
	// clock is what the last poll saw of the database's clock.
	clock atomic.Pointer[Skew]
	// loading is held by who reads the database, so that what was read first is installed first.
	loading chan struct{}

	mu      sync.Mutex
	changed chan struct{} // guarded by mu; closed and replaced on change
}

// NewStore returns a store that reads through pool, which stays the caller's. Its index is empty, and not valid, until
// Load, Refresh or Run has read the database.
func NewStore(pool *pgxpool.Pool, config Config) *Store {
	if config.Poll <= 0 {
		config.Poll = 2 * time.Second
	}
	if config.Lease <= 0 {
		config.Lease = DefaultLease
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	s := &Store{pool: pool, config: config, loading: make(chan struct{}, 1), changed: make(chan struct{})}
	s.index.Store(&Index{})
	s.clock.Store(&Skew{})
	return s
}

// Snapshot returns the newest index. Ask Valid before relying on it.
func (s *Store) Snapshot() *Index { return s.index.Load() }

// Valid reports whether the index may be relied on: the last poll that confirmed it began within the lease, and the
// connection has not broken since.
func (s *Store) Valid() bool { return s.ValidAt(s.config.Now()) }

// ValidAt is Valid for a caller that has just read the clock, by Config.Now.
func (s *Store) ValidAt(now time.Time) bool {
	_, valid := s.ageAt(now)
	return valid
}

// Age returns the time since the poll began that last confirmed the index, and whether that lies within the lease.
func (s *Store) Age() (age time.Duration, valid bool) { return s.ageAt(s.config.Now()) }

func (s *Store) ageAt(now time.Time) (age time.Duration, valid bool) {
	at := s.confirmed.Load()
	if at == nil {
		return 0, false
	}
	return within(s.config.Lease, now.Sub(*at), time.Duration(now.UnixNano()-at.UnixNano()))
}

// within returns an age by that of two clocks which is further on, and whether it lies within the lease: the monotonic clock stands still
// while the machine is suspended, and the wall clock may be set back, which makes it worthless.
func within(lease, monotonic, wall time.Duration) (age time.Duration, valid bool) {
	age = max(monotonic, wall)
	return age, min(monotonic, wall) >= 0 && age < lease
}

// Changed returns a channel that is closed at the next change of the index. Take it before looking at Snapshot: a
// change between the two then closes the channel already held.
func (s *Store) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Load reads all coverage; it is Refresh, by the name that a start reads well with.
func (s *Store) Load(ctx context.Context) error { return s.Refresh(ctx) }

// Refresh compares the versions of all symbols with the database and reads the segments of those that differ. When it
// returns nil the index holds all that was committed before the call.
func (s *Store) Refresh(ctx context.Context) error {
	return s.poll(ctx, s.pool)
}

// RefreshSymbol reads one symbol anew: the cheap answer to "what is committed now" of a single statement. It does not
// extend the lease, which is for all symbols.
func (s *Store) RefreshSymbol(ctx context.Context, symbol market.Symbol) error {
	release, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := s.withdrawLost(ctx, s.pool); err != nil {
		return err
	}
	return s.install(ctx, s.pool, []string{string(symbol)})
}

// Run keeps the index fresh by polls and notifications until ctx ends, and then returns nil. A broken connection makes
// the index invalid and is tried again with backoff.
func (s *Store) Run(ctx context.Context) error {
	const slowest = 5 * time.Second
	backoff := 100 * time.Millisecond
	for {
		began := s.config.Now()
		err := s.follow(ctx)
		s.breaks.Add(1)
		s.confirmed.Store(nil)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // a stop is a cause, not a failure
		}
		if s.config.Now().Sub(began) > slowest {
			backoff = 100 * time.Millisecond
		}
		s.config.Logger.LogAttrs(ctx, slog.LevelWarn, "coverage index lost its connection",
			slog.Any("error", err), slog.Duration("retry_in", backoff))
		if !pause(ctx, backoff) {
			return nil
		}
		backoff = min(2*backoff, slowest)
	}
}

// follow listens and polls on one connection until something fails.
func (s *Store) follow(ctx context.Context) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	// A connection that listens must not go back to others: it is closed, which Release then notices.
	defer func() {
		_ = conn.Conn().Close(context.WithoutCancel(ctx)) // it is of no more use whatever this returns
		conn.Release()
	}()
	if _, err := conn.Exec(ctx, "LISTEN "+Channel); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	for {
		if err := s.poll(ctx, conn); err != nil {
			return err
		}
		// The jitter keeps many processes from polling at once.
		next := s.config.Now().Add(time.Duration(float64(s.config.Poll) * (0.5 + rand.Float64())))
		for {
			symbols, err := s.heard(ctx, conn, next)
			if err != nil {
				return err
			}
			if len(symbols) == 0 {
				break
			}
			if err := s.reload(ctx, conn, symbols); err != nil {
				return err
			}
		}
	}
}

// heard waits for a notification that names something new, until the next poll is due, which is no error.
func (s *Store) heard(ctx context.Context, conn *pgxpool.Conn, until time.Time) (symbols []string, err error) {
	for {
		left := until.Sub(s.config.Now())
		if left <= 0 {
			return nil, nil
		}
		waiting, cancel := context.WithTimeout(ctx, left)
		notice, err := conn.Conn().WaitForNotification(waiting)
		due := waiting.Err() != nil
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil, fmt.Errorf("wait for notification: %w", context.Cause(ctx))
		case err != nil && due && pgconn.Timeout(err):
			return nil, nil
		case err != nil:
			return nil, fmt.Errorf("wait for notification: %w", err)
		}
		if symbol, fresh := s.news(notice); fresh {
			return []string{symbol}, nil
		}
	}
}

// news reads a payload "symbol version"; the symbol may hold spaces. What the index holds already is not news: Apply's
// own process often has refreshed before the notification comes.
func (s *Store) news(notice *pgconn.Notification) (symbol string, fresh bool) {
	cut := strings.LastIndexByte(notice.Payload, ' ')
	if notice.Channel != Channel || cut < 0 {
		return "", false
	}
	symbol = notice.Payload[:cut]
	version, known := s.Snapshot().Version(market.Symbol(symbol))
	return symbol, !known || strconv.FormatInt(version.count, 10) != notice.Payload[cut+1:]
}

// poll compares the chunks and all symbols. The lease begins when it began: what was committed before is in the index when it ends.
func (s *Store) poll(ctx context.Context, q querier) error {
	release, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer release()
	began, breaks := s.config.Now(), s.breaks.Load()
	if err := s.compareClocks(ctx, q); err != nil {
		return err
	}
	if err := s.withdrawLost(ctx, q); err != nil {
		return err
	}
	versions, life, err := s.versions(ctx, q)
	if err != nil {
		return err
	}
	index := s.index.Load()
	var differ []string
	for symbol, version := range versions {
		if have, known := index.Version(symbol); !known || have != version {
			differ = append(differ, string(symbol))
		}
	}
	for k := range index.shards {
		for symbol := range index.shards[k] {
			if _, there := versions[symbol]; !there {
				differ = append(differ, string(symbol))
			}
		}
	}
	if err := s.install(ctx, q, differ); err != nil {
		return err
	}
	if index := s.index.Load(); index.life != life {
		s.index.Store(index.inLife(life))
	}
	s.confirmed.Store(&began)
	if s.breaks.Load() != breaks {
		s.confirmed.Store(nil)
	}
	return nil
}

func (s *Store) versions(ctx context.Context, q querier) (of map[market.Symbol]Version, life string, err error) {
	ctx, cancel := soon(ctx)
	defer cancel()
	return readVersions(ctx, q)
}

// soon bounds a question with a small answer: where none comes, there is nobody at the other end any more, which TCP may
// not tell for a quarter of an hour, and others wait for this reading to end.
func soon(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, answerTime, errNoAnswer)
}

const (
	answerTime = 5 * time.Second
	// installTime bounds the reading of segments, of which there may be many.
	installTime = time.Minute
)

var errNoAnswer = errors.New("the database does not answer")

func (s *Store) reload(ctx context.Context, q querier, symbols []string) error {
	release, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer release()
	return s.install(ctx, q, symbols)
}

// install reads the symbols and puts them into a new index; the caller holds loading.
func (s *Store) install(ctx context.Context, q querier, symbols []string) error {
	if len(symbols) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, installTime, errNoAnswer)
	defer cancel()
	changes, err := readSymbols(ctx, q, symbols)
	if err != nil {
		return err
	}
	s.index.Store(s.index.Load().with(changes))
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
	return nil
}

func (s *Store) lock(ctx context.Context) (release func(), err error) {
	select {
	case s.loading <- struct{}{}:
		return func() { <-s.loading }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for another reading of coverage: %w", errors.Join(ctx.Err(), context.Cause(ctx)))
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
