package coordinator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"barkeep/backfill/coverage"
	"barkeep/backfill/directory"
	"barkeep/internal/market"
)

// What a symbol's source cannot have may be another one's bars where Config.Fallback says so: kraken keeps 720 bars, and bitstamp has the years
// before. The lender's bars are fetched as those of its own symbol, bitstamp:BTCUSD, by jobs, slots and roll-ups of their own; once they are known
// for good, an order to ingest takes them over, which decides under the symbol's lock where they may stand in (see package coverage). What the
// first lender cannot give is asked of the next. A source that fails is not gone round: that is the statement's error.
//
//	part of BTCUSD 1m: gap → job of kraken → unavailable ┐
//	        its lender's, bitstamp:BTCUSD 1m: gap → job → covered → order to lend → BTCUSD 1m is covered

// loan is what a lender is to give: what it has now, and what is being fetched for it still.
type loan struct {
	lender     *part
	has, comes market.RangeSet
}

// onLoan returns what of the part lenders have or will have.
func (p *part) onLoan() (ranges market.RangeSet) {
	for _, l := range p.loans {
		ranges = ranges.Union(l.has).Union(l.comes)
	}
	return ranges
}

// lend finds out what is to be lent to which part, and what of that the lenders miss.
func (f *filling) lend(ctx context.Context, index *coverage.Index) error {
	for _, p := range slices.Clone(f.parts) {
		if p.lends != nil {
			continue
		}
		p.loans = nil
		may := f.lendable(index, p)
		want := p.missing.Intersect(may)
		if !want.Empty() && !p.sought {
			if err := f.seekLenders(ctx, p); err != nil {
				return err
			}
		}
		for i, l := range p.lenders {
			if err := f.bind(ctx, l); err != nil {
				return err
			}
			own := market.RangeSet{market.Always}
			if i+1 < len(p.lenders) { // what lies before its listing may be the next one's
				own[0].Start = l.series.Timeframe.Floor(l.binding.Life(market.PosInf).Bounds().Start)
			}
			l.need(want.Intersect(own))
			if err := f.missLent(ctx, index, l); err != nil {
				return err
			}
			each := f.offer(index, l, l.ranges, may.Intersect(own))
			p.loans = append(p.loans, each)
			want = want.Subtract(each.has).Subtract(each.comes)
		}
	}
	return nil
}

// missLent is miss for a lender and what it is rolled up from.
func (f *filling) missLent(ctx context.Context, index *coverage.Index, l *part) error {
	if err := f.miss(ctx, index, l); err != nil || l.from == nil {
		return err
	}
	l.from.need(l.missing)
	return f.miss(ctx, index, l.from)
}

// lendable returns where another source may stand in that is any of the part's gap.
func (f *filling) lendable(index *coverage.Index, p *part) market.RangeSet {
	if p.missing.Empty() || !f.mixed(p) {
		return nil
	}
	var ranges []market.Range
	for _, s := range index.Unavailable(p.series, p.missing, f.now) {
		if s.Lendable(p.binding.Source) {
			ranges = append(ranges, s.Range)
		}
	}
	return market.NewRangeSet(ranges...)
}

// mixed reports whether the part's bars may be of several venues.
func (f *filling) mixed(p *part) bool {
	return p.binding != nil && f.c.mixed(p.series.Symbol, p.binding.Source)
}

// lenderOf returns the symbol under which another source has what an unprefixed one names.
func lenderOf(symbol market.Symbol, source string) market.Symbol {
	return market.Symbol(source + ":" + string(symbol))
}

// mixedBefore reports whether another source may stand in for the time before the listing, which a job for r may come to.
func (f *filling) mixedBefore(ctx context.Context, p *part, r market.Range) (bool, error) {
	if p.from != nil || !f.mixed(p) || !beforeListing(p.binding, r) {
		return false, nil
	}
	if !p.sought {
		if err := f.seekLenders(ctx, p); err != nil {
			return false, err
		}
	}
	return len(p.lenders) > 0, nil
}

// beforeListing reports whether r may reach to before the listing.
func beforeListing(b *directory.Binding, r market.Range) bool {
	return b.Listed == market.NegInf || r.Start < b.Listed
}

func (c *Coordinator) mixed(symbol market.Symbol, source string) bool {
	venue, _ := symbol.Split()
	return venue == "" && len(c.config.Fallback[source]) > 0
}

