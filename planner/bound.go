package planner

import (
	pg "github.com/pganalyze/pg_query_go/v6"

	"barkeep/internal/market"
)

// bounder bounds the rows of one scan.
type bounder struct {
	*evaluator
	scan *item
	// reading takes what is not evaluated.
	reading *reading
	// unseen is set where a constant that is compared with symbol was not evaluated.
	unseen bool
	// universe holds the symbols for which the database decides conditions; nil for none. unanswered is set where it has not yet, and
	// failure says why it could not.
	universe   *universe
	unanswered bool
	failure    string
	// negated counts the NOTs and the tests around the predicate in hand.
	negated int
}

// unclear notes that a constant that bounds a column was not evaluated exactly enough to bound it.
func (b *bounder) unclear(col string) { b.reading.vague[columnNumber(col)] = true }

// blame notes the last of these constants.
func (b *bounder) blame(col string, node *pg.Node) { b.reading.culprit[columnNumber(col)] = node }

// bound returns the rows of the scan for which the predicate may be true, false and null, as far as these are wanted. Columns of other
// items may be anything.
func (b *bounder) bound(p *pred, want outcome) truth {
	if b.universe != nil && p.ofSymbol(b.scan) {
		return b.symbolic(p)
	}
	if p.kind == predNot || p.kind == predBool {
		b.negated++
		defer func() { b.negated-- }()
	}
	switch p.kind {
	case predAnd:
		out := truth{t: everything()}
		if want&mayNull != 0 {
			want |= mayTrue
		}
		for _, kid := range p.kids {
			out = out.and(b.bound(kid, want), want)
		}
		return out
	case predOr:
		out := truth{f: everything()}
		if want&mayNull != 0 {
			want |= mayFalse
		}
		for _, kid := range p.kids {
			out = out.or(b.bound(kid, want), want)
		}
		return out
	case predNot:
		return b.bound(p.kids[0], negate(want)).not()
	case predCompare:
		return b.compare(p)
	case predDistinct:
		return b.distinct(p)
	case predNull:
		return b.isNull(p)
	case predBool:
		return b.test(p)
	case predConst:
		return b.constant(p)
	case predAny, predAll:
		return b.array(p)
	case predRange:
		return b.contained(p)
	case predOverlaps:
		return b.overlaps(p)
	case predUnknown:
	}
	return unknownTruth()
}

func (b *bounder) test(p *pred) truth {
	kid := b.bound(p.kids[0], mayAny)
	is, not := kid.t, kid.f.union(kid.n)
	value, negated := testMeaning(p.test)
	switch value { //nolint:exhaustive // IS TRUE is what is and not are set to above
	case mayFalse:
		is, not = kid.f, kid.t.union(kid.n)
	case mayNull:
		is, not = kid.n, kid.t.union(kid.f)
	}
	if negated {
		is, not = not, is
	}
	return truth{t: is, f: not}
}

func (b *bounder) isNull(p *pred) truth {
	if _, ok := p.left.of(b.scan); ok && b.keyColumn(p.left) {
		return truth{f: everything()} // NOT NULL at the scan (PLANNER 12)
	}
	if p.left.constant != nil {
		switch v := b.eval(p.left.constant); {
		case v.null:
			return truth{t: everything()}
		case v.kind != kindOpaque:
			return truth{f: everything()}
		}
	}
	return truth{t: everything(), f: everything()}
}

func (b *bounder) keyColumn(o operand) bool {
	col, ok := o.of(b.scan)
	switch {
	case !ok:
		return false
	case col == colTS:
		return o.cast == 0 || o.cast == oidTimestamptz
	case col == colSymbol || col == colTimeframe:
		return o.cast == 0 || o.cast == oidText || o.cast == oidVarchar
	}
	return false
}

func (b *bounder) constant(p *pred) truth {
	v := b.eval(p.left.constant)
	if v.kind == kindUnknown && !v.null {
		v = parseBool(v.text)
	}
	switch {
	case v.null:
		return truth{n: everything()}
	case v.kind != kindBool:
		return unknownTruth()
	case v.b:
		return truth{t: everything()}
	}
	return truth{f: everything()}
}

// flipped are the operators with their sides exchanged.
var flipped = map[string]string{ //nolint:gochecknoglobals // a table
	"=": "=", "<>": "<>", "<": ">", ">": "<", "<=": ">=", ">=": "<=",
}

func (b *bounder) compare(p *pred) truth {
	if t, ok := b.compareDerived(p); ok {
		return t
	}
	op, left, right := p.op, p.left, p.right
	if !b.keyColumn(left) {
		op, left, right = flipped[op], right, left
	}
	if !b.keyColumn(left) || right.constant == nil || op == "" {
		return unknownTruth()
	}
	col, _ := left.of(b.scan)
	if t, ok := b.compareSubquery(col, op, right.constant); ok {
		return t
	}
	return b.compareValue(col, op, b.columnValue(col, right.constant))
}

func (b *bounder) columnValue(col string, node *pg.Node) (v value) {
	if col == colTS {
		v = b.time(node)
	} else {
		v = b.text(node)
	}
	if v.kind == kindOpaque && !v.null {
		b.blame(col, node)
		b.unseen = b.unseen || col == colSymbol
	}
	return v
}

