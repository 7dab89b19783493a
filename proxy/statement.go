package proxy

import (
	"context"
	"errors"
	"slices"

	"github.com/jackc/pgx/v5/pgproto3"

	"barkeep/planner"
)

// unit is one execution, or one Parse, that may read ohlcv.
type unit struct {
	stmt *statement
	args planner.Args
	// name is what a Bind calls the statement, into the portal; alone says that the upstream has it under that name, and can have no other.
	name, into string
	alone      bool
	// parseOnly says that nothing is executed; parsed that the upstream has not seen the statement yet.
	parseOnly, parsed bool
	// at is where its message is in the segment; runs is where the message is that executes it, zero where none has come, or something else
	// than it acts before that.
	at, runs point
	// fresh says that nothing was executed since it was parsed.
	fresh bool
	// revived says that what comes before it may end the failure of the block, plainly that the first of that ends the block and
	// nothing else.
	revived, plainly bool
	// behind says that something may have been executed before it in its own segment.
	behind bool
	// unsettled says that its own segment changes settings before it.
	unsettled bool
	// doomed says that it fails for certain, and is never executed.
	doomed bool
	// refused says why it must not be executed; unless says that it may be where nothing need be fetched.
	refused *Error
	unless  bool
	// planned says that the upstream may have a plan of it from before.
	planned bool
	// portal says that it is a Bind, cursor that it goes on with a portal that was planned before; again that it is that of an executor,
	// which may have been executed before.
	portal, cursor, again bool
	// overtaken, where not nil, is what may have been bound before a definition that it calls.
	overtaken *overtaking
	// channels are those of live bars that it listens to.
	channels []string
	// counted says that args are all that the upstream will find in the Bind.
	counted bool
	// executed says that its portal is executed, or may be, in the part of the segment that is held with its Bind.
	executed bool
	// forced says that it cannot read ohlcv, and is here for Config.ForceHold only.
	forced bool
	// explained says that it is not executed: what it would need is shown there.
	explained *explained
}

// hasUnit reports whether one of the units is so.
func hasUnit(units []unit, is func(u *unit) bool) bool {
	for i := range units {
		if is(&units[i]) {
			return true
		}
	}
	return false
}

// classify says what a text may do, by a scan.
func (s *session) classify(text []byte, oids []uint32) *statement {
	st := new(statement)
	s.classifyAs(st, text, oids)
	return st
}

// classifyAs is classify that makes of st what it returns. The text is copied.
func (s *session) classifyAs(st *statement, text []byte, oids []uint32) {
	r := &s.reader
	*st = statement{oids: oids, ran: r.runs}
	encoding, known := s.reported().ClientEncoding, s.catalog()
	if r.plainText || planner.ASCII(text) {
		kept := s.server.scans.of(text, known)
		st.text, st.templates, st.scan = kept.text, &kept.templates, kept.scan
	} else {
		st.text = string(text)
		st.scan = s.scanned(st.text, encoding, known)
	}
	r.shades = r.shades || st.shades
	s.noteMade(st)
}

// catalog is what the database shows to all, with what this session makes itself and nobody else sees before its block
// ends (PLANNER 3).
func (s *session) catalog() *planner.Catalog {
	base := s.server.cfg.Catalog.Current()
	r := &s.reader
	renames := base != nil && base.Others != nil && r.defines && !s.definedAll() // another table of ohlcv's name may be that by now
	if len(r.made) == 0 && r.inside.own == nil && !renames {
		return base
	}
	if r.overlay == nil || r.overlaid != base {
		r.overlay, r.overlaid = base, base
		if r.inside.own != nil {
			r.overlay = s.insider().Including(r.inside.own, s.overlayVersion())
		}
		if len(r.made) > 0 || renames {
			r.overlay = r.overlay.With(s.overlayVersion(), r.made...)
		}
	}
	return r.overlay
}

// overlayVersion returns a version for a catalog of the session's own.
func (s *session) overlayVersion() uint64 { return s.server.overlays.Add(1) | overlayBit }

