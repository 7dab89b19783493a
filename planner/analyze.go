package planner

import (
	"slices"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
)

// scan is one read of ohlcv by a statement, with all that a row must satisfy to matter to it.
type scan struct {
	item  *item
	quals []*pred
	limit *limit
	links []link
	// asks says that the database has to decide a condition on symbol, and names that there is one that is decided by it or here.
	asks, names bool
}

// limit is a LIMIT with nothing but filters between it and the scan it is attached to (PLANNER 17).
type limit struct {
	count, offset *pg.Node
	keys          []sortKey
	// perSeries says that it is one of each series, and ends of which end, where keys do not say.
	perSeries bool
	ends      ends
}

type sortKey struct {
	by   operand
	desc bool
}

// analyzer finds the scans of one statement.
type analyzer struct {
	catalog *Catalog
	created map[string]bool // relations and functions that the text itself has made
	scans   []*scan
	seen    map[*pg.RangeVar]bool
	withs   map[withKey]*cte
	ctes    map[string]bool // all names that WITH clauses define
	trees   []proto.Message // definitions of views, put in their places
	opaque  []string        // why the statement cannot be seen through
	targets []string        // relations that are written, as SQL writes them
	// questions are the subqueries that columns are compared with.
	questions map[*pg.SubLink]*question
	barrier   bool
	budget    int
	depth     int
}

type withKey struct {
	clause *pg.WithClause
	outer  *cte
}

const (
	maxBudget = 200_000
	maxDepth  = 200
)

func newAnalyzer(c *Catalog, created map[string]bool) *analyzer {
	return &analyzer{
		catalog: c, created: created, seen: map[*pg.RangeVar]bool{}, withs: map[withKey]*cte{}, ctes: map[string]bool{}, budget: maxBudget,
		questions: map[*pg.SubLink]*question{},
	}
}

// spend counts work, so that no statement can keep the planner busy for long.
func (a *analyzer) spend() bool {
	a.budget--
	if a.budget == 0 {
		a.hide("it is too large")
	}
	return a.budget > 0
}

func (a *analyzer) hide(why string) { a.opaque = append(a.opaque, why) }

const ohlcvName = "ohlcv"

// isOurs reports whether a relation's name may mean ohlcv (PLANNER 6: in doubt it does).
func isOurs(rv *pg.RangeVar) bool {
	return rv.GetRelname() == ohlcvName && rv.GetSchemaname() != "pg_catalog" && rv.GetSchemaname() != "information_schema"
}

// ours is isOurs but for what is another table for certain.
func (a *analyzer) ours(rv *pg.RangeVar) bool { return isOurs(rv) && !a.catalog.another(rv) }

// another reports whether a qualified name is that of another table named ohlcv, which has nothing to do with it.
func (c *Catalog) another(rv *pg.RangeVar) bool {
	if c == nil || rv.GetCatalogname() != "" {
		return false
	}
	_, other := c.Others[rv.GetSchemaname()]
	return other
}

// alone returns the catalog for a text of so many statements: one of them may give names another meaning for those behind it.
func (c *Catalog) alone(statements int) *Catalog {
	if c == nil || c.Others == nil || statements == 1 {
		return c
	}
	out := *c
	out.Others = nil
	return &out
}

func (a *analyzer) inClosure(name string) bool {
	if a.created[strings.ToLower(name)] {
		return true
	}
	if a.catalog == nil {
		return false
	}
	_, ok := a.catalog.Names[strings.ToLower(name)]
	return ok
}

// readsOurs reports whether reading a relation of that name may read ohlcv.
func (a *analyzer) readsOurs(name string) bool {
	if !a.inClosure(name) {
		return false
	}
	name = strings.ToLower(name)
	if a.created[name] || a.catalog == nil {
		return true
	}
	_, only := a.catalog.Written[name]
	return !only
}

