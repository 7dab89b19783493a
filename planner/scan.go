package planner

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// errUnreadable is wrapped by Template.ParseErr where a text is not handed to the parser.
var errUnreadable = errors.New("the text cannot be parsed safely")

// MayRead reports whether the text may read ohlcv, by a scan of the text (PLANNER 3). A text for which it is false is
// forwarded unparsed. It is true for every text with the name ohlcv in it, with a name in c, with an identifier or
// string in Unicode escapes, with EXECUTE, with a function that reads whole schemas, or with several statements that may conceal a definition; and for EXPLAIN (BARKEEP), which is not
// the upstream's to answer.
func MayRead(text string, c *Catalog) bool {
	return mayReadItself(text, c) || several(text) && c.Conceals(text)
}

// mayReadItself is MayRead but for what may have been defined in the same text.
func mayReadItself(text string, c *Catalog) bool {
	return containsFold(text, "execute") || named(text, c, 0) || c.callsDynamic(text) || c.fires(text) ||
		containsFold(text, "barkeep") && containsFold(text, "explain")
}

const maxStringDepth = 4

// named reports whether the text names ohlcv or something in the catalog's closure, in its strings too.
func named(text string, c *Catalog, depth int) bool {
	if containsFold(text, ohlcvName) {
		return true
	}
	if depth > maxStringDepth {
		return true
	}
	lex := lexer{src: text}
	for {
		tok, ok := lex.next()
		switch {
		case !ok:
			return false
		case tok.unicode:
			return true
		case tok.kind == tokenString:
			if len(tok.text) < len(text) && worthReading(tok.text, c) && named(tok.text, c, depth+1) {
				return true
			}
		case tok.kind == tokenWord || tok.kind == tokenQuoted || tok.kind == tokenOp:
			if c.holds(tok.text) || runsText(tok.text) || strings.Contains(tok.text, "schema_to_xml") ||
				strings.Contains(tok.text, "database_to_xml") {
				return true
			}
		}
	}
}

// worthReading reports whether the text of a string can hold a name that matters.
func worthReading(text string, c *Catalog) bool {
	return text != "" && c != nil && len(c.Names) > 0 || containsFold(text, "_to_xml") || containsFold(text, "crosstab") ||
		containsFold(text, "u&")
}

// fires reports whether a text may fire an event trigger that reads ohlcv.
func (c *Catalog) fires(text string) bool {
	if c == nil || !c.Events {
		return false
	}
	lex := lexer{src: text}
	for {
		tok, ok := lex.next()
		if !ok {
			return false
		}
		if tok.kind == tokenWord && definingWords[tok.text] {
			return true
		}
	}
}

// definingWords are those with which, or with one of which in them, the statements begin that fire event triggers.
var definingWords = map[string]bool{ //nolint:gochecknoglobals // a table
	"create": true, "alter": true, "drop": true, "comment": true, "grant": true, "revoke": true, "refresh": true, "security": true,
	"import": true, "reindex": true, "into": true, "reassign": true,
}

// DefiningWords returns those words.
func DefiningWords() []string { return slices.Sorted(maps.Keys(definingWords)) }

// callsDynamic reports whether a text, or a string in it, may call a function that makes SQL of its arguments.
func (c *Catalog) callsDynamic(text string) bool {
	return c != nil && len(c.Dynamic) > 0 && anyWord(text, func(word string) bool {
		_, in := c.Dynamic[word]
		return in
	})
}

// anyWord reports whether a word of the text, also in its strings and comments, is one: words are in lower case.
func anyWord(text string, is func(word string) bool) bool {
	for start := -1; ; {
		i := max(start, 0)
		for i < len(text) && !isIdentStart(text[i]) {
			i++
		}
		if i == len(text) {
			return false
		}
		end := i
		for end < len(text) && isIdentPart(text[end]) {
			end++
		}
		if is(strings.ToLower(text[i:end])) {
			return true
		}
		start = end
	}
}

func (c *Catalog) holds(name string) bool {
	if c == nil || len(c.Names) == 0 {
		return false
	}
	_, ok := c.Names[strings.ToLower(name)]
	return ok
}

// With returns a catalog with further names: what a session has made itself and the database does not show to others
// yet. A view among them is opaque.
func (c *Catalog) With(version uint64, names ...string) *Catalog {
	out := &Catalog{Version: version, Names: map[string]struct{}{}, Views: map[string]string{}}
	if c != nil {
		for name := range c.Names {
			out.Names[name] = struct{}{}
		}
		maps.Copy(out.Views, c.Views)
		out.Written = maps.Clone(c.Written)
		out.Dynamic, out.Rows, out.Calls, out.Users = c.Dynamic, c.Rows, c.Calls, c.Users
		out.Dependents, out.Events, out.Overload, out.Folds, out.Setters = c.Dependents, c.Events, c.Overload, c.Folds, c.Setters
		out.Definers, out.Known = c.Definers, c.Known
		if c.Dependents != nil && len(names) > 0 {
			names = c.Dependents(names)
		}
	}
	for _, name := range names {
		out.Events = out.Events || name == eventsName
		out.Names[strings.ToLower(name)] = struct{}{}
		delete(out.Views, strings.ToLower(name))
		delete(out.Written, strings.ToLower(name))
	}
	return out
}

