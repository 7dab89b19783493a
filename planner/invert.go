package planner

import (
	"slices"
	"strings"
	"time"

	pg "github.com/pganalyze/pg_query_go/v6"

	"barkeep/internal/market"
)

// compareDerived bounds ts by a comparison of a function of it with a constant; false where the predicate is none.
func (b *bounder) compareDerived(p *pred) (truth, bool) {
	op, left, right := p.op, p.left, p.right
	if left.fn == nil {
		op, left, right = flipped[op], right, left
	}
	col, ours := left.of(b.scan)
	if left.fn == nil || left.fn.base != kindOpaque || !ours || col != colTS || right.constant == nil || op == "" {
		return truth{}, false
	}
	return b.derivedValue(*left.fn, op, right.constant), true
}

func (b *bounder) derivedValue(d derived, op string, node *pg.Node) truth {
	v, d := b.comparand(d, node)
	switch {
	case v.null:
		return truth{n: everything()}
	case v.kind == kindOpaque:
		return b.opaqueTime(node)
	}
	is, not := compareTimes(op, v.lo, v.hi)
	for _, s := range slices.Backward(d.steps) {
		var ok, ok2 bool
		is, ok = b.preimage(s, is)
		not, ok2 = b.preimage(s, not)
		if !ok || !ok2 {
			return b.opaqueTime(s.arg)
		}
	}
	return truth{t: timesIn(is), f: timesIn(not)}
}

func (b *bounder) opaqueTime(node *pg.Node) truth {
	b.unclear(colTS)
	if node != nil {
		b.blame(colTS, node)
	}
	return unknownTruth()
}

// comparand evaluates what a derived is compared with, on the line of the derived's results; where PostgreSQL converts the
// derived for it, the one returned has that step too.
func (b *bounder) comparand(d derived, node *pg.Node) (value, derived) {
	if d.kind == kindTimestamptz {
		return b.time(node), d
	}
	v := b.eval(node)
	switch {
	case v.null:
		return v, d
	case d.kind == kindInt:
		return b.count(d, node), d
	case v.kind == kindUnknown:
		return b.convert(v, d.kind), d
	case v.kind == kindDate || v.kind == kindTimestamp:
		return v, d
	case v.kind == kindTimestamptz:
		return v, d.instant()
	}
	return value{}, d
}

const secondMicros = market.Instant(time.Second / time.Microsecond)

// preimage returns what a step may map into the set; it may be larger. It is false where the step's constants are not known.
func (e *evaluator) preimage(s step, set market.RangeSet) (market.RangeSet, bool) {
	f, ok := e.inverse(s)
	if !ok || !e.zoneNamed(s) {
		return nil, false
	}
	out := make([]market.Range, 0, len(set))
	for _, r := range set {
		start, _ := f(r.Start)
		_, end := f(r.End)
		if r.Start == market.NegInf {
			start = market.NegInf
		}
		if r.End == market.PosInf {
			end = market.PosInf
		}
		out = append(out, market.Range{Start: start, End: end})
	}
	return market.NewRangeSet(out...), true
}

// image returns what a step makes of the set; it may be larger. It is false where the step's constants are not known.
func (e *evaluator) image(s step, set market.RangeSet) (market.RangeSet, bool) {
	if !e.zoneNamed(s) {
		return nil, false
	}
	f := func(i market.Instant) (least, most market.Instant) { return i, i }
	switch s.kind {
	case stepToWall:
		f = func(i market.Instant) (least, most market.Instant) {
			low, high := e.offsets(s.zone, i)
			return i.Shift(low), i.Shift(high)
		}
	case stepToInstant:
		f = func(i market.Instant) (least, most market.Instant) {
			low, high := e.offsets(s.zone, i)
			return i.Shift(-high), i.Shift(-low)
		}
	case stepRound:
		far := s.width() + time.Second
		f = func(i market.Instant) (least, most market.Instant) { return i.Shift(-far), i.Shift(far) }
	case stepShift:
		s.minus = !s.minus
		back, ok := e.unshift(s)
		if !ok {
			return nil, false
		}
		f = back
	case stepFloor, stepBucket:
		u, ok := e.unitOf(s)
		if !ok {
			return nil, false
		}
		f = func(i market.Instant) (least, most market.Instant) {
			if i.IsInf() {
				return i, i
			}
			return u.floor(i), i
		}
	}
	out := make([]market.Range, 0, len(set))
	for _, r := range set {
		start, _ := f(r.Start)
		_, end := f(r.End)
		out = append(out, market.Range{Start: start, End: end})
	}
	return market.NewRangeSet(out...), true
}

