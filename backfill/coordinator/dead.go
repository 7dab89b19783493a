package coordinator

import (
	"context"
	"slices"

	"barkeep/backfill/coverage"
	"barkeep/backfill/directory"
	"barkeep/internal/market"
)

// dead takes out of gap what its source cannot give now, and returns the rest. In mode partial the user is told and gets the rest; else that
// is an error, unless a tail is only too old to be as fresh as asked for.
func (f *filling) dead(ctx context.Context, index *coverage.Index, p *part, gap market.RangeSet) (rest market.RangeSet, err error) {
	list := index.Unavailable(p.series, gap, f.now)
	if len(list) == 0 {
		return gap, nil
	}
	if p.lends != nil { // that is for who is lent to, see lend
		return gap.Subtract(rangesOf(list)), nil
	}
	others, err := directory.Others(ctx, f.c.config.Pool, p.series.Symbol, p.binding)
	if err != nil {
		return nil, err
	}
	f.poke()
	if f.req.Mode != ModePartial {
		return nil, f.excuse(p, gap, f.unavailable(index, p, gap, list, 0, others))
	}
	for i := range list {
		failure := f.unavailable(index, p, gap, list, i, others)
		f.warnings = append(f.warnings, failure.Message+". "+failure.Advice)
		p.excused = p.excused.Union(gap.Intersect(market.RangeSet{list[i].Range}))
	}
	return gap.Subtract(p.excused), nil
}

// unavailable returns the error for the i-th of the segments that gap meets, over all sources that may have its bars.
func (f *filling) unavailable(index *coverage.Index, p *part, gap market.RangeSet, list []coverage.Segment, i int, others []string) *Error {
	at := gap.Intersect(market.RangeSet{list[i].Range}).Bounds()
	s, from := list[i], until(index, p.series, at.Start, f.now)
	for _, l := range p.lenders {
		if list := f.denials(index, l, market.RangeSet{at}); len(list) > 0 {
			each := list[0]
			s.Reason += "; " + string(l.series.Symbol) + ": " + each.Reason
			from = min(from, until(index, each.series, max(at.Start, each.Range.Start), f.now))
			if each.RetryAt != 0 && (s.RetryAt == 0 || each.RetryAt < s.RetryAt) {
				s.RetryAt = each.RetryAt
			}
		}
		others = slices.DeleteFunc(others, func(o string) bool { return o == string(l.series.Symbol) })
	}
	if from >= p.series.Timeframe.Floor(f.now) {
		from = 0
	}
	return unavailable(p.series, &s, at, from, others)
}

// until returns the end of what is unavailable of a series from at on.
func until(index *coverage.Index, series market.Series, at, now market.Instant) market.Instant {
	for _, s := range index.Unavailable(series, market.RangeSet{{Start: at, End: market.PosInf}}, now) {
		if s.Range.Start > at {
			break
		}
		at = s.Range.End
	}
	return at
}

func rangesOf(list []coverage.Segment) market.RangeSet {
	ranges := make([]market.Range, len(list))
	for i := range list {
		ranges[i] = list[i].Range
	}
	return market.NewRangeSet(ranges...)
}

// unavailableIn returns what of set its source cannot say now.
func unavailableIn(index *coverage.Index, series market.Series, set market.RangeSet, now market.Instant) market.RangeSet {
	return set.Intersect(rangesOf(index.Unavailable(series, set, now)))
}
