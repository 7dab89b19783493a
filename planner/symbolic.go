package planner

import (
	"slices"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
)

// A condition on symbol that is not decided here (a pattern, a range, a function of it, another collation) is decided by the
// database, for each symbol that there may be (PLANNER 13). That is so for expressions over nothing but the symbol, constants and
// what the tables below name: all of it is pg_catalog's, depends on its arguments alone, and costs little whatever they are.

// textFunctions are functions of pg_catalog over texts and numbers. Where the value is true the function is IMMUTABLE; the others
// are STABLE for the types that they are not given here.
var textFunctions = map[string]bool{ //nolint:gochecknoglobals // a table
	"lower": true, "upper": true, "initcap": true, "left": true, "right": true, "substr": true, "substring": true, "split_part": true,
	"btrim": true, "ltrim": true, "rtrim": true, "replace": true, "translate": true, "reverse": true, "overlay": true, "length": true,
	"char_length": true, "character_length": true, "octet_length": true, "ascii": true, "chr": true, "strpos": true, "position": true,
	"starts_with": true, "md5": true, "hashtext": true, "abs": true, "mod": true, "regexp_replace": true, "regexp_like": true,
	"regexp_count": true, "regexp_instr": true, "regexp_substr": true, "regexp_match": true, "like_escape": true,
	"similar_to_escape": true, "string_to_array": true, "regexp_split_to_array": true, "array_length": true, "cardinality": true,
	"array_position": true, "textlike": true, "textnlike": true, "concat": false, "concat_ws": false,
}

// signatures are the types of the arguments of those of textFunctions of which there is one that fits: t for a text, i for an int4.
var signatures = map[string]string{ //nolint:gochecknoglobals // a table
	"lower": "t", "upper": "t", "initcap": "t", "left": "ti", "right": "ti", "substr": "tii", "split_part": "tti", "btrim": "tt",
	"ltrim": "tt", "rtrim": "tt", "replace": "ttt", "translate": "ttt", "reverse": "t", "starts_with": "tt", "strpos": "tt", "md5": "t",
	"like_escape": "tt", "similar_to_escape": "tt", "string_to_array": "tt", "regexp_split_to_array": "tt",
}

// givesText are those of textFunctions that give a text.
var givesText = map[string]bool{ //nolint:gochecknoglobals // a table
	"lower": true, "upper": true, "initcap": true, "left": true, "right": true, "substr": true, "substring": true, "split_part": true,
	"btrim": true, "ltrim": true, "rtrim": true, "replace": true, "translate": true, "reverse": true, "overlay": true, "md5": true,
	"regexp_replace": true, "regexp_substr": true, "like_escape": true, "similar_to_escape": true, "concat": true, "concat_ws": true,
}

// textOperators are operators of pg_catalog over texts, numbers and truth values.
var textOperators = map[string]bool{ //nolint:gochecknoglobals // a table
	"=": true, "<>": true, "!=": true, "<": true, ">": true, "<=": true, ">=": true, "||": true, "~~": true, "!~~": true, "~~*": true,
	"!~~*": true, "~": true, "!~": true, "~*": true, "!~*": true, "^@": true, "+": true, "-": true, "*": true, "/": true, "%": true,
	"~<~": true, "~<=~": true, "~>~": true, "~>=~": true,
}

// textTypes are the types that a cast may name, with a length or without.
var textTypes = map[string]bool{ //nolint:gochecknoglobals // a table
	"text": true, "varchar": true, "bpchar": true, "name": true, "int2": true, "int4": true, "int8": true, "bool": true,
}

// textual looks through expressions for what the database may be asked of them.
type textual struct {
	// users reports whether an object of a user's has that name, so that it may be meant in the place of pg_catalog's.
	users   func(name string) bool
	columns []*pg.ColumnRef
	// stable says that something in it is not IMMUTABLE.
	stable bool
}

const maxTextualDepth = 30

