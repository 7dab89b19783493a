package planner

import (
	pg "github.com/pganalyze/pg_query_go/v6"
)

// The columns of ohlcv that bound a scan.
const (
	colSymbol    = "symbol"
	colTimeframe = "timeframe"
	colTS        = "ts"
)

// ohlcvColumns are the columns of ohlcv in their order.
var ohlcvColumns = []string{ //nolint:gochecknoglobals // a list
	colSymbol, colTimeframe, colTS, "open", "high", "low", "close", "volume",
}

// ref is a column of one item of a FROM clause.
type ref struct {
	item *item
	col  string
}

// operand is one side of a comparison: a column (by each of the refs that are equal to it), or a constant, or, with
// neither, something not understood.
type operand struct {
	refs     []ref
	constant *pg.Node
	cast     uint32 // the type the column was cast to, zero for none
	// fn is what is made of the column, where cast is castDerived.
	fn *derived
}

// castDerived is no type: the operand is a function of the column.
const castDerived = 1

func (o operand) of(it *item) (string, bool) {
	for _, r := range o.refs {
		if r.item == it {
			return r.col, true
		}
	}
	return "", false
}

// castToText reports whether it is a column cast to text, or to varchar without a length.
func (o operand) castToText() bool {
	return o.fn == nil && len(o.refs) > 0 && (o.cast == oidText || o.cast == oidVarchar)
}

type predKind uint8

const (
	predUnknown  predKind = iota // anything not understood: every row may be true, false and null
	predAnd                      // kids
	predOr                       // kids
	predNot                      // kids[0]
	predCompare                  // left op right
	predDistinct                 // left IS DISTINCT FROM right
	predNull                     // left IS NULL
	predBool                     // kids[0] IS TRUE …, see test
	predConst                    // left as a boolean
	predAny                      // left op ANY (right), an array
	predAll                      // left op ALL (right), an array
	predRange                    // left <@ right, a range of points in time
	predOverlaps                 // kids[0], with the ends left and right of a pair of constants
)

// pred is a predicate over columns of FROM items. It is immutable.
type pred struct {
	kind        predKind
	kids        []*pred
	op          string
	left, right operand
	test        pg.BoolTestType
	node        *pg.Node // of what is unknown
	// from is the condition as it stands in the statement, and at the level whose columns it names; nil for a part of one.
	from *pg.Node
	at   *level
	// source is the condition as it is written, where it is one on one column that the database has to decide if that is a symbol
	// (keepSource); one is the column. stable says that source is not IMMUTABLE.
	source *pg.Node
	one    operand
	stable bool
}

func unknownPred() *pred { return &pred{} }

// obscure returns an expression of the predicate that depends on ts in a way that is not understood, or nil.
func (p *pred) obscure() *pg.Node {
	for _, node := range []*pg.Node{p.node, p.left.constant, p.right.constant} {
		if node != nil && refersTo(node, map[string]bool{colTS: true}) {
			return node
		}
	}
	for _, kid := range p.kids {
		if node := kid.obscure(); node != nil {
			return node
		}
	}
	return nil
}

// rewrite returns the predicate with its columns replaced.
func (p *pred) rewrite(f func(ref) operand) *pred {
	out := *p
	out.left, out.right, out.one = p.left.rewrite(f), p.right.rewrite(f), p.one.rewrite(f)
	if out.one.fn != nil {
		out.one = operand{} // of a column that is computed the condition says something else
	}
	out.kids = make([]*pred, len(p.kids))
	for i, kid := range p.kids {
		out.kids[i] = kid.rewrite(f)
	}
	return &out
}

func (o operand) rewrite(f func(ref) operand) operand {
	if len(o.refs) == 0 {
		return o
	}
	out := operand{cast: o.cast, fn: o.fn}
	for _, r := range o.refs {
		is := f(r)
		switch {
		case is.fn == nil:
			out.refs = append(out.refs, is.refs...)
		case len(o.refs) == 1:
			return o.ofComputed(is)
		}
	}
	return out
}

// ofComputed returns the operand where its column is one that a subquery computes.
func (o operand) ofComputed(is operand) operand {
	switch {
	case o.cast == 0, o.cast == oidTimestamptz && is.fn.kind == kindTimestamptz:
		return is
	case o.fn == nil:
		return operand{}
	}
	d, ok := o.fn.of(*is.fn)
	if !ok {
		return operand{}
	}
	return operand{refs: is.refs, cast: castDerived, fn: &d}
}

// outcome is a set of truth values.
type outcome uint8

const (
	mayTrue outcome = 1 << iota
	mayFalse
	mayNull
	mayAny = mayTrue | mayFalse | mayNull
)

// whenNull returns what the predicate can be when all columns of the given items are null, as above the nullable side of
// an outer join.
func (p *pred) whenNull(null map[*item]bool) outcome {
	isNull := func(o operand) bool {
		for _, r := range o.refs {
			if !null[r.item] {
				return false
			}
		}
		return len(o.refs) > 0
	}
	switch p.kind {
	case predAnd, predOr:
		out := mayTrue
		if p.kind == predOr {
			out = mayFalse
		}
		for _, kid := range p.kids {
			out = combine(out, kid.whenNull(null), p.kind == predAnd)
		}
		return out
	case predNot:
		return negate(p.kids[0].whenNull(null))
	case predOverlaps:
		return p.kids[0].whenNull(null)
	case predCompare, predRange:
		if isNull(p.left) || isNull(p.right) {
			return mayNull
		}
	case predAny:
		if isNull(p.left) {
			return mayNull | mayFalse // false for an empty array
		}
	case predNull:
		if isNull(p.left) {
			return mayTrue
		}
	case predBool:
		return testOutcome(p.kids[0].whenNull(null), p.test)
	case predUnknown, predDistinct, predConst, predAll:
	}
	return mayAny
}

func negate(o outcome) outcome {
	out := o & mayNull
	if o&mayTrue != 0 {
		out |= mayFalse
	}
	if o&mayFalse != 0 {
		out |= mayTrue
	}
	return out
}

// combine is AND or OR of every pair of values.
func combine(a, b outcome, and bool) outcome {
	if !and {
		return negate(combine(negate(a), negate(b), true))
	}
	out := (a | b) & mayFalse
	if a&mayTrue != 0 && b&mayTrue != 0 {
		out |= mayTrue
	}
	if (a&mayNull != 0 && b&(mayTrue|mayNull) != 0) || (b&mayNull != 0 && a&(mayTrue|mayNull) != 0) {
		out |= mayNull
	}
	return out
}

func testOutcome(o outcome, test pg.BoolTestType) outcome {
	truthy, negated := testMeaning(test)
	var out outcome
	if o&truthy != 0 {
		out |= mayTrue
	}
	if o&^truthy != 0 {
		out |= mayFalse
	}
	if negated {
		out = negate(out)
	}
	return out
}

// testMeaning returns the truth value that IS [NOT] TRUE, FALSE or UNKNOWN tests for, and whether it has the NOT.
func testMeaning(test pg.BoolTestType) (value outcome, negated bool) {
	switch test {
	case pg.BoolTestType_IS_TRUE:
		return mayTrue, false
	case pg.BoolTestType_IS_NOT_TRUE:
		return mayTrue, true
	case pg.BoolTestType_IS_FALSE:
		return mayFalse, false
	case pg.BoolTestType_IS_NOT_FALSE:
		return mayFalse, true
	case pg.BoolTestType_IS_UNKNOWN:
		return mayNull, false
	default: // IS_NOT_UNKNOWN
		return mayNull, true
	}
}
