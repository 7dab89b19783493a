package coverage

import (
	"slices"

	"barkeep/internal/market"
)

// Lent reports whether the segment stands in for what the symbol's own source cannot say.
func (s *Segment) Lent() bool { return s.State.Settled() && s.RetryAt != 0 && !s.DerivedFrom.Valid() }

// Due reports whether s is lent, or made of what is, and the symbol's own source is to be asked again at now.
func (s *Segment) Due(now market.Instant) bool {
	return s.State.Settled() && s.RetryAt != 0 && s.RetryAt <= now
}

// Lendable reports whether another source may stand in for owner in the range: it is unavailable by its own word, which it may be asked for
// again. What was forgotten, what retention took and what the name does not mean any more has no such time.
func (s *Segment) Lendable(owner string) bool {
	return s.State == Unavailable && s.Source == owner && s.ExpiresAt == 0 && s.RetryAt != 0 && !s.RetryAt.IsInf()
}

// outlasts reports whether s stays where a reading of the symbol's own source comes.
func (s *Segment) outlasts(reading *Segment) bool {
	switch {
	case reading.State == Unavailable && s.State.Settled():
		return true
	case (s.Lent() || s.Lendable(reading.Source)) && reading.State.Settled() && reading.Generation == s.Generation:
		return false
	}
	return !s.Newer(reading.Generation, reading.FetchedAt)
}

// renew returns s in parts: where it is lent, a newer word that its bars are unavailable is noted in the part that it is about.
func (s *Segment) renew(reading *Segment) (parts []Segment, again market.RangeSet) {
	if reading.State != Unavailable || !s.Lent() || !s.Newer(reading.Generation, reading.FetchedAt) {
		return []Segment{*s}, nil
	}
	part := *s
	part.Range = s.Range.Intersect(reading.Range)
	part.Generation, part.FetchedAt, part.RetryAt = reading.Generation, reading.FetchedAt, reading.RetryAt
	return append(s.outside(part.Range), part), market.RangeSet{part.Range}
}

// outside returns the parts of s that are not in r.
func (s *Segment) outside(r market.Range) (parts []Segment) {
	for _, left := range (market.RangeSet{s.Range}).Subtract(market.RangeSet{r}) {
		part := *s
		part.Range = left
		parts = append(parts, part)
	}
	return parts
}

// Lend enters what a lender has for good, of which it gives Range, State, Source and Reason, where owner, the symbol's own source, cannot say.
// It returns where: rows there are to be made those of the lender.
func (l *Ledger) Lend(s Segment, owner string) market.RangeSet {
	if !s.State.Settled() {
		return nil
	}
	s.Range = s.Range.Inward(l.series.Timeframe)
	var lent []market.Range
	var list []Segment
	for _, old := range l.list {
		r := old.Range.Intersect(s.Range)
		if r.Empty() || !old.Lendable(owner) {
			list = append(list, old)
			continue
		}
		list = append(list, old.outside(r)...)
		old.Range, old.State, old.Source, old.Reason = r, s.State, s.Source, s.Reason
		list, lent = append(list, old), append(lent, r)
	}
	sortSegments(list)
	l.list = slices.Clip(list)
	applied := market.NewRangeSet(lent...)
	l.revised = l.revised.Union(applied)
	return applied
}

// Lends returns what the ledger can lend of r: what it knows for good, by its own source.
func (l *Ledger) Lends(r market.Range) []Segment {
	var list []Segment
	for _, s := range l.list {
		if s.Range = s.Range.Intersect(r); !s.Range.Empty() && s.State.Settled() && s.ExpiresAt == 0 && s.RetryAt == 0 {
			list = append(list, s)
		}
	}
	return list
}

// lent has the buckets that are made of a lent segment say so: see Derive.
func (d *derivation) lent(s *Segment) {
	if !s.Lent() {
		return
	}
	cut := s.Range.Outward(d.tf)
	var out []Segment
	for _, o := range d.out {
		r := o.Range.Intersect(cut)
		if r.Empty() {
			out = append(out, o)
			continue
		}
		out = append(out, o.outside(r)...)
		if o.Range, o.Source = r, s.Source; o.State.Settled() && (o.RetryAt == 0 || s.RetryAt < o.RetryAt) {
			o.RetryAt = s.RetryAt
		}
		out = append(out, o)
	}
	d.out = out
}
