package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"barkeep/planner"
)

// reader is what the reading goroutine knows. Nothing else touches it.
//
//	buf: … | start … segment … scan … end |
//
// [start, segment) goes upstream with the next write; [segment, scan) too, unless the segment is gated: then it waits
// for its Sync or Flush; [scan, end) is not looked at yet.
type reader struct {
	// What each message touches comes first.
	buf                       []byte // nil while nothing is in it
	start, segment, scan, end int
	stream                    int     // bytes of a message that goes upstream as it comes
	batch, pending            []entry // of [start, segment) and of [segment, scan)

	trying bool // in a loop's callback: nothing may wait; errWouldWait says that it would have to
	owed   bool // [start, segment) is in the ledger, and a part of it upstream
	busy   bool // idle was full the last time

	gated    bool // the segment holds what may read ohlcv
	skipping bool // the proxy failed the segment: drop until Sync
	marked   bool // and has the upstream fail it
	lone     bool // [start, segment) is what passIdle has passed, and nothing else
	passed   bool // what went upstream last was lone and in no block: with what comes next a transaction begins
	open     bool // messages of the segment went upstream, its Sync did not
	usedUp   bool // a Bind was among them
	leaves   bool // [start, segment) ends within a segment: once it is upstream, open is true
	leftUsed bool // and usedUp is

	starts bool // the last message of the segment starts the upstream's statement_timeout, and no Execute has come since
	timed  bool // it did when the last settled

	revives   bool // what came in the segment may end the failure of a block
	plainly   bool // the first of it ends the block and nothing else
	inSegment bool // the last message belongs to a segment without its Sync so far
	used      bool // and a Bind came in it
	acts      bool // and what is bound or executed in it is more than a BEGIN
	together  bool // and what may read ohlcv is bound behind that

	snapshot       bool // what waits to be written takes a snapshot
	snapshotTaken  bool
	importing      bool // what waits to be written imports a snapshot
	imported       bool // the transaction has a snapshot of another
	restarts       bool // what waits to be written begins by ending the transaction
	segmentEffects bool // the segment has a statement that may change the session
	dirty          bool // settings may differ from those read last
	changes        bool // what is not upstream changes them
	defines        bool // a view or function may have been defined since the last plain end of a block
	hidden         bool // the block may have made a function that changes settings
	blockEffects   bool // settings were changed since the last plain end of a block
	shades         bool // the session may have a temporary relation named ohlcv
	plainText      bool // texts come in UTF-8

	timing          time.Time // no later than the upstream's start of its statement_timeout in the open segment; zero where it does not run
	began           time.Time // no later than the start of the upstream's transaction
	noticed         Version   // the coverage of which all is noticed by the open transaction, see replan
	snapshotVersion Version
	level           string // the isolation level that the segment gives the transaction; empty: that of settings
	sole            int    // the number of the one of units, from 1, whose Bind is all that acts in the segment; 0: none is
	runs            int    // messages that execute something, so far
	rowsOf, rows    int    // what runs was at the last CopyData, and how many came since
	segments        uint64 // that have ended
	releases        uint64 // how often what was gated was let go, or failed
	executors       executors
	inside          inside           // what the open block has defined out of sight
	made            []string         // names that this session defined over ohlcv in the open block
	reportedAt      uint64           // see reported
	newPortals      []string         // those that are not upstream
	unnamed         bound            // the unnamed portal
	boundHere       []boundHere      // named portals, and cursors, of the open segment
	bound           int              // how many of them came before the last definition in it
	portals         map[string]bound // named ones that may change the session

	overlay     *planner.Catalog // the catalog with made, and overlaid the one it was made from; nil: to be made
	overlaid    *planner.Catalog
	units       []unit   // of the segment
	args        argsRoom // of the first of them
	reloads     uint64   // of the server's configuration, when settings were read
	idle        []byte   // what a goroutine of the session's own reads into that waits
	name        int      // what ohlcv means in the units that the gate looks at, see another
	portalsMost int      // how many portals there are before those that are gone are looked for
	// begins is the statement that begins a block at the start of what is held, empty where none does or the block has ended by the
	// statement that is held for.
	begins    string
	cursors   []planner.Locale      // those in which portals of the block that read ohlcv were planned
	explained map[string]*explained // portals of EXPLAIN (BARKEEP)
	settings  settings
	reported  planner.Env // as of the paramsSeen before reportedAt; zero: none yet
	query     statement   // that of the Query at scan, while that is looked at
}

