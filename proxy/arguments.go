package proxy

import (
	"encoding/binary"

	"barkeep/planner"
)

// arguments decodes the parameters of a Bind behind its names, and reports whether it could. Their types are the statement's.
func arguments(rest []byte) (planner.Args, bool) { return new(argsRoom).decode(rest) }

// argsRoom is where the parameters of a Bind are kept while its statement is looked at. That of a statement which goes at once, so that
// nobody has them any more, serves the next one, too.
type argsRoom struct {
	bytes   []byte
	formats []int16
	values  [][]byte
	lent    bool
}

// maxArgsRoom bounds the bytes that a room keeps while it is not lent.
const maxArgsRoom = 512

// of is arguments in the room, or in new memory where that is lent.
func (a *argsRoom) of(rest []byte) (planner.Args, bool) {
	if a.lent {
		return arguments(rest)
	}
	a.lent = true
	return a.decode(rest)
}

// free takes the room back. Nobody may look at the parameters any more: they are overwritten, so that who does finds out.
func (a *argsRoom) free() {
	if cap(a.bytes) > maxArgsRoom || cap(a.values) > maxKept || cap(a.formats) > maxKept {
		*a = argsRoom{}
		return
	}
	clear(a.bytes)
	clear(a.values)
	a.lent = false
}

// leave leaves the room to those who may still look at what is in it.
func (a *argsRoom) leave() {
	if a.lent {
		*a = argsRoom{}
	}
}

func (a *argsRoom) decode(rest []byte) (planner.Args, bool) {
	a.bytes = append(a.bytes[:0], rest...)
	d := bindDecoder{rest: a.bytes}
	a.formats, a.values = a.formats[:0], a.values[:0]
	for range d.count(2) {
		a.formats = append(a.formats, int16(binary.BigEndian.Uint16(d.take(2)))) //nolint:gosec // as it is
	}
	for range d.count(4) {
		a.values = append(a.values, d.value())
	}
	d.take(2 * d.count(2))
	if d.failed {
		return planner.Args{}, false // the upstream will refuse it as well
	}
	return planner.Args{Formats: a.formats, Values: a.values}, true
}

// bindDecoder reads a Bind. Once that has failed it returns zeros.
type bindDecoder struct {
	rest   []byte
	failed bool
}

// take returns the next bytes.
func (d *bindDecoder) take(size int) []byte {
	if d.failed = d.failed || size < 0 || size > len(d.rest); d.failed {
		return make([]byte, 2)
	}
	taken := d.rest[:size:size]
	d.rest = d.rest[size:]
	return taken
}

// count returns how many come next, of which each has a size at least.
func (d *bindDecoder) count(least int) int {
	n := int(binary.BigEndian.Uint16(d.take(2)))
	if d.failed = d.failed || n*least > len(d.rest); d.failed {
		return 0
	}
	return n
}

// value returns a parameter; nil is NULL.
func (d *bindDecoder) value() []byte {
	if d.failed = d.failed || len(d.rest) < 4; d.failed {
		return nil
	}
	size := int(int32(binary.BigEndian.Uint32(d.take(4)))) //nolint:gosec // -1 is NULL
	if size == -1 {
		return nil
	}
	return d.take(size)
}

// lacks reports whether the unit is a Bind without all parameters of its statement: the upstream refuses it, and nothing is read.
func (u *unit) lacks(template *planner.Template) bool {
	given := len(u.args.Values)
	return u.counted && given < u.stmt.parameters && template.Lacks(given)
}
