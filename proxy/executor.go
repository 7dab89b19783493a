package proxy

import "slices"

// executor is a portal of a statement that EXECUTEs another by its name. Which one that is the upstream finds out when the portal is executed for
// the first time, and it may have been prepared since the Bind was planned: it is planned again then.
type executor struct {
	found candidates
	rest  []byte // of its Bind
	// release is the number of the release that its Bind is planned in: what is prepared up to there is known to that.
	release uint64
}

// forgetExecutor notes that a portal is bound anew, and forgets all where those of before are gone with their transaction.
func (s *session) forgetExecutor(portal string) {
	r := &s.reader
	delete(r.executors, portal)
	if !r.used && !s.inTransaction() {
		clear(r.executors)
	}
}

// keepExecutor notes the portal of a Bind of one of the statements.
func (r *reader) keepExecutor(portal string, found candidates, rest []byte) {
	if slices.ContainsFunc(found, func(st *statement) bool { return st.executes }) {
		r.executors[portal] = executor{found: found, rest: slices.Clone(rest), release: r.releases}
	}
}

// executeAnew has the first Execute of a portal be planned that was bound before what is held now.
func (s *session) executeAnew(portal string) {
	r := &s.reader
	bound, ok := r.executors[portal]
	if !ok {
		return
	}
	delete(r.executors, portal)
	if bound.release == r.releases {
		return
	}
	env := s.env()
	for _, st := range bound.found {
		s.reconsider(st)
		if !st.reads || len(s.template(st, &env).Executes()) == 0 {
			continue
		}
		args, _ := arguments(bound.rest)
		s.goesOn([]unit{{
			stmt: st, args: args, planned: true, behind: r.used || r.acts, unsettled: r.segmentEffects, revived: r.revives, plainly: r.plainly,
			at: r.point(),
		}})
	}
}
