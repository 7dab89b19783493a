package planner

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Symbols and bounds may come from the user's own data (PLANNER 19): symbol IN (SELECT …), ts >= (SELECT max(ts) …). What
// such a subquery gives is asked in the user's session, where alone it means what it means in the statement, and the answer takes its
// place in the predicate.
//
// The invariant: where nobody changes the data between the last question and the statement, each value that the subquery has when the
// statement executes is among the answer's. So a question is asked only if its answer cannot differ from one execution to the next
// over the same data, and if asking it changes nothing: its functions, aggregates and operators are known ones, its rows are not
// sampled, locked or picked from ties, and views and policies that it passes through are seen into (Askable). Where
// the answer may hold more values than the subquery (Data of a LIMIT: all ties are asked for), a row is never excluded because of
// it: only what may be true is bounded, not what may be false or null (PLANNER 12).

// Data is a question about what the user's own data holds, to be asked in the user's session. Before it is asked, what Names holds
// is to be checked there; while Reads is set, what the question itself reads of ohlcv is to be planned and filled first.
type Data struct {
	Key string
	// SQL is the question, in the session's client_encoding. It selects one column, or two: then the second says whether the
	// first has a collation under which only equal texts are equal.
	SQL string
	// Params are the numbers of the statement's parameters that $1 … of the question stand for.
	Params []int
	Reads  bool
	// View says that the question is part of a view's definition, where it has the rights of the view's owner. The answer is the view's
	// only if it is everybody's: nothing that it reads may have row security.
	View bool
	// Set says that a SET comes between the question and the statement: nothing that the question passes through may read settings.
	Set bool
	Names
}

// String shows the question with its parameters and what it names.
func (d Data) String() string {
	var b strings.Builder
	b.WriteString(d.SQL)
	for i, n := range d.Params {
		fmt.Fprintf(&b, " [$%d is $%d]", i+1, n)
	}
	if d.Set {
		b.WriteString(" [before a SET]")
	}
	if d.View {
		b.WriteString(" [of a view]")
	}
	if d.Reads {
		b.WriteString(" [once what it reads is there]")
	}
	return b.String()
}

// Names are what a question names. Relations are as SQL writes them, the others bare names. Targets are the relations that the
// statement writes: a rule of one of them may have the statement's subqueries executed anew when it has written something.
type Names struct{ Relations, Functions, Columns, Operators, Targets []string }

// Column is the answer to a Data: its values in binary format, nil for NULL, of the type OID.
type Column struct {
	OID    uint32
	Values [][]byte
	// Unknown says why there is no answer; empty where there is one.
	Unknown string
}

// question is what a subquery is to the planner that may be asked.
type question struct {
	sub  *pg.SelectStmt // a copy, ready to be asked
	with *pg.WithClause // what it sees of the statement's own
	// why says what keeps it from being asked, empty where nothing does.
	why string
	// among says that the answer may hold values that the subquery does not.
	among bool
	// empty says that it may have no rows though the answer has some.
	empty bool
	reads bool
	// view says that it is part of a view's definition.
	view bool
	// setting says that it reads a setting.
	setting bool
	names   Names
	params  []int
	strs    bool // it has texts among its constants

	once [forms]sync.Once
	text [forms]string
}

// The forms of a question: values that are compared as texts, all others, and what these lie between.
const (
	formText = iota
	formPlain
	formEnds  // the least and the greatest value
	formArray // the elements of an array of texts
	forms
)

// sublinks registers the subqueries in what a column is compared with.
func (a *analyzer) sublinks(l *level, node *pg.Node) {
	walk(node, func(m proto.Message) bool {
		switch n := m.(type) {
		case *pg.SubLink:
			if sel := n.GetSubselect().GetSelectStmt(); sel != nil && a.spend() {
				if a.questions[n] == nil {
					a.questions[n] = a.question(sel, l)
				}
			}
			return false
		case *pg.SelectStmt:
			return false
		}
		return true
	})
}

// question prepares a subquery to be asked by itself. Names that it does not have are columns of the statement around it: there it
// fails, since nothing else can have them.
func (a *analyzer) question(sel *pg.SelectStmt, l *level) *question {
	q := &question{}
	var ok bool
	if q.sub, ok = proto.Clone(sel).(*pg.SelectStmt); !ok {
		q.why = "it is not understood"
		return q
	}
	if l == nil {
		q.why = "it is not understood"
		return q
	}
	if q.why = q.bringCTEs(l.within); q.why != "" {
		return q
	}
	if q.view = l.within.inView(); q.view && !q.qualified() {
		q.why = "it is part of a view, in which a relation has no schema"
		return q
	}
	if q.why = q.relax(); q.why != "" {
		return q
	}
	c := checker{catalog: a, top: q.sub}
	for _, m := range []proto.Message{q.sub, q.with} {
		if q.why = c.check(m); q.why != "" {
			return q
		}
	}
	q.names, q.reads, q.strs, q.setting = c.names, c.reads, c.strs, c.setting
	q.params = slices.Sorted(slices.Values(c.params))
	q.params = slices.Compact(q.params)
	q.renumber()
	return q
}

