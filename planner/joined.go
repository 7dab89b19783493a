package planner

import (
	"slices"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
)

// A FROM clause may join ohlcv to the user's own data (PLANNER 19). What an item of it holds that is not understood here (a table, a
// subquery, a function) can be asked, as one column of it under those of the statement's conditions that are on that item alone. Where a
// comparison with such a column holds for each row of a scan that matters, so do these conditions for the row of the item that it is
// compared with: the answer has every value that counts.

// askable reports whether an item can be asked by itself.
func (it *item) askable() bool {
	return it.node != nil && it.alias != "" && !it.scan && it.series == nil && !it.sampled
}

// place notes where an item stands.
func (it *item) place(node *pg.Node, l *level) {
	switch n := node.GetNode().(type) {
	case *pg.Node_RangeVar:
	case *pg.Node_RangeSubselect:
		if n.RangeSubselect.GetLateral() {
			return
		}
	case *pg.Node_RangeFunction:
		if n.RangeFunction.GetLateral() || anyColumn(node) || hasSelect(node) {
			return
		}
	default:
		return
	}
	it.node, it.home = node, l
}

// askedBare returns the one item of the level that may have a column of that name, nil where there are several, or none to be asked.
func (a *analyzer) askedBare(l *level, col string) *item {
	if l.outer || l.joined || l.merged[col] {
		return nil
	}
	var found *item
	for _, it := range l.items {
		if a.lacks(&level{items: []*item{it}}, col) {
			continue
		}
		if found != nil || !it.askable() {
			return nil
		}
		found = it
	}
	return found
}

// expressions returns the links to what a condition has symbol or timeframe equal to, where that is an expression of columns of one
// item that can be asked.
func (a *analyzer) expressions(col string, q *pred, other operand, quals []*pred) []link {
	var links []link
	add := func(it *item, node *pg.Node) {
		from := []origin{{ref: ref{item: it}, asked: a.itemQuestion(it, node, quals)}}
		links = append(links, link{col: col, op: "=", from: from, by: q})
	}
	if other.castToText() {
		for _, r := range other.refs {
			if r.item.askable() {
				add(r.item, typed(columnNode(r.item.alias, r.col), "text"))
			}
		}
	}
	if it := a.itemOf(other.constant, q); it != nil {
		add(it, other.constant)
	}
	return links
}

// itemOf returns the item that all columns of an expression are of, nil where it cannot be asked for it. A row that is lacking may
// have a value, too: coalesce(w.symbol, 'A').
func (a *analyzer) itemOf(node *pg.Node, q *pred) *item {
	if node == nil || q.at == nil || node.GetColumnRef() != nil || hasSelect(node) {
		return nil
	}
	if plain, windowed := rowByRow([]*pg.Node{node}); !plain || windowed {
		return nil
	}
	var found *item
	walk(node, func(m proto.Message) bool {
		if c, ok := m.(*pg.ColumnRef); ok && found == nil {
			for _, r := range a.resolve(q.at, c.GetFields()).refs {
				found = r.item
			}
		}
		return found == nil
	})
	if found == nil || !found.askable() || found.nullable || !a.isOn(node, q.at, found) {
		return nil
	}
	return found
}

// itemQuestion asks for an expression of an item, in those of its rows that pass the conditions on it alone.
func (a *analyzer) itemQuestion(it *item, node *pg.Node, quals []*pred) *question {
	sel := &pg.SelectStmt{
		TargetList:  []*pg.Node{{Node: &pg.Node_ResTarget{ResTarget: &pg.ResTarget{Val: node}}}},
		FromClause:  []*pg.Node{it.node},
		LimitOption: pg.LimitOption_LIMIT_OPTION_DEFAULT, Op: pg.SetOperation_SETOP_NONE,
	}
	var filters []*pg.Node
	for _, q := range quals {
		if q.from != nil && a.isOn(q.from, q.at, it) && !slices.Contains(filters, q.from) {
			filters = append(filters, q.from)
		}
	}
	switch len(filters) {
	case 0:
	case 1:
		sel.WhereClause = filters[0]
	default:
		sel.WhereClause = &pg.Node{Node: &pg.Node_BoolExpr{BoolExpr: &pg.BoolExpr{Boolop: pg.BoolExprType_AND_EXPR, Args: filters}}}
	}
	return a.question(sel, it.home)
}

func columnNode(names ...string) *pg.Node {
	fields := make([]*pg.Node, len(names))
	for i, name := range names {
		fields[i] = pg.MakeStrNode(name)
	}
	return pg.MakeColumnRefNode(fields, -1)
}

// isOn reports whether a condition is one on an item alone, which can be asked.
func (a *analyzer) isOn(node *pg.Node, l *level, it *item) bool {
	if hasSelect(node) || !anyColumn(node) {
		return false
	}
	on := true
	walk(node, func(m proto.Message) bool {
		if c, ok := m.(*pg.ColumnRef); ok {
			refs := a.resolve(l, c.GetFields()).refs
			on = on && len(refs) == 1 && refs[0].item == it
		}
		return on
	})
	return on && (&checker{catalog: a}).check(node) == ""
}

