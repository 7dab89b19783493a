package planner

import (
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
)

// Ranges of points in time (PLANNER 11): ts <@ range and range @> ts, where the range is a call of tstzrange or a literal of that type.
//
// The invariant: ts lies in a range exactly where both of its bounds compare so, a bound that is NULL or left out being passed by every
// ts, and the condition is NULL only where the range itself is. A range whose lower bound may be above its upper one is an error of
// PostgreSQL's where it is evaluated, which may be only where there is a row: such a one bounds nothing.

const rangeType = "tstzrange"

// compileRange is element <@ span.
func (a *analyzer) compileRange(l *level, element, span *pg.Node) *pred {
	if a.rangeArgs(span) == nil && !isRangeCast(span) {
		return unknownPred()
	}
	a.sublinks(l, span)
	return &pred{kind: predRange, left: a.operandOf(l, element), right: operand{constant: span}}
}

// rangeArgs returns the arguments of a call of PostgreSQL's tstzrange, nil where it is none.
func (a *analyzer) rangeArgs(node *pg.Node) []*pg.Node {
	if usersNames(a.catalog, a.created)(rangeType) {
		return nil
	}
	return rangeArgs(node)
}

func rangeArgs(node *pg.Node) []*pg.Node {
	f := node.GetFuncCall()
	name, ok := callName(f.GetFuncname())
	if n := len(f.GetArgs()); !ok || name != rangeType || n != 2 && n != 3 || f.GetAggStar() || f.GetAggDistinct() ||
		f.GetAggFilter() != nil || f.GetOver() != nil || f.GetFuncVariadic() || len(f.GetAggOrder()) > 0 {
		return nil
	}
	return f.GetArgs()
}

// isRangeCast reports whether an expression is a literal that is cast to tstzrange.
func isRangeCast(node *pg.Node) bool {
	t := node.GetTypeCast().GetTypeName()
	names := t.GetNames()
	return builtin(names) && lastName(names) == rangeType && len(t.GetTypmods()) == 0 && len(t.GetArrayBounds()) == 0 && !t.GetSetof() &&
		!t.GetPctType() && node.GetTypeCast().GetArg().GetAConst() != nil
}

// timeRange is a range whose bounds are constants; nil for none.
type timeRange struct {
	null, empty  bool
	lower, upper *pg.Node
	flags        string
}

// timeRange reads the range; false where it is not understood.
func (b *bounder) timeRange(node *pg.Node) (timeRange, bool) {
	args := rangeArgs(node)
	if args == nil {
		v := b.eval(node.GetTypeCast().GetArg())
		if v.null || v.kind != kindUnknown {
			return timeRange{null: v.null}, v.null
		}
		return parseRange(v.text)
	}
	r := timeRange{lower: args[0], upper: args[1], flags: "[)"}
	if len(args) == 3 {
		v := b.eval(args[2])
		if v.null || v.kind != kindUnknown && v.kind != kindText {
			return timeRange{}, false
		}
		r.flags = v.text
	}
	switch r.flags {
	case "[)", "[]", "(]", "()":
		return r, true
	}
	return timeRange{}, false
}

// parseRange reads a literal as range_in does. Bounds with escapes in them, or quoted in part, are not read.
func parseRange(text string) (timeRange, bool) {
	const space = " \t\n\v\f\r"
	text = strings.Trim(text, space)
	if strings.EqualFold(text, "empty") {
		return timeRange{empty: true}, true
	}
	if len(text) < len("(,)") || !strings.ContainsAny(text[:1], "[(") || !strings.ContainsAny(text[len(text)-1:], "])") {
		return timeRange{}, false
	}
	r := timeRange{flags: text[:1] + text[len(text)-1:]}
	lower, upper, ok := strings.Cut(text[1:len(text)-1], ",")
	var ok1, ok2 bool
	r.lower, ok1 = rangeBound(lower)
	r.upper, ok2 = rangeBound(upper)
	return r, ok && ok1 && ok2
}

// rangeBound returns one bound of a literal, nil where it is left out.
func rangeBound(text string) (*pg.Node, bool) {
	if text == "" {
		return nil, true
	}
	if len(text) > 2 && text[0] == '"' && text[len(text)-1] == '"' {
		text = text[1 : len(text)-1]
	}
	return pg.MakeAConstStrNode(text, -1), !strings.ContainsAny(text, `"\,()[]`)
}

// contained bounds ts by ts <@ range.
func (b *bounder) contained(p *pred) truth {
	if col, ok := p.left.of(b.scan); !ok || col != colTS { // PostgreSQL has no element but a timestamptz
		return unknownTruth()
	}
	r, ok := b.timeRange(p.right.constant)
	switch {
	case !ok:
		return b.opaqueTime(p.right.constant)
	case r.null:
		return truth{n: everything()}
	case r.empty:
		return truth{f: everything()}
	}
	lower, upper := b.rangeEnd(r.lower), b.rangeEnd(r.upper)
	if !lower.null && !upper.null && (lower.kind == kindOpaque || upper.kind == kindOpaque || lower.hi > upper.lo) {
		return b.opaqueTime(p.right.constant) // it may be an error
	}
	out := truth{t: everything()}
	side := func(v value, node *pg.Node, op string) {
		if !v.null {
			out = out.and(b.compare(&pred{kind: predCompare, op: op, left: p.left, right: operand{constant: node}}), mayAny)
		}
	}
	side(lower, r.lower, map[byte]string{'[': ">=", '(': ">"}[r.flags[0]])
	side(upper, r.upper, map[byte]string{']': "<=", ')': "<"}[r.flags[1]])
	return out
}

// rangeEnd evaluates a bound of a range, NULL where there is none.
func (b *bounder) rangeEnd(node *pg.Node) value {
	if node == nil {
		return nullOf(kindTimestamptz)
	}
	return b.time(node)
}

// isInstant reports whether what is made of a column ts is a timestamptz.
func (o operand) isInstant() bool {
	return o.cast == 0 || o.cast == oidTimestamptz || o.fn != nil && o.fn.kind == kindTimestamptz && o.fn.base == kindOpaque
}

// rangeUses notes the parameters that are bounds of a range, and its flags.
func rangeUses(span *pg.Node, uses map[*pg.ParamRef]uint32) {
	for i, arg := range rangeArgs(span) {
		if i < 2 {
			noteUse(arg, oidTimestamptz, uses)
		} else {
			noteUse(arg, oidText, uses)
		}
	}
}
