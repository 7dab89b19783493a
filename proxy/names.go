package proxy

import (
	"slices"
	"strings"
	"unicode/utf8"

	"barkeep/planner"
)

// kept returns the name of a statement or portal as far as the upstream keeps it (NAMEDATALEN): of a longer one all that begin with the same
// bytes are the same. SQL has cut its own by then.
func kept(name []byte) []byte {
	if len(name) <= maxName {
		return name
	}
	return cut(name)
}

// cut is kept for one that is too long. Where that ends in the middle of a character, another is made of what is left of it, so that it can
// be sent.
func cut(name []byte) []byte {
	name = slices.Clone(name[:maxName])
	last := len(name) - 1
	for last > len(name)-utf8.UTFMax && !utf8.RuneStart(name[last]) {
		last--
	}
	for next := byte(0x80); !utf8.FullRune(name[last:]); next = 0x80 {
		if len(name) == last+1 {
			next = leastSecond[name[last]]
		}
		name = append(name, max(next, 0x80))
	}
	return name
}

// leastSecond are the least second bytes of characters in UTF-8 that begin with a byte, where those are not 0x80.
var leastSecond = [256]byte{0xe0: 0xa0, 0xf0: 0x90}

// rename is what one SQL statement does to the names of prepared statements, if it is executed.
type rename struct {
	name string
	stmt *statement // what PREPARE registers; nil where the name is deallocated
	all  bool       // every name is
}

// candidates are the statements that may have one name upstream, the newest first. They are never changed, only replaced.
type candidates []*statement

// with returns the candidates and one more.
func (c candidates) with(st *statement) candidates {
	for _, each := range c {
		if each.text == st.text && slices.Equal(each.oids, st.oids) {
			each.unsettled, each.described = each.unsettled || st.unsettled, nil
			return c
		}
	}
	return append(candidates{st}, c...)
}

// renames returns what the text does to the names of prepared statements, in order. Unsettled says that settings may be changed before
// it, in its own segment.
func (s *session) renames(st *statement, unsettled bool) []rename {
	lower := strings.ToLower(st.text)
	if !strings.Contains(lower, "prepare") && !strings.Contains(lower, "deallocate") && !strings.Contains(lower, "discard") {
		return nil
	}
	var list []rename
	for _, each := range s.server.cache.Prepare(st.text, st.oids, s.env()).Names() {
		r := rename{name: each.Name, all: each.All}
		if each.Prepared != nil {
			r.stmt = s.classify([]byte(each.Prepared.Text), each.Prepared.OIDs)
			r.stmt.unsettled = unsettled || each.Unsettled
			r.stmt.planned = true // an EXECUTE is not told from others
		}
		list = append(list, r)
	}
	return list
}

// rename registers what a statement has done to the names, or may have done where that is not certain: a name may then
// still be what it was.
func (l *ledger) rename(list []rename, certain bool) {
	for _, r := range list {
		switch {
		case r.stmt != nil && certain:
			l.statements[r.name] = candidates{l.register(r.stmt)}
		case r.stmt != nil:
			l.statements[r.name] = l.statements[r.name].with(l.register(r.stmt))
		case !certain:
		case r.all:
			unnamed := l.statements[""] // stays
			clear(l.statements)
			if unnamed != nil {
				l.statements[""] = unnamed
			}
		default:
			delete(l.statements, r.name)
		}
	}
}

// lookup finds what a name may stand for where the next message is executed, the newest first: what the upstream has told,
// and what was sent since. Fresh says that it is one statement that is not upstream yet. A segment is executed up to its first failure:
// what came before in it is certain, what came before it is not.
func (s *session) lookup(name string) (found candidates, fresh bool) {
	r := &s.reader
	certain := true
	if s.lookupIn(r.pending, name, &found, &certain) || s.lookupIn(r.batch, name, &found, &certain) {
		return found, len(found) == 1
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lookupIn(s.entries[s.first:], name, &found, &certain) {
		return found, false
	}
	if len(found) == 0 {
		return s.statements[name], false
	}
	for _, st := range s.statements[name] {
		found = found.then(st)
	}
	return found, false
}

// then is with for an older one.
func (c candidates) then(st *statement) candidates {
	if slices.Contains(c, st) {
		return c
	}
	return append(slices.Clip(c), st)
}

// lookupIn adds what the entries say of a name, and reports whether older ones do not matter.
func (s *session) lookupIn(list []entry, name string, found *candidates, certain *bool) bool {
	for _, e := range slices.Backward(list) {
		if e.endsReady() {
			*certain = false
		}
		for _, r := range slices.Backward(e.renames) {
			if r.stmt != nil && r.name == name {
				*found = found.then(r.stmt)
			}
		}
		switch {
		case e.name != name:
		case e.kind == kindParse:
			*found = found.then(e.stmt)
			if *certain {
				return true
			}
		case e.kind == kindClose && e.stmt != nil && *certain:
			return true
		}
	}
	return false
}

// prepared looks statements up for SQL EXECUTE.
func (s *session) prepared(env planner.Env) func(string) ([]planner.Candidate, bool) {
	return func(name string) ([]planner.Candidate, bool) {
		found, _ := s.lookup(name)
		var list []planner.Candidate
		for _, st := range found {
			s.reconsider(st)
			if st.reads {
				list = append(list, planner.Candidate{Template: s.template(st, &env), Read: append(s.readIn(st), env.Locale())})
			}
		}
		return list, len(found) > 0
	}
}

// unknownName returns the name that a text of one statement EXECUTEs, if nothing is known of it.
func (s *session) unknownName(t *planner.Template) string {
	if t.Statements != 1 {
		return ""
	}
	for _, name := range t.Executes() {
		if found, _ := s.lookup(name); len(found) == 0 {
			return name
		}
	}
	return ""
}
