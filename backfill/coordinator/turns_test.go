package coordinator_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"barkeep/backfill/coordinator"
	"barkeep/backfill/producer"
	"barkeep/backfill/source"
	"barkeep/backfill/source/sim"
	"barkeep/backfill/topic"
	"barkeep/internal/market"
)

// A user has asked for years, whose source is faster than ingest: the one page of another stands behind a window of pages, not
// behind the years.
func TestRule16_OneDayDoesNotStandBehindAUsersYears(t *testing.T) {
	t.Parallel()
	r := newRig(t, sim.Config{PageLimit: 60})
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r.gated(8, func(context.Context, source.Query) error { return nil })
	pages := r.pages(ctx)
	years := ensure(ctx, c, need("sim:BTCUSD", market.M1, "2024-01-01T00:00:00Z", "2024-01-11T00:00:00Z"), nil)
	const all, window = 240, 16
	before := 0
	for quiet := false; !quiet; {
		select {
		case <-pages:
			before++
		case <-time.After(500 * time.Millisecond):
			quiet = before > 0
		}
	}
	require.LessOrEqual(t, before, window, "nothing is ingested")
	day := ensure(ctx, c, need("sim:BTCUSD", market.H1, "2015-03-01T00:00:00Z", "2015-03-02T00:00:00Z"), nil)
	for p := range pages {
		if p.Series.Timeframe == market.H1 {
			break
		}
		before++
	}
	require.LessOrEqual(t, before, window)
	r.consumer()
	require.NoError(t, <-day)
	require.NoError(t, <-years)
	require.Len(t, r.source.pages, all+1)
}

// pages gives what is published with bars, until ctx ends.
func (r *rig) pages(ctx context.Context) <-chan *topic.Page {
	client, err := kgo.NewClient(append([]kgo.Opt{kgo.ConsumeTopics(r.names.Bars()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())}, r.opts...)...)
	require.NoError(r.t, err)
	pages := make(chan *topic.Page)
	ctx, cancel := context.WithCancel(ctx)
	var reading sync.WaitGroup
	reading.Go(func() {
		defer client.Close()
		for ctx.Err() == nil {
			for _, record := range client.PollFetches(ctx).Records() {
				value, err := topic.UnmarshalBars(record.Value)
				if err != nil || value.Page == nil || len(value.Page.Bars) == 0 {
					continue
				}
				select {
				case pages <- value.Page:
				case <-ctx.Done():
				}
			}
		}
	})
	r.t.Cleanup(func() { cancel(); reading.Wait() })
	return pages
}

// mute is the simulated market under another name, which never answers.
type mute struct {
	source.Source
	asked chan struct{}
}

func (*mute) Name() string { return "mute" }

func (s *mute) Fetch(ctx context.Context, _ source.Query) (source.Answer, error) {
	s.asked <- struct{}{}
	<-ctx.Done()
	return source.Answer{}, ctx.Err()
}

// The jobs of a source that does not answer have all places for jobs: those of another are not held up.
func TestRule16_ASourceIsNotInTheWayOfAnother(t *testing.T) {
	t.Parallel()
	r := newRig(t, sim.Config{})
	r.consumer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	silent := &mute{Source: r.source, asked: make(chan struct{}, 100)}
	p, err := producer.New(producer.Config{
		Options: r.opts, Pool: r.db.Pool, Names: r.names, Deployment: r.dep, Registry: source.RegistryOf(silent, r.source), Logger: r.log,
		MaxJobs: 1,
	})
	require.NoError(t, err)
	r.start(p.Run)
	asking, leave := context.WithCancel(ctx)
	result := ensure(asking, c, need("mute:BTCUSD", market.M1, "2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z"), nil)
	<-silent.asked
	_, err = c.Ensure(ctx, need("sim:BTCUSD", market.M1, "2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z"), nil)
	require.NoError(t, err)
	leave()
	require.ErrorIs(t, <-result, context.Canceled)
}

// TestRule16_ManySymbolsAreSubmittedAtOnce: in one transaction, and not one after the other.
func TestRule16_ManySymbolsAreSubmittedAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, sim.Config{})
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var req coordinator.Request
	for _, coin := range sim.Coins() {
		symbol := "sim:" + coin.Symbol()
		r.bind(symbol, coin.Symbol())
		req.Requirements = append(req.Requirements,
			need(market.Symbol(symbol), market.M1, "2024-06-01T00:00:00Z", "2024-06-02T00:00:00Z").Requirements...)
	}
	result := ensure(ctx, c, req, nil)
	require.Eventually(t, func() bool {
		var jobs, transactions int
		err := r.db.Pool.QueryRow(ctx, `SELECT count(*), count(DISTINCT xmin::text) FROM barkeep.job`).Scan(&jobs, &transactions)
		require.NoError(t, err)
		require.LessOrEqual(t, transactions, 1)
		return jobs == len(req.Requirements)
	}, 10*time.Second, time.Millisecond)
	r.consumer()
	r.producer()
	require.NoError(t, <-result)
}

// The sequence: three producers are there, and fifty symbols are asked for at once. None of the three stands idle while the others work: the first page of
// each ends when all of them have one in hand.
func TestRule16_FiftySymbolsKeepEveryProducerBusy(t *testing.T) {
	t.Parallel()
	r := newRig(t, sim.Config{})
	c := r.coordinator()
	r.consumer()
	const producers = 3
	var begun atomic.Int32 // producers that have had a page in hand
	met := make(chan struct{})
	for range producers {
		var once sync.Once
		together := func(source.Query) error {
			once.Do(func() {
				if begun.Add(1) == producers {
					close(met)
				}
			})
			select {
			case <-met:
				return nil
			case <-t.Context().Done():
				return context.Cause(t.Context())
			}
		}
		r.source = &counted{Source: sim.New(sim.Config{}), pages: map[market.Range]int{}}
		r.source.fail.Store(&together)
		r.producer()
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client, err := kgo.NewClient(r.opts...)
	require.NoError(t, err)
	defer client.Close()
	require.Eventually(t, func() bool { // else those that come later are given what the others have in hand
		groups, err := kadm.NewClient(client).DescribeGroups(ctx)
		return err == nil && slices.ContainsFunc(groups.Sorted(), func(g kadm.DescribedGroup) bool {
			return strings.Contains(g.Group, "producer") && strings.HasSuffix(g.Group, r.dep) && g.State == "Stable" && len(g.Members) == producers
		})
	}, time.Minute, 50*time.Millisecond)
	var req coordinator.Request
	for i := range 50 {
		symbol := market.Symbol(fmt.Sprintf("sim:S%02d", i))
		r.bind(string(symbol), "BTCUSD")
		req.Requirements = append(req.Requirements, need(symbol, market.M1, "2024-06-01T00:00:00Z", "2024-06-01T06:00:00Z").Requirements...)
	}
	_, err = c.Ensure(ctx, req, nil)
	require.NoError(t, err)
	for _, each := range req.Requirements {
		require.Equal(t, 360, r.bars(string(each.Series.Symbol), "1m", "2024-06-01 00:00Z", "2024-06-01 06:00Z"))
	}
}
