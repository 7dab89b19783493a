package ingest_test

import (
	"cmp"
	"slices"

	"barkeep/backfill/coverage"
	"barkeep/internal/market"
)

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
