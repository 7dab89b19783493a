package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgerrcode"

	"barkeep/backfill/coverage"
	"barkeep/backfill/directory"
	"barkeep/backfill/quota"
	"barkeep/internal/actor"
	"barkeep/internal/market"
)

// The modes of barkeep.mode (DESIGN §9).
const (
	ModeWait    = "wait"
	ModePartial = "partial"
	ModeStored  = "stored"
	ModeStrict  = "strict"
)

// Request is what one statement needs.
type Request struct {
	// At is the index that a REPEATABLE READ session keeps since its snapshot; nil for other sessions. What is not covered
	// there is filled, and then is an error 40001.
	At           *coverage.Index
	Requirements []market.Requirement
	// Life is the life of the database in which the session lives (schema.Life), empty if it is not known: an index of
	// another one says nothing of what the session will read (PIPELINE 19).
	Life string
	// Mode is one of the Mode constants; empty means ModeWait.
	Mode string
	// Freshness is the age up to which provisional bars are an answer; zero means the default of each timeframe, and less
	// than a second means a second.
	Freshness time.Duration
	// MaxBars bounds the requirement; zero means the coordinator's.
	MaxBars int64
	// Bulk has what is missing fetched behind all for which somebody waits.
	Bulk bool
	// AskedBy is the user's role, for barkeep.jobs.
	AskedBy string
}

// Ensure returns when the bars that the request needs are there, with warnings for the user. Where they are covered it asks
// nobody and does not allocate. progress, which may be nil, is called about twice a second while it waits, from the
// calling goroutine. Errors have SQLState and Hint where the user is told more than that a part failed; when ctx ends
// its cause is returned, but in mode partial what is missing becomes a warning where ctx's deadline has passed.
func (c *Coordinator) Ensure(ctx context.Context, req Request, progress func(market.Progress)) (warnings []string, err error) {
	if req.Mode == ModeStored {
		return nil, nil
	}
	now := c.now()
	if c.config.Coverage.Valid() {
		index := c.Snapshot()
		if c.covered(index, &req, now) && (req.At == nil || c.covered(req.At, &req, now)) {
			return nil, nil
		}
	}
	return c.fill(ctx, req, now, progress)
}

// covered reports whether index answers for all of the request without a question to anybody.
func (c *Coordinator) covered(index *coverage.Index, req *Request, now market.Instant) bool {
	if !index.OfLife(req.Life) {
		return false
	}
	for i := range req.Requirements {
		r := &req.Requirements[i]
		if !index.Covered(r.Series, r.Ranges, atLeast(req.Freshness), now) {
			return false
		}
		for _, n := range r.Counts {
			if inside(index, r.Series, n, atLeast(req.Freshness), now) {
				continue
			}
			if _, known := c.counts.get(index, r.Series, n, atLeast(req.Freshness), now); !known {
				return false
			}
		}
	}
	return true
}

// filling is one Ensure that has a gap.
type filling struct {
	c        *Coordinator
	req      Request
	now      market.Instant
	wake     chan struct{}
	parts    []*part
	warnings []string
	machine  *actor.Machine
	meter    meter
	quota    *quota.Limits // nil: not read yet
	// unlimited says that there are parts whose size was not checked.
	unlimited bool
}

// part is one requirement of a filling, or the bars of a base that others are rolled up from.
type part struct {
	series  market.Series
	ranges  market.RangeSet
	counts  []market.Count
	factors []int64
	// binding is known before the first job.
	binding *directory.Binding
	jobs    []*job
	// from is the part of the base that this one is rolled up from, nil where the source has the timeframe. base says that
	// this is such a part: nobody reads its bars, and its ranges are what is missing of those made of it.
	from *part
	base bool
	// lends is the part whose bars this one stands in for, or has the base of what does: nobody reads its bars either; nil for others.
	lends *part
	// lenders stand in for what the source cannot have, in order, once they were sought; loans is what each is to give, and short what none
	// can (lend.go).
	lenders []*part
	sought  bool
	loans   []loan
	// missing is what was missing at the last look, and pending what of that waits for its base or its roll-up.
	missing, pending market.RangeSet
	// excused are ranges that could not be refreshed but are given with a warning.
	excused market.RangeSet
	// rounds counts the jobs that ended without covering what was asked.
	rounds int
	needs  market.RangeSet // what the counts came to; for the check of At
	// version is of the symbol when gap was found out, and gapped whether it was: other symbols' changes wake this
	// filling too, and counts cost a query.
	version coverage.Version
	gapped  bool
	gap     market.RangeSet
}

