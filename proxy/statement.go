package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"

	"github.com/jackc/pgx/v5/pgproto3"

	"barkeep/planner"
)

// unit is one execution, or one Parse, that may read ohlcv.
type unit struct {
	stmt *statement
	args planner.Args
	// name is what a Bind calls the statement; alone says that the upstream has it under that name, and can have no other.
	name  string
	alone bool
	// parseOnly says that nothing is executed; parsed that the upstream has not seen the statement yet.
	parseOnly, parsed bool
	// behind says that something may have been executed before it in its own segment.
	behind bool
	// unsettled says that its own segment changes settings before it.
	unsettled bool
	// refused says why it must not be executed.
	refused *Error
	// portal says that it is a Bind, cursor that it goes on with a portal that was planned before.
	portal, cursor bool
	// explained says that it is not executed: what it would need is shown there.
	explained *explained
}

// classify says what a text may do, by a scan.
func (s *session) classify(text string, oids []uint32) *statement {
	st := &statement{text: text, oids: oids, scan: s.server.scans.of(text, s.catalog())}
	s.noteMade(st)
	return st
}

// catalog is what the database shows to all, with what this session makes itself and nobody else sees before its block
// ends (PLANNER 3).
func (s *session) catalog() *planner.Catalog {
	base := s.server.cfg.Catalog.Current()
	r := &s.reader
	if len(r.made) == 0 {
		return base
	}
	if r.overlay == nil || r.overlaid != base {
		r.overlay, r.overlaid = base.With(s.server.overlays.Add(1)|overlayBit, r.made...), base
	}
	return r.overlay
}

// forgetMade drops what the session made where its block is over: the database shows it to all by now, or has taken it
// back.
func (s *session) forgetMade() {
	r := &s.reader
	if len(r.made) == 0 || r.inSegment || r.open || len(r.batch)+len(r.pending) > 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting == 0 && s.tx == 'I' {
		r.made, r.overlay, r.overlaid = nil, nil, nil
	}
}

// reconsider asks again whether a prepared statement may read ohlcv where definitions have changed since (PLANNER 6): the
// view it names may read it now.
func (s *session) reconsider(st *statement) {
	if known := s.catalog(); st.known != known {
		st.scan = s.server.scans.of(st.text, known)
	}
}

// overlayBit keeps the versions of sessions' own catalogs apart from the database's: templates are cached by version.
const overlayBit = 1 << 63

// noteMade takes up the names that a text defines over ohlcv. It is asked before the text is executed, for what follows
// in the same segment, and when it is.
func (s *session) noteMade(st *statement) {
	if !st.reads || !st.defines {
		return
	}
	if names := s.server.cache.Prepare(st.text, st.oids, s.env()).Creates(); len(names) > 0 {
		s.reader.made = append(s.reader.made, names...)
		s.reader.overlay = nil
	}
}

// affect notes what a statement about to go upstream may change.
func (s *session) affect(st *statement) {
	r := &s.reader
	if !st.control {
		r.snapshot = true
	}
	if !st.effects {
		return
	}
	r.segmentEffects = true
	r.importing = r.importing || st.imports
	s.noteMade(st)
	s.suspect(st)
	if isPlain(st.text, plainEnds) {
		r.dirty = r.dirty || r.blockEffects
		r.blockEffects = false
		return
	}
	r.dirty, r.blockEffects = true, true
}

// suspect tells the catalog of a statement that may define a view or function, and of the end of the block that it is in:
// only then can others see it.
func (s *session) suspect(st *statement) {
	r := &s.reader
	ends := isPlain(st.text, plainEnds)
	r.defines = r.defines || (!ends && st.defines)
	if !r.defines {
		return
	}
	if c, ok := s.server.cfg.Catalog.(interface{ Suspect() }); ok {
		c.Suspect()
	}
	r.defines = !ends
}

// query deals with a simple Query.
func (s *session) query(ctx context.Context, body []byte, size int) error {
	r := &s.reader
	if r.gated {
		if ok, err := s.release(ctx, 0, 0); err != nil {
			return err
		} else if !ok {
			return s.discard(size)
		}
		body = r.buf[r.scan+5 : r.scan+size]
	}
	text, _, _ := cstring(body)
	st := s.classify(string(text), nil)
	s.settle()
	before := s.before(st)
	if st.reads || len(before) > 0 {
		if err := s.forward(); err != nil {
			return err
		}
		if s.explains(st) && !s.blockFailed() {
			return s.explainQuery(ctx, st, size)
		}
		switch failure := s.gate(ctx, append(before, unit{stmt: st, parsed: true, behind: r.used || r.usedUp})); {
		case errors.Is(failure, errWouldWait):
			return failure
		case failure != nil:
			return s.fail(ctx, failure, 'Q', size)
		}
	}
	r.restarts = r.restarts || st.ends && s.alone()
	query := entry{kind: kindQuery}
	if st.effects {
		query.renames = s.renames(st, r.segmentEffects)
	}
	s.affect(st)
	if r.inSegment || r.open {
		s.mu.Lock()
		s.queried = true
		s.mu.Unlock()
		size = s.markOpen(size)
	}
	r.bound = nil
	r.pending = append(r.pending, query)
	r.scan += size
	s.settle()
	r.open, r.usedUp, r.used, r.segmentEffects, r.inSegment = false, false, false, false, false
	return nil
}

