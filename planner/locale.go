package planner

import (
	"slices"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
)

// Locale is the settings by which literals of dates, times and intervals are read.
type Locale struct {
	TimeZone, DateStyle, IntervalStyle string
	// Unknown says that the settings were others, which are not known.
	Unknown bool
}

// Locale returns the settings of the session by which literals are read.
func (e Env) Locale() Locale {
	return Locale{TimeZone: e.TimeZone, DateStyle: e.DateStyle, IntervalStyle: e.IntervalStyle}
}

// locale returns what is known of the settings where a statement of the text begins.
func (s settings) locale() Locale {
	if !s.zoneKnown {
		return Locale{Unknown: true}
	}
	return s.Locale()
}

// in returns the session with the settings of a locale.
func (s settings) in(l Locale) settings {
	s.TimeZone, s.DateStyle, s.IntervalStyle = l.TimeZone, l.DateStyle, l.IntervalStyle
	s.known, s.zoneKnown = !l.Unknown, !l.Unknown
	return s
}

// readLiteral reads a literal of a point in time. PostgreSQL does so when it analyses a statement, which for a prepared one
// may have been in other settings than these: the value lies somewhere between what it is in each of them.
func (e *evaluator) readLiteral(text string, to kind) value {
	v := e.parseText(text, to)
	for _, l := range e.readIn {
		then := *e
		then.env = e.env.in(l)
		w := then.parseText(text, to)
		if v.kind != to || w.kind != to || v.null || w.null {
			v = value{}
			continue // what has to be asked is asked at once
		}
		v.lo, v.hi = min(v.lo, w.lo), max(v.hi, w.hi)
	}
	return v
}

// readOtherwise reports whether an expression has a literal that may have been read in other settings.
func (e *evaluator) readOtherwise(node *pg.Node) bool {
	if len(e.readIn) == 0 {
		return false
	}
	found := false
	walk(node, func(m proto.Message) bool {
		if c, ok := m.(*pg.A_Const); ok && c.GetSval() != nil {
			found = true
		}
		return !found
	})
	return found
}

// except returns the locales without one, each once.
func except(list []Locale, l Locale) []Locale {
	var out []Locale
	for _, each := range list {
		if each != l && !slices.Contains(out, each) {
			out = append(out, each)
		}
	}
	return out
}
