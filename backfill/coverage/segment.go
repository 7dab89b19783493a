package coverage

import (
	"time"

	"barkeep/internal/market"
)

// State says what is known of a stretch of a series (PIPELINE 3). The numbers are stored in barkeep.coverage and sent in
// records: they never change.
type State int16

// The states of a segment.
const (
	// Final bars are closed and past the source's finality lag.
	Final State = 1
	// Provisional bars may still change or appear: an answer only while they are fresh.
	Provisional State = 2
	// Absent means that the source has shown that there are no bars.
	Absent State = 3
	// Unavailable means that the source cannot say, until RetryAt.
	Unavailable State = 4
)

// Valid reports whether s is one of the four states.
func (s State) Valid() bool { return s >= Final && s <= Unavailable }

// Settled reports whether s is known for good: final or absent.
func (s State) Settled() bool { return s == Final || s == Absent }

// String returns the state's name in lower case.
func (s State) String() string {
	switch s {
	case Final:
		return "final"
	case Provisional:
		return "provisional"
	case Absent:
		return "absent"
	case Unavailable:
		return "unavailable"
	}
	return "invalid"
}

// Segment is what is known of one stretch of a series: a row of barkeep.coverage. Instants of zero mean "none" in
// ExpiresAt and RetryAt.
type Segment struct {
	Range market.Range
	State State
	// Source and Generation name the binding of the symbol under which the segment was read (PIPELINE 8, 10).
	Source     string
	Generation int64
	// FetchedAt is when the request was sent, less the answer's age (PIPELINE 5).
	FetchedAt market.Instant
	// Reason tells why an unavailable or absent range is so; it may be empty.
	Reason string
	// ExpiresAt ends the segment's worth, whatever its state.
	ExpiresAt market.Instant
	// RetryAt is when an unavailable range may be asked for again; of what is lent or made of that, when the symbol's own source is
	// to be asked for it again.
	RetryAt market.Instant
	// DerivedFrom is the timeframe whose bars these were rolled up from (PIPELINE 9); zero where the source has them.
	DerivedFrom market.Timeframe
}

// Newer reports whether a reading of (generation, fetchedAt) is newer than s (PIPELINE 4). Equal is not newer, so that a
// repeated page changes nothing.
func (s *Segment) Newer(generation int64, fetchedAt market.Instant) bool {
	if generation != s.Generation {
		return generation > s.Generation
	}
	return fetchedAt > s.FetchedAt
}

// defaultFreshness bounds the age of a provisional answer where the session has not set another (DESIGN §14).
const defaultFreshness = 15 * time.Second

// Freshness returns the age up to which a provisional segment of tf is an answer: set itself, or where that is not
// positive the default, the lesser of the timeframe and 15 s.
func Freshness(tf market.Timeframe, set time.Duration) time.Duration {
	if set > 0 {
		return set
	}
	return min(tf.Step(), defaultFreshness)
}

// counts reports whether s answers for its range at now.
func (s *Segment) counts(freshness time.Duration, now market.Instant) bool {
	if s.ExpiresAt != 0 && s.ExpiresAt <= now {
		return false
	}
	switch s.State {
	case Final, Absent:
		return !s.Due(now)
	case Provisional:
		return now.Sub(s.FetchedAt) <= freshness
	default:
		return false
	}
}
