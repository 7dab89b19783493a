package proxy

import (
	"context"
	"slices"
	"sync/atomic"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgproto3"

	"barkeep/planner"
)

// executor is a portal of a statement that the upstream looks at when the portal is executed for the first time, by an Execute or a FETCH: which
// statement an EXECUTE means, and what a view in COPY, EXPLAIN, DECLARE or CREATE TABLE AS reads, is found out then. It may have been prepared,
// or defined, since the Bind was planned: it is planned again then.
//
// It is kept until the upstream has said that it was executed, or has no transaction any more. A Bind into the same portal, an Execute and a Close
// may each fail, or not be reached, and behind ROLLBACK TO SAVEPOINT the portal is what it was.
type executor struct {
	found candidates
	rest  []byte // of its Bind
	// planned is the number of the release that its Bind is planned in, from 1: what is prepared up to there is known to that. It is 0 where the
	// Bind read nothing, and is not planned.
	planned uint64
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
	at := slices.IndexFunc(found, s.looksLater)
	if at < 0 {
		return
	}
	one := &executor{found: found, rest: slices.Clone(rest), segment: r.segments}
	if !slices.ContainsFunc(found, func(st *statement) bool { return !st.reads }) {
		one.planned = r.releases + 1
	}
	if !r.executors.keep(portal, one) {
		s.goesOn([]unit{{stmt: found[at], refused: errManyExecutors}})
	}
}

// looksLater reports whether the upstream looks at what the statement reads when its portal is executed, not when that is bound.
func (s *session) looksLater(st *statement) bool { return st.late || s.executesAnother(st) }

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
	s.goesOn(s.plannedAnew(nil, list))
	r.pending = append(r.pending, entry{kind: kindRename, ran: list})
}

// fetchedAnew adds the units of the portals that a FETCH may be the first to execute.
func (s *session) fetchedAnew(units []unit) []unit {
	r := &s.reader
	for i := range r.units {
		r.units[i].executed = true
	}
	for portal := range r.executors.of {
		r.executors.drop(portal, (*executor).hasRun)
		units = s.plannedAnew(units, r.executors.of[portal])
	}
	return units
}

// later reports whether a unit is the Bind of a portal that EXECUTEs, and is not executed with it: it is planned when it is.
func (u *unit) later(template *planner.Template) bool {
	return u.portal && !u.executed && len(template.Executes()) > 0
}

// plannedAnew adds the units of those that were bound before what is held now.
func (s *session) plannedAnew(units []unit, list []*executor) []unit {
	for _, bound := range list {
		if bound.planned != s.reader.releases+1 {
			units = s.planAnew(units, bound)
		}
	}
	return units
}

// planAnew adds the units of what a portal executes, to be planned with what comes here.
func (s *session) planAnew(units []unit, bound *executor) []unit {
	r := &s.reader
	env := s.env()
	for _, st := range bound.found {
		s.reconsider(st)
		if !st.reads || !s.template(st, &env).Reads() && !s.executesAnother(st) {
			continue
		}
		args, _ := arguments(bound.rest)
		units = append(units, unit{
			stmt: st, args: args, planned: true, behind: r.used || r.acts, unsettled: r.segmentEffects, revived: r.revives, plainly: r.plainly,
			at: r.point(), again: true,
		})
	}
	return units
}

// goesOnAlone reports whether a unit that is planned again EXECUTEs what is not prepared any more: its portal goes on with what it has found when
// it was executed first, or fails in PostgreSQL's own words.
func (s *session) goesOnAlone(ctx context.Context, u *unit, template *planner.Template) (bool, error) {
	if !u.again {
		return false, nil
	}
	name := s.unknownName(template)
	switch {
	case name == "":
		return false, nil
	case s.reader.trying:
		return false, errWouldWait
	}
	if quiet, err := s.quiesce(ctx); err != nil || !quiet || s.blockFailed() {
		return false, err
	}
	reply, err := s.tentative(ctx, encode(&pgproto3.Describe{ObjectType: 'S', Name: name}))
	return err == nil && reply.err != nil, err
}
