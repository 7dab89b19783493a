package market

import (
	"slices"
	"strings"
)

// Range is the half-open stretch of time [Start, End). It is empty where End is not after Start.
type Range struct{ Start, End Instant }

// Always is the range of all time.
var Always = Range{NegInf, PosInf} //nolint:gochecknoglobals // a constant that Go cannot declare

// Empty reports whether no instant lies in r.
func (r Range) Empty() bool { return r.End <= r.Start }

// Contains reports whether i lies in r.
func (r Range) Contains(i Instant) bool { return r.Start <= i && i < r.End }

// Overlaps reports whether r and o have an instant in common.
func (r Range) Overlaps(o Range) bool { return !r.Intersect(o).Empty() }

// Intersect returns what r and o have in common, the zero Range where that is nothing.
func (r Range) Intersect(o Range) Range {
	both := Range{max(r.Start, o.Start), min(r.End, o.End)}
	if both.Empty() {
		return Range{}
	}
	return both
}

// Outward returns the smallest range on tf's grid that holds every bar which opens in r or is cut by its edges: what a
// statement needs (PIPELINE 1). An empty range stays empty.
func (r Range) Outward(tf Timeframe) Range {
	if r.Empty() {
		return Range{}
	}
	return Range{tf.Floor(r.Start), tf.Ceil(r.End)}
}

// Inward returns the largest range on tf's grid whose bars lie wholly in r: what may be vouched for (PIPELINE 1).
func (r Range) Inward(tf Timeframe) Range {
	in := Range{tf.Ceil(r.Start), tf.Floor(r.End)}
	if in.Empty() || r.Empty() {
		return Range{}
	}
	return in
}

// String returns r as [start, end).
func (r Range) String() string { return "[" + r.Start.String() + ", " + r.End.String() + ")" }

// RangeSet is a set of instants: ranges that are sorted, not empty, disjoint and not adjacent. Make it with NewRangeSet;
// no method changes its receiver. The nil set is empty.
type RangeSet []Range

// NewRangeSet returns the union of ranges, which may be in any order, overlap and be empty.
func NewRangeSet(ranges ...Range) RangeSet {
	set := make(RangeSet, 0, len(ranges))
	for _, r := range ranges {
		if !r.Empty() {
			set = append(set, r)
		}
	}
	slices.SortFunc(set, func(a, b Range) int {
		switch {
		case a.Start < b.Start:
			return -1
		case a.Start > b.Start:
			return 1
		}
		return 0
	})
	merged := set[:0]
	for _, r := range set {
		if last := len(merged) - 1; last >= 0 && r.Start <= merged[last].End {
			merged[last].End = max(merged[last].End, r.End)
			continue
		}
		merged = append(merged, r)
	}
	if len(merged) == 0 {
		return nil
	}
	return merged
}

// Empty reports whether the set holds nothing.
func (s RangeSet) Empty() bool { return len(s) == 0 }

// Bounds returns the smallest range that holds the whole set, the zero Range for the empty one.
func (s RangeSet) Bounds() Range {
	if len(s) == 0 {
		return Range{}
	}
	return Range{s[0].Start, s[len(s)-1].End}
}

// search returns the index of the first range that ends after i.
func (s RangeSet) search(i Instant) int {
	lo, hi := 0, len(s)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if s[mid].End <= i {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// Contains reports whether i lies in the set.
func (s RangeSet) Contains(i Instant) bool {
	k := s.search(i)
	return k < len(s) && s[k].Contains(i)
}

// ContainsRange reports whether all of r lies in the set; an empty r always does.
func (s RangeSet) ContainsRange(r Range) bool {
	if r.Empty() {
		return true
	}
	k := s.search(r.Start)
	return k < len(s) && s[k].Start <= r.Start && r.End <= s[k].End
}

// Add returns the set with r.
func (s RangeSet) Add(r Range) RangeSet { return s.Union(RangeSet{r}) }

// Union returns what lies in either set.
func (s RangeSet) Union(o RangeSet) RangeSet {
	return NewRangeSet(slices.Concat(s, o)...)
}

// Intersect returns what lies in both sets.
func (s RangeSet) Intersect(o RangeSet) RangeSet {
	var both RangeSet
	for i, j := 0, 0; i < len(s) && j < len(o); {
		if r := s[i].Intersect(o[j]); !r.Empty() {
			both = append(both, r)
		}
		if s[i].End < o[j].End {
			i++
		} else {
			j++
		}
	}
	return both
}

// Subtract returns what lies in s but not in o.
func (s RangeSet) Subtract(o RangeSet) RangeSet {
	var rest RangeSet
	j := 0
	for _, r := range s {
		for j < len(o) && o[j].End <= r.Start {
			j++
		}
		start := r.Start
		for k := j; k < len(o) && o[k].Start < r.End; k++ {
			if start < o[k].Start {
				rest = append(rest, Range{start, o[k].Start})
			}
			start = max(start, o[k].End)
		}
		if start < r.End {
			rest = append(rest, Range{start, r.End})
		}
	}
	return rest
}

// Outward returns the union of the ranges' Outward.
func (s RangeSet) Outward(tf Timeframe) RangeSet {
	out := make([]Range, len(s))
	for i, r := range s {
		out[i] = r.Outward(tf)
	}
	return NewRangeSet(out...)
}

// Inward returns the union of the ranges' Inward.
func (s RangeSet) Inward(tf Timeframe) RangeSet {
	in := make([]Range, len(s))
	for i, r := range s {
		in[i] = r.Inward(tf)
	}
	return NewRangeSet(in...)
}

// Count returns the number of tf's bars that open inside the set, saturating at the largest int64.
func (s RangeSet) Count(tf Timeframe) int64 {
	var n int64
	for _, r := range s {
		c := tf.Count(r)
		if n > int64(PosInf)-c {
			return int64(PosInf)
		}
		n += c
	}
	return n
}

// String returns the ranges joined by " ∪ ", "∅" for the empty set.
func (s RangeSet) String() string {
	if len(s) == 0 {
		return "∅"
	}
	parts := make([]string, len(s))
	for i, r := range s {
		parts[i] = r.String()
	}
	return strings.Join(parts, " ∪ ")
}
