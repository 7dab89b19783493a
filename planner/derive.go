package planner

import (
	"math"
	"slices"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"

	"barkeep/internal/market"
)

// derived is a function of a timestamptz column, as steps from the column outward. Each step never goes down where its
// argument goes up, but for what preimage makes room for, and is null for null only (PLANNER 14).
type derived struct {
	steps []step
	// kind is that of the result; kindInt stands for a number, and number says of what.
	kind   kind
	number number
	// base is what the column is, where it is one that a subquery computes and no timestamptz; zero where it is one.
	base       kind
	baseNumber number
}

type stepKind uint8

const (
	stepToWall    stepKind = iota // the clock of a zone: timestamptz → timestamp
	stepToInstant                 // back
	stepFloor                     // to the start of a unit
	stepBucket                    // to the start of a bucket
	stepShift                     // + or - an interval, or days
	stepRound                     // to the nearest unit
)

// step is one function of a derived.
type step struct {
	kind stepKind
	// zone is a constant expression; nil is the session's TimeZone.
	zone *pg.Node
	// arg is the unit, the width or the interval; origin that of buckets, nil for the function's own.
	arg, origin *pg.Node
	of          kind // of what has an origin
	minus       bool
	days        bool // arg is a number of days
	// unit is what arg, or a result that is rounded, is a number of; zero where it is none.
	unit market.Instant
}

// dayUnit is the unit of a cast to date.
var dayUnit = pg.MakeAConstStrNode("day", -1) //nolint:gochecknoglobals // a constant

func (d derived) then(k kind, steps ...step) derived {
	d.steps, d.kind = append(slices.Clone(d.steps), steps...), k
	if k != kindInt {
		d.number = number{}
	}
	return d
}

// of returns d of what inner is of its column; false where inner is not what d was made of.
func (d derived) of(inner derived) (derived, bool) {
	base := d.base
	if base == kindOpaque {
		base = kindTimestamptz
	}
	fits := base == inner.kind && d.baseNumber == inner.number
	d.steps, d.base, d.baseNumber = slices.Concat(inner.steps, d.steps), inner.base, inner.baseNumber
	return d, fits
}

// wall returns d as a timestamp.
func (d derived) wall() derived {
	if d.kind == kindTimestamptz {
		return d.then(kindTimestamp, step{kind: stepToWall})
	}
	return d.then(kindTimestamp)
}

// instant returns d as a timestamptz.
func (d derived) instant() derived {
	if d.kind == kindTimestamptz {
		return d
	}
	return d.then(kindTimestamptz, step{kind: stepToInstant})
}

// derive understands an expression over one column as a function of it that goes up; false where it is none.
func (a *analyzer) derive(l *level, node *pg.Node, depth int) (refs []ref, d derived, ok bool) {
	if depth > 20 || !a.spend() {
		return nil, derived{}, false
	}
	switch n := node.GetNode().(type) {
	case *pg.Node_ColumnRef:
		o := a.resolve(l, n.ColumnRef.GetFields())
		d := derived{kind: kindTimestamptz}
		if k, n := a.computedKind(o); k != kindOpaque && k != kindTimestamptz {
			d = derived{kind: k, number: n, base: k, baseNumber: n}
		}
		return o.refs, d, len(o.refs) > 0 && o.cast == 0
	case *pg.Node_TypeCast:
		oid, known := castOID(n.TypeCast.GetTypeName())
		if !known {
			return nil, derived{}, false
		}
		refs, d, ok = a.derive(l, n.TypeCast.GetArg(), depth+1)
		d, converted := d.castTo(oid)
		return refs, d, ok && converted
	case *pg.Node_FuncCall:
		return a.deriveCall(l, n.FuncCall, depth)
	case *pg.Node_AExpr:
		return a.deriveArithmetic(l, n.AExpr, depth)
	}
	return nil, derived{}, false
}

func (d derived) castTo(oid uint32) (derived, bool) {
	switch {
	case d.kind == kindInt && (oid == oidInt8 || oid == oidInt4):
		if d.number.class != numberInteger && (d.number.unit > 1 || d.number.rough()) {
			d = d.then(kindInt, step{kind: stepRound, unit: d.number.unit})
		}
		d.number.class = numberInteger
		return d, true
	case d.kind == kindInt:
		return derived{}, false
	case oid == oidDate && d.kind == kindDate:
		return d, true
	case oid == oidDate:
		return d.wall().then(kindDate, step{kind: stepFloor, arg: dayUnit}), true
	case oid == oidTimestamp:
		return d.wall(), true
	case oid == oidTimestamptz:
		return d.instant(), true
	}
	return derived{}, false
}