// ok reports whether the database may be asked for the expression, or for its value for each symbol.
func (x *textual) ok(node *pg.Node, depth int) bool {
	if depth > maxTextualDepth {
		return false
	}
	switch n := node.GetNode().(type) {
	case *pg.Node_AConst:
		return n.AConst.GetBsval() == nil
	case *pg.Node_ParamRef:
		return true
	case *pg.Node_ColumnRef:
		x.columns = append(x.columns, n.ColumnRef)
		return true
	case *pg.Node_TypeCast:
		return textType(n.TypeCast.GetTypeName()) && x.ok(n.TypeCast.GetArg(), depth+1)
	case *pg.Node_CollateClause:
		names := n.CollateClause.GetCollname()
		return builtin(names) && x.ok(n.CollateClause.GetArg(), depth+1)
	case *pg.Node_FuncCall:
		return x.call(n.FuncCall, depth)
	case *pg.Node_AExpr:
		return x.operation(n.AExpr, depth)
	case *pg.Node_BoolExpr:
		return x.all(n.BoolExpr.GetArgs(), depth)
	case *pg.Node_NullTest:
		return !n.NullTest.GetArgisrow() && x.ok(n.NullTest.GetArg(), depth+1)
	case *pg.Node_BooleanTest:
		return x.ok(n.BooleanTest.GetArg(), depth+1)
	case *pg.Node_CoalesceExpr:
		return x.all(n.CoalesceExpr.GetArgs(), depth)
	case *pg.Node_MinMaxExpr:
		return x.all(n.MinMaxExpr.GetArgs(), depth)
	case *pg.Node_List:
		return x.all(n.List.GetItems(), depth)
	case *pg.Node_AArrayExpr:
		return x.all(n.AArrayExpr.GetElements(), depth)
	case *pg.Node_CaseExpr:
		return x.choice(n.CaseExpr, depth)
	case *pg.Node_AIndirection:
		return x.element(n.AIndirection, depth)
	}
	return false
}

func (x *textual) all(list []*pg.Node, depth int) bool {
	return !slices.ContainsFunc(list, func(n *pg.Node) bool { return !x.ok(n, depth+1) })
}

func textType(t *pg.TypeName) bool {
	names := t.GetNames()
	return builtin(names) && len(t.GetArrayBounds()) <= 1 && !t.GetSetof() && !t.GetPctType() &&
		textTypes[names[len(names)-1].GetString_().GetSval()]
}

// usersNames returns whether a name is one of a user's object, in the catalog or made by the text itself.
func usersNames(c *Catalog, created map[string]bool) func(string) bool {
	return func(name string) bool {
		name = strings.ToLower(name)
		if c == nil {
			return created[name]
		}
		_, is := c.Users[name]
		return is || created[name] || c.holds(name)
	}
}

func (x *textual) call(f *pg.FuncCall, depth int) bool {
	name, ok := callName(f.GetFuncname())
	immutable, known := textFunctions[name]
	x.stable = x.stable || !immutable
	return ok && known && !x.users(name) && !f.GetAggStar() && !f.GetAggDistinct() && f.GetAggFilter() == nil && f.GetOver() == nil &&
		!f.GetFuncVariadic() && len(f.GetAggOrder()) == 0 && x.all(f.GetArgs(), depth)
}

func (x *textual) operation(n *pg.A_Expr, depth int) bool {
	op, ok := callName(n.GetName())
	if !ok || x.users(op) {
		return false
	}
	null := func(node *pg.Node) bool { return node.GetAConst().GetIsnull() }
	switch n.GetKind() {
	case pg.A_Expr_Kind_AEXPR_OP:
		if op == "=" && (null(n.GetLexpr()) || null(n.GetRexpr())) {
			return false // IS NULL under transform_null_equals
		}
	case pg.A_Expr_Kind_AEXPR_OP_ANY, pg.A_Expr_Kind_AEXPR_OP_ALL, pg.A_Expr_Kind_AEXPR_DISTINCT, pg.A_Expr_Kind_AEXPR_NOT_DISTINCT,
		pg.A_Expr_Kind_AEXPR_NULLIF, pg.A_Expr_Kind_AEXPR_IN, pg.A_Expr_Kind_AEXPR_LIKE, pg.A_Expr_Kind_AEXPR_ILIKE,
		pg.A_Expr_Kind_AEXPR_SIMILAR:
	case pg.A_Expr_Kind_AEXPR_BETWEEN, pg.A_Expr_Kind_AEXPR_NOT_BETWEEN, pg.A_Expr_Kind_AEXPR_BETWEEN_SYM, pg.A_Expr_Kind_AEXPR_NOT_BETWEEN_SYM:
		op = "="
	default:
		return false
	}
	return textOperators[op] && (n.GetLexpr() == nil || x.ok(n.GetLexpr(), depth+1)) && x.ok(n.GetRexpr(), depth+1)
}