// before returns the unit of a text that must not be executed as it is, or only after a look at the settings: it may FETCH from
// a cursor that reads ohlcv, or give a setting of barkeep's a value that it cannot have.
func (s *session) before(st *statement) []unit {
	refused := s.wrongSet(st)
	cursor := st.fetches && len(s.reader.cursors) > 0
	if refused == nil && !cursor {
		return nil
	}
	return []unit{{stmt: st, refused: refused, cursor: cursor, unsettled: cursor && s.reader.segmentEffects}}
}

// goesOn gates units of the open segment.
func (s *session) goesOn(units []unit) {
	if len(units) > 0 {
		s.reader.gated = true
		s.reader.units = append(s.reader.units, units...)
	}
}

// keepCursors notes the settings in which portals were planned that a block may go on with later.
func (s *session) keepCursors(u unit, now planner.Locale, opened []planner.Locale) {
	r := &s.reader
	if !u.portal && len(opened) == 0 {
		return
	}
	if !s.inTransaction() {
		r.cursors = r.cursors[:0]
	}
	if u.portal && !slices.Contains(r.cursors, now) {
		r.cursors = append(r.cursors, now)
	}
	for _, in := range opened {
		if !slices.Contains(r.cursors, in) {
			r.cursors = append(r.cursors, in)
		}
	}
}

// goOn fails where a unit must not be executed, or a portal that was planned in other settings goes on: what its execution
// compares ts with would be another time now, and bars would be read that nobody asked for.
func (s *session) goOn(units []unit) error {
	if at := slices.IndexFunc(units, func(u unit) bool { return u.refused != nil }); at >= 0 {
		return units[at].refused
	}
	if !slices.ContainsFunc(units, func(u unit) bool { return u.cursor }) {
		return nil
	}
	now := s.env().Locale()
	if s.inTransaction() && slices.ContainsFunc(s.reader.cursors, func(l planner.Locale) bool { return l != now }) {
		return errCursorSettings
	}
	return nil
}

// markOpen has the upstream say that it has come to the message at scan: in a segment that has failed it is dropped. It returns
// the size of what goes upstream.
func (s *session) markOpen(size int) int {
	r := &s.reader
	r.pending = append(r.pending, entry{kind: kindClose, instead: &shown{}, before: true})
	message := r.buf[r.scan : r.scan+size]
	return r.replace(size, append(encode(&pgproto3.Close{ObjectType: 'P', Name: ownName}), message...))
}

// alone reports whether the upstream will execute a Query for certain: nothing before it is outstanding, and no segment
// open.
func (s *session) alone() bool {
	r := &s.reader
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting == 0 && len(r.batch) == 0 && !r.inSegment && !r.open
}

// parse deals with Parse.
func (s *session) parse(body []byte) {
	r := &s.reader
	name, rest, ok := cstring(body)
	text, rest, ok2 := cstring(rest)
	if !ok || !ok2 {
		return // the upstream will say what is wrong
	}
	st := s.classify(string(text), nil)
	if n := len(rest); n >= 2 {
		for i := 2; i+4 <= n && len(st.oids) < int(binary.BigEndian.Uint16(rest)); i += 4 {
			st.oids = append(st.oids, binary.BigEndian.Uint32(rest[i:]))
		}
	}
	if !st.control {
		r.snapshot = true
	}
	st.unsettled = r.segmentEffects
	r.pending = append(r.pending, entry{kind: kindParse, name: string(name), stmt: st})
	if st.reads {
		r.gated = true
		r.units = append(r.units, unit{stmt: st, parseOnly: true, parsed: true})
	}
}