func (a *analyzer) deriveCall(l *level, f *pg.FuncCall, depth int) (refs []ref, d derived, ok bool) {
	names := f.GetFuncname()
	name, builtin := callName(names)
	bucket := name == "time_bucket" && (len(names) == 1 || names[0].GetString_().GetSval() == "public")
	args := f.GetArgs()
	if !builtin && !bucket || f.GetAggStar() || f.GetAggDistinct() || f.GetAggFilter() != nil || f.GetOver() != nil || f.GetFuncVariadic() {
		return nil, derived{}, false
	}
	how := ""
	if bucket && len(args) == 3 {
		if how, args = bucketArg(args); how == "" {
			return nil, derived{}, false
		}
	}
	at := 1
	if name == "floor" || name == "to_timestamp" || name == "date" {
		at = 0
	}
	if at >= len(args) || slices.ContainsFunc(args, func(n *pg.Node) bool { return n.GetNamedArgExpr() != nil }) {
		return nil, derived{}, false
	}
	refs, d, ok = a.derive(l, args[at], depth+1)
	if !ok {
		return nil, derived{}, false
	}
	if how != "" {
		d, ok = d.bucketBy(how, args)
		return refs, d, ok
	}
	d, ok = d.call(name, args)
	return refs, d, ok
}

// bucketArg says what the third argument of time_bucket is, origin or timezone, by its name or by its type, and returns the arguments
// without the name; empty for any other. A literal without a type is a text.
func bucketArg(args []*pg.Node) (string, []*pg.Node) {
	last := args[2]
	if named := last.GetNamedArgExpr(); named != nil {
		if name := named.GetName(); name == "origin" || name == "timezone" {
			return name, []*pg.Node{args[0], args[1], named.GetArg()}
		}
		return "", args
	}
	if last.GetAConst().GetSval() != nil {
		return "timezone", args
	}
	switch oid, ok := castOID(last.GetTypeCast().GetTypeName()); {
	case ok && oid == oidTimestamptz:
		return "origin", args
	case ok && (oid == oidText || oid == oidVarchar):
		return "timezone", args
	}
	return "", args
}

// bucketBy is time_bucket from an origin, or on the clock of a zone.
func (d derived) bucketBy(how string, args []*pg.Node) (derived, bool) {
	switch {
	case d.kind != kindTimestamptz:
		return derived{}, false
	case how == "origin":
		return d.then(kindTimestamptz, step{kind: stepBucket, arg: args[0], origin: args[2], of: kindTimestamptz}), true
	}
	zone := args[2]
	return d.then(kindTimestamptz, step{kind: stepToWall, zone: zone}, step{kind: stepBucket, arg: args[0]}, step{kind: stepToInstant, zone: zone}), true
}

// call applies a function whose argument d is.
func (d derived) call(name string, args []*pg.Node) (derived, bool) {
	switch {
	case d.kind == kindInt && name == "floor" && len(args) == 1:
		return d.then(kindInt, step{kind: stepBucket, unit: d.number.unit, arg: pg.MakeAConstIntNode(1, -1)}), d.number.class != numberInteger && !d.number.rough()
	case d.kind == kindInt && name == "to_timestamp" && len(args) == 1:
		return d.then(kindTimestamptz), d.number.unit == secondMicros
	case d.kind == kindInt:
		return derived{}, false
	case name == "date" && len(args) == 1:
		return d.castTo(oidDate)
	case name == "timezone" && len(args) == 2:
		if d.kind == kindTimestamp {
			return d.then(kindTimestamptz, step{kind: stepToInstant, zone: args[0]}), true
		}
		return d.instant().then(kindTimestamp, step{kind: stepToWall, zone: args[0]}), true
	case name == "date_trunc" && len(args) == 2 && d.kind == kindTimestamp:
		return d.then(kindTimestamp, step{kind: stepFloor, arg: args[0]}), true
	case name == "date_trunc" && (len(args) == 2 || len(args) == 3):
		var zone *pg.Node
		if len(args) == 3 {
			zone = args[2]
		}
		return d.instant().then(kindTimestamptz, step{kind: stepToWall, zone: zone}, step{kind: stepFloor, arg: args[0]},
			step{kind: stepToInstant, zone: zone}), true
	case name == "time_bucket" && len(args) == 2 && d.kind == kindTimestamptz: // of others it depends on the server
		return d.then(d.kind, step{kind: stepBucket, arg: args[0]}), true
	case name == "date_bin" && len(args) == 3 && d.kind != kindDate:
		return d.then(d.kind, step{kind: stepBucket, arg: args[0], origin: args[2], of: d.kind}), true
	case (name == "extract" || name == "date_part") && len(args) == 2 && strings.EqualFold(args[0].GetAConst().GetSval().GetSval(), "epoch"):
		d = d.then(kindInt)
		d.number = number{unit: secondMicros}
		if name == "date_part" {
			d.number.class = numberFloat
		}
		return d, true
	}
	return derived{}, false
}

