package producer

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"barkeep/backfill/coverage"
	"barkeep/backfill/source"
	"barkeep/backfill/topic"
	"barkeep/internal/market"
)

type slotKey struct {
	series     market.Series
	generation int64
	start      market.Instant
}

// slot is a fetch in flight. err and abandoned are set before done is closed.
type slot struct {
	owner     *run
	done      chan struct{}
	err       error
	abandoned bool
	// raised is closed once a user waits for the slot: its priority is the highest among its jobs (PIPELINE 16).
	raised chan struct{}
	raise  func()
	// jobs want the slot, the owner first; it is replaced under slotTable.mu. joined holds a token when there may be one more,
	// or it was raised.
	jobs   atomic.Pointer[[]*run]
	joined chan struct{}
	// inLine, which may be nil, is called by the owner when the slot stands in line at the source.
	inLine func()
	// ahead is whether the slot has had room and its page is not on its way yet, guarded by slotTable.mu.
	ahead bool
}

func (s *slot) wanted() []*run {
	if jobs := s.jobs.Load(); jobs != nil {
		return *jobs
	}
	return nil
}

// requests returns how many requests that job has had that had the fewest, of those that a user waits for.
func (s *slot) requests() (least int64) {
	least = math.MaxInt64
	for _, r := range s.wanted() {
		if r.user.Load() {
			least = min(least, r.requests.Load())
		}
	}
	return least
}

// join adds a job; slotTable.mu is held.
func (s *slot) join(r *run) {
	jobs := append(slices.Clone(s.wanted()), r)
	s.jobs.Store(&jobs)
	if r.user.Load() {
		s.raise()
	}
	s.poke()
}

// poke has who waits for room look again.
func (s *slot) poke() {
	select {
	case s.joined <- struct{}{}:
	default: // it will anyway
	}
}

// urgent reports whether a user waits for the slot.
func (s *slot) urgent() bool {
	select {
	case <-s.raised:
		return true
	default:
		return false
	}
}

func (s *slot) priority() source.Priority {
	if s.urgent() {
		return source.User
	}
	return source.Bulk
}

type seriesKey struct {
	series     market.Series
	generation int64
}

// sent is a stretch that was published and may not be ingested yet.
type sent struct {
	r         market.Range
	state     coverage.State
	fetchedAt market.Instant
	retryAt   market.Instant
	at        time.Time
	number    int64 // counts the stretches of the table
}

// closer is a job whose end was published after the stretches up to mark: when that end is ingested, they are too, or they are
// lost.
type closer struct {
	mark int64
	job  uuid.UUID
}

// slotTable lets the jobs of this process share fetches, and remembers what was published until it is ingested.
type slotTable struct {
	store *coverage.Store
	now   func() time.Time

	mu       sync.Mutex
	inFlight map[slotKey]*slot      // guarded by mu
	recent   map[seriesKey][]sent   // guarded by mu
	ends     map[seriesKey][]closer // of what is in recent; guarded by mu
	numbered int64                  // the last sent.number, guarded by mu
	ways     []*way                 // guarded by mu
	waiting  int                    // users' slots that wait for room, guarded by mu
	// arrived is the index that ways were last compared with, at arrivedAt; guarded by mu.
	arrived   *coverage.Index
	arrivedAt time.Time
}

const (
	// sentFor bounds how long a published page counts without being seen in the coverage while no end of a job follows it:
	// one that ingest refused must become a gap again. One that an end follows counts until that is ingested, however far
	// ingest is behind: its job is published again while it seems silent (PIPELINE 15), and would be fetched again.
	sentFor = 30 * time.Second
	// shareAge is how much older than the asking a provisional reading may be to answer it.
	shareAge = time.Second
)

func newSlotTable(store *coverage.Store, now func() time.Time) *slotTable {
	return &slotTable{
		store: store, now: now, inFlight: make(map[slotKey]*slot), recent: make(map[seriesKey][]sent), ends: make(map[seriesKey][]closer),
	}
}

// claim gives the slot to the run, or returns the fetch that is in flight, which is a user's from then on if the run is.
func (t *slotTable) claim(key slotKey, r *run) (mine, other *slot) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.inFlight[key]
	mine, other = nil, s
	if s == nil {
		raised := make(chan struct{})
		s = &slot{
			owner: r, done: make(chan struct{}), raised: raised, raise: sync.OnceFunc(func() { close(raised) }),
			joined: make(chan struct{}, 1),
		}
		t.inFlight[key] = s
		mine, other = s, nil
	}
	s.join(r)
	return mine, other
}

// raise makes the fetches of a run a user's: somebody waits for its job again.
func (t *slotTable) raise(r *run) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.inFlight {
		if slices.Contains(s.wanted(), r) {
			s.raise()
			s.poke()
		}
	}
}

func (t *slotTable) release(key slotKey, s *slot, err error, abandoned bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.err, s.abandoned = err, abandoned
	delete(t.inFlight, key)
	close(s.done)
	if !t.aheadLocked(s, false) {
		return
	}
	for _, other := range t.inFlight { // its room is free, though nothing has come to the coverage
		if other.owner == s.owner {
			other.poke()
		}
	}
}

// published notes a page that the broker has.
func (t *slotTable) published(page *topic.Page) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key, now := seriesKey{page.Series, page.Generation}, t.now()
	for _, s := range page.Segments {
		t.numbered++
		t.recent[key] = append(t.recent[key], sent{
			r: s.Range, state: s.State, fetchedAt: page.FetchedAt, retryAt: s.RetryAt, at: now, number: t.numbered,
		})
	}
}

// missing returns what of set is neither covered nor just published. Provisional readings count where they are about as
// new as askedAt, unavailable ones until they may be asked for again.
func (t *slotTable) missing(series market.Series, generation int64, set market.RangeSet, askedAt market.Instant) market.RangeSet {
	now := market.FromTime(t.now())
	var there []market.Range
	counts := func(state coverage.State, fetchedAt, retryAt market.Instant) bool {
		switch state {
		case coverage.Final, coverage.Absent:
			return retryAt == 0 || retryAt > now // what is lent stands in until then
		case coverage.Provisional:
			return fetchedAt >= askedAt.Shift(-shareAge)
		case coverage.Unavailable:
			return retryAt == 0 || retryAt > now
		}
		return false
	}
	bounds := set.Bounds()
	for _, s := range t.store.Snapshot().Segments(series) {
		if s.Range.Overlaps(bounds) && (s.ExpiresAt == 0 || s.ExpiresAt > now) && counts(s.State, s.FetchedAt, s.RetryAt) {
			there = append(there, s.Range)
		}
	}
	t.mu.Lock()
	key := seriesKey{series, generation}
	kept := t.recent[key][:0]
	followed := t.followedLocked(key)
	for _, s := range t.recent[key] {
		if t.now().Sub(s.at) > sentFor && s.number > followed {
			continue
		}
		kept = append(kept, s)
		if s.r.Overlaps(bounds) && counts(s.state, s.fetchedAt, s.retryAt) {
			there = append(there, s.r)
		}
	}
	t.keepLocked(key, kept)
	t.mu.Unlock()
	return set.Subtract(market.NewRangeSet(there...))
}
