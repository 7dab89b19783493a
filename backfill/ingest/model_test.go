package ingest_test

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/coverage"
	"barkeep/internal/dbtest"
	"barkeep/internal/market"
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

// commit is ingest.Writer.Commit and what the worker does after it.
func (m *model) commit(c *modelConsumer) {
	hand := c.hand
	c.hand = nil
	same := m.db.next == c.rowNext && (m.db.last == c.rowID || m.bug == idUnchecked)
	if m.bug == offsetBelow {
		same = m.db.next <= c.rowNext
	}
	if !same && m.bug != offsetUnchecked {
		c.placed = false
		return
	}
	db := m.db
	last := hand[len(hand)-1]
	db.last, db.next = last.id, c.next+int8(len(hand))
	m.ingest(&db, hand)
	m.store(db)
	c.rowNext, c.rowID, c.next = db.next, db.last, db.next
}

// ingest is ingest.makePlan: pages by their moment, then ends.
func (m *model) ingest(db *modelDB, hand []message) {
	pages := slices.DeleteFunc(slices.Clone(hand), func(r message) bool { return r.end || r.loan })
	slices.SortStableFunc(pages, func(a, b message) int { return cmp.Compare(a.fetched, b.fetched) })
	ledger := coverage.NewLedger(market.Series{Symbol: "A", Timeframe: market.M1}, db.segments)
	for _, p := range pages {
		if p.generation != db.generation && m.bug != anyGeneration {
			db.ended |= 1 << p.fetched
			continue
		}
		s := coverage.Segment{
			Range: slotRange(p.from, p.to), State: coverage.Provisional, Source: "vendor", Generation: int64(p.generation),
			FetchedAt: market.Instant(p.fetched),
		}
		switch p.phase {
		case 1:
			s.State = coverage.Final
		case denial:
			s.State, s.RetryAt = coverage.Unavailable, s.FetchedAt+100
		}
		switch {
		case m.bug == anyReading:
			ledger.Withdraw(s.Range)
		case m.bug == lentStays && slices.ContainsFunc(ledger.Segments(), func(o coverage.Segment) bool { return o.Lent() && o.FetchedAt > s.FetchedAt }):
			continue
		}
		m.write(db, ledger.Replace(s), p.reading)
	}
	for _, r := range hand {
		if r.loan && (r.generation == db.generation || m.bug == anyGeneration) {
			m.lend(db, ledger, r.reading)
		}
	}
	db.segments = slices.Clone(ledger.Segments())
	for _, r := range hand {
		if r.end && m.bug != endsApart {
			db.ended |= 1 << r.fetched
		}
	}
}

// write makes the rows of the ranges what a reading says; that a vendor cannot say tells nothing of them.
func (m *model) write(db *modelDB, ranges market.RangeSet, p reading) {
	if p.phase == denial {
		return
	}
	for _, r := range ranges {
		for slot := range m.slots {
			if row := truth(slot, p.phase, p.generation); r.Overlaps(slotRange(slot, slot+1)) && (row.there || m.bug != rowsStay) {
				db.rows[slot] = row
			}
		}
	}
}

// lend takes over what the lender has, which is everything.
func (m *model) lend(db *modelDB, ledger *coverage.Ledger, p reading) {
	s := coverage.Segment{Range: slotRange(p.from, p.to), State: coverage.Final, Source: "lender", Generation: int64(p.generation)}
	p.phase = lent
	if m.bug == lentOver {
		s.FetchedAt, s.RetryAt = 100, 200
		m.write(db, ledger.Replace(s), p)
		return
	}
	m.write(db, ledger.Lend(s, "vendor"), p)
}

func slotRange(from, to int8) market.Range {
	const minute = 60_000_000
	return market.Range{Start: market.Instant(from) * minute, End: market.Instant(to) * minute}
}

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

// visited is a state of a search, with how it was come to.
type visited struct {
	state  *model
	before int
	what   string
}

// search looks at every state that can be come to, nearest first, and returns how many there are, and the way to the first in which
// something does not hold.
func search(start *model) (states int, found string) {
	seen := map[string]struct{}{start.key(): {}}
	list := []visited{{state: start, before: -1}}
	for at := 0; at < len(list); at++ {
		m := list[at].state
		wrong := m.check()
		if wrong == "" {
			wrong = m.settled()
		}
		if wrong != "" {
			return len(list), trace(list, at) + wrong
		}
		m.successors(func(what string, next *model) {
			key := next.key()
			if _, known := seen[key]; known {
				return
			}
			seen[key] = struct{}{}
			list = append(list, visited{state: next, before: at, what: what})
		})
		list[at].state = nil
	}
	return len(list), ""
}

