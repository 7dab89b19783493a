package planner

import (
	"regexp"
	"strings"
	"time"

	pg "github.com/pganalyze/pg_query_go/v6"

	"barkeep/internal/market"
)

// A TimeZone is UTC, or one of the zone database, or a rule as POSIX writes it: "<+05:30>-05:30", which is also what SET TIME ZONE 5.5 makes of itself. The
// clock of a rule may be a week from UTC (tzparse in PostgreSQL's localtime.c takes up to 167 hours), and so may that of a session whose
// zone is not known.
const (
	// farZone is further than any zone's wall clock was ever from UTC, and zoneShift more than one was ever set by at once.
	farZone, zoneShift = 16 * time.Hour, 25 * time.Hour
	// farRule is farZone of a rule, with an hour for its summer.
	farRule = 169 * time.Hour
)

// farZone is further than the wall clock of the session's zone can be from UTC.
func (s settings) farZone() time.Duration {
	if s.zoneKnown && nearZone(s.TimeZone) {
		return farZone
	}
	return farRule
}

// zoneShift is more than the clock of the session's zone can be set by at once.
func (s settings) zoneShift() time.Duration {
	if s.zoneKnown && nearZone(s.TimeZone) {
		return zoneShift
	}
	return 2 * farRule
}

// nearRule matches zones with a number that are certainly no further from UTC than those of the zone database: one clock, or two of which
// one may be east of UTC and the other west. A number alone is one of hours, in any form that strtod reads.
var nearRule = func() *regexp.Regexp {
	const (
		name, minutes = `(?:<[^>]*>|[A-Za-z][^0-9<,:]*)[+-]?`, `(?::[0-9]+)*`
		to15, to11    = `0*(?:[0-9]|1[0-5])` + minutes, `0*(?:[0-9]|1[01])` + minutes
	)
	return regexp.MustCompile(`^` + name + `(?:` + to15 + `|` + to11 + name + `(?:` + to11 + `)?(?:,.*)?)$`)
}()

// nearZone reports whether farZone and zoneShift hold for a zone. A name without a number is none of a rule.
func nearZone(name string) bool {
	return !strings.ContainsAny(name, "0123456789") || nearRule.MatchString(name)
}

// isUTC reports whether a TimeZone is UTC under one of its names.
func isUTC(zone string) bool {
	if zone == "" || zone == "UTC" || zone == "Etc/UTC" { // as they are nearly always written
		return true
	}
	switch strings.ToLower(zone) {
	case "utc", "etc/utc", "gmt", "etc/gmt", "zulu", "etc/zulu", "universal", "etc/universal", "uct", "etc/uct", "gmt0",
		"etc/gmt0", "etc/gmt+0", "etc/gmt-0", "greenwich", "etc/greenwich":
		return true
	}
	return false
}

// zoneNamed reports whether a step's zone is the session's or one of the zone database's by its full name: an interval or a rule may be
// further from UTC than any, and what an abbreviation means is a setting of the session.
func (e *evaluator) zoneNamed(s step) bool {
	if s.zone == nil {
		return true
	}
	v := e.eval(s.zone)
	return !v.null && (v.kind == kindUnknown || v.kind == kindText) && v.text != "" && (isUTC(v.text) || strings.Contains(v.text, "/") && nearZone(v.text))
}

// offsets returns the least and the greatest distance of a zone's clock from UTC around an instant, whether that is read as an
// instant or as the zone's own clock. What the database has to be asked is as far as can be until it has answered.
func (e *evaluator) offsets(zone *pg.Node, around market.Instant) (least, most time.Duration) {
	name, far := e.env.TimeZone, e.env.farZone()
	if zone != nil {
		name, far = e.eval(zone).text, farZone
	}
	switch {
	case around.IsInf() || isUTC(name) && (zone != nil || e.env.zoneKnown):
		return 0, 0
	case zone == nil && far > farZone || !e.env.known || around.Time().Year() < 1 || around.Time().Year() > 9999:
		return -far, far
	}
	point := "timestamptz '" + timeLiteral(market.H1.Floor(around)) + "Z'" // so that near points share a question
	series := " FROM generate_series(" + point + " - interval '30 hours', " + point + " + interval '30 hours', interval '15 minutes') g)"
	clock := "(g AT TIME ZONE " + quote(name) + ") - (g AT TIME ZONE 'UTC')"
	low, high := e.answer("(SELECT min("+clock+")"+series, kindInterval), e.answer("(SELECT max("+clock+")"+series, kindInterval)
	if low.kind != kindInterval || high.kind != kindInterval || low.null || high.null {
		return -far, far
	}
	return time.Duration(low.lo) * time.Microsecond, time.Duration(high.lo) * time.Microsecond
}
