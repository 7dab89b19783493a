package planner

import (
	"slices"

	pg "github.com/pganalyze/pg_query_go/v6"
)

// conjuncts compiles a condition and cuts it at its ANDs.
func (a *analyzer) conjuncts(l *level, node *pg.Node) []*pred {
	if node == nil {
		return nil
	}
	p := a.compile(l, node)
	list := []*pred{p}
	if p.kind == predAnd {
		list = p.kids
	}
	for _, q := range list {
		if q.from != nil && q.from.GetSubLink() != nil {
			list = append(slices.Clip(list), a.implied(l, q.from)...)
		}
	}
	return list
}

// compile turns a condition into a predicate over the level's items. What it does not understand is unknown.
func (a *analyzer) compile(l *level, node *pg.Node) *pred {
	p := a.compileNode(l, node)
	if p.kind == predUnknown {
		p.node = node
	}
	p.from, p.at = node, l
	a.keepSource(l, p, node)
	return p
}

func (a *analyzer) compileNode(l *level, node *pg.Node) *pred {
	if !a.spend() {
		return unknownPred()
	}
	switch n := node.GetNode().(type) {
	case *pg.Node_BoolExpr:
		return a.compileBool(l, n.BoolExpr)
	case *pg.Node_AExpr:
		return a.compileExpr(l, n.AExpr)
	case *pg.Node_NullTest:
		return a.compileNullTest(l, n.NullTest)
	case *pg.Node_BooleanTest:
		return &pred{kind: predBool, kids: []*pred{a.compile(l, n.BooleanTest.GetArg())}, test: n.BooleanTest.GetBooltesttype()}
	case *pg.Node_SubLink:
		if p := a.compileValues(l, n.SubLink); p != nil {
			return p
		}
		return a.compileSubquery(l, node)
	case *pg.Node_FuncCall:
		return a.compileOverlaps(l, n.FuncCall)
	case *pg.Node_AConst, *pg.Node_ParamRef, *pg.Node_TypeCast:
		return &pred{kind: predConst, left: operand{constant: node}}
	}
	return unknownPred()
}

func (a *analyzer) compileNullTest(l *level, n *pg.NullTest) *pred {
	if n.GetArgisrow() || n.GetArg().GetRowExpr() != nil {
		return unknownPred()
	}
	var test *pred
	switch n.GetArg().GetNode().(type) {
	case *pg.Node_BoolExpr, *pg.Node_BooleanTest, *pg.Node_NullTest: // of a condition it is IS UNKNOWN
		test = &pred{kind: predBool, kids: []*pred{a.compile(l, n.GetArg())}, test: pg.BoolTestType_IS_UNKNOWN}
	default:
		test = &pred{kind: predNull, left: a.operandOf(l, n.GetArg())}
	}
	if n.GetNulltesttype() == pg.NullTestType_IS_NOT_NULL {
		return &pred{kind: predNot, kids: []*pred{test}}
	}
	return test
}

func (a *analyzer) compileBool(l *level, b *pg.BoolExpr) *pred {
	out := &pred{}
	for _, arg := range b.GetArgs() {
		kid := a.compile(l, arg)
		if b.GetBoolop() == pg.BoolExprType_AND_EXPR && kid.kind == predAnd {
			out.kids = append(out.kids, kid.kids...)
			continue
		}
		out.kids = append(out.kids, kid)
	}
	switch b.GetBoolop() {
	case pg.BoolExprType_AND_EXPR:
		out.kind = predAnd
	case pg.BoolExprType_OR_EXPR:
		out.kind = predOr
	case pg.BoolExprType_NOT_EXPR:
		out.kind = predNot
	default:
		return unknownPred()
	}
	return out
}

