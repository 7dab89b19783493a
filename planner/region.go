package planner

import (
	"slices"

	"barkeep/internal/market"
)

// names is a set of names, or the complement of one: what a predicate leaves of the symbols or the timeframes.
type names struct {
	// except says that the set holds every name but those listed.
	except bool
	list   []string // sorted, no duplicates
}

func everyName() names { return names{except: true} }

func someNames(list ...string) names {
	list = slices.Clone(list)
	slices.Sort(list)
	return names{list: slices.Compact(list)}
}

func (n names) empty() bool { return !n.except && len(n.list) == 0 }

func (n names) all() bool { return n.except && len(n.list) == 0 }

func (n names) complement() names { return names{except: !n.except, list: n.list} }

func (n names) contains(name string) bool {
	_, found := slices.BinarySearch(n.list, name)
	return found != n.except
}

func (n names) equal(o names) bool { return n.except == o.except && slices.Equal(n.list, o.list) }

func (n names) intersect(o names) names {
	switch {
	case n.all():
		return o
	case o.all():
		return n
	case n.except && o.except:
		return names{except: true, list: merge(n.list, o.list)}
	case n.except:
		return names{list: keep(o.list, n.contains)}
	}
	return names{list: keep(n.list, o.contains)}
}

func (n names) union(o names) names { return n.complement().intersect(o.complement()).complement() }

func merge(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

func keep(list []string, pass func(string) bool) []string {
	var kept []string
	for _, name := range list {
		if pass(name) {
			kept = append(kept, name)
		}
	}
	return kept
}

// box is a set of rows: every combination of its three sides.
type box struct {
	symbols, timeframes names
	ts                  market.RangeSet
	// hull says that the box may hold more than what it stands for: it took the place of too many others.
	hull bool
}

func (b box) empty() bool { return b.symbols.empty() || b.timeframes.empty() || b.ts.Empty() }

func (b box) intersect(o box) box {
	return box{b.symbols.intersect(o.symbols), b.timeframes.intersect(o.timeframes), b.ts.Intersect(o.ts), b.hull || o.hull}
}

// region is a set of rows of ohlcv: a union of boxes, none of them empty. The nil region is empty.
type region []box

// maxBoxes bounds a region; beyond it the region becomes the hull of its boxes.
const maxBoxes = 64

// allRows and allTimes are shared: no region and no set of ranges is changed once it is made.
var (
	allTimes = market.RangeSet{market.Always}                                        //nolint:gochecknoglobals // constants that Go cannot declare
	allRows  = region{{symbols: everyName(), timeframes: everyName(), ts: allTimes}} //nolint:gochecknoglobals // as above
)

func everything() region { return allRows }

func always() market.RangeSet { return allTimes }

func symbolsIn(n names) region { return boxed(box{symbols: n, timeframes: everyName(), ts: always()}) }

func timeframesIn(n names) region {
	return boxed(box{symbols: everyName(), timeframes: n, ts: always()})
}

func timesIn(ts market.RangeSet) region {
	return boxed(box{symbols: everyName(), timeframes: everyName(), ts: ts})
}

// columnNumber returns the place of a column that bounds a scan.
func columnNumber(col string) int { return slices.Index(ohlcvColumns[:3], col) }

func boxed(b box) region {
	if b.empty() {
		return nil
	}
	return region{b}
}

func (r region) all() bool {
	return len(r) == 1 && r[0].symbols.all() && r[0].timeframes.all() && len(r[0].ts) == 1 && r[0].ts[0] == market.Always
}

func (r region) union(o region) region {
	switch {
	case r.all() || len(o) == 0:
		return r
	case o.all() || len(r) == 0:
		return o
	}
	if len(r)+len(o) > maxBoxes {
		return slices.Concat(r, o).compact()
	}
	out := make(region, len(r), len(r)+len(o))
	copy(out, r)
	return out.add(o)
}

// add joins boxes with those of the region where they differ on one side only. It changes the receiver.
func (r region) add(list region) region {
	for _, b := range list {
		joined := false
		for i := range r {
			if c, ok := join(r[i], b); ok {
				r[i], joined = c, true
				break
			}
		}
		if !joined {
			r = append(r, b)
		}
	}
	return r
}

func (r region) intersect(o region) region {
	switch {
	case r.all():
		return o
	case o.all():
		return r
	}
	var both region
	for _, a := range r {
		for _, b := range o {
			if c := a.intersect(b); !c.empty() {
				both = append(both, c)
			}
		}
	}
	return both.compact()
}

// compact joins boxes that differ on one side only, and replaces the region by its hull where too many are left.
func (r region) compact() region {
	if len(r) < 2 {
		return r
	}
	if len(r) > maxBoxes*maxBoxes/4 {
		return region{r.hull()}
	}
	out := make(region, 0, len(r)).add(r)
	if len(out) > maxBoxes {
		return region{out.hull()}
	}
	return out
}

func join(a, b box) (box, bool) {
	symbols, timeframes := a.symbols.equal(b.symbols), a.timeframes.equal(b.timeframes)
	times := slices.Equal(a.ts, b.ts)
	hull := a.hull || b.hull
	switch {
	case symbols && timeframes:
		return box{a.symbols, a.timeframes, a.ts.Union(b.ts), hull}, true
	case symbols && times:
		return box{a.symbols, a.timeframes.union(b.timeframes), a.ts, hull}, true
	case timeframes && times:
		return box{a.symbols.union(b.symbols), a.timeframes, a.ts, hull}, true
	}
	return box{}, false
}

// hull returns one box that holds the whole region.
func (r region) hull() box {
	h := r[0]
	for _, b := range r[1:] {
		h = box{h.symbols.union(b.symbols), h.timeframes.union(b.timeframes), h.ts.Union(b.ts), true}
	}
	return h
}

// times returns the instants at which the region has rows of the series.
func (r region) times(symbol, timeframe string) market.RangeSet {
	var ts market.RangeSet
	for _, b := range r {
		if b.symbols.contains(symbol) && b.timeframes.contains(timeframe) {
			ts = ts.Union(b.ts)
		}
	}
	return ts
}

// truth bounds a predicate: the rows for which it may be true, may be false, and may be null. A row may lie in several.
type truth struct{ t, f, n region }

func unknownTruth() truth { return truth{everything(), everything(), everything()} }

// and is AND, as far as it is wanted; what is not wanted is left out.
func (a truth) and(b truth, want outcome) (out truth) {
	if want&mayTrue != 0 {
		out.t = a.t.intersect(b.t)
	}
	if want&mayFalse != 0 {
		out.f = a.f.union(b.f)
	}
	if want&mayNull != 0 {
		out.n = a.n.intersect(b.t.union(b.n)).union(b.n.intersect(a.t.union(a.n)))
	}
	return out
}

func (a truth) not() truth { return truth{a.f, a.t, a.n} }

func (a truth) or(b truth, want outcome) truth { return a.not().and(b.not(), negate(want)).not() }