// deriveArithmetic understands ± of an interval or of days, and floor(seconds / n) * n as dashboards write it.
func (a *analyzer) deriveArithmetic(l *level, x *pg.A_Expr, depth int) (refs []ref, d derived, ok bool) {
	op, builtin := callName(x.GetName())
	left, right := x.GetLexpr(), x.GetRexpr()
	if x.GetKind() != pg.A_Expr_Kind_AEXPR_OP || !builtin || left == nil {
		return nil, derived{}, false
	}
	if op == "*" {
		if refs, d, ok = a.deriveScaled(l, left, right, depth); ok {
			return refs, d, ok
		}
		return a.deriveMultiple(l, left, right, depth)
	}
	if op != "+" && op != "-" {
		return nil, derived{}, false
	}
	if refs, d, ok = a.derive(l, left, depth+1); !ok && op == "+" {
		right = left
		refs, d, ok = a.derive(l, x.GetRexpr(), depth+1)
	}
	if !ok || d.kind == kindInt || anyColumn(right) {
		return nil, derived{}, false
	}
	if d.kind == kindDate && right.GetAConst().GetIval() != nil {
		return refs, d.then(kindDate, step{kind: stepShift, arg: right, days: true, minus: op == "-"}), true
	}
	result := d.kind
	if result == kindDate {
		result = kindTimestamp
	}
	return refs, d.then(result, step{kind: stepShift, arg: right, minus: op == "-"}), true
}

// deriveMultiple is seconds * 1000, and the like.
func (a *analyzer) deriveMultiple(l *level, left, right *pg.Node, depth int) (refs []ref, d derived, ok bool) {
	if left.GetAConst() != nil {
		left, right = right, left
	}
	if right.GetAConst() == nil || right.GetAConst().GetSval() != nil {
		return nil, derived{}, false
	}
	if refs, d, ok = a.derive(l, left, depth+1); !ok || d.kind != kindInt {
		return nil, derived{}, false
	}
	d.number, ok = d.number.times(right)
	return refs, d, ok
}

// deriveScaled is floor(seconds / n) * n.
func (a *analyzer) deriveScaled(l *level, left, right *pg.Node, depth int) (refs []ref, d derived, ok bool) {
	if left.GetAConst() != nil {
		left, right = right, left
	}
	f := left.GetFuncCall()
	name, builtin := callName(f.GetFuncname())
	width, whole := wholeNumber(right)
	if !builtin || name != "floor" || len(f.GetArgs()) != 1 || !whole || width <= 0 || width > math.MaxInt32 || right.GetAConst().GetSval() != nil {
		return nil, derived{}, false
	}
	quotient := f.GetArgs()[0].GetAExpr()
	op, builtin := callName(quotient.GetName())
	by, whole := wholeNumber(quotient.GetRexpr())
	if !builtin || op != "/" || !whole || by != width || quotient.GetRexpr().GetAConst().GetSval() != nil {
		return nil, derived{}, false
	}
	refs, d, ok = a.derive(l, quotient.GetLexpr(), depth+1)
	ok = ok && d.kind == kindInt && d.number.class != numberInteger && !d.number.rough()
	return refs, d.then(kindInt, step{kind: stepBucket, arg: pg.MakeAConstIntNode(int64(width), -1), unit: d.number.unit}), ok
}
