package planner

import (
	"strconv"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"

	"barkeep/internal/market"
)

// evaluator computes constants for one execution of one statement.
type evaluator struct {
	args   Args
	oids   []uint32 // parameter types as declared or inferred; zero where neither
	unsure map[int32]bool
	named  *arguments // of EXECUTE, in place of args
	env    settings
	// readIn holds other settings in which the literals may have been read.
	readIn  []Locale
	start   *start
	given   map[*pg.A_Const]*pg.A_Const // the text's own constants, in place of those that were analysed
	answers Answers
	asked   *questions
	depth   int
	// questions are the statement's, and data what has been asked of them; nil where nothing is to be asked.
	questions map[*pg.SubLink]*question
	data      *dataState
	targets   []string // relations that the statement writes
	// symbols are what symbol was compared with.
	symbols [][]string
	users   func(name string) bool
}

// settings are the session's, as they stand when the statement begins.
type settings struct {
	Env
	// known says that TimeZone, DateStyle and IntervalStyle are the caller's, so that the database can be asked; it is
	// false once the text itself may have changed one of them.
	known bool
	// zoneKnown says that TimeZone is what the session has, as given or as the text has set it.
	zoneKnown bool
}

func (s settings) utc() bool { return s.zoneKnown && isUTC(s.TimeZone) }

const maxEvalDepth = 200

// eval returns the value of a constant expression; kindOpaque where it is not one, or not one that is evaluated here.
func (e *evaluator) eval(node *pg.Node) value {
	e.depth++
	defer func() { e.depth-- }()
	if e.depth > maxEvalDepth {
		return value{}
	}
	switch n := node.GetNode().(type) {
	case *pg.Node_AConst:
		return e.literalValue(n.AConst)
	case *pg.Node_ParamRef:
		return e.param(n.ParamRef.GetNumber())
	case *pg.Node_TypeCast:
		return e.cast(n.TypeCast)
	case *pg.Node_SqlvalueFunction:
		return e.sqlValue(n.SqlvalueFunction)
	case *pg.Node_FuncCall:
		return e.call(n.FuncCall)
	case *pg.Node_AExpr:
		if _, ok := callName(n.AExpr.GetName()); ok && n.AExpr.GetKind() == pg.A_Expr_Kind_AEXPR_NULLIF {
			return e.nullIf(n.AExpr)
		}
		return e.arithmetic(n.AExpr)
	case *pg.Node_CoalesceExpr:
		return e.coalesce(n.CoalesceExpr)
	case *pg.Node_MinMaxExpr:
		return e.extremeOf(n.MinMaxExpr)
	case *pg.Node_CaseExpr:
		return e.choose(n.CaseExpr)
	case *pg.Node_SubLink:
		return e.scalarSelect(n.SubLink)
	}
	return value{}
}

func (e *evaluator) literalValue(c *pg.A_Const) value {
	if own, ok := e.given[c]; ok {
		c = own
	}
	return evalConst(c)
}

func evalConst(c *pg.A_Const) value {
	if c.GetIsnull() {
		return nullOf(kindUnknown)
	}
	switch v := c.GetVal().(type) {
	case *pg.A_Const_Sval:
		return value{kind: kindUnknown, text: v.Sval.GetSval(), literal: true}
	case *pg.A_Const_Ival:
		return value{kind: kindInt, n: int64(v.Ival.GetIval())}
	case *pg.A_Const_Fval:
		n, err := strconv.ParseInt(v.Fval.GetFval(), 10, 64)
		if err != nil {
			return value{}
		}
		return value{kind: kindInt, n: n}
	case *pg.A_Const_Boolval:
		return value{kind: kindBool, b: v.Boolval.GetBoolval()}
	}
	return value{}
}

// param returns a parameter's value by its declared or inferred type.
func (e *evaluator) param(number int32) value {
	if e.named != nil {
		return e.named.values[number]
	}
	i := int(number) - 1
	if i < 0 || i >= len(e.args.Values) {
		return value{}
	}
	var oid uint32
	if i < len(e.oids) {
		oid = e.oids[i]
	}
	if i < len(e.args.OIDs) && e.args.OIDs[i] != 0 {
		oid = e.args.OIDs[i]
	}
	k := kindOf(oid)
	raw := e.args.Values[i]
	e.noteUntyped(i, oid)
	switch {
	case raw == nil:
		return nullOf(k)
	case k == kindOpaque:
		return value{}
	case e.binary(i):
		v, ok := decodeBinary(oid, raw)
		if !ok || v.kind == kindText && !e.readable(raw) {
			return value{}
		}
		return v
	case !e.readable(raw):
		return value{}
	}
	if e.unsure[number] && (oid == 0 || oid == oidUnknown) {
		return ambiguousText(string(raw))
	}
	text := value{kind: kindUnknown, text: string(raw)}
	if k == kindUnknown {
		return text
	}
	return e.convert(text, k)
}

