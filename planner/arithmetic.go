package planner

import (
	"slices"
	"time"

	pg "github.com/pganalyze/pg_query_go/v6"

	"barkeep/internal/market"
)

// truncate is date_trunc with a constant unit.
func (e *evaluator) truncate(unit, v value) value {
	if v.null || unit.null {
		return value{}
	}
	exact := v.lo == v.hi
	if v.kind != kindTimestamptz && v.kind != kindTimestamp || unit.kind != kindUnknown && unit.kind != kindText {
		return value{}
	}
	u, ok := unitNamed(unit.text)
	if !ok {
		return value{}
	}
	floor := func(i market.Instant) market.Instant {
		if i.IsInf() {
			return i
		}
		return u.floor(i)
	}
	local := v.kind == kindTimestamp || e.env.utc()
	if !local && exact {
		return value{} // a question
	}
	out := v
	out.lo, out.hi = floor(v.lo), floor(v.hi)
	if !local {
		far := e.env.farZone()
		// The unit's start in the zone is not after the instant itself (but for a clock set forward at that moment), and
		// not before the start, in UTC, of the unit that any zone may be in.
		out.lo, out.hi = floor(v.lo.Shift(-far)).Shift(-far), v.hi.Shift(far)
	}
	return out
}

// arithmetic is time ± interval, date ± integer, interval × integer and the sign.
func (e *evaluator) arithmetic(x *pg.A_Expr) value {
	op, ok := callName(x.GetName())
	if x.GetKind() != pg.A_Expr_Kind_AEXPR_OP || !ok {
		return value{}
	}
	if x.GetLexpr() == nil {
		v := e.eval(x.GetRexpr())
		if op == "-" && v.kind == kindInterval && !v.null {
			return value{kind: kindInterval, span: v.span.negate()}
		}
		if op == "-" && v.kind == kindInt && !v.null {
			return value{kind: kindInt, n: -v.n}
		}
		return value{}
	}
	l, r := e.eval(x.GetLexpr()), e.eval(x.GetRexpr())
	if (l.null || r.null) && l.kind != kindUnknown && r.kind != kindUnknown {
		return value{} // null, but of a type that is not computed here
	}
	if l.null || r.null {
		return value{}
	}
	if v, ok := e.combine(op, l, r); ok {
		return v
	}
	return value{}
}

func (e *evaluator) combine(op string, l, r value) (value, bool) {
	switch {
	case op == "+" && l.kind == kindInterval && r.isTime():
		l, r = r, l
	case op == "*" && l.kind == kindInt && r.kind == kindInterval:
		l, r = r, l
	}
	switch {
	case op == "*" && l.kind == kindInterval && r.kind == kindInt && abs(r.n) <= 1000:
		s := span{l.span.months * r.n, l.span.days * r.n, 0}
		if l.span.rest.Abs() > maxSpanRest/1000 {
			return value{}, false
		}
		s.rest = l.span.rest * time.Duration(r.n)
		return value{kind: kindInterval, span: s}, s.small()
	case op == "+" && l.kind == kindTimestamptz && r.kind == kindUnknown && !r.null:
		// timestamptz + interval is the only operator that a literal fits.
		s, ok := parseSpan(r.text)
		if !ok {
			return value{}, false
		}
		return e.shift(l, s)
	case (op == "+" || op == "-") && l.isTime() && r.kind == kindInterval:
		s := r.span
		if op == "-" {
			s = s.negate()
		}
		return e.shift(l, s)
	case (op == "+" || op == "-") && l.kind == kindDate && r.kind == kindInt && abs(r.n) < 1e6:
		if op == "-" {
			r.n = -r.n
		}
		l.lo, l.hi = addSpan(l.lo, span{days: r.n}), addSpan(l.hi, span{days: r.n})
		return l, true
	}
	return value{}, false
}

func (v value) isTime() bool {
	return v.kind == kindTimestamptz || v.kind == kindTimestamp || v.kind == kindDate
}

// shift is time + interval. Months are not monotone (30 and 31 January + 1 month are one day), days in a zone differ from
// 24 hours: a value that is not exact, or not in UTC, is widened by as much.
func (e *evaluator) shift(v value, s span) (value, bool) {
	exact := v.lo == v.hi
	calendar := s.months != 0 || s.days != 0
	far := v.kind == kindTimestamptz && calendar && !e.env.utc()
	if far && exact {
		return value{}, false // a question
	}
	if v.kind == kindDate {
		v.kind = kindTimestamp // date ± interval is a timestamp
	}
	sameDay := market.D1.Floor(v.lo) == market.D1.Floor(v.hi)
	v.lo, v.hi = addSpan(v.lo, s), addSpan(v.hi, s)
	if s.months != 0 && (!sameDay || far) {
		v = v.widen(monthSlack, monthSlack)
	}
	if far {
		v = v.widen(2*e.env.farZone(), 2*e.env.farZone()) // how much the length of a day can differ from 24 hours between two clocks
	}
	if v.lo > v.hi {
		v.lo, v.hi = v.hi, v.lo
	}
	return v, true
}

// monthSlack is how far the result of adding months can be from a monotone one (PLANNER 14), with a day for the zone.
const monthSlack = 5 * 24 * time.Hour

type intervalField struct {
	name string
	one  span
}

// intervalFields are the arguments of make_interval, in their order.
var intervalFields = []intervalField{ //nolint:gochecknoglobals // a table
	{"years", span{months: 12}},
	{"months", span{months: 1}},
	{"weeks", span{days: 7}},
	{"days", span{days: 1}},
	{"hours", span{rest: time.Hour}},
	{"mins", span{rest: time.Minute}},
	{"secs", span{rest: time.Second}},
}

// makeInterval is make_interval of whole numbers.
func (e *evaluator) makeInterval(args []*pg.Node) value {
	const most = 1_000_000
	var total span
	for at, arg := range args {
		if named := arg.GetNamedArgExpr(); named != nil {
			at = slices.IndexFunc(intervalFields, func(f intervalField) bool { return f.name == named.GetName() })
			arg = named.GetArg()
		}
		v := e.convert(e.eval(arg), kindInt)
		if at < 0 || at >= len(intervalFields) || v.kind != kindInt || v.null || abs(v.n) > most {
			return value{}
		}
		one := intervalFields[at].one
		total.months += v.n * one.months
		total.days += v.n * one.days
		total.rest += time.Duration(v.n) * one.rest
	}
	if !total.small() {
		return value{}
	}
	return value{kind: kindInterval, span: total}
}
