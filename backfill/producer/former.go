package producer

import (
	"fmt"

	"barkeep/backfill/coverage"
	"barkeep/backfill/topic"
	"barkeep/internal/market"
)

// before returns what is known without a request of the time before the listing: nothing was traded, but while the name was
// another instrument's. What was not read of that one then cannot be had by the name any more: it is unavailable, not
// absent (PIPELINE 11). What was read stays, since an unavailable reading does not displace it. Where another source may stand in, the time before
// the only listing is unavailable too: that nothing was traded here says nothing of there.
func (r *run) before(first market.Instant) []topic.Segment {
	tf := r.job.Series.Timeframe
	at := market.NegInf
	var segments []topic.Segment
	if r.job.Mixed && len(r.former) == 0 {
		return []topic.Segment{{
			Range: market.Range{Start: at, End: first}, State: coverage.Unavailable, RetryAt: r.p.now().Shift(depthFor),
			Reason: fmt.Sprintf("%s lists it since %s only", r.job.Source, r.life.Start),
		}}
	}
	absent := func(until market.Instant) {
		if at < until {
			segments = append(segments, topic.Segment{
				Range: market.Range{Start: at, End: until}, State: coverage.Absent, Reason: "listed at " + r.life.Start.String(),
			})
		}
	}
	for _, f := range r.former {
		life := f.Life.Outward(tf)
		life = market.Range{Start: max(life.Start, at), End: min(life.End, first)}
		if life.Empty() {
			continue
		}
		absent(life.Start)
		segments = append(segments, topic.Segment{
			Range: life, State: coverage.Unavailable,
			Reason: fmt.Sprintf("until %s the name was another instrument's of %s, %s", f.Life.End, r.job.Source, f.VendorID),
		})
		at = life.End
	}
	absent(first)
	return segments
}
