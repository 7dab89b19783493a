package coverage

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"barkeep/internal/market"
)

const shardCount = 256

// Index is what one process knows of all coverage: an immutable value, safe for concurrent use, that a session may keep
// as the version its snapshot began with (PIPELINE 7). The nil Index knows nothing. A change copies one shard of
// pointers and shares the rest.
type Index struct {
	shards   [shardCount]map[market.Symbol]*symbolCoverage
	segments int
	// life is that of the database which was last read whole (schema.Life).
	life string
}

// OfLife reports whether the index holds nothing older than the life of the database that a session is connected to: all of it
// was read in that life, or in a later one, which the session does not live to see. The empty life is one that nobody knows.
func (x *Index) OfLife(life string) bool { return x != nil && (life == "" || life == x.life) }

// inLife returns the index, read whole in a life of the database.
func (x *Index) inLife(life string) *Index {
	next := *x
	next.life = life
	return &next
}

// Version is how often the coverage of a symbol had changed in one life of the database: counts of two lives do not compare.
type Version struct {
	// life changes whenever the database may have lost commits: see life.
	life  string
	count int64
}

// symbolCoverage is what is known of one symbol; immutable.
type symbolCoverage struct {
	version Version
	// series is indexed by timeframe; segments are ascending and disjoint.
	series [market.Mo1 + 1][]Segment
	// solid are the ranges of those segments that answer whatever the time is and the freshness asked for: almost all of what is
	// asked for lies in them, and they are a small part of the segments' memory.
	solid [market.Mo1 + 1]market.RangeSet
	count int
}

// seal sorts the segments and makes what is derived from them; afterwards nothing changes.
func (c *symbolCoverage) seal() {
	c.count = 0
	for tf, list := range c.series {
		if len(list) == 0 {
			continue
		}
		sortSegments(list)
		c.count += len(list)
		var solid []market.Range
		for i := range list {
			s := &list[i]
			switch last := len(solid) - 1; {
			case !s.State.Settled() || s.ExpiresAt != 0 || s.RetryAt != 0:
			case last >= 0 && solid[last].End == s.Range.Start:
				solid[last].End = s.Range.End
			default:
				solid = append(solid, s.Range)
			}
		}
		c.solid[tf] = slices.Clip(solid)
	}
}

// shard is FNV-1a: the look-up must not allocate, and the spread of real symbols is enough.
func shard(symbol market.Symbol) int {
	h := uint32(2166136261)
	for i := range len(symbol) {
		h = (h ^ uint32(symbol[i])) * 16777619
	}
	return int(h % shardCount)
}

// with returns the index with the symbols of changes replaced; a nil value forgets the symbol.
func (x *Index) with(changes map[market.Symbol]*symbolCoverage) *Index {
	next := &Index{}
	if x != nil {
		*next = *x
	}
	var copied [shardCount]bool
	for symbol, c := range changes {
		k := shard(symbol)
		if !copied[k] {
			fresh := make(map[market.Symbol]*symbolCoverage, len(next.shards[k])+1)
			maps.Copy(fresh, next.shards[k])
			next.shards[k], copied[k] = fresh, true
		}
		if old := next.shards[k][symbol]; old != nil {
			next.segments -= old.count
		}
		if c == nil {
			delete(next.shards[k], symbol)
			continue
		}
		next.shards[k][symbol] = c
		next.segments += c.count
	}
	return next
}

// NewIndex returns an index of the given segments, which need not be sorted but must be disjoint within a series: for
// tests and for tools that read coverage themselves.
func NewIndex(segments map[market.Series][]Segment) *Index {
	changes := make(map[market.Symbol]*symbolCoverage)
	for series, list := range segments {
		c := changes[series.Symbol]
		if c == nil {
			c = &symbolCoverage{}
			changes[series.Symbol] = c
		}
		c.series[series.Timeframe] = slices.Clone(list)
	}
	for _, c := range changes {
		c.seal()
	}
	return (*Index)(nil).with(changes)
}

func sortSegments(list []Segment) {
	slices.SortFunc(list, func(a, b Segment) int { return cmp.Compare(a.Range.Start, b.Range.Start) })
}

// Len returns the number of segments, for metrics.
func (x *Index) Len() int {
	if x == nil {
		return 0
	}
	return x.segments
}

// Version returns the symbol's version, and whether the symbol is known (bound to a source) at all.
func (x *Index) Version(symbol market.Symbol) (version Version, known bool) {
	if x == nil {
		return Version{}, false
	}
	c := x.shards[shard(symbol)][symbol]
	if c == nil {
		return Version{}, false
	}
	return c.version, true
}

// Segments returns the segments of a series, ascending and disjoint. The slice is the index's own: do not change it.
func (x *Index) Segments(series market.Series) []Segment {
	if c := x.of(series); c != nil {
		return c.series[series.Timeframe]
	}
	return nil
}