// with returns what a query with this WITH clause sees.
func (a *analyzer) with(clause *pg.WithClause, outer *cte) *cte {
	if clause == nil {
		return outer
	}
	key := withKey{clause, outer}
	if found, ok := a.withs[key]; ok {
		return found
	}
	env := outer
	for _, node := range clause.GetCtes() {
		def := node.GetCommonTableExpr()
		a.ctes[def.GetCtename()] = true
		entry := &cte{name: def.GetCtename(), sees: env, next: env, recursive: clause.GetRecursive(), def: def}
		for _, col := range def.GetAliascolnames() {
			entry.columns = append(entry.columns, col.GetString_().GetSval())
		}
		if !clause.GetRecursive() && def.GetSearchClause() == nil && def.GetCycleClause() == nil {
			entry.query = def.GetCtequery().GetSelectStmt()
		}
		env = entry
	}
	a.withs[key] = env
	return env
}

// withBodies analyses what a WITH clause runs by itself: statements that write, and recursive queries. A plain SELECT is
// analysed where it is referred to; where it is not, it does not run.
func (a *analyzer) withBodies(clause *pg.WithClause, outer *cte) {
	env := a.with(clause, outer)
	for i, node := range clause.GetCtes() {
		def := node.GetCommonTableExpr()
		entry := env
		for range len(clause.GetCtes()) - 1 - i {
			entry = entry.next
		}
		switch {
		case entry.recursive:
			a.query(def.GetCtequery(), env)
		case entry.query == nil:
			a.query(def.GetCtequery(), entry.sees)
		default:
			a.markSeen(def.GetCtequery())
		}
	}
}

// markSeen accepts the relations below a node that is not run where it stands.
func (a *analyzer) markSeen(node proto.Message) {
	walk(node, func(m proto.Message) bool {
		if rv, ok := m.(*pg.RangeVar); ok {
			a.seen[rv] = true
		}
		return true
	})
}

// innerOf returns what the FROM clause of an item's subquery sees.
func (a *analyzer) innerOf(it *item) *cte {
	if it.inner == nil {
		it.inner = a.with(it.sub.GetWithClause(), it.ctes)
	}
	return it.inner
}

// levelOf returns the FROM clause of an item's subquery, made once.
func (a *analyzer) levelOf(it *item) *level {
	if it.level == nil && it.sub != nil {
		it.level = a.newLevel(it.sub.GetFromClause(), a.innerOf(it), it.parent)
	}
	return it.level
}

func (a *analyzer) newLevel(clause []*pg.Node, env *cte, parent *level) *level {
	l := &level{merged: map[string]bool{}, parent: parent, within: env}
	for _, node := range clause {
		l.from = append(l.from, a.fromNode(l, node, env))
	}
	return l
}

func (a *analyzer) fromNode(l *level, node *pg.Node, env *cte) *source {
	a.depth++
	if a.depth > maxDepth {
		a.hide("it is nested too deeply")
		a.depth--
		return &source{item: &item{opaque: true}}
	}
	defer func() { a.depth-- }()
	var it *item
	switch n := node.GetNode().(type) {
	case *pg.Node_JoinExpr:
		return a.joinNode(l, n.JoinExpr, env)
	case *pg.Node_RangeVar:
		it = a.relation(n.RangeVar, env)
	case *pg.Node_RangeTableSample:
		it = a.relation(n.RangeTableSample.GetRelation().GetRangeVar(), env)
		it.sampled = true
	case *pg.Node_RangeSubselect:
		it = &item{sub: n.RangeSubselect.GetSubquery().GetSelectStmt(), ctes: env, parent: l.parent}
		if n.RangeSubselect.GetLateral() {
			it.parent = l.soFar()
		}
		it.name(n.RangeSubselect.GetAlias(), "")
	case *pg.Node_RangeFunction:
		it = functionItem(n.RangeFunction)
	default:
		it = &item{opaque: true}
	}
	it.place(node, l)
	l.items = append(l.items, it)
	return &source{item: it}
}

func (it *item) name(alias *pg.Alias, fallback string) {
	it.alias = fallback
	if alias == nil {
		return
	}
	it.alias = alias.GetAliasname()
	for i, col := range alias.GetColnames() {
		if i < len(it.columns) {
			it.columns[i] = col.GetString_().GetSval()
			continue
		}
		it.columns = append(it.columns, col.GetString_().GetSval())
	}
}

