package live

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"barkeep/backfill/topic"
	"barkeep/internal/actor"
	"barkeep/internal/market"
)

// reader reads the topic of one series for all who listen to it.
type reader struct {
	hub     *Hub
	series  market.Series
	topic   string
	askedBy string // who listened first
	machine *actor.Machine
	stirred chan struct{} // has an element when somebody has gone, or the reading has failed

	mu     sync.Mutex // guards what follows
	subs   map[*Subscription]struct{}
	failed error // why what is read has to be begun again
	place  place
	// late is a state of the bar that forms which came too soon after the one before; it is passed on by timer, unless a newer one comes.
	late  *item
	timer *time.Timer // nil while there is no late one
	// formed is when the last state of a forming bar was passed on.
	formed time.Time
}

// place is how far a reader has come. What it says holds however often, and in how many copies, the log is read:
//
//	final   the ts of the last final bar passed on: no bar up to it is passed on again
//	seq     the greatest number passed on: no forming bar up to it is passed on, and a final one (which must not be lost) gets the next
//	next    the place in the log behind the last record
//	stamp   the greatest time of a record: one in front of next that is younger is of another log, whose numbers begin anew
type place struct {
	final market.Instant
	seq   int64
	next  int64
	stamp time.Time
}

func newReader(h *Hub, series market.Series, askedBy string) *reader {
	return &reader{
		hub: h, series: series, topic: h.config.Names.Series(series), askedBy: askedBy, stirred: make(chan struct{}, 1),
		subs: map[*Subscription]struct{}{}, place: place{final: market.NegInf},
		machine: h.config.Actors.New(actor.DynamicConsumer(), series.String()),
	}
}

// admits reports whether a bar is to be passed on, and with which number.
func (p *place) admits(l *topic.Live, offset int64, stamp time.Time) (seq int64, ok bool) {
	again := offset < p.next
	if again && stamp.After(p.stamp) {
		again, p.seq, p.next = false, 0, 0 // the topic was made anew
	}
	p.next = max(p.next, offset+1)
	if stamp.After(p.stamp) {
		p.stamp = stamp
	}
	switch {
	case l.Bar.TS <= p.final:
		return 0, false
	case l.Final:
		p.final, p.seq = l.Bar.TS, max(l.Seq, p.seq+1)
		return p.seq, true
	case again || l.Seq <= p.seq:
		return 0, false
	}
	p.seq = l.Seq
	return l.Seq, true
}

func (r *reader) add(sub *Subscription) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.subs[sub] = struct{}{}
}

func (r *reader) remove(sub *Subscription) {
	r.mu.Lock()
	delete(r.subs, sub)
	last := len(r.subs) == 0
	r.mu.Unlock()
	if last {
		r.stir()
	}
}

func (r *reader) listeners() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.subs)
}

func (r *reader) stir() {
	select {
	case r.stirred <- struct{}{}:
	default:
	}
}

// fail has what is read begun again.
func (r *reader) fail(err error) {
	r.mu.Lock()
	r.failed = err
	r.mu.Unlock()
	r.stir()
}

// run reads until nobody listens any more, or ctx ends.
func (r *reader) run(ctx context.Context) {
	defer r.machine.Close()
	began, backoff := r.hub.config.Now(), r.hub.config.Backoff
	from := kgo.NewOffset().AtEnd()
	for {
		err := r.read(ctx, from)
		if err == nil {
			r.machine.To(actor.Idle)
			if ctx.Err() != nil || r.ended() {
				return
			}
			backoff = r.hub.config.Backoff
			continue // somebody has come meanwhile
		}
		r.machine.Fail()
		r.hub.config.Logger.LogAttrs(ctx, slog.LevelWarn, "live bars are not read; they will be again",
			slog.String("symbol", string(r.series.Symbol)), slog.String("timeframe", r.series.Timeframe.String()), slog.Any("error", err))
		if r.consumed() {
			backoff = r.hub.config.Backoff
		}
		if !r.pause(ctx, backoff) {
			continue // nobody listens: read says so
		}
		backoff = min(2*backoff, r.hub.config.BackoffLimit)
		from = kgo.NewOffset().AfterMilli(r.since(began).UnixMilli())
	}
}

// since is the time from which records are read again: of that instant too, which admits tells apart.
func (r *reader) since(began time.Time) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.place.stamp.IsZero() {
		return began
	}
	return r.place.stamp
}