func (a *analyzer) compileExpr(l *level, x *pg.A_Expr) *pred {
	op, ok := callName(x.GetName())
	if !ok {
		return unknownPred()
	}
	if op == "!=" {
		op = "<>"
	}
	left, right := x.GetLexpr(), x.GetRexpr()
	switch x.GetKind() {
	case pg.A_Expr_Kind_AEXPR_OP:
		if left.GetRowExpr() != nil && right.GetRowExpr() != nil {
			return a.compileRows(l, op, left.GetRowExpr().GetArgs(), right.GetRowExpr().GetArgs())
		}
		switch op {
		case "<@":
			return a.compileRange(l, left, right)
		case "@>":
			return a.compileRange(l, right, left)
		}
		return a.comparison(l, op, left, right)
	case pg.A_Expr_Kind_AEXPR_DISTINCT:
		return &pred{kind: predDistinct, left: a.operandOf(l, left), right: a.operandOf(l, right)}
	case pg.A_Expr_Kind_AEXPR_NOT_DISTINCT:
		distinct := &pred{kind: predDistinct, left: a.operandOf(l, left), right: a.operandOf(l, right)}
		return &pred{kind: predNot, kids: []*pred{distinct}}
	case pg.A_Expr_Kind_AEXPR_IN:
		return a.compileIn(l, op, left, right)
	case pg.A_Expr_Kind_AEXPR_OP_ANY:
		return a.compileArray(l, predAny, op, left, right)
	case pg.A_Expr_Kind_AEXPR_OP_ALL:
		return a.compileArray(l, predAll, op, left, right)
	case pg.A_Expr_Kind_AEXPR_BETWEEN, pg.A_Expr_Kind_AEXPR_NOT_BETWEEN,
		pg.A_Expr_Kind_AEXPR_BETWEEN_SYM, pg.A_Expr_Kind_AEXPR_NOT_BETWEEN_SYM:
		return a.compileBetween(l, x)
	default:
		return unknownPred()
	}
}

// comparison is left op right, of which one side may bound a column.
func (a *analyzer) comparison(l *level, op string, left, right *pg.Node) *pred {
	switch {
	case flipped[op] == "":
		return unknownPred()
	case op == "=" && right.GetAConst().GetIsnull():
		return a.equalsNull(l, left)
	case op == "=" && left.GetAConst().GetIsnull():
		return a.equalsNull(l, right)
	}
	p := &pred{kind: predCompare, op: op, left: a.operandOf(l, left), right: a.operandOf(l, right)}
	if op != "=" && op != "<>" && !p.onTS() {
		a.keepSource(l, p, &pg.Node{Node: &pg.Node_AExpr{AExpr: &pg.A_Expr{
			Kind: pg.A_Expr_Kind_AEXPR_OP, Name: []*pg.Node{pg.MakeStrNode(op)}, Lexpr: left, Rexpr: right,
		}}})
	}
	return p
}

// equalsNull is node = NULL, which is null, or node IS NULL where transform_null_equals is on: it may be whatever either of them may be.
func (a *analyzer) equalsNull(l *level, node *pg.Node) *pred {
	if node.GetRowExpr() != nil {
		return unknownPred()
	}
	either := &pred{kind: predOr}
	for _, is := range []*pred{
		{kind: predNull, left: a.operandOf(l, node)},
		{kind: predConst, left: operand{constant: nullNode()}},
	} {
		either.kids = append(either.kids, &pred{kind: predAnd, kids: []*pred{is, unknownPred()}})
	}
	return either
}

// compileValues understands x IN (VALUES …) of constants, as IN a list or an array of them; nil for any other subquery. A column of VALUES
// has the type that all of it has in common: literals without a type are texts there, unless there are others. Of these only such are
// understood as give them ts's own type.
func (a *analyzer) compileValues(l *level, s *pg.SubLink) *pred {
	sel := s.GetSubselect().GetSelectStmt()
	rows := sel.GetValuesLists()
	op, builtin := callName(s.GetOperName())
	if s.GetSubLinkType() != pg.SubLinkType_ANY_SUBLINK || len(s.GetOperName()) > 0 && (!builtin || op != "=") || len(rows) == 0 || limited(sel) ||
		len(sel.GetSortClause()) > 0 || sel.GetWithClause() != nil || anyColumn(sel) {
		return nil
	}
	tests := []*pg.Node{s.GetTestexpr()}
	if row := s.GetTestexpr().GetRowExpr(); row != nil {
		tests = row.GetArgs()
	}
	vague := func(list []*pg.Node) bool {
		return slices.ContainsFunc(list, isLiteral) && slices.ContainsFunc(list, func(n *pg.Node) bool { return !isLiteral(n) })
	}
	columns := make([][]*pg.Node, len(tests))
	for _, row := range rows {
		items := row.GetList().GetItems()
		if len(items) != len(tests) || slices.ContainsFunc(items, hasSelect) {
			return nil
		}
		for i, node := range items {
			columns[i] = append(columns[i], node)
		}
	}
	if len(tests) == 1 {
		if vague(columns[0]) {
			return nil
		}
		return a.compileArray(l, predAny, "=", tests[0], &pg.Node{Node: &pg.Node_AArrayExpr{AArrayExpr: &pg.A_ArrayExpr{Elements: columns[0]}}})
	}
	known := make([]bool, len(tests))
	for i, list := range columns {
		known[i] = !vague(list) || slices.ContainsFunc(list, certainlyInstant)
	}
	in := &pred{kind: predOr}
	for _, row := range rows {
		each := &pred{kind: predAnd}
		for i, node := range row.GetList().GetItems() {
			is := unknownPred()
			if known[i] {
				is = a.comparison(l, "=", tests[i], node)
			}
			each.kids = append(each.kids, is)
		}
		in.kids = append(in.kids, each)
	}
	return in
}

