package coverage

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"barkeep/internal/market"
)

const owner, lender = "owner", "lender"

func minutesOf(from, to int) market.Range {
	at := instantOf("2024-01-01T00:00:00Z")
	return market.Range{Start: market.M1.Add(at, int64(from)), End: market.M1.Add(at, int64(to))}
}

// slowWord is what is known of a minute, by the rules of the package comment.
type slowWord struct {
	state            State
	source           string
	fetched, retryAt market.Instant
}

func (w *slowWord) read(s Segment) {
	lent := w.retryAt != 0 // or what may be
	settled := s.State != Unavailable && s.State != Provisional
	switch {
	case s.State == Unavailable && (w.state == Final || w.state == Absent):
		if w.source == lender && lent && s.FetchedAt > w.fetched {
			w.fetched, w.retryAt = s.FetchedAt, s.RetryAt
		}
	case w.state == 0, lent && settled, s.FetchedAt > w.fetched:
		*w = slowWord{s.State, owner, s.FetchedAt, s.RetryAt}
	}
}

func (w *slowWord) lend(s Segment) {
	if w.state == Unavailable && w.retryAt != 0 && (s.State == Final || s.State == Absent) {
		w.state, w.source = s.State, lender
	}
}

// Readings of a symbol's own source and what another one lends, in any order and again and again: minute by minute it is as the package comment says.
func TestRule10_WhoDisplacesWhom(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const minutes = 8
		l := NewLedger(market.Series{Symbol: "BTCUSD", Timeframe: market.M1}, nil)
		var known [minutes]slowWord
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			from := rapid.IntRange(0, minutes-1).Draw(t, "from")
			to := rapid.IntRange(from+1, minutes).Draw(t, "to")
			s := Segment{
				Range: minutesOf(from, to), State: rapid.SampledFrom([]State{Final, Provisional, Absent, Unavailable}).Draw(t, "state"),
				Source: owner, Generation: 1, FetchedAt: market.Instant(rapid.IntRange(1, 6).Draw(t, "fetched")),
			}
			lends := rapid.Bool().Draw(t, "lends")
			var where market.RangeSet
			if lends {
				s.Source = lender
				where = l.Lend(s, owner)
			} else {
				if s.State == Unavailable && rapid.Bool().Draw(t, "to be asked again") {
					s.RetryAt = s.FetchedAt + 100
				}
				where = l.Replace(s)
			}
			for i := from; i < to; i++ {
				before := known[i]
				if lends {
					known[i].lend(s)
				} else {
					known[i].read(s)
				}
				require.Equal(t, known[i] != before, where.ContainsRange(minutesOf(i, i+1)), "minute %d: %v and then %v", i, before, s)
			}
			for i := range known {
				require.Equal(t, known[i], wordOf(l, i), "minute %d", i)
			}
		}
	})
}

// wordOf returns what the ledger has of a minute.
func wordOf(l *Ledger, i int) slowWord {
	for _, s := range l.list {
		if s.Range.Contains(minutesOf(i, i+1).Start) {
			return slowWord{s.State, s.Source, s.FetchedAt, s.RetryAt}
		}
	}
	return slowWord{}
}

