package producer

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"barkeep/backfill/source"
	"barkeep/backfill/topic"
	"barkeep/internal/actor"
	"barkeep/internal/market"
)

// liveState is what a Producer has for live series.
type liveState struct {
	wanted chan struct{} // has an element when what is wanted may be another

	following, forming, final, read, late, failed atomic.Int64
}

// LiveStats counts what a Producer has done for live series.
type LiveStats struct {
	// Following is the number of series that are followed now.
	Following int64
	// Forming and Final count the records published to the series' topics; Read those of Final that were read from the source's
	// history, because the source has no feed or its feed had not told them.
	Forming, Final, Read int64
	// Late counts the ticks of feeds that were dropped: they came twice, too late, or from a clock that is wrong.
	Late int64
	// Failed counts how often following a series failed and was begun again.
	Failed int64
}

// Live returns what was counted so far.
func (p *Producer) Live() LiveStats {
	l := &p.live
	return LiveStats{
		Following: l.following.Load(), Forming: l.forming.Load(), Final: l.final.Load(), Read: l.read.Load(), Late: l.late.Load(), Failed: l.failed.Load(),
	}
}

// bound is a series that somebody wants, and what serves it.
type bound struct {
	series           market.Series
	source, vendorID string
	generation       int64
}

// keepLive follows the series that barkeep.live wants, of the symbols whose partition of the jobs topic is this producer's, so
// that a rebalance moves them. While the database cannot be asked, what was wanted still is.
func (p *Producer) keepLive(ctx context.Context) {
	var group sync.WaitGroup
	defer group.Wait()
	feeds := p.openFeeds(ctx, &group)
	following := map[bound]*follow{}
	for {
		wanted, err := p.wantedLive(ctx)
		switch {
		case err == nil:
			p.adjust(&group, following, wanted, feeds) //nolint:contextcheck // they live as long as the partition is owned
		case ctx.Err() == nil:
			p.config.Logger.LogAttrs(ctx, slog.LevelWarn, "cannot read which series are wanted live", slog.Any("error", err))
		}
		timer := time.NewTimer(time.Duration(float64(p.config.LivePoll) * (0.75 + 0.5*rand.Float64())))
		select {
		case <-ctx.Done():
		case <-p.live.wanted:
		case <-timer.C:
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

func (p *Producer) openFeeds(ctx context.Context, group *sync.WaitGroup) map[string]source.Feed {
	feeds := map[string]source.Feed{}
	for _, s := range p.config.Registry.All() {
		if follower, can := s.(source.Follower); can {
			if feed := follower.Feed(p.config.Logger); feed != nil {
				feeds[s.Name()] = feed
				group.Go(func() {
					if err := feed.Run(ctx); err != nil {
						p.config.Logger.LogAttrs(ctx, slog.LevelError, "live feed ended", slog.String("source", s.Name()), slog.Any("error", err))
					}
				})
			}
		}
	}
	return feeds
}

// wantedLive returns what is wanted now and bound to a source. A symbol that is not bound yet will be, by who asked.
func (p *Producer) wantedLive(ctx context.Context) (map[bound]struct{}, error) {
	rows, err := p.config.Pool.Query(ctx, `SELECT DISTINCT l.symbol, l.timeframe, s.source, s.vendor_id, s.generation
	  FROM barkeep.live l JOIN barkeep.symbol s ON s.symbol = l.symbol WHERE l.wanted_until > clock_timestamp()`)
	if err != nil {
		return nil, fmt.Errorf("read live series: %w", err)
	}
	wanted := map[bound]struct{}{}
	var b bound
	var symbol, timeframe string
	_, err = pgx.ForEachRow(rows, []any{&symbol, &timeframe, &b.source, &b.vendorID, &b.generation}, func() error {
		tf, err := market.ParseTimeframe(timeframe)
		if err != nil {
			return nil //nolint:nilerr // nobody of this version wrote it
		}
		b.series = market.Series{Symbol: market.Symbol(symbol), Timeframe: tf}
		wanted[b] = struct{}{}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read live series: %w", err)
	}
	return wanted, nil
}

// adjust ends what is not wanted any more, or was taken away, and begins what is new.
func (p *Producer) adjust(group *sync.WaitGroup, following map[bound]*follow, wanted map[bound]struct{}, feeds map[string]source.Feed) {
	for b, f := range following {
		if _, still := wanted[b]; !still {
			f.end()
		}
		select {
		case <-f.done:
			delete(following, b)
		default:
		}
	}
	for b := range wanted {
		if following[b] != nil {
			continue
		}
		f := p.newFollow(b, feeds[b.source])
		if f == nil {
			continue
		}
		ctx, cancel := context.WithCancel(f.owner.work())
		f.end = cancel
		following[b] = f
		group.Go(func() {
			defer close(f.done)
			defer cancel()
			f.run(ctx)
		})
	}
	p.live.following.Store(int64(len(following)))
}

// newFollow returns nil where the series is another producer's, or its source is not this producer's to ask.
func (p *Producer) newFollow(b bound, feed source.Feed) *follow {
	in := p.lanes[b.source]
	if in == nil {
		return nil
	}
	p.mu.Lock()
	owner := p.partitions[p.partitionOf(b.series.Symbol)]
	p.mu.Unlock()
	if owner == nil {
		return nil
	}
	return &follow{
		p: p, owner: owner, bound: b, lane: in, info: in.source.Info(), feed: feed, done: make(chan struct{}), box: newBox(),
		machine: p.config.Actors.New(actor.Producer(), "live "+b.series.String()),
	}
}

// partitionOf returns the partition that the jobs of a symbol are in.
func (p *Producer) partitionOf(symbol market.Symbol) int32 {
	r := &kgo.Record{Key: []byte(symbol)}
	return int32(kgo.StickyKeyPartitioner(nil).ForTopic(p.config.Names.Jobs()).Partition(r, topic.SymbolPartitions)) //nolint:gosec // a partition's number
}
