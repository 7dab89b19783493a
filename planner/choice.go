package planner

import (
	"slices"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"

	"barkeep/internal/market"
)

// Choices among constants: COALESCE, GREATEST, LEAST, NULLIF and CASE (PLANNER 11).
//
// The invariant: the value has the type that PostgreSQL gives all of the arguments in common, whichever of them it is; where which of
// them it is is not known, it lies between all that it may be.

// common converts the arguments to the type that they have in common: for points in time the one that the others are cast to without
// being asked, for literals that of the rest, for literals alone text. False where that is not known.
func (e *evaluator) common(list []value) ([]value, kind, bool) {
	to := kindUnknown
	for _, v := range list {
		switch {
		case v.kind == kindOpaque:
			return nil, 0, false
		case v.kind == kindUnknown || v.kind == to:
		case to == kindUnknown:
			to = v.kind
		case !v.isTime() || !(value{kind: to}).isTime():
			return nil, 0, false
		default:
			to = widerTime(to, v.kind)
		}
	}
	if to == kindUnknown {
		to = kindText
	}
	out := make([]value, len(list))
	for i, v := range list {
		if out[i] = e.convert(v, to); out[i].kind != to {
			return nil, 0, false
		}
	}
	return out, to, true
}

// widerTime returns that of two types of points in time to which the other is cast: timestamptz before timestamp before date.
func widerTime(a, b kind) kind {
	switch {
	case a == kindTimestamptz || b == kindTimestamptz:
		return kindTimestamptz
	case a == kindTimestamp || b == kindTimestamp:
		return kindTimestamp
	}
	return kindDate
}

func (e *evaluator) evalAll(nodes []*pg.Node) ([]value, kind, bool) {
	list := make([]value, len(nodes))
	for i, n := range nodes {
		list[i] = e.eval(n)
	}
	return e.common(list)
}

func (e *evaluator) coalesce(c *pg.CoalesceExpr) value {
	list, k, ok := e.evalAll(c.GetArgs())
	if !ok {
		return value{}
	}
	for _, v := range list {
		if !v.null {
			return v
		}
	}
	return nullOf(k)
}

// extremeOf is GREATEST and LEAST of points in time: of those that are not null.
func (e *evaluator) extremeOf(m *pg.MinMaxExpr) value {
	list, k, ok := e.evalAll(m.GetArgs())
	if !ok || !(value{kind: k}).isTime() {
		return value{}
	}
	out := nullOf(k)
	for _, v := range list {
		switch {
		case v.null:
		case out.null:
			out = v
		case m.GetOp() == pg.MinMaxOp_IS_GREATEST:
			out.lo, out.hi = max(out.lo, v.lo), max(out.hi, v.hi)
		default:
			out.lo, out.hi = min(out.lo, v.lo), min(out.hi, v.hi)
		}
	}
	return out
}

// nullIf is NULLIF of two constants of one type.
func (e *evaluator) nullIf(x *pg.A_Expr) value {
	if e.anyUnsure(x.GetLexpr(), x.GetRexpr()) {
		return value{}
	}
	first := e.eval(x.GetLexpr())
	list, k, ok := e.common([]value{first, e.eval(x.GetRexpr())})
	if !ok || first.kind != k && k != kindText {
		return value{} // it has the type of the first
	}
	is := compareValues("=", list[0], list[1])
	switch {
	case is == mayTrue:
		return nullOf(k)
	case is&mayTrue == 0:
		return list[0]
	}
	return value{}
}

// choose is CASE. Where a condition is not known, the value is one of several.
func (e *evaluator) choose(c *pg.CaseExpr) value {
	var may []int
	nodes := make([]*pg.Node, 0, len(c.GetArgs())+1)
	decided := false
	for i, each := range c.GetArgs() {
		when := each.GetCaseWhen()
		nodes = append(nodes, when.GetResult())
		if decided {
			continue
		}
		is := e.holds(when.GetExpr(), 0)
		if c.GetArg() != nil {
			is = e.comparison("=", c.GetArg(), when.GetExpr())
		}
		if is&mayTrue != 0 {
			may = append(may, i)
		}
		decided = is == mayTrue
	}
	if !decided {
		may = append(may, len(nodes))
	}
	last := c.GetDefresult()
	if last == nil {
		last = nullNode()
	}
	list, _, ok := e.evalAll(append(nodes, last))
	if !ok {
		return value{}
	}
	return oneOf(list, may)
}

// oneOf returns the value that is one of several: kindOpaque where what they lie between does not say what it may be.
func oneOf(list []value, may []int) value {
	out := list[may[0]]
	for _, at := range may[1:] {
		v := list[at]
		switch {
		case out.null && v.null:
		case out.null || v.null || !v.isTime() || v.lo.IsInf() || v.hi.IsInf() || out.lo.IsInf() || out.hi.IsInf():
			return value{}
		default:
			out.lo, out.hi = min(out.lo, v.lo), max(out.hi, v.hi)
		}
	}
	return out
}

// holds returns what a condition over constants can be.
func (e *evaluator) holds(node *pg.Node, depth int) outcome {
	if depth > maxEvalDepth {
		return mayAny
	}
	switch n := node.GetNode().(type) {
	case *pg.Node_BoolExpr:
		and := n.BoolExpr.GetBoolop() == pg.BoolExprType_AND_EXPR
		if n.BoolExpr.GetBoolop() == pg.BoolExprType_NOT_EXPR {
			return negate(e.holds(n.BoolExpr.GetArgs()[0], depth+1))
		}
		out := mayTrue
		if !and {
			out = mayFalse
		}
		for _, arg := range n.BoolExpr.GetArgs() {
			out = combine(out, e.holds(arg, depth+1), and)
		}
		return out
	case *pg.Node_NullTest:
		return e.nullTest(n.NullTest)
	case *pg.Node_AExpr:
		op, ok := callName(n.AExpr.GetName())
		if ok && n.AExpr.GetKind() == pg.A_Expr_Kind_AEXPR_OP && n.AExpr.GetLexpr() != nil {
			return e.comparison(op, n.AExpr.GetLexpr(), n.AExpr.GetRexpr())
		}
		return mayAny
	}
	v := e.eval(node)
	if v.kind == kindUnknown && !v.null {
		v = parseBool(v.text)
	}
	switch {
	case v.null:
		return mayNull
	case v.kind != kindBool:
		return mayAny
	case v.b:
		return mayTrue
	}
	return mayFalse
}

