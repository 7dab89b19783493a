package planner

import (
	"slices"
	"strconv"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
)

// Own are barkeep's own settings of a session (DESIGN §9), each as SHOW gives it; empty is the default. Whether a value is
// one that the setting can have is for the caller to say: PostgreSQL takes any.
type Own struct{ Mode, Unbounded, Timeout, MaxBars, Freshness string }

const ownPrefix = "barkeep."

// field returns the setting of that name in lower case, nil for one that is not there.
func (o *Own) field(name string) *string {
	switch name {
	case ownPrefix + "mode":
		return &o.Mode
	case ownPrefix + "unbounded":
		return &o.Unbounded
	case ownPrefix + "timeout":
		return &o.Timeout
	case ownPrefix + "max_bars":
		return &o.MaxBars
	case ownPrefix + "freshness":
		return &o.Freshness
	}
	return nil
}

// ownState is what is known of the own settings while the statements of a text are planned in turn. A Query without a
// block of its own is one transaction up to the first COMMIT or ROLLBACK in it, and a BEGIN there begins no other.
type ownState struct {
	// start is what a ROLLBACK brings back, kept what a COMMIT leaves: without what SET LOCAL has set.
	start, kept Own
	// changed says that the text has set one of them, ends that the end of a block that was there before the text may change them,
	// unknown that they are not known any more.
	changed, ends, unknown bool
}

// OwnSetting is a constant that the text gives one of barkeep's own settings.
type OwnSetting struct{ Name, Value string }

// SetsOwn returns those that the text sets, in order: by SET and set_config, for the session or the transaction. Names are in
// lower case; those that barkeep has not are among them.
func (t *Template) SetsOwn() []OwnSetting {
	var list []OwnSetting
	for _, s := range t.list {
		changes := s.configs
		if s.set != nil {
			changes = append(slices.Clip(changes), changeOf(s.set))
		}
		for _, c := range changes {
			if strings.HasPrefix(c.name, ownPrefix) && c.known {
				list = append(list, OwnSetting{Name: c.name, Value: c.text})
			}
		}
	}
	return list
}

// settle applies what a statement does to the settings of those after it (PLANNER 8).
func (x *binding) settle(s *statement) {
	for _, c := range s.configs {
		x.apply(c)
	}
	if s.unsettles || len(s.opaque) > 0 {
		x.unsettle()
	}
	if s.calls {
		x.forgetMode()
	}
	if s.transaction != nil {
		x.transaction(s.transaction)
	}
	if s.set == nil {
		if s.changes {
			x.env.Hidden = false
		}
		return
	}
	x.apply(changeOf(s.set))
}

// change is what SET, RESET or set_config does to one setting.
type change struct {
	name  string // in lower case; empty for all of them
	text  string
	known bool // text is the value that the setting has then
	local bool
}

func (x *binding) apply(c change) {
	switch {
	case strings.HasPrefix(c.name, ownPrefix):
		x.setOwn(c)
	case c.name == "":
		x.unsettle()
		x.own.changed, x.own.unknown = true, true
	case c.name == "timezone":
		x.env.known, x.env.zoneKnown, x.env.TimeZone = false, c.known, c.text
	case c.name == "search_path":
		x.env.Hidden, x.env.SearchPath = false, c.text
	case c.name == "datestyle", c.name == "intervalstyle", c.name == "client_encoding", c.name == "role", c.name == "session_authorization":
		x.unsettle()
	}
}

func (x *binding) setOwn(c change) {
	field := x.env.field(c.name)
	if field == nil {
		return
	}
	x.own.changed = true
	if !c.known {
		x.own.unknown = true
		return
	}
	*field = c.text
	if !c.local {
		*x.own.kept.field(c.name) = c.text
	}
}

// transaction follows the own settings over the end of a transaction.
func (x *binding) transaction(n *pg.TransactionStmt) {
	switch n.GetKind() {
	case pg.TransactionStmtKind_TRANS_STMT_COMMIT, pg.TransactionStmtKind_TRANS_STMT_PREPARE:
		x.env.Own = x.own.kept
	case pg.TransactionStmtKind_TRANS_STMT_ROLLBACK:
		x.env.Own = x.own.start
	case pg.TransactionStmtKind_TRANS_STMT_ROLLBACK_TO:
		x.own.unknown = x.own.unknown || x.own.changed
		x.blockEnded()
		return
	default:
		return
	}
	x.own.start, x.own.kept = x.env.Own, x.env.Own
	x.blockEnded()
	x.own.ends = false
}

// blockEnded forgets the own settings where the block that was there before the text may have set them.
func (x *binding) blockEnded() {
	switch {
	case !x.own.ends:
	case x.own.changed:
		x.own.unknown = true
	default:
		x.forgetMode()
	}
}

