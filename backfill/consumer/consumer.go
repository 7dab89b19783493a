package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"barkeep/backfill/ingest"
	"barkeep/backfill/topic"
)

// The states that Config.Observe is told (DESIGN §3).
const (
	StateIdle       = "idle"
	StateProcessing = "processing_record"
	StateWriting    = "writing"
	StateError      = "error"
)

// Config sets a Consumer. Brokers, Pool and Deployment have no default.
type Config struct {
	// Brokers says how to reach the broker: seed brokers, TLS, SASL.
	Brokers []kgo.Opt
	// Pool has the service settings (schema.PoolConfig) and stays the caller's.
	Pool *pgxpool.Pool
	// Names gives the topics their names.
	Names topic.Names
	// Deployment is the uuid of the database; records of another are counted and dropped (PIPELINE 13).
	Deployment string
	// RevokeGrace is how long a batch in hand may take when its partition is revoked, default 2 s.
	RevokeGrace time.Duration
	// Logger takes what happens; nil discards it.
	Logger *slog.Logger
	// Observe, where set, is told each change of a partition's state. It must be quick and safe for concurrent use.
	Observe func(partition int32, state string)
	// committed, where set, is called after each commit of the database and before the broker hears of it; an error
	// ends the worker there. For tests that kill between the two.
	committed func(partition int32) error
}

// Validate returns an error that names the first setting that is missing.
func (c *Config) Validate() error {
	switch {
	case len(c.Brokers) == 0:
		return errors.New("consumer: no broker is set")
	case c.Pool == nil:
		return errors.New("consumer: no database is set")
	case c.Deployment == "":
		return errors.New("consumer: no deployment is set")
	}
	return nil
}

// Stats counts what a consumer did since it was made.
type Stats struct {
	// Records, Pages and Bars were committed to the database; Stale pages changed nothing.
	Records, Pages, Bars, Stale int64
	// Revised bars had been vouched for and were changed by their source since, Withdrawn ones were taken away.
	Revised, Withdrawn int64
	// Superseded, Ahead, Foreign and Dead records were refused: another generation, a clock ahead, another
	// deployment, not usable.
	Superseded, Ahead, Foreign, Dead int64
	// Moved counts offset rows found elsewhere than expected, Replays logs that were read again from their beginning.
	Moved, Replays int64
	// Lag is the number of records that the assigned partitions hold beyond what was committed, as last heard.
	Lag int64
}

// Consumer reads the bars topic into the database. Make it with New; Run it once. Its methods are safe for concurrent use.
type Consumer struct {
	config Config
	writer *ingest.Writer

	records, pages, bars, stale, superseded, ahead, foreign, dead, moved, replays, revised, withdrawn atomic.Int64

	mu  sync.Mutex
	lag map[int32]int64 // guarded by mu
}

// New returns a consumer, or Validate's error.
func New(config Config) (*Consumer, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	if config.RevokeGrace <= 0 {
		config.RevokeGrace = 2 * time.Second
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if config.Observe == nil {
		config.Observe = func(int32, string) {}
	}
	return &Consumer{config: config, writer: ingest.New(config.Pool, config.Logger), lag: make(map[int32]int64)}, nil
}

// Stats returns the counters.
func (c *Consumer) Stats() Stats {
	s := Stats{
		Records: c.records.Load(), Pages: c.pages.Load(), Bars: c.bars.Load(), Stale: c.stale.Load(),
		Superseded: c.superseded.Load(), Ahead: c.ahead.Load(), Foreign: c.foreign.Load(), Dead: c.dead.Load(),
		Moved: c.moved.Load(), Replays: c.replays.Load(), Revised: c.revised.Load(), Withdrawn: c.withdrawn.Load(),
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.lag {
		s.Lag += max(n, 0)
	}
	return s
}

// Run consumes until ctx ends, finishes the batches in hand within the grace, and returns nil. What goes wrong meanwhile is
// logged and tried again with backoff.
func (c *Consumer) Run(ctx context.Context) error {
	retry := newBackoff()
	for ctx.Err() == nil {
		err := c.session(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // a stop is a cause, not a failure
		}
		c.config.Logger.LogAttrs(ctx, slog.LevelWarn, "consumer starts anew", slog.Any("error", err))
		retry.wait(ctx)
	}
	return nil
}

// errTopicReplaced ends a session whose topic is not the one it began with.
var errTopicReplaced = errors.New("topic was made anew")

// session is one membership of the group, on one incarnation of the topic.
func (c *Consumer) session(ctx context.Context) error {
	s := &session{Consumer: c, workers: make(map[int32]*worker), failed: make(chan error, 1)}
	work, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	name := c.config.Names.Bars()
	var err error
	if s.reader, err = kgo.NewClient(c.options(
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{}),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchMaxBytes(16<<20), kgo.FetchMaxPartitionBytes(4<<20), kgo.FetchMaxWait(time.Second),
		kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerLinger(0),
	)...); err != nil {
		return fmt.Errorf("open reading client: %w", err)
	}
	defer s.reader.Close()
	s.admin = kadm.NewClient(s.reader)
	if s.cluster, s.topicID, err = s.identify(ctx); err != nil {
		return err
	}
	s.group, err = kgo.NewClient(c.options(
		kgo.ConsumerGroup(c.config.Names.Group("ingest", c.config.Deployment)), kgo.ConsumeTopics(name),
		kgo.DisableAutoCommit(), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.SessionTimeout(6*time.Second), kgo.RebalanceTimeout(10*time.Second), kgo.HeartbeatInterval(2*time.Second),
		kgo.OnPartitionsAssigned(func(_ context.Context, group *kgo.Client, added map[string][]int32) {
			group.PauseFetchPartitions(added)
			s.assign(work, added[name])
		}),
		kgo.OnPartitionsRevoked(func(_ context.Context, _ *kgo.Client, gone map[string][]int32) {
			s.release(gone[name], c.config.RevokeGrace)
		}),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, gone map[string][]int32) { s.release(gone[name], 0) }),
	)...)
	if err != nil {
		return fmt.Errorf("open group client: %w", err)
	}
	err = s.poll(ctx)
	s.releaseAll(c.config.RevokeGrace)
	s.group.CloseAllowingRebalance()
	abandon()
	s.running.Wait()
	return err
}

