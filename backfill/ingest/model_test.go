package ingest_test

import (
	"fmt"
	"slices"

	"barkeep/backfill/coverage"
)

// The model of the ingest protocol (PIPELINE 4, 8, 10, 19, 20): a vendor whose bars become final, and one of them is withdrawn, who at times cannot
// say, so that another venue lends its own, a log that may lose its end, a database that may go back in time, producers that read and publish in any order and more than once, and two
// consumers that both believe to own the partition and may die at any moment. What a page replaces is decided by coverage.Ledger itself;
// the rest of a transaction, and what a consumer does between two of them, is written down here once more, as small as it can be.
//
// That a log was cut short below its position a consumer learns from its client, which compares leader epochs (KIP-320); truncationUnseen
// is what comes of a client that does not.
//
// What must hold in every state (check):
//   - a covered range has exactly the rows that the vendor gave for that state and generation, or the lender where it is lent;
//
// and when no more happens and one consumer has read on to the end of the log (settled):
//   - each page in the log of the database's generation is covered by a reading that is as new or newer, and nothing that it has for good is lent;
//   - each job whose end stands in the log has ended; and the offset row is at the log's end.
//
// Each planted bug breaks one of these within the same search.
type bug string

const (
	none             bug = ""
	offsetUnchecked  bug = "the offset row is written and not compared"
	offsetBelow      bug = "an offset row below the expected one is taken for it"
	idUnchecked      bug = "the record before the offset is not compared"
	offsetApart      bug = "the offset is committed before the rest"
	coverageApart    bug = "the coverage is committed before the rows"
	anyReading       bug = "an older reading replaces a newer one"
	anyGeneration    bug = "a page of another generation is taken"
	rowsStay         bug = "a withdrawn bar stays"
	truncationUnseen bug = "a consumer reads on in a log that was cut short"
	endsApart        bug = "jobs end by themselves when their record is seen"
	lentOver         bug = "what is lent displaces what the vendor has"
	lentStays        bug = "what the vendor has for good does not displace what was lent since"
)

// budget is what may still happen.
type budget struct{ reads, publishes, phases, forgets, restores, truncations, crashes, denials, loans int8 }

// reading is a page as a producer holds it: what the vendor said of the slots [from, to) at the moment fetched.
type reading struct{ from, to, phase, fetched, generation, published int8 }

// The phases of what is no vendor's bar: the word that it cannot say, and the lender's bars.
const (
	denial int8 = 2
	lent   int8 = 3
)

// message is a record of the log: the page of a reading, or, where end is set, the end of its job; where loan is set, an order to lend.
type message struct {
	id        int8 // from 1; no two are the same
	end, loan bool
	reading
}

type modelRow struct {
	there             bool
	phase, generation int8
}

// maxSlots bounds how many bars the model's series has.
const maxSlots = 6

type modelDB struct {
	next, last, generation int8 // last is the id of the record before next, 0 for none
	segments               []coverage.Segment
	rows                   [maxSlots]modelRow
	ended                  uint64 // jobs, by the moment of their reading
}

// consumer is the memory of one: row is what it last read from the offset row or wrote to it, next what it reads next.
type modelConsumer struct {
	placed         bool
	rowNext, rowID int8
	next, epoch    int8
	hand           []message
}

type model struct {
	slots            int8
	ranges           [][2]int8
	bug              bug
	left             budget
	phase, clock, id int8
	epoch            int8 // of the log: how often it lost its end
	readings         []reading
	log              []message
	db               modelDB
	past             []modelDB // what was committed before, oldest first; kept while a restore is possible
	consumers        [2]modelConsumer
}

func newModel(slots int8, ranges [][2]int8, planted bug, left budget) *model {
	return &model{slots: slots, ranges: ranges, bug: planted, left: left, db: modelDB{generation: 1}}
}

func (m *model) clone() *model {
	c := *m
	c.readings, c.log, c.past = slices.Clone(m.readings), slices.Clone(m.log), slices.Clone(m.past)
	return &c // segments and hands are replaced, never changed
}

// truth is the row that the vendor gives for a slot: the second bar is withdrawn when it becomes final.
func truth(slot, phase, generation int8) modelRow {
	if slot == 1 && phase == 1 {
		return modelRow{}
	}
	return modelRow{there: true, phase: phase, generation: generation}
}

