package planner

import (
	"slices"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
)

// selectItem analyses a subquery. Its rows matter only where quals, over the item's own columns, may be true.
func (a *analyzer) selectItem(it *item, quals []*pred, lim *limit) {
	a.depth++
	defer func() { a.depth-- }()
	if a.depth > maxDepth || !a.spend() {
		a.hide("it is nested too deeply")
		return
	}
	sel := it.sub
	a.withBodies(sel.GetWithClause(), it.ctes)
	env := a.innerOf(it)
	within := it.parent
	if sel.GetOp() == pg.SetOperation_SETOP_NONE && len(sel.GetValuesLists()) == 0 {
		within = a.levelOf(it)
	}
	a.subqueries(within, env, selectExpressions(sel)...)
	switch {
	case sel.GetOp() != pg.SetOperation_SETOP_NONE:
		a.setOperation(it, quals)
	case len(sel.GetValuesLists()) > 0:
		a.subqueries(within, env, sel.GetValuesLists()...)
	default:
		a.plainSelect(it, quals, lim)
	}
}

// selectExpressions returns all expressions of a SELECT but those of its FROM clause.
func selectExpressions(sel *pg.SelectStmt) []*pg.Node {
	return slices.Concat(sel.GetTargetList(), []*pg.Node{
		sel.GetWhereClause(), sel.GetHavingClause(), sel.GetLimitCount(), sel.GetLimitOffset(),
	}, sel.GetGroupClause(), sel.GetSortClause(), sel.GetDistinctClause(), sel.GetWindowClause())
}

// subqueries analyses the SELECTs inside expressions, each by itself; names that they do not have mean columns of within.
func (a *analyzer) subqueries(within *level, env *cte, nodes ...*pg.Node) {
	for _, node := range nodes {
		walk(node, func(m proto.Message) bool {
			if sel, ok := m.(*pg.SelectStmt); ok {
				a.selectItem(&item{sub: sel, ctes: env, parent: within}, nil, nil)
				return false
			}
			return true
		})
	}
}

// fromSubqueries analyses the SELECTs inside the expressions of a FROM clause; its subqueries are items.
func (a *analyzer) fromSubqueries(env *cte, nodes ...*pg.Node) {
	for _, node := range nodes {
		switch n := node.GetNode().(type) {
		case *pg.Node_JoinExpr:
			a.fromSubqueries(env, n.JoinExpr.GetLarg(), n.JoinExpr.GetRarg())
			a.subqueries(nil, env, n.JoinExpr.GetQuals())
		case *pg.Node_RangeVar, *pg.Node_RangeSubselect:
		case *pg.Node_RangeTableSample:
			a.subqueries(nil, env, n.RangeTableSample.GetArgs()...)
			a.subqueries(nil, env, n.RangeTableSample.GetRepeatable())
		default:
			a.subqueries(nil, env, node)
		}
	}
}

// branchesOf returns the sides of a set operation, made once; none of another SELECT.
func (a *analyzer) branchesOf(it *item) []*item {
	if it.branches == nil && it.sub.GetOp() != pg.SetOperation_SETOP_NONE {
		for _, branch := range []*pg.SelectStmt{it.sub.GetLarg(), it.sub.GetRarg()} {
			it.branches = append(it.branches, &item{sub: branch, ctes: a.innerOf(it), parent: it.parent})
		}
	}
	return it.branches
}

// setOperation analyses both sides of UNION, INTERSECT and EXCEPT.
func (a *analyzer) setOperation(it *item, quals []*pred) {
	sel := it.sub
	if limited(sel) || len(sel.GetLockingClause()) > 0 {
		a.barrier = a.barrier || a.mention(quals, it)
		quals = nil
	}
	for _, child := range a.branchesOf(it) {
		down := make([]*pred, len(quals))
		for i, q := range quals {
			down[i] = q.rewrite(func(r ref) operand {
				if r.item != it {
					return operand{refs: []ref{r}}
				}
				column := a.branchColumn(child, a.position(it, r.col))
				if k, _ := a.computedKind(column); k != kindOpaque && k != kindTimestamptz || a.folds(column, r) {
					return operand{} // compared as what the branches have in common
				}
				return column
			})
		}
		a.selectItem(child, down, nil)
	}
}

// mention reports whether one of the conditions is on a column that the item is known to have.
func (a *analyzer) mention(quals []*pred, it *item) bool {
	for _, q := range quals {
		for _, o := range []operand{q.left, q.right} {
			if col, on := o.of(it); on && a.has(it, col) {
				return true
			}
		}
		if a.mention(q.kids, it) {
			return true
		}
	}
	return false
}

