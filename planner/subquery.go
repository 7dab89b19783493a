package planner

import (
	"fmt"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
)

// askData returns the answer to a subquery's question; false where there is none yet, or none to be had.
func (e *evaluator) askData(s *pg.SubLink, form int) (Column, *question, bool) {
	q := e.questions[s]
	if q == nil {
		return Column{}, nil, false
	}
	answer, known := e.askQuestion(q, form)
	return answer, q, known
}

func (e *evaluator) askQuestion(q *question, form int) (Column, bool) {
	e.start.used = true // the plan holds for this moment only
	if e.given != nil {
		e.start.ownTree = true // the question has the constants of the text that was analysed
		return Column{}, false
	}
	if e.data == nil {
		return Column{}, false
	}
	d, why := e.dataOf(q, form)
	if why == "" {
		answer, known := e.args.Data[d.Key]
		switch {
		case !known:
			if e.data.asked == nil {
				e.data.asked = map[string]Data{}
			}
			e.data.asked[d.Key] = d
			e.data.pending++
			return Column{}, false
		case answer.Unknown == "":
			return answer, true
		}
		why = answer.Unknown
	}
	e.data.unasked = why
	return Column{}, false
}

// dataOf returns the question as it is asked in this execution, or why it cannot be.
func (e *evaluator) dataOf(q *question, form int) (d Data, why string) {
	if e.named != nil && q.why == "" && len(q.params) > 0 {
		if q, why = e.executed(q); why != "" {
			return d, why
		}
	}
	switch {
	case q.why != "":
		return d, "a subquery that cannot be asked beforehand: " + q.why
	case e.args.Unaskable != "":
		return d, e.args.Unaskable
	case e.data.later:
		return d, "a subquery behind other statements of the same Query"
	case e.data.set && (q.setting || q.reads): // what it reads of ohlcv would be filled under the settings before
		return d, "a subquery that reads ohlcv or a setting, behind a SET of the same Query"
	case !e.env.known || len(e.readIn) > 0 && q.strs:
		return d, "a subquery whose constants may have been read under other settings"
	}
	sql := q.sql(form)
	encoded := encodeText(sql, e.env.ClientEncoding)
	if back, ok := decodeText(encoded, e.env.ClientEncoding); sql == "" || !ok || back != sql {
		return d, "a subquery that cannot be written down by itself"
	}
	d = Data{SQL: encoded, Params: q.params, Reads: q.reads, Names: q.names, Set: e.data.set, View: q.view}
	d.Targets = e.targets
	var key strings.Builder
	key.WriteString(encoded)
	if d.Set {
		key.WriteString("\x00set")
	}
	if d.View {
		key.WriteString("\x00view")
	}
	for _, number := range q.params {
		if number > len(e.args.Values) {
			return d, "a subquery with parameters that are not known"
		}
		fmt.Fprintf(&key, "\x00%v%x", e.args.Values[number-1] == nil, e.args.Values[number-1])
	}
	d.Key = key.String()
	return d, ""
}

// dataState is what of the user's data one statement's plan has asked for.
type dataState struct {
	asked map[string]Data
	// pending counts the values that are not known before something is asked.
	pending int
	// unasked says why something could not be asked.
	unasked string
	// later says that statements of the same text come before the one in hand which may change what a question gives, or take
	// long: others may change it meanwhile. set says that a setting is set before it that changes no answer.
	later, set bool
}

// behind notes that a statement of the same text is executed before the one in hand: all questions are asked before both.
func (d *dataState) behind(s *statement) {
	switch {
	case s.transaction != nil && (s.transaction.GetKind() == pg.TransactionStmtKind_TRANS_STMT_BEGIN || s.transaction.GetKind() == pg.TransactionStmtKind_TRANS_STMT_START):
		// The snapshot is taken by a statement behind it.
	case s.prepare != nil || s.deallocates != nil && !s.unsettles:
	case s.set != nil && changesNoAnswer(s.set):
		d.set = true
	default:
		d.later = true
	}
}

// changesNoAnswer reports whether a SET or RESET is of one setting on which no answer depends but that of current_setting.
func changesNoAnswer(n *pg.VariableSetStmt) bool {
	switch n.GetKind() {
	case pg.VariableSetKind_VAR_SET_VALUE, pg.VariableSetKind_VAR_SET_DEFAULT, pg.VariableSetKind_VAR_RESET:
	default:
		return false
	}
	switch name := strings.ToLower(n.GetName()); name {
	case "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "client_min_messages", "work_mem", "application_name":
		return true
	default:
		return strings.HasPrefix(name, ownPrefix)
	}
}

// texts returns an answer's values as symbol and timeframe are compared with them; false where that is not known. A char(n) is compared
// with a text as the text that it is without the blanks at its end (pg_cast: the cast is implicit, and text the preferred type).
func (e *evaluator) texts(c Column) ([]value, bool) {
	switch c.OID {
	case oidText, oidVarchar, oidName, oidUnknown, oidBPChar:
	default:
		e.data.unasked = "a subquery of a type that is not compared as text"
		return nil, false
	}
	list := make([]value, 0, len(c.Values))
	for _, raw := range c.Values {
		if raw == nil {
			list = append(list, nullOf(kindText))
			continue
		}
		text, ok := decodeText(string(raw), e.env.ClientEncoding)
		if !ok {
			return nil, false
		}
		if c.OID == oidBPChar {
			text = strings.TrimRight(text, " ")
		}
		list = append(list, value{kind: kindText, text: text})
	}
	return list, true
}

