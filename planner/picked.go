package planner

import (
	"slices"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
)

// DISTINCT ON and row_number() pick one of the rows that tie, whichever comes first. A question asks for all of them by rank(), which is
// never greater than row_number() over the same window, and 1 for every row that DISTINCT ON may keep of its group: in a place where more
// rows below give more rows above, the rows that the subquery has are among them.

// rankColumn is the name of the rank in place of DISTINCT ON.
const rankColumn = "barkeep/rank"

// takeFirsts has a DISTINCT ON give all rows that may be the first of their groups: SELECT * FROM (SELECT …, rank() OVER (PARTITION BY
// what it is DISTINCT ON, ORDER BY its order)) WHERE rank = 1. It reports whether there was one that could be written so.
func (q *question) takeFirsts(s *pg.SelectStmt) bool {
	on := slices.ContainsFunc(s.GetDistinctClause(), func(d *pg.Node) bool { return d.GetNode() != nil })
	if !on || limited(s) || len(s.GetLockingClause()) > 0 || len(s.GetGroupClause()) > 0 || s.GetHavingClause() != nil || len(s.GetWindowClause()) > 0 {
		return false
	}
	if plain, windowed := rowByRow(slices.Concat(s.GetTargetList(), s.GetSortClause(), s.GetDistinctClause())); !plain || windowed {
		return false
	}
	tree, err := pg.Parse(`SELECT * FROM (SELECT pg_catalog.rank() OVER (PARTITION BY 1 ORDER BY 1) AS "` + rankColumn + `") AS "barkeep/picked" WHERE "` + rankColumn + `" = 1`)
	if err != nil {
		return false
	}
	outer := tree.GetStmts()[0].GetStmt().GetSelectStmt()
	inner := outer.GetFromClause()[0].GetRangeSubselect().GetSubquery().GetSelectStmt()
	window := inner.GetTargetList()[0].GetResTarget().GetVal().GetFuncCall().GetOver()
	window.PartitionClause, window.OrderClause = nil, nil
	for _, node := range s.GetDistinctClause() {
		key, ok := sortedBy(s, node)
		if !ok {
			return false
		}
		window.PartitionClause = append(window.PartitionClause, key)
	}
	for _, node := range s.GetSortClause() {
		key, ok := sortedBy(s, node.GetSortBy().GetNode())
		sort, cloned := proto.Clone(node.GetSortBy()).(*pg.SortBy)
		if !ok || !cloned {
			return false
		}
		sort.Node = key
		window.OrderClause = append(window.OrderClause, &pg.Node{Node: &pg.Node_SortBy{SortBy: sort}})
	}
	q.empty = q.empty || q.among || s != q.sub
	q.among = true
	inner.TargetList = append(slices.Clone(s.GetTargetList()), inner.GetTargetList()...)
	inner.FromClause, inner.WhereClause = s.GetFromClause(), s.GetWhereClause()
	s.TargetList, s.FromClause, s.WhereClause = outer.GetTargetList(), outer.GetFromClause(), outer.GetWhereClause()
	s.DistinctClause, s.SortClause = nil, nil
	return true
}

// sortedBy returns what an item of ORDER BY or DISTINCT ON stands for, where an expression stands that sees no output columns; false
// where that is not certain. A number, and a name alone, is that of an output column before one of the FROM clause (SQL92; the manual,
// SELECT, ORDER BY).
func sortedBy(s *pg.SelectStmt, node *pg.Node) (*pg.Node, bool) {
	targets := s.GetTargetList()
	star := slices.ContainsFunc(targets, func(t *pg.Node) bool { return isStar(t.GetResTarget().GetVal().GetColumnRef().GetFields()) })
	fields := node.GetColumnRef().GetFields()
	switch at := node.GetAConst().GetIval(); {
	case slices.ContainsFunc(targets, func(t *pg.Node) bool { return expands(t.GetResTarget().GetVal()) }):
		return nil, false
	case node.GetAConst() != nil && (at == nil || star || at.GetIval() < 1 || int(at.GetIval()) > len(targets)):
		return nil, false
	case at != nil:
		return targets[at.GetIval()-1].GetResTarget().GetVal(), true
	case len(fields) != 1:
		return node, true
	}
	name := fields[0].GetString_().GetSval()
	for _, each := range targets {
		t := each.GetResTarget()
		switch {
		case targetName(t) == name && !isStar(t.GetVal().GetColumnRef().GetFields()):
			return t.GetVal(), true // of several PostgreSQL takes none but equal ones
		case t.GetName() == "" && mayBeNamed(t.GetVal(), name):
			return nil, false
		}
	}
	return node, true
}

// takeRanks has the subqueries in the FROM clause give a rank in place of a row_number, where it is used for nothing but that it is at
// most so much, and then no row is lost: of one that is to be a certain number, the rank is at most that.
func (q *question) takeRanks(s *pg.SelectStmt, references map[string]int) {
	for _, node := range s.GetFromClause() {
		q.ranksOf(s, node, references)
	}
}

