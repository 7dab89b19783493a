package planner

import (
	pg "github.com/pganalyze/pg_query_go/v6"

	"barkeep/internal/market"
)

// bounder bounds the rows of one scan.
type bounder struct {
	*evaluator
	scan *item
	// vague is set where a constant that bounds a column was not evaluated exactly enough to bound it.
	vague map[string]bool
	// culprit is the last of these constants, by column.
	culprit map[string]*pg.Node
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

// bound returns the rows of the scan for which the predicate may be true, false and null. Columns of other items may be
// anything.
func (b *bounder) bound(p *pred) truth {
	if b.universe != nil && p.ofSymbol(b.scan) {
		return b.symbolic(p)
	}
	if p.kind == predNot || p.kind == predBool {
		b.negated++
		defer func() { b.negated-- }()
	}
	switch p.kind {
	case predAnd, predOr:
		out := truth{t: everything()}
		if p.kind == predOr {
			out = truth{f: everything()}
		}
		for _, kid := range p.kids {
			if p.kind == predAnd {
				out = out.and(b.bound(kid))
			} else {
				out = out.or(b.bound(kid))
			}
		}
		return out
	case predNot:
		return b.bound(p.kids[0]).not()
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
	case predUnknown:
	}
	return unknownTruth()
}

func (b *bounder) test(p *pred) truth {
	kid := b.bound(p.kids[0])
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
		b.culprit[col] = node
		b.unseen = b.unseen || col == colSymbol
	}
	return v
}

func (b *bounder) compareValue(col, op string, v value) truth {
	switch {
	case v.null:
		return truth{n: everything()}
	case v.kind == kindOpaque:
		b.vague[col] = true
		return truth{t: everything(), f: everything(), n: everything()}
	case col == colTS:
		t, f := compareTimes(op, v.lo, v.hi)
		return truth{t: timesIn(t), f: timesIn(f)}
	case op != "=" && op != "<>":
		b.vague[col] = true
		return truth{t: everything(), f: everything()}
	}
	side := symbolsIn
	if col == colTimeframe {
		side = timeframesIn
	}
	is := someNames(v.text)
	if col == colSymbol {
		b.symbols = append(b.symbols, is.list)
	}
	out := truth{t: side(is), f: side(is.complement())}
	if op == "<>" {
		return out.not()
	}
	return out
}

// compareTimes returns the instants that may, and that may not, stand in the relation to a value in [lo, hi].
func compareTimes(op string, lo, hi market.Instant) (is, not market.RangeSet) {
	switch op {
	case "<":
		return before(hi), from(lo)
	case "<=":
		return upTo(hi), after(lo)
	case ">":
		return after(lo), upTo(hi)
	case ">=":
		return from(lo), before(hi)
	case "=", "<>":
		is, not = from(lo).Intersect(upTo(hi)), always()
		if lo == hi {
			not = before(lo).Union(after(lo))
		}
		if op == "<>" {
			return not, is
		}
		return is, not
	}
	return always(), always()
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
