package source_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"barkeep/backfill/coverage"
	"barkeep/backfill/source"
	"barkeep/internal/market"
)

const base = market.Instant(1704067200 * 1e6)

func minute(n int64) market.Instant { return market.M1.Add(base, n) }

func bars(at ...int64) []market.Bar {
	list := make([]market.Bar, len(at))
	for i, n := range at {
		list[i] = market.Bar{TS: minute(n), Open: 1, High: 1, Low: 1, Close: 1}
	}
	return list
}

func span(from, to int64, state coverage.State) source.Segment {
	return source.Segment{Range: market.Range{Start: minute(from), End: minute(to)}, State: state}
}

func TestRule5And6(t *testing.T) {
	t.Parallel()
	const (
		final, provisional, absent = coverage.Final, coverage.Provisional, coverage.Absent
	)
	lag := source.Info{Finality: source.Lag{Default: 2 * time.Minute}, Absence: source.Lag{Default: time.Hour}}
	dense := lag
	dense.Dense = true
	old, young := minute(1000), minute(10)
	for name, c := range map[string]struct {
		info    source.Info
		a       source.Answer
		earlier *source.Answer
		want    []source.Segment
		again   bool
		bars    []market.Bar // where they are not a's
	}{
		"all there": {info: lag, a: source.Answer{Bars: bars(0, 1, 2, 3, 4, 5), Sent: old}, want: []source.Segment{span(0, 6, final)}},
		"the tail is too young": {
			info: lag, a: source.Answer{Bars: bars(0, 1), Sent: young}, want: []source.Segment{span(0, 2, final), span(2, 6, provisional)},
		},
		"a sparse hole": {info: lag, a: source.Answer{Bars: bars(0, 5), Sent: old}, want: []source.Segment{span(0, 6, final)}},
		"a sparse tail, settled by one reading": {
			info: lag, a: source.Answer{Bars: bars(0, 3), Sent: old}, want: []source.Segment{span(0, 4, final), span(4, 6, absent)},
		},
		"not past finality": {
			info: lag, a: source.Answer{Bars: bars(0, 1, 2, 3, 4, 5), Sent: minute(6)},
			want: []source.Segment{span(0, 4, final), span(4, 6, provisional)},
		},
		"the vendor calls its last row unfinished": {
			info: lag, a: source.Answer{Bars: bars(0, 1, 2, 3), Sent: old, Unfinished: minute(3)},
			want: []source.Segment{span(0, 3, final), span(3, 6, provisional)},
		},
		"our clock is doubtful": {
			info: lag, a: source.Answer{Bars: bars(0, 1, 2, 3, 4, 5), Sent: old, Doubtful: true}, want: []source.Segment{span(0, 6, provisional)},
		},
		"the vendor's clock is behind": {
			info: lag, a: source.Answer{Bars: bars(0, 1, 2, 3, 4, 5), Sent: minute(6), Skew: -time.Second},
			want: []source.Segment{span(0, 3, final), span(3, 6, provisional)},
		},
		"skew": {
			info: lag, a: source.Answer{Bars: bars(0, 1, 2, 3, 4, 5), Sent: old, Skew: 3 * time.Second},
			want: []source.Segment{span(0, 6, provisional)},
		},
		"no rows": {info: lag, a: source.Answer{Sent: old}, want: []source.Segment{span(0, 6, provisional)}, again: true},
		"no rows twice": {
			info: lag, a: source.Answer{Sent: old}, earlier: &source.Answer{}, want: []source.Segment{span(0, 6, absent)},
		},
		"no rows, young": {info: lag, a: source.Answer{Sent: young}, want: []source.Segment{span(0, 6, provisional)}},
		"a dense hole": {
			info: dense, a: source.Answer{Bars: bars(0, 1, 4, 5), Sent: old}, again: true,
			want: []source.Segment{span(0, 2, final), span(2, 4, provisional), span(4, 6, final)},
		},
		"a dense hole with a bar behind it, young: not a tail that is late": {
			info: dense, a: source.Answer{Bars: bars(0, 1, 4), Sent: young}, again: true,
			want: []source.Segment{span(0, 2, final), span(2, 4, provisional), span(4, 5, final), span(5, 6, provisional)},
		},
		"a dense hole, young, twice": {
			info: dense, a: source.Answer{Bars: bars(0, 1, 4), Sent: young}, earlier: &source.Answer{Bars: bars(0, 1, 4)},
			want: []source.Segment{span(0, 2, final), span(2, 4, provisional), span(4, 5, final), span(5, 6, provisional)},
		},
		"a dense tail, young": {info: dense, a: source.Answer{Bars: bars(0, 1), Sent: young}, want: []source.Segment{span(0, 2, final), span(2, 6, provisional)}},
		"a dense hole twice, not the same": {
			info: dense, a: source.Answer{Bars: bars(0, 1, 4, 5), Sent: old}, earlier: &source.Answer{Bars: bars(0, 1, 2, 5)},
			want: []source.Segment{span(0, 2, final), span(2, 3, provisional), span(3, 4, absent), span(4, 6, final)},
			bars: bars(0, 1, 2, 4, 5),
		},
		"no rows, where there were some before": {
			info: lag, a: source.Answer{Sent: old}, earlier: &source.Answer{Bars: bars(1, 2)},
			want: []source.Segment{span(0, 1, absent), span(1, 3, provisional), span(3, 6, absent)}, bars: bars(1, 2),
		},
		"a tail that is too young, shown once": {
			info: dense, a: source.Answer{Bars: bars(0, 2), Sent: minute(62)}, earlier: &source.Answer{Bars: bars(0, 2, 3)},
			want: []source.Segment{span(0, 1, final), span(1, 2, absent), span(2, 3, final), span(3, 6, provisional)}, bars: bars(0, 2, 3),
		},
		"rows that begin at the end of the source's depth (CC9)": {
			info: dense, a: source.Answer{Bars: bars(2, 3, 4, 5), Sent: old, Unavailable: "why"},
			want: []source.Segment{
				{Range: market.Range{Start: minute(0), End: minute(2)}, State: coverage.Unavailable, Reason: "why", RetryAt: old.Shift(source.UnavailableFor)},
				span(2, 6, final),
			},
		},
		"cut by the limit": {
			info: lag, a: source.Answer{Bars: bars(0, 1, 2), Sent: old, Full: true}, want: []source.Segment{span(0, 3, final)},
		},
		"cut by the limit, backwards": {
			info: lag, a: source.Answer{Bars: bars(3, 4, 5), Sent: old, Full: true, Backwards: true},
			want: []source.Segment{span(3, 6, final)},
		},
	} {
		q := source.Query{Series: market.Series{Timeframe: market.M1}, Range: market.Range{Start: minute(0), End: minute(6)}}
		j := source.Judge(c.info, q, c.a, c.earlier)
		require.Equal(t, c.want, j.Segments, name)
		require.Equal(t, c.again, j.Again, name)
		want := c.bars
		if want == nil {
			want = c.a.Bars
		}
		require.Equal(t, want, j.Bars, name)
	}
}