// Mix withdraws what is known to be absent before the listings of symbols that others may lend to, from the time before Config.Fallback said so:
// who asks for it is lent it. Call it before the first Ensure.
func (c *Coordinator) Mix(ctx context.Context) error {
	if len(c.config.Fallback) == 0 {
		return nil
	}
	rows, err := c.config.Pool.Query(ctx, `SELECT c.symbol, c.timeframe, c.range_end FROM barkeep.coverage c JOIN barkeep.symbol s USING (symbol, source)
	 WHERE c.state = $1 AND c.range_start = '-infinity' AND c.derived_from = '' AND c.retry_at IS NULL AND c.source = ANY ($2)
	   AND position(':' IN c.symbol) = 0`, int16(coverage.Absent), slices.Collect(maps.Keys(c.config.Fallback)))
	if err != nil {
		return fmt.Errorf("read what is absent before listings: %w", err)
	}
	known := map[market.Series]market.RangeSet{}
	var symbol, timeframe string
	var end pgtype.Timestamptz
	_, err = pgx.ForEachRow(rows, []any{&symbol, &timeframe, &end}, func() error {
		tf, err := market.ParseTimeframe(timeframe)
		known[market.Series{Symbol: market.Symbol(symbol), Timeframe: tf}] = market.RangeSet{{Start: market.NegInf, End: coverage.Instant(end)}}
		return err
	})
	if err != nil {
		return fmt.Errorf("read what is absent before listings: %w", err)
	}
	for series, ranges := range known {
		if err := pgx.BeginFunc(ctx, c.config.Pool, func(tx pgx.Tx) error { return coverage.Withdraw(ctx, tx, series, ranges) }); err != nil {
			return fmt.Errorf("withdraw what is absent before the listing of %s: %w", series, err)
		}
	}
	if err := c.config.Coverage.Refresh(ctx); err != nil {
		return fmt.Errorf("refresh coverage: %w", err)
	}
	return nil
}

// seekLenders finds the sources that have the same pair under the same name, and the timeframe, natively or derived.
func (f *filling) seekLenders(ctx context.Context, p *part) error {
	var lenders []*part
	for _, name := range f.c.config.Fallback[p.binding.Source] {
		l := &part{series: market.Series{Symbol: lenderOf(p.series.Symbol, name), Timeframe: p.series.Timeframe}, lends: p}
		before := len(f.parts)
		err := f.bind(ctx, l)
		if _, unknown := errors.AsType[*directory.UnknownSymbolError](err); unknown || errors.Is(err, errNoTimeframe) {
			continue
		}
		if err != nil {
			return err
		}
		same, err := directory.Same(ctx, f.c.config.Pool, p.binding, l.binding)
		if err != nil {
			return err
		}
		if !same {
			f.parts = f.parts[:before] // without the base that it would be rolled up from
			continue
		}
		lenders = append(lenders, l)
	}
	p.lenders, p.sought = lenders, true
	f.parts, f.unlimited = append(f.parts, lenders...), true
	return nil
}

// offer says what of want the lender gives. What it has only provisionally it does not. Where it has nothing, that is given as far as it may
// be: who counts bars back in time comes to an end.
func (f *filling) offer(index *coverage.Index, l *part, want, may market.RangeSet) loan {
	has := want.Intersect(index.Settled(l.series, f.now))
	for _, s := range index.Segments(l.series) {
		if none := (market.RangeSet{s.Range}); s.State == coverage.Absent && !none.Intersect(has).Empty() {
			has = has.Union(none.Intersect(may))
		}
	}
	comes := want.Intersect(l.missing)
	for _, d := range f.denials(index, l, comes) {
		comes = comes.Subtract(market.RangeSet{d.Range}.Outward(l.series.Timeframe))
	}
	return loan{lender: l, has: has, comes: comes}
}

// denial is a segment in which a lender, or what it is rolled up from, cannot say what there is.
type denial struct {
	coverage.Segment

	series market.Series
}

func (f *filling) denials(index *coverage.Index, l *part, set market.RangeSet) (list []denial) {
	for _, each := range []*part{l, l.from} {
		if each == nil {
			continue
		}
		for _, s := range index.Unavailable(each.series, set, f.now) {
			list = append(list, denial{s, each.series})
		}
	}
	return list
}

// borrow joins or makes the jobs that take over what lenders have, and returns those made. All that a lender is to give is waited for, but
// in mode partial.
func (f *filling) borrow(p *part) (made []*job, err error) {
	for _, each := range p.loans {
		for _, r := range f.borrowed(p, each) {
			key := shareKey{p.series, r, p.binding.Generation, f.priority(), f.newestFirst(), each.lender.series.Symbol}
			j, fresh, err := f.c.jobs.join(key, f.wake, f.c.config.MaxJobs, func() *job { return f.newLoan(p, each.lender, r) })
			if err != nil {
				return made, err
			}
			if p.jobs = append(p.jobs, j); fresh {
				made = append(made, j)
			}
		}
	}
	return made, nil
}

// borrowed returns what jobs are to take over of a loan now.
func (f *filling) borrowed(p *part, l loan) market.RangeSet {
	if !l.comes.Empty() && f.req.Mode != ModePartial {
		return nil
	}
	return fewJobs(l.has.Subtract(p.inFlight()))
}

func (f *filling) newLoan(p, lender *part, r market.Range) *job {
	j := f.newJob(p, r)
	j.lender, j.base = lender.series.Symbol, p.series.Timeframe
	if lender.binding != nil {
		j.life = lender.binding.Life(f.now).Bounds()
	}
	return j
}
