package planner

import (
	"maps"
	"slices"
	"strings"
	"sync"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
)

// statement is one statement of a text, analysed.
type statement struct {
	scans []*scan
	// opaque says why the statement cannot be seen through; empty where it can.
	opaque []string
	// writes says that ohlcv itself is written.
	writes, writesQualified bool
	// changes says that the statement may change what names mean: a definition.
	changes bool
	// symbolic reports whether a condition may depend on a symbol, so that reading all symbols is not what was asked for; and whether one
	// may whose symbols are not known.
	symbolic func() (mentions, strange bool)
	// trees are the statement's and those of the views that it reads.
	trees []proto.Message
	// created are the relations and functions that the text has made.
	created map[string]bool
	barrier bool
	// questions are the subqueries that columns are compared with.
	questions map[*pg.SubLink]*question
	// targets are the relations that are written, as SQL writes them.
	targets []string
	execute *pg.ExecuteStmt
	prepare *Prepared
	// deallocates is set for DEALLOCATE and DISCARD ALL.
	deallocates *Naming
	// set is what the statement does to the settings that later statements of the text depend on.
	set *pg.VariableSetStmt
	// configs are what its calls of set_config do.
	configs []change
	// transaction is set where the statement begins or ends a transaction or a savepoint.
	transaction *pg.TransactionStmt
	// cursor says that it is executed by later statements, and late that these may come after a change of settings.
	cursor, late bool
	// unsettles says that the settings after the statement are not known: the end of a transaction, DO, CALL.
	unsettles bool
	// handed are parameters that are looked at when they are bound.
	handed []handed
	// calls says that the statement is a CALL.
	calls   bool
	oids    []uint32
	unsure  map[int32]bool
	columns map[string]bool
	allCols bool
	// explained says that the statement is an EXPLAIN (BARKEEP), and misused what is wrong with its options.
	explained bool
	misused   *Refusal
}

func (s *statement) reads() bool {
	return len(s.scans) > 0 || len(s.opaque) > 0 || s.writes || s.execute != nil || s.explained || len(s.handed) > 0
}

// analyzeStatement finds what one statement reads. The names in created were made by statements before it in the text.
func analyzeStatement(text string, raw *pg.RawStmt, c *Catalog, created map[string]bool, oids []uint32) *statement {
	a := newAnalyzer(c, created)
	root := raw.GetStmt()
	s := &statement{columns: map[string]bool{}, cursor: root.GetDeclareCursorStmt() != nil, created: created}
	if runs := a.top(s, root, text, raw); runs {
		a.inspect(s, root)
	}
	s.trees = append(slices.Clone(a.trees), root)
	for _, sc := range a.scans {
		sc.links = a.linksOf(sc.item, sc.quals, sc.quals)
		sc.asks, sc.names = asksSymbols(sc.quals, sc.item), namesSymbols(sc.quals, sc.item)
	}
	s.scans, s.opaque, s.barrier, s.questions, s.targets = a.scans, a.opaque, a.barrier, a.questions, a.targets
	s.symbolic = sync.OnceValues(s.ofSymbols)
	s.oids = slices.Clone(oids)
	if strings.Contains(text, "$") {
		s.inferParams(root, oids)
	}
	if (c != nil && c.Events || created[eventsName]) && firesEvents(root) {
		s.opaque = append(s.opaque, "it fires an event trigger that reads ohlcv")
	}
	before := len(created)
	a.noteCreated(root, created)
	if c != nil && c.Dependents != nil && len(created) > before {
		for _, name := range c.Dependents(slices.Collect(maps.Keys(created))) {
			created[name] = true
		}
	}
	return s
}

// ofSymbols is what symbolic finds out once: of most statements nobody asks.
func (s *statement) ofSymbols() (mentions, strange bool) {
	mentions, tainted := mentionsSymbol(s.trees)
	strange = tainted == nil
	for _, sc := range s.scans {
		strange = strange || sc.strange(sc.quals, tainted)
	}
	return mentions, strange
}