// bound is a portal that may change the session.
type bound struct {
	renames []rename // what it does to prepared statements
	effects bool     // it may change the session; named ones that do not are not kept
	loose   bool     // it may be another statement's
	segment uint64   // in which it was bound
	// found is the statement of the unnamed one, while its segment is open; overtaken says that there was a definition since, see overtake.
	found     candidates
	overtaken bool
	// ends is no less than the number of the ReadyForQuery that ends its segment; zero as long as it is not upstream.
	ends uint64
}

// leastPortals is how many of them are kept before those that are gone are looked for.
const leastPortals = 64

// late reports whether it may change the session in another segment than the one it was bound in, whose effects are noted.
func (b bound) late(r *reader) bool { return b.effects && b.segment != r.segments }

// over reports whether the portal is gone with its transaction; idle is the number of the last ReadyForQuery outside of blocks.
func (b bound) over(idle uint64) bool { return b.ends > 0 && b.ends <= idle }

// keepPortal notes a portal. Those whose transaction is over are gone, whatever their client thinks of them: a long session may have
// bound any number.
func (s *session) keepPortal(name string, changes []rename) {
	r := &s.reader
	r.portals[name] = bound{renames: changes, effects: true, loose: true, segment: r.segments}
	r.newPortals = append(r.newPortals, name)
	if len(r.portals) < r.portalsMost {
		return
	}
	s.forgetPortals()
	r.portalsMost = max(leastPortals, 2*len(r.portals))
}

// forgetPortals forgets those whose transaction is over.
func (s *session) forgetPortals() {
	s.mu.Lock()
	idle := s.idleAt
	s.mu.Unlock()
	maps.DeleteFunc(s.reader.portals, func(_ string, b bound) bool { return b.over(idle) })
}

// portalsSent notes that the portals are upstream. The caller holds mu.
func (s *session) portalsSent() {
	r := &s.reader
	for _, name := range r.newPortals {
		if b, ok := r.portals[name]; ok {
			b.ends = s.readies + uint64(s.waiting) + 1 //nolint:gosec // a count
			r.portals[name] = b
		}
	}
	r.newPortals = emptied(r.newPortals)
}

func (r *reader) init() {
	r.dirty = true
	r.portals, r.portalsMost = map[string]bound{}, leastPortals
	r.explained = map[string]*explained{}
}

// leaveSegment notes the end of a segment. What the isolation level is from here on is asked when it matters.
func (r *reader) leaveSegment() {
	r.inSegment, r.used, r.acts, r.together, r.segmentEffects = false, false, false, false, false
	r.segments++
	r.unnamed.found = nil
	if len(r.boundHere) > 0 {
		r.boundHere = emptied(r.boundHere)
	}
	r.bound = 0
	if r.level != "" {
		r.level, r.dirty, r.blockEffects = "", true, true
	}
}

// read takes the client's messages until it has no more.
func (s *session) read(ctx context.Context) error {
	s.reader.idle = make([]byte, idleBuffer)
	for {
		if err := s.fill(); err != nil && !s.roused(err) {
			return err
		}
		if err := s.advance(ctx); err != nil {
			return err
		}
		if err := s.attend(ctx); err != nil {
			return err
		}
	}
}

// advance forwards what may go of what was read.
func (s *session) advance(ctx context.Context) error {
	if !s.planned {
		return s.passOn()
	}
	return s.consume(ctx)
}

// fill reads more of what the client sends; it makes room for the message that is not whole.
func (s *session) fill() error {
	r := &s.reader
	r.rest(nil)
	if r.buf == nil && !r.busy {
		r.buf = r.idle
	}
	r.room(nil)
	n, err := s.client.Read(r.buf[r.end:])
	r.end += n
	r.busy = n >= len(r.idle)
	if n == 0 && err != nil {
		return fmt.Errorf("read from client: %w", err)
	}
	return nil
}

// consume takes every whole message in the buffer and forwards what may go; what of that a loop's callback owes then it has to pay. Where it
// returns errWouldWait it may be called again, outside the loop, and goes on where it was.
func (s *session) consume(ctx context.Context) error {
	r := &s.reader
	if r.trying && s.mayAsk() {
		return errWouldWait
	}
	if err := s.payOwed(); err != nil {
		return err
	}
	if r.stream > 0 {
		n := min(r.stream, r.end-r.scan)
		r.stream -= n
		r.scan += n
		r.segment = r.scan
	}
	for more := true; more && r.stream == 0 && r.end-r.scan >= 5; {
		var err error
		if more, err = s.takeNext(ctx); err != nil {
			return err
		}
	}
	if r.gated && r.scan-r.segment > maxGated {
		return s.releasePart(ctx)
	}
	if !r.gated {
		s.settle()
	}
	if err := s.recordPart(ctx); err != nil || r.trying && !r.gated {
		return err
	}
	if err := s.payOwed(); err != nil || !r.gated || !s.midCopy() {
		return err
	}
	return s.releasePart(ctx) // it does not belong there: PostgreSQL does not wait for its end
}