func isLiteral(node *pg.Node) bool {
	return node.GetAConst().GetSval() != nil || node.GetAConst().GetIsnull()
}

// compileRows compares rows: for < and its kin the first pair that differs decides.
func (a *analyzer) compileRows(l *level, op string, left, right []*pg.Node) *pred {
	const most = 8
	if len(left) != len(right) || len(left) == 0 || len(left) > most || flipped[op] == "" {
		return unknownPred()
	}
	first := a.comparison(l, op, left[0], right[0])
	if len(left) == 1 {
		return first
	}
	rest := a.compileRows(l, op, left[1:], right[1:])
	switch op {
	case "=":
		return &pred{kind: predAnd, kids: []*pred{first, rest}}
	case "<>":
		return &pred{kind: predOr, kids: []*pred{first, rest}}
	}
	strict := a.comparison(l, op[:1], left[0], right[0])
	equal := a.comparison(l, "=", left[0], right[0])
	return &pred{kind: predOr, kids: []*pred{strict, {kind: predAnd, kids: []*pred{equal, rest}}}}
}

func (a *analyzer) compileIn(l *level, op string, left, right *pg.Node) *pred {
	var in *pred
	list := right.GetList().GetItems()
	switch {
	case len(list) == 0:
		return unknownPred()
	case left.GetRowExpr() != nil:
		in = &pred{kind: predOr}
		for _, it := range list {
			row := it.GetRowExpr()
			if row == nil {
				return unknownPred()
			}
			in.kids = append(in.kids, a.compileRows(l, "=", left.GetRowExpr().GetArgs(), row.GetArgs()))
		}
	default:
		in = &pred{kind: predAny, op: "=", left: a.operandOf(l, left), right: operand{constant: right}}
	}
	if op == "<>" {
		return &pred{kind: predNot, kids: []*pred{in}}
	}
	return in
}

func (a *analyzer) compileArray(l *level, kind predKind, op string, left, right *pg.Node) *pred {
	if flipped[op] == "" {
		return unknownPred()
	}
	a.sublinks(l, right)
	return &pred{kind: kind, op: op, left: a.operandOf(l, left), right: operand{constant: right}}
}

func (a *analyzer) compileBetween(l *level, x *pg.A_Expr) *pred {
	bounds := x.GetRexpr().GetList().GetItems()
	if len(bounds) != 2 {
		return unknownPred()
	}
	between := func(low, high *pg.Node) *pred {
		return &pred{kind: predAnd, kids: []*pred{
			a.comparison(l, ">=", x.GetLexpr(), low), a.comparison(l, "<=", x.GetLexpr(), high),
		}}
	}
	out := between(bounds[0], bounds[1])
	switch x.GetKind() {
	case pg.A_Expr_Kind_AEXPR_NOT_BETWEEN:
		return &pred{kind: predNot, kids: []*pred{out}}
	case pg.A_Expr_Kind_AEXPR_BETWEEN_SYM, pg.A_Expr_Kind_AEXPR_NOT_BETWEEN_SYM:
		out = &pred{kind: predOr, kids: []*pred{out, between(bounds[1], bounds[0])}}
		if x.GetKind() == pg.A_Expr_Kind_AEXPR_NOT_BETWEEN_SYM {
			return &pred{kind: predNot, kids: []*pred{out}}
		}
	default:
	}
	return out
}

// operandOf returns one side of a comparison. A cast that may be one of a column to its own type is kept with it.
func (a *analyzer) operandOf(l *level, node *pg.Node) operand {
	switch n := node.GetNode().(type) {
	case *pg.Node_ColumnRef:
		if o := a.resolve(l, n.ColumnRef.GetFields()); len(o.refs) > 0 {
			return o
		}
	case *pg.Node_TypeCast:
		column := n.TypeCast.GetArg().GetColumnRef()
		oid, ok := castOID(n.TypeCast.GetTypeName())
		if column == nil || !ok || oid == oidDate || oid == oidTimestamp {
			break
		}
		if o := a.resolve(l, column.GetFields()); len(o.refs) > 0 && o.cast == 0 {
			o.cast = oid
			return o
		}
	}
	if refs, d, ok := a.derive(l, node, 0); ok && (len(d.steps) > 0 || d.kind == kindInt) {
		return operand{refs: refs, cast: castDerived, fn: &d}
	}
	a.sublinks(l, node)
	return operand{constant: node}
}