func (a *analyzer) joinNode(l *level, j *pg.JoinExpr, env *cte) *source {
	start := len(l.items)
	f := &source{join: j, kind: j.GetJointype()}
	f.left = a.fromNode(l, j.GetLarg(), env)
	f.right = a.fromNode(l, j.GetRarg(), env)
	for _, side := range f.nullable() {
		for _, it := range side.items() {
			it.nullable = true
		}
	}
	if j.GetJointype() != pg.JoinType_JOIN_INNER {
		l.outer = true
	}
	l.joined = l.joined || j.GetIsNatural()
	l.hidden = l.hidden || j.GetJoinUsingAlias() != nil
	for _, col := range j.GetUsingClause() {
		l.merged[col.GetString_().GetSval()] = true
	}
	if alias := j.GetAlias(); alias != nil {
		for _, it := range l.items[start:] {
			it.alias = ""
		}
		l.hidden = l.hidden || len(alias.GetColnames()) > 0
	}
	return f
}

// relation finds what a name in a FROM clause means: a CTE, ohlcv, a view over it, or another relation.
func (a *analyzer) relation(rv *pg.RangeVar, env *cte) *item {
	a.seen[rv] = true
	it := &item{}
	name := rv.GetRelname()
	bare := rv.GetSchemaname() == ""
	if c := env.find(name); bare && c != nil {
		it.columns = append(it.columns, c.columns...)
		it.sub, it.ctes, it.opaque = c.query, c.sees, c.query == nil
		it.name(rv.GetAlias(), name)
		return it
	}
	it.name(rv.GetAlias(), name)
	switch {
	case isOurs(rv) && rv.GetSchemaname() != "public" && a.inClosure(ohlcvName):
		it.opaque = true
		a.hide("there is another relation named ohlcv, through which the table may be read")
	case a.ours(rv):
		it.scan, it.bare = true, bare
		if len(it.columns) > len(ohlcvColumns) {
			it.opaque = true
		}
	case a.readsOurs(name):
		it.opaque = true
		if sub := a.view(rv); sub != nil {
			it.sub, it.opaque, it.ctes = sub, false, viewScope
		}
	default:
		it.opaque = true
	}
	return it
}

// view returns the query of a plain view over ohlcv, nil where it is not known; the statement is opaque then.
func (a *analyzer) view(rv *pg.RangeVar) *pg.SelectStmt {
	name := strings.ToLower(rv.GetRelname())
	sql, ok := "", false
	if a.catalog != nil && !a.created[name] {
		sql, ok = a.catalog.Views[name]
	}
	if ok && a.spend() && len(a.trees) < maxViews && checkText(sql) == nil {
		if tree, err := pg.Parse(sql); err == nil && len(tree.GetStmts()) == 1 {
			if sel := tree.GetStmts()[0].GetStmt().GetSelectStmt(); sel != nil {
				qualify(sel)
				a.trees = append(a.trees, tree)
				return sel
			}
		}
	}
	a.hide("it reads " + rv.GetRelname() + ", through which ohlcv may be read")
	return nil
}

const maxViews = 200

// qualify makes every ohlcv in a view's definition the table itself: it was resolved when the view was made, whatever
// the session's search_path is.
func qualify(sel *pg.SelectStmt) {
	walk(sel, func(m proto.Message) bool {
		if rv, ok := m.(*pg.RangeVar); ok && rv.GetRelname() == ohlcvName && rv.GetSchemaname() == "" {
			rv.Schemaname = "public"
		}
		return true
	})
}

