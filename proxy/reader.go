package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
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
	buf                       []byte
	start, segment, scan, end int

	trying bool // in a loop's callback: nothing may wait; errWouldWait says that it would have to
	owed   bool // [start, segment) is in the ledger, and a part of it upstream

	stream   int  // bytes of a message that goes upstream as it comes
	gated    bool // the segment holds what may read ohlcv
	skipping bool // the proxy failed the segment: drop until Sync
	marked   bool // and has the upstream fail it
	open     bool // messages of the segment went upstream, its Sync did not
	usedUp   bool // a Bind was among them
	checked  bool // a check of the proxy's own has failed upstream, and the block with it

	inSegment bool // the last message belongs to a segment without its Sync so far
	used      bool // and a Bind came in it

	batch, pending []entry // of [start, segment) and of [segment, scan)
	units          []unit  // of the segment

	snapshot        bool             // what waits to be written takes a snapshot
	segmentEffects  bool             // the segment has a statement that may change the session
	dirty           bool             // settings may differ from those read last
	made            []string         // names that this session defined over ohlcv in the open block
	overlay         *planner.Catalog // the catalog with made, and overlaid the one it was made from; nil: to be made
	overlaid        *planner.Catalog
	defines         bool                  // a view or function may have been defined since the last plain end of a block
	blockEffects    bool                  // settings were changed since the last plain end of a block
	portals         map[string][]rename   // named ones that may change the session, with what they do to prepared statements
	cursors         []planner.Locale      // those in which portals of the block that read ohlcv were planned
	bound           []rename              // the same of the unnamed portal
	boundBefore     bool                  // and it is of an earlier segment
	explained       map[string]*explained // portals of EXPLAIN (BARKEEP)
	settings        settings
	snapshotTaken   bool
	snapshotVersion Version
	importing       bool      // what waits to be written imports a snapshot
	imported        bool      // the transaction has a snapshot of another
	restarts        bool      // what waits to be written begins by ending the transaction
	began           time.Time // no later than the start of the upstream's transaction
}

func (r *reader) init() {
	r.dirty = true
	r.portals = map[string][]rename{}
	r.explained = map[string]*explained{}
}

