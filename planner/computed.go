package planner

import (
	"slices"

	pg "github.com/pganalyze/pg_query_go/v6"
)

// Columns that a subquery computes of ts (PLANNER 14 and 16): a condition on one of them is one on that function of ts, wherever a
// condition on ts itself would be one on the rows of the subquery's FROM clause; and above GROUP BY, whose output columns are functions of
// what rows are grouped by, but not above several grouping sets.
//
// The invariant: the condition compares what the column is, as the column's own type has it compared. So a function of the column is
// one of the type that the subquery gives it, and no condition passes a set operation, or a join's USING, that may convert the column.

// computed returns what a subquery's column is where it is a function of one column of its FROM clause; no refs where it is not, or
// that is not certain.
func (a *analyzer) computed(it *item, col string) operand {
	if it.sub == nil || it.opaque || it.scan || it.sub.GetOp() != pg.SetOperation_SETOP_NONE || len(it.sub.GetValuesLists()) > 0 || !a.spend() {
		return operand{}
	}
	l := a.levelOf(it)
	targets := it.sub.GetTargetList()
	if l == nil || slices.ContainsFunc(targets, func(t *pg.Node) bool { return expands(t.GetResTarget().GetVal()) }) {
		return operand{}
	}
	star := slices.ContainsFunc(targets, func(t *pg.Node) bool { return isStar(t.GetResTarget().GetVal().GetColumnRef().GetFields()) })
	at := slices.Index(it.columns, col)
	switch {
	case len(it.columns) > 0 && (star || len(it.columns) != len(targets)):
		return operand{}
	case len(it.columns) == 0:
		columns, ok := a.itemColumns(it)
		if !ok || star && slices.Index(columns, col) != lastIndex(columns, col) {
			return operand{}
		}
		named := func(t *pg.Node) bool { return t.GetResTarget().GetName() == col }
		if at = slices.IndexFunc(targets, named); at >= 0 && slices.ContainsFunc(targets[at+1:], named) {
			return operand{}
		}
	}
	if at < 0 {
		return operand{}
	}
	return a.computedBy(l, targets[at].GetResTarget().GetVal())
}

func lastIndex(list []string, name string) int {
	for i, each := range slices.Backward(list) {
		if each == name {
			return i
		}
	}
	return -1
}

// computedBy returns an expression as a function of one column; no refs where it is none, or the column itself.
func (a *analyzer) computedBy(l *level, node *pg.Node) operand {
	if node.GetColumnRef() != nil {
		return operand{}
	}
	refs, d, ok := a.derive(l, node, 0)
	if !ok || len(refs) == 0 {
		return operand{}
	}
	return operand{refs: refs, cast: castDerived, fn: &d}
}

// computedKind returns the type of a column that is computed, here or in a subquery below; kindOpaque for any other.
func (a *analyzer) computedKind(o operand) (kind, number) {
	for range maxDepth {
		if len(o.refs) != 1 || !a.spend() {
			return kindOpaque, number{}
		}
		it, col := o.refs[0].item, o.refs[0].col
		if it.opaque || it.scan || it.sub == nil || it.sub.GetOp() != pg.SetOperation_SETOP_NONE {
			return kindOpaque, number{}
		}
		if is := a.computed(it, col); is.fn != nil {
			return is.fn.kind, is.fn.number
		}
		if o = a.output(it, col); len(o.refs) == 1 && o.refs[0].item == it {
			return kindOpaque, number{}
		}
	}
	return kindOpaque, number{}
}
