package planner

import (
	"maps"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// walk calls visit for every message below root, itself among them, and goes on below it where visit returns true.
func walk(root proto.Message, visit func(proto.Message) bool) {
	if root != nil {
		walkReflect(root.ProtoReflect(), visit)
	}
}

func walkReflect(m protoreflect.Message, visit func(proto.Message) bool) {
	if !m.IsValid() || !visit(m.Interface()) {
		return
	}
	m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case field.Message() == nil:
		case field.IsList():
			list := v.List()
			for i := range list.Len() {
				walkReflect(list.Get(i).Message(), visit)
			}
		default:
			walkReflect(v.Message(), visit)
		}
		return true
	})
}

// scalarFunctions are functions of pg_catalog and TimescaleDB that give one value for one row: a SELECT list of them is
// no barrier (PLANNER 16). Anything else may be an aggregate, set-returning or volatile.
var scalarFunctions = map[string]bool{ //nolint:gochecknoglobals // a table
	"lower": true, "upper": true, "abs": true, "round": true, "floor": true, "ceil": true, "ceiling": true, "trunc": true,
	"sqrt": true, "ln": true, "log": true, "exp": true, "power": true, "sign": true, "mod": true, "length": true,
	"substr": true, "substring": true, "left": true, "right": true, "split_part": true, "concat": true, "replace": true,
	"to_char": true, "date_trunc": true, "date_part": true, "extract": true, "date_bin": true, "time_bucket": true,
	"timezone": true, "to_timestamp": true, "now": true, "date": true, "format": true, "btrim": true, "ltrim": true,
	"rtrim": true, "age": true, "make_interval": true, "json_build_object": true, "jsonb_build_object": true,
	"json_build_array": true, "jsonb_build_array": true, "row_to_json": true, "to_json": true, "to_jsonb": true,
	"width_bucket": true, "float8": true, "int4": true, "int8": true, "text": true, "numeric": true,
}

// rowByRow reports whether the expressions give one value for one row; windowed whether one of them is computed over a window.
// Of subqueries it matters only whether they hold an aggregate that belongs to a level outside of them.
func rowByRow(nodes []*pg.Node) (plain, windowed bool) {
	plain = true
	for _, node := range nodes {
		walk(node, func(m proto.Message) bool {
			switch n := m.(type) {
			case *pg.SelectStmt:
				plain = plain && !aggregatesOutside(n, nil)
				return false
			case *pg.FuncCall:
				name, ok := callName(n.GetFuncname())
				if n.GetOver() != nil {
					windowed = true
				}
				if !ok || !scalarFunctions[name] || n.GetOver() != nil || n.GetAggStar() || n.GetAggFilter() != nil ||
					n.GetAggDistinct() || len(n.GetAggOrder()) > 0 || n.GetAggWithinGroup() {
					plain = false
				}
			case *pg.JsonObjectAgg, *pg.JsonArrayAgg, *pg.JsonAggConstructor, *pg.GroupingFunc:
				plain = false
			}
			return true
		})
	}
	return plain, windowed
}

// aggregatesOutside reports whether a subquery may hold an aggregate of a level outside of it: one whose columns are all of such
// levels ("the aggregate then belongs to the nearest such outer level", manual, 4.2.7). Only a column that is qualified by an
// alias of the subquery, or of a subquery between, is certain not to be.
func aggregatesOutside(sel *pg.SelectStmt, aliases map[string]bool) bool {
	aliases = maps.Clone(aliases)
	if aliases == nil {
		aliases = map[string]bool{}
	}
	for _, node := range sel.GetFromClause() {
		noteAliases(node, aliases)
	}
	outside := false
	sel.ProtoReflect().Range(func(_ protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		below := func(m protoreflect.Message) {
			walkReflect(m, func(m proto.Message) bool {
				switch n := m.(type) {
				case *pg.SelectStmt:
					outside = outside || aggregatesOutside(n, aliases)
					return false
				case *pg.FuncCall:
					name, ok := callName(n.GetFuncname())
					if n.GetOver() == nil && (!ok || !scalarFunctions[name]) {
						outside = outside || onlyOuter(n, aliases)
					}
				case *pg.JsonObjectAgg, *pg.JsonArrayAgg, *pg.JsonAggConstructor, *pg.GroupingFunc:
					outside = true
				}
				return !outside
			})
		}
		switch list, ok := v.Interface().(protoreflect.List); {
		case ok:
			for i := range list.Len() {
				if m, ok := list.Get(i).Interface().(protoreflect.Message); ok {
					below(m)
				}
			}
		default:
			if m, ok := v.Interface().(protoreflect.Message); ok {
				below(m)
			}
		}
		return !outside
	})
	return outside
}

// onlyOuter reports whether a call names columns, and none of them for certain by one of the aliases.
func onlyOuter(f *pg.FuncCall, aliases map[string]bool) bool {
	columns, inner := false, false
	walk(f, func(m proto.Message) bool {
		switch n := m.(type) {
		case *pg.SelectStmt:
			columns = true // whose columns it names is not looked into
			return false
		case *pg.ColumnRef:
			columns = true
			fields := n.GetFields()
			inner = inner || len(fields) > 1 && aliases[fields[len(fields)-2].GetString_().GetSval()]
		}
		return true
	})
	return columns && !inner
}

// noteAliases notes the names by which the items of a FROM clause qualify columns.
func noteAliases(node *pg.Node, into map[string]bool) {
	alias := func(a *pg.Alias, fallback string) {
		if a != nil {
			fallback = a.GetAliasname()
		}
		into[fallback] = true
	}
	switch n := node.GetNode().(type) {
	case *pg.Node_JoinExpr:
		noteAliases(n.JoinExpr.GetLarg(), into)
		noteAliases(n.JoinExpr.GetRarg(), into)
		if n.JoinExpr.GetAlias() != nil {
			alias(n.JoinExpr.GetAlias(), "")
		}
	case *pg.Node_RangeVar:
		alias(n.RangeVar.GetAlias(), n.RangeVar.GetRelname())
	case *pg.Node_RangeTableSample:
		noteAliases(n.RangeTableSample.GetRelation(), into)
	case *pg.Node_RangeSubselect:
		alias(n.RangeSubselect.GetAlias(), "")
	case *pg.Node_RangeFunction:
		alias(n.RangeFunction.GetAlias(), "")
	}
}
