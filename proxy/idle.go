package proxy

import (
	"encoding/binary"

	"barkeep/planner"
)

// Most of what clients send concerns the upstream alone, and is told by what it looks like: passIdle spares it the look at each of its
// messages, which costs more than all else that is done with it.
//
// What holds: where passIdle is true the session is as take leaves it behind the last of the messages. Where it is false nothing of it has
// changed, but that a statement of which a Bind is there may count as planned, as it does once that is looked at.

// passIdle has a Query at scan go with the next write, or a whole segment that does nothing but execute the unnamed portal, if that concerns
// the upstream alone and nothing before it says otherwise. It reports whether it did.
func (s *session) passIdle() bool {
	r := &s.reader
	if r.start < r.scan || r.inSegment || r.open || r.gated || r.skipping || r.defines || r.restarts || s.live.segment || len(r.pending) > 0 ||
		len(r.made) > 0 || len(r.explained) > 0 || r.executors.bytes > 0 || r.executors.lost || r.level != "" || s.intricate() {
		return false
	}
	kind, body, at := s.short(r.scan)
	if kind == 'Q' {
		text, _, _ := cstring(body)
		s.reported()
		if !r.plainText && !planner.ASCII(text) || !s.server.scans.of(text, s.catalog()).idle {
			return false
		}
		r.unnamed = bound{}
		s.endIdle(kindQuery, at, 1)
		return true
	}
	executions := 0
	var st *statement
	for ; kind != 'S'; kind, body, at = s.short(at) {
		switch {
		case kind == 'B' && len(body) > 0 && body[0] == 0:
			if st = s.boundIdle(body[1:]); st == nil {
				return false
			}
		case kind == 'D' && st != nil && string(body) == "P\x00":
		case kind == 'E' && st != nil && len(body) > 0 && body[0] == 0:
			executions++
		default:
			return false
		}
	}
	if st == nil {
		return false
	}
	r.begins, r.sole, r.unnamed = "", 0, bound{segment: r.segments}
	r.revives, r.plainly = false, false
	s.endIdle(kindSync, at, executions)
	return true
}

// short returns the message at that place in the buffer, and where the next one is. The kind is zero where it is not there as a whole, or
// not a short one.
func (s *session) short(at int) (kind byte, body []byte, next int) {
	r := &s.reader
	if r.end-at < 5 {
		return 0, nil, at
	}
	size := int(binary.BigEndian.Uint32(r.buf[at+1:])) + 1
	if size < 5 || size > r.end-at || size > min(maxLooped, s.server.cfg.MaxMessage) {
		return 0, nil, at
	}
	next = at + size
	return r.buf[at], r.buf[at+5 : next], next
}

// boundIdle returns the statement of a Bind, whose body begins with its name here, if it is one that concerns the upstream alone and whose name
// can mean no other.
func (s *session) boundIdle(body []byte) *statement {
	name, _, ok := cstring(body)
	if !ok {
		return nil
	}
	s.mu.Lock()
	found := s.statements[string(kept(name))]
	settled := s.first == len(s.entries)
	s.mu.Unlock()
	if !settled || len(found) != 1 || !found[0].idle || found[0].late || found[0].version != versionOf(s.catalog()) {
		return nil
	}
	found[0].planned = true
	return found[0]
}

// endIdle enters what ends before that place into what goes with the next write.
func (s *session) endIdle(kind byte, next, executions int) {
	r := &s.reader
	r.runs += executions
	e := entry{kind: kind}
	if kind == kindSync {
		e = r.syncEntry()
	}
	r.batch = append(r.batch, e)
	r.scan, r.segment = next, next
	r.segments++
	r.snapshot = true
	r.lone = true
	r.starts, r.timed, r.leaves, r.leftUsed = false, false, false, false
}
