package coverage

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"barkeep/internal/market"
)

// TestRule4_APageIsItsSegmentsOneByOne: whatever is known before, the segments of a page are entered together as they are one after the other, and
// what was vouched for is told minute by minute.
func TestRule4_APageIsItsSegmentsOneByOne(t *testing.T) {
	t.Parallel()
	const size = 24
	rapid.Check(t, func(t *rapid.T) {
		segment := func() Segment {
			from := rapid.IntRange(0, size).Draw(t, "from")
			s := Segment{
				Range: minutesOf(from, rapid.IntRange(from, size).Draw(t, "to")), Source: owner, State: State(rapid.Int16Range(1, 4).Draw(t, "state")),
				FetchedAt: market.Instant(rapid.IntRange(1, 3).Draw(t, "fetched")), Generation: int64(rapid.IntRange(1, 2).Draw(t, "generation")),
			}
			switch rapid.IntRange(0, 9).Draw(t, "end") {
			case 0:
				s.Range.Start = market.NegInf
			case 1:
				s.Range.End = market.PosInf
			case 2:
				s.Range.Start += 7_000_000 // it is rounded inward
			}
			if s.State == Unavailable {
				s.RetryAt = market.Instant(rapid.IntRange(0, 1).Draw(t, "retry"))
				s.Reason = rapid.SampledFrom([]string{"", Forgotten}).Draw(t, "reason")
			}
			return s
		}
		before := NewLedger(market.Series{Symbol: "A", Timeframe: market.M1}, nil)
		for range rapid.IntRange(0, 8).Draw(t, "known") {
			before.Replace(segment())
			if rapid.Bool().Draw(t, "lend") {
				before.Lend(Segment{Range: minutesOf(0, rapid.IntRange(0, size).Draw(t, "lent")), State: Final, Source: lender}, owner)
			}
		}
		stored := before.Segments()
		together, each := NewLedger(before.series, slices.Clone(stored)), NewLedger(before.series, slices.Clone(stored))
		var page []Segment
		for range rapid.IntRange(0, 8).Draw(t, "page") {
			page = append(page, segment())
		}
		holds := together.ReplaceAll(page)
		require.Len(t, holds, len(page))
		for i, s := range page {
			require.Equal(t, each.Replace(s), holds[i])
		}
		require.Equal(t, each.revised, together.revised)
		require.Equal(t, each.Segments(), together.Segments())

		asked := minutesOf(rapid.IntRange(0, size).Draw(t, "asked"), size)
		vouched := together.Vouched(asked)
		for i := range size {
			minute := minutesOf(i, i+1)
			known := slices.ContainsFunc(stored, func(s Segment) bool {
				return s.Range.Overlaps(minute) && (s.State == Final || s.State == Absent || s.Pending())
			})
			require.Equal(t, known && asked.Overlaps(minute), vouched.ContainsRange(minute), minute)
		}
	})
}
