package proxy

import "sync"

const (
	// bufferSize is that of the buffers that are lent, and the longest message of the upstream's that is looked at as a whole.
	bufferSize = 64 << 10
	// idleBuffer is what a goroutine reads into that waits for its peer: more is lent when it is full.
	idleBuffer = 1 << 10
	// maxGated bounds what of a segment waits for its end, or for the message that goes beyond: a client may not send the end
	// before it has heard of an error, or has to stop (asyncpg's executemany).
	maxGated = 1 << 20
	// maxKept bounds the capacity of a list that a session keeps while it is empty.
	maxKept = 32
)

// buffers are lent to sessions while there is something in them. A session that waits for a peer has none: what it costs is
// its sockets and little else.
var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

func lend() []byte {
	return buffers.Get().(*[bufferSize]byte)[:] //nolint:errcheck,forcetypeassert // the pool has no others
}

// giveBack takes a buffer that was lent. Nobody may look at it any more. One of another size is left to the collector.
func giveBack(b []byte) {
	if len(b) == bufferSize {
		buffers.Put((*[bufferSize]byte)(b))
	}
}

// shelf is where the buffer is kept that an event loop's last callback has given back, for its next one, which finds it in the processor's
// cache. It belongs to the loop's goroutine; others have nil, and borrow from what is for all.
type shelf struct{ kept []byte }

func (f *shelf) lend() []byte {
	if f == nil || f.kept == nil {
		return lend()
	}
	b := f.kept
	f.kept = nil
	return b
}

// giveBack is as the function of that name.
func (f *shelf) giveBack(b []byte) {
	if f == nil || f.kept != nil || len(b) != bufferSize {
		giveBack(b)
		return
	}
	f.kept = b
}

// emptied returns list without elements, or nil where keeping its capacity for the next ones costs too much.
func emptied[T any](list []T) []T {
	clear(list)
	if cap(list) > maxKept {
		return nil
	}
	return list[:0]
}

// restUpstream gives upBuf back where nothing is in it, of which the client may not have got all yet. The caller holds out.
func (s *session) restUpstream(to *shelf) {
	if s.from == s.have && len(s.unsent) == 0 {
		to.giveBack(s.upBuf)
		s.upBuf, s.from, s.have = nil, 0, 0
	}
}

// roomUpstream makes room in upBuf.
func (s *session) roomUpstream(of *shelf) {
	old := s.upBuf
	if len(old) < bufferSize {
		s.upBuf = of.lend()
	}
	s.have = copy(s.upBuf, old[s.from:s.have])
	s.from = 0
}

// rest gives the buffer back where nothing is in it.
func (r *reader) rest(to *shelf) {
	if r.start == r.end {
		to.giveBack(r.buf)
		r.buf, r.start, r.segment, r.scan, r.end = nil, 0, 0, 0, 0
	}
}

// room moves what is kept to the front, and grows the buffer where that is not enough.
func (r *reader) room(of *shelf) {
	if r.buf == nil {
		r.buf = of.lend()
	}
	if shift := r.start; shift > 0 {
		copy(r.buf, r.buf[shift:r.end])
		r.start, r.segment, r.scan, r.end = 0, r.segment-shift, r.scan-shift, r.end-shift
	}
	if r.end < len(r.buf) {
		return
	}
	var grown []byte
	if r.end < bufferSize {
		grown = lend()
	} else {
		grown = make([]byte, 2*len(r.buf))
	}
	copy(grown, r.buf)
	giveBack(r.buf)
	r.buf = grown
}