// forgetMade drops what the session made where its block is over: the database shows it to all by now, or has taken it
// back.
func (s *session) forgetMade() {
	r := &s.reader
	if len(r.made) == 0 && !r.inside.any() || r.inSegment || r.open || len(r.batch)+len(r.pending) > 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting == 0 && s.tx == 'I' {
		r.made, r.overlay, r.overlaid, r.inside = nil, nil, nil, inside{}
	}
}

// reconsider asks again whether a prepared statement may read ohlcv where definitions have changed since (PLANNER 6): the
// view it names may read it now.
func (s *session) reconsider(st *statement) {
	if known := s.catalog(); st.version != versionOf(known) {
		s.mu.Lock()
		encoding := s.params["client_encoding"]
		if st.registered {
			encoding = st.encoding
		}
		s.mu.Unlock()
		st.scan = s.scanned(st.text, encoding, known)
	}
}

// scanned returns the scan of a text in a client's encoding. What cannot be read may be anything.
func (s *session) scanned(text, encoding string, known *planner.Catalog) scan {
	decoded, readable := planner.Decode(text, encoding)
	if !readable {
		decoded = text
	}
	out := s.server.scans.of([]byte(decoded), known).scan
	out.reads = out.reads || !readable
	out.opens = out.opens || decoded != text
	out.idle = out.idle && readable && decoded == text
	return out
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
		s.reader.overtake()
	}
}

// affect notes what a statement about to go upstream may change, and reports whether that may be a definition that others see.
func (s *session) affect(st *statement) (defines bool) {
	r := &s.reader
	r.inside.holds, r.inside.mayHold = r.inside.holds || st.holding, r.inside.mayHold || st.conceals
	if r.inside.note(st) {
		r.overtake()
	}
	if !st.control {
		r.snapshot = true
	}
	if !st.effects && st.level == "" && !s.hidden() {
		return st.definer && s.defining(st)
	}
	r.hidden = r.hidden || st.hides && st.effects
	r.segmentEffects = true
	r.importing = r.importing || st.imports
	s.noteMade(st)
	defines = s.defining(st)
	if st.plainEnd {
		if r.blockEffects {
			r.changesSettings()
		}
		r.blockEffects = false
		return defines
	}
	r.changesSettings()
	return defines
}

// changesSettings notes that the message at scan may change settings, those of the block that it is in too.
func (r *reader) changesSettings() { r.dirty, r.changes, r.blockEffects = true, true, true }

// hidden reports whether any statement may change settings: by a function that its own block has made, of which the catalog does
// not know.
func (s *session) hidden() bool {
	s.reader.hidden = s.reader.hidden && s.inTransaction()
	return s.reader.hidden
}

// defining reports whether a statement may define a view or function, or may end the block that one was defined in: only then can
// others see it. Its entry says so, see definer.
func (s *session) defining(st *statement) bool {
	r := &s.reader
	ends := st.plainEnd
	r.defines = r.defines && !s.definedAll() || !ends && (st.defines || st.definer)
	defining := r.defines
	r.defines = defining && !ends
	return defining
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
	st := &r.query
	defer func() { *st = statement{} }() // a text may be long
	s.classifyAs(st, text, nil)
	s.settle()
	before := s.before(st)
	if st.reads || len(before) > 0 || s.forces() {
		if err := s.forwardPart(ctx); err != nil {
			return err
		}
		if r.begins = ""; st.opens {
			r.begins = s.beginsWith(st.text)
		}
		if s.explains(st) && !s.blockFailed() {
			return s.explainQuery(ctx, st, size)
		}
		u := unit{stmt: st, forced: !st.reads, parsed: true, fresh: true, behind: r.used || r.usedUp, revived: st.revived, plainly: st.plainly}
		if r.revives && r.inSegment {
			u.revived, u.plainly = true, false
		}
		units := append(append(r.units[:0], before...), u) // nothing is in r.units: it is not gated
		failure := s.gate(ctx, units)
		r.units = emptied(units)
		switch {
		case errors.Is(failure, errWouldWait):
			return failure
		case failure != nil:
			first := s.beforeFailure(st, before, failure)
			if first == nil {
				return s.fail(ctx, failure, 'Q', size)
			}
			return s.failBehind(ctx, first, failure, size)
		}
	}
	return s.sendQuery(st, entry{kind: kindQuery}, size)
}