// noteUntyped notes that a parameter's value is not what it would be were its type known: in binary it is nothing, and as text
// it may be of any type.
func (e *evaluator) noteUntyped(at int, oid uint32) {
	if oid != 0 && oid != oidUnknown || e.args.Values[at] == nil {
		return
	}
	if e.unsure[int32(at+1)] || e.binary(at) { //nolint:gosec // there are at most 65,535
		e.start.untyped = true
	}
}

// ambiguousText is a parameter whose type is inferred from a use that is not understood here. As text it is itself
// under every type that compares with text; cast to anything, or as a time, it is nothing: '2024-01-01 23:00' is midnight if another
// use has it be a date, as in ts::date >= $1 AND ts >= $1::timestamp.
func ambiguousText(text string) value {
	if len(text) > 63 || strings.HasSuffix(text, " ") {
		return value{}
	}
	return value{kind: kindText, text: text, unsure: true}
}

func (e *evaluator) binary(i int) bool {
	switch f := e.args.Formats; len(f) {
	case 0:
		return false
	case 1:
		return f[0] == 1
	default:
		return i < len(f) && f[i] == 1
	}
}

// readable reports whether raw means the same in the client's encoding and in UTF-8.
func (e *evaluator) readable(raw []byte) bool {
	if IsUTF8(e.env.ClientEncoding) {
		return true
	}
	for _, c := range raw {
		if c >= 0x80 {
			return false
		}
	}
	return true
}

// castOID returns the type a cast names, false where it has a length, a precision or array bounds.
func castOID(t *pg.TypeName) (uint32, bool) {
	list := t.GetNames()
	if len(t.GetArrayBounds()) > 0 || len(t.GetTypmods()) > 0 || t.GetSetof() || t.GetPctType() || !builtin(list) {
		return 0, false
	}
	oid, ok := typeOIDs[list[len(list)-1].GetString_().GetSval()]
	return oid, ok
}

// builtin reports whether a type's name is that of one of pg_catalog's.
func builtin(names []*pg.Node) bool {
	return len(names) == 1 || len(names) == 2 && names[0].GetString_().GetSval() == "pg_catalog"
}

func (e *evaluator) cast(c *pg.TypeCast) value {
	oid, ok := castOID(c.GetTypeName())
	if !ok {
		if v := e.eval(c.GetArg()); v.null {
			return nullOf(kindOpaque)
		}
		return value{}
	}
	v := e.eval(c.GetArg())
	if v.unsure {
		return value{}
	}
	return e.convert(v, kindOf(oid))
}

// convert casts a value as PostgreSQL does; casts not done here give kindOpaque.
func (e *evaluator) convert(v value, to kind) value {
	if v.null {
		return nullOf(to)
	}
	text := v.kind == kindUnknown || v.kind == kindText
	switch to {
	case kindTimestamptz, kindTimestamp, kindDate:
		switch {
		case v.literal && v.kind == kindUnknown:
			return e.readLiteral(v.text, to)
		case text:
			return e.parseText(v.text, to)
		}
		return e.convertTime(v, to)
	case kindText:
		if text {
			return value{kind: kindText, text: v.text, unsure: v.unsure}
		}
	case kindInterval:
		if v.kind == kindInterval {
			return v
		}
		if s, ok := parseSpan(v.text); ok && text {
			return value{kind: kindInterval, span: s}
		}
	case kindInt:
		if v.kind == kindInt {
			return v
		}
		if n, err := strconv.ParseInt(strings.TrimSpace(v.text), 10, 64); err == nil && text {
			return value{kind: kindInt, n: n}
		}
	case kindBool:
		if v.kind == kindBool {
			return v
		}
		if text {
			return parseBool(v.text)
		}
	case kindUnknown, kindOpaque:
	}
	return value{}
}

func parseBool(text string) value {
	switch strings.ToLower(strings.TrimSpace(text)) {
	case "t", "true", "on", "yes", "y", "1":
		return value{kind: kindBool, b: true}
	case "f", "false", "off", "no", "n", "0":
		return value{kind: kindBool}
	}
	return value{}
}

// convertTime casts between the three types of points in time.
func (e *evaluator) convertTime(v value, to kind) value {
	switch v.kind {
	case kindTimestamptz, kindTimestamp, kindDate:
	default:
		return value{}
	}
	zoned, toZoned := v.kind == kindTimestamptz, to == kindTimestamptz
	if zoned != toZoned && !e.env.utc() {
		v = v.widen(e.env.farZone(), e.env.farZone())
	}
	v.kind = to
	if to == kindDate {
		v.lo, v.hi = market.D1.Floor(v.lo), market.D1.Floor(v.hi)
	}
	return v
}

// parseText reads the text of a point in time.
func (e *evaluator) parseText(text string, to kind) value {
	z, ok := parseTime(text)
	if !ok {
		return e.timeWord(text, to)
	}
	switch {
	case to == kindTimestamp:
		return instant(to, z.local)
	case to == kindDate:
		return instant(to, market.D1.Floor(z.local))
	case z.hasZone:
		return instant(to, z.local.Shift(-z.offset))
	}
	v := instant(kindTimestamp, z.local)
	if e.env.utc() {
		return e.convertTime(v, to)
	}
	if answer := e.askText(text, to); answer.kind == to {
		return answer
	}
	return e.convertTime(v, to)
}

