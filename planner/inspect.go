package planner

import (
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
)

// runsText reports whether a function runs SQL, or reads relations, that its arguments name.
func runsText(name string) bool {
	switch {
	case strings.HasSuffix(name, "_to_xml"), strings.HasSuffix(name, "_to_xml_and_xmlschema"),
		strings.HasPrefix(name, "crosstab"), name == "connectby", name == "ts_stat", name == "ts_rewrite", strings.HasPrefix(name, "dblink"):
		return true
	}
	return false
}

// namesOnly reports whether a function does no more with the name of a relation than look at its catalog entries, size
// or privileges.
func namesOnly(name string) bool {
	for _, prefix := range []string{
		"pg_", "has_", "to_reg", "quote_", "col_description", "obj_description", "hypertable_", "show_", "chunks_",
		"create_hypertable", "set_", "add_", "remove_", "approximate_row_count", "nextval", "currval", "setval", "string_",
		"regexp_", "json", "array_", "current_setting", "row_security_active", "shobj_",
	} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	switch name {
	case "count", "min", "max", "sum", "avg", "coalesce", "position", "strpos", "starts_with", "like_escape", "xml_is_well_formed",
		"any_value", "first", "last", "timezone", "similar_to_escape", "parse_ident", "unnest", "md5", "overlay", "repeat",
		"translate", "reverse", "initcap", "lpad", "rpad", "ascii", "char_length", "octet_length", "concat_ws":
		return true
	}
	return scalarFunctions[name]
}

// inspect looks at the whole of a statement that runs for what the analysis of its SELECTs does not show: relations it
// did not come by, functions, casts and operators that read ohlcv, SQL in strings; and notes the columns it names.
func (a *analyzer) inspect(s *statement, root proto.Message) {
	for _, tree := range append(a.trees, root) {
		walk(tree, func(m proto.Message) bool {
			switch n := m.(type) {
			case *pg.LockingClause:
				return false // names items of the FROM clause
			case *pg.IntoClause:
				a.seen[n.GetRel()] = true // made by the statement: upstream it must not be there yet
			case *pg.RangeVar:
				if !a.seen[n] && (a.ours(n) || a.inClosure(n.GetRelname()) || n.GetSchemaname() == "" && a.ctes[n.GetRelname()]) && !s.writes {
					a.hide("it uses " + n.GetRelname() + " in a way that is not understood")
				}
			case *pg.FuncCall:
				a.inspectCall(s, root, n)
			case *pg.TypeName:
				a.inspectName(n.GetNames())
			case *pg.A_Expr:
				a.inspectName(n.GetName())
			case *pg.A_Const:
				if n.GetSval() != nil {
					a.inspectString(n.GetSval().GetSval())
				}
			case *pg.SubLink:
				a.inspectName(n.GetOperName())
			case *pg.SortBy:
				a.inspectName(n.GetUseOp())
			case *pg.A_Indirection:
				a.inspectColumn(n.GetIndirection())
			case *pg.ColumnRef:
				s.noteColumn(n)
				if len(n.GetFields()) > 1 {
					a.inspectColumn(n.GetFields()[1:])
				}
			case *pg.JoinExpr:
				s.allCols = s.allCols || n.GetIsNatural()
				for _, col := range n.GetUsingClause() {
					s.columns[col.GetString_().GetSval()] = true
				}
			case *pg.Alias:
				s.allCols = s.allCols || len(n.GetColnames()) > 0
			}
			return true
		})
	}
}

func (a *analyzer) inspectName(list []*pg.Node) {
	if len(list) == 0 {
		return
	}
	if name := list[len(list)-1].GetString_().GetSval(); a.inClosure(name) {
		a.hide("it uses " + name + ", through which ohlcv may be read")
	}
}

// inspectColumn hides a statement with a function in a column's place: t.f is f(t) where t has no column f.
func (a *analyzer) inspectColumn(fields []*pg.Node) {
	for _, field := range fields {
		name := strings.ToLower(field.GetString_().GetSval())
		called := a.created[name]
		if a.catalog != nil {
			_, in := a.catalog.Rows[name]
			called = called || in
		}
		if called {
			a.hide("it uses " + name + ", through which ohlcv may be read")
		}
	}
}

