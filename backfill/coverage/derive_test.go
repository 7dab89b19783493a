package coverage

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"barkeep/internal/market"
)

func instantOf(text string) market.Instant {
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		panic(err)
	}
	return market.FromTime(at)
}

func rangeOf(start, end string) market.Range {
	return market.Range{Start: instantOf(start), End: instantOf(end)}
}

// The rule, bucket by bucket and minute by minute.
func deriveSlowly(base []Segment, from, tf market.Timeframe, r market.Range, now market.Instant) []Segment {
	of := func(i market.Instant) *Segment {
		for k := range base {
			if base[k].Range.Contains(i) && base[k].State != Unavailable {
				return &base[k]
			}
		}
		return nil
	}
	var out []Segment
	for open := r.Start; open < r.End; open = tf.Next(open) {
		var states []State
		oldest, newest := market.PosInf, market.NegInf
		at, end := open, tf.Next(open)
		for ; at < end; at = from.Next(at) {
			s := of(at)
			if s == nil {
				break
			}
			states = append(states, s.State)
			newest = max(newest, s.FetchedAt)
			if s.State == Provisional {
				oldest = min(oldest, s.FetchedAt)
			}
		}
		s := Segment{Range: market.Range{Start: open, End: end}, State: Final, FetchedAt: newest}
		switch {
		case at < end && (at == open || end <= now):
			continue
		case at < end:
			s.State, s.FetchedAt = Provisional, min(oldest, at)
		case slices.Contains(states, Provisional):
			s.State, s.FetchedAt = Provisional, oldest
		case !slices.Contains(states, Final):
			s.State = Absent
		}
		out = append(out, s)
	}
	return out
}

func TestRule9_DeriveIsTheRuleBucketByBucket(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		from := rapid.SampledFrom([]market.Timeframe{market.H1, market.H6, market.H8, market.D1}).Draw(t, "base")
		var longer []market.Timeframe
		for _, tf := range market.Timeframes() {
			if from.Divides(tf) {
				longer = append(longer, tf)
			}
		}
		tf := rapid.SampledFrom(longer).Draw(t, "timeframe")
		origin := tf.Floor(instantOf("2024-02-11T00:00:00Z"))
		r := market.Range{Start: origin, End: tf.Add(origin, rapid.Int64Range(1, 6).Draw(t, "buckets"))}
		var base []Segment
		at := from.Add(origin, rapid.Int64Range(-3, 5).Draw(t, "first"))
		for range rapid.IntRange(0, 12).Draw(t, "segments") {
			at = from.Add(at, rapid.SampledFrom([]int64{0, 0, 0, 1, 4}).Draw(t, "gap"))
			end := from.Add(at, rapid.Int64Range(1, 40).Draw(t, "bars"))
			state := rapid.SampledFrom([]State{Final, Final, Final, Provisional, Absent, Absent, Unavailable}).Draw(t, "state")
			fetched := origin.Shift(time.Duration(rapid.Int64Range(-100, 5000).Draw(t, "fetched")) * time.Hour)
			base = append(base, Segment{Range: market.Range{Start: at, End: end}, State: state, FetchedAt: fetched})
			at = end
		}
		now := origin.Shift(time.Duration(rapid.Int64Range(-10, 4000).Draw(t, "now")) * time.Hour)
		l := &Ledger{series: market.Series{Timeframe: from}, list: base}
		var got []Segment
		for _, s := range l.Derive(tf, r, now) {
			require.Equal(t, s.Range, s.Range.Inward(tf), "off the grid")
			for open := s.Range.Start; open < s.Range.End; open = tf.Next(open) {
				one := s
				one.Range = market.Range{Start: open, End: tf.Next(open)}
				got = append(got, one)
			}
		}
		require.Equal(t, deriveSlowly(base, from, tf, r, now), got)
	})
}

func TestRule9_WhatABucketTakesFromItsBase(t *testing.T) {
	t.Parallel()
	const early, late = market.Instant(1), market.Instant(2)
	day := instantOf("2024-03-05T00:00:00Z")
	hour := func(n int) market.Instant { return day.Shift(time.Duration(n) * time.Hour) }
	hours := func(from, to int) market.Range { return market.Range{Start: hour(from), End: hour(to)} }
	for name, c := range map[string]struct {
		base []Segment
		now  market.Instant
		want []Segment
	}{
		"a listing in the middle of a bucket leaves its bar": {
			base: []Segment{{Range: market.Range{Start: market.NegInf, End: hour(6)}, State: Absent, FetchedAt: early}, {Range: hours(6, 8), State: Final, FetchedAt: late}},
			now:  hour(100),
			want: []Segment{
				{Range: market.Range{Start: market.NegInf, End: hour(4)}, State: Absent, FetchedAt: early},
				{Range: hours(4, 8), State: Final, FetchedAt: late},
			},
		},
		"half a bucket vouches for nothing": {
			base: []Segment{{Range: hours(2, 7), State: Final, FetchedAt: late}}, now: hour(100),
		},
		"the bucket that forms is provisional as of its last minute": {
			base: []Segment{{Range: hours(4, 7), State: Final, FetchedAt: hour(50)}}, now: hour(7),
			want: []Segment{{Range: hours(4, 8), State: Provisional, FetchedAt: hour(7)}},
		},
		"and as of its reading where its last minute forms": {
			base: []Segment{{Range: hours(4, 6), State: Final, FetchedAt: late}, {Range: hours(6, 7), State: Provisional, FetchedAt: hour(6) + 5}}, now: hour(6) + 7,
			want: []Segment{{Range: hours(4, 8), State: Provisional, FetchedAt: hour(6) + 5}},
		},
		"unavailable is not known": {
			base: []Segment{{Range: hours(0, 5), State: Final, FetchedAt: late}, {Range: hours(5, 6), State: Unavailable, FetchedAt: late}, {Range: hours(6, 12), State: Final, FetchedAt: late}},
			now:  hour(100),
			want: []Segment{{Range: hours(0, 4), State: Final, FetchedAt: late}, {Range: hours(8, 12), State: Final, FetchedAt: late}},
		},
		"what expires is provisional": {
			base: []Segment{{Range: hours(0, 4), State: Final, FetchedAt: early, ExpiresAt: hour(9)}, {Range: hours(4, 8), State: Final, FetchedAt: late}},
			now:  hour(100),
			want: []Segment{{Range: hours(0, 4), State: Provisional, FetchedAt: early}, {Range: hours(4, 8), State: Final, FetchedAt: late}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := &Ledger{series: market.Series{Timeframe: market.H1}, list: c.base}
			require.Equal(t, c.want, l.Derive(market.H4, market.Range{Start: market.NegInf, End: hour(12)}, c.now))
		})
	}
	l := &Ledger{series: market.Series{Timeframe: market.D1}, list: []Segment{{Range: rangeOf("2024-01-15T00:00:00Z", "2024-04-09T00:00:00Z"), State: Final, FetchedAt: 1}}}
	for tf, want := range map[market.Timeframe]market.Range{
		market.W1:  rangeOf("2024-01-15T00:00:00Z", "2024-04-08T00:00:00Z"),
		market.Mo1: rangeOf("2024-02-01T00:00:00Z", "2024-04-01T00:00:00Z"),
		market.D3:  rangeOf("2024-01-15T00:00:00Z", "2024-04-08T00:00:00Z"),
	} {
		require.Equal(t, []Segment{{Range: want, State: Final, FetchedAt: 1}}, l.Derive(tf, market.Always, market.PosInf), "%s", tf)
	}
}
