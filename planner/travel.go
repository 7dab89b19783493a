package planner

import (
	"slices"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"

	"barkeep/internal/market"
)

// link says that no row of a scan matters but those whose column compares so with a value that one of the columns in from
// has in a row that matters (PLANNER 15).
type link struct {
	col, op string
	from    []origin
	// own and other are what is compared of the two sides, where that is not the columns themselves.
	own, other *derived
	// by is the condition itself, where it is one of the scan's own and not a part of one.
	by *pred
}

// leads reports whether the rows that a link leaves of a series are the ones up to, or from, the other side's: those that an
// asof join reads from the end where they meet (PLANNER 17).
func (l link) leads() bool {
	return l.col == colTS && l.own == nil && l.other == nil && (l.op == "<" || l.op == "<=" || l.op == ">" || l.op == ">=")
}

// picks reports whether a link leaves all rows of a series or none.
func (l link) picks() bool { return l.col != colTS && l.op == "=" }

// linksOf finds the links among the conditions that hold for every row of the scan that matters; all are these conditions.
func (a *analyzer) linksOf(it *item, quals, all []*pred) []link {
	var links []link
	for _, q := range quals {
		switch q.kind { //nolint:exhaustive // under any other a comparison need not hold
		case predAnd:
			links = append(links, a.linksOf(it, q.kids, all)...)
		case predCompare:
			links = append(links, a.linksBy(it, q, q.op, q.left, q.right, all)...)
			links = append(links, a.linksBy(it, q, flipped[q.op], q.right, q.left, all)...)
		}
	}
	return links
}

// linksBy finds the links of one side of a comparison to the other.
func (a *analyzer) linksBy(it *item, q *pred, op string, mine, others operand, all []*pred) []link {
	col, ok := mine.of(it)
	if col != colTS && mine.castToText() {
		mine.cast = 0 // what it is already
	}
	own, other, compared := comparedAs(mine, others)
	var links []link
	if ok && col != colTS && op == "=" && mine.cast == 0 {
		links = a.expressions(col, q, others, all)
	}
	if !ok || !compared || own != nil && col != colTS || other != nil && col != colTS {
		return links
	}
	for _, from := range a.sources(others.refs, it, all, own != nil || other != nil) {
		if fit(from, col) {
			links = append(links, link{col, op, from, own, other, q})
		}
	}
	return links
}

// sources returns what the values of each of the columns are, where that can be said or asked; instant says that they have to be
// timestamptz.
func (a *analyzer) sources(refs []ref, it *item, quals []*pred, instant bool) [][]origin {
	var list [][]origin
	for _, r := range refs {
		from, ok := a.origins(r, 0)
		switch {
		case r.item == it:
		case ok:
			list = append(list, from)
		case r.item.askable():
			list = append(list, []origin{{ref: r, asked: a.itemQuestion(r.item, columnNode(r.item.alias, r.col), quals), instant: instant}})
		}
	}
	return list
}

// comparedAs returns what is compared of two columns, on one line: nil stands for the column itself. It is false where that is not
// understood.
func comparedAs(own, other operand) (*derived, *derived, bool) {
	for _, o := range []operand{own, other} {
		if o.cast != 0 && o.fn == nil || o.fn != nil && o.fn.base != kindOpaque {
			return nil, nil, false
		}
	}
	if own.fn == nil && other.fn == nil {
		return nil, nil, true
	}
	mine, theirs := derived{kind: kindTimestamptz}, derived{kind: kindTimestamptz}
	if own.fn != nil {
		mine = *own.fn
	}
	if other.fn != nil {
		theirs = *other.fn
	}
	switch {
	case mine.kind == kindInt || theirs.kind == kindInt:
		return &mine, &theirs, mine.kind == theirs.kind && mine.number.unit == theirs.number.unit && !mine.number.rough() && !theirs.number.rough()
	case mine.kind == kindTimestamptz || theirs.kind == kindTimestamptz:
		mine, theirs = mine.instant(), theirs.instant()
	}
	return &mine, &theirs, true
}

// fit reports whether all are columns of that name, or constants.
func fit(list []origin, col string) bool {
	return !slices.ContainsFunc(list, func(o origin) bool { return !o.made() && o.col != col })
}

// origins returns columns of scans and constants such that each value of the column, unless null, is one of the constants or one
// that a column among them has in a row that is read; false where there may be others.
func (a *analyzer) origins(r ref, depth int) ([]origin, bool) {
	if depth > maxDepth || !a.spend() {
		return nil, false
	}
	it := r.item
	switch {
	case it.opaque:
		return nil, false
	case it.scan:
		at := slices.Index(renamed(it), r.col)
		if at < 0 || at >= len(ohlcvColumns) {
			return nil, false
		}
		return []origin{{ref: ref{it, ohlcvColumns[at]}}}, true
	case it.series != nil:
		return []origin{{ref: r, series: it.series}}, true
	case it.sub == nil:
		return nil, false
	case it.sub.GetOp() != pg.SetOperation_SETOP_NONE:
		var all []origin
		at := a.position(it, r.col)
		for _, branch := range a.branchesOf(it) {
			from, ok := a.anyOrigin(a.branchColumn(branch, at), depth)
			if !ok {
				return nil, false
			}
			all = append(all, from...)
		}
		return all, true
	}
	if made, ok := a.madeColumn(it, r.col); ok {
		return []origin{made}, true
	}
	if column := extreme(it, r.col); column != nil {
		return a.anyOrigin(a.resolve(a.levelOf(it), column.GetFields()), depth)
	}
	return a.anyOrigin(a.output(it, r.col), depth)
}