func (c *Coordinator) fill(ctx context.Context, req Request, now market.Instant, progress func(market.Progress)) ([]string, error) {
	f := &filling{c: c, req: req, now: now, wake: make(chan struct{}, 1), machine: c.config.Actors.New(actor.Coordinator(), "")}
	f.meter = meter{report: progress, now: c.config.Now, began: c.config.Now()}
	defer f.machine.Close()
	defer f.leave()
	f.req.Freshness = atLeast(req.Freshness)
	for _, r := range req.Requirements {
		p := &part{series: r.Series, ranges: r.Ranges, counts: r.Counts, factors: make([]int64, len(r.Counts))}
		for i := range p.factors {
			p.factors[i] = 1
		}
		f.parts = append(f.parts, p)
	}
	err := f.loop(ctx)
	if err != nil {
		f.machine.Fail()
		return f.give(ctx, err)
	}
	if req.At != nil {
		return f.warnings, f.checkSnapshot()
	}
	return f.warnings, nil
}

// give turns an error into a warning where the session asked for what there is.
func (f *filling) give(ctx context.Context, err error) ([]string, error) {
	if f.req.Mode != ModePartial || (ctx.Err() == nil && !transient(err)) {
		return nil, err
	}
	if ended := ctx.Err(); ended != nil && !errors.Is(ended, context.DeadlineExceeded) && !errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		return nil, err
	}
	index := f.c.Snapshot()
	if f.req.At != nil {
		index = f.req.At // what came since is not seen
	}
	if !index.OfLife(f.req.Life) {
		index = nil
	}
	for _, p := range f.parts {
		if !p.read() {
			continue
		}
		if gap := index.Missing(p.series, p.ranges, f.req.Freshness, f.now); !gap.Empty() || len(p.counts) > 0 {
			text := "bars of " + p.series.String() + " are missing"
			if !gap.Empty() {
				text += " in " + gap.Bounds().String()
			}
			if ctx.Err() == nil {
				text += ": " + err.Error()
			}
			f.warnings = append(f.warnings, text)
		}
	}
	return f.warnings, nil
}

// transient reports whether err is about the fetch and not about the request: unknown symbols and statements that are too
// large stay errors in every mode.
func transient(err error) bool {
	var coded interface{ SQLState() string }
	if !errors.As(err, &coded) {
		return true
	}
	switch coded.SQLState() {
	case pgerrcode.InvalidParameterValue, pgerrcode.FeatureNotSupported, pgerrcode.ProgramLimitExceeded,
		pgerrcode.ObjectNotInPrerequisiteState:
		return false
	}
	return true
}

// checkSnapshot fails where the session's snapshot is older than the bars.
func (f *filling) checkSnapshot() error {
	for _, p := range f.parts {
		if !p.read() {
			continue
		}
		if !f.req.At.OfLife(f.req.Life) || !f.req.At.Covered(p.series, p.ranges.Subtract(p.excused).Union(p.needs), f.req.Freshness, f.now) {
			return snapshotTooOld(p.series)
		}
	}
	return nil
}

func (f *filling) leave() {
	for _, p := range f.parts {
		for _, j := range p.jobs {
			f.c.jobs.leave(j, f.wake)
		}
	}
}