// successors calls yield for each thing that may happen next.
func (m *model) successors(yield func(what string, next *model)) {
	do := func(what string, change func(*model)) {
		next := m.clone()
		change(next)
		yield(what, next)
	}
	if m.left.reads > 0 {
		for _, r := range m.ranges {
			do(fmt.Sprintf("read [%d, %d)", r[0], r[1]), func(n *model) {
				n.left.reads--
				n.clock++
				n.readings = append(n.readings, reading{
					from: r[0], to: r[1], phase: n.phase, fetched: n.clock, generation: n.db.generation,
				})
			})
		}
	}
	if m.left.denials > 0 {
		for _, r := range m.ranges {
			do(fmt.Sprintf("cannot say [%d, %d)", r[0], r[1]), func(n *model) {
				n.left.denials--
				n.clock++
				n.readings = append(n.readings, reading{from: r[0], to: r[1], phase: denial, fetched: n.clock, generation: n.db.generation})
			})
		}
	}
	if m.left.loans > 0 {
		do("publish an order to lend", func(n *model) {
			n.left.loans--
			n.id++
			n.log = append(n.log, message{id: n.id, loan: true, reading: reading{to: n.slots, generation: n.db.generation}})
		})
	}
	if m.left.publishes > 0 {
		for i, r := range m.readings {
			do(fmt.Sprintf("publish the page of reading %d", r.fetched), func(n *model) { n.publish(i, false) })
			if r.published > 0 {
				do(fmt.Sprintf("publish the end of reading %d", r.fetched), func(n *model) { n.publish(i, true) })
			}
		}
	}
	if m.left.phases > 0 {
		do("the bars become final", func(n *model) { n.left.phases--; n.phase = 1 })
	}
	if m.left.forgets > 0 {
		do("forget", func(n *model) {
			n.left.forgets--
			db := n.db
			db.generation++
			db.segments = nil
			n.store(db)
		})
	}
	if m.left.restores > 0 {
		for i := range m.past {
			do(fmt.Sprintf("the database is back at commit %d", i), func(n *model) {
				n.left.restores--
				n.db, n.past = n.past[i], n.past[:i:i]
			})
		}
	}
	if m.left.truncations > 0 {
		for keep := range m.log {
			do(fmt.Sprintf("the log is cut to %d records", keep), func(n *model) {
				n.left.truncations--
				n.log, n.epoch = n.log[:keep:keep], n.epoch+1
			})
		}
	}
	for i := range m.consumers {
		m.consumerSteps(i, do)
	}
}

func (m *model) publish(i int, end bool) {
	m.left.publishes--
	m.id++
	m.readings[i].published = 1
	r := m.readings[i]
	r.published = 0
	m.log = append(m.log, message{id: m.id, end: end, reading: r})
}

func (m *model) store(db modelDB) {
	if m.left.restores > 0 {
		m.past = append(m.past, m.db)
	}
	m.db = db
}

func (m *model) consumerSteps(i int, do func(string, func(*model))) {
	c := &m.consumers[i]
	name := fmt.Sprintf("consumer %d ", i)
	switch {
	case !c.placed:
		do(name+"takes its place", func(n *model) { n.place(&n.consumers[i]) })
	case len(c.hand) == 0:
		if c.epoch != m.epoch && m.bug != truncationUnseen {
			do(name+"notices that the log was cut", func(n *model) { n.place(&n.consumers[i]) })
			return
		}
		for count := int8(1); c.next+count <= int8(len(m.log)) && takes(m.log[c.next:c.next+count]); count++ {
			do(fmt.Sprintf("%stakes %d records from %d", name, count, c.next), func(n *model) {
				n.consumers[i].hand = slices.Clone(n.log[c.next : c.next+count])
			})
		}
	default:
		do(name+"commits", func(n *model) { n.commit(&n.consumers[i]) })
		if m.left.crashes > 0 {
			m.crashes(i, name, do)
		}
	}
}

// takes is ingest.Batch.Takes: an order to lend begins a batch, and no page follows in that.
func takes(hand []message) bool {
	last := hand[len(hand)-1]
	return len(hand) == 1 || last.end || !last.loan && !hand[0].loan
}

// crashes are the ends of a consumer that has a batch in hand; what its memory was is lost.
func (m *model) crashes(i int, name string, do func(string, func(*model))) {
	do(name+"dies before it commits", func(n *model) {
		n.left.crashes--
		n.consumers[i] = modelConsumer{}
	})
	do(name+"dies as it has committed", func(n *model) {
		n.left.crashes--
		n.commit(&n.consumers[i])
		n.consumers[i] = modelConsumer{}
	})
	if m.bug != offsetApart && m.bug != coverageApart {
		return
	}
	do(name+"dies between two commits", func(n *model) {
		n.left.crashes--
		before := n.db
		n.commit(&n.consumers[i])
		if n.bug == offsetApart {
			before.next, before.last = n.db.next, n.db.last
		} else {
			before.segments = n.db.segments
		}
		n.db = before
		n.consumers[i] = modelConsumer{}
	})
}

// place is worker.position and worker.anchor.
func (m *model) place(c *modelConsumer) {
	*c = modelConsumer{placed: true, rowNext: m.db.next, rowID: m.db.last, epoch: m.epoch}
	known := m.db.next > 0 && int(m.db.next) <= len(m.log)
	if known && (m.bug == idUnchecked || m.log[m.db.next-1].id == m.db.last) {
		c.next = m.db.next
	}
}
