package planner

import (
	"slices"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
)

// arguments are those of an EXECUTE, which are in the place of a statement's parameters.
type arguments struct {
	values map[int32]value
	// nodes are the expressions as they stand in EXECUTE, and oids the types of the parameters that they are for: as PREPARE declares
	// them, or as the upstream has told; zero where neither has.
	nodes []*pg.Node
	oids  []uint32
}

// executed returns a question with the arguments of EXECUTE in the place of its parameters, or why it has no such form.
//
// The invariant: each argument has the value there that EXECUTE gives the parameter. EXECUTE coerces an argument "by assignment" to the
// parameter's type, which has no length whatever PREPARE declares (the manual, PREPARE; EvaluateParams, PrepareQuery): so does a cast to
// that type, where one by assignment exists; where none does EXECUTE fails. What is evaluated differently below a cast, ARRAY[…], is
// taken only where its elements are of one type by themselves.
func (e *evaluator) executed(q *question) (*question, string) {
	out := &question{among: q.among, empty: q.empty, reads: q.reads, setting: q.setting, strs: q.strs}
	var ok, withOK bool
	out.sub, ok = proto.Clone(q.sub).(*pg.SelectStmt)
	out.with, withOK = proto.Clone(q.with).(*pg.WithClause)
	if !ok || !withOK {
		return nil, "a subquery that is not understood"
	}
	casts := make(map[int32]*pg.Node, len(q.params))
	c := checker{names: Names{
		Relations: slices.Clone(q.names.Relations), Functions: slices.Clone(q.names.Functions),
		Columns: slices.Clone(q.names.Columns), Operators: slices.Clone(q.names.Operators),
	}}
	for i, number := range q.params {
		node, why := e.argumentOf(number, &c)
		if why != "" {
			return nil, why
		}
		casts[int32(i+1)] = node
	}
	out.names, out.setting = c.names, out.setting || c.setting
	literal := func(number int32) (*pg.Node, bool) { node, ok := casts[number]; return node, ok }
	for _, m := range []proto.Message{out.sub, out.with} {
		if !substitute(m, literal) {
			return nil, "a subquery that is not understood"
		}
	}
	return out, ""
}

// argumentOf returns the argument for a parameter, cast to its type.
func (e *evaluator) argumentOf(number int, c *checker) (*pg.Node, string) {
	if number > len(e.named.nodes) {
		return nil, "a subquery with parameters that are not known"
	}
	node, oid := e.named.nodes[number-1], uint32(0)
	if number <= len(e.named.oids) {
		oid = e.named.oids[number-1]
	}
	e.start.untyped = e.start.untyped || oid == 0 || oid == oidUnknown
	name, array := parameterTypes[oid], false
	if name == "" {
		name, array = parameterTypes[elementOIDs[oid]], true
	}
	switch {
	case name == "":
		return nil, "a subquery with a parameter of EXECUTE whose type is not known"
	case anyColumn(node) || anyParam(node) || hasSelect(node) || !plainArrays(node):
		return nil, "a subquery with an argument of EXECUTE that is not understood"
	case c.check(node) != "":
		return nil, "a subquery with an argument of EXECUTE that cannot be evaluated beforehand: " + c.why
	}
	var bounds []*pg.Node
	if array {
		bounds = []*pg.Node{pg.MakeIntNode(-1)}
	}
	cast := typed(node, name, bounds...)
	t := cast.GetTypeCast().GetTypeName()
	t.Names = append([]*pg.Node{pg.MakeStrNode("pg_catalog")}, t.GetNames()...)
	return cast, ""
}

// executedElements returns the elements of an argument of EXECUTE for a parameter that is an array of what col is compared with.
func (b *bounder) executedElements(col string, at int, cast uint32) ([]value, arrayState) {
	if at >= len(b.named.nodes) || at >= len(b.named.oids) || cast != 0 {
		return nil, arrayOpaque
	}
	node, oid := b.named.nodes[at], b.named.oids[at]
	fits := oid == oidTextArray || oid == oidVarcharArray
	if col == colTS {
		fits = oid == oidTimestamptzArray
	}
	if !fits || anyColumn(node) || anyParam(node) || hasSelect(node) || !plainArrays(node) {
		return nil, arrayOpaque
	}
	return b.literalElements(col, node, true)
}

// parameterTypes are types of pg_catalog that a parameter of EXECUTE is cast to in a question: those that a user may compare something in
// a table of his own with.
var parameterTypes = map[uint32]string{ //nolint:gochecknoglobals // a table
	oidBool: "bool", oidName: "name", oidInt8: "int8", oidInt2: "int2", oidInt4: "int4", oidText: "text", oidFloat8: "float8",
	oidVarchar: "varchar", oidDate: "date", oidTimestamp: "timestamp", oidTimestamptz: "timestamptz", oidInterval: "interval", oidNumeric: "numeric",
	oidUUID: "uuid",
}

// elementOIDs are the types of the elements of arrays.
var elementOIDs = map[uint32]uint32{ //nolint:gochecknoglobals // a table
	oidTextArray: oidText, oidVarcharArray: oidVarchar, oidTimestampArray: oidTimestamp, oidTimestamptzArray: oidTimestamptz,
	oidInt4Array: oidInt4, oidInt8Array: oidInt8, oidDateArray: oidDate, oidUUIDArray: oidUUID,
}

// declaredOID returns the type that PREPARE declares for a parameter, oidOther for one that is not known here, and zero for one that is
// inferred. Lengths count for nothing there.
func declaredOID(t *pg.TypeName) uint32 {
	names := t.GetNames()
	if !builtin(names) || t.GetSetof() || t.GetPctType() || len(t.GetArrayBounds()) > 1 {
		return oidOther
	}
	name := lastName(names)
	for oid, known := range parameterTypes {
		switch {
		case known != name:
		case len(t.GetArrayBounds()) == 0:
			return oid
		default:
			for array, element := range elementOIDs {
				if element == oid {
					return array
				}
			}
		}
	}
	if len(t.GetArrayBounds()) == 0 && name == "unknown" {
		return 0 // inferred from its use
	}
	return oidOther
}

func anyParam(node *pg.Node) bool {
	found := false
	walk(node, func(m proto.Message) bool {
		_, is := m.(*pg.ParamRef)
		found = found || is
		return !found
	})
	return found
}

// plainArrays reports whether the elements of all ARRAY[…] in an expression are strings only, or whole numbers only.
func plainArrays(node *pg.Node) bool {
	plain := true
	walk(node, func(m proto.Message) bool {
		if a, ok := m.(*pg.A_ArrayExpr); ok {
			texts := !slices.ContainsFunc(a.GetElements(), func(n *pg.Node) bool { return n.GetAConst().GetSval() == nil })
			plain = plain && (texts || !slices.ContainsFunc(a.GetElements(), func(n *pg.Node) bool { return n.GetAConst().GetIval() == nil }))
		}
		return plain
	})
	return plain
}