// forgetMode waits for what is missing where the mode may have become another: that is right in every mode, though a user
// may have asked for less.
func (x *binding) forgetMode() {
	if x.mode() != modeStrict {
		x.env.Mode = modeWait
	}
}

// unsettle forgets the settings that a statement of the text may have changed out of sight.
func (x *binding) unsettle() {
	x.env.known, x.env.zoneKnown, x.env.Hidden = false, false, false
}

// ownKnown notes under which own settings a statement reads ohlcv, and refuses it where they are not known. It reports
// whether bars that are missing are to be fetched for it.
func (x *binding) ownKnown() bool {
	if x.own.unknown && x.plan.Refusal == nil {
		x.plan.Refusal = refuse("barkeep's settings are changed before the statement that reads ohlcv, in the same Query, in a way that is not known beforehand")
		x.plan.Refusal.Hint = "Send what changes the settings and what reads ohlcv as Queries of their own."
	}
	if !slices.Contains(x.plan.Under, x.env.Own) {
		x.plan.Under = append(x.plan.Under, x.env.Own)
	}
	return x.mode() != modeStored
}

// changeOf is what SET or RESET does.
func changeOf(set *pg.VariableSetStmt) change {
	c := change{name: strings.ToLower(set.GetName()), local: set.GetIsLocal()}
	c.text, c.known = settingText(set)
	if c.name == "search_path" && !c.known {
		names := make([]string, 0, len(set.GetArgs()))
		for _, arg := range set.GetArgs() {
			names = append(names, arg.GetAConst().GetSval().GetSval())
		}
		c.text = strings.Join(names, ", ") // of RESET: nothing, which is not known to hide pg_catalog
	}
	return c
}

// settingText returns the one constant that SET gives, as SHOW shows it where the setting is a text; false for RESET,
// DEFAULT and anything else.
func settingText(set *pg.VariableSetStmt) (string, bool) {
	if set.GetKind() != pg.VariableSetKind_VAR_SET_VALUE || len(set.GetArgs()) != 1 {
		return "", false
	}
	v := set.GetArgs()[0].GetAConst()
	switch own := strings.HasPrefix(strings.ToLower(set.GetName()), ownPrefix); {
	case v.GetSval() != nil:
		return v.GetSval().GetSval(), true
	case own && v.GetIval() != nil:
		return strconv.Itoa(int(v.GetIval().GetIval())), true
	case own && v.GetFval() != nil:
		return v.GetFval().GetFval(), true
	}
	return "", false
}

// configured notes what a call of set_config does. It is known where the call is an output column of a SELECT without FROM:
// anywhere else it may run for no row, or in an order that is not known.
func (s *statement) configured(root proto.Message, f *pg.FuncCall) {
	text := func(at int) (string, bool) {
		if at >= len(f.GetArgs()) {
			return "", false
		}
		arg := f.GetArgs()[at]
		if cast := arg.GetTypeCast(); cast != nil && castsTo(cast, oidText) {
			arg = cast.GetArg()
		}
		v := arg.GetAConst().GetSval()
		return v.GetSval(), v != nil
	}
	name, named := text(0)
	if !named {
		s.configs = append(s.configs, change{}) // whichever
		return
	}
	c := change{name: strings.ToLower(name)}
	c.text, c.known = text(1)
	local := parseLocal(f)
	c.local, c.known = local.b, c.known && local.kind == kindBool && isOutput(root, f)
	s.configs = append(s.configs, c)
}

// parseLocal evaluates set_config's third argument.
func parseLocal(f *pg.FuncCall) value {
	if len(f.GetArgs()) != 3 {
		return value{}
	}
	arg := f.GetArgs()[2]
	if cast := arg.GetTypeCast(); cast != nil && castsTo(cast, oidBool) {
		arg = cast.GetArg()
	}
	v := evalConst(arg.GetAConst())
	if v.kind == kindUnknown && !v.null {
		v = parseBool(v.text)
	}
	if v.null {
		return value{}
	}
	return v
}

// isOutput reports whether the call is an output column of a statement that is a SELECT of one row.
func isOutput(root proto.Message, f *pg.FuncCall) bool {
	node, ok := root.(*pg.Node)
	sel := node.GetSelectStmt()
	if !ok || sel == nil || len(sel.GetFromClause()) > 0 || sel.GetWhereClause() != nil || sel.GetHavingClause() != nil ||
		len(sel.GetGroupClause()) > 0 || limited(sel) || sel.GetOp() != pg.SetOperation_SETOP_NONE {
		return false
	}
	return slices.ContainsFunc(sel.GetTargetList(), func(t *pg.Node) bool { return t.GetResTarget().GetVal().GetFuncCall() == f })
}

func castsTo(c *pg.TypeCast, oid uint32) bool {
	to, ok := castOID(c.GetTypeName())
	return ok && to == oid
}
