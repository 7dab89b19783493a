package producer

import (
	"context"
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
	"barkeep/backfill/ratebucket"
	"barkeep/backfill/source"
	"barkeep/backfill/topic"
	"barkeep/internal/actor"
)

// Config sets a Producer. Pool, Registry, Deployment and Brokers (or Options) are needed; the rest has defaults.
type Config struct {
	// Brokers are the seed brokers; Options say more (TLS, SASL).
	Brokers []string
	Options []kgo.Opt
	// Pool stays the caller's, and has service settings.
	Pool       *pgxpool.Pool
	Names      topic.Names
	Deployment string
	Registry   *source.Registry
	// Coverage is shared with the coordinator of the same process, who runs it; nil makes one that Run runs.
	Coverage *coverage.Store
	// Concurrency bounds the requests in flight per source, default 8.
	Concurrency int
	// MaxJobs bounds the jobs of a source that fetch at once, default 1,024; MaxQueued those taken from the broker, default 4,096.
	MaxJobs, MaxQueued int
	// Attempts bounds the requests for one page, default 8; Backoff is the first pause between two, default 200 ms, and
	// grows to BackoffLimit, default 10 s.
	Attempts              int
	Backoff, BackoffLimit time.Duration
	// Breaker is how long a source is left alone that failed for good, default DefaultBreaker.
	Breaker time.Duration
	// Report is how often the jobs' rows are written and read, default 2 s.
	Report time.Duration
	// ListAge is how old a list of instruments may grow, default 1 h; ListPoll how often that is looked at, default 5 s.
	ListAge, ListPoll time.Duration
	// Window bounds the pages per partition that are published and not ingested yet, default 16: two and a
	// half batches of ingest where pages are full, which keeps it busy, and what the page of a user stands behind.
	Window int
	// LivePoll is how often it is looked at which series are wanted live, default 1.5 s; LiveEvery is the least time between two
	// states of a bar that forms, default 1 s; LiveQuiet is how long a feed may tell nothing of a series before its forming bar is
	// read from the source's history, default 15 s.
	LivePoll, LiveEvery, LiveQuiet time.Duration
	Actors                         *actor.Registry
	Logger                         *slog.Logger
	Now                            func() time.Time
	// Observe, which may be nil, is told of each request to a source, for metrics.
	Observe func(Request)
}

// DefaultBreaker is how long a source that failed for good is not asked.
const DefaultBreaker = 15 * time.Second

// Request is one request for a page, as Config.Observe is told of it.
type Request struct {
	Source string
	// Took is the time of the request itself; Waited is what the source's rate limit held it back before.
	Took, Waited time.Duration
	// Skew is the source's clock less ours; it means something where Err is nil.
	Skew time.Duration
	Bars int
	Err  error
}

// Validate returns an error that names what is missing.
func (c *Config) Validate() error {
	switch {
	case c.Pool == nil:
		return errors.New("producer: Pool is nil")
	case c.Registry == nil:
		return errors.New("producer: Registry is nil")
	case c.Deployment == "":
		return errors.New("producer: Deployment is empty")
	case len(c.Brokers) == 0 && len(c.Options) == 0:
		return errors.New("producer: no brokers")
	}
	return nil
}

