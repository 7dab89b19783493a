package proxy

import (
	"slices"
	"unique"

	"barkeep/planner"
)

// PostgreSQL reads the literals of a prepared statement when it analyses it: at Parse or PREPARE, and again at an execution
// after a definition or search_path changed. So they may have been read in any of the settings that the session had since.

// locales are the settings that the session had, by which literals are read; the last are the present ones.
type locales struct {
	list []planner.Locale
	base int // the number of the first
}

// maxLocales bounds what is remembered; beyond it the older ones are any.
const maxLocales = 64

// add notes settings, if they are not those noted last.
func (l *locales) add(next planner.Locale) {
	switch n := len(l.list); {
	case n > 0 && l.list[n-1] == next:
	case n >= maxLocales:
		l.base += n
		l.list = []planner.Locale{{Unknown: true}, next}
	default:
		l.list = append(l.list, next)
	}
}

// since returns the settings from the numbered ones on.
func (l *locales) since(number int) []planner.Locale { return l.list[max(number-l.base, 0):] }

// last is the number of the present settings.
func (l *locales) last() int { return l.base + len(l.list) - 1 }

// noteLocale takes up the settings that the upstream has reported. It does so with each ReadyForQuery, no earlier.
func (l *ledger) noteLocale() {
	if l.localesSeen == l.paramsSeen.Load() && len(l.had.list) > 0 {
		return
	}
	l.localesSeen = l.paramsSeen.Load()
	l.had.add(localeOf(l.params))
}

func localeOf(params map[string]string) planner.Locale {
	return planner.Locale{TimeZone: params["TimeZone"], DateStyle: params["DateStyle"], IntervalStyle: params["IntervalStyle"]}
}

// register notes that the upstream has the statement, in the settings of the last ReadyForQuery.
func (l *ledger) register(st *statement) *statement {
	l.noteLocale()
	if !st.registered {
		st.registered, st.since = true, l.had.last()
		st.encoding, st.nonStandard = unique.Make(l.params["client_encoding"]).Value(), l.params["standard_conforming_strings"] == "off"
	}
	return st
}

// readIn returns the settings in which the statement's literals may have been read, nil for the present ones alone.
func (s *session) readIn(st *statement) []planner.Locale {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !st.registered || !st.unsettled && st.since == s.had.last() {
		return nil
	}
	list := slices.Clone(s.had.since(st.since))
	if st.unsettled {
		list = append(list, planner.Locale{Unknown: true})
	}
	return list
}

// passed notes settings in which prepared statements are executed, or described, and which end before ReadyForQuery.
func (s *session) passed(list []planner.Locale) {
	if len(list) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noteLocale()
	for _, l := range list {
		if n := len(s.had.list); n < 2 || s.had.list[n-2] != l {
			s.had.add(l)
			s.had.add(localeOf(s.params))
		}
	}
}
