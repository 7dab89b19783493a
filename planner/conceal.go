package planner

import (
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
)

// A statement conceals a definition where executing it may define something that its text does not show: a function makes SQL of a name out
// of a table. Whoever wants to know what comes behind it has to ask the transaction itself. Where nobody can be asked in between, in one
// Query or pipeline, what comes behind it has to be settled: it reads and calls nothing to which a definition gives its meaning.

// Conceals reports whether the text may conceal a definition: by something in Definers, by a DO block, by EXECUTE, by a function that the
// text makes, or by SET CONSTRAINTS, which fires triggers that were put off.
func (c *Catalog) Conceals(text string) bool {
	definers := c != nil && len(c.Definers) > 0
	return c.MayDefine(text) || runsDefiner(text, definers) || definers && containsFold(text, "constraints")
}

// runsDefiner reports whether a text has a DO block, or makes a function, that may define something, or has an EXECUTE where there are
// definers.
func runsDefiner(text string, definers bool) bool {
	lex := lexer{src: text}
	begins, creates, executes := true, false, false
	for {
		tok, ok := lex.next()
		if !ok {
			return executes
		}
		word := ""
		if tok.kind == tokenWord {
			word = tok.text
		}
		if executes && word != "function" && word != "procedure" && word != "on" { // of a trigger, and of GRANT
			return true
		}
		executes = definers && word == "execute"
		switch {
		case begins && word == "do":
			return bodyDefines(text[lex.pos:])
		case creates && (word == "function" || word == "procedure"):
			return bodyDefines(text[lex.pos:]) || !anyWord(text, func(word string) bool { return word == "sql" || word == "plpgsql" })
		}
		creates = begins && word == "create" || creates && (word == "or" || word == "replace")
		begins = tok.kind == tokenPunct && tok.text == ";"
	}
}

// bodyDefines reports whether the body of a function, which is a string in the text or follows it, may define something.
func bodyDefines(text string) bool {
	if DefinesInside(text) {
		return true
	}
	lex := lexer{src: text}
	for {
		tok, ok := lex.next()
		if !ok || tok.kind == tokenString && DefinesInside(tok.text) {
			return ok
		}
	}
}

// several reports whether a text may hold more than one statement.
func several(text string) bool {
	return strings.Contains(strings.TrimRight(text, "; \t\r\n"), ";")
}

// Settled reports whether the text is settled: of several statements each, and those that it makes itself and then reads.
func (c *Cache) Settled(text string, env Env) bool {
	text, readable := decodeText(text, env.ClientEncoding)
	if !readable || env.NonStandardStrings || checkText(text) != nil {
		return false
	}
	tree, err := c.parser(text)
	if err != nil {
		return false
	}
	k := newConcealment(env.Catalog)
	k.behind = true
	for _, raw := range tree.GetStmts() {
		if !k.next(raw.GetStmt(), statementText(text, raw)) {
			return false
		}
	}
	return true
}

// statementText returns the text of one statement.
func statementText(text string, raw *pg.RawStmt) string {
	from, size := int(raw.GetStmtLocation()), int(raw.GetStmtLen())
	if from > len(text) {
		return ""
	}
	if size == 0 || from+size > len(text) {
		return text[from:]
	}
	return text[from : from+size]
}

// concealment follows the statements of a text.
type concealment struct {
	catalog *Catalog
	// behind says that one before may have concealed a definition, calls are the functions that those name.
	behind bool
	calls  map[string]bool
	// made are the names of what the text has made of what was settled, definers those by which something may be defined.
	made, definers map[string]bool
}

func newConcealment(c *Catalog) *concealment {
	return &concealment{catalog: c, calls: map[string]bool{}, made: map[string]bool{}, definers: map[string]bool{}}
}

// next reports whether the next statement is settled, or needs not be.
func (k *concealment) next(root *pg.Node, text string) bool {
	settled := !k.behind || k.settled(root)
	conceals := k.catalog.Conceals(text) || len(k.definers) > 0 && (root.GetExecuteStmt() != nil || anyWord(text, func(word string) bool { return k.definers[word] }))
	names := definedNames(root)
	if names == nil {
		k.executed(root, conceals)
		return settled
	}
	whole := !k.behind || !runsLater(root) && k.uses(root, true)
	for _, name := range names {
		k.made[name] = whole
		if conceals {
			k.definers[strings.ToLower(name)] = true
		}
	}
	k.behind = k.behind || conceals && (evaluates(root) || k.catalog.firesDefiner())
	return settled
}

// executed notes a statement that defines nothing by what it says.
func (k *concealment) executed(root *pg.Node, conceals bool) {
	if !conceals {
		return
	}
	k.behind = true
	walk(root, func(m proto.Message) bool {
		if f, ok := m.(*pg.FuncCall); ok {
			k.calls[lastName(f.GetFuncname())] = true
		}
		return true
	})
}

// runsLater reports whether what a definition says is run later: it is not known what that reads then.
func runsLater(root *pg.Node) bool {
	switch root.GetNode().(type) {
	case *pg.Node_CreateFunctionStmt, *pg.Node_CreateTrigStmt, *pg.Node_RuleStmt, *pg.Node_DefineStmt:
		return true
	}
	return false
}

// evaluates reports whether a definition may run something at once.
func evaluates(root *pg.Node) bool {
	switch root.GetNode().(type) {
	case *pg.Node_CreateTableAsStmt, *pg.Node_SelectStmt, *pg.Node_AlterTableStmt, *pg.Node_CreateStmt:
		return true
	}
	return false
}

