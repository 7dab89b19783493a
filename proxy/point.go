package proxy

// Where a statement fails before its hold by the upstream's own word, what comes before it in its segment is upstream as if it had been relayed:
// prepared statements are no part of the transaction, and a driver counts the answers. It is sent where it does no more than make,
// describe and close statements, or begin a block. Else the error is the answer to the segment: nothing is executed that is taken back
// for certain.

// point is a place in the segment that is held: behind so many bytes and entries of it. The zero point is its beginning.
type point struct{ bytes, entries int }

// point returns that of the message at scan; the beginning where what comes before it does more than can be sent for an error's sake.
func (r *reader) point() point {
	if r.acts {
		return point{}
	}
	return point{bytes: r.scan - r.segment, entries: len(r.pending)}
}

// placed returns err, with its place in the segment where it is the upstream's word on the unit.
func (h *hold) placed(err error, u *unit) error {
	word, ok := err.(*refusal) //nolint:errorlint // made by what has looked at the unit, never wrapped
	if !ok {
		return err
	}
	word.at = u.at
	switch {
	case word.executing && u.runs != (point{}):
		word.at = u.runs
	case word.parsing && u.portal:
		word.at = point{}
		for i := range h.units {
			if p := &h.units[i]; p.parseOnly && p.stmt == u.stmt {
				word.at = p.at
			}
		}
	}
	return word
}

// executes notes an Execute of the portal, at scan.
func (r *reader) executes(portal string) {
	if r.sole > 0 && r.units[r.sole-1].into == portal {
		r.units[r.sole-1].runs = point{bytes: r.scan - r.segment, entries: len(r.pending)}
	}
	r.sole = 0
	if r.executors.bytes == 0 {
		return
	}
	for i := range r.units {
		r.units[i].executed = r.units[i].executed || r.units[i].into == portal
	}
}

// sendBefore has what comes before the point go upstream. What is behind it is dropped by the caller.
func (s *session) sendBefore(at point) error {
	r := &s.reader
	if at == (point{}) {
		return nil
	}
	behind := r.scan - r.segment - at.bytes
	r.scan -= behind
	r.pending = r.pending[:at.entries]
	s.settle()
	err := s.forward()
	r.scan += behind
	return err
}
