package planner

import (
	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// mentionsSymbol reports whether a condition anywhere in the statement may depend on a symbol. It goes by names: symbol,
// every name that an alias may give to it, and whole rows. It errs towards true (PLANNER 18: only a statement with no
// predicate on symbol at all reads what is stored). It returns the
// names too, nil where there are too many.
func mentionsSymbol(trees []proto.Message) (mentions bool, tainted map[string]bool) {
	tainted = map[string]bool{colSymbol: true}
	for changed, rounds := true, 0; changed; rounds++ {
		changed = false
		if rounds > 50 {
			return true, nil
		}
		for _, tree := range trees {
			changed = taint(tree, tainted) || changed
		}
	}
	for _, tree := range trees {
		if tree != nil && conditional(tree.ProtoReflect(), tainted, false) {
			return true, tainted
		}
	}
	return false, tainted
}

// taint adds the names that stand for a symbol, and reports whether there was a new one.
func taint(tree proto.Message, tainted map[string]bool) bool {
	changed := false
	add := func(name string) {
		if name != "" && !tainted[name] {
			tainted[name], changed = true, true
		}
	}
	walk(tree, func(m proto.Message) bool {
		switch n := m.(type) {
		case *pg.RangeVar:
			add(n.GetRelname())
		case *pg.Alias:
			add(n.GetAliasname())
			for _, col := range n.GetColnames() {
				add(col.GetString_().GetSval())
			}
		case *pg.CommonTableExpr:
			add(n.GetCtename())
			for _, col := range n.GetAliascolnames() {
				add(col.GetString_().GetSval())
			}
		case *pg.ResTarget:
			if n.GetName() != "" && refersTo(n.GetVal(), tainted) {
				add(n.GetName())
			}
		}
		return true
	})
	return changed
}

func refersTo(node proto.Message, tainted map[string]bool) bool {
	found := false
	walk(node, func(m proto.Message) bool {
		if c, ok := m.(*pg.ColumnRef); ok {
			found = found || taintedRef(c, tainted)
		}
		return !found
	})
	return found
}

// anyColumn reports whether an expression names a column, whatever it is.
func anyColumn(node proto.Message) bool {
	found := false
	walk(node, func(m proto.Message) bool {
		_, is := m.(*pg.ColumnRef)
		found = found || is
		return !found
	})
	return found
}

// taintedRef reports whether a column is one of the names; * counts.
func taintedRef(c *pg.ColumnRef, tainted map[string]bool) bool {
	fields := c.GetFields()
	if len(fields) == 0 {
		return true
	}
	last := fields[len(fields)-1]
	return last.GetAStar() != nil || tainted[last.GetString_().GetSval()]
}

// conditional looks for a tainted column below a condition.
func conditional(m protoreflect.Message, tainted map[string]bool, inside bool) bool {
	if !m.IsValid() {
		return false
	}
	switch n := m.Interface().(type) {
	case *pg.ColumnRef:
		return inside && taintedRef(n, tainted)
	case *pg.SelectStmt:
		inside = false
	case *pg.A_Expr, *pg.BoolExpr, *pg.NullTest, *pg.BooleanTest, *pg.CaseExpr, *pg.MinMaxExpr, *pg.RangeFunction,
		*pg.RangeTableFunc, *pg.JsonTable, *pg.MergeWhenClause:
		inside = true
	case *pg.JoinExpr:
		if n.GetIsNatural() {
			return true
		}
		for _, col := range n.GetUsingClause() {
			if tainted[col.GetString_().GetSval()] {
				return true
			}
		}
	}
	found := false
	m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if field.Message() == nil {
			return true
		}
		in := inside
		switch field.Name() {
		case "where_clause", "having_clause", "quals", "agg_filter", "testexpr", "join_condition":
			in = true
		}
		if field.IsList() {
			list := v.List()
			for i := range list.Len() {
				found = found || conditional(list.Get(i).Message(), tainted, in)
			}
		} else {
			found = conditional(v.Message(), tainted, in)
		}
		return !found
	})
	return found
}