// loop looks, submits and waits until nothing is missing.
func (f *filling) loop(ctx context.Context) error {
	ticker := time.NewTicker(reportEvery)
	defer ticker.Stop()
	f.machine.To(actor.Processing)
	for {
		// The channel is taken before the look: coverage that comes between the two closes it.
		changed := f.c.config.Coverage.Changed()
		missing, err := f.patiently(ctx, f.step)
		if err != nil || missing == 0 {
			return err
		}
		f.machine.To(actor.Notifying)
		f.meter.see(f.fetched(), missing)
		f.meter.tell()
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-changed:
				waiting = false
			case <-f.wake:
				waiting = false
			case <-ticker.C:
				f.meter.tell()
				// An index outside its lease is not believed; its own polls are down, so ask.
				if !f.c.config.Coverage.Valid() {
					if err := f.c.config.Coverage.Refresh(ctx); err == nil {
						waiting = false
					}
				}
			}
		}
		f.machine.To(actor.Active)
		f.machine.To(actor.Processing)
	}
}

// step is look in an index that may be relied on where nothing is missing: removals may not be seen late, so that outside the
// lease the database is asked.
func (f *filling) step(ctx context.Context) (missing int64, err error) {
	if !f.c.config.Coverage.Valid() || !f.c.Snapshot().OfLife(f.req.Life) {
		if err := f.c.config.Coverage.Refresh(ctx); err != nil {
			return 0, fmt.Errorf("refresh coverage: %w", err)
		}
	}
	if !f.c.Snapshot().OfLife(f.req.Life) {
		return 0, errOtherLife
	}
	for {
		if missing, err = f.look(ctx); err != nil || missing > 0 || f.c.config.Coverage.Valid() {
			return missing, err
		}
		if err := f.c.config.Coverage.Refresh(ctx); err != nil {
			return 0, fmt.Errorf("refresh coverage: %w", err)
		}
	}
}

// look returns the number of bars still missing, after submitting jobs for what nobody fetches.
func (f *filling) look(ctx context.Context) (missing int64, err error) {
	for {
		refreshed, err := f.settle(ctx)
		if err != nil {
			return 0, err
		}
		if !refreshed {
			break
		}
	}
	if err := f.delays(ctx); err != nil {
		return 0, err
	}
	index := f.c.Snapshot()
	for _, base := range []bool{false, true} { // those of bases last: they need what is missing of the others
		if base {
			f.needBases()
		}
		for _, p := range slices.Clone(f.parts) {
			if p.base != base || p.lends != nil {
				continue
			}
			if err := f.miss(ctx, index, p); err != nil {
				return 0, err
			}
		}
	}
	if err := f.lend(ctx, index); err != nil {
		return 0, err
	}
	if f.quota == nil && slices.ContainsFunc(f.parts, func(p *part) bool { return !p.missing.Empty() }) {
		if f.quota, err = f.c.limits(ctx, f.req.AskedBy); err != nil {
			return 0, err
		}
	}
	if f.meter.total == 0 || f.unlimited {
		if err := f.limit(); err != nil {
			return 0, err
		}
	}
	for _, p := range f.parts {
		if p.missing.Empty() {
			continue
		}
		missing = max(add(missing, p.missing.Intersect(p.binding.Life(f.now)).Count(p.series.Timeframe)), 1)
	}
	return missing, f.submit(ctx, index)
}

// miss finds out what is missing of a part, and where that comes from.
func (f *filling) miss(ctx context.Context, index *coverage.Index, p *part) (err error) {
	for {
		if p.missing, err = f.gap(ctx, index, p); err != nil || p.missing.Empty() {
			p.pending = nil
			return err
		}
		from := p.from
		if err := f.bind(ctx, p); err != nil {
			return err
		}
		if p.from == from || len(p.counts) == 0 {
			break
		}
		p.gapped = false // each bar costs many of its base: no more than are needed
		for i := range p.factors {
			p.factors[i] = 1
		}
	}
	if p.from != nil {
		p.pending = p.missing
	}
	return nil
}

// read reports whether the part is what the statement reads, and not what is needed for that.
func (p *part) read() bool { return !p.base && p.lends == nil }

// need changes what is needed of a part.
func (p *part) need(ranges market.RangeSet) {
	if !slices.Equal(ranges, p.ranges) {
		p.ranges, p.gapped = ranges, false
	}
}

// fetched returns the series that is being fetched, for people.
func (f *filling) fetched() market.Series {
	for _, p := range f.parts {
		if !p.missing.Empty() && p.waiting().Empty() {
			return p.series
		}
	}
	return f.parts[0].series
}

