package planner

import (
	"maps"
	"slices"

	pg "github.com/pganalyze/pg_query_go/v6"
)

// item is one entry of a FROM clause: a scan of ohlcv, a subquery (or a CTE or view in its place), or another relation.
type item struct {
	alias   string   // empty where the item cannot be named from outside
	columns []string // the names given in the alias, by position
	opaque  bool     // its columns cannot be resolved by name
	scan    bool
	bare    bool // an unqualified name: ours unless Env.Hidden
	sampled bool // TABLESAMPLE
	// nullable says that a row of it may be lacking, above an outer join.
	nullable bool
	sub      *pg.SelectStmt
	ctes     *cte // what the subquery sees
	level    *level
	inner    *cte // what the subquery's own FROM clause sees
	// parent is where names are looked for that the subquery's own FROM clause does not have; nil where that is not known.
	parent *level
	// series is the call of generate_series that the item is.
	series *pg.FuncCall
	// node is the item as it stands in the FROM clause of home, nil where it cannot be asked by itself.
	node *pg.Node
	home *level
	// branches are the sides of a set operation; see branchesOf.
	branches []*item
}

// cte is a list of what WITH clauses define, innermost first.
type cte struct {
	name      string
	query     *pg.SelectStmt // nil where the body was analysed by itself: its rows are not followed
	columns   []string
	sees      *cte // what the body sees
	next      *cte
	recursive bool
	def       *pg.CommonTableExpr
}

// viewScope is what the definition of a view sees: nothing of the statement.
var viewScope = &cte{} //nolint:gochecknoglobals // a mark

// inView reports whether what sees this is part of a view's definition.
func (c *cte) inView() bool {
	for ; c != nil; c = c.next {
		if c == viewScope {
			return true
		}
	}
	return false
}

func (c *cte) find(name string) *cte {
	for ; c != nil; c = c.next {
		if c.name == name {
			return c
		}
	}
	return nil
}

// source is a node of a FROM clause: an item, or a join of two.
type source struct {
	item        *item
	left, right *source
	join        *pg.JoinExpr
	kind        pg.JoinType
}

func (f *source) items() []*item {
	if f.item != nil {
		return []*item{f.item}
	}
	return append(f.left.items(), f.right.items()...)
}

// merges reports whether the node is a join that merges the columns of that name, and is not given another name.
func (f *source) merges(col string) bool {
	return f.item == nil && slices.ContainsFunc(f.join.GetUsingClause(), func(n *pg.Node) bool { return n.GetString_().GetSval() == col })
}

// nullable returns the sides of a join of which a row may lack.
func (f *source) nullable() []*source {
	switch f.kind {
	case pg.JoinType_JOIN_LEFT:
		return []*source{f.right}
	case pg.JoinType_JOIN_RIGHT:
		return []*source{f.left}
	case pg.JoinType_JOIN_FULL:
		return []*source{f.left, f.right}
	default:
		return nil
	}
}

// level is one SELECT's FROM clause, as names are resolved in it.
type level struct {
	items  []*item
	from   []*source
	merged map[string]bool // columns joined by USING
	joined bool            // NATURAL: any column may be merged
	outer  bool            // an outer join
	hidden bool            // a join's alias renames columns: nothing is resolved
	parent *level          // of a subquery: the level whose columns it may name
	within *cte            // what subqueries in its expressions see
}

// soFar returns the level as a LATERAL item sees it: with what stands before it.
func (l *level) soFar() *level {
	seen := *l
	seen.items, seen.merged = slices.Clone(l.items), maps.Clone(l.merged)
	return &seen
}

// resolve returns the column that a name means. It has no refs where that is not certain.
func (a *analyzer) resolve(l *level, fields []*pg.Node) operand {
	names := make([]string, 0, len(fields))
	for _, f := range fields {
		s := f.GetString_()
		if s == nil {
			return operand{}
		}
		names = append(names, s.GetSval())
	}
	if len(names) == 0 {
		return operand{}
	}
	col := names[len(names)-1]
	for ; l != nil && !l.hidden; l = l.parent {
		switch {
		case len(names) == 1 && !a.lacks(l, col):
			return a.resolveBare(l, col)
		case len(names) > 1 && !l.lacksAlias(names[len(names)-2]):
			return a.resolveIn(l, names[len(names)-2], col)
		}
	}
	return operand{}
}