func (a *analyzer) inspectCall(s *statement, root proto.Message, f *pg.FuncCall) {
	list := f.GetFuncname()
	a.inspectName(list)
	if len(list) == 0 {
		return
	}
	name := list[len(list)-1].GetString_().GetSval()
	if name == "set_config" {
		s.configured(root, f)
	}
	a.inspectHanded(s, name, f)
	switch {
	case strings.HasPrefix(name, "schema_to_xml") || strings.HasPrefix(name, "database_to_xml"):
		a.hide("it calls " + name)
	case runsText(name):
		for _, arg := range f.GetArgs() {
			c := arg.GetAConst()
			if c == nil || a.mentioned(c.GetSval().GetSval()) {
				a.hide("it calls " + name + ", which runs SQL")
			}
		}
	case !namesOnly(name):
		for _, arg := range f.GetArgs() {
			text := arg.GetAConst()
			if cast := arg.GetTypeCast(); cast != nil {
				text = cast.GetArg().GetAConst()
			}
			if a.mentioned(text.GetSval().GetSval()) {
				a.hide("it hands the name of ohlcv to the function " + name)
			}
		}
	}
}

// inspectString hides a statement with a constant that is itself SQL over ohlcv.
func (a *analyzer) inspectString(text string) {
	const shortest = len("table ohlcv")
	if len(text) < shortest || !a.mentioned(text) {
		return
	}
	if checkText(text) != nil {
		a.hide("it holds a text that may be SQL over ohlcv")
		return
	}
	tree, err := pg.Parse(text)
	if err != nil {
		return
	}
	walk(tree, func(m proto.Message) bool {
		if rv, ok := m.(*pg.RangeVar); ok && (isOurs(rv) || a.inClosure(rv.GetRelname())) {
			a.hide("it holds a text that is SQL over ohlcv")
			return false
		}
		return true
	})
}

func (s *statement) noteColumn(c *pg.ColumnRef) {
	fields := c.GetFields()
	if len(fields) == 0 {
		return
	}
	last := fields[len(fields)-1]
	if last.GetAStar() != nil {
		s.allCols = true
		return
	}
	s.columns[last.GetString_().GetSval()] = true
}

// noteCreated remembers what a statement makes or renames, so that later statements of the text do not mistake it.
func (a *analyzer) noteCreated(root *pg.Node, created map[string]bool) {
	note := func(list []*pg.Node) {
		if len(list) > 0 {
			created[strings.ToLower(list[len(list)-1].GetString_().GetSval())] = true
		}
	}
	switch n := root.GetNode().(type) {
	case *pg.Node_CreateSchemaStmt:
		for _, element := range n.CreateSchemaStmt.GetSchemaElts() {
			a.noteCreated(element, created)
		}
	case *pg.Node_ViewStmt:
		created[strings.ToLower(n.ViewStmt.GetView().GetRelname())] = true
	case *pg.Node_CreateFunctionStmt:
		note(n.CreateFunctionStmt.GetFuncname())
	case *pg.Node_RuleStmt:
		created[strings.ToLower(n.RuleStmt.GetRelation().GetRelname())] = true
	case *pg.Node_CreateTrigStmt:
		if a.firesReader(n.CreateTrigStmt) {
			created[strings.ToLower(n.CreateTrigStmt.GetRelation().GetRelname())] = true
		}
	case *pg.Node_CreatePolicyStmt:
		created[strings.ToLower(n.CreatePolicyStmt.GetTable().GetRelname())] = true
	case *pg.Node_DefineStmt:
		note(n.DefineStmt.GetDefnames())
	case *pg.Node_CreateCastStmt:
		note(n.CreateCastStmt.GetSourcetype().GetNames())
		note(n.CreateCastStmt.GetTargettype().GetNames())
	case *pg.Node_CreateEventTrigStmt:
		if name := lastName(n.CreateEventTrigStmt.GetFuncname()); a.inClosure(name) || a.catalog.callsDynamic(name) {
			created[eventsName] = true
		}
	case *pg.Node_CreateTableAsStmt:
		if n.CreateTableAsStmt.GetObjtype() == pg.ObjectType_OBJECT_MATVIEW {
			created[strings.ToLower(n.CreateTableAsStmt.GetInto().GetRel().GetRelname())] = true
		}
	default:
		a.noteUsers(root, created)
	}
}