func (c *Config) setDefaults() {
	for _, n := range []struct {
		set *int
		to  int
	}{{&c.Concurrency, 8}, {&c.MaxJobs, 1024}, {&c.MaxQueued, 4096}, {&c.Attempts, 8}, {&c.Window, 16}} {
		if *n.set <= 0 {
			*n.set = n.to
		}
	}
	for _, d := range []struct {
		set *time.Duration
		to  time.Duration
	}{
		{&c.Backoff, 200 * time.Millisecond},
		{&c.BackoffLimit, 10 * time.Second},
		{&c.Breaker, DefaultBreaker},
		{&c.Report, 2 * time.Second},
		{&c.ListAge, time.Hour},
		{&c.ListPoll, 5 * time.Second},
		{&c.LivePoll, 1500 * time.Millisecond},
		{&c.LiveEvery, time.Second},
		{&c.LiveQuiet, 15 * time.Second},
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
	if c.Observe == nil {
		c.Observe = func(Request) {}
	}
}

// Producer does jobs. Make it with New, then Run it once.
type Producer struct {
	config   Config
	store    *coverage.Store
	ownStore bool
	client   *kgo.Client
	lanes    map[string]*lane
	slots    *slotTable
	queued   chan struct{} // one token per job taken from the broker
	commit   chan struct{} // asks for a commit
	jobs     sync.WaitGroup
	hints    atomic.Int64 // events on their way to the broker
	live     liveState

	mu         sync.Mutex
	partitions map[int32]*partition  // guarded by mu
	runs       map[uuid.UUID]*run    // guarded by mu
	probings   map[probeKey]*probing // guarded by mu; those under way
}

// New returns a producer that has connected to nobody yet.
func New(config Config) (*Producer, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	config.setDefaults()
	p := &Producer{
		config: config, store: config.Coverage, lanes: make(map[string]*lane),
		queued: make(chan struct{}, config.MaxQueued), commit: make(chan struct{}, 1),
		partitions: make(map[int32]*partition), runs: make(map[uuid.UUID]*run), probings: make(map[probeKey]*probing),
	}
	if p.store == nil {
		p.store = coverage.NewStore(config.Pool, coverage.Config{Logger: config.Logger, Now: config.Now})
		p.ownStore = true
	}
	p.slots = newSlotTable(p.store, config.Now)
	p.live.wanted = make(chan struct{}, 1)
	ratebucket.Share(config.Pool, config.Logger, config.Registry.All()...)
	for _, s := range config.Registry.All() {
		p.lanes[s.Name()] = newLane(s, config.Concurrency, config.MaxJobs, config.Actors)
	}
	return p, nil
}

// The group settings of PIPELINE 15 and 21.
const (
	sessionTimeout   = 6 * time.Second
	heartbeat        = time.Second
	rebalanceTimeout = 10 * time.Second
	callbackTimeout  = 2 * time.Second
	// fetchWait is how long the broker keeps a question for jobs that there are none for. It bounds what the jobs of a partition wait for that
	// is read only from the next question on: at start where some partitions have a committed offset and others have none, and after a
	// rebalance.
	fetchWait = 500 * time.Millisecond
)

func (p *Producer) open(ctx context.Context) (*kgo.Client, error) {
	opts := slices.Concat(p.config.Options, []kgo.Opt{
		kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerLinger(0), kgo.ProducerBatchMaxBytes(topic.MaxPageBytes*2 - (4 << 10)),
		kgo.ProducerBatchCompression(kgo.Lz4Compression(), kgo.NoCompression()),
		kgo.ConsumerGroup(p.config.Names.Group("producer", p.config.Deployment)), kgo.ConsumeTopics(p.config.Names.Jobs()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit(), kgo.FetchMaxWait(fetchWait),
		kgo.SessionTimeout(sessionTimeout), kgo.HeartbeatInterval(heartbeat), kgo.RebalanceTimeout(rebalanceTimeout),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, topics map[string][]int32) { p.assign(ctx, topics) }),
		kgo.OnPartitionsRevoked(func(_ context.Context, client *kgo.Client, topics map[string][]int32) {
			bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), callbackTimeout)
			defer cancel()
			_ = p.commitNow(bounded, client) // what is not committed is done again
			p.revoke(topics)
		}),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, topics map[string][]int32) { p.revoke(topics) }),
	})
	if len(p.config.Brokers) > 0 {
		opts = append(opts, kgo.SeedBrokers(p.config.Brokers...))
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("open broker client: %w", err)
	}
	return client, nil
}

// Run does jobs until ctx ends; then it abandons those in hand, which the next producer takes up, leaves the group and
// returns nil.
func (p *Producer) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	if p.ownStore {
		group.Go(func() { _ = p.store.Run(ctx) })
	}
	group.Go(func() { p.keepLists(ctx) })
	client, err := p.open(ctx)
	if err != nil {
		return err
	}
	p.client = client
	group.Go(func() { p.keepReporting(ctx) })
	p.jobs.Go(func() { p.keepLive(ctx) })
	group.Go(func() { p.keepCommitting(ctx) })
	p.consume(ctx)
	cancel()
	p.jobs.Wait()
	bounded, end := context.WithTimeout(context.WithoutCancel(ctx), callbackTimeout)
	defer end()
	if err := p.commitNow(bounded, client); err != nil {
		p.config.Logger.LogAttrs(ctx, slog.LevelInfo, "offsets of jobs were not committed at the end", slog.Any("error", err))
	}
	client.CloseAllowingRebalance()
	return nil
}

func (p *Producer) consume(ctx context.Context) {
	for ctx.Err() == nil {
		fetches := p.client.PollFetches(ctx)
		replaced := false
		fetches.EachError(func(name string, partition int32, err error) {
			replaced = replaced || topic.Replaced(err)
			if ctx.Err() == nil {
				p.config.Logger.LogAttrs(ctx, slog.LevelWarn, "cannot read jobs", slog.String("topic", name),
					slog.Int("partition", int(partition)), slog.Any("error", err))
			}
		})
		for _, r := range fetches.Records() {
			p.take(ctx, r)
		}
		if fetches.NumRecords() == 0 && fetches.Err() != nil {
			pause(ctx, p.config.Backoff)
		}
		if replaced {
			// The jobs of the topic that is gone are published again by who waits for them.
			p.client.PurgeTopicsFromConsuming(p.config.Names.Jobs())
			p.client.AddConsumeTopics(p.config.Names.Jobs())
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// Jobs returns the number of jobs taken and not ended.
func (p *Producer) Jobs() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.runs)
}