// takeNext deals with what begins at scan, and reports whether there may be more.
func (s *session) takeNext(ctx context.Context) (more bool, err error) {
	if s.passIdle() {
		return true, nil
	}
	r := &s.reader
	kind, size := r.buf[r.scan], int(binary.BigEndian.Uint32(r.buf[r.scan+1:]))+1
	if size < 5 {
		return false, protocolError("invalid message length")
	}
	whole := r.end-r.scan >= size
	if !whole && !r.gated && !r.skipping && (kind == 'd' || kind == 'B' && size > s.server.cfg.MaxMessage && s.bindPart()) {
		if kind == 'd' {
			r.countRow()
		}
		r.stream = size - (r.end - r.scan)
		r.scan = r.end
		return false, nil
	}
	switch {
	case size > s.server.cfg.MaxMessage:
		return false, protocolError(fmt.Sprintf("message of %d bytes is longer than barkeep takes", size))
	case !whole:
		return false, nil
	case r.trying && size > maxLooped:
		return false, errWouldWait
	}
	return true, s.take(ctx, kind, size)
}

// releasePart is release for a segment of which the end has not come.
func (s *session) releasePart(ctx context.Context) error {
	if _, err := s.release(ctx, 0, 0); err != nil {
		return err
	}
	return s.consume(ctx) // what the client has sent meanwhile
}

// midCopy reports whether a COPY from the client is under way.
func (s *session) midCopy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.copying
}

// forwardPart is forward where a segment may not have ended: once a part of it is upstream, settings cannot be read before its end.
func (s *session) forwardPart(ctx context.Context) error {
	if err := s.recordPart(ctx); err != nil {
		return err
	}
	return s.payOwed()
}

// recordPart is forwardPart without the write.
func (s *session) recordPart(ctx context.Context) error {
	r := &s.reader
	if r.start < r.segment && r.leaves && !r.open && s.stale() {
		if err := s.readEarly(ctx); err != nil {
			return err
		}
	}
	return s.record()
}

// payOwed writes what of the ledger's last entries is not upstream yet. A loop's callback does so last, and from its own function: see
// netloop.Conn.TryRead.
func (s *session) payOwed() error {
	r := &s.reader
	if !r.owed {
		return nil
	}
	for r.start < r.segment {
		var n int
		var err error
		if r.trying {
			n, err = s.looped.upstream.TryWrite(r.buf[r.start:r.segment])
		} else {
			n, err = s.upstream.Write(r.buf[r.start:r.segment])
		}
		r.start += n
		if err != nil {
			return fmt.Errorf("write to upstream: %w", err)
		}
		if r.trying && r.start < r.segment {
			return errWouldWait
		}
	}
	r.owed = false
	if s.released != nil { // the reader alone sets it
		s.sent()
	}
	return nil
}

// readEarly reads the settings, unless the segment changes them itself, or what came before it has failed or goes on.
func (s *session) readEarly(ctx context.Context) error {
	s.mu.Lock()
	copying := s.copying
	s.mu.Unlock()
	if copying || s.reader.segmentEffects || slices.ContainsFunc(s.reader.batch, entry.endsReady) {
		return nil
	}
	if s.reader.trying {
		return errWouldWait
	}
	switch quiet, err := s.quiesce(ctx); {
	case errors.Is(err, errSegmentFailed):
		return nil
	case err != nil || !quiet || s.blockFailed():
		return err
	}
	var own *Error
	if err := s.readSettings(ctx); err != nil && (!errors.As(err, &own) || own.Fatal) {
		return err
	}
	return nil // what else went wrong is told to a statement that needs them
}

