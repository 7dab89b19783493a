package producer

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"barkeep/backfill/coverage"
	"barkeep/backfill/source"
	"barkeep/backfill/topic"
	"barkeep/internal/actor"
	"barkeep/internal/market"
)

// follow is one live series in hand. Its invariant: each bar that the source has is published once as final, in order, from due
// on, which stands in every record; so who takes the series over goes on where the log ends. All fields but box, end and done
// belong to the goroutine of run.
//
//	stored ≤ due:   final bars before stored are in pages on their way to the database; those before due are in the series' topic
//
// A bar that a feed calls closed is published as final when it is the one due. What the feed did not tell is read from the
// source's history once it is final there (PIPELINE 6), and goes first: newer closed bars wait in early. What is published live as
// final stays; what is stored is the later reading, as page.
type follow struct {
	bound

	p       *Producer
	owner   *partition
	lane    *lane
	info    source.Info
	feed    source.Feed // nil where the source is polled
	machine *actor.Machine
	box     *box
	end     context.CancelFunc
	done    chan struct{}

	due, stored market.Instant
	early       map[market.Instant]market.Bar
	// seq and offset are those of the last record of the topic that is known.
	seq, offset int64
	// shown is the newest forming bar that was published, at shownAt; pending is what follows it.
	shown   market.Bar
	shownAt time.Time
	pending *market.Bar
	// reading says that the history is being read, and readings has that when it was; readAt is when it may be read next.
	reading  bool
	readings chan *reading
	readAt   time.Time
	// stuckAt is since when the history says that it does not know. It belongs to the goroutine that reads, while one does.
	stuckAt time.Time
	// heardAt is when the feed last told a forming bar; peekAt when that may be read from the history next, where it does not.
	heardAt, peekAt time.Time
}

// run follows until ctx ends; what fails is begun again from what the log has.
func (f *follow) run(ctx context.Context) {
	defer f.machine.Close()
	defer f.p.client.PurgeTopicsFromProducing(f.p.config.Names.Series(f.series))
	config := &f.p.config
	for backoff := config.Backoff; ; backoff = min(2*backoff, config.BackoffLimit) {
		began := time.Now()
		err := f.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > config.BackoffLimit {
			backoff = config.Backoff
		}
		f.machine.Fail()
		f.p.live.failed.Add(1)
		config.Logger.LogAttrs(ctx, slog.LevelWarn, "cannot follow a live series, try again", slog.String("symbol", string(f.series.Symbol)),
			slog.String("timeframe", f.series.Timeframe.String()), slog.Any("error", err))
		if !pause(ctx, backoff) {
			return
		}
	}
}

