package planner

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
)

// Template is a text as far as it can be planned without parameters. It is safe for concurrent use.
type Template struct {
	// Text is the text as it came.
	Text string
	// Statements counts the statements of the text; 1 where it was not parsed.
	Statements int
	// ParseErr is set where the text may read ohlcv and was not understood: it does not parse, or was refused by the
	// pre-scan. Such a template is opaque.
	ParseErr error

	list    []*statement
	oids    []uint32
	version uint64 // of the catalog that it was made under
	created []string
	// encoding and nonStandard are settings under which the text came.
	encoding    string
	nonStandard bool
	parser      parser
	columns     []string
	fixed       atomic.Pointer[fixedPlan] // the newest
	last        atomic.Uint64             // the hash of the last execution's parameters
	// given are the constants of this text in the place of those in list, where that is another text's.
	given map[*pg.A_Const]*pg.A_Const
	// own is the template of this very text, once questions had to be made of its own constants.
	own atomic.Pointer[Template]
}

// Prepared is what a SQL PREPARE registers.
type Prepared struct {
	Name string
	// Text is the statement after AS.
	Text string
	// OIDs are the declared parameter types.
	OIDs []uint32
}

// errStrings is a ParseErr.
var errStrings = errors.New("standard_conforming_strings is off")

// Prepare analyses a text. It never fails: a text that cannot be understood becomes an opaque template. One that cannot read
// ohlcv is parsed only for what it does to the names of prepared statements and to barkeep's own settings.
func Prepare(text string, paramOIDs []uint32, env Env) *Template {
	t, _ := prepare(text, paramOIDs, env, pg.Parse)
	return t
}

// again analyses the text anew, as it was read when it came: its encoding and its strings are those of then.
func (t *Template) again(env Env) *Template {
	env.ClientEncoding, env.NonStandardStrings = t.encoding, t.nonStandard
	fresh, _ := prepare(t.Text, t.oids, env, t.parser)
	return fresh
}

// renames reports whether the text may change the names of prepared statements.
func renames(text string) bool {
	return containsFold(text, "prepare") || containsFold(text, "deallocate") || containsFold(text, "discard")
}

// prepare returns the parse trees too.
func prepare(text string, paramOIDs []uint32, env Env, p parser) (*Template, []*pg.RawStmt) {
	t := &Template{
		Text: text, Statements: 1, oids: slices.Clone(paramOIDs), version: env.Catalog.version(),
		encoding: env.ClientEncoding, nonStandard: env.NonStandardStrings, parser: p,
	}
	for i, oid := range t.oids {
		t.oids[i] = Declared(oid)
	}
	decoded, readable := decodeText(text, env.ClientEncoding)
	may := !readable || MayRead(decoded, env.Catalog)
	if !may && !renames(text) && !containsFold(text, ownPrefix) {
		return t, nil
	}
	trees, err := t.parse(env)
	if may {
		t.ParseErr = err
	}
	return t, trees
}

func (t *Template) parse(env Env) ([]*pg.RawStmt, error) {
	text, readable := decodeText(t.Text, env.ClientEncoding)
	var err error
	switch {
	case env.NonStandardStrings:
		err = errStrings
	case !readable:
		err = fmt.Errorf("%w: it is not in an encoding that is known, %s", errUnreadable, env.ClientEncoding)
	default:
		err = checkText(text)
	}
	if err != nil {
		return nil, err
	}
	tree, err := t.parser(text)
	if err != nil {
		return nil, fmt.Errorf("parse the statement: %w", err)
	}
	t.Statements = len(tree.GetStmts())
	created, before, known := map[string]bool{}, newConcealment(env.Catalog), env.Catalog.alone(t.Statements)
	itself := mayReadItself(text, env.Catalog) || t.Statements == 1 && !several(text) // a semicolon may be in the body of a function
	for _, raw := range tree.GetStmts() {
		s := analyzeStatement(text, raw, known, created, t.oids)
		if !itself {
			s.opaque = nil // what it makes itself reads nothing of ohlcv
		}
		if t.Statements > 1 && !before.next(raw.GetStmt(), statementText(text, raw)) {
			s.opaque = append(s.opaque, "what it uses may have been defined before it in the same Query, by SQL that is made as it is executed")
		}
		t.list = append(t.list, s)
	}
	t.noteLate(tree.GetStmts())
	for _, s := range t.list {
		if s.prepare != nil {
			s.prepare.Text = encodeText(s.prepare.Text, env.ClientEncoding)
		}
	}
	for name := range created {
		if itself {
			t.created = append(t.created, name)
		}
	}
	slices.Sort(t.created)
	t.columns = t.readColumns()
	return tree.GetStmts(), nil
}