// branchColumn returns the column at a place of a set operation's branch, as a column of the branch's item.
func (a *analyzer) branchColumn(child *item, at int) operand {
	columns, ok := a.itemColumns(child)
	if !ok || at < 0 || at >= len(columns) {
		return operand{}
	}
	name := columns[at]
	if slices.Index(columns, name) != at || slices.Contains(columns[at+1:], name) {
		return operand{}
	}
	return operand{refs: []ref{{child, name}}}
}

func limited(sel *pg.SelectStmt) bool {
	none := func(n *pg.Node) bool { return n == nil || n.GetAConst().GetIsnull() }
	return !none(sel.GetLimitCount()) || !none(sel.GetLimitOffset())
}

// shape is what of a SELECT stands between its FROM clause and its rows.
type shape struct {
	plain   bool // each row of the FROM clause that passes WHERE gives one row
	grouped bool // rows are grouped by keys
	blocked bool // no condition on the rows is one on the rows of the FROM clause
	keys    []ref
	sets    bool // rows are grouped by several sets of keys: one that is not in the set of a row is null there
	// parts are the columns, for each window and DISTINCT ON, by which it takes the rows apart.
	parts [][]ref
}

// computedAbove returns the expressions of a SELECT that are computed of the rows of its FROM clause, once for each or for several of them.
func computedAbove(sel *pg.SelectStmt) []*pg.Node {
	return slices.Concat(sel.GetTargetList(), sel.GetSortClause(), sel.GetDistinctClause())
}

func (a *analyzer) shapeOf(sel *pg.SelectStmt, l *level) shape {
	above := computedAbove(sel)
	plain, windowed := rowByRow(above)
	distinctOn := false
	for _, d := range sel.GetDistinctClause() {
		distinctOn = distinctOn || d.GetNode() != nil
	}
	s := shape{grouped: len(sel.GetGroupClause()) > 0}
	s.blocked = limited(sel) || len(sel.GetLockingClause()) > 0 || (!s.grouped && (!plain || sel.GetHavingClause() != nil)) ||
		s.grouped && !groupByGroup(above)
	s.plain = plain && !s.grouped && !windowed && sel.GetHavingClause() == nil && len(sel.GetDistinctClause()) == 0 &&
		len(sel.GetWindowClause()) == 0 && len(sel.GetLockingClause()) == 0
	if s.grouped {
		s.keys, s.sets = a.groupKeys(sel, l)
	}
	if windowed {
		s.parts = a.partitionKeys(sel, l)
	}
	if distinctOn {
		s.parts = append(s.parts, a.distinctKeys(sel, l))
	}
	return s
}

// partitionKeys returns the columns by which each of the windows is partitioned: what leaves out a whole partition leaves the
// others' rows as they are.
func (a *analyzer) partitionKeys(sel *pg.SelectStmt, l *level) [][]ref {
	var parts [][]ref
	for _, node := range computedAbove(sel) {
		walk(node, func(m proto.Message) bool {
			if f, ok := m.(*pg.FuncCall); ok && f.GetOver() != nil {
				var keys []ref
				for _, by := range partitionOf(f.GetOver(), sel.GetWindowClause()) {
					keys = append(keys, a.resolve(l, by.GetColumnRef().GetFields()).refs...)
				}
				parts = append(parts, keys)
			}
			_, inner := m.(*pg.SelectStmt)
			return !inner
		})
	}
	return parts
}

// partitionOf returns what a window is partitioned by, where it may be, or be made of, one of the WINDOW clause.
func partitionOf(w *pg.WindowDef, named []*pg.Node) []*pg.Node {
	for range len(named) + 1 {
		name := w.GetRefname()
		if len(w.GetPartitionClause()) == 0 && name == "" {
			name = w.GetName()
		}
		at := slices.IndexFunc(named, func(n *pg.Node) bool { return n.GetWindowDef() != w && n.GetWindowDef().GetName() == name })
		if name == "" || at < 0 {
			break
		}
		w = named[at].GetWindowDef()
	}
	return w.GetPartitionClause()
}

// distinctKeys returns the columns that a SELECT is DISTINCT ON.
func (a *analyzer) distinctKeys(sel *pg.SelectStmt, l *level) []ref {
	var keys []ref
	for _, node := range sel.GetDistinctClause() {
		keys = append(keys, a.sortColumn(sel, l, node).refs...)
	}
	return keys
}

