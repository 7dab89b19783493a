package producer

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"

	"barkeep/backfill/source"
	"barkeep/backfill/topic"
	"barkeep/internal/market"
)

const (
	// maxHints bounds the events on their way to the broker: more are dropped, so that a broker that is away does not fill
	// up with hints what pages need.
	maxHints = 256
	// hintEvery is how often a job tells of its progress at most.
	hintEvery = 200 * time.Millisecond
	// holdsBack is how long a wait must be to be told of (PIPELINE 18): shorter ones are over before anybody gives up.
	holdsBack = time.Second
)

// delay is the wait of a job before its next request.
type delay struct {
	until time.Time
	cause string
}

// hint publishes an event. It never waits, and an event that cannot be sent is lost: nothing depends on it (PIPELINE 17).
func (r *run) hint(ctx context.Context, e topic.Event) {
	p := r.p
	if p.hints.Add(1) > maxHints {
		p.hints.Add(-1)
		return
	}
	e.RecordID, e.Deployment, e.JobID, e.Series = uuid.NewString(), p.config.Deployment, r.job.ID, r.job.Series
	e.At, e.PagesDone, e.BarsDone, e.BarsTotal = p.now(), r.sentPages.Load(), r.sentBars.Load(), r.total.Load()
	p.client.TryProduce(ctx, p.config.Names.EventRecord(e), func(*kgo.Record, error) { p.hints.Add(-1) })
}

// advanced tells of a published page, now and then.
func (r *run) advanced(ctx context.Context, page *topic.Page) {
	r.sentPages.Add(1)
	r.sentBars.Add(int64(len(page.Bars)))
	now, last := r.p.config.Now().UnixNano(), r.hintedAt.Load()
	if now-last < int64(hintEvery) || !r.hintedAt.CompareAndSwap(last, now) {
		return
	}
	r.hint(ctx, topic.Event{Kind: topic.Advanced})
}

// delayed notes and tells that the next request cannot start before until; reports repeat it while it lasts.
func (r *run) delayed(ctx context.Context, until time.Time, cause string) {
	if until.Sub(r.p.config.Now()) < holdsBack {
		return
	}
	if known := r.delay.Load(); known != nil && known.until.Sub(until).Abs() < holdsBack {
		return // the other slots of the job wait for the same
	}
	r.delay.Store(&delay{until, cause})
	r.warn(ctx)
}

// warn tells of the delay, where there still is one.
func (r *run) warn(ctx context.Context) {
	d := r.delay.Load()
	if d == nil || !d.until.After(r.p.config.Now()) {
		return
	}
	r.hint(ctx, topic.Event{Kind: topic.Warned, Message: d.cause, StartAt: market.FromTime(d.until)})
}

// limited is a source with a rate limit.
type limited interface{ Limiter() *source.Limiter }

// queue tells of the wait for the rate limit that a request would have now.
func (r *run) queue(ctx context.Context) {
	s, found := r.lane.source.(limited)
	if !found {
		return
	}
	if wait := s.Limiter().Earliest(); wait >= holdsBack {
		r.delayed(ctx, r.p.config.Now().Add(wait), r.job.Source+": its rate limit is used up")
	}
}