func (q *question) ranksOf(s *pg.SelectStmt, node *pg.Node, references map[string]int) {
	if j := node.GetJoinExpr(); j != nil {
		if j.GetAlias() == nil {
			q.ranksOf(s, j.GetLarg(), references)
			q.ranksOf(s, j.GetRarg(), references)
		}
		return
	}
	inner, alias := q.numbered(node, references)
	if inner == nil || limited(inner) || inner.GetOp() != pg.SetOperation_SETOP_NONE || len(inner.GetDistinctClause()) > 0 {
		return
	}
	for _, target := range inner.GetTargetList() {
		t := target.GetResTarget()
		f := t.GetVal().GetFuncCall()
		if name, ok := callName(f.GetFuncname()); !ok || name != "row_number" || f.GetOver() == nil {
			continue
		}
		name := t.GetName()
		if name == "" {
			name = "row_number"
		}
		uses, ok := atMost(s.GetWhereClause(), name)
		if !ok || len(uses) == 0 || len(uses) != mentions(s, inner, name, alias) {
			continue
		}
		for _, use := range uses {
			if lastName(use.GetName()) == "=" {
				op := "<="
				if lastName(use.GetLexpr().GetColumnRef().GetFields()) != name {
					op = ">="
				}
				use.Name = []*pg.Node{pg.MakeStrNode(op)}
			}
		}
		f.Funcname = []*pg.Node{pg.MakeStrNode("pg_catalog"), pg.MakeStrNode("rank")}
		t.Name = name
		q.among, q.empty = true, true
	}
}

// numbered returns the subquery that an item of a FROM clause is, and its alias; nil where it is none, or has its columns renamed.
func (q *question) numbered(node *pg.Node, references map[string]int) (*pg.SelectStmt, string) {
	if r := node.GetRangeSubselect(); r != nil && len(r.GetAlias().GetColnames()) == 0 {
		return r.GetSubquery().GetSelectStmt(), r.GetAlias().GetAliasname()
	}
	v := node.GetRangeVar()
	if v == nil || v.GetSchemaname() != "" || references[v.GetRelname()] != 1 || len(v.GetAlias().GetColnames()) > 0 {
		return nil, ""
	}
	alias := v.GetRelname()
	if v.GetAlias() != nil {
		alias = v.GetAlias().GetAliasname()
	}
	for _, def := range q.with.GetCtes() {
		if c := def.GetCommonTableExpr(); c.GetCtename() == v.GetRelname() && len(c.GetAliascolnames()) == 0 {
			return c.GetCtequery().GetSelectStmt(), alias
		}
	}
	return nil, ""
}

// atMost returns the conditions, of those that a WHERE clause joins by AND, that a column of that name is at most, less than, or equal to
// what has no column in it. It is false where another condition on it may not hold for a lesser value.
func atMost(node *pg.Node, name string) ([]*pg.A_Expr, bool) {
	if b := node.GetBoolExpr(); b.GetBoolop() == pg.BoolExprType_AND_EXPR {
		var list []*pg.A_Expr
		for _, arg := range b.GetArgs() {
			more, ok := atMost(arg, name)
			if !ok {
				return nil, false
			}
			list = append(list, more...)
		}
		return list, true
	}
	if !refersTo(node, map[string]bool{name: true}) {
		return nil, true
	}
	x := node.GetAExpr()
	if x.GetKind() != pg.A_Expr_Kind_AEXPR_OP || len(x.GetName()) != 1 {
		return nil, false
	}
	column, bound, ops := x.GetLexpr(), x.GetRexpr(), []string{"=", "<", "<="}
	if column.GetColumnRef() == nil {
		column, bound, ops = bound, column, []string{"=", ">", ">="}
	}
	fine := lastName(column.GetColumnRef().GetFields()) == name && !anyColumn(bound) && !hasSelect(bound) && slices.Contains(ops, lastName(x.GetName()))
	return []*pg.A_Expr{x}, fine
}

// mentions counts the columns of that name, whole rows and stars that a SELECT has outside of one of the subqueries in its FROM clause.
func mentions(s, without *pg.SelectStmt, name, alias string) int {
	count := 0
	walk(s, func(m proto.Message) bool {
		switch n := m.(type) {
		case *pg.SelectStmt:
			return n != without
		case *pg.WithClause:
			return false
		case *pg.ColumnRef:
			last := lastName(n.GetFields())
			if isStar(n.GetFields()) || last == name || last == alias && len(n.GetFields()) == 1 {
				count++
			}
		case *pg.JoinExpr:
			using := slices.ContainsFunc(n.GetUsingClause(), func(col *pg.Node) bool { return col.GetString_().GetSval() == name })
			if n.GetIsNatural() || using {
				count++
			}
		}
		return true
	})
	return count
}
