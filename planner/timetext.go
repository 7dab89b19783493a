package planner

import (
	"strconv"
	"strings"
	"time"

	"barkeep/internal/market"
)

// zoned is a date and time as written: local, and how far its zone is east of UTC where it names one.
type zoned struct {
	local   market.Instant // the wall clock read as if it were UTC
	offset  time.Duration
	hasZone bool
	date    bool // no time of day was written
}

// parseTime reads the part of ISO 8601 that PostgreSQL reads alike under every DateStyle: YYYY-MM-DD, then optionally a
// blank or T and HH:MM[:SS[.ffffff]], then optionally Z or ±HH[[:]MM]. Everything else is left to the database.
func parseTime(text string) (zoned, bool) {
	text = strings.Trim(text, " ")
	if len(text) < 10 || text[4] != '-' || text[7] != '-' {
		return zoned{}, false
	}
	year, ok1 := digits(text[:4])
	month, ok2 := digits(text[5:7])
	dayOfMonth, ok3 := digits(text[8:10])
	if !ok1 || !ok2 || !ok3 || year < 1000 || month < 1 || month > 12 || dayOfMonth < 1 || dayOfMonth > daysIn(year, month) {
		return zoned{}, false
	}
	z := zoned{date: true}
	rest := text[10:]
	var sinceMidnight time.Duration
	if len(rest) > 1 && (rest[0] == ' ' || rest[0] == 'T') && isDigit(rest[1]) {
		var ok bool
		if sinceMidnight, rest, ok = parseClock(rest[1:]); !ok {
			return zoned{}, false
		}
		z.date = false
	}
	var ok bool
	if z.offset, z.hasZone, ok = parseOffset(rest); !ok || (z.date && z.offset != 0) {
		return zoned{}, false
	}
	z.local = midnight(year, month, dayOfMonth).Shift(sinceMidnight)
	return z, true
}

func daysIn(year, month int) int {
	switch {
	case month == 2 && year%4 == 0 && (year%100 != 0 || year%400 == 0):
		return 29
	case month == 2:
		return 28
	case month == 4, month == 6, month == 9, month == 11:
		return 30
	}
	return 31
}

// midnight returns the beginning of a day in UTC.
func midnight(year, month, day int) market.Instant {
	// Years are counted from March, so that a leap day is the last of its year.
	if month -= 3; month < 0 {
		month += 12
		year--
	}
	const toEpoch = 719468 // days from 0000-03-01
	days := 365*year + year/4 - year/100 + year/400 + (153*month+2)/5 + day - 1 - toEpoch
	return market.Instant(days) * dayMicros
}

// digits reads a number of decimal digits only.
func digits(text string) (int, bool) {
	if text == "" || len(text) > 9 {
		return 0, false
	}
	n := 0
	for i := range len(text) {
		if !isDigit(text[i]) {
			return 0, false
		}
		n = n*10 + int(text[i]-'0')
	}
	return n, true
}

// parseClock reads HH:MM[:SS[.ffffff]] and returns what follows it.
func parseClock(text string) (time.Duration, string, bool) {
	if len(text) < 5 || text[2] != ':' {
		return 0, "", false
	}
	hour, ok1 := digits(text[:2])
	minute, ok2 := digits(text[3:5])
	if !ok1 || !ok2 || hour > 23 || minute > 59 {
		return 0, "", false
	}
	d := time.Duration(hour)*time.Hour + time.Duration(minute)*time.Minute
	text = text[5:]
	if text == "" || text[0] != ':' {
		return d, text, true
	}
	if len(text) < 3 {
		return 0, "", false
	}
	second, ok := digits(text[1:3])
	if !ok || second > 59 {
		return 0, "", false
	}
	d += time.Duration(second) * time.Second
	text = text[3:]
	if text == "" || text[0] != '.' {
		return d, text, true
	}
	n := 1
	for n < len(text) && isDigit(text[n]) {
		n++
	}
	if n < 2 || n > 7 {
		return 0, "", false
	}
	us, _ := digits((text[1:n] + "000000")[:6])
	return d + time.Duration(us)*time.Microsecond, text[n:], true
}