// groupKeys returns the columns that rows are grouped by; none where they are grouped by several sets.
func (a *analyzer) groupKeys(sel *pg.SelectStmt, l *level) (keys []ref, sets bool) {
	for _, node := range sel.GetGroupClause() {
		if node.GetGroupingSet() != nil {
			return nil, true
		}
		if column := a.groupedBy(sel, l, node).GetColumnRef(); column != nil {
			keys = append(keys, a.resolve(l, column.GetFields()).refs...)
		}
	}
	return keys, false
}

// groupedBy returns the expression that an item of GROUP BY stands for: a number is that of an output column, and a name is one of an
// output column where the FROM clause certainly has no such column.
func (a *analyzer) groupedBy(sel *pg.SelectStmt, l *level, node *pg.Node) *pg.Node {
	targets := sel.GetTargetList()
	star := slices.ContainsFunc(targets, func(t *pg.Node) bool {
		return isStar(t.GetResTarget().GetVal().GetColumnRef().GetFields()) || expands(t.GetResTarget().GetVal())
	})
	if at := node.GetAConst().GetIval(); at != nil && !star && int(at.GetIval()) <= len(targets) && at.GetIval() > 0 {
		return targets[at.GetIval()-1].GetResTarget().GetVal()
	}
	fields := node.GetColumnRef().GetFields()
	if len(fields) != 1 || star || l.hidden || !a.lacks(l, fields[0].GetString_().GetSval()) {
		return node
	}
	for _, t := range targets {
		if t.GetResTarget().GetName() == fields[0].GetString_().GetSval() {
			return t.GetResTarget().GetVal() // of several PostgreSQL takes none
		}
	}
	return node
}

// keep returns the operand's columns that are grouping keys. A function of a column that an output column is, is one of what the rows are
// grouped by: PostgreSQL takes no other.
func (s shape) keep(o operand) operand {
	if !s.grouped || o.fn != nil && !s.sets {
		return o
	}
	return o.among(s.keys)
}

// outer returns the operand's columns on which a condition on the SELECT's rows is one on those of its FROM clause.
func (s shape) outer(o operand) operand {
	o = s.keep(o)
	for _, keys := range s.parts {
		o = o.among(keys)
	}
	return o
}

func (o operand) among(keys []ref) operand {
	out := operand{cast: o.cast, fn: o.fn}
	for _, r := range o.refs {
		if slices.Contains(keys, r) {
			out.refs = append(out.refs, r)
		}
	}
	return out
}

// plainSelect analyses a SELECT that is not a set operation.
func (a *analyzer) plainSelect(it *item, quals []*pred, lim *limit) {
	sel := it.sub
	l := a.levelOf(it)
	env := a.innerOf(it)
	a.fromSubqueries(env, sel.GetFromClause()...)
	s := a.shapeOf(sel, l)
	all := a.conjuncts(l, sel.GetWhereClause())
	scans, lost := len(a.scans), s.blocked && a.mention(quals, it)
	if !s.blocked {
		for _, q := range quals {
			all = append(all, q.rewrite(func(r ref) operand {
				if r.item != it {
					return operand{refs: []ref{r}}
				}
				out := a.output(it, r.col)
				if len(out.refs) == 0 {
					out = a.computed(it, r.col)
				}
				kept := s.outer(out)
				lost = lost || len(s.parts) > 0 && len(kept.refs) == 0 && a.bounds(out)
				return kept
			}))
		}
	}
	if s.grouped && sel.GetHavingClause() != nil {
		for _, q := range a.conjuncts(l, sel.GetHavingClause()) {
			all = append(all, q.rewrite(func(r ref) operand { return s.keep(operand{refs: []ref{r}}) }))
		}
	}
	if edges := a.edgesOf(it, l, s); edges != nil {
		lim = edges
	} else {
		lim = a.limitOf(it, l, s, lim)
	}
	for _, f := range l.from {
		if len(l.items) != 1 {
			lim = nil
		}
		a.spread(l, f, all, lim)
	}
	a.barrier = a.barrier || lost && len(a.scans) > scans
}

// bounds reports whether a condition on an operand may bound a scan.
func (a *analyzer) bounds(o operand) bool {
	return slices.ContainsFunc(o.refs, func(r ref) bool {
		from, ok := a.origins(r, 0)
		return ok && slices.ContainsFunc(from, func(o origin) bool { return !o.made() && slices.Contains(ohlcvColumns[:3], o.col) })
	})
}

