package planner

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"

	"barkeep/internal/market"
)

// Conditions on symbol that are decided by the database (PLANNER 13).
//
// The invariant: a row of ohlcv that such a condition accepts when the statement runs is of a symbol that was asked about when the
// statement was last planned, or of one that nobody can fetch.
//
// Where the other conditions leave a finite set of symbols, these are asked about, and that is all. Else all symbols are that a row
// can be of: those that are bound, since every writer of bars binds first; those that a source lists under its prefix, since any of
// them may be asked for by the condition alone; and of the symbols without a prefix that are not bound yet those that the statement
// names, since nobody else has asked for them. A symbol that comes from a user's own table, or from a function, may be one of the
// latter without being named: beside a condition with such (statement.symbolic) nothing is asked, unless a prefix of the condition
// has the source's colon in it.

// universe is the set of symbols that the conditions of a scan are decided for.
type universe struct {
	list    []string // all of it, where listing is nil
	listing *Listing
}

// minAsked and maxAsked bound the finite sets that are asked about: a question costs a round trip, where nothing that was named may
// be what the statement reads.
const minAsked, maxAsked = 2, 5000

// resolve narrows what is read by the conditions on symbol that the database decides.
func (x *binding) resolve(s *statement, readings []*reading, e *evaluator) {
	for _, r := range readings {
		u, ok := x.universeOf(s, r, readings, e)
		if !ok {
			continue
		}
		b := &bounder{evaluator: e, scan: r.scan.item, reading: &reading{}, universe: u}
		rows, loose := b.conditions(r.scan)
		if rows.openSymbols() && u.listing != nil && !b.unanswered {
			if all, ok := b.matches("true", false); ok {
				rows = rows.intersect(symbolsIn(all.t))
			}
		}
		r.rows, r.loose, r.failure = r.rows.intersect(rows), loose, b.failure
		r.resolved = u.listing != nil && !r.rows.openSymbols()
		if x.explained && !b.unanswered && !r.rows.openSymbols() {
			x.found(r)
		}
	}
}

// universeOf returns the symbols that a scan's conditions are to be decided for; false where nothing is to be decided, or where
// they are not known.
func (x *binding) universeOf(s *statement, r *reading, readings []*reading, e *evaluator) (*universe, bool) {
	if !r.rows.openSymbols() {
		if !r.scan.asks {
			return nil, false
		}
		list := r.rows.hull().symbols.list
		return &universe{list: list}, len(list) >= minAsked && len(list) <= maxAsked
	}
	if !r.scan.names {
		return nil, false
	}
	_, strange := s.symbolic()
	strange = strange || slices.ContainsFunc(readings, func(o *reading) bool { return o.unseen })
	prefix := e.prefixOf(r.scan)
	if strange && !strings.Contains(prefix, ":") {
		return nil, false
	}
	l := &Listing{Prefix: prefix}
	for _, name := range e.namedSymbols(s) {
		if strings.HasPrefix(name, prefix) && !strings.Contains(name, ":") {
			l.Named = append(l.Named, name)
		}
	}
	return &universe{listing: l}, true
}

// namedSymbols returns all texts of the statement, and those made of them, that may be symbols.
func (e *evaluator) namedSymbols(s *statement) []string {
	list := slices.Concat(e.symbols...)
	for _, tree := range s.trees {
		walk(tree, func(m proto.Message) bool {
			c, ok := m.(*pg.A_Const)
			if !ok {
				return true
			}
			if own, given := e.given[c]; given {
				c = own
			}
			list = append(list, textsOf(c.GetSval().GetSval())...)
			return true
		})
	}
	for i, raw := range e.args.Values {
		if e.named != nil {
			break
		}
		if _, elements, ok := decodeArray(raw); ok && e.binary(i) {
			for _, each := range elements {
				list = append(list, string(each))
			}
		}
		list = append(list, textsOf(string(raw))...)
	}
	if e.named != nil {
		for _, v := range e.named.values {
			list = append(list, textsOf(v.text)...)
		}
	}
	list = slices.DeleteFunc(list, func(name string) bool {
		_, err := market.ParseSymbol(name)
		return err != nil
	})
	slices.Sort(list)
	return slices.Compact(list)
}