// inverse returns a function that gives, for a point on the line of a step's results, the least and the greatest argument at
// which the results may pass it: from there on no result lies before the point, up to there none at or after it.
func (e *evaluator) inverse(s step) (func(market.Instant) (least, most market.Instant), bool) {
	switch s.kind {
	case stepToWall:
		return func(i market.Instant) (least, most market.Instant) {
			low, high := e.offsets(s.zone, i)
			return i.Shift(-high), i.Shift(-low)
		}, true
	case stepToInstant:
		return func(i market.Instant) (least, most market.Instant) {
			low, high := e.offsets(s.zone, i)
			return i.Shift(low), i.Shift(high)
		}, true
	case stepFloor, stepBucket:
		u, ok := e.unitOf(s)
		return u.ceil, ok
	case stepShift:
		return e.unshift(s)
	case stepRound:
		return s.halfway, true
	}
	return nil, false
}

func (s step) width() time.Duration { return time.Duration(s.unit) * time.Microsecond }

// halfway is where results begin to be rounded to the first whole number from the point on: which way just halfway, and a little off
// it where they are float8, is not said.
func (s step) halfway(i market.Instant) (least, most market.Instant) {
	slack := floatSlack * time.Microsecond
	switch {
	case i.IsInf():
		return i, i
	case i > maxRough || i < -maxRough:
		slack = time.Second
	}
	i, _ = every(s.unit, 0).ceil(i)
	return i.Shift(-s.width()/2 - slack), i.Shift(-s.width()/2 + slack)
}

// unitOf returns what date_trunc, time_bucket, date_bin or floor cuts to.
func (e *evaluator) unitOf(s step) (unit, bool) {
	if s.kind == stepBucket {
		return e.bucket(s)
	}
	name := e.eval(s.arg)
	if name.null || name.kind != kindUnknown && name.kind != kindText {
		return unit{}, false
	}
	return unitNamed(name.text)
}

// unit is what date_trunc cuts to.
type unit struct {
	floor, next func(market.Instant) market.Instant
}

// ceil returns the first start of a unit that is not before the point, as the least and as the most.
func (u unit) ceil(i market.Instant) (least, most market.Instant) {
	if !i.IsInf() {
		if start := u.floor(i); start != i {
			i = u.next(start)
		}
	}
	return i, i
}

var units = map[string]unit{ //nolint:gochecknoglobals // a table
	"microsecond": every(1, 0), "millisecond": every(secondMicros/1000, 0), "second": every(secondMicros, 0),
	"minute": unitOf(market.M1), "hour": unitOf(market.H1), "day": unitOf(market.D1), "week": unitOf(market.W1),
	"month": unitOf(market.Mo1), "quarter": months(3), "year": months(12),
}

// unitNames are the other names that PostgreSQL has for them, in any case of letters.
var unitNames = map[string]string{ //nolint:gochecknoglobals // a table
	"us": "microsecond", "usec": "microsecond", "usecs": "microsecond", "usecond": "microsecond", "useconds": "microsecond",
	"microseconds": "microsecond", "ms": "millisecond", "msec": "millisecond", "msecs": "millisecond", "msecond": "millisecond",
	"mseconds": "millisecond", "milliseconds": "millisecond", "s": "second", "sec": "second", "secs": "second", "seconds": "second",
	"m": "minute", "min": "minute", "mins": "minute", "minutes": "minute", "h": "hour", "hr": "hour", "hrs": "hour", "hours": "hour",
	"d": "day", "days": "day", "w": "week", "weeks": "week", "mon": "month", "mons": "month", "months": "month", "qtr": "quarter",
	"y": "year", "yr": "year", "yrs": "year", "years": "year",
}

func unitNamed(name string) (unit, bool) {
	name = strings.ToLower(name)
	if of, ok := unitNames[name]; ok {
		name = of
	}
	u, ok := units[name]
	return u, ok
}

func unitOf(tf market.Timeframe) unit { return unit{tf.Floor, tf.Next} }

// every is a unit of fixed length, counted from origin.
func every(width, origin market.Instant) unit {
	floor := func(i market.Instant) market.Instant { return floorTo(i, width, origin) }
	return unit{floor, func(i market.Instant) market.Instant { return floor(i) + width }}
}

