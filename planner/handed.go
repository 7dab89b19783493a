package planner

import (
	"encoding/binary"
	"strings"
	"unicode"
	"unicode/utf8"

	pg "github.com/pganalyze/pg_query_go/v6"
)

// handed is a parameter that a statement hands to a function that makes SQL of it.
type handed struct {
	function string
	param    int32
}

// dynamic returns what Catalog.Dynamic says of a function.
func (c *Catalog) dynamic(name string) (takes uint64, ok bool) {
	if c == nil || len(c.Dynamic) == 0 {
		return 0, false
	}
	takes, ok = c.Dynamic[strings.ToLower(name)]
	return takes, ok
}

// inspectHanded hides a call of a function that makes SQL of its arguments, unless they are constants that do not name
// ohlcv; a parameter is looked at when it is bound.
func (a *analyzer) inspectHanded(s *statement, name string, f *pg.FuncCall) {
	takes, ok := a.catalog.dynamic(name)
	if !ok {
		return
	}
	var all strings.Builder
	for i, arg := range f.GetArgs() {
		if given := arg.GetNamedArgExpr(); given != nil {
			arg = given.GetArg()
		} else if takes>>min(i, maxTaken)&1 == 0 {
			continue
		}
		if param := parameterOf(arg); param != nil {
			s.handed = append(s.handed, handed{name, param.GetNumber()})
			continue
		}
		if !a.handedSafe(arg, &all) {
			a.hide("it hands what may name ohlcv to the function " + name + ", which runs SQL")
			return
		}
	}
	if a.mentioned(all.String()) { // in pieces
		a.hide("it hands the name of ohlcv to the function " + name + ", which runs SQL")
	}
}

// maxTaken is the last position that Catalog.Dynamic tells apart.
const maxTaken = 63

// parameterOf returns the parameter that an argument is, cast or not.
func parameterOf(arg *pg.Node) *pg.ParamRef {
	for arg.GetTypeCast() != nil {
		arg = arg.GetTypeCast().GetArg()
	}
	return arg.GetParamRef()
}

// handedSafe reports whether an argument is made of constants that do not name ohlcv, which it adds to all, or is a number
// or a time.
func (a *analyzer) handedSafe(arg *pg.Node, all *strings.Builder) bool {
	each := func(list []*pg.Node) bool {
		for _, node := range list {
			if !a.handedSafe(node, all) {
				return false
			}
		}
		return true
	}
	switch n := arg.GetNode().(type) {
	case *pg.Node_AConst:
		const firstOfUsers = 16384 // the least oid that a relation of users can have
		if n.AConst.GetIval().GetIval() >= firstOfUsers || n.AConst.GetFval() != nil {
			return false
		}
		text := n.AConst.GetSval().GetSval()
		all.WriteString(text)
		return !namesOurs(text, a.mentioned)
	case *pg.Node_TypeCast:
		name := lastName(n.TypeCast.GetTypeName().GetNames())
		if k := kindOf(typeOIDs[name]); k >= kindTimestamptz && k != kindInt {
			return true
		}
		if text := n.TypeCast.GetArg().GetAConst().GetSval(); text != nil && (strings.HasPrefix(name, "reg") || name == "oid") &&
			strings.Trim(text.GetSval(), "0123456789 ") == "" {
			return false
		}
		return a.handedSafe(n.TypeCast.GetArg(), all)
	case *pg.Node_AArrayExpr:
		return each(n.AArrayExpr.GetElements())
	case *pg.Node_RowExpr:
		return each(n.RowExpr.GetArgs())
	case *pg.Node_SqlvalueFunction:
		return n.SqlvalueFunction.GetOp() <= pg.SQLValueFunctionOp_SVFOP_LOCALTIMESTAMP_N
	case *pg.Node_FuncCall:
		name, ok := callName(n.FuncCall.GetFuncname())
		return ok && name == "now"
	case *pg.Node_AExpr:
		op, ok := callName(n.AExpr.GetName())
		return ok && (op == "-" || op == "+") && (n.AExpr.GetLexpr() == nil || a.handedSafe(n.AExpr.GetLexpr(), all)) &&
			a.handedSafe(n.AExpr.GetRexpr(), all)
	}
	return false
}

// namesOurs reports whether a text names ohlcv, what reads it, or the schema that it is in.
func namesOurs(text string, mentioned func(string) bool) bool {
	return mentioned(text) || strings.EqualFold(strings.Trim(text, " \t\r\n\"%"), "public")
}

// textArray reports whether a binary value, whatever its type, is an array of texts: dimensions, flags, type of the elements.
func textArray(raw string) bool {
	const header = 12
	if len(raw) < header || binary.BigEndian.Uint32([]byte(raw)) > 6 || binary.BigEndian.Uint32([]byte(raw[4:])) > 1 {
		return false
	}
	switch binary.BigEndian.Uint32([]byte(raw[8:])) {
	case oidText, oidVarchar, oidName:
		return true
	}
	return false
}

// handsOver reports whether the value that is bound to a parameter may name ohlcv.
func (e *evaluator) handsOver(number int32) bool {
	mentioned := func(text string) bool { return named(text, e.env.Catalog, 0) }
	if e.named != nil {
		v := e.named.values[number]
		return !v.null && (v.kind != kindText && v.kind != kindUnknown || namesOurs(v.text, mentioned))
	}
	i := int(number) - 1
	if i < 0 || i >= len(e.args.Values) {
		return true
	}
	raw := string(e.args.Values[i])
	switch {
	case e.args.Values[i] == nil:
		return false
	case e.binary(i) && (!utf8.ValidString(raw) || strings.ContainsFunc(raw, unicode.IsControl)) && !textArray(raw):
		return true // an oid, perhaps
	}
	return namesOurs(raw, mentioned)
}