// textsOf returns a text, and its elements where it is an array or a list.
func textsOf(text string) []string {
	list := []string{text}
	if parts, ok := parseArray(text); ok {
		for _, part := range parts {
			if !part.null {
				list = append(list, part.text)
			}
		}
	}
	return list
}

// prefixOf returns what every symbol begins with that passes the scan's conditions.
func (e *evaluator) prefixOf(sc *scan) string {
	longest := ""
	for _, q := range sc.quals {
		if !q.ofSymbol(sc.item) {
			continue
		}
		if prefix := e.prefix(q.source); len(prefix) > len(longest) {
			longest = prefix
		}
	}
	return longest
}

// prefix returns what a symbol begins with for which the condition is true: a pattern, or starts_with.
func (e *evaluator) prefix(node *pg.Node) string {
	column := func(n *pg.Node) bool { return n.GetColumnRef() != nil }
	text := func(n *pg.Node) string {
		if v := e.eval(n); (v.kind == kindText || v.kind == kindUnknown) && !v.null {
			return v.text
		}
		return ""
	}
	switch n := node.GetNode().(type) {
	case *pg.Node_AExpr:
		op, _ := callName(n.AExpr.GetName())
		switch kind := n.AExpr.GetKind(); {
		case !column(n.AExpr.GetLexpr()):
		case op == "^@" && kind == pg.A_Expr_Kind_AEXPR_OP:
			return text(n.AExpr.GetRexpr())
		case op == "~~" && (kind == pg.A_Expr_Kind_AEXPR_OP || kind == pg.A_Expr_Kind_AEXPR_LIKE):
			return patternPrefix(text(n.AExpr.GetRexpr()))
		}
	case *pg.Node_FuncCall:
		name, _ := callName(n.FuncCall.GetFuncname())
		if args := n.FuncCall.GetArgs(); name == "starts_with" && len(args) == 2 && column(args[0]) {
			return text(args[1])
		}
	}
	return ""
}