func (x *textual) choice(n *pg.CaseExpr, depth int) bool {
	for _, w := range n.GetArgs() {
		if !x.ok(w.GetCaseWhen().GetExpr(), depth+1) || !x.ok(w.GetCaseWhen().GetResult(), depth+1) {
			return false
		}
	}
	return (n.GetArg() == nil || x.ok(n.GetArg(), depth+1)) && (n.GetDefresult() == nil || x.ok(n.GetDefresult(), depth+1))
}

// element is array[i].
func (x *textual) element(n *pg.A_Indirection, depth int) bool {
	for _, at := range n.GetIndirection() {
		if i := at.GetAIndices(); i == nil || i.GetIsSlice() || !x.ok(i.GetUidx(), depth+1) {
			return false
		}
	}
	return x.ok(n.GetArg(), depth+1)
}

// decided reports whether a condition on a symbol is one that is decided here, once its constants are known.
func (p *pred) decided() bool {
	plain := func(o operand) bool {
		return len(o.refs) > 0 && o.fn == nil && (o.cast == 0 || o.cast == oidText || o.cast == oidVarchar)
	}
	// Where a subquery cannot be asked of the user's data, it is seen when it is bound.
	constant := func(o operand) bool {
		return o.constant != nil && (o.constant.GetSubLink() != nil || columnless(o.constant))
	}
	switch p.kind { //nolint:exhaustive // others compare nothing
	case predCompare:
		return (p.op == "=" || p.op == "<>") && (plain(p.left) && constant(p.right) || constant(p.left) && plain(p.right))
	case predDistinct:
		return plain(p.left) && constant(p.right) || constant(p.left) && plain(p.right)
	case predAny, predAll:
		return plain(p.left) && constant(p.right) && (p.op == "=" || p.op == "<>")
	case predNull:
		return plain(p.left)
	}
	return false
}

// columnless reports whether an expression names no column; a list of constants may be long.
func columnless(node *pg.Node) bool {
	if list := node.GetList(); list != nil {
		return !slices.ContainsFunc(list.GetItems(), func(n *pg.Node) bool { return !columnless(n) })
	}
	return node.GetAConst() != nil || node.GetParamRef() != nil || !anyColumn(node)
}

// keepSource keeps the text of a condition over one column with it, for the case that the column is a symbol and the database has
// to say of which.
func (a *analyzer) keepSource(l *level, p *pred, node *pg.Node) {
	leaf := p
	if p.kind == predNot {
		leaf = p.kids[0] // NOT IN, IS NOT NULL and so on
	}
	if p.source != nil || leaf.kind == predAnd || leaf.kind == predOr || leaf.kind == predNot || leaf.kind == predBool || leaf.onTS() || leaf.decided() {
		return
	}
	x := textual{users: usersNames(a.catalog, a.created)}
	if !x.ok(node, 0) || len(x.columns) == 0 {
		return
	}
	var one operand
	for i, c := range x.columns {
		o := a.resolve(l, c.GetFields())
		if len(o.refs) == 0 || o.cast != 0 || o.fn != nil || i > 0 && !slices.Equal(o.refs, one.refs) || !a.spend() {
			return
		}
		one = o
	}
	p.one, p.source, p.stable = one, node, x.stable
}

// onTS reports whether a comparison is one with a scan's ts, as most are.
func (p *pred) onTS() bool {
	for _, o := range []operand{p.left, p.right} {
		for _, r := range o.refs {
			if r.item.scan && r.col == colTS && len(r.item.columns) == 0 {
				return true
			}
		}
	}
	return false
}

// ofSymbol reports whether the database can say of which symbols of the scan the condition is true.
func (p *pred) ofSymbol(it *item) bool {
	col, ok := p.one.of(it)
	return ok && col == colSymbol
}

// asksSymbols reports whether one of the conditions has to be decided by the database.
func asksSymbols(quals []*pred, it *item) bool {
	return slices.ContainsFunc(quals, func(p *pred) bool { return p.ofSymbol(it) || asksSymbols(p.kids, it) })
}

// namesSymbols reports whether one of the conditions is on the scan's symbol, and is decided here or by the database.
func namesSymbols(quals []*pred, it *item) bool {
	return slices.ContainsFunc(quals, func(p *pred) bool {
		return p.ofSymbol(it) || p.compares(it) && p.decided() || namesSymbols(p.kids, it)
	})
}