// read takes the client's messages until it has no more.
func (s *session) read(ctx context.Context) error {
	for {
		if err := s.fill(); err != nil {
			return err
		}
		if err := s.advance(ctx); err != nil {
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
	s.room()
	r := &s.reader
	n, err := s.client.Read(r.buf[r.end:])
	r.end += n
	if n == 0 && err != nil {
		return fmt.Errorf("read from client: %w", err)
	}
	return nil
}

// room moves what is kept to the front, and grows the buffer where that is not enough.
func (s *session) room() {
	r := &s.reader
	if r.start == r.end {
		r.start, r.segment, r.scan, r.end = 0, 0, 0, 0
		if len(r.buf) > 4*readerBuffer {
			r.buf = make([]byte, readerBuffer)
		}
		return
	}
	if r.start > 0 {
		shift := r.start
		copy(r.buf, r.buf[r.start:r.end])
		r.start, r.segment, r.scan, r.end = 0, r.segment-shift, r.scan-shift, r.end-shift
	}
	if r.end == len(r.buf) {
		grown := make([]byte, 2*len(r.buf))
		copy(grown, r.buf[:r.end])
		r.buf = grown
	}
}

// passOn relays without a look.
func (s *session) passOn() error {
	return s.writeUpstream(s.reader.end)
}

// writeUpstream writes [start, end) upstream.
func (s *session) writeUpstream(end int) error {
	r := &s.reader
	for r.start < end {
		write := s.upstream.Write
		if r.trying {
			write = s.looped.upstream.TryWrite
		}
		n, err := write(r.buf[r.start:end])
		r.start += n
		if err != nil {
			return fmt.Errorf("write to upstream: %w", err)
		}
		if r.trying && r.start < end {
			return errWouldWait
		}
	}
	return nil
}

// consume takes every whole message in the buffer and forwards what may go. Where it returns errWouldWait it may be called
// again, outside the loop, and goes on where it was.
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
	for r.stream == 0 && r.end-r.scan >= 5 {
		kind, size := r.buf[r.scan], int(binary.BigEndian.Uint32(r.buf[r.scan+1:]))+1
		if size < 5 {
			return protocolError("invalid message length")
		}
		whole := r.end-r.scan >= size
		if !whole && kind == 'd' && !r.gated && !r.skipping {
			r.stream = size - (r.end - r.scan)
			r.scan = r.end
			break
		}
		if size > s.server.cfg.MaxMessage {
			return protocolError(fmt.Sprintf("message of %d bytes is longer than barkeep takes", size))
		}
		if !whole {
			break
		}
		if r.trying && size > maxLooped {
			return errWouldWait
		}
		if err := s.take(ctx, kind, size); err != nil {
			return err
		}
	}
	if r.gated && r.scan-r.segment > s.server.cfg.MaxMessage {
		if _, err := s.release(ctx, 0, 0); err != nil {
			return err
		}
	}
	if r.gated {
		return s.forward()
	}
	if r.inSegment && r.dirty && !r.open {
		// Once a part of it is upstream, settings cannot be read before its end.
		if err := s.readEarly(ctx); err != nil {
			return err
		}
	}
	s.settle()
	err := s.forward()
	r.open, r.usedUp = r.inSegment, r.used
	return err
}

// payOwed writes what of the ledger's last entries is not upstream yet.
func (s *session) payOwed() error {
	r := &s.reader
	if !r.owed {
		return nil
	}
	if err := s.writeUpstream(r.segment); err != nil {
		return err
	}
	r.owed = false
	return nil
}

// readEarly reads the settings if nothing that is outstanding, and no block, stands in the way.
func (s *session) readEarly(ctx context.Context) error {
	s.mu.Lock()
	free := s.waiting == 0 && s.tx == 'I'
	s.mu.Unlock()
	if !free || s.reader.segmentEffects || slices.ContainsFunc(s.reader.batch, entry.endsReady) {
		return nil
	}
	if s.reader.trying {
		return errWouldWait
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
	body := r.buf[r.scan+5 : r.scan+size]
	switch kind {
	case 'Q':
		s.forgetMade()
	case 'P', 'B', 'D', 'E', 'C':
		s.forgetMade()
		r.inSegment = true
	}
	switch kind {
	case 'Q':
		return s.query(ctx, body, size)
	case 'P':
		s.parse(body)
	case 'B':
		size = s.bind(body, size)
	case 'D':
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
	case 'c', 'f':
		r.pending = append(r.pending, entry{kind: kindCopyEnd, bound: r.used})
	}
	r.scan += size
	return nil
}

// settle lets the open segment's messages go with the next write.
func (s *session) settle() {
	r := &s.reader
	r.batch = append(r.batch, r.pending...)
	r.pending = r.pending[:0]
	r.segment = r.scan
}

// forward writes [start, segment) upstream and enters it into the ledger.
func (s *session) forward() error {
	r := &s.reader
	if r.start == r.segment {
		return nil
	}
	s.mu.Lock()
	if r.restarts || s.waiting == 0 && s.tx == 'I' && !r.open {
		r.began, r.snapshotTaken, r.imported = time.Now(), false, false
	}
	r.imported = r.imported || r.importing
	if r.snapshot && !r.snapshotTaken {
		r.snapshotTaken, r.snapshotVersion = true, s.server.cfg.Coordinator.Snapshot()
	}
	s.push(r.batch...)
	s.mu.Unlock()
	r.snapshot, r.importing, r.restarts = false, false, false
	clear(r.batch)
	r.batch = r.batch[:0]
	r.owed = true
	return s.payOwed()
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