// top analyses a whole statement; false where it does not execute what is below it.
func (a *analyzer) top(s *statement, root *pg.Node, text string, raw *pg.RawStmt) bool {
	switch n := root.GetNode().(type) {
	case *pg.Node_ExplainStmt:
		s.explained, s.misused = explains(n.ExplainStmt)
		if !s.explained && !analyzes(n.ExplainStmt) {
			return false
		}
		return a.top(s, n.ExplainStmt.GetQuery(), text, raw)
	case *pg.Node_PrepareStmt:
		s.prepare = preparedBy(n.PrepareStmt, text, raw)
		if s.prepare == nil {
			a.hide("its PREPARE is not understood")
		}
		if a.uses(n.PrepareStmt.GetArgtypes()...) {
			a.hide("a parameter that it declares is of a type through which ohlcv may be read")
		}
		return false
	case *pg.Node_ExecuteStmt:
		s.execute = n.ExecuteStmt
	case *pg.Node_VariableSetStmt:
		s.set = n.VariableSetStmt
	case *pg.Node_TransactionStmt:
		s.transaction = n.TransactionStmt
		s.unsettles = n.TransactionStmt.GetKind() != pg.TransactionStmtKind_TRANS_STMT_BEGIN &&
			n.TransactionStmt.GetKind() != pg.TransactionStmtKind_TRANS_STMT_START
	case *pg.Node_DiscardStmt:
		s.unsettles = true
		if n.DiscardStmt.GetTarget() == pg.DiscardMode_DISCARD_ALL {
			s.deallocates = &Naming{All: true}
		}
	case *pg.Node_DeallocateStmt:
		s.deallocates = &Naming{Name: n.DeallocateStmt.GetName(), All: n.DeallocateStmt.GetName() == ""}
	case *pg.Node_DoStmt:
		s.unsettles = true
		a.doBlock(s, n.DoStmt)
	case *pg.Node_CallStmt:
		s.unsettles, s.calls = true, true
		a.subqueries(nil, nil, &pg.Node{Node: &pg.Node_FuncCall{FuncCall: n.CallStmt.GetFunccall()}})
	case *pg.Node_CreateTableAsStmt:
		if n.CreateTableAsStmt.GetInto().GetSkipData() {
			return false
		}
		a.seen[n.CreateTableAsStmt.GetInto().GetRel()] = true
		if e := n.CreateTableAsStmt.GetQuery().GetExecuteStmt(); e != nil {
			s.execute = e
		}
		a.query(n.CreateTableAsStmt.GetQuery(), nil)
	case *pg.Node_DeclareCursorStmt:
		a.query(n.DeclareCursorStmt.GetQuery(), nil)
	case *pg.Node_CopyStmt:
		a.copyStmt(s, n.CopyStmt)
	case *pg.Node_RefreshMatViewStmt:
		if name := n.RefreshMatViewStmt.GetRelation().GetRelname(); !n.RefreshMatViewStmt.GetSkipData() && a.inClosure(name) {
			a.hide("it refreshes " + name + ", which reads ohlcv")
		}
	case *pg.Node_TruncateStmt:
		for _, relation := range n.TruncateStmt.GetRelations() {
			a.target(relation.GetRangeVar())
		}
		a.noteWrites(s, root, text)
		return false
	case *pg.Node_SelectStmt, *pg.Node_InsertStmt, *pg.Node_UpdateStmt, *pg.Node_DeleteStmt, *pg.Node_MergeStmt:
		s.unsettles = s.unsettles || root.GetUpdateStmt().GetRelation().GetRelname() == "pg_settings" // a rule makes it set_config
		a.query(root, nil)
	default:
		s.changes = true
		a.definition(s, root)
		return false
	}
	a.noteWrites(s, root, text)
	return true
}