func (e *evaluator) nullTest(t *pg.NullTest) outcome {
	v := e.eval(t.GetArg())
	out := mayFalse
	switch {
	case t.GetArgisrow() || t.GetArg().GetRowExpr() != nil || v.kind == kindOpaque && !v.null:
		return mayTrue | mayFalse
	case v.null:
		out = mayTrue
	}
	if t.GetNulltesttype() == pg.NullTestType_IS_NOT_NULL {
		return negate(out)
	}
	return out
}

func (e *evaluator) comparison(op string, left, right *pg.Node) outcome {
	if op == "!=" {
		op = "<>"
	}
	if flipped[op] == "" || left.GetAConst().GetIsnull() || right.GetAConst().GetIsnull() {
		return mayAny // "= NULL" is IS NULL under transform_null_equals
	}
	list, _, ok := e.evalAll([]*pg.Node{left, right})
	if !ok || e.anyUnsure(left, right) {
		return mayAny
	}
	return compareValues(op, list[0], list[1])
}

// anyUnsure reports whether there is a parameter of a type that is not known: what it is the same as is a matter of that.
func (e *evaluator) anyUnsure(nodes ...*pg.Node) bool {
	found := false
	for _, node := range nodes {
		walk(node, func(m proto.Message) bool {
			p, ok := m.(*pg.ParamRef)
			found = found || ok && e.unsure[p.GetNumber()]
			return !found
		})
	}
	return found
}

// choiceUses notes the parameters that PostgreSQL gives the type of what they are a choice with: a timestamptz before any other type of
// points in time, and a text beside a literal.
func choiceUses(m proto.Message, uses map[*pg.ParamRef]uint32) {
	var list []*pg.Node
	switch n := m.(type) {
	case *pg.CoalesceExpr:
		list = n.GetArgs()
	case *pg.MinMaxExpr:
		list = n.GetArgs()
	case *pg.A_Expr:
		if n.GetKind() != pg.A_Expr_Kind_AEXPR_NULLIF {
			return
		}
		if n.GetRexpr().GetAConst().GetSval() != nil {
			noteUse(n.GetLexpr(), oidText, uses)
		}
		return
	}
	if slices.ContainsFunc(list, certainlyInstant) {
		for _, n := range list {
			noteUse(n, oidTimestamptz, uses)
		}
	}
}

// certainlyInstant reports whether an expression is a timestamptz, whatever its parts are.
func certainlyInstant(node *pg.Node) bool {
	switch n := node.GetNode().(type) {
	case *pg.Node_TypeCast:
		return castType(n.TypeCast.GetTypeName()) == oidTimestamptz
	case *pg.Node_SqlvalueFunction:
		return n.SqlvalueFunction.GetOp() == pg.SQLValueFunctionOp_SVFOP_CURRENT_TIMESTAMP
	case *pg.Node_FuncCall:
		name, ok := callName(n.FuncCall.GetFuncname())
		return ok && name == "now" && len(n.FuncCall.GetArgs()) == 0
	case *pg.Node_AExpr:
		op, ok := callName(n.AExpr.GetName())
		return ok && n.AExpr.GetKind() == pg.A_Expr_Kind_AEXPR_OP && (op == "+" || op == "-") && certainlyInstant(n.AExpr.GetLexpr()) &&
			castType(n.AExpr.GetRexpr().GetTypeCast().GetTypeName()) == oidInterval
	}
	return false
}

// compareValues returns what a comparison of two values of one type can be. Texts are compared for being the same; those that
// another type, or another collation, may take for the same are not told apart.
func compareValues(op string, l, r value) outcome {
	truthOf := func(is bool) outcome {
		if is {
			return mayTrue
		}
		return mayFalse
	}
	switch {
	case l.null || r.null:
		return mayNull
	case l.kind == kindText && (op == "=" || op == "<>"):
		if l.text != r.text && strings.EqualFold(strings.TrimSpace(l.text), strings.TrimSpace(r.text)) {
			return mayAny
		}
		return truthOf((l.text == r.text) == (op == "="))
	case l.kind == kindInt:
		return comparedPoints(op, market.Instant(l.n), market.Instant(l.n), market.Instant(r.n), market.Instant(r.n))
	case l.isTime():
		return comparedPoints(op, l.lo, l.hi, r.lo, r.hi)
	}
	return mayAny
}

// comparedPoints compares a point in [lo, hi] with one in [from, to].
func comparedPoints(op string, lo, hi, from, to market.Instant) outcome {
	var out outcome
	note := func(may bool, o outcome) {
		if may {
			out |= o
		}
	}
	switch op {
	case "<", ">=":
		note(lo < to, mayTrue)
		note(hi >= from, mayFalse)
	case ">", "<=":
		note(hi > from, mayTrue)
		note(lo <= to, mayFalse)
	default:
		note(lo <= to && from <= hi, mayTrue)
		note(lo != hi || from != to || lo != from, mayFalse)
	}
	if op == ">=" || op == "<=" || op == "<>" {
		return negate(out)
	}
	return out
}