func (c *Consumer) options(more ...kgo.Opt) []kgo.Opt {
	return append(append([]kgo.Opt{kgo.ClientID("barkeep-consumer")}, c.config.Brokers...), more...)
}

// session belongs to Consumer.session.
type session struct {
	*Consumer
	group, reader    *kgo.Client
	admin            *kadm.Client
	cluster, topicID string
	failed           chan error // the first error that ends the session
	running          sync.WaitGroup

	workersMu sync.Mutex
	workers   map[int32]*worker // guarded by workersMu
}

// identify asks the broker which cluster and which incarnation of the topic this is.
func (s *session) identify(ctx context.Context) (cluster, topicID string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Second, errors.New("broker did not answer within 10 s"))
	defer cancel()
	name := s.config.Names.Bars()
	meta, err := s.admin.Metadata(ctx, name)
	if err != nil {
		return "", "", fmt.Errorf("read topic's metadata: %w", err)
	}
	detail := meta.Topics[name]
	if detail.Err != nil || len(detail.Partitions) == 0 {
		return "", "", fmt.Errorf("read metadata of topic %s: %w", name, errors.Join(errors.New("no such topic"), detail.Err))
	}
	return meta.Cluster, detail.ID.String(), nil
}

// poll hands records to the workers until ctx ends or the session fails.
func (s *session) poll(ctx context.Context) error {
	polling, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	s.running.Go(func() { ended <- s.watch(polling); stop() })
	for {
		fetches := s.reader.PollFetches(polling)
		if polling.Err() != nil {
			return <-ended
		}
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			s.workersMu.Lock()
			w := s.workers[p.Partition]
			s.workersMu.Unlock()
			if w != nil {
				w.deliver(p.FetchPartition)
			}
		})
	}
}

// watch returns when the session is to end: with ctx, with a worker's error, or when the topic is another one. A fetch by
// the id of a topic that is gone may only be retried inside the client, so the id is also polled.
func (s *session) watch(ctx context.Context) error {
	ticker := time.NewTicker(5 * time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("consume: %w", context.Cause(ctx))
		case err := <-s.failed:
			return err
		case <-ticker.C:
			if cluster, id, err := s.identify(ctx); err == nil && (cluster != s.cluster || id != s.topicID) {
				return errTopicReplaced
			}
		}
	}
}

// assign starts a worker for each partition. It is called by the group, and does nothing that can take long.
func (s *session) assign(ctx context.Context, partitions []int32) {
	s.workersMu.Lock()
	defer s.workersMu.Unlock()
	for _, number := range partitions {
		before := s.workers[number]
		w := newWorker(s, number)
		s.workers[number] = w
		working, abandon := context.WithCancel(ctx)
		w.abandon = abandon
		s.running.Go(func() {
			defer close(w.done)
			defer abandon()
			if before != nil {
				<-before.done // it was told to end when the partition went
			}
			w.run(working)
		})
	}
}

// release ends the workers of the partitions: no new batch from now on, and after the grace no old one either.
func (s *session) release(partitions []int32, grace time.Duration) {
	s.workersMu.Lock()
	var gone []*worker
	for _, number := range partitions {
		if w := s.workers[number]; w != nil {
			gone = append(gone, w)
			w.stop()
		}
	}
	s.workersMu.Unlock()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	for _, w := range gone {
		if grace > 0 {
			select {
			case <-w.done:
			case <-timer.C:
				grace = 0
			}
		}
		w.abandon()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, number := range partitions {
		delete(s.lag, number)
	}
}

func (s *session) releaseAll(grace time.Duration) {
	s.workersMu.Lock()
	all := make([]int32, 0, len(s.workers))
	for number := range s.workers {
		all = append(all, number)
	}
	s.workersMu.Unlock()
	s.release(all, grace)
}