// writesSomething reports whether a text may hold a statement that writes.
func writesSomething(text string) bool {
	return slices.ContainsFunc([]string{"insert", "update", "delete", "merge"}, func(word string) bool { return containsFold(text, word) })
}

// analyzes reports whether an EXPLAIN runs its statement.
func analyzes(x *pg.ExplainStmt) bool {
	runs := false
	for _, opt := range x.GetOptions() {
		if def := opt.GetDefElem(); strings.EqualFold(def.GetDefname(), "analyze") {
			runs = isOn(def)
		}
	}
	return runs
}

// isOn reports whether an option is set: without a value it is.
func isOn(def *pg.DefElem) bool {
	switch arg := def.GetArg(); {
	case arg.GetString_() != nil:
		off := parseBool(arg.GetString_().GetSval())
		return off.kind != kindBool || off.b
	case arg.GetInteger() != nil:
		return arg.GetInteger().GetIval() != 0
	}
	return true
}

// explains reports whether an EXPLAIN asks for barkeep's plan, and what is wrong with its options (DESIGN §9).
func explains(x *pg.ExplainStmt) (ours bool, wrong *Refusal) {
	others := []string{}
	for _, opt := range x.GetOptions() {
		def := opt.GetDefElem()
		if !strings.EqualFold(def.GetDefname(), "barkeep") {
			others = append(others, strings.ToUpper(def.GetDefname()))
			continue
		}
		ours = true
		if !isOn(def) {
			wrong = &Refusal{SQLState: "22023", Message: "barkeep: EXPLAIN option BARKEEP cannot be off", Hint: "Leave it out for the plan of PostgreSQL."}
		}
	}
	if ours && len(others) > 0 {
		wrong = &Refusal{
			SQLState: "22023", Message: "barkeep: EXPLAIN option BARKEEP cannot be combined with " + strings.Join(others, ", "),
			Hint: "EXPLAIN (BARKEEP) shows which bars a statement needs and fetches nothing; send another EXPLAIN for the plan of PostgreSQL.",
		}
	}
	return ours, wrong
}

// doBlock hides a DO whose body may read ohlcv, and notes one that may set barkeep's settings.
func (a *analyzer) doBlock(s *statement, d *pg.DoStmt) {
	for _, arg := range d.GetArgs() {
		def := arg.GetDefElem()
		if containsFold(def.GetArg().GetString_().GetSval(), ownPrefix) {
			s.configs = append(s.configs, change{})
		}
		if body := def.GetArg().GetString_(); def.GetDefname() == "as" && (a.mentioned(body.GetSval()) || containsFold(body.GetSval(), "execute") || a.catalog.callsDynamic(body.GetSval())) {
			a.hide("it runs a DO block that may read ohlcv")
		}
	}
}

// mentioned reports whether a text has the name of ohlcv or of something that reads it.
func (a *analyzer) mentioned(text string) bool {
	lower := strings.ToLower(text)
	for name := range a.created {
		if strings.Contains(lower, name) {
			return true
		}
	}
	return named(text, a.catalog, 0)
}

func (a *analyzer) copyStmt(s *statement, c *pg.CopyStmt) {
	rv := c.GetRelation()
	switch {
	case c.GetQuery() != nil:
		a.query(c.GetQuery(), nil)
	case rv == nil:
	case c.GetIsFrom():
		a.seen[rv] = true
		if a.inClosure(rv.GetRelname()) {
			a.hide("it writes to " + rv.GetRelname() + ", whose triggers may read ohlcv")
		}
	default:
		it := a.relation(rv, nil)
		a.visit(it, nil, nil)
		s.allCols = s.allCols || len(c.GetAttlist()) == 0
		for _, col := range c.GetAttlist() {
			s.columns[col.GetString_().GetSval()] = true
		}
	}
}