// Beyond returns the names through which ohlcv may be read, or by which SQL is made of more arguments, by this catalog and not by the other.
// Either may be nil.
func (c *Catalog) Beyond(other *Catalog) map[string]struct{} {
	out := map[string]struct{}{}
	if c == nil {
		return out
	}
	if other == nil {
		other = &Catalog{}
	}
	for name := range c.Names {
		_, in := other.Names[name]
		_, written := c.Written[name]
		if _, before := other.Written[name]; !in || before && !written {
			out[name] = struct{}{}
		}
	}
	for name, takes := range c.Dynamic {
		if takes&^other.Dynamic[name] != 0 {
			out[name] = struct{}{}
		}
	}
	return out
}

// eventsName stands among the names that a session has made for an event trigger that reads ohlcv.
const eventsName = "event trigger"

// containsFold is strings.Contains for a lower-case ASCII word, without regard to case and without allocating.
func containsFold(text, word string) bool {
	first := word[0]
	for i := 0; i+len(word) <= len(text); i++ {
		if c := text[i]; (c == first || c|0x20 == first) && strings.EqualFold(text[i:i+len(word)], word) {
			return true
		}
	}
	return false
}

// The limits of what is handed to the parser, far below where its C stack ends (PLANNER 5).
const (
	maxTokens  = 200_000
	maxChain   = 3_000
	maxTree    = 2 * maxChain // of chains inside of each other
	maxNesting = 400
	maxBytes   = 4 << 20
)

// checkText returns an error unless the parser can take the text: operator chains and nesting within bounds, UTF-8, no
// NUL. A chain is what stands between two separators at one depth of parentheses. The tree is as deep as the chain, and that of the
// deepest parentheses in it: (((1 + 1 …) + 1 …) + 1 …) grows with each of them.
func checkText(text string) error {
	if len(text) > maxBytes || !utf8.ValidString(text) || strings.IndexByte(text, 0) >= 0 {
		return errUnreadable
	}
	chain := []growth{{}}
	lex := lexer{src: text}
	cases := 0
	for tokens := 0; ; tokens++ {
		tok, ok := lex.next()
		if !ok {
			return nil
		}
		top := &chain[len(chain)-1]
		switch {
		case tok.kind == tokenPunct && (tok.text == "(" || tok.text == "["):
			chain = append(chain, growth{})
		case tok.kind == tokenPunct && (tok.text == ")" || tok.text == "]"):
			if len(chain) > 1 {
				inner := top.depth() + 1
				chain = chain[:len(chain)-1]
				top = &chain[len(chain)-1]
				top.inner = max(top.inner, inner)
			}
		case tok.kind == tokenPunct && tok.text == ";" && len(chain) == 1:
			*top, cases = growth{}, 0
		case tok.kind == tokenPunct && tok.text == ",":
			top.longest, top.terms = max(top.longest, top.terms), 0
		case tok.kind == tokenWord && setWords[tok.text]:
			top.sets++
		case tok.kind == tokenOp, tok.kind == tokenPunct, tok.kind == tokenWord && chains[tok.text]:
			top.terms++
			if tok.text == "case" {
				cases++
			}
		}
		if len(chain) > maxNesting || top.depth() > maxTree || top.terms > maxChain || top.sets > maxChain || tokens > maxTokens || cases > maxNesting {
			return errUnreadable
		}
	}
}

// growth counts the links at one depth of parentheses: of the expression in hand, and of the set operation around it,
// which goes on past commas; the longest expression before, and the depth of the deepest parentheses.
type growth struct{ terms, sets, longest, inner int }

// depth is the most that the tree of this depth of parentheses can be deep.
func (g *growth) depth() int { return max(g.longest, g.terms) + g.sets + g.inner }

var setWords = map[string]bool{ //nolint:gochecknoglobals // a table
	"union": true, "intersect": true, "except": true, "select": true, "values": true, "table": true,
}

// chains are the words by which expressions, joins and set operations grow to the left or right without parentheses.
var chains = map[string]bool{ //nolint:gochecknoglobals // a table
	"and": true, "or": true, "not": true, "is": true, "join": true,
	"collate": true, "at": true, "between": true, "in": true, "like": true, "ilike": true, "similar": true, "case": true,
	"isnull": true, "notnull": true, "overlaps": true, "escape": true, "operator": true, "explain": true,
	"prepare": true, "natural": true, "cross": true, "with": true,
}

