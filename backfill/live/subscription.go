package live

import (
	"encoding/json"
	"sync"

	"barkeep/internal/market"
)

// item is what a listener gets: a bar as JSON.
type item struct {
	ts      market.Instant
	seq     int64
	final   bool
	payload []byte // shared by all listeners; never changed
}

// Subscription is what one listener has not taken yet of one series. Its methods are safe for concurrent use.
type Subscription struct {
	reader *reader
	wake   func()
	limit  int

	mu     sync.Mutex // guards what follows
	queue  []item     // at most limit
	missed missed
	closed bool
}

// missed is what a listener did not take in time.
type missed struct {
	Count    int64  `json:"count"`
	FromSeq  int64  `json:"from_seq"`
	ToSeq    int64  `json:"to_seq"`
	FromTS   string `json:"from_ts"`
	ToTS     string `json:"to_ts"`
	earliest market.Instant
}

// missedNotice is the payload that tells of it.
type missedNotice struct {
	Symbol    market.Symbol `json:"symbol"`
	Timeframe string        `json:"timeframe"`
	Missed    missed        `json:"missed"`
}

// add notes one more.
func (m *missed) add(i item) {
	if m.Count == 0 {
		m.FromSeq, m.FromTS, m.earliest = i.seq, i.ts.String(), i.ts
	}
	if i.ts < m.earliest { // of a topic that was made anew
		m.FromTS, m.earliest = i.ts.String(), i.ts
	}
	m.Count++
	m.ToSeq, m.ToTS = i.seq, i.ts.String()
}

// push adds an item and reports whether another had to go for it. A state of a bar that was not taken is overtaken by the next of the same bar.
func (s *Subscription) push(i item) (lost bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	if last := len(s.queue) - 1; last >= 0 && s.queue[last].ts == i.ts && !s.queue[last].final {
		s.queue[last] = i
		return false
	}
	if len(s.queue) == s.limit {
		s.missed.add(s.queue[0])
		s.queue = append(s.queue[:0], s.queue[1:]...)
		lost = true
	}
	s.queue = append(s.queue, i)
	return lost
}

// Next takes the payload that is next, and reports whether there was one: a bar as it stands in the topic, or, before the bars that follow them,
// what was not taken in time: {"symbol", "timeframe", "missed": {"count", "from_seq", "to_seq", "from_ts", "to_ts"}}, both ends included. It never
// waits. The payload is shared, and not to be changed.
func (s *Subscription) Next() (payload []byte, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.missed.Count > 0:
		series := s.reader.series
		notice, err := json.Marshal(missedNotice{series.Symbol, series.Timeframe.String(), s.missed})
		s.missed = missed{}
		return notice, err == nil // strings and numbers always have a JSON
	case len(s.queue) == 0:
		return nil, false
	}
	next := s.queue[0]
	s.queue[0] = item{}
	if s.queue = s.queue[1:]; len(s.queue) == 0 {
		s.queue = nil // a listener that is up to date keeps nothing
	}
	return next.payload, true
}

// Close ends the subscription. wake may be called once more.
func (s *Subscription) Close() {
	s.mu.Lock()
	s.closed, s.queue, s.missed = true, nil, missed{}
	s.mu.Unlock()
	s.reader.remove(s)
}