// patternPrefix returns what a text begins with that is LIKE the pattern: all before the first of its special characters.
func patternPrefix(pattern string) string {
	if at := strings.IndexAny(pattern, `%_\`); at >= 0 {
		return pattern[:at]
	}
	return pattern
}

// symbolic decides a condition on symbol for the symbols of the universe; until the database has answered, it may be anything.
func (b *bounder) symbolic(p *pred) truth {
	sql, ok := b.sourceText(p.source)
	if !ok {
		b.unanswered = true
		return unknownTruth()
	}
	m, ok := b.matches(sql, !p.stable && b.universe.listing == nil)
	if !ok {
		b.unanswered = true
		return unknownTruth()
	}
	out := truth{t: symbolsIn(m.t), f: symbolsIn(m.t.complement()), n: symbolsIn(m.n)}
	if b.negated > 0 {
		out.f = symbolsIn(m.f)
	}
	return out
}

// sourceText writes a condition over the column symbol, with the parameters' values in their places.
func (b *bounder) sourceText(node *pg.Node) (string, bool) {
	if b.mustOwn(node) {
		return "", false
	}
	copied, ok := proto.Clone(node).(*pg.Node)
	if !ok || !substitute(copied, b.textLiteral) {
		return "", false
	}
	walk(copied, func(m proto.Message) bool {
		if c, is := m.(*pg.ColumnRef); is {
			c.Fields = []*pg.Node{pg.MakeStrNode(colSymbol)}
		}
		return true
	})
	sql := questionText(copied)
	return sql, sql != ""
}

// mustOwn reports whether the text has constants of its own in the place of the expression's: it needs a template of its own then.
func (e *evaluator) mustOwn(node *pg.Node) bool {
	if e.given == nil {
		return false
	}
	own := false
	walk(node, func(m proto.Message) bool {
		c, is := m.(*pg.A_Const)
		if _, given := e.given[c]; is && given {
			own = true
		}
		return !own
	})
	e.start.ownTree = e.start.ownTree || own
	return own
}

// found are the symbols of a universe for which a condition is true, false and null; f is empty where it was not asked for.
type found struct{ t, f, n names }

// matches returns the symbols of the universe for which the condition holds; false where the database has not answered, or with an
// error.
func (b *bounder) matches(sql string, immutable bool) (found, bool) {
	q := Question{Immutable: immutable, Listed: b.universe.listing}
	from := "(SELECT symbol FROM listed)"
	if q.Listed == nil {
		from = "unnest(" + arrayText(b.universe.list) + ")"
	}
	falses := ""
	if b.negated > 0 {
		falses = ", 'f', json_agg(symbol) FILTER (WHERE NOT holds)"
	}
	q.SQL = "SELECT json_build_object('t', json_agg(symbol) FILTER (WHERE holds), 'n', json_agg(symbol) FILTER (WHERE holds IS NULL)" + falses +
		")::text FROM (SELECT symbol, (" + sql + ") AS holds FROM " + from + " AS s(symbol) OFFSET 0) AS r"
	q.Key = q.SQL
	if q.Listed != nil {
		q.Key = strconv.Quote(q.Listed.Prefix) + arrayText(q.Listed.Named) + q.SQL
	}
	text, answered := b.askFor(q)
	if !answered || text == nil {
		return found{}, false
	}
	if failure, failed := strings.CutPrefix(*text, failedPrefix); failed {
		if why, unlisted := strings.CutPrefix(failure, " "); unlisted {
			b.failure = why
		} else {
			b.failure = "a condition on symbol fails with SQLSTATE " + failure
		}
		return found{}, false
	}
	var lists struct{ T, F, N []string }
	if json.Unmarshal([]byte(*text), &lists) != nil {
		return found{}, false
	}
	return found{t: servable(lists.T), f: servable(lists.F), n: servable(lists.N)}, true
}

// servable leaves names out that no symbol can have: a source may list one, but nobody can ask for its bars.
func servable(list []string) names {
	return someNames(slices.DeleteFunc(list, func(name string) bool {
		_, err := market.ParseSymbol(name)
		return err != nil
	})...)
}

func arrayText(list []string) string {
	var b strings.Builder
	b.WriteString("ARRAY[")
	for i, each := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(quote(each))
	}
	b.WriteString("]::text[]")
	return b.String()
}

// found notes for an EXPLAIN (BARKEEP) what came of the conditions on symbol.
func (x *binding) found(r *reading) {
	var sources []string
	collectSources(r.scan.quals, r.scan.item, &sources)
	what := "names"
	if r.resolved {
		what = "symbols that are bound or listed"
	}
	if len(sources) == 0 {
		sources = []string{"the conditions on symbol"}
	}
	text := fmt.Sprintf("%d %s for %s", len(r.rows.symbolNames()), what, strings.Join(sources, ", "))
	if !slices.Contains(x.plan.Found, text) {
		x.plan.Found = append(x.plan.Found, text)
	}
}

func collectSources(quals []*pred, it *item, into *[]string) {
	for _, q := range quals {
		if q.ofSymbol(it) {
			*into = append(*into, expressionText(q.source))
			continue
		}
		collectSources(q.kids, it, into)
	}
}

// symbolNames returns the symbols of a region that has no open side there.
func (r region) symbolNames() []string {
	if len(r) == 0 {
		return nil
	}
	return r.hull().symbols.list
}

// maxResolved bounds the symbols of a statement that names none.
const maxResolved = 10_000

// tooMany refuses a scan whose symbols were found by the database and are more than barkeep.max_bars lets be read, were it one bar
// of each (PLANNER 13). How many bars they have is known when they are bound, to who fetches them.
func (x *binding) tooMany(r *reading) bool {
	if !r.resolved {
		return false
	}
	count, limit := len(r.rows.symbolNames()), int64(maxResolved)
	if most := x.barLimit(); most > 0 {
		limit = min(limit, most)
	}
	if int64(count) <= limit {
		return false
	}
	refusal := refuse(fmt.Sprintf("the conditions on symbol hold for %d symbols, and at most %d can be read at once", count, limit))
	refusal.Hint = "Name fewer symbols, by a source's prefix say (symbol LIKE 'binance:%USDT'), or raise barkeep.max_bars; barkeep.symbols lists them."
	x.unplanned(ReasonManySymbols, refusal)
	return true
}

func (x *binding) barLimit() int64 {
	if n, err := strconv.ParseInt(strings.TrimSpace(x.env.MaxBars), 10, 64); err == nil && n > 0 {
		return n
	}
	return x.env.BarLimit
}