// From returns those of Segments that end after at.
func (x *Index) From(series market.Series, at market.Instant) []Segment {
	list := x.Segments(series)
	return list[first(list, at):]
}

// of returns what is known of a series' symbol; nil for nothing, as where there is no such timeframe.
func (x *Index) of(series market.Series) *symbolCoverage {
	if x == nil || !series.Timeframe.Valid() {
		return nil
	}
	return x.shards[shard(series.Symbol)][series.Symbol]
}

// clip rounds r outward (PIPELINE 1) and ends it after the bar that forms at now: what opens later does not exist yet.
func clip(r market.Range, tf market.Timeframe, now market.Instant) market.Range {
	r = r.Outward(tf)
	r.End = min(r.End, tf.Next(tf.Floor(now)))
	return r
}

// first returns the index of the first segment that ends after i.
func first(list []Segment, i market.Instant) int {
	lo, hi := 0, len(list)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if list[mid].Range.End <= i {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// Covered reports whether the index answers for all bars of series that open in need: each range rounded outward, and
// no bar after the one that forms at now. Provisional segments count up to the age of freshness (see Freshness for its
// default, used where it is not positive). It does not allocate.
func (x *Index) Covered(series market.Series, need market.RangeSet, freshness time.Duration, now market.Instant) bool {
	if len(need) == 0 {
		return true
	}
	if !series.Timeframe.Valid() {
		return false
	}
	c := x.of(series)
	if c == nil {
		c = &symbolCoverage{}
	}
	list, solid := c.series[series.Timeframe], c.solid[series.Timeframe]
	freshness = Freshness(series.Timeframe, freshness)
	for _, r := range need {
		r = clip(r, series.Timeframe, now)
		if solid.ContainsRange(r) {
			continue
		}
		for k := first(list, r.Start); !r.Empty(); k++ {
			if k == len(list) || list[k].Range.Start > r.Start || !list[k].counts(freshness, now) {
				return false
			}
			r.Start = list[k].Range.End
		}
	}
	return true
}

// Missing returns what Covered misses, on the timeframe's grid; ranges that are unavailable are among it.
func (x *Index) Missing(series market.Series, need market.RangeSet, freshness time.Duration, now market.Instant) market.RangeSet {
	if !series.Timeframe.Valid() {
		return need
	}
	list := x.Segments(series)
	freshness = Freshness(series.Timeframe, freshness)
	var gaps []market.Range
	for _, r := range need {
		r = clip(r, series.Timeframe, now)
		for k := first(list, r.Start); !r.Empty() && k < len(list) && list[k].Range.Start < r.End; k++ {
			if list[k].Range.Start > r.Start {
				gaps = append(gaps, market.Range{Start: r.Start, End: list[k].Range.Start})
			}
			if !list[k].counts(freshness, now) {
				gaps = append(gaps, list[k].Range.Intersect(r))
			}
			r.Start = max(r.Start, list[k].Range.End)
		}
		if !r.Empty() {
			gaps = append(gaps, r)
		}
	}
	return market.NewRangeSet(gaps...).Outward(series.Timeframe)
}

// Unavailable returns the segments that overlap need and are unavailable with a time to try again that lies after now, or
// without one: asking their source again would fail.
func (x *Index) Unavailable(series market.Series, need market.RangeSet, now market.Instant) []Segment {
	if !series.Timeframe.Valid() {
		return nil
	}
	list := x.Segments(series)
	var found []Segment
	for _, r := range need {
		r = clip(r, series.Timeframe, now)
		for k := first(list, r.Start); k < len(list) && list[k].Range.Start < r.End; k++ {
			s := list[k]
			expired := s.ExpiresAt != 0 && s.ExpiresAt <= now
			if s.State == Unavailable && !expired && (s.RetryAt == 0 || s.RetryAt > now) {
				found = append(found, s)
			}
		}
	}
	return found
}

// Settled returns the ranges of series that are final or absent at now: where the newest or oldest n rows that are stored
// are also the newest or oldest n that exist (PLANNER 17).
func (x *Index) Settled(series market.Series, now market.Instant) market.RangeSet {
	var settled []market.Range
	for _, s := range x.Segments(series) {
		if s.State.Settled() && (s.ExpiresAt == 0 || s.ExpiresAt > now) && !s.Due(now) {
			settled = append(settled, s.Range)
		}
	}
	return market.NewRangeSet(settled...)
}

// Due returns what of need is lent, or made of that, and missing at now for no other reason than that the symbol's own source is to be
// asked again.
func (x *Index) Due(series market.Series, need market.RangeSet, now market.Instant) market.RangeSet {
	var due []market.Range
	for _, s := range x.Segments(series) {
		if s.Due(now) && (s.ExpiresAt == 0 || s.ExpiresAt > now) {
			due = append(due, s.Range)
		}
	}
	return need.Intersect(market.NewRangeSet(due...))
}
