package planner

import (
	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
)

// relax has the question give every row that may be among those that its LIMITs leave: all ties at the edge, and without an order all
// rows. It goes down only where more rows below give more rows above.
func (q *question) relax() string {
	return q.relaxSelect(q.sub, q.references())
}

// references counts how often each relation is named.
func (q *question) references() map[string]int {
	found := map[string]int{}
	for _, m := range []proto.Message{q.sub, q.with} {
		walk(m, func(m proto.Message) bool {
			if rv, ok := m.(*pg.RangeVar); ok {
				found[rv.GetRelname()]++
			}
			return true
		})
	}
	return found
}

func (q *question) relaxSelect(s *pg.SelectStmt, references map[string]int) string {
	if s == nil {
		return ""
	}
	if why := q.takeTies(s); why != "" || limited(s) {
		return why // of more rows below it, it would leave others
	}
	if q.takeFirsts(s) {
		return "" // of more rows below it, others would be the first
	}
	plain, windowed := rowByRow(computedAbove(s))
	switch {
	case s.GetOp() == pg.SetOperation_SETOP_EXCEPT:
		return q.relaxSelect(s.GetLarg(), references)
	case s.GetOp() != pg.SetOperation_SETOP_NONE:
		if why := q.relaxSelect(s.GetLarg(), references); why != "" {
			return why
		}
		return q.relaxSelect(s.GetRarg(), references)
	case !plain || windowed || len(s.GetGroupClause()) > 0 || s.GetHavingClause() != nil || len(s.GetWindowClause()) > 0:
		return ""
	}
	q.takeRanks(s, references)
	for _, node := range s.GetFromClause() {
		if why := q.relaxFrom(node, references); why != "" {
			return why
		}
	}
	return ""
}

func (q *question) relaxFrom(node *pg.Node, references map[string]int) string {
	switch n := node.GetNode().(type) {
	case *pg.Node_RangeSubselect:
		return q.relaxSelect(n.RangeSubselect.GetSubquery().GetSelectStmt(), references)
	case *pg.Node_RangeVar:
		if name := n.RangeVar.GetRelname(); n.RangeVar.GetSchemaname() == "" && references[name] == 1 {
			for _, def := range q.with.GetCtes() {
				if c := def.GetCommonTableExpr(); c.GetCtename() == name {
					return q.relaxSelect(c.GetCtequery().GetSelectStmt(), references)
				}
			}
		}
	case *pg.Node_JoinExpr:
		j := n.JoinExpr
		if kind := j.GetJointype(); kind == pg.JoinType_JOIN_INNER || kind == pg.JoinType_JOIN_LEFT {
			if why := q.relaxFrom(j.GetLarg(), references); why != "" {
				return why
			}
		}
		if kind := j.GetJointype(); kind == pg.JoinType_JOIN_INNER || kind == pg.JoinType_JOIN_RIGHT {
			return q.relaxFrom(j.GetRarg(), references)
		}
	}
	return ""
}

// takeTies has a SELECT give every row that may be among those that its own LIMIT leaves.
func (q *question) takeTies(s *pg.SelectStmt) string {
	count, offset := s.GetLimitCount(), s.GetLimitOffset()
	if limited(s) {
		q.empty = q.empty || q.among || offset != nil || s != q.sub || count.GetAConst().GetIval().GetIval() <= 0
		q.among = true
	}
	switch {
	case !limited(s), count == nil, len(s.GetSortClause()) == 0:
		s.LimitCount, s.LimitOffset, s.LimitOption = nil, nil, pg.LimitOption_LIMIT_OPTION_DEFAULT
		return ""
	case offset != nil:
		n, first := count.GetAConst().GetIval(), offset.GetAConst().GetIval()
		if n == nil || first == nil {
			return "its LIMIT and OFFSET are not numbers"
		}
		s.LimitCount, s.LimitOffset = pg.MakeAConstIntNode(int64(n.GetIval())+int64(first.GetIval()), -1), nil
	}
	s.LimitOption = pg.LimitOption_LIMIT_OPTION_WITH_TIES
	return ""
}
