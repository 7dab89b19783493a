package coverage

import (
	"slices"
	"strings"

	"barkeep/internal/market"
)

// The reasons of stretches whose rows are removed in a second step, once no index can still vouch for them (PIPELINE 7): what
// was withdrawn is noted where the coverage stood, so that a page that comes meanwhile takes its own part out of the removal.
const (
	// Forgotten stretches are a gap: they have expired before they were written, by any clock. A source that cannot say what is there appends why.
	Forgotten = "forgotten"
	// Retention stretches are unavailable for good: the bars are older than they are kept (PIPELINE 3, 8). The second step is
	// done where RetryAt is infinite.
	Retention = "retention"
)

// Pending reports whether the rows of the segment's range are still to be removed.
func (s *Segment) Pending() bool {
	return s.State == Unavailable &&
		(s.forgotten() || s.Reason == Retention && !s.retired())
}

func (s *Segment) forgotten() bool {
	return s.State == Unavailable && (s.Reason == Forgotten || strings.HasPrefix(s.Reason, Forgotten+": "))
}

// retired reports whether the segment will not change any more: retention has removed its rows.
func (s *Segment) retired() bool {
	return s.State == Unavailable && s.Reason == Retention && s.RetryAt == market.PosInf
}

// Bury withdraws what is known of r, rounded outward, and of what was rolled up from it, and notes that its rows are to be removed.
// by names the source and the generation that end here: a page of the next one is newer whatever its clock says.
func (l *Ledger) Bury(r market.Range, by Binding, at market.Instant) {
	r = r.Outward(l.series.Timeframe)
	if r.Empty() {
		return
	}
	l.Withdraw(r)
	l.enter(Segment{
		Range: r, State: Unavailable, Source: by.Source, Generation: by.Generation, FetchedAt: at, ExpiresAt: market.NegInf, Reason: Forgotten,
	})
}

// Retire makes all before until unavailable for its age, but what is absent: there is nothing to remove. What was rolled up from
// the bars stays: it was right when it was made, and is kept for as long as its own timeframe is. It reports whether anything
// changed.
func (l *Ledger) Retire(until market.Instant, by Binding, at market.Instant) bool {
	before := market.Range{Start: market.NegInf, End: l.series.Timeframe.Floor(until)}
	var stays []market.Range
	for _, s := range l.list {
		if s.State == Absent || s.State == Unavailable && s.Reason == Retention {
			stays = append(stays, s.Range)
		}
	}
	old := market.RangeSet{before}.Subtract(market.NewRangeSet(stays...))
	for _, r := range old {
		l.cut(r)
		l.enter(Segment{
			Range: r, State: Unavailable, Source: by.Source, Generation: by.Generation, FetchedAt: at, Reason: Retention,
		})
	}
	return !old.Empty()
}

// Pending returns the segments whose rows may be removed: they were withdrawn at before or earlier.
func (l *Ledger) Pending(before market.Instant) []Segment {
	var list []Segment
	for _, s := range l.list {
		if s.Pending() && s.FetchedAt <= before {
			list = append(list, s)
		}
	}
	return list
}

// Removed notes that no rows are left in r, a part of a pending segment: what was forgotten is a plain gap, or what its source
// said of it since; what retention took is told as such for ever.
func (l *Ledger) Removed(s Segment, r market.Range) {
	l.cut(r)
	s.Range = r
	switch s.Reason {
	case Retention:
		s.RetryAt = market.PosInf
	case Forgotten:
		return
	default:
		s.Reason = strings.TrimPrefix(s.Reason, Forgotten+": ")
	}
	l.enter(s)
}

// buried returns a reading of an unavailable source, which tells nothing of rows, so that those that are to be removed still are:
// in the parts where old segments say so.
func buried(s Segment, old []Segment) []Segment {
	var parts []Segment
	rest := market.RangeSet{s.Range}
	for _, o := range old {
		r := o.Range.Intersect(s.Range)
		if r.Empty() || !o.forgotten() {
			continue
		}
		part := s
		part.Range, part.FetchedAt, part.Reason = r, o.FetchedAt, Forgotten+": "+s.Reason
		parts = append(parts, part)
		rest = rest.Subtract(market.RangeSet{r})
	}
	for _, r := range rest {
		part := s
		part.Range = r
		parts = append(parts, part)
	}
	return parts
}

// enter adds a segment where there is none.
func (l *Ledger) enter(s Segment) {
	l.list = append(l.list, s)
	sortSegments(l.list)
}

// cut removes r from the segments and reports whether there was anything.
func (l *Ledger) cut(r market.Range) bool {
	var rest []Segment
	found := false
	for _, s := range l.list {
		if !s.Range.Overlaps(r) {
			rest = append(rest, s)
			continue
		}
		found = true
		for _, left := range (market.RangeSet{s.Range}).Subtract(market.RangeSet{r}) {
			part := s
			part.Range = left
			rest = append(rest, part)
		}
	}
	l.list = slices.Clip(rest)
	return found
}