// noteLate marks the cursors that the text itself FETCHes from after it may have changed settings: only then are the bounds
// that depend on them evaluated.
func (t *Template) noteLate(raw []*pg.RawStmt) {
	fetched, late := false, false
	for i, s := range slices.Backward(t.list) {
		s.late = s.cursor && late
		fetched = fetched || raw[i].GetStmt().GetFetchStmt() != nil
		late = late || fetched && s.transaction == nil && (s.set != nil || len(s.configs) > 0 || s.unsettles)
	}
}

// Reads reports whether executing the text may read ohlcv, write it, or cannot be known not to. Only then need it be
// bound.
func (t *Template) Reads() bool {
	return t.ParseErr != nil || slices.ContainsFunc(t.list, (*statement).reads)
}

// Before returns the text up to the first statement that may read ohlcv; empty where none comes before that one, or it is not known
// where it begins. It parses the text anew.
func (t *Template) Before() string {
	at := slices.IndexFunc(t.list, (*statement).reads)
	if text, readable := decodeText(t.Text, t.encoding); at <= 0 || !readable || text != t.Text {
		return ""
	}
	tree, err := t.parser(t.Text)
	if err != nil || at >= len(tree.GetStmts()) {
		return ""
	}
	return t.Text[:tree.GetStmts()[at].GetStmtLocation()]
}

// Explains reports whether the text is, or contains, an EXPLAIN (BARKEEP): what Bind returns is then to be shown, and nothing
// of the text executed.
func (t *Template) Explains() bool {
	return slices.ContainsFunc(t.list, func(s *statement) bool { return s.explained })
}

// Lacks reports whether an execution with so many parameters, by Bind, is an error for certain: the statement has more. It looks at the
// whole tree.
func (t *Template) Lacks(given int) bool {
	if len(t.list) != 1 {
		return false
	}
	trees := t.list[0].trees // the last is the statement's own
	root, ok := trees[len(trees)-1].(*pg.Node)
	if !ok || root.GetSelectStmt() == nil && root.GetInsertStmt() == nil && root.GetUpdateStmt() == nil && root.GetDeleteStmt() == nil {
		return false // what is not analysed when it is parsed may have parameters that it never asks for
	}
	lacks := false
	walk(root, func(m proto.Message) bool {
		if p, is := m.(*pg.ParamRef); is && int(p.GetNumber()) > given {
			lacks = true
		}
		return !lacks
	})
	return lacks
}

// Writes reports whether the text writes ohlcv itself.
func (t *Template) Writes() bool {
	return slices.ContainsFunc(t.list, func(s *statement) bool { return s.writes })
}

// Columns returns the columns of ohlcv that the text may read, sorted, or nil for all of them. Where it is empty but not
// nil, rows are only counted: a right to read any column will do.
func (t *Template) Columns() []string { return t.columns }

func (t *Template) readColumns() []string {
	found := map[string]bool{}
	for _, s := range t.list {
		for _, sc := range s.scans {
			if s.allCols || s.columns[sc.item.alias] {
				return nil
			}
		}
		if len(s.opaque) > 0 || s.execute != nil {
			return nil
		}
		if len(s.scans) > 0 {
			for col := range s.columns {
				found[col] = true
			}
		}
	}
	list := []string{}
	for _, col := range ohlcvColumns {
		if found[col] {
			list = append(list, col)
		}
	}
	slices.Sort(list)
	return list
}

// Naming is what one statement of a text does to the names of prepared statements.
type Naming struct {
	// Prepared is what PREPARE registers under Name; nil where DEALLOCATE takes Name away.
	Name     string
	Prepared *Prepared
	// All says that every name is taken away.
	All bool
	// Unsettled says that statements before it in the text may have changed the settings.
	Unsettled bool
}

// Names returns what the text does to the names of prepared statements, in order. Of a text that does not parse, nothing is
// known.
func (t *Template) Names() []Naming {
	var list []Naming
	unsettled := false
	for _, s := range t.list {
		switch {
		case s.prepare != nil:
			list = append(list, Naming{Name: s.prepare.Name, Prepared: s.prepare, Unsettled: unsettled})
		case s.deallocates != nil:
			list = append(list, *s.deallocates)
		}
		unsettled = unsettled || s.set != nil || len(s.configs) > 0 || s.unsettles || s.changes || s.execute != nil || s.transaction != nil
	}
	return list
}

// Executes returns the names that the text EXECUTEs.
func (t *Template) Executes() []string {
	var list []string
	for _, s := range t.list {
		if s.execute != nil {
			list = append(list, s.execute.GetName())
		}
	}
	return list
}

// Creates returns the names, in lower case, of relations and functions that the text makes or changes while it mentions
// ohlcv: until the catalog shows them, the session's Catalog is to be extended by them (Catalog.With).
func (t *Template) Creates() []string { return slices.Clone(t.created) }