// sendQuery has a Query of the statement go with the next write; it is at scan.
func (s *session) sendQuery(st *statement, query entry, size int) error {
	r := &s.reader
	r.restarts = r.restarts || st.ends && s.alone()
	query.listens = st.listens || s.live.segment
	s.live.segment = false
	if st.effects {
		query.renames = s.renames(st, r.segmentEffects)
	}
	query.defines = s.affect(st)
	if r.inSegment || r.open {
		s.mu.Lock()
		s.queried = true
		s.mu.Unlock()
		size = s.markOpen(size)
	}
	s.endQuery(query, size)
	return nil
}

// endQuery passes the Query at scan, with which an open segment ends.
func (s *session) endQuery(query entry, size int) {
	r := &s.reader
	r.unnamed = bound{}
	r.pending = append(r.pending, query)
	r.scan += size
	r.open, r.usedUp = false, false
	r.leaveSegment()
	s.settle()
}

// intricate reports whether a statement may be more than the scan of its text says.
func (s *session) intricate() bool {
	r := &s.reader
	return r.hidden || r.inside.any() || s.forces()
}

// before returns the units of a text that must not be executed as it is, or only after a look at the settings: it may use what was
// defined out of sight, FETCH from a cursor that reads ohlcv, give a setting of barkeep's a value that it cannot have, or listen to live bars.
func (s *session) before(st *statement) []unit {
	refused := s.wrongSet(st)
	cursor := st.fetches && len(s.reader.cursors) > 0
	units := s.listens(st)
	if why := s.unsettled(st); why != nil {
		units = append(units, unit{stmt: st, refused: why, unless: true})
	}
	if refused != nil || cursor {
		units = append(units, unit{stmt: st, refused: refused, cursor: cursor, unsettled: cursor && s.reader.segmentEffects})
	}
	if st.fetches {
		units = s.fetchedAnew(units)
	}
	return append(units, s.overtakes(st)...)
}

// goesOn gates units of the open segment.
func (s *session) goesOn(units []unit) {
	if len(units) > 0 {
		s.reader.gated = true
		s.reader.units = append(s.reader.units, units...)
	}
}

// keepCursors notes the settings in which portals were planned that a block may go on with later.
func (s *session) keepCursors(u *unit, now planner.Locale, opened []planner.Locale) {
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
	lenient := s.reader.settings.lenient()
	for i := range units {
		if u := &units[i]; u.refused != nil && (!u.unless || !lenient) {
			return u.refused
		}
	}
	if !hasUnit(units, func(u *unit) bool { return u.cursor }) {
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
	return s.waiting == 0 && len(r.batch) == 0 && !r.inSegment && !r.open && !s.unended
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
		e := r.syncEntry()
		e.clears, e.listens = r.marked, s.live.segment
		r.pending = append(r.pending, e)
		s.live.segment = false
		r.skipping, r.marked = false, false
		r.leaveSegment()
		s.forgetExplained()
	}
	s.settle()
	if kind == 'S' && r.open {
		// What follows is another transaction: its start is told from this one's.
		return s.forward()
	}
	return nil
}

// release lets the gated segment go with the next write, when it may, or fails it. The end is the Sync or Flush at scan,
// or 0; a failure consumes it.
func (s *session) release(ctx context.Context, end byte, size int) (ok bool, err error) {
	r := &s.reader
	if err := s.forwardPart(ctx); err != nil { // what came before the segment
		return false, err
	}
	units := r.units
	r.units, r.gated, r.sole, r.releases = nil, false, 0, r.releases+1
	failure := s.explainUnits(ctx, units)
	if failure == nil {
		failure = s.gate(ctx, units)
	}
	if failure == nil && r.trying {
		r.args.free()
	} else {
		r.args.leave()
	}
	switch {
	case errors.Is(failure, errWouldWait):
		r.units, r.gated = units, true
		return false, failure
	case failure != nil:
		return false, s.fail(ctx, failure, end, size)
	}
	r.units = emptied(units)
	s.settle()
	return true, nil
}
