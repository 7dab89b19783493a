package planner

import (
	"slices"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
)

// uses reports whether an expression, a column's definition or a type runs something through which ohlcv may be read.
func (a *analyzer) uses(nodes ...*pg.Node) bool {
	before := len(a.opaque)
	for _, node := range nodes {
		if node != nil {
			a.inspect(&statement{columns: map[string]bool{}}, node)
		}
	}
	used := len(a.opaque) > before
	a.opaque = a.opaque[:before]
	return used
}

// definition hides a definition that evaluates expressions as it is executed: for the rows that are there, or once. Others
// store names and read no rows. One that gives ohlcv a child is noted as a write.
func (a *analyzer) definition(s *statement, root *pg.Node) {
	a.noteChildren(s, root)
	evaluates := false
	switch n := root.GetNode().(type) {
	case *pg.Node_AlterTableStmt:
		known := a.inClosure(n.AlterTableStmt.GetRelation().GetRelname())
		for _, cmd := range n.AlterTableStmt.GetCmds() {
			evaluates = evaluates || a.alterEvaluates(cmd.GetAlterTableCmd(), known)
		}
	case *pg.Node_AlterDomainStmt:
		switch n.AlterDomainStmt.GetSubtype() {
		case "C":
			evaluates = validated(n.AlterDomainStmt.GetDef()) && a.uses(n.AlterDomainStmt.GetDef())
		case "V":
			evaluates = a.inClosure(lastName(n.AlterDomainStmt.GetTypeName()))
		}
	case *pg.Node_IndexStmt:
		evaluates = a.uses(append(n.IndexStmt.GetIndexParams(), n.IndexStmt.GetWhereClause())...)
	case *pg.Node_CreateStmt:
		bound := n.CreateStmt.GetPartbound()
		evaluates = a.uses(append(append(bound.GetListdatums(), bound.GetLowerdatums()...), bound.GetUpperdatums()...)...)
	}
	if evaluates {
		a.hide("the definition evaluates what may read ohlcv")
	}
}

// alterEvaluates reports whether a part of ALTER TABLE evaluates something through which ohlcv may be read; known says that
// the table has such things already, which are evaluated where its rows are written or looked at anew.
func (a *analyzer) alterEvaluates(c *pg.AlterTableCmd, known bool) bool {
	switch c.GetSubtype() {
	case pg.AlterTableType_AT_AddColumn:
		return a.uses(c.GetDef())
	case pg.AlterTableType_AT_AddConstraint:
		return validated(c.GetDef()) && a.uses(c.GetDef())
	case pg.AlterTableType_AT_AlterColumnType, pg.AlterTableType_AT_SetExpression:
		return known || a.uses(c.GetDef())
	case pg.AlterTableType_AT_ValidateConstraint:
		return known
	case pg.AlterTableType_AT_AttachPartition:
		return known || a.inClosure(c.GetDef().GetPartitionCmd().GetName().GetRelname())
	default:
		return false
	}
}

// validated reports whether a constraint is checked for the rows that are there.
func validated(def *pg.Node) bool { return !def.GetConstraint().GetSkipValidation() }

// noteUsers remembers the tables, types and domains that a definition makes or changes so that ohlcv may be read through
// them: by their defaults, checks, indexes, keys, parents and the types of their columns.
func (a *analyzer) noteUsers(root *pg.Node, created map[string]bool) {
	note := func(name string, users ...*pg.Node) {
		if a.uses(users...) {
			created[strings.ToLower(name)] = true
		}
	}
	switch n := root.GetNode().(type) {
	case *pg.Node_CreateStmt:
		a.noteTable(n.CreateStmt, created)
	case *pg.Node_CreateForeignTableStmt:
		f := n.CreateForeignTableStmt
		a.noteTable(f.GetBaseStmt(), created)
		for _, opt := range f.GetOptions() {
			if a.mentioned(opt.GetDefElem().GetArg().GetString_().GetSval()) {
				created[strings.ToLower(f.GetBaseStmt().GetRelation().GetRelname())] = true
			}
		}
	case *pg.Node_AlterTableStmt:
		name := n.AlterTableStmt.GetRelation().GetRelname()
		for _, cmd := range n.AlterTableStmt.GetCmds() {
			note(name, cmd)
			if other := cmd.GetAlterTableCmd().GetDef().GetPartitionCmd().GetName(); other != nil && a.inClosure(name) {
				created[strings.ToLower(other.GetRelname())] = true
			}
		}
	case *pg.Node_IndexStmt:
		note(n.IndexStmt.GetRelation().GetRelname(), append(n.IndexStmt.GetIndexParams(), n.IndexStmt.GetWhereClause())...)
	case *pg.Node_CreateDomainStmt:
		d := n.CreateDomainStmt
		note(lastName(d.GetDomainname()), append(d.GetConstraints(), typeNode(d.GetTypeName()))...)
	case *pg.Node_AlterDomainStmt:
		note(lastName(n.AlterDomainStmt.GetTypeName()), n.AlterDomainStmt.GetDef())
	case *pg.Node_CompositeTypeStmt:
		note(n.CompositeTypeStmt.GetTypevar().GetRelname(), n.CompositeTypeStmt.GetColdeflist()...)
	case *pg.Node_CreateRangeStmt:
		note(lastName(n.CreateRangeStmt.GetTypeName()), n.CreateRangeStmt.GetParams()...)
	case *pg.Node_RenameStmt:
		if isOurs(n.RenameStmt.GetRelation()) || a.inClosure(n.RenameStmt.GetRelation().GetRelname()) || a.inClosure(objectName(n.RenameStmt.GetObject())) {
			created[strings.ToLower(n.RenameStmt.GetNewname())] = true
		}
	}
}