// bind deals with Bind. It returns the size of what goes upstream.
func (s *session) bind(body []byte, size int) int {
	r := &s.reader
	portal, rest, ok := cstring(body)
	name, _, ok2 := cstring(rest)
	if !ok || !ok2 {
		return size
	}
	delete(r.explained, string(portal))
	found, fresh := s.lookup(string(name))
	if len(found) == 0 {
		return s.bindUnknown(string(name), size)
	}
	u := unit{name: string(name), alone: len(found) == 1 && !fresh, parsed: fresh, behind: r.used, unsettled: r.segmentEffects}
	if s.explains(found[0]) {
		u.stmt, u.args, u.explained = found[0], arguments(body), &explained{}
		r.explained[string(portal)] = u.explained
		r.units = append(r.units, u)
		r.gated, r.used, r.snapshot = true, true, true
		return size
	}
	for _, st := range found {
		s.reconsider(st)
		if st.reads {
			// What was changed by this very segment cannot be read before it is executed: gate refuses that.
			r.gated, u.stmt, u.args, u.portal = true, st, arguments(body), true
			r.units = append(r.units, u)
		}
		s.goesOn(s.before(st))
	}
	s.bindEffects(string(portal), found)
	r.used = true
	return size
}

// bindUnknown deals with the Bind of a name for which nothing is known to be prepared. Should it be after all, out of sight, it
// is closed first: what it reads is not known, so that it must not be executed.
func (s *session) bindUnknown(name string, size int) int {
	r := &s.reader
	r.snapshot = true
	r.pending = append(r.pending, entry{kind: kindClose, instead: &shown{}})
	message := r.buf[r.scan : r.scan+size]
	return r.replace(size, append(encode(&pgproto3.Close{ObjectType: 'S', Name: name}), message...))
}

// bindEffects notes what a portal may change when it is executed.
func (s *session) bindEffects(portal string, found candidates) {
	r := &s.reader
	var changes []rename
	effects := false
	for _, st := range found {
		if st.effects {
			effects = true
			changes = append(changes, s.renames(st, r.segmentEffects || portal != "")...)
		}
		s.affect(st)
	}
	switch {
	case portal == "":
		r.bound, r.boundBefore = changes, len(found) > 1
	case effects:
		r.portals[portal] = changes
	}
}

// arguments decodes the parameters of a Bind. Their types are the statement's.
func arguments(body []byte) planner.Args {
	var message pgproto3.Bind
	var args planner.Args
	if err := message.Decode(append([]byte(nil), body...)); err != nil {
		return args // the upstream will refuse it as well
	}
	args.Formats, args.Values = message.ParameterFormatCodes, message.Parameters
	return args
}

// execute deals with Execute: what a named portal does is done now. It returns the size of the message that goes upstream in
// its place: the Execute of an EXPLAIN (BARKEEP) becomes the Close of a portal that does not exist, whose CloseComplete is
// replaced by the answer.
func (s *session) execute(body []byte, size int) int {
	portal, rest, ok := cstring(body)
	if !ok {
		return size
	}
	r := &s.reader
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
	changes, loose := r.bound, r.boundBefore
	if len(portal) > 0 {
		named, known := r.portals[string(portal)]
		r.dirty, changes, loose = r.dirty || known, named, true
	}
	if len(changes) > 0 {
		r.used = true
		r.pending = append(r.pending, entry{kind: kindRename, renames: changes, loose: loose})
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
	e := entry{kind: kindClose, name: string(name)}
	if body[0] == 'S' {
		e.stmt = closedStatement
	} else {
		delete(s.reader.portals, e.name)
		delete(s.reader.explained, e.name)
	}
	s.reader.pending = append(s.reader.pending, e)
}

// endSegment deals with Sync and Flush.
func (s *session) endSegment(ctx context.Context, kind byte, size int) error {
	r := &s.reader
	if r.gated {
		if ok, err := s.release(ctx, kind, size); err != nil || !ok {
			return err
		}
	}
	r.scan += size
	if kind == 'S' {
		r.pending = append(r.pending, entry{kind: kindSync, clears: r.marked})
		r.boundBefore = true
		r.skipping, r.marked, r.used, r.segmentEffects, r.inSegment = false, false, false, false, false
		s.forgetExplained()
	} else {
		r.inSegment = true
	}
	s.settle()
	if kind == 'S' && r.open {
		// What follows is another transaction: its start is told from this one's.
		err := s.forward()
		r.open, r.usedUp = false, false
		return err
	}
	return nil
}

// release lets the gated segment go with the next write, when it may, or fails it. The end is the Sync or Flush at scan,
// or 0; a failure consumes it.
func (s *session) release(ctx context.Context, end byte, size int) (ok bool, err error) {
	r := &s.reader
	if err := s.forward(); err != nil { // what came before the segment
		return false, err
	}
	units := r.units
	r.units, r.gated = nil, false
	failure := s.explainUnits(ctx, units)
	if failure == nil {
		failure = s.gate(ctx, units)
	}
	switch {
	case errors.Is(failure, errWouldWait):
		r.units, r.gated = units, true
		return false, failure
	case failure != nil:
		return false, s.fail(ctx, failure, end, size)
	}
	s.settle()
	return true, nil
}
