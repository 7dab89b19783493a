package planner

import (
	"slices"

	pg "github.com/pganalyze/pg_query_go/v6"

	"barkeep/internal/market"
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
}

func (o operand) of(it *item) (string, bool) {
	for _, r := range o.refs {
		if r.item == it {
			return r.col, true
		}
	}
	return "", false
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
)

// pred is a predicate over columns of FROM items. It is immutable.
type pred struct {
	kind        predKind
	kids        []*pred
	op          string
	left, right operand
	test        pg.BoolTestType
}

func unknownPred() *pred { return &pred{} }

func conjunction(list []*pred) *pred {
	if len(list) == 1 {
		return list[0]
	}
	return &pred{kind: predAnd, kids: list}
}

// rewrite returns the predicate with its columns replaced.
func (p *pred) rewrite(f func(ref) operand) *pred {
	out := *p
	out.left, out.right = p.left.rewrite(f), p.right.rewrite(f)
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
	out := operand{cast: o.cast}
	for _, r := range o.refs {
		out.refs = append(out.refs, f(r).refs...)
	}
	return out
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
	case predCompare:
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
	}
	return mayNull, true
}

// bounder bounds the rows of one scan.
type bounder struct {
	*evaluator
	scan *item
	// vague is set where a constant that bounds a column was not evaluated exactly enough to bound it.
	vague map[string]bool
}