func (f *follow) follow(ctx context.Context) error {
	f.machine.To(actor.Fetching)
	if !f.info.HasNative(f.series.Timeframe) {
		return fmt.Errorf("%s: %w: it has %s", f.source, source.ErrTimeframe, f.info.NativeNames())
	}
	if err := f.takeOver(ctx); err != nil {
		return err
	}
	every := f.pollEvery()
	if f.feed != nil {
		every = f.p.config.LiveEvery
		leave := f.feed.Follow(source.Instance{VendorID: f.vendorID, Timeframe: f.series.Timeframe}, f.box.put)
		defer leave()
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	var beside sync.WaitGroup
	defer beside.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	mayForm := time.NewTimer(0) // when what is pending may be told, which is not when the ticker says
	defer mayForm.Stop()
	for {
		if err := f.step(ctx, &beside); err != nil {
			return err
		}
		if f.pending != nil {
			mayForm.Reset(time.Until(f.shownAt.Add(f.p.config.LiveEvery)))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-f.box.filled:
		case <-tick.C:
		case <-mayForm.C:
		case r := <-f.readings:
			if err := f.settled(ctx, r); err != nil {
				return err
			}
		}
	}
}

func (f *follow) pollEvery() time.Duration {
	if f.info.Poll > 0 {
		return f.info.Poll
	}
	return source.DefaultPoll
}

// step publishes what there is to publish now.
func (f *follow) step(ctx context.Context, beside *sync.WaitGroup) error {
	defer f.machine.To(actor.Fetching)
	if err := f.hear(ctx); err != nil {
		return err
	}
	f.settle(ctx, beside)
	if err := f.release(ctx); err != nil {
		return err
	}
	return f.form(ctx)
}

// hear takes what the feed told. Closed bars that are not due yet wait: something before them is missing.
func (f *follow) hear(ctx context.Context) error {
	tf, now := f.series.Timeframe, f.p.now()
	closed, forming := f.box.take()
	for _, t := range closed {
		// A bar is not closed before its end, by any clock that may be relied on (PIPELINE 6).
		if t.Bar.TS < f.due || tf.Next(t.Bar.TS) > now.Shift(source.MaxSkew) {
			f.p.live.late.Add(1)
			continue
		}
		if len(f.early) < maxClosed {
			f.early[t.Bar.TS] = t.Bar
		}
	}
	if forming != nil {
		if forming.Bar.TS < max(f.due, f.shown.TS) || forming.Bar.TS > now.Shift(source.MaxSkew) {
			f.p.live.late.Add(1)
		} else {
			f.pending, f.heardAt = &forming.Bar, time.Now()
		}
	}
	return f.release(ctx)
}

// release publishes the closed bars that are due.
func (f *follow) release(ctx context.Context) error {
	for {
		bar, there := f.early[f.due]
		if !there {
			break
		}
		if err := f.final(ctx, bar); err != nil {
			return err
		}
	}
	for ts := range f.early {
		if ts < f.due {
			delete(f.early, ts)
		}
	}
	return nil
}

// form publishes the state of the forming bar, at most each LiveEvery.
func (f *follow) form(ctx context.Context) error {
	if f.pending == nil || time.Since(f.shownAt) < f.p.config.LiveEvery {
		return nil
	}
	bar := *f.pending
	f.pending = nil
	if bar.TS < f.due || bar == f.shown {
		return nil
	}
	f.shown, f.shownAt = bar, time.Now()
	f.p.live.forming.Add(1)
	return f.publish(ctx, bar, false)
}

// final publishes a closed bar, and makes the next one due.
func (f *follow) final(ctx context.Context, bar market.Bar) error {
	before := f.due
	f.due = f.series.Timeframe.Next(bar.TS)
	if err := f.publish(ctx, bar, true); err != nil {
		f.due = before
		return err
	}
	f.p.live.final.Add(1)
	return nil
}

// reading is one look at a series' history, which is taken beside the feed: neither a forming bar nor a closed one waits for it.
type reading struct {
	asked market.Range
	// until is the end of what was final in it when it was begun; quiet as it was then, at began.
	until market.Instant
	quiet bool
	began time.Time
	now   market.Instant // began, by the producer's clock

	answer source.Answer
	// page is what it has settled of asked, from its start on, and the broker has; reach is where that ends.
	page  topic.Page
	reach market.Instant
	err   error
}

// settle has the source's history read, beside the feed, for what is final there and not stored. A source without a feed is asked for the forming
// bar as well, and so is one whose feed is quiet.
func (f *follow) settle(ctx context.Context, beside *sync.WaitGroup) {
	if f.reading || time.Now().Before(f.readAt) {
		return
	}
	tf, now := f.series.Timeframe, f.p.now()
	until := tf.Floor(now.Shift(-f.info.Finality.Of(tf)))
	if f.feed != nil && f.due >= until {
		until = tf.Floor(now.Shift(-f.info.Finality.Of(tf) - f.spread()))
	}
	end, quiet := until, f.quiet()
	if f.feed == nil || quiet {
		end = tf.Next(now)
	}
	if f.stored >= end {
		return
	}
	if f.feed != nil && f.stored < until && f.due >= until && f.p.slots.missing(f.series, f.generation, market.RangeSet{{Start: f.stored, End: until}}, 0).Empty() {
		f.stored = until // a job has fetched it
		return
	}
	if quiet {
		f.peekAt = time.Now().Add(f.pollEvery())
	}
	asked := market.Range{Start: f.stored, End: min(end, tf.Add(f.stored, int64(min(f.info.PageLimit, topic.MaxPageBars))))}
	r := &reading{asked: asked, until: until, quiet: quiet, began: time.Now(), now: now, reach: asked.Start}
	f.reading = true
	beside.Go(func() {
		r.err = f.look(ctx, r)
		f.readings <- r
	})
}

// spreadAtMost bounds how much later than it could a series that its feed has told whole is stored: less than one asks about freshness for.
const spreadAtMost = 6 * time.Second

// spread is a series' own part of that time: those that close together are not read together.
func (f *follow) spread() time.Duration {
	h := fnv.New32a()
	_, _ = h.Write([]byte(f.series.String())) // never fails
	most := min(spreadAtMost, f.series.Timeframe.Step()/10)
	return time.Duration(float64(most) * float64(h.Sum32()) / (1 << 32))
}

// look reads the history and publishes what the answer settles, from the start of its range on, as a page. It is the only one to use stuckAt.
func (f *follow) look(ctx context.Context, r *reading) error {
	answer, judged, err := f.read(ctx, r.asked)
	if err != nil {
		return err
	}
	r.answer, r.page = answer, topic.Page{Asked: r.asked, FetchedAt: answer.Sent}
	reach := r.asked.Start
	for _, g := range judged.Segments {
		if g.Range.Start != reach || (g.State != coverage.Final && g.State != coverage.Absent && !f.stuck(ctx, g)) {
			break
		}
		r.page.Segments = append(r.page.Segments, topic.Segment{Range: g.Range, State: g.State, Reason: g.Reason, RetryAt: g.RetryAt})
		reach = g.Range.End
	}
	if reach == r.asked.Start {
		return nil
	}
	for _, b := range answer.Bars {
		if b.TS < reach {
			r.page.Bars = append(r.page.Bars, b)
		}
	}
	r.page.Asked.End = reach
	if err := f.store(ctx, r.page); err != nil {
		return err
	}
	r.reach, f.stuckAt = reach, time.Time{}
	return nil
}

// settled publishes what the feed has not told of what was read, to the series' topic.
func (f *follow) settled(ctx context.Context, r *reading) error {
	defer f.machine.To(actor.Fetching)
	f.reading = false
	tf := f.series.Timeframe
	if r.err != nil {
		f.p.config.Logger.LogAttrs(ctx, slog.LevelWarn, "cannot read what a live series lacks, try again", slog.String("symbol", string(f.series.Symbol)),
			slog.String("timeframe", tf.String()), slog.Any("error", r.err))
		_, after := source.Retryable(r.err)
		f.readAt = time.Now().Add(max(after, f.pollEvery()))
		return ctx.Err()
	}
	for _, b := range r.page.Bars {
		if b.TS < f.due {
			continue
		}
		if err := f.final(ctx, b); err != nil {
			return err
		}
		f.p.live.read.Add(1)
	}
	f.stored = r.reach
	f.due = max(f.due, r.reach)
	if f.stored < r.asked.End && (!r.quiet || f.stored < r.until) {
		f.readAt = time.Now().Add(f.pollEvery() / 2) // the ticker's next turn, where the source is polled
	}
	// What the feed told meanwhile is newer than what was read.
	if (f.feed == nil || r.quiet && f.heardAt.Before(r.began)) && len(r.answer.Bars) > 0 {
		if last := r.answer.Bars[len(r.answer.Bars)-1]; last.TS >= max(f.due, f.shown.TS) && tf.Next(last.TS) > r.now {
			f.pending = &last
		}
	}
	return nil
}

// quiet reports whether the feed has told nothing of the series for long, and the history may be asked in its stead: the feed is
// broken, or forms no bar of a period whose beginning it has not seen. A market without trades looks the same.
func (f *follow) quiet() bool {
	now := time.Now()
	return f.feed != nil && now.Sub(f.heardAt) >= f.p.config.LiveQuiet && !now.Before(f.peekAt)
}

// stuck reports whether a range is to be passed over because the source has said for long that it does not know it: what
// follows would wait for ever. The database knows it as unavailable.
func (f *follow) stuck(ctx context.Context, g source.Segment) bool {
	if g.State != coverage.Unavailable {
		return false
	}
	if f.stuckAt.IsZero() {
		f.stuckAt = time.Now()
	}
	if time.Since(f.stuckAt) < source.UnavailableAtMost {
		return false
	}
	f.p.config.Logger.LogAttrs(ctx, slog.LevelError, "a live series lacks bars that its source does not give", slog.String("symbol", string(f.series.Symbol)),
		slog.String("timeframe", f.series.Timeframe.String()), slog.String("range_start", g.Range.Start.String()),
		slog.String("range_end", g.Range.End.String()), slog.String("reason", g.Reason))
	return true
}

// read asks for one page, a second time where the judgement asks for it.
func (f *follow) read(ctx context.Context, want market.Range) (source.Answer, source.Judgement, error) {
	query := source.Query{VendorID: f.vendorID, Series: f.series, Range: want, Priority: source.Bulk}
	first, err := f.ask(ctx, query)
	if err != nil {
		return source.Answer{}, source.Judgement{}, err
	}
	judged := source.Judge(f.info, query, first, nil)
	if !judged.Again {
		return first, judged, nil
	}
	second, err := f.ask(ctx, query)
	if err != nil {
		return source.Answer{}, source.Judgement{}, err
	}
	judged = source.Judge(f.info, query, second, &first)
	second.Bars = judged.Bars
	return second, judged, nil
}

// ask has one of the places of the source that bulk may take: users who wait go first.
func (f *follow) ask(ctx context.Context, q source.Query) (source.Answer, error) {
	probe, err := f.lane.breaker.admit(ctx, f.p.config.Now)
	if err != nil {
		return source.Answer{}, err
	}
	answer, err := f.askAdmitted(ctx, q, probe)
	if again, after := source.Retryable(err); probe && again && ctx.Err() == nil {
		return source.Answer{}, f.lane.breaker.trip(f.p.config.Now().Add(max(f.p.config.Breaker, after)), err, true)
	} else if probe {
		f.lane.breaker.conclude(ctx.Err() == nil)
	}
	return answer, err
}

func (f *follow) askAdmitted(ctx context.Context, q source.Query, probe bool) (source.Answer, error) {
	leave, err := f.lane.enter(ctx, &slot{})
	if err != nil {
		return source.Answer{}, err
	}
	if !probe && f.lane.breaker.shut() {
		leave()
		return source.Answer{}, errShut
	}
	defer leave()
	request := Request{Source: f.source}
	began := f.p.config.Now()
	answer, err := f.lane.source.Fetch(source.WithTrace(ctx, func(d time.Duration) { request.Waited += d }), q)
	request.Took = f.p.config.Now().Sub(began) - request.Waited
	answer.Doubtful = f.p.store.Skew().Doubtful()
	request.Skew, request.Bars, request.Err = answer.Skew, len(answer.Bars), err
	f.p.config.Observe(request)
	return answer, err
}

// store publishes a page to the fixed topic.
func (f *follow) store(ctx context.Context, page topic.Page) error {
	page.RecordID, page.Deployment = uuid.NewString(), f.p.config.Deployment
	page.Series, page.Source, page.Generation = f.series, f.source, f.generation
	if err := f.p.publish(ctx, f.p.config.Names.PageRecord(page)); err != nil {
		return err
	}
	f.p.slots.published(&page)
	return nil
}

// publishTimeout bounds how long the broker may take for a live bar: then the log is looked at, whether it is there.
const publishTimeout = 10 * time.Second

// publish appends a bar to the series' topic.
func (f *follow) publish(ctx context.Context, bar market.Bar, final bool) error {
	r, err := f.p.config.Names.LiveRecord(topic.Live{
		Deployment: f.p.config.Deployment, Series: f.series, Bar: bar, Final: final, Seq: f.seq + 1, Due: f.due,
	})
	if err != nil {
		return err
	}
	f.machine.To(actor.PublishingLive)
	bounded, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	done, err := f.p.client.ProduceSync(bounded, r).First()
	if err != nil {
		topic.Renew(f.p.client, r.Topic, err)
		return fmt.Errorf("publish live bar: %w", err)
	}
	if done.Offset != f.offset+1 {
		return fmt.Errorf("publish live bar: %w", errTwo)
	}
	f.seq, f.offset = f.seq+1, done.Offset
	return nil
}

// errTwo ends the work of a producer that is not the only one: it goes on from what the log has, if the series still is its own.
var errTwo = errors.New("another producer publishes the series, or its topic was made anew")

// maxResume is how far back a series is taken up that nobody followed for a while: as long as its topic is kept.
const maxResume = 48 * time.Hour

// takeOver goes on from the last record of the topic, or begins with the bar that forms now.
func (f *follow) takeOver(ctx context.Context) error {
	tf, now := f.series.Timeframe, f.p.now()
	last, end, err := f.tail(ctx)
	if err != nil {
		return fmt.Errorf("read the end of %s: %w", f.p.config.Names.Series(f.series), err)
	}
	f.seq, f.offset, f.due = end, end-1, tf.Floor(now)
	if last != nil {
		f.seq = last.Seq
		if last.Due > now.Shift(-maxResume) && tf.OnGrid(last.Due) {
			f.due = last.Due
		}
	}
	// Who had the series may have died before what it published last was final, and stored.
	f.stored = tf.Floor(min(f.due, tf.Floor(now)).Shift(-f.info.Finality.Of(tf) - 2*tf.Step()))
	f.early, f.pending, f.shown, f.readAt = map[market.Instant]market.Bar{}, nil, market.Bar{TS: market.NegInf}, time.Time{}
	f.reading, f.readings = false, make(chan *reading, 1) // who reads never waits to tell
	f.heardAt, f.peekAt = time.Now(), time.Time{}
	return nil
}

// tail reads the last record of the topic, nil where there is none that can be used, and where the log ends.
func (f *follow) tail(ctx context.Context) (last *topic.Live, end int64, err error) {
	record, end, err := topic.Last(ctx, f.p.config.Options, f.p.config.Brokers, f.p.config.Names.Series(f.series))
	if err != nil || record == nil {
		return nil, end, err
	}
	l, err := topic.ReadLive(record, f.p.config.Deployment)
	if err != nil {
		f.p.config.Logger.LogAttrs(ctx, slog.LevelWarn, "last record of a live series cannot be read", slog.String("topic", record.Topic), slog.Any("error", err))
		return nil, end, nil
	}
	return &l, end, nil
}
