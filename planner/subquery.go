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
	switch {
	case q.why != "":
		return d, "a subquery that cannot be asked beforehand: " + q.why
	case e.args.Unaskable != "":
		return d, e.args.Unaskable
	case e.data.later:
		return d, "a subquery behind other statements of the same Query"
	case !e.env.known || len(e.readIn) > 0 && q.strs:
		return d, "a subquery whose constants may have been read under other settings"
	case e.named != nil && len(q.params) > 0:
		return d, "a subquery with parameters of EXECUTE"
	}
	sql := q.sql(form)
	encoded := encodeText(sql, e.env.ClientEncoding)
	if back, ok := decodeText(encoded, e.env.ClientEncoding); sql == "" || !ok || back != sql {
		return d, "a subquery that cannot be written down by itself"
	}
	d = Data{SQL: encoded, Params: q.params, Reads: q.reads, Names: q.names}
	var key strings.Builder
	key.WriteString(encoded)
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
	// later says that statements of the same text come before the one in hand.
	later bool
}

// texts returns an answer's values as symbol and timeframe are compared with them; false where that is not known.
func (e *evaluator) texts(c Column) ([]value, bool) {
	switch c.OID {
	case oidText, oidVarchar, oidName, oidUnknown:
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