// firesDefiner reports whether every definition may define something more, by an event trigger.
func (c *Catalog) firesDefiner() bool {
	if c == nil {
		return false
	}
	_, fires := c.Definers["create"]
	return fires
}

// settled reports whether one statement is.
func (k *concealment) settled(root *pg.Node) bool {
	switch n := root.GetNode().(type) {
	case *pg.Node_TransactionStmt, *pg.Node_VariableSetStmt, *pg.Node_VariableShowStmt, *pg.Node_DeallocateStmt, *pg.Node_DiscardStmt,
		*pg.Node_ListenStmt, *pg.Node_NotifyStmt, *pg.Node_UnlistenStmt, *pg.Node_ClosePortalStmt, *pg.Node_FetchStmt, *pg.Node_PrepareStmt,
		*pg.Node_LockStmt, *pg.Node_CheckPointStmt, *pg.Node_ConstraintsSetStmt, *pg.Node_VacuumStmt, *pg.Node_ClusterStmt:
		return true
	case *pg.Node_ExecuteStmt, *pg.Node_DoStmt:
		return false
	case *pg.Node_ExplainStmt:
		return !analyzes(n.ExplainStmt) || k.uses(root, true)
	case *pg.Node_SelectStmt, *pg.Node_InsertStmt, *pg.Node_UpdateStmt, *pg.Node_DeleteStmt, *pg.Node_MergeStmt, *pg.Node_CallStmt,
		*pg.Node_CopyStmt, *pg.Node_CreateTableAsStmt, *pg.Node_RefreshMatViewStmt, *pg.Node_TruncateStmt, *pg.Node_DeclareCursorStmt:
		return k.uses(root, true)
	case *pg.Node_AlterTableStmt, *pg.Node_IndexStmt, *pg.Node_AlterDomainStmt, *pg.Node_CreateStmt:
		return k.uses(root, false) // it may evaluate something, and reads no other relation
	}
	return true // a definition, which stores names
}

// uses reports whether everything that a statement names is known: functions, types, operators, and relations where these are asked for.
func (k *concealment) uses(root *pg.Node, relations bool) bool {
	ctes := map[string]bool{}
	walk(root, func(m proto.Message) bool {
		if cte, ok := m.(*pg.CommonTableExpr); ok {
			ctes[cte.GetCtename()] = true
		}
		return true
	})
	makes := madeBy(root)
	all := true
	walk(root, func(m proto.Message) bool {
		switch n := m.(type) {
		case *pg.RangeVar:
			all = all && (!relations || n == makes || n.GetSchemaname() == "" && ctes[n.GetRelname()] || k.knows(n.GetRelname()))
		case *pg.FuncCall:
			name := lastName(n.GetFuncname())
			all = all && (k.knows(name) || k.calls[name])
		case *pg.TypeName:
			all = all && (len(n.GetNames()) == 0 || strings.HasSuffix(lastName(n.GetNames()), "serial") || k.knows(lastName(n.GetNames())))
		case *pg.A_Expr:
			all = all && k.knowsOperator(n.GetName())
		case *pg.SubLink:
			all = all && k.knowsOperator(n.GetOperName())
		case *pg.SortBy:
			all = all && k.knowsOperator(n.GetUseOp())
		}
		return all
	})
	return all
}

func (k *concealment) knows(name string) bool {
	if whole, in := k.made[name]; in {
		return whole
	}
	return k.catalog != nil && k.catalog.Known != nil && k.catalog.Known(name)
}

// knowsOperator takes the words that stand for operators in a tree (BETWEEN) for known.
func (k *concealment) knowsOperator(list []*pg.Node) bool {
	name := lastName(list)
	return name == "" || isIdentStart(name[0]) || k.knows(name)
}

// madeBy returns the relation that a statement makes, in the form in which its tree has it.
func madeBy(root *pg.Node) *pg.RangeVar {
	switch n := root.GetNode().(type) {
	case *pg.Node_CreateTableAsStmt:
		return n.CreateTableAsStmt.GetInto().GetRel()
	case *pg.Node_SelectStmt:
		return n.SelectStmt.GetIntoClause().GetRel()
	case *pg.Node_CreateStmt:
		return n.CreateStmt.GetRelation()
	case *pg.Node_ViewStmt:
		return n.ViewStmt.GetView()
	}
	return nil
}

// definedNames returns the names of what a statement defines, nil where it defines nothing by what it says.
func definedNames(root *pg.Node) []string {
	if made := madeBy(root); made != nil {
		return []string{made.GetRelname()}
	}
	switch n := root.GetNode().(type) {
	case *pg.Node_CreateFunctionStmt:
		return []string{lastName(n.CreateFunctionStmt.GetFuncname())}
	case *pg.Node_CreateTrigStmt:
		return []string{n.CreateTrigStmt.GetRelation().GetRelname()}
	case *pg.Node_RuleStmt:
		return []string{n.RuleStmt.GetRelation().GetRelname()}
	case *pg.Node_CreateSeqStmt:
		return []string{n.CreateSeqStmt.GetSequence().GetRelname()}
	case *pg.Node_AlterTableStmt:
		return []string{n.AlterTableStmt.GetRelation().GetRelname()}
	case *pg.Node_CreateDomainStmt:
		return []string{lastName(n.CreateDomainStmt.GetDomainname())}
	case *pg.Node_DefineStmt:
		return []string{lastName(n.DefineStmt.GetDefnames())}
	case *pg.Node_RenameStmt:
		return []string{n.RenameStmt.GetNewname()}
	case *pg.Node_CreateSchemaStmt:
		return []string{}
	}
	return nil
}
