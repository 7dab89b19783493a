package proxy

import (
	"slices"
	"sync/atomic"

	"github.com/jackc/pgerrcode"
)

// executor is a portal of a statement that EXECUTEs another by its name. Which one that is the upstream finds out when the portal is executed for
// the first time, and it may have been prepared since the Bind was planned: it is planned again then.
//
// It is kept until the upstream has said that it was executed, or has no transaction any more. A Bind into the same portal, an Execute and a Close
// may each fail, or not be reached, and behind ROLLBACK TO SAVEPOINT the portal is what it was.
type executor struct {
	found candidates
	rest  []byte // of its Bind
	// release is the number of the release that its Bind is planned in: what is prepared up to there is known to that.
	release uint64
	segment uint64      // in which it was bound
	ran     atomic.Bool // the upstream has answered an Execute of it
}

// executors are those that an Execute may find, the oldest first, by the portal's name.
type executors struct {
	of    map[string][]*executor
	bytes int
	// lost says that some of the unnamed portal are not kept: what that executes nobody knows, but where it is bound in the same segment.
	lost bool
}

// maxExecutors bounds the bytes of a session's executors: those of their names and Binds, and executorBytes for each.
const (
	maxExecutors  = 256 << 10
	executorBytes = 256
)

// errManyExecutors refuses a Bind of a named portal beyond maxExecutors, and behind an unnamed one beyond it the Execute of one of another segment.
var errManyExecutors = &Error{
	Code: pgerrcode.ProgramLimitExceeded, Message: "too many portals of EXECUTE are bound in the transaction",
	HintText: "Execute them, and send Sync, before others are bound.",
}

func (e *executor) size(portal string) int { return executorBytes + len(portal) + len(e.rest) }

// hasRun reports whether what it executes is found for good.
func (e *executor) hasRun() bool { return e.ran.Load() }

// drop forgets those of a portal that are so. Their list itself may be in use elsewhere: it is not changed.
func (x *executors) drop(portal string, is func(*executor) bool) {
	list := x.of[portal]
	if !slices.ContainsFunc(list, is) {
		return
	}
	var kept []*executor
	for _, each := range list {
		if is(each) {
			x.bytes -= each.size(portal)
		} else {
			kept = append(kept, each)
		}
	}
	if x.of[portal] = kept; len(kept) == 0 {
		delete(x.of, portal)
	}
}

// keep adds one, and reports whether there is room for it.
func (x *executors) keep(portal string, one *executor) bool {
	x.drop(portal, (*executor).hasRun)
	if x.bytes+one.size(portal) > maxExecutors {
		for name := range x.of {
			x.drop(name, (*executor).hasRun)
		}
	}
	if portal == "" && x.bytes+one.size(portal) > maxExecutors {
		x.drop(portal, func(*executor) bool { return true })
		x.lost = true
	}
	if x.bytes+one.size(portal) > maxExecutors {
		return false
	}
	if x.of == nil {
		x.of = map[string][]*executor{}
	}
	x.of[portal] = append(x.of[portal], one)
	x.bytes += one.size(portal)
	return true
}

// forgetExecutors forgets all where those of before are gone with their transaction.
func (s *session) forgetExecutors() {
	r := &s.reader
	if r.executors.bytes == 0 && !r.executors.lost || r.used || r.open || len(r.batch) > 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting == 0 && s.tx == 'I' {
		r.executors = executors{}
	}
}

// keepExecutor notes the portal of a Bind of one of the statements, which is refused where there is no room for it.
func (s *session) keepExecutor(portal string, found candidates, rest []byte) {
	r := &s.reader
	at := slices.IndexFunc(found, s.executesAnother)
	if at < 0 {
		return
	}
	one := &executor{found: found, rest: slices.Clone(rest), release: r.releases, segment: r.segments}
	if !r.executors.keep(portal, one) {
		s.goesOn([]unit{{stmt: found[at], refused: errManyExecutors}})
	}
}

// executesAnother reports whether the statement EXECUTEs one by its name.
func (s *session) executesAnother(st *statement) bool {
	if !st.executes {
		return false
	}
	env := s.env()
	return len(s.template(st, &env).Executes()) > 0
}

// executeAnew has an Execute of a portal be planned that may be the first, and was bound before what is held now.
func (s *session) executeAnew(portal string) {
	r := &s.reader
	here := portal == "" && r.unnamed.segment == r.segments && r.used // else the segment has failed
	if r.executors.lost && portal == "" && !here {
		s.goesOn([]unit{{stmt: closedStatement, refused: errManyExecutors}})
	}
	r.executors.drop(portal, (*executor).hasRun)
	list := r.executors.of[portal]
	if here {
		for len(list) > 0 && list[0].segment != r.segments {
			list = list[1:]
		}
	}
	if len(list) == 0 {
		return
	}
	r.pending = append(r.pending, entry{kind: kindRename, ran: list})
	for _, bound := range list {
		if bound.release != r.releases {
			s.planAnew(bound)
		}
	}
}

// planAnew has what a portal executes be planned with what comes here.
func (s *session) planAnew(bound *executor) {
	r := &s.reader
	for _, st := range bound.found {
		s.reconsider(st)
		if !st.reads || !s.executesAnother(st) {
			continue
		}
		args, _ := arguments(bound.rest)
		s.goesOn([]unit{{
			stmt: st, args: args, planned: true, behind: r.used || r.acts, unsettled: r.segmentEffects, revived: r.revives, plainly: r.plainly,
			at: r.point(),
		}})
	}
}