// lacks reports whether certainly no item of the level has a column of that name.
func (a *analyzer) lacks(l *level, col string) bool {
	for _, it := range l.items {
		if columns, ok := a.itemColumns(it); !ok || slices.Contains(columns, col) || slices.Contains(columns, "") {
			return false
		}
	}
	return true
}

// lacksAlias reports whether certainly no item of the level has that alias.
func (l *level) lacksAlias(alias string) bool {
	return !slices.ContainsFunc(l.items, func(it *item) bool { return it.alias == "" || it.alias == alias })
}

// resolveIn returns alias.col, if one item only has that alias.
func (a *analyzer) resolveIn(l *level, alias, col string) operand {
	var found operand
	matches := 0
	for _, it := range l.items {
		if it.alias != "" && it.alias == alias {
			matches++
			if a.has(it, col) || it.askable() {
				found = operand{refs: []ref{{it, col}}}
			}
		}
	}
	if matches != 1 || l.hidden {
		return operand{}
	}
	return found
}

func (a *analyzer) resolveBare(l *level, col string) operand {
	var refs []ref
	for _, it := range l.items {
		if a.has(it, col) {
			refs = append(refs, ref{it, col})
		}
	}
	if len(refs) == 0 {
		if it := a.askedBare(l, col); it != nil {
			return operand{refs: []ref{{it, col}}}
		}
	}
	switch {
	case (l.merged[col] || l.joined) && a.folds(operand{refs: refs}, a.columnsOf(l, col)...):
		return operand{}
	case len(refs) <= 1:
		if len(refs) == 1 && l.outer && (l.merged[col] || l.joined) {
			return operand{} // may be merged with a column that is not known here
		}
		return operand{refs: refs}
	case l.outer || (!l.merged[col] && !l.joined):
		return operand{} // PostgreSQL calls it ambiguous, or it is one of several
	}
	// The column has the type that all have in common, which need not be that of one that is computed.
	return operand{refs: slices.DeleteFunc(refs, func(r ref) bool {
		k, _ := a.computedKind(operand{refs: []ref{r}})
		return k != kindOpaque
	})}
}

// columnsOf returns the columns of that name that the items of the level may have.
func (a *analyzer) columnsOf(l *level, col string) []ref {
	var list []ref
	for _, it := range l.items {
		if !a.lacks(&level{items: []*item{it}}, col) {
			list = append(list, ref{it, col})
		}
	}
	return list
}

// has reports whether the item certainly has a column of that name.
func (a *analyzer) has(it *item, col string) bool {
	if it.opaque {
		return false
	}
	switch {
	case it.scan:
		return slices.Contains(renamed(it), col)
	case it.series != nil:
		return it.columns[0] == col
	case it.sub == nil:
		return false
	}
	return len(a.output(it, col).refs) > 0 || len(a.computed(it, col).refs) > 0
}

// renamed returns the names of a scan's columns, in order.
func renamed(it *item) []string {
	if len(it.columns) == 0 {
		return ohlcvColumns
	}
	out := slices.Clone(ohlcvColumns)
	copy(out, it.columns)
	return out
}

// output returns what a subquery's column is in terms of the subquery's own FROM items; no refs where that is not known.
func (a *analyzer) output(it *item, col string) operand {
	if !a.spend() {
		return operand{}
	}
	if it.sub.GetOp() != pg.SetOperation_SETOP_NONE {
		// The columns have the names of the leftmost SELECT's; what they are differs by branch.
		at := a.position(it, col)
		if at < 0 {
			return operand{}
		}
		return operand{refs: []ref{{it, col}}}
	}
	if _, made := a.madeColumn(it, col); made || extreme(it, col) != nil {
		return operand{refs: []ref{{it, col}}}
	}
	l := a.levelOf(it)
	if l == nil {
		return operand{}
	}
	if len(it.columns) > 0 {
		at := slices.Index(it.columns, col)
		outputs, ok := a.outputs(it.sub, l)
		if at < 0 || !ok || at >= len(outputs) || len(it.columns) != len(outputs) {
			return operand{}
		}
		return outputs[at].is
	}
	var found operand
	matches := 0
	star := false
	for _, target := range it.sub.GetTargetList() {
		t := target.GetResTarget()
		if expands(t.GetVal()) {
			return operand{}
		}
		fields := t.GetVal().GetColumnRef().GetFields()
		if isStar(fields) {
			star = true
			if got := a.starColumn(l, fields, col); len(got.refs) > 0 {
				found = got
				matches++
			}
			continue
		}
		if targetName(t) == col {
			found = a.resolve(l, fields)
			matches++
		}
	}
	if matches != 1 || (star && len(found.refs) == 0) {
		return operand{}
	}
	return found
}