// plainValues returns an answer's values by their type; false where one is not understood.
func (e *evaluator) plainValues(c Column) ([]value, bool) {
	list := make([]value, 0, len(c.Values))
	for _, raw := range c.Values {
		if raw == nil {
			list = append(list, nullOf(kindOf(c.OID)))
			continue
		}
		v, ok := decodeBinary(c.OID, raw)
		if !ok || v.kind == kindText {
			return nil, false
		}
		list = append(list, v)
	}
	return list, true
}

// subquery returns the value of a scalar subquery: of one that may be any of several times, what they lie between.
func (e *evaluator) subquery(s *pg.SubLink) value {
	if s.GetSubLinkType() != pg.SubLinkType_EXPR_SUBLINK {
		return value{}
	}
	answer, q, known := e.askData(s, formPlain)
	if !known {
		return value{}
	}
	list, ok := e.plainValues(answer)
	switch {
	case !ok:
		return value{}
	case len(list) == 0:
		return nullOf(kindOf(answer.OID))
	case len(list) == 1 && !q.among:
		return list[0]
	case !list[0].isTime() || q.empty:
		return value{}
	}
	v := list[0]
	for _, each := range list {
		if each.null || each.lo.IsInf() {
			return value{} // what a bound would be then is not between the others
		}
		v.lo, v.hi = min(v.lo, each.lo), max(v.hi, each.hi)
	}
	return v
}

// dataElements returns what op ANY and op ALL of a subquery compare with, and whether all of it is the subquery's own.
func (b *bounder) dataElements(col string, s *pg.SubLink) (list []value, exact, ok bool) {
	form := formText
	if col == colTS {
		form = formPlain
	}
	answer, q, known := b.askData(s, form)
	if !known {
		return nil, false, false
	}
	if form == formText {
		list, ok = b.texts(answer)
		return list, !q.among, ok
	}
	list, ok = b.plainValues(answer)
	for i, v := range list {
		if list[i] = b.convert(v, kindTimestamptz); ok && !v.null && list[i].kind == kindOpaque {
			return nil, false, false
		}
	}
	return list, !q.among, ok
}

// textSubquery returns the subquery that symbol or timeframe is compared with, nil where it is none.
func textSubquery(node *pg.Node) *pg.SubLink {
	for node.GetTypeCast() != nil {
		if oid, ok := castOID(node.GetTypeCast().GetTypeName()); !ok || oid != oidText && oid != oidVarchar {
			return nil
		}
		node = node.GetTypeCast().GetArg()
	}
	if s := node.GetSubLink(); s.GetSubLinkType() == pg.SubLinkType_EXPR_SUBLINK && !isBareSelect(s.GetSubselect().GetSelectStmt()) {
		return s
	}
	return nil
}

// compareSubquery bounds symbol or timeframe by a comparison with a scalar subquery; false where the other side is none.
func (b *bounder) compareSubquery(col, op string, node *pg.Node) (truth, bool) {
	s := textSubquery(node)
	if col == colTS || s == nil {
		return truth{}, false
	}
	list, exact, ok := b.dataElements(col, s)
	if !ok {
		b.blame(col, node)
		b.unclear(col)
		b.unseen = b.unseen || col == colSymbol
		return unknownTruth(), true
	}
	if len(list) == 0 {
		list = []value{nullOf(kindText)}
	}
	out := truth{f: nil}
	for _, v := range list {
		t := b.compareValue(col, op, v)
		out = truth{out.t.union(t.t), out.f.union(t.f), out.n.union(t.n)}
	}
	if !exact {
		out.n = everything() // it may have no rows
	}
	return out, true
}

// castSubquery returns the scalar subquery whose array of texts op ANY and op ALL compare with, as in any((SELECT …)::text[]); nil where
// the array is none.
func castSubquery(node *pg.Node) *pg.SubLink {
	t, s := node.GetTypeCast().GetTypeName(), node.GetTypeCast().GetArg().GetSubLink()
	if s.GetSubLinkType() != pg.SubLinkType_EXPR_SUBLINK || isBareSelect(s.GetSubselect().GetSelectStmt()) {
		return nil
	}
	if oid := castType(t); oid != oidTextArray && oid != oidVarcharArray || len(t.GetArrayBounds()) != 1 || len(t.GetTypmods()) > 0 {
		return nil
	}
	return s
}

// arraySubquery returns the subquery whose rows op ANY and op ALL compare with, nil where the array is no subquery.
func arraySubquery(node *pg.Node) *pg.SubLink {
	switch s := node.GetSubLink(); s.GetSubLinkType() {
	case pg.SubLinkType_ANY_SUBLINK, pg.SubLinkType_ALL_SUBLINK, pg.SubLinkType_ARRAY_SUBLINK:
		return s
	default:
		return nil
	}
}

// compileSubquery understands x op ANY (SELECT …), x IN (SELECT …) and x op ALL (SELECT …).
func (a *analyzer) compileSubquery(l *level, node *pg.Node) *pred {
	s := node.GetSubLink()
	op := "="
	if len(s.GetOperName()) > 0 {
		op = lastName(s.GetOperName())
		if _, builtin := callName(s.GetOperName()); !builtin {
			return unknownPred()
		}
	}
	kind := predAny
	switch s.GetSubLinkType() {
	case pg.SubLinkType_ANY_SUBLINK:
	case pg.SubLinkType_ALL_SUBLINK:
		kind = predAll
	default:
		return unknownPred()
	}
	if flipped[op] == "" || s.GetTestexpr().GetRowExpr() != nil {
		return unknownPred()
	}
	a.sublinks(l, node)
	return &pred{kind: kind, op: op, left: a.operandOf(l, s.GetTestexpr()), right: operand{constant: node}}
}