// bound returns the rows of the scan for which the predicate may be true, false and null. Columns of other items may be
// anything.
func (b *bounder) bound(p *pred) truth {
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
	switch value {
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
	op, left, right := p.op, p.left, p.right
	if !b.keyColumn(left) {
		op, left, right = flipped[op], right, left
	}
	if !b.keyColumn(left) || right.constant == nil || op == "" {
		return unknownTruth()
	}
	col, _ := left.of(b.scan)
	return b.compareValue(col, op, b.columnValue(col, right.constant))
}

func (b *bounder) columnValue(col string, node *pg.Node) value {
	if col == colTS {
		return b.time(node)
	}
	return b.text(node)
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
	make := symbolsIn
	if col == colTimeframe {
		make = timeframesIn
	}
	is := someNames(v.text)
	out := truth{t: make(is), f: make(is.complement())}
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

// maxArray bounds the elements of an array that are compared one by one.
const maxArray = 2000

// array is op ANY and op ALL over a constant array.
func (b *bounder) array(p *pred) truth {
	if !b.keyColumn(p.left) || p.right.constant == nil {
		return unknownTruth()
	}
	col, _ := p.left.of(b.scan)
	list, state := b.elements(col, p.right.constant, false)
	switch {
	case state == arrayNull:
		return truth{n: everything()}
	case state == arrayOpaque || len(list) > maxArray:
		b.vague[col] = true
		return unknownTruth()
	}
	// x op ALL (a) is NOT x negated-op ANY (a).
	op := p.op
	if p.kind == predAll {
		op = negated[op]
	}
	if op == "" {
		return unknownTruth()
	}
	out := b.anyOf(col, op, list)
	if p.kind == predAll {
		return out.not()
	}
	return out
}

var negated = map[string]string{ //nolint:gochecknoglobals // a table
	"=": "<>", "<>": "=", "<": ">=", ">": "<=", "<=": ">", ">=": "<",
}

// anyOf is the OR of comparisons with each value.
func (b *bounder) anyOf(col, op string, list []value) truth {
	if op != "=" || col == colTS {
		return b.anyOfEach(col, op, list)
	}
	var texts []string
	null := false
	for _, v := range list {
		switch {
		case v.null:
			null = true
		case v.kind == kindOpaque:
			return b.anyOfEach(col, op, list)
		default:
			texts = append(texts, v.text)
		}
	}
	is := someNames(texts...)
	side := symbolsIn
	if col == colTimeframe {
		side = timeframesIn
	}
	out := truth{t: side(is), f: side(is.complement())}
	if null {
		out.f, out.n = nil, out.f
	}
	return out
}

func (b *bounder) anyOfEach(col, op string, list []value) truth {
	out := truth{f: everything()}
	if op == "=" && col == colTS {
		return b.anyTime(list)
	}
	if len(list) > maxBoxes {
		b.vague[col] = true
		return unknownTruth()
	}
	for _, v := range list {
		out = out.or(b.compareValue(col, op, v))
	}
	return out
}

// anyTime is ts = ANY (list), in one pass.
func (b *bounder) anyTime(list []value) truth {
	var is []market.Range
	not, null := everything(), false
	exact := true
	for _, v := range list {
		switch {
		case v.null:
			null = true
		case v.kind == kindOpaque:
			b.vague[colTS] = true
			return unknownTruth()
		default:
			is = append(is, from(v.lo).Intersect(upTo(v.hi))...)
			exact = exact && v.lo == v.hi
		}
	}
	ts := market.NewRangeSet(is...)
	if exact {
		not = timesIn(always().Subtract(ts))
	}
	out := truth{t: timesIn(ts), f: not}
	if null {
		out.f, out.n = nil, not
	}
	return out
}

type arrayState uint8

const (
	arrayOpaque arrayState = iota
	arrayNull
	arrayKnown
)

// elements returns the elements of a constant array, as col is compared with them.
func (b *bounder) elements(col string, node *pg.Node, cast bool) ([]value, arrayState) {
	switch n := node.GetNode().(type) {
	case *pg.Node_AArrayExpr:
		if col == colTS && !cast {
			return b.typedElements(n.AArrayExpr.GetElements())
		}
		list := make([]value, 0, len(n.AArrayExpr.GetElements()))
		for _, el := range n.AArrayExpr.GetElements() {
			list = append(list, b.columnValue(col, el))
		}
		return list, arrayKnown
	case *pg.Node_List:
		list := make([]value, 0, len(n.List.GetItems()))
		for _, el := range n.List.GetItems() {
			list = append(list, b.columnValue(col, el))
		}
		return list, arrayKnown
	case *pg.Node_AConst:
		v := evalConst(n.AConst)
		if v.null {
			return nil, arrayNull
		}
		if v.kind == kindUnknown {
			return b.textElements(col, v.text, 0)
		}
	case *pg.Node_ParamRef:
		return b.paramElements(col, n.ParamRef.GetNumber(), 0)
	case *pg.Node_TypeCast:
		return b.castElements(col, n.TypeCast)
	}
	return nil, arrayOpaque
}

// typedElements returns the elements of ARRAY[…] where each of them is a timestamptz by itself: elements of several types
// are cast to one of them first.
func (b *bounder) typedElements(nodes []*pg.Node) ([]value, arrayState) {
	list := make([]value, 0, len(nodes))
	for _, node := range nodes {
		v := b.eval(node)
		if v.kind != kindTimestamptz {
			return nil, arrayOpaque
		}
		list = append(list, v)
	}
	return list, arrayKnown
}

// castElements reads an array cast to an array of a type that col is compared with as written.
func (b *bounder) castElements(col string, c *pg.TypeCast) ([]value, arrayState) {
	t := c.GetTypeName()
	list := t.GetNames()
	if len(t.GetArrayBounds()) != 1 || len(t.GetTypmods()) > 0 || len(list) == 0 || len(list) > 2 {
		return nil, arrayOpaque
	}
	oid := typeOIDs[list[len(list)-1].GetString_().GetSval()]
	allowed := []uint32{oidText, oidVarchar}
	if col == colTS {
		allowed = []uint32{oidTimestamptz}
	}
	if !slices.Contains(allowed, oid) {
		return nil, arrayOpaque
	}
	if p := c.GetArg().GetParamRef(); p != nil {
		return b.paramElements(col, p.GetNumber(), oid)
	}
	if a := c.GetArg().GetAArrayExpr(); a != nil || c.GetArg().GetAConst() != nil {
		return b.elements(col, c.GetArg(), true)
	}
	return nil, arrayOpaque
}

func (b *bounder) textElements(col, text string, _ uint32) ([]value, arrayState) {
	parts, ok := parseArray(text)
	if !ok {
		return nil, arrayOpaque
	}
	list := make([]value, 0, len(parts))
	for _, part := range parts {
		switch {
		case part == nil:
			list = append(list, nullOf(kindText))
		case col == colTS:
			list = append(list, b.parseText(*part, kindTimestamptz))
		default:
			list = append(list, value{kind: kindText, text: *part})
		}
	}
	return list, arrayKnown
}

func (b *bounder) paramElements(col string, number int32, cast uint32) ([]value, arrayState) {
	i := int(number) - 1
	if b.named != nil || i < 0 || i >= len(b.args.Values) {
		return nil, arrayOpaque
	}
	raw := b.args.Values[i]
	oid := uint32(0)
	if i < len(b.args.OIDs) {
		oid = b.args.OIDs[i]
	}
	fits := oid == oidTextArray || oid == oidVarcharArray
	if col == colTS {
		fits = oid == oidTimestamptzArray
	}
	inferred := (oid == 0 || oid == oidUnknown) && !b.unsure[number]
	castText := cast != 0 && (oid == oidText || oid == oidVarchar)
	switch {
	case raw == nil:
		return nil, arrayNull
	case !fits && !inferred && !castText:
		return nil, arrayOpaque
	case !b.binary(i):
		if !b.readable(raw) {
			return nil, arrayOpaque
		}
		return b.textElements(col, string(raw), oid)
	}
	elementOID, raws, ok := decodeArray(raw)
	if !ok || castText || (col == colTS) != (elementOID == oidTimestamptz) {
		return nil, arrayOpaque
	}
	list := make([]value, 0, len(raws))
	for _, r := range raws {
		if r == nil {
			list = append(list, nullOf(kindText))
			continue
		}
		v, ok := decodeBinary(elementOID, r)
		if !ok {
			return nil, arrayOpaque
		}
		list = append(list, v)
	}
	return list, arrayKnown
}