func floorTo(i, width, origin market.Instant) market.Instant {
	past := (i - origin) % width
	if past < 0 {
		past += width
	}
	return i - past
}

// months is a unit of n months, counted from January 2000.
func months(n int) unit {
	start := func(i market.Instant, more int) market.Instant {
		t := i.Time()
		since := (t.Year()-2000)*12 + int(t.Month()) - 1
		past := since % n
		if past < 0 {
			past += n
		}
		return market.FromTime(time.Date(2000, time.Month(since-past+more+1), 1, 0, 0, 0, 0, time.UTC))
	}
	return unit{
		floor: func(i market.Instant) market.Instant { return start(i, 0) },
		next:  func(i market.Instant) market.Instant { return start(i, n) },
	}
}

// bucketOrigin is where time_bucket counts days and shorter widths from: Monday, 2000-01-03.
var bucketOrigin = market.FromTime(time.Date(2000, time.January, 3, 0, 0, 0, 0, time.UTC)) //nolint:gochecknoglobals // a constant

// bucket is what time_bucket, date_bin and floor cut to.
func (e *evaluator) bucket(s step) (unit, bool) {
	if n := e.bucketMonths(s); n > 0 {
		return months(n), true
	}
	width, origin := e.bucketWidth(s), bucketOrigin
	if s.unit > 0 {
		origin = 0
	}
	if s.origin != nil {
		v := e.eval(s.origin)
		if v.kind == kindUnknown && !v.null {
			v = e.convert(v, s.of)
		}
		if v.null || v.kind != s.of || v.lo != v.hi || v.lo.IsInf() {
			return unit{}, false
		}
		origin = v.lo
	}
	if width <= 0 {
		return unit{}, false
	}
	return every(width, origin), true
}

// bucketMonths returns the width of one of time_bucket's buckets that is whole months, in UTC as they are; zero of any other.
func (e *evaluator) bucketMonths(s step) int {
	const most = 400 * 12
	if s.unit > 0 || s.origin != nil {
		return 0
	}
	v := e.eval(s.arg)
	if v.kind == kindUnknown && !v.null {
		v = e.convert(v, kindInterval)
	}
	if v.kind != kindInterval || v.null || v.span.months <= 0 || v.span.months > most || v.span.days != 0 || v.span.rest != 0 {
		return 0
	}
	return int(v.span.months)
}

// bucketWidth returns the width of a bucket in microseconds, zero where it is not known or not fixed.
func (e *evaluator) bucketWidth(s step) market.Instant {
	const most = 400 * 24 * time.Hour
	v := e.eval(s.arg)
	if s.unit > 0 {
		if v.kind != kindInt || v.null || v.n <= 0 || v.n > int64(most/s.width()) {
			return 0
		}
		return market.Instant(v.n) * s.unit
	}
	if v.kind == kindUnknown && !v.null {
		v = e.convert(v, kindInterval)
	}
	if v.kind != kindInterval || v.null || v.span.months != 0 || v.span.days < 0 || v.span.days > 400 || v.span.rest < 0 || v.span.rest > most {
		return 0
	}
	return market.Instant(v.span.days)*dayMicros + market.Instant(v.span.rest/time.Microsecond)
}

// unshift is the inverse of adding an interval. Months are not monotone, days have a zone's length (PLANNER 14).
func (e *evaluator) unshift(s step) (func(market.Instant) (least, most market.Instant), bool) {
	v := e.eval(s.arg)
	switch {
	case v.null:
		return nil, false
	case s.days && v.kind == kindInt && abs(v.n) < 1e6:
		v = value{kind: kindInterval, span: span{days: v.n}}
	case v.kind == kindUnknown && !s.minus:
		v = e.convert(v, kindInterval)
	}
	if v.kind != kindInterval {
		return nil, false
	}
	back := v.span
	if !s.minus {
		back = back.negate()
	}
	slack := time.Duration(0)
	if back.months != 0 {
		slack += monthSlack
	}
	if (back.days != 0 || back.months != 0) && !s.days && !e.env.utc() {
		slack += e.env.zoneShift()
	}
	return func(i market.Instant) (least, most market.Instant) {
		i = addSpan(i, back)
		return i.Shift(-slack), i.Shift(slack)
	}, true
}
