package planner

import (
	"encoding/binary"
	"math"
	"math/big"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"

	"barkeep/internal/market"
)

// number is what a derived that is a number counts since 1970 (PLANNER 14). On the line of its results a number is the instant that
// it counts up to: a factor makes the unit smaller, and leaves the line as it is.
type number struct {
	unit  market.Instant // in microseconds
	class numberClass
}

type numberClass uint8

const (
	numberNumeric numberClass = iota // computed exactly
	numberFloat
	numberInteger
)

// oid returns the type of numbers of the class that a parameter has beside them; zero for whole numbers, of which there are several.
func (c numberClass) oid() uint32 {
	switch c {
	case numberNumeric:
		return oidNumeric
	case numberFloat:
		return oidFloat8
	case numberInteger:
	}
	return 0
}

// rough reports whether results may be a little off the line, so that they are rounded up or down to a whole number by that.
func (n number) rough() bool { return n.class == numberFloat && n.unit != secondMicros }

// floatSlack is more than two roundings to float8 move a time before maxRough.
const floatSlack = 4

// maxRough is a time that float8 tells from the microsecond after it.
const maxRough = market.Instant(1<<33) * secondMicros

// times multiplies by a constant; false where that is no factor of the unit.
func (n number) times(node *pg.Node) (number, bool) {
	by, ok := wholeNumber(node)
	if !ok || by <= 0 || n.unit%by != 0 {
		return n, false
	}
	n.unit /= by
	if n.class == numberInteger && node.GetAConst().GetFval() != nil {
		n.class = numberNumeric
	}
	return n, true
}

// wholeNumber returns a constant that is written with digits, and has no fraction but zeros.
func wholeNumber(node *pg.Node) (market.Instant, bool) {
	r, ok := decimal(constantText(node.GetAConst()))
	if !ok || !r.IsInt() || !r.Num().IsInt64() {
		return 0, false
	}
	return market.Instant(r.Num().Int64()), true
}

// constantText returns the digits of a number, or what a literal without a type says.
func constantText(c *pg.A_Const) string {
	switch v := c.GetVal().(type) {
	case *pg.A_Const_Ival:
		return big.NewInt(int64(v.Ival.GetIval())).String()
	case *pg.A_Const_Fval:
		return v.Fval.GetFval()
	case *pg.A_Const_Sval:
		return strings.TrimSpace(v.Sval.GetSval())
	}
	return ""
}

// decimal reads digits with a sign and a point.
func decimal(text string) (*big.Rat, bool) {
	const longest = 40
	if len(text) > longest || strings.Trim(text, "+-.0123456789") != "" {
		return nil, false
	}
	return new(big.Rat).SetString(text)
}

// count evaluates what a derived that is a number is compared with, as an instant; kindOpaque where it is not understood.
func (e *evaluator) count(d derived, node *pg.Node) value {
	r, float, ok := e.rational(node, 0)
	if !ok {
		return value{}
	}
	whole := r.IsInt()
	r.Mul(r, new(big.Rat).SetInt64(int64(d.number.unit)))
	least := new(big.Int).Div(r.Num(), r.Denom()) // rounds down
	most, slack := market.Instant(1)<<40*secondMicros, market.Instant(0)
	if float || d.number.rough() || d.number.class == numberFloat && !whole {
		most, slack = maxRough, floatSlack
	}
	if !least.IsInt64() {
		return value{}
	}
	low := market.Instant(least.Int64())
	if low > most || low < -most {
		return value{}
	}
	high := low
	if !r.IsInt() {
		high++
	}
	return value{kind: kindInt, lo: low - slack, hi: high + slack}
}

