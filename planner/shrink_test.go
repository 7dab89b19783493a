package planner

import (
	"testing"

	"github.com/jackc/pgx/v5" //nolint:depguard // the test asks PostgreSQL itself
	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
)

// shrink returns a smaller statement of which the answers differ too, and how: as long as a part can be left out, it is, in so many tries.
func (d trial) shrink(t *testing.T, conn *pgx.Conn, difference string, most int) (_ trial, _ string) {
	t.Helper()
	for at, tries := 0, 0; tries < most; tries++ {
		sql, ok := leaveOut(d.sql, at)
		if !ok {
			break
		}
		smaller := d
		smaller.sql = sql
		if _, differs := smaller.run(t, conn); differs != "" && len(sql) < len(d.sql) {
			d, difference, at = smaller, differs, 0
			continue
		}
		at++
	}
	return d, difference
}

// leaveOut returns a text without its nth part; false where it has fewer.
func leaveOut(sql string, n int) (string, bool) {
	tree, err := pg.Parse(sql)
	if err != nil || len(tree.GetStmts()) == 0 {
		return "", false
	}
	var parts []func()
	walk(tree, func(m proto.Message) bool {
		switch x := m.(type) {
		case *pg.Node:
			parts = append(parts, nodeParts(x)...)
		case *pg.SelectStmt:
			parts = append(parts, selectParts(x)...)
		}
		return true
	})
	if n >= len(parts) {
		return "", false
	}
	parts[n]()
	smaller, err := pg.Deparse(tree)
	if err != nil {
		return sql, true
	}
	return smaller, true
}

// nodeParts puts one side of a junction or of a join in its place.
func nodeParts(n *pg.Node) []func() {
	var sides []*pg.Node
	switch {
	case n.GetBoolExpr() != nil:
		sides = n.GetBoolExpr().GetArgs()
		if len(sides) > 2 {
			parts := make([]func(), len(sides))
			for i := range sides {
				parts[i] = func() { n.GetBoolExpr().Args = append(append([]*pg.Node{}, sides[:i]...), sides[i+1:]...) }
			}
			return parts
		}
	case n.GetBooleanTest() != nil:
		sides = []*pg.Node{n.GetBooleanTest().GetArg()}
	case n.GetJoinExpr() != nil:
		sides = []*pg.Node{n.GetJoinExpr().GetLarg(), n.GetJoinExpr().GetRarg()}
	}
	parts := make([]func(), len(sides))
	for i, side := range sides {
		parts[i] = func() { n.Node = side.GetNode() }
	}
	return parts
}

// selectParts leaves out a clause, a column or a branch.
func selectParts(s *pg.SelectStmt) []func() {
	parts := []func(){}
	if s.GetLarg() != nil {
		for _, branch := range []*pg.SelectStmt{s.GetLarg(), s.GetRarg()} {
			parts = append(parts, func() {
				branch = proto.CloneOf(branch)
				proto.Reset(s)
				proto.Merge(s, branch)
			})
		}
	}
	for _, clause := range []**pg.Node{&s.WhereClause, &s.HavingClause, &s.LimitOffset, &s.LimitCount} {
		if *clause != nil {
			parts = append(parts, func() { *clause = nil })
		}
	}
	lists := []*[]*pg.Node{&s.DistinctClause, &s.TargetList, &s.FromClause}
	if s.GetLimitCount() == nil && len(s.GetDistinctClause()) == 0 {
		lists = append(lists, &s.SortClause) // else it decides which rows there are
	}
	for _, list := range lists {
		for i := range *list {
			if len(*list) > 1 || list != &s.TargetList {
				parts = append(parts, func() { *list = append(append([]*pg.Node{}, (*list)[:i]...), (*list)[i+1:]...) })
			}
		}
	}
	return parts
}
