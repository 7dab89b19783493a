package coverage

import (
	"cmp"
	"slices"

	"barkeep/internal/market"
)

// derivation is what Derive has at hand: a base's segments inside one range of a longer timeframe.
type derivation struct {
	tf market.Timeframe
	// provisional are the base's segments of that state, the oldest reading first; settled are the final and absent ones, the
	// newest first.
	provisional, settled []Segment
	absent               market.RangeSet
	out                  []Segment
}

// Known returns the part of r that is known without a hole from its start on: where the rows are that make its bars.
func (l *Ledger) Known(r market.Range) market.Range {
	for _, k := range l.known() {
		if k.Contains(r.Start) {
			return k.Intersect(r)
		}
	}
	return market.Range{}
}

// known returns where the ledger says what bars there are.
func (l *Ledger) known() market.RangeSet {
	var ranges []market.Range
	for _, s := range l.list {
		if s.State.Settled() || s.State == Provisional {
			ranges = append(ranges, s.Range)
		}
	}
	return market.NewRangeSet(ranges...)
}

// Derive returns what the base's coverage, read by the ledger, says of the bars of tf that open in r (PIPELINE 9): a
// bucket is vouched for only where the base is known in all of it, and takes the base's weakest state. Absent is only what
// is absent wholly: a listing in the middle of a bucket leaves the bar that its second half makes. The bucket that forms at
// now is provisional as of where the base's coverage in it ends: the bar of the minutes so far is an answer while that is
// fresh, and is never final. A bucket with an unavailable stretch is not known.
//
// The time of reading is the oldest of a bucket's provisional parts, else the newest of its settled ones. Either grows with
// every change of the base, so that a later roll-up is newer and an equal one changes nothing.
//
// A bucket in which any of the base is lent names that source and is to be asked for again when that is; Source is empty in all
// others.
func (l *Ledger) Derive(tf market.Timeframe, r market.Range, now market.Instant) []Segment {
	d := derivation{tf: tf}
	var absent []market.Range
	for _, s := range l.list {
		switch {
		case s.State == Provisional || s.State.Settled() && s.ExpiresAt != 0:
			d.provisional = append(d.provisional, s) // what expires is worth no more than that
		case s.State.Settled():
			d.settled = append(d.settled, s)
		}
		if s.State == Absent {
			absent = append(absent, s.Range)
		}
	}
	slices.SortStableFunc(d.provisional, func(a, b Segment) int { return cmp.Compare(a.FetchedAt, b.FetchedAt) })
	slices.SortStableFunc(d.settled, func(a, b Segment) int { return cmp.Compare(b.FetchedAt, a.FetchedAt) })
	d.absent = market.NewRangeSet(absent...).Inward(tf)
	known := l.known()
	whole := market.RangeSet{r.Outward(tf)}
	d.closed(known.Inward(tf).Intersect(whole))
	for _, k := range known {
		d.forming(k, whole, now)
	}
	for i := range l.list {
		d.lent(&l.list[i])
	}
	sortSegments(d.out)
	return d.out
}

// closed states the buckets that the base is known in all of.
func (d *derivation) closed(left market.RangeSet) {
	for _, s := range d.provisional {
		left = d.take(left, s, Provisional)
	}
	absent := left.Intersect(d.absent)
	left = left.Subtract(absent)
	for _, s := range d.settled {
		absent = d.take(absent, s, Absent)
		left = d.take(left, s, Final)
	}
}

// take states what of left the base's segment lies in, and returns the rest.
func (d *derivation) take(left market.RangeSet, s Segment, state State) market.RangeSet {
	taken := market.RangeSet{s.Range.Outward(d.tf)}
	for _, r := range left.Intersect(taken) {
		d.out = append(d.out, Segment{Range: r, State: state, FetchedAt: s.FetchedAt})
	}
	return left.Subtract(taken)
}

// forming states the bucket in which the known stretch ends, where that is still to close: what was known by then.
func (d *derivation) forming(known market.Range, whole market.RangeSet, now market.Instant) {
	open := d.tf.Floor(known.End)
	bucket := market.Range{Start: open, End: d.tf.Next(known.End)}
	if open == known.End || open < known.Start || bucket.End <= now || !whole.ContainsRange(bucket) {
		return
	}
	asOf := known.End
	for _, s := range d.provisional {
		if s.Range.Overlaps(bucket.Intersect(known)) {
			asOf = min(asOf, s.FetchedAt)
		}
	}
	d.out = append(d.out, Segment{Range: bucket, State: Provisional, FetchedAt: asOf})
}
