package producer

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"barkeep/backfill/coverage"
	"barkeep/backfill/directory"
	"barkeep/backfill/source"
	"barkeep/backfill/topic"
	"barkeep/internal/actor"
	"barkeep/internal/market"
)

// run is one job in hand.
type run struct {
	p       *Producer
	owner   *partition
	job     topic.Job
	id      uuid.UUID
	offsets []int64 // guarded by Producer.mu
	machine *actor.Machine

	// user is whether somebody waits; without that the job is bulk (PIPELINE 16).
	user  atomic.Bool
	stop  atomic.Pointer[context.CancelCauseFunc]
	total atomic.Int64
	// ahead counts its slots that have had room and whose page is not on its way yet; guarded by slotTable.mu.
	ahead int
	// requests counts what the job has had of its source's places.
	requests atomic.Int64
	// What events tell: what was published, when that was told, and what the job waits for.
	sentPages, sentBars, hintedAt atomic.Int64
	delay                         atomic.Pointer[delay]

	lane *lane
	info source.Info
	life market.Range // from listing to delisting, not on the grid
	// former had the name before, in the order of their lives.
	former []directory.Former
}

var (
	errCancelled  = errors.New("the job was cancelled")
	errSuperseded = errors.New("the symbol is bound anew")
	errEnded      = errors.New("the job has ended already")
)

func (p *Producer) newRun(owned *partition, job topic.Job, id uuid.UUID, offset int64) *run {
	r := &run{p: p, owner: owned, job: job, id: id, offsets: []int64{offset}, machine: p.config.Actors.New(actor.Producer(), job.ID)}
	r.user.Store(job.Priority > 0)
	return r
}

// do does the job and ends it, unless ctx ends first: then the next producer does it.
func (r *run) do(ctx context.Context) {
	p := r.p
	defer r.machine.Close()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		r.forgetLocked()
	}()
	// Each source has its own: the jobs of one that is slow, or does not answer, are not in the way of another's.
	if in := p.lanes[r.job.Source]; in != nil {
		select {
		case in.active <- struct{}{}:
			defer func() { <-in.active }()
		case <-ctx.Done():
			return
		}
	}
	working, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	r.stop.Store(&stop)
	r.machine.To(actor.Fetching)
	err := r.work(working)
	if ctx.Err() != nil {
		return
	}
	if why := context.Cause(working); err != nil && (errors.Is(why, errCancelled) || errors.Is(why, errEnded)) {
		err = why
	}
	if !errors.Is(err, errEnded) {
		mark := p.slots.mark()
		if err := p.publish(ctx, p.config.Names.EndRecord(r.end(ctx, err))); err != nil {
			return
		}
		p.slots.closed(seriesKey{r.job.Series, r.job.Generation}, mark, r.id)
	}
	if err == nil {
		r.machine.To(actor.Idle)
	} else {
		r.machine.Fail()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	// In one step: a record of this job that comes between the two would join a run that is over, and never be marked.
	p.endLocked(r.owner, r.offsets...)
	r.forgetLocked()
}

// halt ends the job's work, where that has begun.
func (r *run) halt(why error) {
	if stop := r.stop.Load(); stop != nil {
		(*stop)(why)
	}
}

// forgetLocked takes the run out of the table, unless another run of the job has its place; Producer.mu is held.
func (r *run) forgetLocked() {
	if r.p.runs[r.id] == r {
		delete(r.p.runs, r.id)
	}
}

// end returns the job's end record.
func (r *run) end(ctx context.Context, err error) topic.End {
	e := topic.End{
		RecordID: uuid.NewString(), Deployment: r.p.config.Deployment, JobID: r.job.ID, Series: r.job.Series, State: topic.Done,
	}
	switch {
	case err == nil:
	case errors.Is(err, errCancelled):
		e.State = topic.Cancelled
	case errors.Is(err, errSuperseded):
		e.State = topic.Superseded
	default:
		e.State, e.Code, e.Message = topic.Failed, pgerrcode.SystemError, err.Error()
		var coded interface{ SQLState() string }
		if errors.As(err, &coded) {
			e.Code = coded.SQLState()
		}
		r.p.config.Logger.LogAttrs(ctx, slog.LevelWarn, "job failed", slog.String("job_id", r.job.ID),
			slog.String("symbol", string(r.job.Series.Symbol)), slog.String("timeframe", r.job.Series.Timeframe.String()),
			slog.Any("error", err))
	}
	return e
}