func (b *bounder) compareValue(col, op string, v value) truth {
	switch {
	case v.null && v.text != "" && col != colTS:
		return unknownTruth()
	case v.null:
		return truth{n: everything()}
	case v.kind == kindOpaque:
		b.unclear(col)
		return truth{t: everything(), f: everything(), n: everything()}
	case col == colTS:
		t, f := compareTimes(op, v.lo, v.hi)
		return truth{t: timesIn(t), f: timesIn(f)}
	}
	side := symbolsIn
	if col == colTimeframe {
		side = timeframesIn
	}
	is := someNames(v.text)
	switch op { // which of two different texts comes first is a matter of the collation
	case "<", ">":
		return truth{t: side(is.complement()), f: everything()}
	case "<=", ">=":
		return truth{t: everything(), f: side(is.complement())}
	}
	if col == colSymbol {
		b.symbols = append(b.symbols, is.list)
	}
	out := truth{t: side(is), f: side(is.complement())}
	if op == "<>" {
		return out.not()
	}
	return out
}

// plainBox is a box whose times are one range: what comparisons of columns with constants leave, the only conditions that most
// statements have.
type plainBox struct {
	symbols, timeframes names
	ts                  market.Range
}

// region is made in the reading.
func (p *plainBox) region(r *reading) region {
	switch {
	case p.ts == market.Always && p.symbols.all() && p.timeframes.all():
		return everything()
	case p.ts.Empty() || p.symbols.empty() || p.timeframes.empty():
		return nil
	}
	r.times[0] = p.ts
	r.box[0] = box{symbols: p.symbols, timeframes: p.timeframes, ts: r.times[:]}
	return r.box[:]
}

// narrow leaves of the box what the condition may be true for, where it is of such comparisons only; false where it is not, and
// has to be bounded as any other. A row of what is left is certain to pass the condition (PLANNER 17).
func (b *bounder) narrow(into *plainBox, p *pred) bool {
	if b.universe != nil {
		return false // which conditions it decides is told apart below
	}
	switch p.kind { //nolint:exhaustive // any other is not plain
	case predAnd:
		left := *into
		for _, kid := range p.kids {
			if !b.narrow(&left, kid) {
				return false
			}
		}
		*into = left
		return true
	case predCompare:
		op, left, right := p.op, p.left, p.right
		if left.constant != nil {
			op, left, right = flipped[op], right, left
		}
		if right.constant == nil || textSubquery(right.constant) != nil || left.fn != nil || !b.keyColumn(left) || op == "<>" {
			return false
		}
		col, _ := left.of(b.scan)
		return into.compare(col, op, b.columnValue(col, right.constant), b)
	}
	return false
}

// compare leaves what compares so with a value; false where that is not known exactly.
func (p *plainBox) compare(col, op string, v value, b *bounder) bool {
	switch {
	case v.null:
		p.ts = market.Range{}
	case v.kind == kindOpaque:
		return false
	case col == colTS:
		if v.lo != v.hi {
			return false
		}
		times, ok := comparedRange(op, v.lo, v.hi)
		p.ts = p.ts.Intersect(times)
		return ok
	case op != "=":
		return false
	case col == colSymbol:
		is := names{list: b.reading.word(v.text)}
		b.symbols = append(b.symbols, is.list)
		p.symbols = p.symbols.intersect(is)
	default:
		p.timeframes = p.timeframes.intersect(names{list: b.reading.word(v.text)})
	}
	return true
}

// compareTimes returns the instants that may, and that may not, stand in the relation to a value in [lo, hi].
func compareTimes(op string, lo, hi market.Instant) (is, not market.RangeSet) {
	r, ok := comparedRange(op, lo, hi)
	if is = market.NewRangeSet(r); ok && op != "=" {
		// What may not stand in the relation stands in the opposite one to another value in [lo, hi].
		r, _ = comparedRange(negated[op], lo, hi)
		return is, market.NewRangeSet(r)
	}
	if op != "=" && op != "<>" {
		return always(), always()
	}
	is, not = within(lo, hi), always()
	if lo == hi {
		not = before(lo).Union(after(lo))
	}
	if op == "<>" {
		return not, is
	}
	return is, not
}

// comparedRange returns the instants that may stand in the relation to a value in [lo, hi]; false where they are not one range.
func comparedRange(op string, lo, hi market.Instant) (market.Range, bool) {
	next := func(i market.Instant) market.Instant {
		if i.IsInf() {
			return i
		}
		return i + 1
	}
	switch op {
	case "<":
		return market.Range{Start: market.NegInf, End: hi}, true
	case "<=":
		return market.Range{Start: market.NegInf, End: next(hi)}, true
	case ">":
		return market.Range{Start: next(lo), End: market.PosInf}, true
	case ">=":
		return market.Range{Start: lo, End: market.PosInf}, true
	case "=":
		return market.Range{Start: lo, End: next(hi)}, true
	}
	return market.Always, false
}

func before(i market.Instant) market.RangeSet {
	return market.NewRangeSet(market.Range{Start: market.NegInf, End: i})
}

func from(i market.Instant) market.RangeSet {
	return market.NewRangeSet(market.Range{Start: i, End: market.PosInf})
}

// within is [lo, hi].
func within(lo, hi market.Instant) market.RangeSet { return from(lo).Intersect(upTo(hi)) }

func upTo(i market.Instant) market.RangeSet {
	if i.IsInf() {
		return before(i)
	}
	return before(i + 1)
}

func after(i market.Instant) market.RangeSet {
	if i.IsInf() {
		return from(i)
	}
	return from(i + 1)
}

func (b *bounder) distinct(p *pred) truth {
	left, right := p.left, p.right
	if !b.keyColumn(left) {
		left, right = right, left
	}
	if !b.keyColumn(left) || right.constant == nil {
		return truth{t: everything(), f: everything()}
	}
	col, _ := left.of(b.scan)
	v := b.columnValue(col, right.constant)
	if v.null {
		return truth{t: everything()}
	}
	out := b.compareValue(col, "<>", v)
	out.n = nil
	return out
}
