package planner

import (
	"encoding/json"
	"slices"

	pg "github.com/pganalyze/pg_query_go/v6"

	"barkeep/internal/market"
)

// maxArray bounds the elements of an array that are compared one by one.
const maxArray = 200_000

// derivedIn is a function of ts IN a list of literals without a type: those take the function's. In any other list they have the type
// that all of it has in common, and an array has its own.
func (b *bounder) derivedIn(p *pred) truth {
	items := p.right.constant.GetList().GetItems()
	if col, ok := p.left.of(b.scan); !ok || col != colTS {
		return unknownTruth()
	}
	typed := slices.ContainsFunc(items, func(n *pg.Node) bool { return n.GetAConst() == nil || n.GetAConst().GetIsnull() })
	if p.kind != predAny || len(items) == 0 || len(items) > maxBoxes || typed && len(items) > 1 {
		return b.opaqueTime(p.right.constant)
	}
	out := truth{f: everything()}
	for _, item := range items {
		t, ok := b.compareDerived(&pred{kind: predCompare, op: p.op, left: p.left, right: operand{constant: item}})
		if !ok {
			return unknownTruth()
		}
		out = out.or(t, mayAny)
	}
	return out
}

// array is op ANY and op ALL over a constant array.
func (b *bounder) array(p *pred) truth {
	if p.left.fn != nil {
		return b.derivedIn(p)
	}
	if !b.keyColumn(p.left) || p.right.constant == nil {
		return unknownTruth()
	}
	col, _ := p.left.of(b.scan)
	exact, state := true, arrayKnown
	var list []value
	if s := arraySubquery(p.right.constant); s != nil {
		var ok bool
		if list, exact, ok = b.dataElements(col, s); !ok {
			state = arrayOpaque
			b.blame(col, p.right.constant)
		}
	} else if s := castSubquery(p.right.constant); s != nil && col != colTS {
		exact = false // no array is not an empty one
		answer, _, known := b.askData(s, formArray)
		if known {
			list, known = b.texts(answer)
		}
		if !known {
			state = arrayOpaque
			b.blame(col, p.right.constant)
		}
	} else {
		list, state = b.elements(col, p.right.constant, false)
	}
	switch {
	case state == arrayNull:
		return truth{n: everything()}
	case state == arrayOpaque || len(list) > maxArray:
		b.unclear(col)
		b.unseen = b.unseen || col == colSymbol
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
	if !exact {
		out.f, out.n = everything(), everything()
	}
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
	null, spelled := false, false
	for _, v := range list {
		switch {
		case v.null && v.text != "":
			spelled = true
		case v.null:
			null = true
		case v.kind == kindOpaque:
			return b.anyOfEach(col, op, list)
		default:
			texts = append(texts, v.text)
		}
	}
	is := someNames(texts...)
	if col == colSymbol {
		b.symbols = append(b.symbols, is.list)
	}
	side := symbolsIn
	if col == colTimeframe {
		side = timeframesIn
	}
	out := truth{t: side(is), f: side(is.complement())}
	switch {
	case null:
		out.f, out.n = nil, out.f
	case spelled:
		out.n = out.f // that nothing is called NULL
	}
	return out
}

func (b *bounder) anyOfEach(col, op string, list []value) truth {
	out := truth{f: everything()}
	if op == "=" && col == colTS {
		return b.anyTime(list)
	}
	if len(list) > maxBoxes {
		b.unclear(col)
		return unknownTruth()
	}
	for _, v := range list {
		out = out.or(b.compareValue(col, op, v), mayAny)
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
			b.unclear(colTS)
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
	list, state := b.literalElements(col, node, cast)
	if state != arrayOpaque || col == colTS || cast {
		return list, state
	}
	text, ok := b.askTexts(node, true)
	switch {
	case !ok:
		return nil, arrayOpaque
	case text == nil:
		return nil, arrayNull
	}
	var parts []*string
	if json.Unmarshal([]byte(*text), &parts) != nil {
		return nil, arrayOpaque // an error, or an array of arrays
	}
	list = make([]value, 0, len(parts))
	for _, part := range parts {
		if part == nil {
			list = append(list, nullOf(kindText))
			continue
		}
		list = append(list, value{kind: kindText, text: *part})
	}
	return list, arrayKnown
}

// literalElements returns those of an array that is written out, or a parameter.
func (b *bounder) literalElements(col string, node *pg.Node, cast bool) ([]value, arrayState) {
	switch n := node.GetNode().(type) {
	case *pg.Node_AArrayExpr:
		if col == colTS && !cast {
			return b.typedElements(n.AArrayExpr.GetElements())
		}
		list := make([]value, 0, len(n.AArrayExpr.GetElements()))
		for _, el := range n.AArrayExpr.GetElements() {
			if v := b.eval(el); !v.null && v.kind != kindUnknown && v.kind != kindText {
				return nil, arrayOpaque // it may be an array itself
			}
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
		v := b.literalValue(n.AConst)
		if v.null {
			return nil, arrayNull
		}
		if v.kind == kindUnknown {
			return b.textElements(col, v.text)
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
	if len(t.GetArrayBounds()) != 1 || len(t.GetTypmods()) > 0 || !builtin(list) {
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

func (b *bounder) textElements(col, text string) ([]value, arrayState) {
	parts, ok := parseArray(text)
	if !ok {
		return nil, arrayOpaque
	}
	list := make([]value, 0, len(parts))
	for _, part := range parts {
		switch {
		case part.null:
			v := nullOf(kindText)
			v.text = part.text
			list = append(list, v)
		case col == colTS:
			list = append(list, b.readLiteral(part.text, kindTimestamptz))
		default:
			list = append(list, value{kind: kindText, text: part.text})
		}
	}
	return list, arrayKnown
}

func (b *bounder) paramElements(col string, number int32, cast uint32) ([]value, arrayState) {
	i := int(number) - 1
	if b.named != nil {
		return b.executedElements(col, i, cast)
	}
	if i < 0 || i >= len(b.args.Values) {
		return nil, arrayOpaque
	}
	raw := b.args.Values[i]
	oid := uint32(0)
	if i < len(b.args.OIDs) {
		oid = b.args.OIDs[i]
	}
	b.noteUntyped(i, oid)
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
		return b.textElements(col, string(raw))
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
		if !ok || v.kind == kindText && !b.readable(r) {
			return nil, arrayOpaque
		}
		list = append(list, v)
	}
	return list, arrayKnown
}
