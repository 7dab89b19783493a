package proxy

import (
	"encoding/binary"

	"github.com/jackc/pgx/v5/pgproto3"

	"barkeep/planner"
)

// The messages of the extended protocol that come before Sync and Flush: what they need is noted, for the segment to be held as one.

// parse deals with Parse.
func (s *session) parse(body []byte) {
	r := &s.reader
	name, rest, ok := cstring(body)
	text, rest, ok2 := cstring(rest)
	if !ok || !ok2 {
		return // the upstream will say what is wrong
	}
	st := s.classify(text, nil)
	if n := len(rest); n >= 2 {
		for i := 2; i+4 <= n && len(st.oids) < int(binary.BigEndian.Uint16(rest)); i += 4 {
			st.oids = append(st.oids, planner.Declared(binary.BigEndian.Uint32(rest[i:])))
		}
	}
	if !st.control {
		r.snapshot = true
	}
	st.name, st.unsettled = string(kept(name)), r.segmentEffects
	at := r.point()
	r.pending = append(r.pending, entry{kind: kindParse, name: st.name, stmt: st})
	if st.reads || s.forces() {
		r.gated = true
		r.units = append(r.units, unit{stmt: st, forced: !st.reads, parseOnly: true, parsed: true, fresh: true, at: at})
	}
}

// bind deals with Bind. It returns the size of what goes upstream.
func (s *session) bind(body []byte, size int) int {
	r := &s.reader
	portal, rest, ok := cstring(body)
	name, rest, ok2 := cstring(rest)
	if !ok || !ok2 {
		return size
	}
	portal, name = kept(portal), kept(name)
	if len(r.explained) > 0 {
		delete(r.explained, string(portal))
	}
	s.forgetExecutors()
	found, fresh := s.lookup(string(name))
	if len(found) == 0 {
		return s.bindUnknown(string(name), size)
	}
	if len(found) == 1 && len(portal) == 0 && s.bindIdle(found) {
		return size
	}
	s.bindInFull(unit{
		revived: r.revives, plainly: r.plainly, name: found[0].called(name), into: string(portal), alone: len(found) == 1 && !fresh, parsed: fresh,
		behind: r.used, unsettled: r.segmentEffects, at: r.point(),
	}, rest, found)
	return size
}

// bindInFull binds the portal that u names to what was found, whose parameters are in rest.
func (s *session) bindInFull(u unit, rest []byte, found candidates) {
	r := &s.reader
	acts := r.acts
	r.acts, r.sole = r.acts || len(found) > 1 || !found[0].begins, 0
	if s.explains(found[0]) {
		u.stmt, u.explained = found[0], &explained{}
		u.args, _ = arguments(rest)
		r.explained[u.into] = u.explained
		r.units = append(r.units, u)
		r.gated, r.used, r.snapshot = true, true, true
		return
	}
	for _, st := range found {
		r.noteBegin(st)
		s.reconsider(st)
		u.fresh = st.ran == r.runs
		u.planned = st.planned
		st.planned = true
		if st.reads {
			// What was changed by this very segment cannot be read before it is executed: gate refuses that.
			r.gated, u.stmt, u.portal = true, st, true
			r.together = r.together || acts
			u.args, u.counted = r.args.of(rest)
			r.units = append(r.units, u)
			if !acts && len(found) == 1 {
				r.sole = len(r.units)
			}
		} else if s.forces() {
			s.goesOn([]unit{{stmt: st, forced: true, revived: u.revived, plainly: u.plainly}})
		}
		s.goesOn(s.before(st))
	}
	r.noteEnd(found)
	s.keepExecutor(u.into, found, rest)
	s.bindEffects(u.into, found)
	s.goesOn(s.keptBehind())
	r.used = true
}

// bindIdle binds the unnamed portal to a statement that concerns the upstream alone, and reports whether it is such a one: most are.
// Whatever it is false for is looked at in full; where it is true, that comes to this.
func (s *session) bindIdle(found candidates) bool {
	st := found[0]
	s.reconsider(st)
	if !st.idle || st.late || s.intricate() {
		return false
	}
	r := &s.reader
	if !r.used {
		r.begins = ""
	}
	r.acts, r.used, r.snapshot, st.planned, r.sole = true, true, true, true, 0
	r.unnamed = bound{segment: r.segments, found: found}
	return true
}

