package live

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"barkeep/backfill/topic"
	"barkeep/internal/actor"
	"barkeep/internal/market"
)

// Follower sees to it that series are followed. *coordinator.Coordinator implements it.
type Follower interface {
	// Follow returns when the topic of the series is there, and keeps it there until Unfollow. lost is closed when it could not: Follow
	// is to be called again. A series is followed once at a time.
	Follow(ctx context.Context, series market.Series, askedBy string) (lost <-chan struct{}, err error)
	// Unfollow ends the interest. It does nothing where there is none.
	Unfollow(series market.Series)
}

// Config sets a Hub. Follower, Deployment and Brokers (or Options) are needed; the rest has defaults.
type Config struct {
	// Brokers are the seed brokers; Options say more (TLS, SASL).
	Brokers    []string
	Options    []kgo.Opt
	Names      topic.Names
	Deployment string
	Follower   Follower
	// FormingEvery is the least time between two states of a forming bar, default 250 ms.
	FormingEvery time.Duration
	// Backlog is how many bars of one series wait for one listener at most, default 256.
	Backlog int
	// Backoff is the pause after the first failure of a reader, default 100 ms; it doubles up to BackoffLimit, default 5 s.
	Backoff, BackoffLimit time.Duration
	Actors                *actor.Registry
	Logger                *slog.Logger
	Now                   func() time.Time
}

// Validate returns an error that names what is missing.
func (c *Config) Validate() error {
	switch {
	case c.Follower == nil:
		return errors.New("live: Follower is nil")
	case c.Deployment == "":
		return errors.New("live: Deployment is empty")
	case len(c.Brokers) == 0 && len(c.Options) == 0:
		return errors.New("live: no brokers")
	}
	return nil
}

func (c *Config) setDefaults() {
	if c.FormingEvery <= 0 {
		c.FormingEvery = 250 * time.Millisecond
	}
	if c.Backlog <= 0 {
		c.Backlog = 256
	}
	if c.Backoff <= 0 {
		c.Backoff = 100 * time.Millisecond
	}
	if c.BackoffLimit <= 0 {
		c.BackoffLimit = 5 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
}

// Hub has the readers. Make it with New, then Run it; its methods are safe for concurrent use. Close it after Run has returned.
// Locks nest in this order: Hub.mu, reader.mu, Subscription.mu.
type Hub struct {
	config Config
	client *kgo.Client
	counts counts

	starts chan struct{} // has an element when fresh may have some

	mu      sync.Mutex                // guards what follows
	readers map[market.Series]*reader // those that somebody listens to, and those that are about to end
	byTopic map[string]*reader
	fresh   []*reader // not started yet
}

type counts struct{ records, passed, repeated, unreadable, missed atomic.Int64 }

// Stats are counts since the start.
type Stats struct {
	// Records were read; Passed of them were given to listeners, once each however many there are. Repeated were known already, or older than
	// what was passed on; Unreadable could not be read, or were another deployment's.
	Records, Passed, Repeated, Unreadable int64
	// Missed counts the bars that listeners did not take in time, for each listener.
	Missed int64
	// Series is the number of series that are read now, Listeners that of subscriptions.
	Series, Listeners int
}

// New returns a hub. It connects to nobody yet.
func New(config Config) (*Hub, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	config.setDefaults()
	opts := slices.Concat(config.Options, []kgo.Opt{
		// A reader whose place in the log is gone reads the log from its start: it knows what it has passed on.
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.KeepRetryableFetchErrors(),
		kgo.FetchMaxWait(time.Second), // an answer comes as soon as there is a record; this bounds what a new series waits for
	})
	if len(config.Brokers) > 0 {
		opts = append(opts, kgo.SeedBrokers(config.Brokers...))
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("open broker client: %w", err)
	}
	return &Hub{
		config: config, client: client, starts: make(chan struct{}, 1),
		readers: map[market.Series]*reader{}, byTopic: map[string]*reader{},
	}, nil
}

// Close releases the connections to the broker.
func (h *Hub) Close() { h.client.Close() }

// Subscribe has the bars of the series kept for the caller from now on; it never waits. wake is called when there is something to take, from
// any goroutine; it must not wait, nor call the subscription. AskedBy is the role that listens. The caller closes the subscription.
func (h *Hub) Subscribe(series market.Series, askedBy string, wake func()) *Subscription {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.readers[series]
	if r == nil {
		r = newReader(h, series, askedBy)
		h.readers[series], h.byTopic[r.topic] = r, r
		h.fresh = append(h.fresh, r)
		select {
		case h.starts <- struct{}{}:
		default:
		}
	}
	sub := &Subscription{reader: r, wake: wake, limit: h.config.Backlog}
	r.add(sub)
	return sub
}

// Stats returns the counts.
func (h *Hub) Stats() Stats {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := Stats{
		Records: h.counts.records.Load(), Passed: h.counts.passed.Load(), Repeated: h.counts.repeated.Load(),
		Unreadable: h.counts.unreadable.Load(), Missed: h.counts.missed.Load(), Series: len(h.readers),
	}
	for _, r := range h.readers {
		s.Listeners += r.listeners()
	}
	return s
}

// Run reads until ctx ends, and then ends all interest. What listeners have not taken stays for them.
func (h *Hub) Run(ctx context.Context) error {
	var group sync.WaitGroup
	group.Go(func() { h.poll(ctx) })
	for {
		select {
		case <-ctx.Done():
			group.Wait()
			return nil
		case <-h.starts:
		}
		h.mu.Lock()
		fresh := h.fresh
		h.fresh = nil
		h.mu.Unlock()
		for _, r := range fresh {
			group.Go(func() { r.run(ctx) })
		}
	}
}

// poll gives each record to its reader.
func (h *Hub) poll(ctx context.Context) {
	for {
		fetches := h.client.PollFetches(ctx)
		if ctx.Err() != nil {
			return
		}
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			h.mu.Lock()
			r := h.byTopic[p.Topic]
			h.mu.Unlock()
			if r == nil {
				return // nobody listens any more
			}
			for _, record := range p.Records {
				r.take(ctx, record)
			}
			switch {
			case errors.Is(p.Err, kerr.UnknownTopicOrPartition), errors.Is(p.Err, kerr.UnknownTopicID):
				r.fail(p.Err)
			case p.Err != nil: // the client tries again
				h.config.Logger.LogAttrs(ctx, slog.LevelDebug, "live bars not read", slog.String("topic", p.Topic), slog.Any("error", p.Err))
			}
		})
	}
}