// timeWord reads a word that stands for a point in time, and leaves all else to the database.
func (e *evaluator) timeWord(text string, to kind) value {
	switch strings.ToLower(strings.TrimSpace(text)) {
	case "infinity":
		return instant(to, market.PosInf)
	case "-infinity":
		return instant(to, market.NegInf)
	case "epoch":
		if to == kindTimestamptz {
			return instant(to, 0)
		}
	case "now", "today", "yesterday":
		// A literal is evaluated when the statement is parsed, which may be long ago.
		return value{kind: to, lo: market.NegInf, hi: e.start.bracket().Hi.Shift(e.env.farZone())}
	}
	return e.askText(text, to)
}

// time returns the value as ts is compared with it.
func (e *evaluator) time(node *pg.Node) value {
	v := e.eval(node)
	if v.null {
		return nullOf(kindTimestamptz)
	}
	if v.kind == kindText {
		return value{} // timestamptz has no operator with text
	}
	out := e.convert(v, kindTimestamptz)
	if out.kind == kindOpaque && v.kind != kindUnknown {
		return e.ask(node)
	}
	return out
}

// text returns the value as symbol and timeframe are compared with it.
func (e *evaluator) text(node *pg.Node) value {
	v := e.eval(node)
	switch {
	case v.null:
		return nullOf(kindText)
	case v.kind == kindUnknown || v.kind == kindText:
		v.kind = kindText
		return v
	}
	switch text, ok := e.askTexts(node, false); {
	case !ok:
		return value{}
	case text == nil:
		return nullOf(kindText)
	default:
		return value{kind: kindText, text: *text}
	}
}

func (e *evaluator) sqlValue(f *pg.SQLValueFunction) value {
	if f.GetTypmod() >= 0 {
		return value{}
	}
	switch f.GetOp() {
	case pg.SQLValueFunctionOp_SVFOP_CURRENT_TIMESTAMP:
		return e.now()
	case pg.SQLValueFunctionOp_SVFOP_LOCALTIMESTAMP:
		return e.convertTime(e.now(), kindTimestamp)
	case pg.SQLValueFunctionOp_SVFOP_CURRENT_DATE:
		return e.convertTime(e.now(), kindDate)
	default:
		return value{}
	}
}

func (e *evaluator) now() value {
	b := e.start.bracket()
	return value{kind: kindTimestamptz, lo: b.Lo, hi: b.Hi}
}

// callName returns a function's name, false where it is in a schema that is not pg_catalog.
func callName(list []*pg.Node) (string, bool) {
	switch len(list) {
	case 1:
		return list[0].GetString_().GetSval(), true
	case 2:
		return list[1].GetString_().GetSval(), list[0].GetString_().GetSval() == "pg_catalog"
	}
	return "", false
}

func (e *evaluator) call(f *pg.FuncCall) value {
	name, ok := callName(f.GetFuncname())
	if !ok || f.GetAggStar() || f.GetAggDistinct() || f.GetAggFilter() != nil || f.GetOver() != nil || f.GetFuncVariadic() {
		return value{}
	}
	args := f.GetArgs()
	switch {
	case len(args) == 0 && (name == "now" || name == "transaction_timestamp"):
		return e.now()
	case len(args) == 0 && (name == "statement_timestamp" || name == "clock_timestamp"):
		// Both run on after the start of the transaction.
		return value{kind: kindTimestamptz, lo: e.start.bracket().Lo, hi: market.PosInf}
	case len(args) == 2 && name == "date_trunc":
		if v := e.truncate(e.eval(args[0]), e.eval(args[1])); v.kind != kindOpaque {
			return v
		}
	case name == "make_interval":
		return e.makeInterval(args)
	}
	return value{}
}

// scalarSelect is (SELECT constant).
func (e *evaluator) scalarSelect(s *pg.SubLink) value {
	sel := s.GetSubselect().GetSelectStmt()
	if s.GetSubLinkType() != pg.SubLinkType_EXPR_SUBLINK || !isBareSelect(sel) {
		return e.subquery(s)
	}
	v := e.eval(sel.GetTargetList()[0].GetResTarget().GetVal())
	if v.kind == kindUnknown {
		v.kind = kindText // a literal of a subquery is text
	}
	return v
}

// isBareSelect reports whether the SELECT is one expression and nothing else.
func isBareSelect(s *pg.SelectStmt) bool {
	return s != nil && len(s.GetTargetList()) == 1 && len(s.GetFromClause()) == 0 && s.GetWhereClause() == nil &&
		s.GetOp() == pg.SetOperation_SETOP_NONE && len(s.GetValuesLists()) == 0 && s.GetLimitCount() == nil &&
		s.GetLimitOffset() == nil && s.GetHavingClause() == nil && len(s.GetGroupClause()) == 0 && s.GetWithClause() == nil &&
		s.GetIntoClause() == nil && len(s.GetDistinctClause()) == 0
}
