package coordinator

import (
	"context"

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
	others, err := directory.Others(ctx, f.c.config.Pool, p.series.Symbol, p.binding)
	if err != nil {
		return nil, err
	}
	f.poke()
	if f.req.Mode != ModePartial {
		return nil, f.excuse(p, gap, f.unavailable(p.series, gap, list, 0, others))
	}
	for i := range list {
		failure := f.unavailable(p.series, gap, list, i, others)
		f.warnings = append(f.warnings, failure.Message+". "+failure.Advice)
		p.excused = p.excused.Union(gap.Intersect(market.RangeSet{list[i].Range}))
	}
	return gap.Subtract(p.excused), nil
}

// unavailable returns the error for the i-th of the segments that gap meets.
func (f *filling) unavailable(series market.Series, gap market.RangeSet, list []coverage.Segment, i int, others []string) *Error {
	from := list[i].Range.End
	for _, s := range list[i+1:] {
		if s.Range.Start > from {
			break
		}
		from = s.Range.End
	}
	if from >= series.Timeframe.Floor(f.now) {
		from = 0
	}
	return unavailable(series, &list[i], gap.Intersect(market.RangeSet{list[i].Range}).Bounds(), from, others)
}