// work fetches and publishes what of the job is not there. Failures of the database are tried again: they are not the
// job's.
func (r *run) work(ctx context.Context) error {
	for backoff := r.p.config.Backoff; ; backoff = min(2*backoff, r.p.config.BackoffLimit) {
		err := r.prepare(ctx)
		if err == nil {
			break
		}
		if _, ok := errors.AsType[*databaseError](err); !ok {
			return err
		}
		r.p.config.Logger.LogAttrs(ctx, slog.LevelWarn, "cannot begin job, try again", slog.String("job_id", r.job.ID), slog.Any("error", err))
		if !pause(ctx, backoff) {
			return context.Cause(ctx)
		}
	}
	if err := r.outside(ctx); err != nil {
		return err
	}
	return r.pages(ctx)
}

// databaseError marks what the database refused, which is tried again.
type databaseError struct{ err error }

func (e *databaseError) Error() string { return e.err.Error() }
func (e *databaseError) Unwrap() error { return e.err }

// prepare reads the job's row and its symbol's, and finds the source.
func (r *run) prepare(ctx context.Context) error {
	var state string
	var cancelled, wanted bool
	var source string
	var generation int64
	var listed, delisted pgtype.Timestamptz
	err := r.p.config.Pool.QueryRow(ctx, `SELECT j.state, j.cancelled, coalesce(j.wanted_until > now(), false) AND j.priority > 0,
	    coalesce(s.source, ''), coalesce(s.generation, 0), s.listed_at, s.delisted_at
	  FROM barkeep.job j LEFT JOIN barkeep.symbol s ON s.symbol = j.symbol WHERE j.id = $1`, r.id).
		Scan(&state, &cancelled, &wanted, &source, &generation, &listed, &delisted)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return errEnded // the database went back in time: nobody knows this job
	case err != nil:
		return &databaseError{fmt.Errorf("read job: %w", err)}
	case state != "queued" && state != "fetching":
		return errEnded
	case cancelled:
		return errCancelled
	case source != r.job.Source || generation != r.job.Generation:
		return errSuperseded
	}
	r.user.Store(wanted)
	if err := r.refresh(ctx); err != nil {
		return err
	}
	if err := r.findSource(); err != nil {
		return err
	}
	r.life = market.Range{Start: r.info.Earliest, End: market.PosInf}
	if delisted.Valid && delisted.InfinityModifier == pgtype.Finite {
		r.life.End = market.FromTime(delisted.Time)
	}
	if listed.Valid && listed.InfinityModifier == pgtype.Finite {
		r.life.Start = market.FromTime(listed.Time)
		if r.former, err = directory.Formers(ctx, r.p.config.Pool, r.job.Series.Symbol); err != nil {
			return &databaseError{err}
		}
		return nil
	}
	return r.probe(ctx)
}

func (r *run) findSource() error {
	s, err := r.p.config.Registry.Get(r.job.Source)
	if err != nil {
		return fmt.Errorf("find the source of %s: %w", r.job.Series.Symbol, err)
	}
	r.lane, r.info = r.p.lanes[s.Name()], s.Info()
	if !r.info.HasNative(r.job.Series.Timeframe) {
		return &source.Error{
			Source: s.Name(), Op: "fetch " + r.job.Series.String(), Code: pgerrcode.FeatureNotSupported,
			Err: fmt.Errorf("%w: it has %s", source.ErrTimeframe, r.info.NativeNames()),
		}
	}
	return nil
}

func (r *run) priority() source.Priority {
	if r.user.Load() {
		return source.User
	}
	return source.Bulk
}

func (p *Producer) now() market.Instant { return market.FromTime(p.config.Now()) }