// firesReader reports whether ohlcv may be read through a trigger: by its function, what that is given, or its condition.
func (a *analyzer) firesReader(t *pg.CreateTrigStmt) bool {
	name := lastName(t.GetFuncname())
	if a.catalog == nil || a.inClosure(name) || a.catalog.callsDynamic(name) || a.uses(t.GetWhenClause()) {
		return true
	}
	return slices.ContainsFunc(t.GetArgs(), func(arg *pg.Node) bool { return a.mentioned(arg.GetString_().GetSval()) })
}

// noteTable is noteUsers for CREATE TABLE. LIKE ohlcv copies its columns and reads nothing.
func (a *analyzer) noteTable(n *pg.CreateStmt, created map[string]bool) {
	users := append(n.GetConstraints(), n.GetInhRelations()...)
	for _, element := range n.GetTableElts() {
		if like := element.GetTableLikeClause(); like == nil || !isOurs(like.GetRelation()) {
			users = append(users, element)
		}
	}
	users = append(users, n.GetPartspec().GetPartParams()...)
	users = append(users, typeNode(n.GetOfTypename()))
	if a.uses(users...) {
		created[strings.ToLower(n.GetRelation().GetRelname())] = true
	}
}

func typeNode(t *pg.TypeName) *pg.Node {
	if t == nil {
		return nil
	}
	return &pg.Node{Node: &pg.Node_TypeName{TypeName: t}}
}

// objectName returns the last part of the name of a function, domain or type in a definition.
func objectName(object *pg.Node) string {
	if f := object.GetObjectWithArgs(); f != nil {
		return lastName(f.GetObjname())
	}
	if t := object.GetTypeName(); t != nil {
		return lastName(t.GetNames())
	}
	return lastName(object.GetList().GetItems())
}

// firesEvents reports whether a statement is one for which event triggers are fired.
func firesEvents(root *pg.Node) bool {
	switch n := root.GetNode().(type) {
	case *pg.Node_SelectStmt:
		return n.SelectStmt.GetIntoClause() != nil
	case *pg.Node_ExplainStmt:
		_, makes := n.ExplainStmt.GetQuery().GetNode().(*pg.Node_CreateTableAsStmt)
		return makes && analyzes(n.ExplainStmt)
	case *pg.Node_InsertStmt, *pg.Node_UpdateStmt, *pg.Node_DeleteStmt, *pg.Node_MergeStmt, *pg.Node_CopyStmt, *pg.Node_CallStmt,
		*pg.Node_DoStmt, *pg.Node_TransactionStmt, *pg.Node_VariableSetStmt, *pg.Node_VariableShowStmt, *pg.Node_DiscardStmt,
		*pg.Node_DeclareCursorStmt, *pg.Node_FetchStmt, *pg.Node_ClosePortalStmt, *pg.Node_PrepareStmt, *pg.Node_ExecuteStmt,
		*pg.Node_DeallocateStmt, *pg.Node_ListenStmt, *pg.Node_NotifyStmt, *pg.Node_UnlistenStmt, *pg.Node_LockStmt,
		*pg.Node_TruncateStmt, *pg.Node_VacuumStmt, *pg.Node_CheckPointStmt, *pg.Node_LoadStmt, *pg.Node_ConstraintsSetStmt,
		*pg.Node_ClusterStmt, *pg.Node_CreatedbStmt, *pg.Node_DropdbStmt, *pg.Node_CreateRoleStmt, *pg.Node_AlterRoleStmt,
		*pg.Node_DropRoleStmt, *pg.Node_CreateEventTrigStmt, *pg.Node_AlterEventTrigStmt:
		return false
	case *pg.Node_DropStmt:
		return n.DropStmt.GetRemoveType() != pg.ObjectType_OBJECT_EVENT_TRIGGER
	}
	return true
}
