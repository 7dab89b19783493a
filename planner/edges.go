package planner

import (
	"slices"

	pg "github.com/pganalyze/pg_query_go/v6"
)

// edgesOf returns what a SELECT needs of the one scan below it where only the first or the last bar of each series matters:
// min and max of ts, TimescaleDB's first and last by ts, and DISTINCT ON the columns of a series (PLANNER 17). Nil otherwise.
func (a *analyzer) edgesOf(it *item, l *level, s shape) *limit {
	sel := it.sub
	if len(l.items) != 1 || l.items[0].opaque || sel.GetHavingClause() != nil || len(sel.GetLockingClause()) > 0 || len(sel.GetWindowClause()) > 0 {
		return nil
	}
	if plain, windowed := rowByRow(sel.GetSortClause()); !plain || windowed {
		return nil
	}
	switch {
	case len(sel.GetDistinctClause()) == 0:
		return a.extremes(sel, l, s)
	case sel.GetDistinctClause()[0].GetNode() != nil && !s.grouped:
		return a.distinctOn(sel, l)
	}
	return nil
}

// oneBar is the LIMIT of what needs one bar of each series.
func oneBar(ends ends, keys ...sortKey) *limit {
	return &limit{count: pg.MakeAConstIntNode(1, -1), keys: keys, perSeries: true, ends: ends}
}

// distinctOn understands DISTINCT ON (symbol, timeframe) ORDER BY symbol, timeframe, ts.
func (a *analyzer) distinctOn(sel *pg.SelectStmt, l *level) *limit {
	if plain, windowed := rowByRow(sel.GetTargetList()); !plain || windowed {
		return nil
	}
	for _, node := range sel.GetDistinctClause() {
		if !a.ofSeries(a.sortColumn(sel, l, node)) {
			return nil
		}
	}
	var keys []sortKey
	for _, node := range sel.GetSortClause() {
		sort := node.GetSortBy()
		if sort.GetSortbyDir() == pg.SortByDir_SORTBY_USING {
			return nil
		}
		keys = append(keys, sortKey{by: a.sortColumn(sel, l, sort.GetNode()), desc: sort.GetSortbyDir() == pg.SortByDir_SORTBY_DESC})
	}
	return oneBar(ends{}, keys...)
}

// ofSeries reports whether a column is symbol or timeframe.
func (a *analyzer) ofSeries(o operand) bool {
	for _, r := range o.refs {
		from, ok := a.origins(r, 0)
		if ok && len(from) == 1 && !from[0].made() && from[0].col != colTS {
			return from[0].col == colSymbol || from[0].col == colTimeframe
		}
	}
	return false
}

// isTS reports whether an expression is the column ts of the only scan.
func (a *analyzer) isTS(l *level, node *pg.Node) bool {
	for _, r := range a.resolve(l, node.GetColumnRef().GetFields()).refs {
		if from, ok := a.origins(r, 0); ok && r.item == l.items[0] && len(from) == 1 && !from[0].made() && from[0].col == colTS {
			return true
		}
	}
	return false
}

// ends are those of a series that are needed.
type ends struct{ first, last bool }

// extremes understands aggregates that one bar decides, grouped by nothing or by columns of the series.
func (a *analyzer) extremes(sel *pg.SelectStmt, l *level, s shape) *limit {
	for _, node := range sel.GetGroupClause() {
		by := a.groupedBy(sel, l, node).GetColumnRef()
		if by == nil || !a.ofSeries(a.resolve(l, by.GetFields())) {
			return nil
		}
	}
	var found ends
	for _, target := range sel.GetTargetList() {
		if !a.decided(l, s, target.GetResTarget().GetVal(), &found, 0) {
			return nil
		}
	}
	if !found.first && !found.last {
		return nil
	}
	return oneBar(found)
}

// decided reports whether an expression is made of constants, grouping columns and aggregates that one bar decides.
func (a *analyzer) decided(l *level, s shape, node *pg.Node, found *ends, depth int) bool {
	if depth > 20 {
		return false
	}
	all := func(list []*pg.Node) bool {
		return !slices.ContainsFunc(list, func(n *pg.Node) bool { return !a.decided(l, s, n, found, depth+1) })
	}
	switch n := node.GetNode().(type) {
	case *pg.Node_AConst, *pg.Node_ParamRef, *pg.Node_SqlvalueFunction:
		return true
	case *pg.Node_CoalesceExpr:
		return all(n.CoalesceExpr.GetArgs())
	case *pg.Node_MinMaxExpr:
		return all(n.MinMaxExpr.GetArgs())
	case *pg.Node_TypeCast:
		return a.decided(l, s, n.TypeCast.GetArg(), found, depth+1)
	case *pg.Node_AExpr:
		return n.AExpr.GetKind() == pg.A_Expr_Kind_AEXPR_OP && (n.AExpr.GetLexpr() == nil || a.decided(l, s, n.AExpr.GetLexpr(), found, depth+1)) &&
			a.decided(l, s, n.AExpr.GetRexpr(), found, depth+1)
	case *pg.Node_ColumnRef:
		return s.grouped && a.ofSeries(a.resolve(l, n.ColumnRef.GetFields()))
	case *pg.Node_FuncCall:
		return a.decidedCall(l, s, n.FuncCall, found, depth)
	}
	return false
}

func (a *analyzer) decidedCall(l *level, s shape, f *pg.FuncCall, found *ends, depth int) bool {
	name, ok := callName(f.GetFuncname())
	args := f.GetArgs()
	if f.GetAggStar() || f.GetAggFilter() != nil || f.GetAggDistinct() || len(f.GetAggOrder()) > 0 || f.GetAggWithinGroup() || f.GetOver() != nil || f.GetFuncVariadic() {
		return false
	}
	switch {
	case ok && (name == "min" || name == "max") && len(args) == 1 && a.isTS(l, args[0]):
		found.first, found.last = found.first || name == "min", found.last || name == "max"
		return true
	case (name == "first" || name == "last") && len(f.GetFuncname()) == 1 && len(args) == 2 && a.isTS(l, args[1]):
		plain, windowed := rowByRow(args[:1])
		found.first, found.last = found.first || name == "first", found.last || name == "last"
		return plain && !windowed && !hasSelect(args[0])
	case !ok || !scalarFunctions[name]:
		return false
	}
	for _, arg := range args {
		if !a.decided(l, s, arg, found, depth+1) {
			return false
		}
	}
	return true
}