// spread hands the conditions on a FROM clause's rows down to its items (PLANNER 12 and 16).
func (a *analyzer) spread(l *level, f *source, quals []*pred, lim *limit) {
	if f.item != nil {
		a.visit(f.item, quals, lim)
		return
	}
	on := a.joinCondition(l, f)
	left, right := rejectsNull(quals, f.left.items()), rejectsNull(quals, f.right.items())
	kind := f.kind
	switch {
	case kind == pg.JoinType_JOIN_LEFT && right, kind == pg.JoinType_JOIN_RIGHT && left,
		kind == pg.JoinType_JOIN_FULL && left && right:
		kind = pg.JoinType_JOIN_INNER
	case kind == pg.JoinType_JOIN_FULL && left:
		kind = pg.JoinType_JOIN_LEFT
	case kind == pg.JoinType_JOIN_FULL && right:
		kind = pg.JoinType_JOIN_RIGHT
	}
	var toLeft, toRight []*pred
	switch kind {
	case pg.JoinType_JOIN_INNER:
		toLeft = append(append(toLeft, quals...), on...)
		toRight = toLeft
	case pg.JoinType_JOIN_LEFT:
		toLeft, toRight = quals, append(slices.Clip(on), only(quals, f.left.items())...)
	case pg.JoinType_JOIN_RIGHT:
		toLeft, toRight = append(slices.Clip(on), only(quals, f.right.items())...), quals
	default: // FULL: a row of either side appears whatever the conditions say
	}
	a.spread(l, f.left, toLeft, nil)
	a.spread(l, f.right, toRight, nil)
}

// rejectsNull reports whether no row passes in which all columns of the items are null.
func rejectsNull(quals []*pred, items []*item) bool {
	null := make(map[*item]bool, len(items))
	for _, it := range items {
		null[it] = true
	}
	for _, q := range quals {
		if q.whenNull(null)&mayTrue == 0 {
			return true
		}
	}
	return false
}

// joinCondition compiles ON, USING and NATURAL.
func (a *analyzer) joinCondition(l *level, f *source) []*pred {
	seen := *l // ON sees the two sides of its join, and what is around the level
	seen.items = f.items()
	on := a.conjuncts(&seen, f.join.GetQuals())
	columns := f.join.GetUsingClause()
	for _, node := range columns {
		on = append(on, a.joinColumn(l, f, node.GetString_().GetSval()))
	}
	if f.join.GetIsNatural() {
		for _, col := range ohlcvColumns[:3] {
			on = append(on, a.joinColumn(l, f, col))
		}
	}
	return on
}

// joinColumn is left.col = right.col, where both are known: one item of each side has the column, and no other may have it.
func (a *analyzer) joinColumn(l *level, f *source, col string) *pred {
	one := func(side *source) operand {
		for !l.hidden && side.merges(col) && side.kind != pg.JoinType_JOIN_FULL {
			// The merged column is that of the side whose rows are all there, as is that of an inner join's left.
			if side.kind == pg.JoinType_JOIN_RIGHT {
				side = side.right
			} else {
				side = side.left
			}
		}
		items := side.items()
		var found operand
		if len(items) == 1 && items[0].askable() && !l.hidden {
			return operand{refs: []ref{{items[0], col}}}
		}
		for _, it := range items {
			switch {
			case a.has(it, col):
				found.refs = append(found.refs, ref{it, col})
			case l.hidden || !a.lacks(&level{items: []*item{it}}, col):
				return operand{}
			}
		}
		if len(found.refs) != 1 {
			return operand{}
		}
		return found
	}
	left, right := one(f.left), one(f.right)
	if len(left.refs) == 0 || len(right.refs) == 0 {
		return unknownPred()
	}
	return &pred{kind: predCompare, op: "=", left: left, right: right}
}

// visit analyses an item whose rows matter only where quals may be true.
func (a *analyzer) visit(it *item, quals []*pred, lim *limit) {
	switch {
	case it.scan && it.opaque:
		a.scans = append(a.scans, &scan{item: it})
	case it.scan:
		if len(it.columns) > 0 {
			quals = renameColumns(it, quals)
			lim = nil
		}
		a.scans = append(a.scans, &scan{item: it, quals: quals, limit: lim})
	case it.sub != nil:
		a.selectItem(it, quals, lim)
	}
}

// renameColumns puts the columns' own names in place of those that an alias gives them.
func renameColumns(it *item, quals []*pred) []*pred {
	out := make([]*pred, len(quals))
	for i, q := range quals {
		out[i] = q.rewrite(func(r ref) operand {
			if r.item != it {
				return operand{refs: []ref{r}}
			}
			for at, name := range renamed(it) {
				if name == r.col {
					return operand{refs: []ref{{it, ohlcvColumns[at]}}}
				}
			}
			return operand{}
		})
	}
	return out
}