// bringCTEs takes along what the subquery sees of WITH clauses around it.
func (q *question) bringCTEs(env *cte) string {
	wanted := map[string]bool{}
	want := func(m proto.Message) {
		walk(m, func(m proto.Message) bool {
			if rv, ok := m.(*pg.RangeVar); ok && rv.GetSchemaname() == "" {
				wanted[rv.GetRelname()] = true
			}
			return true
		})
	}
	want(q.sub)
	var list []*pg.Node
	taken := map[string]bool{}
	for c := env; c != nil; c = c.next { // the innermost first: each sees those after it
		if !wanted[c.name] || c.name == "" {
			continue
		}
		if c.recursive || c.query == nil || taken[c.name] {
			return "it reads " + c.name + ", which is not a plain subquery"
		}
		taken[c.name] = true
		want(c.query)
		copied, ok := proto.Clone(c.def).(*pg.CommonTableExpr)
		if !ok {
			return "it is not understood"
		}
		list = append([]*pg.Node{{Node: &pg.Node_CommonTableExpr{CommonTableExpr: copied}}}, list...)
	}
	if len(list) > 0 {
		q.with = &pg.WithClause{Ctes: list}
	}
	return ""
}

// qualified reports whether every relation that is named has its schema, but for those of WITH clauses: a name alone may mean another
// relation in the session than in a view's definition.
func (q *question) qualified() bool {
	known := map[string]bool{}
	var bare []string
	for _, m := range []proto.Message{q.sub, q.with} {
		walk(m, func(m proto.Message) bool {
			switch n := m.(type) {
			case *pg.CommonTableExpr:
				known[n.GetCtename()] = true
			case *pg.RangeVar:
				if n.GetSchemaname() == "" {
					bare = append(bare, n.GetRelname())
				}
			}
			return true
		})
	}
	return !slices.ContainsFunc(bare, func(name string) bool { return !known[name] })
}

// renumber makes the parameters $1 … without holes.
func (q *question) renumber() {
	for _, m := range []proto.Message{q.sub, q.with} {
		walk(m, func(m proto.Message) bool {
			if p, ok := m.(*pg.ParamRef); ok {
				p.Number = int32(slices.Index(q.params, int(p.GetNumber())) + 1) //nolint:gosec // few
			}
			return true
		})
	}
}

// The questions in which "SELECT 1" stands for the subquery. The texts of the first form are told apart byte by byte.
var questionForms = [forms]string{ //nolint:gochecknoglobals // a table
	formText: `SELECT DISTINCT q.v COLLATE "C", (SELECT c.collisdeterministic FROM pg_catalog.pg_collation c WHERE c.oid =
 pg_catalog.pg_collation_for((SELECT q.v FROM (SELECT 1) AS q(v) LIMIT 0))::pg_catalog.regcollation) FROM (SELECT 1) AS q(v)`,
	formArray: `SELECT DISTINCT u.v COLLATE "C", (SELECT c.collisdeterministic FROM pg_catalog.pg_collation c WHERE c.oid =
 pg_catalog.pg_collation_for((SELECT q.v FROM (SELECT 1) AS q(v) LIMIT 0))::pg_catalog.regcollation) FROM (SELECT 1) AS q(v), LATERAL pg_catalog.unnest(q.v::pg_catalog.text[]) AS u(v)`,
	formPlain: `SELECT DISTINCT q.v FROM (SELECT 1) AS q(v)`,
	formEnds:  `SELECT u.v FROM (SELECT pg_catalog.min(q.v) AS low, pg_catalog.max(q.v) AS high FROM (SELECT 1) AS q(v)) e, LATERAL (VALUES (e.low), (e.high)) u(v)`,
}

// sql returns the question's text, empty where it cannot be written down.
func (q *question) sql(form int) string {
	q.once[form].Do(func() {
		tree, err := pg.Parse(questionForms[form])
		if err != nil {
			return
		}
		walk(tree, func(m proto.Message) bool {
			if rs, ok := m.(*pg.RangeSubselect); ok && isBareSelect(rs.GetSubquery().GetSelectStmt()) {
				rs.Subquery = &pg.Node{Node: &pg.Node_SelectStmt{SelectStmt: q.sub}}
				return false
			}
			return true
		})
		tree.GetStmts()[0].GetStmt().GetSelectStmt().WithClause = q.with
		q.text[form] = writtenAs(tree)
	})
	return q.text[form]
}

// writtenAs returns a tree as SQL that is read as the same tree, empty where the deparser does not give such.
func writtenAs(tree *pg.ParseResult) string {
	sql, err := pg.Deparse(tree)
	if err != nil {
		return ""
	}
	again, err := pg.Parse(sql)
	if err != nil || len(again.GetStmts()) != 1 {
		return ""
	}
	want, ok := proto.Clone(tree).(*pg.ParseResult)
	if !ok {
		return ""
	}
	for _, t := range []*pg.ParseResult{want, again} {
		t.Stmts[0].StmtLen, t.Stmts[0].StmtLocation = 0, 0
		forgetLocations(t)
	}
	if !proto.Equal(want, again) {
		return ""
	}
	return sql
}

// forgetLocations makes two trees comparable.
func forgetLocations(root proto.Message) {
	walk(root, func(m proto.Message) bool {
		r := m.ProtoReflect()
		for _, name := range []protoreflect.Name{"location", "list_start", "list_end"} {
			if f := r.Descriptor().Fields().ByName(name); f != nil {
				r.Clear(f)
			}
		}
		return true
	})
}