// folds reports whether a column that stands for several, in a set operation or a join's USING, may take different texts for the same,
// though the one among them that a condition on it would be one on does not: the collation is that of any of them.
func (a *analyzer) folds(column operand, all ...ref) bool {
	if a.catalog == nil || !a.catalog.Folds {
		return false
	}
	if from, ok := a.anyOrigin(column, 0); ok && !slices.ContainsFunc(from, func(o origin) bool { return o.col != colTS }) {
		return false
	}
	return slices.ContainsFunc(all, func(r ref) bool {
		from, ok := a.origins(r, 0)
		return !ok || slices.ContainsFunc(from, func(o origin) bool { return slices.ContainsFunc(o.values, collated) })
	})
}

func collated(node *pg.Node) bool {
	found := false
	walk(node, func(m proto.Message) bool {
		_, is := m.(*pg.CollateClause)
		found = found || is
		return !found
	})
	return found
}

// anyOrigin is origins for a column that several refs are equal to.
func (a *analyzer) anyOrigin(o operand, depth int) ([]origin, bool) {
	for _, r := range o.refs {
		if from, ok := a.origins(r, depth+1); ok && o.cast == 0 {
			return from, true
		}
	}
	return nil, false
}

// travel hands bounds from scan to scan along their links, for as many rounds as there are columns; stopping early only widens.
func travel(readings []*reading, e *evaluator) {
	if !slices.ContainsFunc(readings, func(r *reading) bool { return len(r.scan.links) > 0 }) {
		return
	}
	byItem := map[*item][]*reading{}
	for _, r := range readings {
		byItem[r.scan.item] = append(byItem[r.scan.item], r)
		r.byItem, r.evaluator = byItem, e
	}
	spread(readings, false)
	if e.data != nil && e.data.pending == 0 {
		spread(readings, true) // only where the rest leaves it open
	}
}

// spread follows the links until nothing changes; asking says that questions are asked for it.
func spread(readings []*reading, asking bool) {
	for range 3 * len(readings) {
		changed := false
		for _, r := range readings {
			for _, l := range r.scan.links {
				if r.scan.limit != nil && !l.picks() {
					continue // rows that fail it would be counted
				}
				if l.asks() && (!asking || !r.open(l)) {
					continue
				}
				changed = r.follow(l) || changed
			}
		}
		if !changed {
			return
		}
	}
}

// other returns a box that holds the rows of the link's other side; false where nothing is known of it.
func (r *reading) other(l link) (box, bool) {
	from := box{}
	for _, origin := range l.from {
		if origin.made() {
			b, known := origin.holds(r.evaluator, l.col, len(l.from) == 1 && len(origin.values) == 1)
			if !known || l.other != nil && !origin.steps(r.evaluator, l.other) {
				return box{}, false
			}
			from = box{symbols: from.symbols.union(b.symbols), timeframes: from.timeframes.union(b.timeframes), ts: from.ts.Union(b.ts)}
			continue
		}
		list := r.byItem[origin.item]
		if len(list) == 0 {
			return box{}, false
		}
		for _, o := range list {
			for _, b := range o.rows {
				from = box{symbols: from.symbols.union(b.symbols), timeframes: from.timeframes.union(b.timeframes), ts: from.ts.Union(b.ts)}
			}
		}
	}
	return from, true
}

// follow narrows what a scan reads by one link, and reports whether there was anything to narrow.
func (r *reading) follow(l link) bool {
	from, known := r.other(l)
	if !known {
		return false
	}
	narrowed := r.rows.intersect(l.allows(from, r.evaluator))
	if sameRegion(narrowed, r.rows) {
		return false
	}
	r.rows = narrowed
	return true
}

// allows returns the rows whose column compares so with a value of the other side.
func (l link) allows(from box, e *evaluator) region {
	switch {
	case l.col == colTS:
		return timesIn(l.times(from.ts, e))
	case l.op != "=":
		return everything()
	case l.col == colSymbol:
		return symbolsIn(from.symbols)
	case l.col == colTimeframe:
		return timeframesIn(from.timeframes)
	}
	return everything()
}

// times returns the instants of the scan that may compare so with one of the other side's.
func (l link) times(ts market.RangeSet, e *evaluator) market.RangeSet {
	var ok bool
	if l.other != nil {
		for _, s := range l.other.steps {
			if ts, ok = e.image(s, ts); !ok {
				return always()
			}
		}
	}
	ts = compareRange(l.op, ts)
	if l.own != nil {
		for _, s := range slices.Backward(l.own.steps) {
			if ts, ok = e.preimage(s, ts); !ok {
				return always()
			}
		}
	}
	return ts
}

// compareRange returns the instants that compare so with one of ts.
func compareRange(op string, ts market.RangeSet) market.RangeSet {
	if ts.Empty() {
		return nil
	}
	bounds := ts.Bounds()
	switch op {
	case "=":
		return ts
	case "<", "<=":
		return market.NewRangeSet(market.Range{Start: market.NegInf, End: bounds.End})
	case ">", ">=":
		return market.NewRangeSet(market.Range{Start: bounds.Start, End: market.PosInf})
	}
	return always()
}

func sameRegion(a, b region) bool {
	return slices.EqualFunc(a, b, func(a, b box) bool {
		return a.symbols.equal(b.symbols) && a.timeframes.equal(b.timeframes) && slices.Equal(a.ts, b.ts)
	})
}