// bindPart deals with a Bind of which a part is there. It reports whether the rest may go upstream as it comes: that of statements
// which neither read ohlcv nor change anything need not be looked at.
func (s *session) bindPart() bool {
	r := &s.reader
	portal, rest, ok := cstring(r.buf[r.scan+5 : r.end])
	name, _, ok2 := cstring(rest)
	if !ok || !ok2 || s.forces() {
		return false
	}
	portal, name = kept(portal), kept(name)
	s.forgetMade()
	found, _ := s.lookup(string(name))
	for _, st := range found {
		s.reconsider(st)
		if st.reads || st.effects || st.asks || st.fetches {
			return false
		}
	}
	if len(found) == 0 {
		return false
	}
	for _, st := range found {
		r.noteBegin(st)
	}
	delete(r.explained, string(portal))
	s.forgetExecutors()
	s.bindEffects(string(portal), found)
	r.sole = 0
	r.inSegment, r.used, r.acts, r.starts = true, true, true, true
	return true
}

// bindUnknown deals with the Bind of a name for which nothing is known to be prepared. Should it be after all, out of sight, it
// is closed first: what it reads is not known, so that it must not be executed.
func (s *session) bindUnknown(name string, size int) int {
	r := &s.reader
	r.snapshot, r.acts, r.sole = true, true, 0
	if s.forces() {
		s.goesOn([]unit{{stmt: closedStatement, forced: true}})
	}
	r.pending = append(r.pending, entry{kind: kindClose, instead: &shown{}})
	message := r.buf[r.scan : r.scan+size]
	return r.replace(size, append(encode(&pgproto3.Close{ObjectType: 'S', Name: name}), message...))
}

// bindEffects notes what a portal may change when it is executed.
func (s *session) bindEffects(portal string, found candidates) {
	r := &s.reader
	var changes []rename
	effects, defines, all := false, false, found
	if len(found) == 1 && portal == "" && found[0].level != "" && !s.hidden() {
		r.level = found[0].level
		found = nil
	}
	for _, st := range found {
		if st.effects || st.level != "" {
			effects = true
			changes = append(changes, s.renames(st, r.segmentEffects || portal != "")...)
		}
		defines = s.affect(st) || defines
		r.inside.later = r.inside.later || st.conceals
		s.live.segment, s.live.portal = s.live.segment || st.listens, s.live.portal || st.listens
	}
	if defines {
		r.pending = append(r.pending, entry{kind: kindRename, defines: true})
	}
	switch {
	case portal == "":
		r.unnamed = bound{renames: changes, effects: effects, loose: len(found) > 1, segment: r.segments, found: all}
	case effects:
		s.keepPortal(portal, changes)
	case len(r.portals) > 0: // one of that name is still there where this Bind fails
		s.forgetPortals()
	}
	r.keepBound(portal, all)
}

// execute deals with Execute: what a named portal does is done now. It returns the size of the message that goes upstream in
// its place: the Execute of an EXPLAIN (BARKEEP) becomes the Close of a portal that does not exist, whose CloseComplete is
// replaced by the answer.
func (s *session) execute(body []byte, size int) int {
	portal, rest, ok := cstring(body)
	if !ok {
		return size
	}
	portal = kept(portal)
	r := &s.reader
	r.executes(string(portal))
	s.executeAnew(string(portal))
	earlier := len(portal) > 0 || !r.used // it was bound before, whatever it is
	r.revives, r.acts = r.revives || earlier, r.acts || earlier
	s.live.segment = s.live.segment || s.live.portal && (len(portal) > 0 || !r.used)
	if len(r.cursors) > 0 && (len(portal) > 0 || !r.used) {
		s.goesOn([]unit{{stmt: closedStatement, cursor: true, unsettled: r.segmentEffects}})
	}
	if x := r.explained[string(portal)]; x != nil {
		limit := uint32(0)
		if len(rest) >= 4 {
			limit = binary.BigEndian.Uint32(rest)
		}
		r.pending = append(r.pending, entry{kind: kindClose, instead: &shown{explained: x, limit: limit}})
		return r.replace(size, encode(&pgproto3.Close{ObjectType: 'P', Name: ownName}))
	}
	s.executesOvertaken(string(portal))
	if r.inside.execute(len(portal) == 0 && r.used) {
		r.overtake()
	}
	executed := r.unnamed
	if len(portal) > 0 {
		executed = r.portals[string(portal)]
	}
	if executed.late(r) {
		r.segmentEffects = true
		r.changesSettings()
	}
	if len(executed.renames) > 0 {
		r.used = true
		loose := executed.loose || executed.late(r)
		r.pending = append(r.pending, entry{kind: kindRename, renames: executed.renames, loose: loose})
	}
	return size
}

// closedStatement marks the entry of a Close that names a statement.
var closedStatement = &statement{}

func (s *session) closeNamed(body []byte) {
	if len(body) == 0 {
		return
	}
	name, _, _ := cstring(body[1:])
	e := entry{kind: kindClose, name: string(kept(name))}
	if body[0] == 'S' {
		e.stmt = closedStatement
	} else {
		delete(s.reader.explained, e.name) // what the portal may change is kept: the Close may not be reached
	}
	s.reader.pending = append(s.reader.pending, e)
}
