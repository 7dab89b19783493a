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
	told := joined(index, p.series, list, f.now)
	if f.req.Mode != ModePartial {
		return nil, f.excuse(p, gap, f.unavailable(index, p, gap, told[0], others))
	}
	for _, s := range told {
		failure := f.unavailable(index, p, gap, s, others)
		f.warnings = append(f.warnings, failure.Message+". "+failure.Advice)
	}
	p.excused = p.excused.Union(gap.Intersect(rangesOf(list)))
	return gap.Subtract(p.excused), nil
}

// joined returns a list of unavailable segments in which those of one reason are one that have only what is absent between them: of a sparse series
// that could be thousands.
func joined(index *coverage.Index, series market.Series, list []coverage.Segment, now market.Instant) []coverage.Segment {
	var out []coverage.Segment
	for _, s := range list {
		last := len(out) - 1
		if last < 0 || out[last].Reason != s.Reason || until(index, series, market.Range{Start: out[last].Range.End, End: s.Range.Start}, now) < s.Range.Start {
			out = append(out, s)
			continue
		}
		out[last].Range.End = s.Range.End
		out[last].RetryAt = min(out[last].RetryAt, s.RetryAt)
	}
	return out
}

// unavailable returns the error for what is unavailable of gap by s, over all sources that may have its bars.
func (f *filling) unavailable(index *coverage.Index, p *part, gap market.RangeSet, s coverage.Segment, others []string) *Error {
	at := gap.Intersect(market.RangeSet{s.Range}).Bounds()
	from := until(index, p.series, market.Range{Start: at.Start, End: market.PosInf}, f.now)
	for _, l := range p.lenders {
		if list := f.denials(index, l, market.RangeSet{at}); len(list) > 0 {
			each := list[0]
			s.Reason += "; " + string(l.series.Symbol) + ": " + each.Reason
			from = min(from, until(index, each.series, market.Range{Start: max(at.Start, each.Range.Start), End: market.PosInf}, f.now))
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

// until returns the end of what is unavailable or absent of a series from the start of r on, where bars may begin; it looks no further than r.
func until(index *coverage.Index, series market.Series, r market.Range, now market.Instant) market.Instant {
	at := r.Start
	for _, s := range index.From(series, at) {
		expired := s.ExpiresAt != 0 && s.ExpiresAt <= now
		if at >= r.End || s.Range.Start > at || expired || s.State != coverage.Unavailable && s.State != coverage.Absent {
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