// query analyses a statement that may stand in a WITH clause.
func (a *analyzer) query(node *pg.Node, env *cte) {
	switch n := node.GetNode().(type) {
	case *pg.Node_SelectStmt:
		a.selectItem(&item{sub: n.SelectStmt, ctes: env}, nil, nil)
	case *pg.Node_InsertStmt:
		a.insert(n.InsertStmt, env)
	case *pg.Node_UpdateStmt:
		u := n.UpdateStmt
		a.modify(u.GetRelation(), u.GetWithClause(), env, u.GetFromClause(), u.GetWhereClause(), u.GetTargetList(), u.GetReturningList(), false)
	case *pg.Node_DeleteStmt:
		d := n.DeleteStmt
		a.modify(d.GetRelation(), d.GetWithClause(), env, d.GetUsingClause(), d.GetWhereClause(), nil, d.GetReturningList(), false)
	case *pg.Node_MergeStmt:
		a.merge(n.MergeStmt, env)
	}
}

// merge analyses MERGE as a SELECT from the target and the source. A row of the source that matches nothing counts only where something
// is to be done WHEN NOT MATCHED BY TARGET: then the condition bounds nothing.
func (a *analyzer) merge(m *pg.MergeStmt, env *cte) {
	all, lacking := false, false
	where := m.GetJoinCondition()
	var lists []*pg.Node
	expression := func(node *pg.Node) *pg.Node {
		return &pg.Node{Node: &pg.Node_ResTarget{ResTarget: &pg.ResTarget{Val: node}}}
	}
	for _, node := range m.GetMergeWhenClauses() {
		clause := node.GetMergeWhenClause()
		all = all || clause.GetMatchKind() == pg.MergeMatchKind_MERGE_WHEN_NOT_MATCHED_BY_TARGET
		lacking = lacking || clause.GetMatchKind() == pg.MergeMatchKind_MERGE_WHEN_NOT_MATCHED_BY_SOURCE
		lists = append(lists, clause.GetTargetList()...)
		for _, value := range append(clause.GetValues(), clause.GetCondition()) {
			if value != nil {
				lists = append(lists, expression(value))
			}
		}
	}
	if all {
		lists, where = append(lists, expression(where)), nil
	}
	a.modify(m.GetRelation(), m.GetWithClause(), env, []*pg.Node{m.GetSourceRelation()}, where, lists, m.GetReturningList(), lacking)
}

// target notes the relation that a statement writes.
func (a *analyzer) target(rv *pg.RangeVar) {
	if rv == nil {
		return
	}
	a.seen[rv] = true
	a.targets = append(a.targets, relationName(rv))
	if a.inClosure(rv.GetRelname()) {
		a.hide("it writes to " + rv.GetRelname() + ", through which ohlcv may be read")
	}
}

func (a *analyzer) insert(n *pg.InsertStmt, env *cte) {
	a.target(n.GetRelation())
	a.withBodies(n.GetWithClause(), env)
	inner := a.with(n.GetWithClause(), env)
	if sel := n.GetSelectStmt(); sel != nil {
		a.query(sel, inner)
	}
	a.subqueries(nil, inner, slices.Concat(n.GetCols(), n.GetReturningList())...) // a column may have a subscript
	if conflict := n.GetOnConflictClause(); conflict != nil {
		a.subqueries(nil, inner, conflict.GetTargetList()...)
		a.subqueries(nil, inner, conflict.GetWhereClause())
	}
}

// modify analyses UPDATE … FROM and DELETE … USING as a SELECT from the target and the same FROM clause: each row of it that passes
// the condition may be used. The target is a relation, whatever the WITH clause defines. In RETURNING its columns have other values than
// those that are there; lacking says that it may be returned without a row of the FROM clause.
func (a *analyzer) modify(target *pg.RangeVar, with *pg.WithClause, env *cte, from []*pg.Node, where *pg.Node, list, returning []*pg.Node, lacking bool) {
	a.target(target)
	name := target.GetRelname()
	joined := !a.ours(target) && !a.inClosure(name) && a.with(with, env).find(name) == nil
	if joined {
		from = append([]*pg.Node{{Node: &pg.Node_RangeVar{RangeVar: target}}}, from...)
	}
	it := &item{ctes: env, sub: &pg.SelectStmt{
		WithClause: with, FromClause: from, WhereClause: where, TargetList: list, Op: pg.SetOperation_SETOP_NONE,
	}}
	l := a.levelOf(it)
	for _, each := range l.items {
		each.nullable = each.nullable || lacking
	}
	a.selectItem(it, nil, nil)
	seen := *l
	if joined {
		seen.items = l.items[1:]
	}
	a.subqueries(&seen, a.innerOf(it), returning...)
}