// rational evaluates a constant number: one that is written out, or a parameter, with a sign and a cast; float says that it is rounded
// to a float8.
func (e *evaluator) rational(node *pg.Node, depth int) (r *big.Rat, float, ok bool) {
	const deepest = 8
	if depth > deepest {
		return nil, false, false
	}
	switch n := node.GetNode().(type) {
	case *pg.Node_AConst:
		c := n.AConst
		if own, ok := e.given[c]; ok {
			c = own
		}
		r, ok = decimal(constantText(c))
		return r, false, ok
	case *pg.Node_ParamRef:
		return e.numberParam(n.ParamRef.GetNumber())
	case *pg.Node_AExpr:
		op, builtin := callName(n.AExpr.GetName())
		if !builtin || op != "-" || n.AExpr.GetLexpr() != nil || n.AExpr.GetKind() != pg.A_Expr_Kind_AEXPR_OP {
			break
		}
		if r, float, ok = e.rational(n.AExpr.GetRexpr(), depth+1); ok {
			r.Neg(r)
		}
		return r, float, ok
	case *pg.Node_TypeCast:
		t := n.TypeCast.GetTypeName()
		if !builtin(t.GetNames()) || len(t.GetTypmods()) > 0 || len(t.GetArrayBounds()) > 0 {
			break
		}
		r, float, ok = e.rational(n.TypeCast.GetArg(), depth+1)
		switch lastName(t.GetNames()) {
		case "numeric":
			return r, float, ok && !float // which digits of a float8 it takes is not said here
		case "float8":
			return r, true, ok
		case "int8", "int4":
			if ok && r.IsInt() && !float {
				return r, false, true
			}
		}
	}
	if v := e.eval(node); v.kind == kindInt && !v.null {
		return new(big.Rat).SetInt64(v.n), false, true
	}
	return nil, false, false
}

// numberParam reads a parameter whose type is a number's.
func (e *evaluator) numberParam(number int32) (r *big.Rat, float, ok bool) {
	if v := e.param(number); v.kind == kindInt && !v.null {
		return new(big.Rat).SetInt64(v.n), false, true
	}
	i := int(number) - 1
	if e.named != nil || i < 0 || i >= len(e.args.Values) {
		return nil, false, false
	}
	var oid uint32
	if i < len(e.oids) {
		oid = e.oids[i]
	}
	if i < len(e.args.OIDs) && e.args.OIDs[i] != 0 {
		oid = e.args.OIDs[i]
	}
	raw := e.args.Values[i]
	if raw == nil || oid != oidNumeric && oid != oidFloat8 {
		return nil, false, false
	}
	switch float = oid == oidFloat8; {
	case !e.binary(i):
		r, ok = decimal(strings.TrimSpace(string(raw)))
	case !float:
		r, ok = decodeNumeric(raw)
	case len(raw) == 8:
		f := math.Float64frombits(binary.BigEndian.Uint64(raw))
		if ok = !math.IsNaN(f) && !math.IsInf(f, 0); ok {
			r = new(big.Rat).SetFloat64(f)
		}
	}
	return r, float, ok
}

// decodeNumeric reads the binary form of a numeric: digits to the base 10,000, and the weight of the first.
func decodeNumeric(raw []byte) (*big.Rat, bool) {
	const header, most, negative = 8, 16, 0x4000
	if len(raw) < header {
		return nil, false
	}
	count, weight := int(binary.BigEndian.Uint16(raw)), int(int16(binary.BigEndian.Uint16(raw[2:]))) //nolint:gosec // the bits are a signed number
	sign := binary.BigEndian.Uint16(raw[4:])
	if len(raw) != header+2*count || count > most || weight > most || weight < -most || sign != 0 && sign != negative {
		return nil, false
	}
	out, base := new(big.Int), big.NewInt(10_000)
	for i := range count {
		out.Mul(out, base).Add(out, big.NewInt(int64(binary.BigEndian.Uint16(raw[header+2*i:]))))
	}
	if sign == negative {
		out.Neg(out)
	}
	r := new(big.Rat).SetInt(out)
	power := new(big.Rat).SetInt(new(big.Int).Exp(base, big.NewInt(int64(max(weight+1-count, count-weight-1))), nil))
	if weight+1 < count {
		power.Inv(power)
	}
	return r.Mul(r, power), true
}
