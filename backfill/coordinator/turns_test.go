package coordinator_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
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
