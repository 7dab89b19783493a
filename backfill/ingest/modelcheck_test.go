package ingest_test

import (
	"encoding/binary"
	"fmt"
	"slices"

	"barkeep/backfill/coverage"
	"barkeep/internal/market"
)

// check returns what does not hold in this state, nothing where all does.
func (m *model) check() string {
	for _, s := range m.db.segments {
		if s.Generation != int64(m.db.generation) {
			return fmt.Sprintf("%s is covered by generation %d, the symbol's is %d", s.Range, s.Generation, m.db.generation)
		}
		phase := int8(0)
		switch {
		case s.State == coverage.Unavailable:
			continue
		case s.Lent():
			phase = lent
		case s.State == coverage.Final:
			phase = 1
		}
		for slot := range m.slots {
			want := truth(slot, phase, m.db.generation)
			if s.Range.Overlaps(slotRange(slot, slot+1)) && m.db.rows[slot] != want {
				return fmt.Sprintf("slot %d is %s, its row is %+v and not %+v", slot, s.State, m.db.rows[slot], want)
			}
		}
	}
	return ""
}

// settled returns what does not hold once a consumer has come to the log's end.
func (m *model) settled() string {
	n := m.clone()
	n.left.restores = 0
	c := &n.consumers[0]
	n.place(c)
	if int(c.next) < len(n.log) {
		c.hand = slices.Clone(n.log[c.next:])
		n.commit(c)
	}
	if wrong := n.check(); wrong != "" {
		return wrong
	}
	for _, r := range n.log {
		if r.end {
			if n.db.ended&(1<<r.fetched) == 0 {
				return fmt.Sprintf("the job of reading %d never ends", r.fetched)
			}
			continue
		}
		if r.generation != n.db.generation || r.loan || r.phase == denial {
			continue
		}
		for slot := r.from; slot < r.to; slot++ {
			if !slices.ContainsFunc(n.db.segments, func(s coverage.Segment) bool {
				return s.Range.Overlaps(slotRange(slot, slot+1)) && s.FetchedAt >= market.Instant(r.fetched) && (r.phase == 0 || !s.Lent())
			}) {
				return fmt.Sprintf("slot %d of record %d, reading %d, is lost", slot, r.id, r.fetched)
			}
		}
	}
	if len(n.log) > 0 && n.db.last != n.log[len(n.log)-1].id {
		return fmt.Sprintf("the offset row is at %d after record %d, the log has %d", n.db.next, n.db.last, len(n.log))
	}
	return ""
}

// key is the state as text: two states with the same key have the same future.
func (m *model) key() string {
	b := make([]byte, 0, 256)
	number := func(list ...int8) {
		for _, n := range list {
			b = append(b, byte(n))
		}
	}
	l := m.left
	number(l.reads, l.publishes, l.phases, l.forgets, l.restores, l.truncations, l.crashes, l.denials, l.loans, m.phase, m.epoch)
	messages := func(list []message) {
		b = append(b, byte(len(list)))
		for _, r := range list {
			number(r.id, r.from, r.to, r.phase, r.fetched, r.generation)
			b = append(b, map[bool]byte{true: 1}[r.end], map[bool]byte{true: 1}[r.loan])
		}
	}
	b = append(b, byte(len(m.readings)))
	for _, r := range m.readings {
		number(r.from, r.to, r.phase, r.fetched, r.generation, r.published)
	}
	messages(m.log)
	for _, db := range append(slices.Clone(m.past), m.db) {
		number(db.next, db.last, db.generation, int8(len(db.segments)))
		b = binary.AppendUvarint(b, db.ended)
		for _, s := range db.segments {
			b = binary.AppendUvarint(b, uint64(s.Range.Start))
			b = binary.AppendUvarint(b, uint64(s.Range.End))
			number(int8(s.State), int8(s.Generation), int8(s.FetchedAt), int8(s.RetryAt), int8(len(s.Source)), int8(s.Source[0]))
		}
		for _, row := range db.rows[:m.slots] {
			number(row.phase, row.generation)
			b = append(b, map[bool]byte{true: 1}[row.there])
		}
	}
	for _, c := range m.consumers {
		number(c.rowNext, c.rowID, c.next, c.epoch)
		b = append(b, map[bool]byte{true: 1}[c.placed])
		messages(c.hand)
	}
	return string(b)
}
