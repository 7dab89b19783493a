package planner

import (
	"maps"
	"reflect"
	"slices"
	"sync"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
)

// walk calls visit for every message below root, itself among them, and goes on below it where visit returns true.
func walk(root proto.Message, visit func(proto.Message) bool) {
	if root == nil || reflect.ValueOf(root).IsNil() || !visit(root) {
		return
	}
	eachBelow(root, func(m proto.Message) { walk(m, visit) })
}

// eachBelow calls f for the messages that are fields of a message. It looks at the Go fields themselves, which takes a tenth of the
// time that protoreflect does: of a text that is new, most of the time would go there.
func eachBelow(m proto.Message, f func(proto.Message)) {
	v := reflect.ValueOf(m).Elem()
	for _, i := range messageFields(v.Type()) {
		switch field := v.Field(i); field.Kind() {
		case reflect.Pointer:
			if !field.IsNil() {
				f(field.Interface().(proto.Message)) //nolint:errcheck,forcetypeassert // by messageFields
			}
		case reflect.Slice:
			for j := range field.Len() {
				f(field.Index(j).Interface().(proto.Message)) //nolint:errcheck,forcetypeassert // by messageFields
			}
		default: // a oneof, whose wrapper has one field
			if !field.IsNil() {
				if one, ok := reflect.TypeAssert[proto.Message](field.Elem().Elem().Field(0)); ok {
					f(one)
				}
			}
		}
	}
}

var (
	messageType = reflect.TypeFor[proto.Message]() //nolint:gochecknoglobals // a constant that Go cannot declare
	knownFields sync.Map                           //nolint:gochecknoglobals // reflect.Type → []int, filled once for each type
)

// messageFields returns the numbers of a message's fields that are messages, lists of them, or a oneof.
func messageFields(t reflect.Type) []int {
	if known, ok := knownFields.Load(t); ok {
		return known.([]int) //nolint:errcheck,forcetypeassert // nothing else is stored
	}
	fields := []int{}
	for i := range t.NumField() {
		field := t.Field(i)
		switch kind := field.Type.Kind(); {
		case !field.IsExported():
		case kind == reflect.Pointer && field.Type.Implements(messageType),
			kind == reflect.Slice && field.Type.Elem().Implements(messageType),
			kind == reflect.Interface && field.Tag.Get("protobuf_oneof") != "":
			fields = append(fields, i)
		}
	}
	knownFields.Store(t, fields)
	return fields
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

// ScalarFunctions returns the names of functions that are taken to give one value for one row.
func ScalarFunctions() []string { return slices.Sorted(maps.Keys(scalarFunctions)) }

// groupFunctions are functions of pg_catalog and TimescaleDB, beside askedFunctions, that give the same for a group whatever other groups
// there are.
var groupFunctions = map[string]bool{ //nolint:gochecknoglobals // a table
	"first": true, "last": true, "any_value": true, "array_agg": true, "string_agg": true, "json_agg": true, "jsonb_agg": true,
	"json_object_agg": true, "jsonb_object_agg": true, "bit_xor": true, "regr_avgx": true, "regr_avgy": true, "regr_count": true,
	"regr_intercept": true, "regr_r2": true, "regr_sxx": true, "regr_sxy": true, "regr_syy": true, "mode": true, "percentile_cont": true,
	"percentile_disc": true, "rank": true, "dense_rank": true, "percent_rank": true, "cume_dist": true, "range_agg": true, "xmlagg": true,
	"histogram": true, "time_bucket_gapfill": true, "locf": true, "interpolate": true,
}

// groupByGroup reports whether the expressions give the same for a group whatever other groups there are: a function that is not known may
// be volatile.
func groupByGroup(nodes []*pg.Node) bool {
	known := true
	for _, node := range nodes {
		walk(node, func(m proto.Message) bool {
			if f, ok := m.(*pg.FuncCall); ok && f.GetOver() == nil {
				name := lastName(f.GetFuncname())
				_, builtin := callName(f.GetFuncname())
				known = known && (scalarFunctions[name] || pureFunctions[name] || askedFunctions[name] || groupFunctions[name]) &&
					(builtin || f.GetFuncname()[0].GetString_().GetSval() == "public")
			}
			return known
		})
	}
	return known
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
				if n.GetOver() != nil {
					windowed = true
					return true
				}
				name, ok := callName(n.GetFuncname())
				if !ok || !scalarFunctions[name] || n.GetAggStar() || n.GetAggFilter() != nil ||
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
	eachBelow(sel, func(m proto.Message) {
		walk(m, func(m proto.Message) bool {
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