// outside publishes what needs no request: absence before the listing and after the delisting, and what lies deeper than
// the source reaches.
func (r *run) outside(ctx context.Context) error {
	tf := r.job.Series.Timeframe
	var segments []topic.Segment
	if first := tf.Floor(r.life.Start); r.job.Range.Start < first {
		segments = r.before(first)
	}
	depth := r.info.Depth[tf]
	if reach := tf.Ceil(r.p.now().Shift(-depth)); depth > 0 && r.job.Range.Start < reach {
		// To where the source begins, and not to where the job ends, so that a user hears from when on there are bars (PIPELINE 3). What lies behind a
		// delisting is said to be absent below, which displaces it.
		deep := market.Range{Start: max(r.job.Range.Start, tf.Floor(r.life.Start)), End: reach}
		if !deep.Empty() {
			segments = append(segments, topic.Segment{
				Range: deep, State: coverage.Unavailable, RetryAt: r.p.now().Shift(depthFor),
				Reason: fmt.Sprintf("%s keeps %s bars for %s only: it has them from %s on", r.job.Source, tf, span(depth), reach),
			})
		}
		r.life.Start = max(r.life.Start, reach)
	}
	if last := tf.Ceil(r.life.End); !last.IsInf() && last < r.job.Range.End {
		segments = append(segments, topic.Segment{
			Range: market.Range{Start: last, End: market.PosInf}, State: coverage.Absent, Reason: "delisted at " + r.life.End.String(),
		})
	}
	var fresh []topic.Segment
	for _, s := range segments {
		if !r.missing(market.RangeSet{s.Range.Intersect(r.job.Range)}).Empty() {
			fresh = append(fresh, s)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	return r.publish(ctx, topic.Page{Asked: r.job.Range, Segments: fresh, FetchedAt: r.p.now()})
}

// span is d for a user, in days where it is whole days.
func span(d time.Duration) string {
	if d%(24*time.Hour) != 0 {
		return d.String()
	}
	return fmt.Sprintf("%d days", d/(24*time.Hour))
}

// depthFor is how long it is believed that a source reaches no deeper: another key may.
const depthFor = 24 * time.Hour

// publish completes a page, publishes it and waits until the broker has it.
func (r *run) publish(ctx context.Context, page topic.Page) error {
	page.RecordID, page.Deployment, page.JobID = uuid.NewString(), r.p.config.Deployment, r.job.ID
	page.Series, page.Source, page.Generation = r.job.Series, r.job.Source, r.job.Generation
	r.machine.To(actor.PublishingFixed)
	defer r.machine.To(actor.Fetching)
	if err := r.p.publish(ctx, r.p.config.Names.PageRecord(page)); err != nil {
		return err
	}
	r.p.slots.published(&page)
	r.advanced(ctx, &page)
	return nil
}

// missing returns what of set is neither covered nor just published.
func (r *run) missing(set market.RangeSet) market.RangeSet {
	return r.p.slots.missing(r.job.Series, r.job.Generation, set, r.job.AskedAt)
}

// pages fetches the slots of the job, several at once: they stand in line one behind the other, for room and for a place at the source, so
// that of those that have no room one waits, not all. Who needs them all gets the oldest first: then the bars come to the table about as they
// ascend, where its index takes them at its end and fills its pages, if no symbol sorts behind theirs. Who goes on with what there is at
// a deadline gets the newest first.
func (r *run) pages(ctx context.Context) error {
	tf := r.job.Series.Timeframe
	life := market.Range{Start: tf.Floor(r.life.Start), End: min(tf.Ceil(r.life.End), tf.Next(max(r.p.now(), r.job.AskedAt)))}
	need := r.missing(market.RangeSet{r.job.Range.Outward(tf).Intersect(life)})
	r.total.Store(need.Count(tf))
	if !need.Empty() {
		r.hint(ctx, topic.Event{Kind: topic.Started})
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var group sync.WaitGroup
	defer group.Wait()
	window := make(chan struct{}, 2*r.p.config.Concurrency)
	limit := int64(min(r.info.PageLimit, topic.MaxPageBars))
	turn := make(chan struct{})
	close(turn)
	for slot, wanted := range r.slotsOf(need, limit) {
		select {
		case window <- struct{}{}:
		case <-ctx.Done():
			group.Wait()
			return context.Cause(ctx)
		}
		mine, next := turn, make(chan struct{})
		turn = next
		group.Go(func() {
			defer func() { <-window }()
			inLine := sync.OnceFunc(func() { close(next) })
			defer inLine()
			select {
			case <-mine:
			case <-ctx.Done():
				return
			}
			if err := r.slot(ctx, slot.Intersect(life), slot.Start, wanted, inLine); err != nil {
				cancel(err)
			}
		})
	}
	group.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// slotsOf yields the slots that need lies in, with what each has of a range of it, in the order in which they are fetched.
func (r *run) slotsOf(need market.RangeSet, limit int64) iter.Seq2[market.Range, market.Range] {
	tf := r.job.Series.Timeframe
	ascending := func(yield func(slot, wanted market.Range) bool) {
		for _, n := range need {
			for start := n.Start; start < n.End; {
				slot := slotOf(tf, limit, start)
				if !yield(slot, n.Intersect(slot)) {
					return
				}
				start = slot.End
			}
		}
	}
	descending := func(yield func(slot, wanted market.Range) bool) {
		for _, n := range slices.Backward(need) {
			for end := n.End; end > n.Start; {
				slot := slotOf(tf, limit, end-1)
				if !yield(slot, n.Intersect(slot)) {
					return
				}
				end = slot.Start
			}
		}
	}
	if r.job.NewestFirst {
		return descending
	}
	return ascending
}

// slotOf returns the slot that i lies in: limit bars, counted from the epoch (PIPELINE 16).
func slotOf(tf market.Timeframe, limit int64, i market.Instant) market.Range {
	origin := tf.Ceil(0)
	bar := tf.Floor(i)
	var n int64
	if bar >= origin {
		n = tf.Count(market.Range{Start: origin, End: bar})
	} else {
		n = -tf.Count(market.Range{Start: bar, End: origin})
	}
	k := n / limit
	if n%limit < 0 {
		k--
	}
	return market.Range{Start: tf.Add(origin, k*limit), End: tf.Add(origin, (k+1)*limit)}
}

// slot has the wanted part of a slot fetched, by this job or by another that does so already. It calls inLine once the job's next slot may
// come: this one is in line at the source, or is another's.
func (r *run) slot(ctx context.Context, whole market.Range, start market.Instant, wanted market.Range, inLine func()) error {
	key := slotKey{r.job.Series, r.job.Generation, start}
	for range maxSlotRounds {
		if r.missing(market.RangeSet{wanted}).Empty() {
			return nil
		}
		mine, other := r.p.slots.claim(key, r)
		if mine == nil {
			inLine()
			select {
			case <-other.done:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			// Another job's stop is not this one's failure: then the slot is claimed anew.
			if err := other.err; err != nil && !other.abandoned {
				return err
			}
			continue
		}
		mine.inLine = inLine
		err := r.fill(ctx, mine, whole, wanted)
		r.p.slots.release(key, mine, err, ctx.Err() != nil)
		return err
	}
	return nil
}

// maxSlotRounds bounds how often a job waits for another's fetch of a slot.
const maxSlotRounds = 16

// fill fetches the holes of a slot that the job wants a part of.
func (r *run) fill(ctx context.Context, s *slot, whole, wanted market.Range) error {
	if err := r.p.slots.room(ctx, r.owner.id, r.p.config.Window, s); err != nil {
		return err
	}
	for _, hole := range r.missing(market.RangeSet{whole}) {
		if !hole.Overlaps(wanted) {
			continue
		}
		for rest := hole; !rest.Empty(); {
			next, err := r.page(ctx, s, rest)
			if err != nil {
				return err
			}
			if next == rest {
				break // the source stands still: what it did not reach stays a gap
			}
			rest = next
		}
	}
	return nil
}