func (r *reader) consumed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.place.stamp.IsZero()
}

// pause reports whether somebody listens after d.
func (r *reader) pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for r.listeners() > 0 {
		select {
		case <-timer.C:
			return true
		case <-r.stirred:
		case <-ctx.Done():
			return false
		}
	}
	return false
}

// ended takes the reader out of the hub, unless somebody listens.
func (r *reader) ended() bool {
	r.hub.mu.Lock()
	defer r.hub.mu.Unlock()
	if r.listeners() > 0 {
		return false
	}
	delete(r.hub.readers, r.series)
	delete(r.hub.byTopic, r.topic)
	return true
}

// read has the series followed and its topic read; it returns nil when nobody listens any more, or ctx has ended.
func (r *reader) read(ctx context.Context, from kgo.Offset) error {
	if r.listeners() == 0 || ctx.Err() != nil {
		return nil
	}
	r.machine.To(actor.Subscribing)
	defer r.hub.config.Follower.Unfollow(r.series)
	lost, err := r.hub.config.Follower.Follow(ctx, r.series, r.askedBy)
	switch {
	case ctx.Err() != nil:
		r.machine.To(actor.Consuming) // the declared way to rest
		return nil
	case err != nil:
		return fmt.Errorf("have %s followed: %w", r.series, err)
	}
	r.mu.Lock()
	r.failed = nil
	r.mu.Unlock()
	r.hub.client.AddConsumePartitions(map[string]map[int32]kgo.Offset{r.topic: {0: from}})
	defer r.stop()
	r.machine.To(actor.Consuming)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-lost:
			return errInterestLost
		case <-r.stirred:
		}
		r.mu.Lock()
		failed, left := r.failed, len(r.subs) == 0
		r.mu.Unlock()
		if failed != nil || left {
			return failed
		}
	}
}

// stop ends the reading, and what waits for its time goes with it.
func (r *reader) stop() {
	r.hub.client.PurgeTopicsFromConsuming(r.topic)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop()
}

// take passes a record on, at once or when its time has come.
func (r *reader) take(ctx context.Context, record *kgo.Record) {
	counts := &r.hub.counts
	counts.records.Add(1)
	bar, err := topic.ReadLive(record, r.hub.config.Deployment)
	if err == nil && bar.Series != r.series {
		err = fmt.Errorf("bar of %s in the topic of %s", bar.Series, r.series)
	}
	if err != nil {
		counts.unreadable.Add(1)
		r.hub.config.Logger.LogAttrs(ctx, slog.LevelWarn, "live bar dropped", slog.String("topic", record.Topic), slog.Any("error", err))
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	seq, ok := r.place.admits(&bar, record.Offset, record.Timestamp)
	if !ok {
		counts.repeated.Add(1)
		return
	}
	payload := record.Value
	if seq != bar.Seq {
		bar.Seq = seq
		if payload, err = topic.MarshalLive(bar); err != nil {
			counts.unreadable.Add(1)
			return
		}
	}
	r.give(item{ts: bar.Bar.TS, seq: seq, final: bar.Final, payload: payload})
}

// give passes final bars on at once, and forming ones at their rate. A state that waits is overtaken by the next, whatever
// that is of: a bar that forms is never older than one that came before. The caller holds mu.
func (r *reader) give(i item) {
	r.drop()
	if i.final {
		r.pass(i)
		return
	}
	now, every := r.hub.config.Now(), r.hub.config.FormingEvery
	if wait := r.formed.Add(every).Sub(now); wait > 0 && wait <= every {
		r.late = &i
		r.timer = time.AfterFunc(wait, func() { r.passLate(&i) })
		return
	}
	r.formed = now
	r.pass(i)
}

// passLate passes on what waited, if it still does.
func (r *reader) passLate(i *item) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.late != i {
		return
	}
	r.drop()
	r.formed = r.hub.config.Now()
	r.pass(*i)
}

// drop forgets what waits. The caller holds mu.
func (r *reader) drop() {
	if r.timer != nil {
		r.timer.Stop()
		r.late, r.timer = nil, nil
	}
}

// pass gives an item to all who listen. The caller holds mu.
func (r *reader) pass(i item) {
	r.hub.counts.passed.Add(1)
	for sub := range r.subs {
		if sub.push(i) {
			r.hub.counts.missed.Add(1)
		}
		sub.wake()
	}
}
