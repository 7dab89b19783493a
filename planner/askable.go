package planner

import (
	"slices"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
)

// checker looks through what is to be asked for anything whose value may differ from one execution to the next, or that does
// more than read.
type checker struct {
	catalog *analyzer // nil: what reads ohlcv does not matter
	names   Names
	params  []int
	reads   bool
	strs    bool
	setting bool // it reads a setting
	why     string
	// top is the question's own SELECT, and gathered a call of array_agg whose order does not matter.
	top      *pg.SelectStmt
	gathered *pg.FuncCall
}

// Askable returns why the definition of a view, or the expression of a policy, that a question passes through keeps it from being
// asked; empty where it does not. What a definition refers to is for the database to say. Set is that of the Data.
func Askable(sql string, set bool) string {
	sql = strings.TrimSuffix(strings.TrimSpace(sql), ";")
	if checkText(sql) != nil {
		return "its definition is not understood"
	}
	tree, err := pg.Parse(sql)
	if err != nil || len(tree.GetStmts()) != 1 || tree.GetStmts()[0].GetStmt().GetSelectStmt() == nil {
		return "its definition is not understood"
	}
	c := checker{}
	why := c.check(tree)
	if why == "" && set && c.setting {
		why = "it reads a setting, behind a SET of the same Query"
	}
	return why
}

// check returns the first thing that keeps the tree from being asked.
func (c *checker) check(root proto.Message) string {
	walk(root, func(m proto.Message) bool {
		if c.why == "" {
			c.visit(m)
		}
		return c.why == ""
	})
	return c.why
}

func (c *checker) visit(m proto.Message) {
	switch n := m.(type) {
	case *pg.SelectStmt:
		c.selects(n)
	case *pg.InsertStmt, *pg.UpdateStmt, *pg.DeleteStmt, *pg.MergeStmt:
		c.why = "it writes"
	case *pg.RangeTableSample:
		c.why = "it reads a sample"
	case *pg.RangeTableFunc, *pg.JsonTable, *pg.XmlExpr, *pg.CurrentOfExpr, *pg.JsonObjectAgg, *pg.JsonArrayAgg, *pg.JsonAggConstructor:
		c.why = "it has an expression that is not understood"
	case *pg.RangeVar:
		c.relation(n)
	case *pg.FuncCall:
		c.call(n)
	case *pg.A_Expr, *pg.SubLink, *pg.CaseExpr, *pg.JoinExpr:
		c.compares(n)
	case *pg.SortBy:
		c.operator(n.GetUseOp())
	case *pg.TypeName:
		c.typeName(n)
	case *pg.CollateClause:
		if name := lastName(n.GetCollname()); name != "C" && name != "POSIX" && name != "default" {
			c.why = "it uses the collation " + name
		}
	case *pg.ColumnRef:
		if len(n.GetFields()) > 1 {
			c.fields(n.GetFields()[1:])
		}
	case *pg.A_Indirection:
		c.fields(n.GetIndirection())
	case *pg.ParamRef:
		c.params = append(c.params, int(n.GetNumber()))
	case *pg.A_Const:
		c.strs = c.strs || n.GetSval() != nil
	}
}

// selects looks for rows that are picked from ties, by whichever comes first.
func (c *checker) selects(n *pg.SelectStmt) {
	c.gathers(n)
	switch {
	case n.GetIntoClause() != nil:
		c.why = "it writes"
	case len(n.GetLockingClause()) > 0:
		c.why = "it locks rows"
	case limited(n) && (n.GetLimitOption() != pg.LimitOption_LIMIT_OPTION_WITH_TIES || n.GetLimitOffset() != nil):
		c.why = "a LIMIT or OFFSET below it may pick other rows another time"
	case slices.ContainsFunc(n.GetDistinctClause(), func(d *pg.Node) bool { return d.GetNode() != nil }):
		c.why = "a DISTINCT ON may pick other rows another time"
	}
}

// gathers notes an array_agg that is all that a SELECT gives: of an array that is taken apart again, the order does not matter.
func (c *checker) gathers(n *pg.SelectStmt) {
	if len(n.GetTargetList()) != 1 {
		return
	}
	f := n.GetTargetList()[0].GetResTarget().GetVal().GetFuncCall()
	name, ok := callName(f.GetFuncname())
	apart := n == c.top // by whoever asks: any other type than an array is what an answer has to be of
	if ok && name == "unnest" && len(f.GetArgs()) == 1 {
		f, apart = f.GetArgs()[0].GetFuncCall(), true
		name, ok = callName(f.GetFuncname())
	}
	if ok && name == "array_agg" && apart && f.GetOver() == nil {
		c.gathered = f
	}
}

func (c *checker) relation(rv *pg.RangeVar) {
	name := relationName(rv)
	if !slices.Contains(c.names.Relations, name) {
		c.names.Relations = append(c.names.Relations, name)
	}
	c.reads = c.reads || isOurs(rv) || c.catalog != nil && c.catalog.readsOurs(rv.GetRelname())
}

// relationName is a relation's name as SQL writes it.
func relationName(rv *pg.RangeVar) string {
	if schema := rv.GetSchemaname(); schema != "" {
		return quoteName(schema) + "." + quoteName(rv.GetRelname())
	}
	return quoteName(rv.GetRelname())
}