// SessionEffects says what of the session a text may change.
type SessionEffects struct {
	// Settings says that settings, role, search_path, prepared statements or the transaction's state may change.
	Settings bool
}

// settingWords begin the statements that may change what SessionEffects.Settings stands for.
var settingWords = map[string]bool{ //nolint:gochecknoglobals // a table
	"set": true, "reset": true, "discard": true, "begin": true, "start": true, "commit": true, "end": true, "rollback": true,
	"abort": true, "savepoint": true, "release": true, "alter": true, "prepare": true, "deallocate": true, "declare": true,
	"create": true, "drop": true, "do": true, "call": true,
}

// Effects returns what of the session the text may change, by a scan of its words: by a statement for it, or by something of a user's
// that the catalog knows to do so.
func Effects(text string, c *Catalog) SessionEffects {
	lex := lexer{src: text}
	begins := true
	for {
		tok, ok := lex.next()
		if !ok {
			break
		}
		name := ""
		if tok.kind == tokenWord || tok.kind == tokenQuoted {
			name = strings.ToLower(tok.text)
		}
		if tok.unicode || name == "execute" || (begins && settingWords[name]) {
			return SessionEffects{Settings: true}
		}
		begins = tok.kind == tokenPunct && tok.text == ";"
	}
	return SessionEffects{Settings: containsFold(text, "set_config") || c.sets(text)}
}

// sets reports whether the text names something in Setters.
func (c *Catalog) sets(text string) bool { return c != nil && NamesOne(text, c.Setters) }

// MayDefine reports whether the text names something in Definers.
func (c *Catalog) MayDefine(text string) bool { return c != nil && NamesOne(text, c.Definers) }

// NamesOne reports whether the text has one of the names, which are in lower case, in its strings too: they may be run.
func NamesOne(text string, names map[string]struct{}) bool {
	if len(names) == 0 {
		return false
	}
	if anyWord(text, func(word string) bool {
		_, in := names[word]
		return in
	}) {
		return true
	}
	for name := range names {
		if !isPlainWord(name) && containsFold(text, name) {
			return true
		}
	}
	return false
}

// isPlainWord reports whether a name is one word to anyWord.
func isPlainWord(name string) bool {
	for i := range len(name) {
		if !isIdentPart(name[i]) || i == 0 && !isIdentStart(name[i]) {
			return false
		}
	}
	return name != ""
}

// SetsInside reports whether the body of a function, or a view's definition, changes settings of the session by itself: by SET,
// RESET, DISCARD, set_config or through pg_settings, or by SQL that it makes.
func SetsInside(body string) bool {
	lex := lexer{src: body}
	begins := true
	for {
		tok, ok := lex.next()
		if !ok {
			return false
		}
		name := ""
		if tok.kind == tokenWord || tok.kind == tokenQuoted {
			name = strings.ToLower(tok.text)
		}
		switch name {
		case "set_config", "pg_settings", "execute":
			return true
		case "set", "reset", "discard":
			if begins {
				return true
			}
		}
		begins = tok.kind == tokenPunct && tok.text == ";" || beginningWords[name]
		if tok.unicode {
			return true
		}
	}
}

// DefinesInside reports whether the body of a function may define, change or drop something: by a word for it, in its strings too, or by
// SQL that it makes, unless that begins as what changes rows.
func DefinesInside(body string) bool {
	if anyWord(body, func(word string) bool { return definitions[word] }) {
		return true
	}
	lex := lexer{src: body}
	for runs := false; ; {
		tok, ok := lex.next()
		switch {
		case !ok:
			return runs
		case tok.unicode:
			return true
		case tok.kind == tokenWord && tok.text == "execute":
			if runs {
				return true
			}
			runs = true
		case !runs, tok.kind == tokenPunct && tok.text == "(", tok.kind == tokenWord && tok.text == "format":
		case tok.kind == tokenString && rowChange(tok.text):
			runs = false
		default:
			return true
		}
	}
}

// rowChange reports whether a text begins with a statement that changes rows, and has no other behind it.
func rowChange(text string) bool {
	first, _, _ := strings.Cut(strings.TrimSpace(strings.ToLower(text)), " ")
	return (first == "insert" || first == "update" || first == "delete") && !strings.Contains(text, ";")
}

// definitions are words of statements that define, change or drop something through which ohlcv may be read.
var definitions = map[string]bool{"create": true, "alter": true, "drop": true, "import": true} //nolint:gochecknoglobals // a table

// beginningWords are those of PL/pgSQL and SQL after which a statement begins.
var beginningWords = map[string]bool{ //nolint:gochecknoglobals // a table
	"begin": true, "then": true, "else": true, "loop": true, "atomic": true,
}