// Whatever comes: segments and rest tile the range, and nothing final or absent is younger than its lag.
func TestJudgeTiles(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		info := source.Info{
			Dense: rapid.Bool().Draw(t, "dense"), Finality: source.Lag{Default: time.Minute}, Absence: source.Lag{Default: 5 * time.Minute},
		}
		draw := func(name string) source.Answer {
			var at []int64
			for n := range int64(20) {
				if rapid.Bool().Draw(t, name) {
					at = append(at, n)
				}
			}
			return source.Answer{Bars: bars(at...), Sent: minute(rapid.Int64Range(-5, 40).Draw(t, "sent"))}
		}
		a := draw("bars")
		a.Full, a.Backwards = rapid.Bool().Draw(t, "full"), rapid.Bool().Draw(t, "backwards")
		var earlier *source.Answer
		if rapid.Bool().Draw(t, "second") {
			first := draw("earlier")
			earlier = &first
		}
		q := source.Query{Series: market.Series{Timeframe: market.M1}, Range: market.Range{Start: minute(0), End: minute(20)}}
		j := source.Judge(info, q, a, earlier)
		all := market.NewRangeSet(j.Rest)
		for i, s := range j.Segments {
			require.False(t, s.Range.Empty())
			require.True(t, i == 0 || j.Segments[i-1].Range.End == s.Range.Start)
			require.Equal(t, s.Range, s.Range.Inward(market.M1))
			if s.State == coverage.Final {
				require.LessOrEqual(t, s.Range.End, a.Sent.Shift(-time.Minute))
			}
			if s.State == coverage.Absent {
				require.LessOrEqual(t, s.Range.End, a.Sent.Shift(-5*time.Minute))
				for _, b := range j.Bars {
					require.False(t, s.Range.Contains(b.TS))
				}
			}
			all = all.Add(s.Range)
		}
		require.Equal(t, market.NewRangeSet(q.Range), all)
		require.False(t, earlier != nil && j.Again, "a third reading")
	})
}