func quoteName(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// askedFunctions are functions and aggregates, beside scalarFunctions and pureFunctions, whose results depend on nothing but
// their arguments, the data and the session's settings; of aggregates, not on the order of the rows.
var askedFunctions = map[string]bool{ //nolint:gochecknoglobals // a table
	"min": true, "max": true, "count": true, "sum": true, "avg": true, "bool_and": true, "bool_or": true, "every": true,
	"stddev": true, "stddev_pop": true, "stddev_samp": true, "variance": true, "var_pop": true, "var_samp": true,
	"corr": true, "covar_pop": true, "covar_samp": true, "regr_slope": true, "bit_and": true, "bit_or": true,
	"generate_series": true, "unnest": true, "array_length": true, "cardinality": true, "array_position": true, "string_to_array": true,
	"strpos": true, "position": true, "starts_with": true, "reverse": true, "initcap": true, "lpad": true, "rpad": true, "repeat": true,
	"translate": true, "overlay": true, "ascii": true, "chr": true, "md5": true, "char_length": true, "octet_length": true,
	"concat_ws": true, "regexp_replace": true, "regexp_match": true, "like_escape": true, "similar_to_escape": true, "current_setting": true,
	"pg_has_role": true, "greatest": true, "least": true, "transaction_timestamp": true, "statement_timestamp": true,
	"json_array_elements": true, "json_array_elements_text": true, "json_each": true, "json_each_text": true, "json_object_keys": true,
	"json_to_record": true, "json_to_recordset": true, "jsonb_array_elements": true, "jsonb_array_elements_text": true, "jsonb_each": true,
	"jsonb_each_text": true, "jsonb_object_keys": true, "jsonb_to_record": true, "jsonb_to_recordset": true, "regexp_split_to_table": true,
	"string_to_table": true, "jsonb_extract_path_text": true, "json_extract_path_text": true, "int2": true, "float4": true, "varchar": true,
}

// ranks are the window functions that give rows with equal keys the same value.
var ranks = map[string]bool{"rank": true, "dense_rank": true, "percent_rank": true, "cume_dist": true} //nolint:gochecknoglobals // a table

func (c *checker) call(f *pg.FuncCall) {
	names := f.GetFuncname()
	name, ok := callName(names)
	c.setting = c.setting || name == "current_setting"
	bucket := name == "time_bucket" && len(names) == 2 && names[0].GetString_().GetSval() == "public"
	switch {
	case f == c.gathered:
		c.names.Functions = append(c.names.Functions, name)
	case !ok && !bucket, f.GetOver() == nil && !scalarFunctions[name] && !pureFunctions[name] && !askedFunctions[name]:
		c.why = "it calls the function " + lastName(names)
	case f.GetOver() != nil && !ranks[name]:
		c.why = "it computes " + name + " over a window"
	case len(names) == 1 || bucket:
		c.names.Functions = append(c.names.Functions, name)
	}
}

// compares notes the operators of an expression, also those that the grammar implies: they are found by the search_path as the
// written ones are, and a user's for (varchar, varchar) goes before pg_catalog's for text.
func (c *checker) compares(m proto.Message) {
	switch n := m.(type) {
	case *pg.A_Expr:
		switch n.GetKind() {
		case pg.A_Expr_Kind_AEXPR_BETWEEN, pg.A_Expr_Kind_AEXPR_NOT_BETWEEN, pg.A_Expr_Kind_AEXPR_BETWEEN_SYM, pg.A_Expr_Kind_AEXPR_NOT_BETWEEN_SYM:
			c.names.Operators = append(c.names.Operators, "<", "<=", ">", ">=")
		default:
			c.operator(n.GetName())
		}
	case *pg.SubLink:
		c.operator(n.GetOperName())
		if n.GetSubLinkType() == pg.SubLinkType_ANY_SUBLINK && len(n.GetOperName()) == 0 {
			c.names.Operators = append(c.names.Operators, "=")
		}
	case *pg.CaseExpr:
		if n.GetArg() != nil {
			c.names.Operators = append(c.names.Operators, "=")
		}
	case *pg.JoinExpr:
		if n.GetIsNatural() || len(n.GetUsingClause()) > 0 {
			c.names.Operators = append(c.names.Operators, "=")
		}
	}
}

func (c *checker) operator(names []*pg.Node) {
	switch {
	case len(names) == 0:
	case len(names) > 1 && names[0].GetString_().GetSval() != "pg_catalog":
		c.why = "it uses the operator " + lastName(names)
	case len(names) == 1:
		c.names.Operators = append(c.names.Operators, lastName(names))
	}
}

// askedTypes are types of pg_catalog, beside typeOIDs.
var askedTypes = map[string]bool{ //nolint:gochecknoglobals // a table
	"float4": true, "float8": true, "numeric": true, "bpchar": true, "uuid": true, "json": true, "jsonb": true, "time": true,
	"bytea": true, "oid": true, "double precision": true, "real": true, "decimal": true, "char": true, "regclass": true,
}

func (c *checker) typeName(n *pg.TypeName) {
	names := n.GetNames()
	if len(names) == 0 {
		return
	}
	name := lastName(names)
	if _, known := typeOIDs[name]; !builtin(names) || !known && !askedTypes[name] {
		c.why = "it uses the type " + name
	}
}

// fields notes names that may be functions in a column's place.
func (c *checker) fields(list []*pg.Node) {
	for _, field := range list {
		if name := field.GetString_().GetSval(); name != "" {
			c.names.Columns = append(c.names.Columns, name)
		}
	}
}