func isStar(fields []*pg.Node) bool {
	return len(fields) > 0 && fields[len(fields)-1].GetAStar() != nil
}

// expands reports whether an expression is (row).*, which stands for columns that are not known.
func expands(node *pg.Node) bool {
	list := node.GetAIndirection().GetIndirection()
	return len(list) > 0 && list[len(list)-1].GetAStar() != nil
}

// targetName returns the name of an output column, empty where it is not certain.
func targetName(t *pg.ResTarget) string {
	if t.GetName() != "" {
		return t.GetName()
	}
	fields := t.GetVal().GetColumnRef().GetFields()
	if len(fields) == 0 {
		return ""
	}
	return fields[len(fields)-1].GetString_().GetSval()
}

// starColumn returns what the column of that name among those of * or alias.* is.
func (a *analyzer) starColumn(l *level, fields []*pg.Node, col string) operand {
	if l.hidden {
		return operand{}
	}
	if len(fields) == 1 {
		return a.resolveBare(l, col)
	}
	return a.resolveIn(l, fields[len(fields)-2].GetString_().GetSval(), col)
}

type output struct {
	name string
	is   operand
}

// outputs lists the output columns of a SELECT in order; false where * stands for columns that are not known.
func (a *analyzer) outputs(sel *pg.SelectStmt, l *level) ([]output, bool) {
	var list []output
	for _, target := range sel.GetTargetList() {
		t := target.GetResTarget()
		if expands(t.GetVal()) {
			return nil, false
		}
		fields := t.GetVal().GetColumnRef().GetFields()
		if !isStar(fields) {
			list = append(list, output{targetName(t), a.resolve(l, fields)})
			continue
		}
		if l.hidden || l.joined || len(l.merged) > 0 {
			return nil, false
		}
		for _, it := range l.items {
			if len(fields) > 1 && it.alias != fields[len(fields)-2].GetString_().GetSval() {
				continue
			}
			columns, ok := a.itemColumns(it)
			if !ok {
				return nil, false
			}
			for _, col := range columns {
				list = append(list, output{col, operand{refs: []ref{{it, col}}}})
			}
		}
	}
	return list, true
}

func (a *analyzer) itemColumns(it *item) ([]string, bool) {
	switch {
	case it.opaque:
		return nil, false
	case it.scan:
		return renamed(it), true
	case it.series != nil:
		return it.columns, true
	case it.sub == nil:
		return nil, false
	case len(it.sub.GetValuesLists()) > 0:
		return valueNames(it), true
	}
	leaf := a.leftmost(it)
	if len(leaf.sub.GetValuesLists()) > 0 {
		return rename(valueNames(leaf), it.columns)
	}
	l := a.levelOf(leaf)
	if l == nil {
		return nil, false
	}
	list, ok := a.outputs(leaf.sub, l)
	columns := make([]string, 0, len(list))
	for _, o := range list {
		columns = append(columns, o.name)
	}
	if !ok {
		return nil, false
	}
	return rename(columns, it.columns)
}

// rename puts the names that an alias gives in place of the first columns; false where there are more of them.
func rename(columns, names []string) ([]string, bool) {
	if len(names) > len(columns) {
		return nil, false
	}
	return append(slices.Clone(names), columns[len(names):]...), true
}

// leftmost returns the SELECT that names a set operation's columns.
func (a *analyzer) leftmost(it *item) *item {
	for it.sub.GetOp() != pg.SetOperation_SETOP_NONE {
		it = &item{sub: it.sub.GetLarg(), ctes: a.innerOf(it)}
	}
	return it
}

// position returns the place of a column of a set operation, -1 where it is not certain.
func (a *analyzer) position(it *item, col string) int {
	columns, ok := a.itemColumns(&item{sub: it.sub, ctes: it.ctes, inner: it.inner})
	if !ok {
		return -1
	}
	if len(it.columns) > 0 {
		if len(it.columns) != len(columns) {
			return -1
		}
		columns = it.columns
	}
	at := slices.Index(columns, col)
	if at >= 0 && slices.Contains(columns[at+1:], col) {
		return -1
	}
	return at
}