// parseOffset reads nothing, Z, or ±HH, ±HHMM or ±HH:MM to the end of the text.
func parseOffset(text string) (offset time.Duration, has, ok bool) {
	text = strings.TrimLeft(text, " ")
	switch {
	case text == "":
		return 0, false, true
	case text == "Z" || text == "z" || strings.EqualFold(text, "UTC"):
		return 0, true, true
	case text[0] != '+' && text[0] != '-':
		return 0, false, false
	}
	hhmm := strings.Replace(text[1:], ":", "", 1)
	if (len(hhmm) != 2 && len(hhmm) != 4) || (len(text) == 6 && text[3] != ':') || len(text) > 6 || len(text) == 4 {
		return 0, false, false
	}
	hours, ok1 := digits(hhmm[:2])
	minutes, ok2 := 0, true
	if len(hhmm) == 4 {
		minutes, ok2 = digits(hhmm[2:])
	}
	if !ok1 || !ok2 || hours > 15 || minutes > 59 {
		return 0, false, false
	}
	offset = time.Duration(hours)*time.Hour + time.Duration(minutes)*time.Minute
	if text[0] == '-' {
		offset = -offset
	}
	return offset, true, true
}

// span is PostgreSQL's interval.
type span struct {
	months, days int64
	rest         time.Duration
}

func (s span) negate() span { return span{-s.months, -s.days, -s.rest} }

// spanUnits are the units that parseSpan reads; anything else is left to the database.
var spanUnits = map[string]span{ //nolint:gochecknoglobals // a table
	"us": {rest: time.Microsecond}, "microsecond": {rest: time.Microsecond}, "microseconds": {rest: time.Microsecond},
	"ms": {rest: time.Millisecond}, "msec": {rest: time.Millisecond}, "millisecond": {rest: time.Millisecond},
	"milliseconds": {rest: time.Millisecond},
	"s":            {rest: time.Second}, "sec": {rest: time.Second}, "secs": {rest: time.Second}, "second": {rest: time.Second},
	"seconds": {rest: time.Second},
	"m":       {rest: time.Minute}, "min": {rest: time.Minute}, "mins": {rest: time.Minute}, "minute": {rest: time.Minute},
	"minutes": {rest: time.Minute},
	"h":       {rest: time.Hour}, "hr": {rest: time.Hour}, "hrs": {rest: time.Hour}, "hour": {rest: time.Hour},
	"hours": {rest: time.Hour},
	"d":     {days: 1}, "day": {days: 1}, "days": {days: 1},
	"w": {days: 7}, "week": {days: 7}, "weeks": {days: 7},
	"mon": {months: 1}, "mons": {months: 1}, "month": {months: 1}, "months": {months: 1},
	"y": {months: 12}, "yr": {months: 12}, "yrs": {months: 12}, "year": {months: 12}, "years": {months: 12},
}

// parseSpan reads an interval of whole numbers of units, and one time of day as psycopg writes it ("1 days 02:00:00").
// A sign in a text of several fields is left to the database: its meaning depends on IntervalStyle.
func parseSpan(text string) (span, bool) {
	var total span
	fields := strings.Fields(strings.ToLower(text))
	pairs, signed := 0, false
	for i := 0; i < len(fields); i++ {
		f := fields[i]
		if d, rest, ok := parseClock(f); ok && rest == "" && i == len(fields)-1 {
			total.rest += d
			pairs++
			break
		}
		signed = signed || f[0] == '-' || f[0] == '+'
		cut := strings.LastIndexAny(f, "0123456789") + 1
		unit := f[cut:]
		if unit == "" {
			i++
			if i == len(fields) {
				return span{}, false
			}
			unit = fields[i]
		}
		n, err := strconv.ParseInt(f[:cut], 10, 32)
		one, known := spanUnits[unit]
		if err != nil || !known || (one.rest > 0 && (n > int64(maxSpanRest/one.rest) || n < -int64(maxSpanRest/one.rest))) {
			return span{}, false
		}
		pairs++
		total.months += n * one.months
		total.days += n * one.days
		total.rest += time.Duration(n) * one.rest
		if !total.small() {
			return span{}, false
		}
	}
	return total, pairs > 0 && total.small() && (!signed || pairs <= 1)
}

// maxSpanRest bounds the part of a span below days, far from where its arithmetic overflows.
const maxSpanRest = 30 * 365 * 24 * time.Hour

// small reports whether s is of a size at which its arithmetic cannot overflow.
func (s span) small() bool {
	const years = 10000
	return abs(s.months) <= 12*years && abs(s.days) <= 366*years && s.rest.Abs() <= maxSpanRest
}

func abs(n int64) int64 { return max(n, -n) }

// addSpan returns i + s in UTC, as timestamptz_pl_interval computes it: months (to the last day of a shorter month),
// then days, then the rest.
func addSpan(i market.Instant, s span) market.Instant {
	if i.IsInf() {
		return i
	}
	t := i.Time()
	if s.months != 0 {
		year, month, dom := t.Date()
		first := time.Date(year, month+time.Month(s.months), 1, t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
		t = first.AddDate(0, 0, min(dom, daysIn(first.Year(), int(first.Month())))-1)
	}
	return market.FromTime(t.AddDate(0, 0, int(s.days))).Shift(s.rest)
}
