package planner

import (
	pg "github.com/pganalyze/pg_query_go/v6"
)

// OVERLAPS of two pairs of points in time (PLANNER 11), where one pair is made of ts and the other of constants.
//
// A pair is two ends in either order, or an end and an interval from there. With both pairs put in order, (s1, e1) and (s2, e2), the
// value is s1 = s2, or s1 < e2 and s2 < e1: each pair is half-open, but one without length is the instant itself. Where an end is NULL
// the value may be true, by the other one, or NULL.
//
// The invariant: what is compiled for it is true, and false, exactly where the value is, if both constants are points in time. If one
// is NULL, or not known, the value may be NULL, and false, anywhere; it is true nowhere that is not compiled to be true, for the two ends
// of a pair of one point are that point.

// compileOverlaps understands the four arguments of OVERLAPS.
func (a *analyzer) compileOverlaps(l *level, f *pg.FuncCall) *pred {
	const ends = 4
	name, ok := callName(f.GetFuncname())
	args := f.GetArgs()
	if !ok || name != "overlaps" || f.GetFuncformat() != pg.CoercionForm_COERCE_SQL_SYNTAX || len(args) != ends {
		return unknownPred()
	}
	own, other := args[:2], args[2:]
	if !anyColumn(own[0]) {
		own, other = other, own
	}
	if anyColumn(other[0]) || anyColumn(other[1]) {
		return unknownPred()
	}
	x, y := a.operandOf(l, own[0]), a.operandOf(l, endOf(own[0], own[1]))
	if len(x.refs) == 0 || len(y.refs) == 0 {
		return unknownPred()
	}
	a.sublinks(l, other[0])
	a.sublinks(l, other[1])
	from := typed(other[0], "timestamptz")
	to := endOf(from, other[1])
	if to.GetAConst() != nil || to.GetParamRef() != nil {
		to = typed(to, "timestamptz")
	}
	extreme := func(op pg.MinMaxOp) operand {
		return operand{constant: &pg.Node{Node: &pg.Node_MinMaxExpr{MinMaxExpr: &pg.MinMaxExpr{Op: op, Args: []*pg.Node{from, to}}}}}
	}
	first, last := extreme(pg.MinMaxOp_IS_LEAST), extreme(pg.MinMaxOp_IS_GREATEST)
	is := func(o operand, op string, c operand) *pred {
		return &pred{kind: predCompare, op: op, left: o, right: c}
	}
	all := func(kids ...*pred) *pred { return &pred{kind: predAnd, kids: kids} }
	some := func(kids ...*pred) *pred { return &pred{kind: predOr, kids: kids} }
	meet := some(
		all(some(is(x, "<", last), is(y, "<", last)), some(is(x, ">", first), is(y, ">", first))),
		all(is(x, "=", first), is(y, ">=", first)),
		all(is(y, "=", first), is(x, ">=", first)),
	)
	return &pred{kind: predOverlaps, kids: []*pred{meet}, left: operand{constant: from}, right: operand{constant: to}}
}

// endOf returns the second end of a pair: start plus it, where it is certainly an interval.
func endOf(start, end *pg.Node) *pg.Node {
	if castType(end.GetTypeCast().GetTypeName()) != oidInterval {
		return end
	}
	return &pg.Node{Node: &pg.Node_AExpr{AExpr: &pg.A_Expr{
		Kind: pg.A_Expr_Kind_AEXPR_OP, Name: []*pg.Node{pg.MakeStrNode("+")}, Lexpr: start, Rexpr: end,
	}}}
}

// overlaps bounds ts by OVERLAPS.
func (b *bounder) overlaps(p *pred) truth {
	if !p.kids[0].ofInstants(b.scan) {
		return unknownTruth()
	}
	out := b.bound(p.kids[0], mayAny)
	for _, node := range []*pg.Node{p.left.constant, p.right.constant} {
		if v := b.eval(node); v.null || !v.isTime() {
			out.f, out.n = everything(), everything()
		}
	}
	return out
}

// ofInstants reports whether all that is compared are points in time made of the item's ts.
func (p *pred) ofInstants(it *item) bool {
	for _, kid := range p.kids {
		if !kid.ofInstants(it) {
			return false
		}
	}
	col, ok := p.left.of(it)
	return len(p.kids) > 0 || ok && col == colTS && p.left.isInstant()
}

// overlapsUses notes the parameters that are ends of a pair beside one of ts.
func overlapsUses(p *pred, it *item, uses map[*pg.ParamRef]uint32) {
	if !p.kids[0].ofInstants(it) {
		return
	}
	for _, o := range []operand{p.left, p.right} {
		noteUse(o.constant.GetTypeCast().GetArg(), oidTimestamptz, uses)
	}
}
