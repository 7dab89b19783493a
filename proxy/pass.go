package proxy

import (
	"encoding/binary"
	"math"
	"time"
)

// passOn relays a session that is not planned. Of its messages only the headers are looked at: what ReadyForQuery answers is
// entered into the ledger, so that it is known whether the session is idle. What a loop's callback owes then it has to pay.
func (s *session) passOn() error {
	r := &s.reader
	for r.end > r.scan {
		if r.stream > 0 {
			n := min(r.stream, r.end-r.scan)
			r.stream -= n
			r.scan += n
			continue
		}
		if r.end-r.scan < 5 {
			break // goes with the rest of its header
		}
		size := int(binary.BigEndian.Uint32(r.buf[r.scan+1:])) + 1
		if size < 5 {
			size = math.MaxInt // the upstream says what is wrong with it, and ends the session
		}
		s.passes(r.buf[r.scan])
		r.stream = size
	}
	r.segment = r.scan
	if err := s.awaitCancel(); err != nil {
		return err
	}
	s.at = s.sentAt()
	s.push(r.batch...)
	s.at = time.Time{}
	s.opened = r.inSegment
	s.mu.Unlock()
	r.batch = emptied(r.batch)
	r.owed = true
	if r.trying {
		return nil
	}
	return s.payOwed()
}

// passes notes the kind of a message that is passed on.
func (s *session) passes(kind byte) {
	r := &s.reader
	switch kind {
	case 'Q', 'F':
		r.runs++
		r.batch = append(r.batch, entry{kind: kindQuery})
		r.inSegment, r.used = false, false
	case 'S':
		r.batch = append(r.batch, r.syncEntry())
		r.inSegment, r.used = false, false
	case 'P', 'B', 'D', 'E', 'C', 'H':
		if kind == 'E' {
			r.runs++
		}
		r.inSegment, r.used = true, r.used || kind == 'B'
	case 'd':
		r.countRow()
	case 'c', 'f':
		r.batch = append(r.batch, entry{kind: kindCopyEnd, bound: r.used})
	case 'X':
		s.mu.Lock()
		s.announced = true
		s.mu.Unlock()
	}
}