// noteWrite notes that a relation is written, which may be ohlcv.
func (a *analyzer) noteWrite(s *statement, rv *pg.RangeVar) {
	if a.ours(rv) {
		s.writes = true
		s.writesQualified = s.writesQualified || rv.GetSchemaname() != ""
	}
}

// noteChildren notes a definition by which ohlcv gets a child or a parent as writing it (PIPELINE 8): a child's rows are read as ohlcv's, and what
// is written through a parent passes by the triggers of its children, which are a statement's. Partitions it has none: that is the
// upstream's to refuse.
func (a *analyzer) noteChildren(s *statement, root *pg.Node) {
	walk(root, func(m proto.Message) bool {
		switch n := m.(type) {
		case *pg.CreateStmt:
			if n.GetPartbound() != nil {
				return true
			}
			for _, parent := range n.GetInhRelations() {
				a.noteWrite(s, parent.GetRangeVar())
			}
		case *pg.AlterTableStmt:
			for _, cmd := range n.GetCmds() {
				if c := cmd.GetAlterTableCmd(); c.GetSubtype() == pg.AlterTableType_AT_AddInherit {
					a.noteWrite(s, n.GetRelation())
					a.noteWrite(s, c.GetDef().GetRangeVar())
				}
			}
		}
		return true
	})
}

// noteWrites notes whether a statement, or one in its WITH clauses, writes ohlcv itself.
func (a *analyzer) noteWrites(s *statement, root proto.Message, text string) {
	if node, ok := root.(*pg.Node); ok && node.GetSelectStmt() != nil && !writesSomething(text) {
		return
	}
	note := func(rv *pg.RangeVar) { a.noteWrite(s, rv) }
	walk(root, func(m proto.Message) bool {
		switch n := m.(type) {
		case *pg.InsertStmt:
			note(n.GetRelation())
		case *pg.UpdateStmt:
			note(n.GetRelation())
		case *pg.DeleteStmt:
			note(n.GetRelation())
		case *pg.MergeStmt:
			note(n.GetRelation())
		case *pg.CopyStmt:
			if n.GetIsFrom() {
				note(n.GetRelation())
			}
		case *pg.TruncateStmt:
			for _, r := range n.GetRelations() {
				note(r.GetRangeVar())
			}
		}
		return true
	})
}

// preparedBy returns what a PREPARE registers, cut from the text.
func preparedBy(n *pg.PrepareStmt, text string, raw *pg.RawStmt) *Prepared {
	start := int(raw.GetStmtLocation())
	end := start + int(raw.GetStmtLen())
	if raw.GetStmtLen() == 0 || end > len(text) {
		end = len(text)
	}
	lex := lexer{src: text[:end], pos: start}
	depth := 0
	for {
		tok, ok := lex.next()
		switch {
		case !ok:
			return nil
		case tok.kind == tokenPunct && tok.text == "(":
			depth++
		case tok.kind == tokenPunct && tok.text == ")":
			depth--
		case tok.kind == tokenWord && tok.text == "as" && depth == 0:
			p := &Prepared{Name: n.GetName(), Text: text[tok.end:end]}
			for _, t := range n.GetArgtypes() {
				p.OIDs = append(p.OIDs, declaredOID(t.GetTypeName()))
			}
			return p
		}
	}
}

// oidOther stands for a declared type that is not known here.
const oidOther = 1