func trace(list []visited, at int) string {
	var way []string
	for ; list[at].before >= 0; at = list[at].before {
		way = append(way, list[at].what)
	}
	slices.Reverse(way)
	return strings.Join(way, "\n") + "\n=> "
}

// The worlds that are searched whole: each fault alone and two together. raceEvents is taken from what is published where the race
// detector makes everything ten times slower.
const (
	goesBack     = "the database goes back"
	losesEnd     = "the log loses its end"
	becomesFinal = "the bars become final, consumers die"
	forgotten    = "forget, with pages on their way"
	bothLose     = "the log and the database lose their end"
	lends        = "the vendor cannot say, another venue lends"
)

var small = map[string]budget{
	goesBack:     {reads: 2, publishes: 3, restores: 1},
	losesEnd:     {reads: 2, publishes: 3, truncations: 1},
	becomesFinal: {reads: 2, publishes: 3, phases: 1, crashes: 1},
	forgotten:    {reads: 2, publishes: 3, forgets: 1},
	bothLose:     {reads: 1, publishes: 3, restores: 1, truncations: 1},
	lends:        {reads: 1, publishes: 2, phases: 1, denials: 1, loans: 1},
}

// plantedBugs names the world in which the search finds each.
var plantedBugs = map[bug]string{
	offsetUnchecked:  goesBack,
	offsetBelow:      goesBack,
	idUnchecked:      losesEnd,
	offsetApart:      becomesFinal,
	coverageApart:    becomesFinal,
	anyReading:       goesBack,
	anyGeneration:    forgotten,
	rowsStay:         becomesFinal,
	truncationUnseen: losesEnd,
	endsApart:        goesBack,
	lentOver:         lends,
	lentStays:        lends,
}

func smallModel(name string, planted bug, fewer int8) *model {
	left := small[name]
	left.publishes -= fewer
	return newModel(2, [][2]int8{{0, 2}, {1, 2}}, planted, left)
}

// PIPELINE 4, 8, 19, 20: every interleaving of few events, and many of more.
func TestModel(t *testing.T) {
	t.Parallel()
	for name := range small {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			states, found := search(smallModel(name, none, raceEvents))
			require.Empty(t, found)
			t.Logf("%d states", states)
		})
	}
	t.Run("at random", func(t *testing.T) {
		t.Parallel()
		seed := dbtest.Number(t, "BARKEEP_TEST_SEED", 1)
		t.Logf("BARKEEP_TEST_SEED=%d", seed)
		require.Empty(t, wander(none, uint64(seed), dbtest.Number(t, "MODEL_WALKS", modelWalks)))
	})
}

// wander takes random ways through larger worlds and returns the first at the end of which something does not hold.
func wander(planted bug, seed uint64, walks int) string {
	random := rand.New(rand.NewPCG(seed, 0))
	var ranges [][2]int8
	for from := range int8(maxSlots) {
		for to := from + 1; to <= maxSlots; to++ {
			ranges = append(ranges, [2]int8{from, to})
		}
	}
	for range walks {
		m := newModel(maxSlots, ranges, planted, budget{
			reads: 8, publishes: 14, phases: 1, forgets: 1, restores: 1, truncations: 1, crashes: 2, denials: 2, loans: 2,
		})
		var way []string
		for range 40 {
			var steps []visited
			m.successors(func(what string, next *model) { steps = append(steps, visited{state: next, what: what}) })
			if len(steps) == 0 {
				break
			}
			step := steps[random.IntN(len(steps))]
			if strings.HasPrefix(step.what, "read") || strings.HasPrefix(step.what, "cannot say") { // the many ranges must not outnumber what else happens
				step = steps[random.IntN(len(steps))]
			}
			m, way = step.state, append(way, step.what)
			wrong := m.check()
			if wrong == "" {
				wrong = m.settled()
			}
			if wrong != "" {
				return strings.Join(way, "\n") + "\n=> " + wrong
			}
		}
	}
	return ""
}

// The model finds each of the bugs that are planted in it, by the search and by random ways.
func TestModelFindsPlantedBugs(t *testing.T) {
	t.Parallel()
	for planted, where := range plantedBugs {
		t.Run(string(planted), func(t *testing.T) {
			t.Parallel()
			_, found := search(smallModel(where, planted, 0))
			require.NotEmpty(t, found, "the search does not notice it")
			t.Logf("%s:\n%s", where, found)
			require.NotEmpty(t, wander(planted, 1, 20_000), "random ways do not notice it")
		})
	}
}