// limitOf returns the LIMIT that applies to the rows of the only item of the FROM clause, if there is one.
func (a *analyzer) limitOf(it *item, l *level, s shape, outer *limit) *limit {
	sel := it.sub
	if !s.plain || len(l.items) != 1 {
		return nil
	}
	if !limited(sel) {
		if outer == nil {
			return nil
		}
		down := &limit{count: outer.count, offset: outer.offset, perSeries: outer.perSeries, ends: outer.ends}
		for _, k := range outer.keys {
			by := k.by.rewrite(func(r ref) operand {
				if r.item == it {
					return a.output(it, r.col)
				}
				return operand{}
			})
			down.keys = append(down.keys, sortKey{by, k.desc})
		}
		if len(outer.keys) == 0 && !outer.perSeries {
			down.keys = a.sortKeys(sel, l) // SQL promises nothing, but PostgreSQL keeps the order of the subquery
		}
		return down
	}
	if sel.GetLimitOption() == pg.LimitOption_LIMIT_OPTION_WITH_TIES || sel.GetLimitCount() == nil {
		return nil
	}
	return &limit{count: sel.GetLimitCount(), offset: sel.GetLimitOffset(), keys: a.sortKeys(sel, l)}
}

// sortKeys returns what a SELECT's rows are ordered by.
func (a *analyzer) sortKeys(sel *pg.SelectStmt, l *level) []sortKey {
	var keys []sortKey
	for _, node := range sel.GetSortClause() {
		sort := node.GetSortBy()
		key := sortKey{by: a.sortColumn(sel, l, sort.GetNode()), desc: sort.GetSortbyDir() == pg.SortByDir_SORTBY_DESC}
		if sort.GetSortbyDir() == pg.SortByDir_SORTBY_USING {
			key.by = operand{}
		}
		keys = append(keys, key)
	}
	return keys
}

// sortColumn resolves an ORDER BY item: a number or a name of an output column goes before a column of the FROM clause.
func (a *analyzer) sortColumn(sel *pg.SelectStmt, l *level, node *pg.Node) operand {
	targets := sel.GetTargetList()
	if at := node.GetAConst().GetIval(); at != nil {
		for _, t := range targets {
			if isStar(t.GetResTarget().GetVal().GetColumnRef().GetFields()) || expands(t.GetResTarget().GetVal()) {
				return operand{}
			}
		}
		if n := int(at.GetIval()); n >= 1 && n <= len(targets) {
			return a.resolve(l, targets[n-1].GetResTarget().GetVal().GetColumnRef().GetFields())
		}
		return operand{}
	}
	fields := node.GetColumnRef().GetFields()
	if slices.ContainsFunc(targets, func(t *pg.Node) bool { return expands(t.GetResTarget().GetVal()) }) {
		return operand{}
	}
	if len(fields) == 1 {
		name := fields[0].GetString_().GetSval()
		for _, t := range targets {
			target := t.GetResTarget()
			if target.GetName() == name || (target.GetName() == "" && mayBeNamed(target.GetVal(), name)) {
				return a.resolve(l, target.GetVal().GetColumnRef().GetFields())
			}
		}
	}
	return a.resolve(l, fields)
}

// mayBeNamed reports whether PostgreSQL may give that name to an output column without AS: the name of the column below
// casts, collations, fields and the ELSE of a CASE, or that of a function. A column itself is left to resolve.
func mayBeNamed(node *pg.Node, name string) bool {
	switch n := node.GetNode().(type) {
	case *pg.Node_TypeCast:
		return lastName(n.TypeCast.GetTypeName().GetNames()) == name || mayHide(n.TypeCast.GetArg(), name)
	case *pg.Node_CollateClause:
		return mayHide(n.CollateClause.GetArg(), name)
	case *pg.Node_CaseExpr:
		return mayHide(n.CaseExpr.GetDefresult(), name)
	case *pg.Node_AIndirection:
		return lastName(n.AIndirection.GetIndirection()) == name || mayHide(n.AIndirection.GetArg(), name)
	case *pg.Node_FuncCall:
		return lastName(n.FuncCall.GetFuncname()) == name
	case *pg.Node_SubLink:
		targets := n.SubLink.GetSubselect().GetSelectStmt().GetTargetList()
		return len(targets) != 1 || targets[0].GetResTarget().GetName() == name || mayHide(targets[0].GetResTarget().GetVal(), name)
	}
	return false
}

// mayHide is mayBeNamed for what stands inside of another expression.
func mayHide(node *pg.Node, name string) bool {
	return lastName(node.GetColumnRef().GetFields()) == name || mayBeNamed(node, name)
}

func lastName(names []*pg.Node) string {
	for _, n := range slices.Backward(names) {
		if s := n.GetString_(); s != nil {
			return s.GetSval()
		}
	}
	return ""
}