// gap returns what is missing of a part, the next page of its counts among it.
func (f *filling) gap(ctx context.Context, index *coverage.Index, p *part) (market.RangeSet, error) {
	version, _ := index.Version(p.series.Symbol)
	if p.gapped && version == p.version {
		return p.gap.Subtract(p.excused), nil
	}
	gap := index.Missing(p.series, p.ranges, f.req.Freshness, f.now)
	p.needs = nil
	for i, n := range p.counts {
		origin := market.NegInf
		if _, known := f.c.counts.get(index, p.series, n, f.req.Freshness, f.now); !known && (p.from != nil || n.Within.Start == market.NegInf && !n.Newest) {
			if err := f.bind(ctx, p); err != nil {
				return nil, err
			}
			origin = p.binding.Life(f.now).Bounds().Start
		}
		needs, more, err := f.c.resolve(ctx, index, p.series, n, f.req.Freshness, f.now, origin, p.factors[i], p.leastPage())
		if err != nil {
			return nil, err
		}
		if more.Empty() {
			p.needs = p.needs.Add(needs)
			continue
		}
		next := market.RangeSet{more}
		// What is being fetched is waited for before more is: a page that has come in part says nothing of how many there are.
		left := index.Missing(p.series, next.Intersect(p.inFlight().Union(p.pending)), f.req.Freshness, f.now)
		if left.Empty() {
			p.factors[i] = min(2*p.factors[i], 1<<16)
			left = index.Missing(p.series, next, f.req.Freshness, f.now)
		}
		gap = gap.Union(left)
	}
	p.version, p.gap, p.gapped = version, gap, true
	return gap.Subtract(p.excused), nil
}

// inFlight returns what jobs of the part are under way for.
func (p *part) inFlight() market.RangeSet {
	ranges := make([]market.Range, len(p.jobs))
	for i, j := range p.jobs {
		ranges[i] = j.record.Range
	}
	return market.NewRangeSet(ranges...)
}

// leastPage is the number of bars that a source is asked for at least where it is not known how many are needed: a page costs
// as much. Derived bars cost as many as they are made of.
func (p *part) leastPage() int64 {
	if p.from != nil {
		return 1
	}
	return leastPage
}

// limit checks the size of all that is needed.
func (f *filling) limit() error {
	f.unlimited = false
	limit := f.req.MaxBars
	if limit <= 0 {
		limit = f.c.config.MaxBars
	}
	var bars int64
	for _, p := range f.parts {
		need := p.ranges
		if p.binding != nil {
			need = need.Intersect(p.binding.Life(f.now))
		} else {
			need = need.Intersect(market.RangeSet{{Start: market.NegInf, End: f.now}}).Subtract(unknownLife(f.c.Snapshot(), p.series))
		}
		for _, o := range f.parts {
			switch { // counted as what is read
			case !p.read() && o.read() && o.series == p.series:
				need = need.Subtract(o.ranges)
			case p.lends == o && o.binding != nil && o.series.Timeframe == p.series.Timeframe:
				need = need.Subtract(o.ranges.Intersect(o.binding.Life(f.now)))
			}
		}
		bars = add(bars, need.Count(p.series.Timeframe))
		for _, n := range p.counts {
			bars = add(bars, min(n.N, p.series.Timeframe.Count(clip(n.Within, p.series.Timeframe, f.now))))
		}
		if f.quota != nil { // first: this limit is not the user's to raise
			if err := f.quota.CheckBars(p.series, bars); err != nil {
				return err
			}
		}
		if bars > limit {
			return tooMany(p.series, bars, limit)
		}
	}
	return nil
}

// unknownLife returns the absence that reaches to the infinite past: nothing was listed there.
func unknownLife(index *coverage.Index, series market.Series) market.RangeSet {
	if segments := index.Segments(series); len(segments) > 0 && segments[0].State == coverage.Absent {
		return market.RangeSet{segments[0].Range}
	}
	return nil
}

func newID() uuid.UUID {
	if id, err := uuid.NewV7(); err == nil {
		return id
	}
	return uuid.New()
}