// take deals with the whole message at scan. It moves scan past it.
func (s *session) take(ctx context.Context, kind byte, size int) error {
	r := &s.reader
	if r.skipping && kind != 'S' && kind != 'X' {
		return s.discard(size)
	}
	if err := s.lookInside(ctx, kind); err != nil {
		return err
	}
	body := r.buf[r.scan+5 : r.scan+size]
	switch kind {
	case 'Q', 'E', 'F':
		r.runs++
	}
	switch kind {
	case 'Q':
		s.forgetMade()
		s.forgetExecutors()
	case 'P', 'B', 'D', 'E', 'C':
		s.forgetMade()
		if !r.inSegment && s.stale() { // what changes settings is upstream before the segment: they can be read between
			s.settle()
			if err := s.forward(); err != nil {
				return err
			}
		}
		if !r.inSegment {
			r.revives, r.plainly = false, false
		}
		r.inSegment = true
	}
	switch kind { // PostgreSQL ends its timer with each Execute, and the next message starts it anew (exec_execute_message)
	case 'P', 'B', 'D':
		r.starts = true
	case 'E', 'Q', 'F', 'S':
		r.starts = false
	}
	switch kind {
	case 'Q':
		return s.query(ctx, body, size)
	case 'P':
		s.parse(body)
	case 'B':
		size = s.bind(body, size)
	case 'D':
		r.snapshot = true     // the upstream analyses a statement anew where what it reads has changed
		if r.segmentEffects { // analyses the statement anew where it has to be
			s.passed([]planner.Locale{{Unknown: true}})
		}
	case 'E':
		size = s.execute(body, size)
	case 'C':
		s.closeNamed(body)
	case 'S', 'H':
		return s.endSegment(ctx, kind, size)
	case 'F':
		return s.call(ctx, body, size)
	case 'X':
		s.mu.Lock()
		s.announced = true
		s.mu.Unlock()
	case 'd':
		r.countRow()
	case 'c', 'f':
		r.pending = append(r.pending, entry{kind: kindCopyEnd, bound: r.inSegment})
	}
	r.scan += size
	if (kind == 'c' || kind == 'f' || kind == 'd') && !r.gated {
		s.settle() // it belongs to what is upstream, which waits for it: it is not held with what comes next
	}
	return nil
}

// settle lets the open segment's messages go with the next write.
func (s *session) settle() {
	r := &s.reader
	r.lone = r.lone && r.segment == r.scan
	if len(r.batch) == 0 {
		r.batch, r.pending = r.pending, r.batch
	} else {
		r.batch = append(r.batch, r.pending...)
		r.pending = emptied(r.pending)
	}
	r.segment, r.timed = r.scan, r.starts
	r.leaves, r.leftUsed = r.inSegment, r.used
}

// forward enters [start, segment) into the ledger and writes it upstream.
func (s *session) forward() error {
	if err := s.record(); err != nil {
		return err
	}
	return s.payOwed()
}

// record is forward without the write.
func (s *session) record() error {
	r := &s.reader
	if r.start == r.segment {
		return nil
	}
	if err := s.awaitCancel(); err != nil {
		return err
	}
	now := s.sentAt()
	begins := r.restarts || r.passed || s.waiting == 0 && s.tx == 'I' && !r.open && !s.unended
	r.passed, r.lone = r.lone && begins, false
	switch {
	case r.passed:
		r.beginWith(true, now, nil) // nothing in its transaction asks for it
	case begins || r.snapshot && !r.snapshotTaken:
		r.beginWith(begins, now, s.server.cfg.Coordinator.Snapshot())
	}
	r.imported = r.imported || r.importing
	copied := s.copying
	s.at = now
	s.push(r.batch...)
	s.at = time.Time{}
	s.tellDefining()
	if r.segment == r.scan { // else some may be of what comes behind
		s.portalsSent()
		r.changes = false
	}
	s.opened = r.leaves || copied && s.waiting == 0
	s.mu.Unlock()
	r.open, r.usedUp = r.leaves, r.leftUsed
	r.snapshot, r.importing, r.restarts = false, false, false
	switch {
	case !r.timed:
		r.timing = time.Time{}
	case r.timing.IsZero():
		r.timing = now
	}
	r.batch = emptied(r.batch)
	r.owed = true
	return nil
}

// sentAt returns a time no later than that at which the upstream has what goes there next, and hardly earlier.
func (s *session) sentAt() time.Time {
	if s.reader.trying {
		return s.looped.upstream.Woken()
	}
	return time.Now()
}

// beginWith notes the coverage before a transaction begins or its snapshot is taken, and no later than when.
func (r *reader) beginWith(begins bool, at time.Time, covered Version) {
	if begins {
		r.began, r.snapshotTaken, r.imported, r.noticed = at, false, false, covered
	}
	if r.snapshot && !r.snapshotTaken {
		r.snapshotTaken, r.snapshotVersion = true, covered
	}
}

// discard drops the message at scan; what came before it is forwarded.
func (s *session) discard(size int) error {
	s.settle()
	if err := s.forward(); err != nil {
		return err
	}
	r := &s.reader
	r.scan += size
	r.start, r.segment = r.scan, r.scan
	return nil
}
