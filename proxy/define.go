package proxy

import "slices"

// definer is a Catalog that wants to know of definitions.
//
// What holds: a statement that comes after the answer to another, whoever's, is planned with what that one has defined. For that the
// catalog knows of each statement that may define something before it goes upstream, and of its ReadyForQuery before the client has it.
// What a block defines can be seen when it ends, so that its end counts as a definition too.
type definer interface {
	Defining()
	Defined()
	Lost()
}

func (s *session) definer() definer {
	d, _ := s.server.cfg.Catalog.(definer)
	return d
}

// define notes an entry that may define something, which was counted already. What it does can be seen by the next ReadyForQuery
// behind it.
func (l *ledger) define(e entry) {
	l.definedAt = l.readies + uint64(l.waiting) //nolint:gosec // a count
	if !e.endsReady() {
		l.definedAt++
	}
}

// tellDefining tells the catalog of definitions that go upstream now. The caller holds mu.
func (s *session) tellDefining() {
	if s.definitions || s.readies >= s.definedAt {
		return
	}
	if d := s.definer(); d != nil {
		s.definitions = true
		d.Defining()
	}
}

// tellDefined tells the catalog of those that were answered, by each ReadyForQuery while there are some: which of several it was for
// does not matter. The caller holds mu, and the client has not been given the answer.
func (s *session) tellDefined() {
	if !s.definitions {
		return
	}
	s.definer().Defined()
	if s.definitions = s.readies < s.definedAt; s.definitions {
		s.definer().Defining()
	}
}

// tellLost tells the catalog of those that will not be answered any more.
func (s *session) tellLost() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.definitions {
		s.definitions = false
		s.definer().Lost()
	}
}

// definedAll reports whether all that the session has defined can be seen by others: it was answered, and no transaction was open then.
func (s *session) definedAll() bool {
	r := &s.reader
	ahead := func(e entry) bool { return e.defines }
	if slices.ContainsFunc(r.pending, ahead) || slices.ContainsFunc(r.batch, ahead) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.idleAt >= s.definedAt
}
