package proxy

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// pump copies the upstream's messages to the client until the upstream ends, one write for one read.
func (s *session) pump() error {
	if err := s.pumpOnce(); err != nil { // what came with the greeting
		return err
	}
	idle, busy := make([]byte, idleBuffer), false
	for {
		if s.upBuf == nil && !busy {
			s.upBuf = idle
		} else {
			s.roomUpstream(nil)
		}
		n, err := s.upstream.Read(s.upBuf[s.have:])
		busy = n >= idleBuffer
		if n > 0 {
			s.have += n
			if err := s.pumpOnce(); err != nil {
				return err
			}
		}
		if err != nil {
			return fmt.Errorf("read from upstream: %w", err)
		}
	}
}

// pumpOnce writes what can be written of upBuf[from:have] and keeps the rest.
func (s *session) pumpOnce() error {
	s.out.Lock()
	defer s.out.Unlock()
	defer s.restUpstream(nil)
	out, err := s.pass(time.Time{})
	if err != nil || len(out) == 0 {
		return err
	}
	return s.send(out)
}

// pass returns what the client gets of upBuf[from:have], which came at that time; zero is now. The caller holds out.
func (s *session) pass(at time.Time) ([]byte, error) {
	s.mu.Lock()
	s.at = at
	out, used, err := s.walk(s.upBuf[s.from:s.have])
	s.at = time.Time{}
	if len(s.live.channels) > 0 && s.waiting == 0 {
		s.wakeNotifying()
	}
	if s.fatal {
		s.deferred = nil
	}
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	s.midway = s.skip > 0 && !s.skipDrop
	if !s.midway && len(s.deferred) > 0 {
		out = append(slices.Clip(out), s.deferred...)
		s.deferred = nil
	}
	s.from += used
	return out, nil
}

// send writes to the client. The caller holds out, and leaves b alone while any of it is in unsent.
func (s *session) send(b []byte) error {
	if s.looped != nil {
		return s.sendLooped(b)
	}
	if _, err := s.client.Write(b); err != nil {
		return fmt.Errorf("write to client: %w", err)
	}
	return nil
}

// looked says which messages must be whole to be looked at.
var looked = [256]bool{'Z': true, 'S': true, 'E': true}

// noted says which messages change the ledger; all others pass unless the proxy itself has sent something.
var noted = [256]bool{'Z': true, 'S': true, 'E': true, '1': true, '3': true, 'G': true, 'C': true}

// walk goes over the headers in data. It returns what the client gets, and how much of data is done with. The caller
// holds mu.
func (s *session) walk(data []byte) (out []byte, used int, err error) {
	var filtered []byte
	filtering := s.owned > 0 || s.replaced > 0 || len(s.failures) > 0 || len(s.live.channels) > 0
	i := 0
	if s.skip > 0 {
		i = min(s.skip, len(data))
		s.skip -= i
		if filtering && !s.skipDrop {
			filtered = append(filtered, data[:i]...)
		}
	}
	for len(data)-i >= 5 {
		size := int(binary.BigEndian.Uint32(data[i+1:])) + 1
		if size < 5 {
			return nil, 0, fmt.Errorf("read from upstream: message %q of %d bytes", data[i], size)
		}
		end := i + size
		if end > len(data) && (filtering || looked[data[i]]) && size <= bufferSize {
			break // wait for the rest
		}
		if !filtering && (!noted[data[i]] || data[i] == 'C' && s.ignored == 0) {
			if end > len(data) {
				s.skip, s.skipDrop = end-len(data), false
				i = len(data)
				break
			}
			i = end + rows(data[end:])
			continue
		}
		whole := data[i:min(end, len(data))]
		pass := s.note(whole, end <= len(data))
		if filtering {
			filtered = append(filtered, pass...)
		}
		if end > len(data) {
			s.skip, s.skipDrop = end-len(data), pass == nil
			i = len(data)
			break
		}
		i = end
	}
	if filtering {
		return filtered, i, nil
	}
	return data[:i], i, nil
}

// rows returns how many bytes of whole DataRows data begins with: most messages are such.
func rows(data []byte) int {
	rest := data
	for len(rest) >= 5 && rest[0] == 'D' {
		size := int(binary.BigEndian.Uint32(rest[1:5])) + 1
		if size < 5 || size > len(rest) {
			break
		}
		rest = rest[size:]
	}
	return len(data) - len(rest)
}

