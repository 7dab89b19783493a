package planner

import (
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

// rowByRow reports whether the expressions give one value for one row, subqueries aside; windowed whether one of them is
// computed over a window.
func rowByRow(nodes []*pg.Node) (plain, windowed bool) {
	plain = true
	for _, node := range nodes {
		walk(node, func(m proto.Message) bool {
			switch n := m.(type) {
			case *pg.SelectStmt:
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