// inferParams finds the types of parameters that were declared without one, by their uses: compared with a column, or
// cast. A parameter with several types, or with a use that is not understood, is unsure.
func (s *statement) inferParams(root proto.Message, declared []uint32) {
	uses := map[*pg.ParamRef]uint32{}
	for _, sc := range s.scans {
		for _, q := range sc.quals {
			noteUses(q, sc.item, uses)
		}
		if sc.limit != nil {
			noteUse(sc.limit.count, oidInt8, uses)
			noteUse(sc.limit.offset, oidInt8, uses)
		}
	}
	types := map[int32]uint32{}
	s.unsure = map[int32]bool{}
	note := func(number int32, oid uint32) {
		if at := int(number) - 1; at >= 0 && at < len(declared) && declared[at] != 0 {
			return
		}
		if known, ok := types[number]; ok && known != oid {
			s.unsure[number] = true
		}
		types[number] = oid
		s.unsure[number] = s.unsure[number] || oid == 0
	}
	seen := map[*pg.ParamRef]bool{}
	walk(root, func(m proto.Message) bool {
		choiceUses(m, uses)
		switch n := m.(type) {
		case *pg.TypeCast:
			if p := n.GetArg().GetParamRef(); p != nil {
				seen[p] = true
				note(p.GetNumber(), castType(n.GetTypeName()))
			}
		case *pg.NullTest:
			if p := n.GetArg().GetParamRef(); p != nil {
				seen[p] = true // takes the type of the other uses
			}
		case *pg.ParamRef:
			if !seen[n] {
				note(n.GetNumber(), uses[n])
			}
		}
		return true
	})
	s.oids = slices.Clone(declared)
	for number, oid := range types {
		for int(number) > len(s.oids) && number < 1<<16 {
			s.oids = append(s.oids, 0)
		}
		if at := int(number) - 1; at >= 0 && at < len(s.oids) && s.oids[at] == 0 && !s.unsure[number] {
			s.oids[at] = oid
		}
	}
}

// castType returns the type that a cast gives a parameter, zero where it is not known here.
func castType(t *pg.TypeName) uint32 {
	names := t.GetNames()
	if !builtin(names) {
		return 0
	}
	oid := typeOIDs[names[len(names)-1].GetString_().GetSval()]
	if len(t.GetArrayBounds()) == 0 {
		return oid
	}
	switch oid {
	case oidText:
		return oidTextArray
	case oidVarchar:
		return oidVarcharArray
	case oidTimestamptz:
		return oidTimestamptzArray
	}
	return 0
}

func noteUse(node *pg.Node, oid uint32, uses map[*pg.ParamRef]uint32) {
	if p := node.GetParamRef(); p != nil {
		uses[p] = oid
	}
}

// noteUses notes the parameters that are compared with a column of the scan.
func noteUses(p *pred, it *item, uses map[*pg.ParamRef]uint32) {
	for _, kid := range p.kids {
		noteUses(kid, it, uses)
	}
	if p.kind == predOverlaps {
		overlapsUses(p, it, uses)
		return
	}
	if p.ofSymbol(it) {
		textUses(p.source, uses)
	}
	left, right := p.left, p.right
	if _, ok := left.of(it); !ok {
		left, right = right, left
	}
	col, ok := left.of(it)
	if !ok {
		return
	}
	one, many := uint32(oidText), uint32(oidTextArray)
	switch {
	case col == colTS && left.cast == 0:
		one, many = oidTimestamptz, oidTimestamptzArray
	case col == colTS && left.fn != nil:
		oid := map[kind]uint32{kindTimestamptz: oidTimestamptz, kindTimestamp: oidTimestamp, kindDate: oidDate}[left.fn.kind]
		if left.fn.kind == kindInt {
			oid = left.fn.number.class.oid()
		}
		if oid == 0 {
			return
		}
		one, many = oid, 0
	case left.cast != 0 || (col != colSymbol && col != colTimeframe):
		return
	}
	if one == oidText {
		constantUses(right.constant, uses)
	}
	switch p.kind {
	case predCompare, predDistinct:
		noteUse(right.constant, one, uses)
	case predAny, predAll:
		noteUse(right.constant, many, uses)
		for _, el := range right.constant.GetList().GetItems() {
			noteUse(el, one, uses)
		}
	case predRange:
		rangeUses(right.constant, uses)
	default:
	}
}

// constantUses is textUses for what symbol is compared with; a list of constants may be long.
func constantUses(node *pg.Node, uses map[*pg.ParamRef]uint32) {
	switch n := node.GetNode().(type) {
	case *pg.Node_List:
		for _, item := range n.List.GetItems() {
			constantUses(item, uses)
		}
	case *pg.Node_FuncCall, *pg.Node_AExpr:
		textUses(node, uses)
	}
}
