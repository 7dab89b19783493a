package coordinator

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kgo"

	"barkeep/backfill/coverage"
	"barkeep/backfill/topic"
	"barkeep/internal/actor"
	"barkeep/internal/market"
)

// Config sets a Coordinator. Pool, Coverage, Deployment and Brokers (or Options) are needed; the rest has defaults.
type Config struct {
	// Brokers are the seed brokers; Options say more (TLS, SASL).
	Brokers []string
	Options []kgo.Opt
	// Pool stays the caller's, and has service settings.
	Pool       *pgxpool.Pool
	Names      topic.Names
	Deployment string
	// Coverage stays the caller's, who runs it.
	Coverage *coverage.Store
	// Fallback names, for a source, those that may lend it bars, in order: the venues may be mixed. Symbols with a prefix name their venue
	// and are not lent to. It is not changed.
	Fallback map[string][]string
	// MaxBars bounds a statement's requirement where the request says nothing, default 20,000,000.
	MaxBars int64
	// MaxJobs bounds the jobs awaited at once, default 10,000.
	MaxJobs int
	// Silence is how long a job's row may stay unchanged before the job is published again, default 10 s.
	Silence time.Duration
	// Renew is how often wanted_until is renewed, default 2 s; Poll the mean time between two readings of the awaited
	// jobs' rows, default 1 s.
	Renew, Poll time.Duration
	// ListAge is the age up to which a source's list is believed when it does not have a symbol, default 1 min; ListWait
	// how long a newer one is then waited for, default 10 s.
	ListAge, ListWait time.Duration
	// LiveGrace is how long the topic of a live series stays that nobody wants, default 2 min.
	LiveGrace time.Duration
	// LiveRenewal is how often interest in live series is renewed, and looked at, default topic.LiveRenewal.
	LiveRenewal time.Duration
	Actors      *actor.Registry
	Logger      *slog.Logger
	Now         func() time.Time
}

// Validate returns an error that names what is missing.
func (c *Config) Validate() error {
	switch {
	case c.Pool == nil:
		return errors.New("coordinator: Pool is nil")
	case c.Coverage == nil:
		return errors.New("coordinator: Coverage is nil")
	case c.Deployment == "":
		return errors.New("coordinator: Deployment is empty")
	case len(c.Brokers) == 0 && len(c.Options) == 0:
		return errors.New("coordinator: no brokers")
	}
	return nil
}

