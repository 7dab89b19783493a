package planner

import (
	"slices"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
)

// Texts that differ only in constants share what was found out about the first of them. A text is cut into its outline, in which
// each constant is a place, and the constants; those that were only ever compared with a column, or count rows of a LIMIT, may
// be others in the next text of that outline. All others decide what the text means and have to be the same.

// literal is a constant of a text as it was written.
type literal struct {
	start int // its offset
	text  string
	kind  tokenKind
}

// outline is a text with a mark in the place of each constant.
type outline struct {
	skeleton string
	literals []literal
}

// outlineOf cuts a text; false where it has constants in a form that is not seen through here.
func outlineOf(text string) (outline, bool) {
	if !ASCII(text) {
		return outline{}, false // places in the text are those of its UTF-8
	}
	var out outline
	var b strings.Builder
	b.Grow(len(text))
	lex := lexer{src: text}
	done, last := 0, tokenKind(0)
	for {
		tok, ok := lex.next()
		if !ok {
			break
		}
		if tok.kind == tokenString || tok.kind == tokenNumber {
			plain := tok.kind == tokenString && text[tok.start] == '\'' && last != tokenString || tok.kind == tokenNumber && isNumber(tok.text)
			if !plain || tok.unicode {
				return outline{}, false
			}
			b.WriteString(text[done:tok.start])
			b.WriteByte(placeOf(tok))
			done = tok.end
			out.literals = append(out.literals, literal{tok.start, tok.text, tok.kind})
		}
		last = tok.kind
	}
	b.WriteString(text[done:])
	out.skeleton = b.String()
	return out, len(out.literals) > 0
}

// placeOf returns the mark of a constant: bytes that no text has outside of its constants.
func placeOf(t token) byte {
	switch {
	case t.kind == tokenString:
		return 1
	case isInt(t.text):
		return 2
	}
	return 3
}

func isInt(text string) bool { return len(text) <= 9 && strings.Trim(text, "0123456789") == "" }

func isNumber(text string) bool { return strings.Trim(text, "0123456789.") == "" }

// tame reports whether a constant cannot be a text that means something by itself: SQL begins with a word, or a parenthesis or
// comment, and has a space between two words.
func (l literal) tame() bool {
	const longest = 64
	for i := 1; i < len(l.text) && !isDigit(l.text[0]); i++ {
		if isSpace(l.text[i-1]) && !isDigit(l.text[i]) && l.text[i] != '+' && l.text[i] != '-' {
			return false
		}
	}
	return len(l.text) <= longest && ASCII(l.text) && !containsFold(l.text, ohlcvName) && strings.IndexByte(l.text, 0) < 0
}

// node returns the constant as the parser does.
func (l literal) node() *pg.A_Const {
	switch {
	case l.kind == tokenString:
		return pg.MakeAConstStrNode(l.text, -1).GetAConst()
	case isInt(l.text):
		n := int64(0)
		for _, c := range []byte(l.text) {
			n = 10*n + int64(c-'0')
		}
		return pg.MakeAConstIntNode(n, -1).GetAConst()
	}
	return &pg.A_Const{Val: &pg.A_Const_Fval{Fval: &pg.Float{Fval: l.text}}}
}

// sharing is a template with what the texts of its outline may differ in.
type sharing struct {
	template *Template
	literals []literal
	slots    []*pg.A_Const // by literal; nil where it has to be the same
}

// share finds out which constants of a template's text may differ; nil where none may.
func share(t *Template, s outline, trees []*pg.RawStmt) *sharing {
	if t.ParseErr != nil || len(t.created) > 0 {
		return nil
	}
	free := map[*pg.A_Const]bool{}
	for _, st := range t.list {
		if st.prepare != nil || st.execute != nil || len(st.opaque) > 0 || st.explained {
			return nil
		}
		for _, sc := range st.scans {
			for _, q := range sc.quals {
				q.constants(free)
			}
			if sc.limit != nil {
				evaluated(sc.limit.count, free)
				evaluated(sc.limit.offset, free)
			}
		}
	}
	out := &sharing{template: t, literals: s.literals, slots: make([]*pg.A_Const, len(s.literals))}
	found := false
	copied := make([]bool, len(s.literals)) // the parser repeats the SELECT of SET (a, b) = (SELECT …)
	for _, tree := range trees {
		walk(tree, func(m proto.Message) bool {
			c, ok := m.(*pg.A_Const)
			if !ok || !free[c] {
				return true
			}
			at, ok := slices.BinarySearchFunc(s.literals, int(c.GetLocation()), func(l literal, start int) int { return l.start - start })
			if ok && proto.Equal(c.ProtoReflect().Interface(), located(s.literals[at].node(), c.GetLocation())) {
				copied[at] = out.slots[at] != nil
				out.slots[at], found = c, true
			}
			return true
		})
	}
	for at := range copied {
		if copied[at] {
			out.slots[at] = nil
		}
	}
	if !found {
		return nil
	}
	return out
}

func located(c *pg.A_Const, at int32) *pg.A_Const {
	c.Location = at
	return c
}

// constants collects the constants that the predicate compares with.
func (p *pred) constants(into map[*pg.A_Const]bool) {
	for _, kid := range p.kids {
		kid.constants(into)
	}
	for _, node := range []*pg.Node{p.left.constant, p.right.constant} {
		if !anyColumn(node) { // else how it is understood may depend on its constants
			evaluated(node, into)
			if p.kind == predRange {
				evaluated(&pg.Node{Node: &pg.Node_List{List: &pg.List{Items: rangeArgs(node)}}}, into)
			}
		}
	}
}

// evaluated collects the constants of an expression that are looked at for each execution, and for nothing else.
func evaluated(node *pg.Node, into map[*pg.A_Const]bool) {
	var below []*pg.Node
	switch n := node.GetNode().(type) {
	case *pg.Node_AConst:
		if !n.AConst.GetIsnull() {
			into[n.AConst] = true
		}
	case *pg.Node_TypeCast:
		below = []*pg.Node{n.TypeCast.GetArg()}
	case *pg.Node_AExpr:
		below = []*pg.Node{n.AExpr.GetLexpr(), n.AExpr.GetRexpr()}
	case *pg.Node_FuncCall:
		// Others may take a constant for the name of a relation.
		if name, ok := callName(n.FuncCall.GetFuncname()); ok && pureFunctions[name] {
			below = n.FuncCall.GetArgs()
		}
	case *pg.Node_List:
		below = n.List.GetItems()
	}
	for _, each := range below {
		evaluated(each, into)
	}
}

// derive returns the template of another text of the outline; false where a constant that has to be the same is not.
func (s *sharing) derive(text string, literals []literal) (*Template, bool) {
	given := make(map[*pg.A_Const]*pg.A_Const, len(literals))
	for i, l := range literals {
		switch same := l.text == s.literals[i].text; {
		case s.slots[i] == nil && !same:
			return nil, false
		case same:
		case !l.tame():
			return nil, false
		default:
			given[s.slots[i]] = l.node()
		}
	}
	if len(given) == 0 {
		given = nil
	}
	from := s.template
	return &Template{
		Text: text, Statements: from.Statements, list: from.list, oids: from.oids, version: from.version, columns: from.columns, given: given, encoding: from.encoding, nonStandard: from.nonStandard, parser: from.parser,
	}, true
}