// compares reports whether one side of a condition is the scan's symbol.
func (p *pred) compares(it *item) bool {
	left, ok := p.left.of(it)
	right, ok2 := p.right.of(it)
	return ok && left == colSymbol || ok2 && right == colSymbol
}

// strange reports whether one of the conditions may be on the scan's symbol, and is neither decided here nor by the database nor
// one that links the scan with another scan, or constants: the symbols that it means may be ones that nobody has named yet. tainted are the names
// that may stand for a symbol.
func (sc *scan) strange(quals []*pred, tainted map[string]bool) bool {
	return slices.ContainsFunc(quals, func(p *pred) bool {
		switch {
		case p.ofSymbol(sc.item):
			return false
		case len(p.kids) > 0:
			return sc.strange(p.kids, tainted)
		case p.decided() || slices.ContainsFunc(sc.links, func(l link) bool { return l.by == p && !l.asks() }):
			return false
		case p.compares(sc.item):
			return true
		}
		return slices.ContainsFunc([]*pg.Node{p.node, p.left.constant, p.right.constant}, func(n *pg.Node) bool {
			return n != nil && refersTo(n, tainted)
		})
	})
}

// textUses notes the parameters that PostgreSQL takes for texts since what they are combined with is one.
func textUses(root *pg.Node, uses map[*pg.ParamRef]uint32) {
	walk(root, func(m proto.Message) bool {
		switch n := m.(type) {
		case *pg.A_Expr:
			textOperands(n, uses)
		case *pg.FuncCall:
			name, ok := callName(n.GetFuncname())
			for i, arg := range n.GetArgs() {
				switch types := signatures[name]; {
				case !ok || i >= len(types):
				case types[i] == 'i':
					noteUse(arg, oidInt4, uses)
				default:
					noteUse(arg, oidText, uses)
				}
			}
		}
		return true
	})
}

func textOperands(n *pg.A_Expr, uses map[*pg.ParamRef]uint32) {
	left, right := n.GetLexpr(), n.GetRexpr()
	switch n.GetKind() { //nolint:exhaustive // of the others nothing is known
	case pg.A_Expr_Kind_AEXPR_OP_ANY, pg.A_Expr_Kind_AEXPR_OP_ALL:
		if isText(left) {
			noteUse(right, oidTextArray, uses)
		}
	case pg.A_Expr_Kind_AEXPR_OP, pg.A_Expr_Kind_AEXPR_LIKE, pg.A_Expr_Kind_AEXPR_ILIKE, pg.A_Expr_Kind_AEXPR_SIMILAR,
		pg.A_Expr_Kind_AEXPR_DISTINCT, pg.A_Expr_Kind_AEXPR_NOT_DISTINCT:
		op, _ := callName(n.GetName())
		literal := func(node *pg.Node) bool { return op == "||" && node.GetAConst().GetSval() != nil }
		switch {
		case isText(left) || literal(left):
			noteUse(right, oidText, uses)
		case isText(right) || literal(right):
			noteUse(left, oidText, uses)
		}
	case pg.A_Expr_Kind_AEXPR_BETWEEN, pg.A_Expr_Kind_AEXPR_NOT_BETWEEN, pg.A_Expr_Kind_AEXPR_BETWEEN_SYM, pg.A_Expr_Kind_AEXPR_NOT_BETWEEN_SYM:
		if isText(left) {
			for _, bound := range right.GetList().GetItems() {
				noteUse(bound, oidText, uses)
			}
		}
	}
}

// isText reports whether an expression over a symbol is certainly a text.
func isText(node *pg.Node) bool {
	switch n := node.GetNode().(type) {
	case *pg.Node_ColumnRef:
		return true
	case *pg.Node_TypeCast:
		oid, ok := castOID(n.TypeCast.GetTypeName())
		return ok && oid == oidText
	case *pg.Node_FuncCall:
		name, ok := callName(n.FuncCall.GetFuncname())
		return ok && givesText[name]
	case *pg.Node_CollateClause:
		return isText(n.CollateClause.GetArg())
	case *pg.Node_AExpr:
		op, ok := callName(n.AExpr.GetName())
		text := func(node *pg.Node) bool { return isText(node) || node.GetAConst().GetSval() != nil }
		return ok && op == "||" && n.AExpr.GetKind() == pg.A_Expr_Kind_AEXPR_OP && (text(n.AExpr.GetLexpr()) || text(n.AExpr.GetRexpr()))
	}
	return false
}