// note keeps the ledger by one message and returns what the client gets of it: the message, another in its place, or
// nothing. Only where the proxy itself has sent something is it anything but the message.
func (s *session) note(message []byte, whole bool) []byte {
	own := (*exchange)(nil)
	if s.owned > 0 {
		if e := s.head(); e != nil && e.kind == kindOwn && !e.own.bare {
			own = e.own
		}
	}
	switch message[0] {
	case 'D', 'd':
		if own != nil {
			own.row(message, whole)
			return nil
		}
		return message
	case 'Z':
		if !whole || len(message) < 6 {
			return message
		}
		// What came before the Sync may have failed, and is not answered one by one then.
		done := s.ready(message[5])
		s.tellDefined()
		if done.kind == kindOwn {
			s.live.due.Store(s.unheard && s.waiting == 0 && s.tx == 'I') // the reader is awake
			close(done.own.done)
			return nil
		}
		s.listeningDue()
		if s.tx == 'I' {
			if out := s.notifications(); len(out) > 0 {
				return append(out, message...)
			}
		}
		return message
	case 'S':
		if whole {
			s.parameterStatus(message[5:])
		}
		return message
	case 'N', 'A':
		if own != nil && own.hushed && message[0] == 'N' {
			return nil
		}
		return message
	case 'E':
		return s.noteError(message, own)
	}
	if own != nil {
		own.describe(message, whole)
		return nil
	}
	switch message[0] {
	case '1':
		s.parsed()
	case '3':
		if instead := s.closed(); instead != nil {
			return instead.encode()
		}
	case 'G':
		s.copyStarted()
	case 'C':
		s.copyOver()
	}
	return message
}

func (s *session) noteError(message []byte, own *exchange) []byte {
	if bytes.Contains(message, []byte("VFATAL\x00")) || bytes.Contains(message, []byte("VPANIC\x00")) {
		s.announced, s.fatal = true, true
		return message
	}
	if own != nil {
		own.err = bytes.Clone(message)
		return nil
	}
	var at copyFailure
	if s.copying || s.ignored > 0 {
		at = failureOfCopy(message)
	}
	s.failed(at)
	if len(s.failures) > 0 && bytes.Contains(message, []byte(failMark)) {
		if s.tx == 'E' { // by an earlier failure
			return errBlockFailed.encode()
		}
		return s.failures[0]
	}
	return message
}

// row keeps the first column, and looks at the second.
func (x *exchange) row(message []byte, whole bool) {
	x.size += len(message)
	x.overflow = x.overflow || !whole || x.size > maxValueBytes
	if x.overflow || message[0] != 'D' || len(message) < 11 {
		return
	}
	var value []byte
	rest := message[11:]
	if size := int(int32(binary.BigEndian.Uint32(message[7:]))); size >= 0 && len(rest) >= size { //nolint:gosec // -1 is NULL
		value, rest = append([]byte{}, rest[:size]...), rest[size:]
	}
	if columns := binary.BigEndian.Uint16(message[5:]); columns > 1 {
		x.ambiguous = x.ambiguous || !bytes.Equal(rest, []byte{0, 0, 0, 1, 1})
	}
	x.rows = append(x.rows, value)
}

// describe keeps the first column's type, or those of parameters, and counts ParseCompletes.
func (x *exchange) describe(message []byte, whole bool) {
	switch {
	case !whole:
	case message[0] == '1':
		x.parsed++
	case message[0] == 'T':
		var columns pgproto3.RowDescription
		if columns.Decode(message[5:]) == nil && len(columns.Fields) > 0 {
			x.oid = columns.Fields[0].DataTypeOID
		}
	case message[0] == 't':
		var parameters pgproto3.ParameterDescription
		if parameters.Decode(message[5:]) == nil {
			x.parameters = slices.Clone(parameters.ParameterOIDs)
		}
	}
}

// parameterStatus keeps a setting that the upstream reports.
func (s *session) parameterStatus(body []byte) {
	name, rest, ok := cstring(body)
	value, _, ok2 := cstring(rest)
	if !ok || !ok2 || s.params[string(name)] == string(value) {
		return
	}
	params := maps.Clone(s.params)
	params[string(name)] = string(value)
	s.params = params
	s.paramsSeen.Add(1)
}
