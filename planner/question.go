package planner

import (
	"strconv"
	"strings"
	"sync"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"

	"barkeep/internal/market"
)

// pureFunctions are functions of pg_catalog that may be asked of the database: their results depend on their arguments
// and the session's settings only.
var pureFunctions = map[string]bool{ //nolint:gochecknoglobals // a table
	"date_trunc": true, "date_bin": true, "make_date": true, "make_timestamp": true, "make_timestamptz": true,
	"make_interval": true, "to_timestamp": true, "to_date": true, "timezone": true, "justify_days": true,
	"justify_hours": true, "justify_interval": true, "date_part": true, "extract": true, "date": true,
}

// askText asks for a text as a point in time.
func (e *evaluator) askText(text string, to kind) value {
	if !e.env.known || clockWord(text) || abbreviated(text) {
		return value{}
	}
	name := map[kind]string{kindTimestamptz: "timestamptz", kindTimestamp: "timestamp", kindDate: "date"}[to]
	literal := quote(text) + "::" + name
	if to != kindTimestamptz {
		// Its wall clock, read as if it were UTC.
		return e.answer("(("+literal+")::timestamp AT TIME ZONE 'UTC')", to)
	}
	return e.answer(literal, to)
}

func quote(text string) string {
	prefix := ""
	if strings.Contains(text, `\`) {
		prefix = "E"
		text = strings.ReplaceAll(text, `\`, `\\`)
	}
	return prefix + "'" + strings.ReplaceAll(text, "'", "''") + "'"
}

// ask asks for the whole of what ts is compared with as an instant, if it is made of constants and functions of pg_catalog that
// do not depend on the clock. A part of it may be of another type, and is not asked for.
func (e *evaluator) ask(node *pg.Node) value {
	if !e.env.known || !e.askable(node, 0) || e.readOtherwise(node) {
		return value{}
	}
	if e.given != nil {
		e.start.ownTree = true
		return value{}
	}
	copied, ok := proto.Clone(node).(*pg.Node)
	if !ok || !substitute(copied, e.literal) {
		return value{}
	}
	sql := questionText(copied)
	if sql == "" {
		return value{}
	}
	return e.answer("("+sql+")::timestamptz", kindTimestamptz)
}

// askTexts asks for the whole of what symbol or timeframe is compared with as a text, or as an array of them, if it is made of
// constants and functions of pg_catalog over texts (PLANNER 9); false where that is not so, or not answered yet.
func (e *evaluator) askTexts(node *pg.Node, asArray bool) (text *string, ok bool) {
	x := textual{users: e.users}
	if !x.ok(node, 0) || len(x.columns) > 0 || e.mustOwn(node) {
		return nil, false
	}
	copied, ok := proto.Clone(node).(*pg.Node)
	if !ok || !substitute(copied, e.textLiteral) {
		return nil, false
	}
	sql := questionText(copied)
	if sql == "" {
		return nil, false
	}
	q := Question{SQL: "SELECT (" + sql + ")::text", Immutable: !x.stable}
	if asArray {
		q.SQL = "SELECT to_json((" + sql + ")::text[])::text"
	}
	q.Key = q.SQL
	text, ok = e.askFor(q)
	if ok && text != nil && strings.HasPrefix(*text, failedPrefix) && !asArray {
		return nil, false
	}
	return text, ok
}

// expressionText returns an expression as SQL that is shown, empty where that fails.
func expressionText(node *pg.Node) string {
	sql, err := pg.Deparse(expressionTree(node))
	if err != nil {
		return ""
	}
	return strings.TrimPrefix(sql, "SELECT ")
}

// questionText returns an expression as SQL that the database reads as the same expression, empty where the deparser does not give such: an
// operand that needs parentheses does not always get them, as in (a OR b) IS NULL; or where the database may read an array in it
// otherwise than the user's session: NULL in one is a text where array_nulls is off there.
func questionText(node *pg.Node) string {
	if nullSpelled(node) {
		return ""
	}
	if !nested(node) {
		return expressionText(node)
	}
	return strings.TrimPrefix(writtenAs(expressionTree(node)), "SELECT ")
}

// nullSpelled reports whether there is a literal that may be an array with NULL in it.
func nullSpelled(node *pg.Node) bool {
	found := false
	walk(node, func(m proto.Message) bool {
		if c, ok := m.(*pg.A_Const); ok {
			text := c.GetSval().GetSval()
			found = found || strings.Contains(text, "{") && containsFold(text, "null")
		}
		return !found
	})
	return found
}

func expressionTree(node *pg.Node) *pg.ParseResult {
	return &pg.ParseResult{Version: treeVersion(), Stmts: []*pg.RawStmt{{Stmt: &pg.Node{Node: &pg.Node_SelectStmt{
		SelectStmt: &pg.SelectStmt{
			TargetList: []*pg.Node{{Node: &pg.Node_ResTarget{ResTarget: &pg.ResTarget{Val: node}}}},
			Op:         pg.SetOperation_SETOP_NONE, LimitOption: pg.LimitOption_LIMIT_OPTION_DEFAULT,
		},
	}}}}}
}

// nested reports whether there is more than one operator in an expression, so that one may be an operand of another. The cast of a constant
// is one where it may be subscripted.
func nested(node *pg.Node) bool {
	operators, casts, subscripts := 0, 0, 0
	walk(node, func(m proto.Message) bool {
		switch n := m.(type) {
		case *pg.A_Expr, *pg.BoolExpr, *pg.NullTest, *pg.BooleanTest, *pg.CollateClause:
			operators++
		case *pg.A_Indirection:
			subscripts++
		case *pg.TypeCast:
			if n.GetArg().GetAConst() == nil {
				operators++
			} else {
				casts++
			}
		}
		return operators+subscripts < 2
	})
	return operators+subscripts > 1 || subscripts > 0 && casts > 0
}

// treeVersion is the version that the deparser wants a tree to have: the parser's own.
var treeVersion = sync.OnceValue(func() int32 { //nolint:gochecknoglobals // computed once
	tree, err := pg.Parse("SELECT")
	if err != nil {
		return 0
	}
	return tree.GetVersion()
})

// answer returns the answer to a question, kindOpaque where there is none yet.
func (e *evaluator) answer(expression string, to kind) value {
	key := e.env.TimeZone + "|" + e.env.DateStyle + "|" + e.env.IntervalStyle + "|" + expression
	text, found := e.askFor(Question{Key: key, Under: e.env.Locale(), SQL: "SELECT (extract(epoch FROM " + expression + ") * 1000000)::text"})
	if !found {
		return value{}
	}
	if text == nil {
		return nullOf(to)
	}
	i, ok := parseMicros(*text)
	if !ok {
		return value{}
	}
	return value{kind: to, lo: i, hi: i}
}

// askFor returns the answer to a question; false where there is none yet.
func (e *evaluator) askFor(q Question) (*string, bool) {
	text, found := e.answers[q.Key]
	if !found {
		e.asked.note(q)
	}
	return text, found
}

func (e *evaluator) askable(node *pg.Node, depth int) bool {
	if depth > 20 {
		return false
	}
	all := func(list []*pg.Node) bool {
		for _, n := range list {
			if !e.askable(n, depth+1) {
				return false
			}
		}
		return true
	}
	switch n := node.GetNode().(type) {
	case *pg.Node_AConst:
		if s := n.AConst.GetSval(); s != nil {
			return !clockWord(s.GetSval()) && !abbreviated(s.GetSval())
		}
		return true
	case *pg.Node_ParamRef:
		return true
	case *pg.Node_TypeCast:
		list := n.TypeCast.GetTypeName().GetNames()
		if len(list) == 0 || (len(list) == 2 && list[0].GetString_().GetSval() != "pg_catalog") || len(list) > 2 {
			return false
		}
		_, known := typeOIDs[list[len(list)-1].GetString_().GetSval()]
		return known && e.askable(n.TypeCast.GetArg(), depth+1)
	case *pg.Node_FuncCall:
		name, ok := callName(n.FuncCall.GetFuncname())
		return ok && pureFunctions[name] && n.FuncCall.GetOver() == nil && n.FuncCall.GetAggFilter() == nil &&
			(byFormat(name, n.FuncCall.GetArgs()) || all(n.FuncCall.GetArgs()))
	case *pg.Node_AExpr:
		op, ok := callName(n.AExpr.GetName())
		return ok && n.AExpr.GetKind() == pg.A_Expr_Kind_AEXPR_OP && (op == "+" || op == "-" || op == "*" || op == "/") &&
			(n.AExpr.GetLexpr() == nil || e.askable(n.AExpr.GetLexpr(), depth+1)) && e.askable(n.AExpr.GetRexpr(), depth+1)
	}
	return false
}

// byFormat reports whether a call reads a literal by a format whose result is a matter of the two and of TimeZone: not by the
// abbreviation of a zone, nor by names in the language of lc_time.
func byFormat(name string, args []*pg.Node) bool {
	if name != "to_timestamp" && name != "to_date" || len(args) != 2 || args[0].GetAConst().GetSval() == nil {
		return false
	}
	format := args[1].GetAConst().GetSval()
	return format != nil && !containsFold(format.GetSval(), "tz") && !containsFold(format.GetSval(), "tm")
}

// abbreviated reports whether a literal may have the abbreviation of a zone in it: what those mean is a setting of the user's session
// (timezone_abbreviations) that the database is not told of. Zones by their full names have a slash.
func abbreviated(text string) bool {
	for field := range strings.FieldsSeq(strings.ToLower(text)) {
		if strings.Contains(field, "/") {
			continue
		}
		for word := range strings.FieldsFuncSeq(field, func(r rune) bool { return r < 'a' || r > 'z' }) {
			if !dateWords[word] {
				return true
			}
		}
	}
	return false
}

// dateWords are the words of dates, intervals and units, none of which is a zone.
var dateWords = map[string]bool{ //nolint:gochecknoglobals // a table
	"t": true, "z": true, "utc": true, "am": true, "pm": true, "bc": true, "ad": true, "epoch": true, "infinity": true, "j": true,
	"january": true, "february": true, "march": true, "april": true, "may": true, "june": true, "july": true, "august": true,
	"september": true, "october": true, "november": true, "december": true, "jan": true, "feb": true, "mar": true, "apr": true,
	"jun": true, "jul": true, "aug": true, "sep": true, "sept": true, "oct": true, "nov": true, "dec": true, "monday": true,
	"tuesday": true, "wednesday": true, "thursday": true, "friday": true, "saturday": true, "sunday": true, "mon": true,
	"tue": true, "tues": true, "wed": true, "thu": true, "thur": true, "thurs": true, "fri": true, "sat": true, "sun": true,
	"year": true, "years": true, "month": true, "months": true, "week": true, "weeks": true, "day": true, "days": true,
	"hour": true, "hours": true, "minute": true, "minutes": true, "second": true, "seconds": true, "quarter": true, "decade": true,
	"century": true, "millennium": true, "mons": true, "min": true, "mins": true, "sec": true, "secs": true, "y": true, "d": true,
	"h": true, "m": true, "s": true, "w": true, "p": true, "pt": true, "ago": true,
}

// clockWord reports whether a literal may be one of those that name a time by the clock.
func clockWord(text string) bool {
	text = strings.ToLower(text)
	for _, word := range []string{"now", "today", "tomorrow", "yesterday", "allballs"} {
		if strings.Contains(text, word) {
			return true
		}
	}
	return false
}

// substitute puts the parameters' values in their places; false where one cannot be written as a literal.
func substitute(root proto.Message, literal func(number int32) (*pg.Node, bool)) bool {
	var params []*pg.Node
	walk(root, func(m proto.Message) bool {
		if n, ok := m.(*pg.Node); ok && n.GetParamRef() != nil {
			params = append(params, n)
		}
		return true
	})
	for _, p := range params {
		constant, ok := literal(p.GetParamRef().GetNumber())
		if !ok {
			return false
		}
		p.Node = constant.GetNode()
	}
	return true
}

// literal writes a parameter of a known type as a constant of that type.
func (e *evaluator) literal(number int32) (*pg.Node, bool) {
	v := e.param(number)
	var text, name string
	switch {
	case v.null || v.lo != v.hi || e.unsure[number]:
		return nil, false
	case v.kind == kindInt:
		return intLiteral(v.n), true
	case v.kind == kindTimestamptz:
		text, name = timeLiteral(v.lo)+"Z", "timestamptz"
	case v.kind == kindTimestamp:
		text, name = timeLiteral(v.lo), "timestamp"
	case v.kind == kindDate:
		text, name = timeLiteral(v.lo), "date"
	case v.kind == kindText && !clockWord(v.text):
		text, name = v.text, "text"
	default:
		return nil, false
	}
	if v.isTime() && (v.lo < 0 || v.lo.IsInf() || v.lo.Time().Year() > 9999) {
		return nil, false
	}
	return typed(pg.MakeAConstStrNode(text, -1), name), true
}

func nullNode() *pg.Node { return &pg.Node{Node: &pg.Node_AConst{AConst: &pg.A_Const{Isnull: true}}} }

func typed(constant *pg.Node, name string, bounds ...*pg.Node) *pg.Node {
	return &pg.Node{Node: &pg.Node_TypeCast{TypeCast: &pg.TypeCast{
		Arg: constant, TypeName: &pg.TypeName{Names: []*pg.Node{pg.MakeStrNode(name)}, ArrayBounds: bounds, Typemod: -1},
	}}}
}

func intLiteral(n int64) *pg.Node {
	if int64(int32(n)) == n { //nolint:gosec // that is what is found out
		return pg.MakeAConstIntNode(n, -1)
	}
	return typed(pg.MakeAConstStrNode(strconv.FormatInt(n, 10), -1), "int8")
}

// textLiteral writes a parameter that is a text, a number or an array of texts as a constant of that type.
func (e *evaluator) textLiteral(number int32) (*pg.Node, bool) {
	v := e.param(number)
	switch {
	case e.unsure[number]:
	case v.kind == kindText && v.null:
		return typed(nullNode(), "text"), true
	case v.kind == kindText && !strings.Contains(v.text, "\x00"):
		return typed(pg.MakeAConstStrNode(v.text, -1), "text"), true
	case v.kind == kindInt && !v.null:
		return intLiteral(v.n), true
	case v.kind == kindOpaque && e.named == nil:
		return e.arrayLiteral(int(number) - 1)
	}
	return nil, false
}

// arrayLiteral writes a parameter that is an array of texts.
func (e *evaluator) arrayLiteral(at int) (*pg.Node, bool) {
	if at < 0 || at >= len(e.args.Values) || e.args.Values[at] == nil {
		return nil, false
	}
	raw, oid := e.args.Values[at], uint32(0)
	if at < len(e.oids) {
		oid = e.oids[at]
	}
	if at < len(e.args.OIDs) && e.args.OIDs[at] != 0 {
		oid = e.args.OIDs[at]
	}
	e.noteUntyped(at, oid)
	bounds := pg.MakeIntNode(-1)
	switch {
	case oid != oidTextArray && oid != oidVarcharArray:
		return nil, false
	case !e.binary(at):
		return typed(pg.MakeAConstStrNode(string(raw), -1), "text", bounds), e.readable(raw)
	}
	element, raws, ok := decodeArray(raw)
	list := &pg.A_ArrayExpr{}
	for _, r := range raws {
		v, known := decodeBinary(element, r)
		ok = ok && known && v.kind == kindText && r != nil && e.readable(r) && !strings.Contains(v.text, "\x00")
		list.Elements = append(list.Elements, pg.MakeAConstStrNode(v.text, -1))
	}
	return typed(&pg.Node{Node: &pg.Node_AArrayExpr{AArrayExpr: list}}, "text", bounds), ok
}

func timeLiteral(i market.Instant) string { return i.Time().Format("2006-01-02 15:04:05.999999") }
