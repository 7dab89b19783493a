package coverage_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"barkeep/backfill/coverage"
	"barkeep/internal/market"
)

const minute = market.Instant(60_000_000)

var btc = market.Series{Symbol: "sim:BTCUSD", Timeframe: market.M1}

func minutes(from, to int) market.Range {
	return market.Range{Start: market.Instant(from) * minute, End: market.Instant(to) * minute}
}

func TestIndexAgainstBitmap(t *testing.T) {
	t.Parallel()
	const size = 48
	rapid.Check(t, func(t *rapid.T) {
		const now = size * minute
		var list []coverage.Segment
		var good, bad [size]bool
		for at := 0; at < size; {
			length := rapid.IntRange(1, 8).Draw(t, "length")
			end := min(at+length, size)
			s := coverage.Segment{Range: minutes(at, end), State: coverage.State(rapid.Int16Range(0, 4).Draw(t, "state"))}
			counts := s.State.Settled()
			if s.State == coverage.Provisional && rapid.Bool().Draw(t, "fresh") {
				s.FetchedAt, counts = now-15_000_000, true
			}
			if s.State.Valid() && rapid.IntRange(0, 4).Draw(t, "expired") == 0 {
				s.ExpiresAt, counts = now, false
			}
			for i := at; i < end; i++ {
				good[i], bad[i] = counts, s.State == coverage.Unavailable && s.ExpiresAt == 0
			}
			if s.State.Valid() {
				list = append([]coverage.Segment{s}, list...)
			}
			at = end
		}
		x := coverage.NewIndex(map[market.Series][]coverage.Segment{btc: list})
		require.Equal(t, len(list), x.Len())
		a, b := rapid.IntRange(0, size-1).Draw(t, "a"), rapid.IntRange(0, size-1).Draw(t, "b")
		need := market.NewRangeSet(minutes(min(a, b), max(a, b)), minutes(size-2, size-1))
		missing := x.Missing(btc, need, 0, now)
		unavailable := x.Unavailable(btc, need, now)
		for i := range size {
			in := need.Contains(market.Instant(i) * minute)
			require.Equal(t, in && !good[i], missing.Contains(market.Instant(i)*minute), "minute %d", i)
			found := false
			for _, s := range unavailable {
				found = found || s.Range.Contains(market.Instant(i)*minute)
			}
			if in {
				require.Equal(t, bad[i], found)
			}
		}
		require.Equal(t, missing.Empty(), x.Covered(btc, need, 0, now))
	})
}

func TestRule1_CoverageOfMinutesDoesNotVouchForTheHour(t *testing.T) {
	t.Parallel()
	h1 := market.Series{Symbol: "X", Timeframe: market.H1}
	x := coverage.NewIndex(map[market.Series][]coverage.Segment{h1: {{Range: minutes(0, 37), State: coverage.Final}}})
	require.False(t, x.Covered(h1, market.RangeSet{minutes(0, 30)}, 0, 90*minute))
	require.Equal(t, market.RangeSet{minutes(0, 60)}, x.Missing(h1, market.RangeSet{minutes(10, 30)}, 0, 90*minute))
}

func TestTheFutureIsNotMissing(t *testing.T) {
	t.Parallel()
	x := coverage.NewIndex(map[market.Series][]coverage.Segment{btc: {
		{Range: market.Range{Start: market.NegInf, End: 10 * minute}, State: coverage.Final},
		{Range: minutes(10, 11), State: coverage.Provisional, FetchedAt: 10*minute + 1},
	}})
	always := market.RangeSet{market.Always}
	require.True(t, x.Covered(btc, always, time.Minute, 10*minute+2))
	require.False(t, x.Covered(btc, always, time.Minute, 11*minute))
	require.Equal(t, market.RangeSet{minutes(11, 12)}, x.Missing(btc, always, time.Minute, 11*minute))
	require.True(t, x.Covered(btc, market.RangeSet{minutes(100, 200)}, 0, 10*minute))
	require.Equal(t, market.RangeSet{{Start: market.NegInf, End: 10 * minute}}, x.Settled(btc, 0))
}

func TestEmptyIndexKnowsNothing(t *testing.T) {
	t.Parallel()
	var x *coverage.Index
	need := market.RangeSet{minutes(0, 5)}
	require.False(t, x.Covered(btc, need, 0, 9*minute))
	require.True(t, x.Covered(btc, nil, 0, 9*minute))
	require.Equal(t, need, x.Missing(btc, need, 0, 9*minute))
	_, known := x.Version("X")
	require.False(t, known)
}

func TestCoveredDoesNotAllocate(t *testing.T) {
	var list []coverage.Segment
	for i := range 1000 {
		list = append(list, coverage.Segment{Range: minutes(2*i, 2*i+1), State: coverage.Final})
	}
	x := coverage.NewIndex(map[market.Series][]coverage.Segment{btc: list})
	need := market.RangeSet{minutes(500, 501), minutes(1000, 1001)}
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if !x.Covered(btc, need, 0, 9999*minute) {
			t.Fatal("not covered")
		}
	}))
}