// only returns the conditions that are on columns of these items and on nothing else.
func only(quals []*pred, items []*item) []*pred {
	var list []*pred
	for _, q := range quals {
		if q.isOnly(items) {
			list = append(list, q)
		}
	}
	return list
}

func (p *pred) isOnly(items []*item) bool {
	if p.kind == predUnknown || p.kind == predConst {
		return false
	}
	for _, o := range []operand{p.left, p.right} {
		for _, r := range o.refs {
			if !slices.Contains(items, r.item) {
				return false
			}
		}
		if o.constant != nil && (anyColumn(o.constant) || hasSelect(o.constant)) {
			return false
		}
	}
	for _, kid := range p.kids {
		if !kid.isOnly(items) {
			return false
		}
	}
	return true
}

// implied returns what holds for a row for which a subquery in one of the conditions has a row: EXISTS, and IN, of a subquery that may
// be correlated.
func (a *analyzer) implied(l *level, node *pg.Node) []*pred {
	s := node.GetSubLink()
	sel := s.GetSubselect().GetSelectStmt()
	exists := s.GetSubLinkType() == pg.SubLinkType_EXISTS_SUBLINK
	in := s.GetSubLinkType() == pg.SubLinkType_ANY_SUBLINK && len(s.GetOperName()) == 0
	if sel == nil || !exists && !in || sel.GetOp() != pg.SetOperation_SETOP_NONE || len(sel.GetValuesLists()) > 0 || !a.spend() {
		return nil
	}
	plain, windowed := rowByRow(computedAbove(sel))
	if !plain || windowed || len(sel.GetGroupClause()) > 0 || sel.GetHavingClause() != nil || len(sel.GetWindowClause()) > 0 {
		return nil
	}
	a.depth++
	defer func() { a.depth-- }()
	if a.depth > maxDepth {
		return nil
	}
	inner := a.newLevel(sel.GetFromClause(), a.with(sel.GetWithClause(), l.within), l)
	list := a.conjuncts(inner, sel.GetWhereClause())
	for _, f := range inner.from {
		list = append(list, a.joined(inner, f)...)
	}
	if in {
		list = append(list, a.pairs(l, inner, s.GetTestexpr(), sel.GetTargetList())...)
	}
	return list
}

// joined returns the conditions of the inner joins of a FROM clause.
func (a *analyzer) joined(l *level, f *source) []*pred {
	if f.item != nil || f.kind != pg.JoinType_JOIN_INNER {
		return nil
	}
	return slices.Concat(a.joinCondition(l, f), a.joined(l, f.left), a.joined(l, f.right))
}

// pairs are the comparisons of IN: of what stands before it, in the level, with what the subquery selects in its own.
func (a *analyzer) pairs(l, inner *level, test *pg.Node, targets []*pg.Node) []*pred {
	tests := []*pg.Node{test}
	if row := test.GetRowExpr(); row != nil {
		tests = row.GetArgs()
	}
	if len(tests) != len(targets) {
		return nil
	}
	var list []*pred
	for i, node := range tests {
		left, right := a.operandOf(l, node), a.operandOf(inner, targets[i].GetResTarget().GetVal())
		if len(left.refs) > 0 && len(right.refs) > 0 {
			list = append(list, &pred{kind: predCompare, op: "=", left: left, right: right})
		}
	}
	return list
}

// askedRows returns the rows whose column has a value that the answer to an item's question holds; false where there is none.
func (o origin) askedRows(e *evaluator, col string) (box, bool) {
	out := box{symbols: everyName(), timeframes: everyName(), ts: always()}
	if col == colTS {
		answer, known := e.askQuestion(o.asked, formEnds)
		if !known || o.instant && answer.OID != oidTimestamptz {
			return box{}, false
		}
		list, ok := e.plainValues(answer)
		out.ts = nil
		for _, v := range list {
			if v.null {
				continue
			}
			if v = e.convert(v, kindTimestamptz); v.kind == kindOpaque || v.lo.IsInf() || v.hi.IsInf() {
				return box{}, false
			}
			bounds := v
			if !out.ts.Empty() {
				bounds.lo = min(bounds.lo, out.ts.Bounds().Start)
				bounds.hi = max(bounds.hi, out.ts.Bounds().End)
			}
			out.ts = within(bounds.lo, bounds.hi)
		}
		return out, ok
	}
	answer, known := e.askQuestion(o.asked, formText)
	if !known {
		return box{}, false
	}
	list, ok := e.texts(answer)
	var names []string
	for _, v := range list {
		if !v.null {
			names = append(names, v.text)
		}
	}
	out.symbols, out.timeframes = someNames(names...), someNames(names...)
	return out, ok
}

// asks reports whether something has to be asked to follow the link.
func (l link) asks() bool {
	return slices.ContainsFunc(l.from, func(o origin) bool { return o.asked != nil })
}

// open reports whether a link may leave less than what is known already: that nothing is asked for nothing.
func (r *reading) open(l link) bool {
	switch l.col {
	case colSymbol:
		return r.rows.openSymbols()
	case colTimeframe:
		return slices.ContainsFunc(r.rows, func(b box) bool { return b.timeframes.except })
	}
	return r.rows.openTimes()
}
