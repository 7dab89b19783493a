package coordinator

import (
	"context"
	"fmt"
	"slices"

	"barkeep/backfill/topic"
	"barkeep/internal/market"
)

// settle takes the jobs that ended out of the parts. It reports whether the index was refreshed for it, so that what they
// brought is seen before more is asked for.
func (f *filling) settle(ctx context.Context) (refreshed bool, err error) {
	for _, p := range f.parts {
		for _, j := range slices.Clone(p.jobs) {
			state, end, failure := f.c.jobs.look(j)
			if state == jobOpen {
				continue
			}
			p.gapped = false
			p.drop(f.c.jobs, j, f.wake)
			if err := f.c.config.Coverage.RefreshSymbol(ctx, p.series.Symbol); err != nil {
				return false, fmt.Errorf("refresh coverage: %w", err)
			}
			refreshed = true
			asked := market.RangeSet{j.record.Range}
			p.pending = p.pending.Subtract(asked)
			if state == jobFailedState {
				if err := f.excuse(p, asked, failure); err != nil {
					return false, err
				}
				continue
			}
			// A binding of another generation is read anew.
			p.binding = nil
			if left := f.unanswered(p, j); !left.Empty() && !f.excusedByBase(p, left) {
				// Who only joined another's job asks for one of their own.
				if end == topic.Cancelled && j.askedBy == f.req.AskedBy {
					return false, cancelled(p.series, j.record.Range)
				}
				p.rounds++
				if p.rounds >= maxRounds {
					return false, unfilled(p.series, left)
				}
			}
		}
	}
	return refreshed, nil
}

// unanswered returns what a job that ended well has left open of what it was asked for: that its source cannot say is an answer (see dead),
// but not to who was to be lent bars.
func (f *filling) unanswered(p *part, j *job) market.RangeSet {
	index := f.c.Snapshot()
	left := index.Missing(p.series, market.RangeSet{j.record.Range}, f.req.Freshness, f.now)
	if j.lender == "" {
		left = left.Subtract(unavailableIn(index, p.series, left, f.now))
	}
	return left
}

// drop ends the part's interest in a job.
func (p *part) drop(b *board, j *job, wake chan struct{}) {
	p.jobs = slices.DeleteFunc(p.jobs, func(o *job) bool { return o == j })
	b.leave(j, wake)
}

// maxRounds bounds how often jobs may end without bringing what was asked before that is an error.
const maxRounds = 3

// staleFactor is how much older than freshness a tail may be that could not be refreshed (DESIGN §9).
const staleFactor = 10

// excuse lets a part go on with a stale tail where that is not too old, and with what is lent, and returns the failure otherwise.
func (f *filling) excuse(p *part, asked market.RangeSet, failure error) error {
	if f.c.Snapshot().Covered(p.series, asked, f.req.Freshness, f.now) {
		return nil // another job brought it
	}
	stale, index := f.stale(p), f.c.Snapshot()
	left := index.Missing(p.series, asked, stale, f.now)
	due := index.Due(p.series, left, f.now)
	if !left.Subtract(due).Empty() {
		return failure
	}
	p.excused = p.excused.Union(asked)
	if !due.Empty() {
		f.warnings = append(f.warnings, fmt.Sprintf("bars of %s in %s are another source's still: %s", p.series, due.Bounds(), failure))
		return nil
	}
	f.warnings = append(f.warnings, fmt.Sprintf("the newest bars of %s could not be refreshed and are up to %s old: %s", p.series, stale, failure))
	return nil
}