func (c *Config) setDefaults() {
	if c.MaxBars <= 0 {
		c.MaxBars = 20_000_000
	}
	if c.MaxJobs <= 0 {
		c.MaxJobs = 10_000
	}
	for _, d := range []struct {
		set *time.Duration
		to  time.Duration
	}{
		{&c.Silence, 10 * time.Second},
		{&c.Renew, 2 * time.Second},
		{&c.Poll, time.Second},
		{&c.ListAge, time.Minute},
		{&c.ListWait, 10 * time.Second},
		{&c.LiveGrace, 2 * time.Minute},
		{&c.LiveRenewal, topic.LiveRenewal},
	} {
		if *d.set <= 0 {
			*d.set = d.to
		}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
}

// Coordinator has gaps filled. Make it with New, then Run it; its methods are safe for concurrent use. Close it after Run
// has returned.
type Coordinator struct {
	config Config
	client *kgo.Client
	jobs   *board
	memory *memory
	counts *countCache
	quotas quotas
	id     uuid.UUID // of this coordinator in barkeep.live

	mu     sync.Mutex    // guards what follows
	listed chan struct{} // closed and replaced when a source's list was read
	live   live

	gaps, gapBars atomic.Int64
}

// New returns a coordinator. It connects to nobody yet.
func New(config Config) (*Coordinator, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	config.setDefaults()
	opts := slices.Concat(config.Options, []kgo.Opt{
		kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerLinger(0),
		kgo.ProducerBatchCompression(kgo.Lz4Compression(), kgo.NoCompression()), kgo.RecordDeliveryTimeout(10 * time.Second),
	})
	if len(config.Brokers) > 0 {
		opts = append(opts, kgo.SeedBrokers(config.Brokers...))
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("open broker client: %w", err)
	}
	c := &Coordinator{
		config: config, client: client, jobs: newBoard(), memory: newMemory(), counts: newCountCache(),
		id: uuid.New(), listed: make(chan struct{}), live: live{following: map[market.Series]*interest{}},
	}
	return c, nil
}

// Close releases the connections to the broker.
func (c *Coordinator) Close() { c.client.Close() }

// Snapshot returns the newest index of coverage.
func (c *Coordinator) Snapshot() *coverage.Index { return c.config.Coverage.Snapshot() }

// Version returns the index that a REPEATABLE READ session keeps: what is known of its snapshot. That is nothing where the index
// may not be relied on, since what was removed meanwhile may be there again when it is asked for.
func (c *Coordinator) Version() *coverage.Index {
	if index := c.Snapshot(); c.config.Coverage.Valid() {
		return index
	}
	return &coverage.Index{}
}

// Stats are counts since the start.
type Stats struct {
	// Gaps is the number of gaps for which jobs were made, Bars that of the bars missing in them at most: those of the
	// instrument's life, as far as it is known.
	Gaps, Bars int64
	// Awaited is the number of jobs that somebody is waiting for.
	Awaited int
}

// Stats returns the counts.
func (c *Coordinator) Stats() Stats {
	return Stats{Gaps: c.gaps.Load(), Bars: c.gapBars.Load(), Awaited: c.Awaited()}
}

// Awaited returns the number of jobs that somebody waits for.
func (c *Coordinator) Awaited() int { return c.jobs.len() }

// now returns the later of our clock and the database's: which of the two is right nobody can say, and now() of a statement
// is the database's. Where ours is right, a bar too many is asked for.
func (c *Coordinator) now() market.Instant {
	return c.ahead(c.config.Now())
}

// ahead returns the database's time at most, where it is that time here.
func (c *Coordinator) ahead(at time.Time) market.Instant {
	return market.FromTime(at.Add(max(c.config.Coverage.Skew().Most, 0)))
}

// Missing returns how many bars of what the requirements name are not there, and whether all are. Requirements of n bars
// count as they would if nothing were absent. It asks nobody; where the index is not valid, or not of the life, nothing counts
// as covered.
func (c *Coordinator) Missing(life string, reqs []market.Requirement, freshness time.Duration) (bars int64, covered bool) {
	index, at := c.Snapshot(), c.config.Now()
	if !c.config.Coverage.ValidAt(at) || !index.OfLife(life) {
		return 0, false
	}
	now := c.ahead(at)
	covered = true
	for i := range reqs {
		r := &reqs[i]
		if index.Covered(r.Series, r.Ranges, atLeast(freshness), now) && len(r.Counts) == 0 {
			continue
		}
		gap := index.Missing(r.Series, r.Ranges, atLeast(freshness), now)
		for _, n := range r.Counts {
			if inside(index, r.Series, n, atLeast(freshness), now) {
				continue
			}
			if _, known := c.counts.get(index, r.Series, n, atLeast(freshness), now); !known {
				covered = false
				bars = add(bars, n.N)
			}
		}
		if !gap.Empty() {
			covered = false
			bars = add(bars, gap.Count(r.Series.Timeframe))
		}
	}
	return bars, covered
}

// CoveredAt reports whether what is covered now was covered at an older index too: a snapshot of that time sees the bars. It
// asks nobody.
func (c *Coordinator) CoveredAt(at *coverage.Index, life string, reqs []market.Requirement, freshness time.Duration) bool {
	index, now := c.Snapshot(), c.now()
	if !at.OfLife(life) {
		return false
	}
	for i := range reqs {
		r := &reqs[i]
		if !at.Covered(r.Series, r.Ranges, atLeast(freshness), now) {
			return false
		}
		for _, n := range r.Counts {
			if inside(at, r.Series, n, atLeast(freshness), now) {
				continue
			}
			needs, known := c.counts.get(index, r.Series, n, atLeast(freshness), now)
			if !known || !at.Covered(r.Series, market.NewRangeSet(needs), atLeast(freshness), now) {
				return false
			}
		}
	}
	return true
}

func add(a, b int64) int64 {
	if a > int64(market.PosInf)-b {
		return int64(market.PosInf)
	}
	return a + b
}

// minFreshness is the least age that matters: producers share readings this old among jobs.
const minFreshness = time.Second

// atLeast leaves the default, which is not positive, alone.
func atLeast(freshness time.Duration) time.Duration {
	if freshness > 0 {
		return max(freshness, minFreshness)
	}
	return freshness
}