// What was forgotten, what retention took and what the name does not mean any more is nobody's to stand in for; nor is what the source knows to be
// absent, nor a gap.
func TestRule10_WhatIsNotLent(t *testing.T) {
	t.Parallel()
	now := instantOf("2024-03-01T00:00:00Z")
	r := minutesOf(0, 10)
	for name, known := range map[string]func(l *Ledger){
		"a gap":          func(*Ledger) {},
		"absent":         func(l *Ledger) { l.Replace(Segment{Range: r, State: Absent, Source: owner, FetchedAt: 1}) },
		"final":          func(l *Ledger) { l.Replace(Segment{Range: r, State: Final, Source: owner, FetchedAt: 1}) },
		"provisional":    func(l *Ledger) { l.Replace(Segment{Range: r, State: Provisional, Source: owner, FetchedAt: 1}) },
		"another's name": func(l *Ledger) { l.Replace(Segment{Range: r, State: Unavailable, Source: owner, FetchedAt: 1}) },
		"another's word": func(l *Ledger) {
			l.Replace(Segment{Range: r, State: Unavailable, Source: "x", FetchedAt: 1, RetryAt: now})
		},
		"forgotten":         func(l *Ledger) { l.Bury(r, Binding{Source: owner}, 1) },
		"retention":         func(l *Ledger) { l.Retire(r.End, Binding{Source: owner}, 1) },
		"retention, by now": func(l *Ledger) { l.Retire(r.End, Binding{Source: owner}, 1); l.Removed(l.list[0], l.list[0].Range) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := NewLedger(market.Series{Symbol: "BTCUSD", Timeframe: market.M1}, nil)
			known(l)
			before := slices.Clone(l.list)
			require.Empty(t, l.Lend(Segment{Range: r, State: Final, Source: lender}, owner))
			require.Equal(t, before, l.list)
		})
	}
	l := NewLedger(market.Series{Symbol: "BTCUSD", Timeframe: market.M1}, nil)
	l.Replace(Segment{Range: r, State: Unavailable, Source: owner, FetchedAt: 1, RetryAt: now})
	for _, young := range []State{Provisional, Unavailable} {
		require.Empty(t, l.Lend(Segment{Range: r, State: young, Source: lender}, owner), "what is not for good")
	}
	l.Bury(r, Binding{Source: owner}, 1)
	l.Replace(Segment{Range: r, State: Unavailable, Source: owner, Generation: 1, FetchedAt: 2, RetryAt: now, Reason: "too deep"})
	require.Equal(t, market.RangeSet{r}, l.Lend(Segment{Range: r, State: Final, Source: lender}, owner), "its source has said so since")
	require.Empty(t, l.Pending(now), "its rows are the lender's, and not to be removed any more")
}

// What is lent is an answer until its time has come, and then a gap; so is what was made of it.
func TestRule10_WhatIsLentIsAnAnswerForAWhile(t *testing.T) {
	t.Parallel()
	now := instantOf("2024-03-01T00:00:00Z")
	later := now.Shift(time.Hour)
	l := NewLedger(market.Series{Symbol: "BTCUSD", Timeframe: market.M1}, nil)
	l.Replace(Segment{Range: minutesOf(0, 12), State: Unavailable, Source: owner, FetchedAt: 5, RetryAt: later})
	l.Replace(Segment{Range: minutesOf(12, 30), State: Final, Source: owner, FetchedAt: 4})
	l.Lend(Segment{Range: minutesOf(0, 12), State: Final, Source: lender}, owner)
	derived := l.Derive(market.M5, minutesOf(0, 30), now)
	require.Equal(t, []Segment{
		{Range: minutesOf(0, 15), State: Final, Source: lender, FetchedAt: 5, RetryAt: later},
		{Range: minutesOf(15, 30), State: Final, FetchedAt: 4},
	}, derived)
	one, five := l.series, market.Series{Symbol: "BTCUSD", Timeframe: market.M5}
	x := NewIndex(map[market.Series][]Segment{one: l.Segments(), five: derived})
	for series, lent := range map[market.Series]market.Range{one: minutesOf(0, 12), five: minutesOf(0, 15)} {
		all := market.RangeSet{minutesOf(0, 30)}
		require.True(t, x.Covered(series, all, 0, now))
		require.Empty(t, x.Missing(series, all, 0, now))
		require.Empty(t, x.Due(series, all, now))
		require.False(t, x.Covered(series, all, 0, later))
		require.Equal(t, market.RangeSet{lent}, x.Missing(series, all, 0, later))
		require.Equal(t, market.RangeSet{lent}, x.Due(series, all, later))
		require.Equal(t, all, x.Settled(series, now))
		require.Equal(t, all.Subtract(market.RangeSet{lent}), x.Settled(series, later))
	}
	require.Empty(t, x.Unavailable(one, market.RangeSet{minutesOf(0, 30)}, later))
}
