package coordinator

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"barkeep/internal/market"
)

// The pieces of a roll-up are all of it, each whole buckets, and none reads more of the base than one transaction should.
func TestRule9_PiecesAreAllOfARollUp(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		tf := rapid.SampledFrom(market.Timeframes()[1:]).Draw(t, "timeframe")
		base, found := tf.Base([]market.Timeframe{market.M1, rapid.SampledFrom(market.Timeframes()).Draw(t, "base")})
		require.True(t, found)
		day := market.FromTime(time.Date(2015, 1, 1, 0, 0, 0, 0, time.UTC))
		life := market.Range{Start: rapid.SampledFrom([]market.Instant{market.NegInf, 0, day}).Draw(t, "listed"), End: market.PosInf}
		start := day.Shift(time.Duration(rapid.IntRange(-50, 50).Draw(t, "start")) * 24 * time.Hour)
		if rapid.Bool().Draw(t, "all of the past") {
			start = market.NegInf
		}
		whole := market.Range{Start: start, End: day.Shift(time.Duration(rapid.IntRange(60, 3000).Draw(t, "days")) * 24 * time.Hour)}.Outward(tf)
		at := whole.Start
		for _, piece := range pieces(whole, tf, base, life, rollUpBars) {
			require.Equal(t, at, piece.Start)
			require.Less(t, piece.Start, piece.End)
			require.Equal(t, piece, piece.Outward(tf))
			alive := piece.Intersect(market.Range{Start: tf.Floor(life.Start), End: market.PosInf})
			if life.Start != market.NegInf && tf != market.Mo1 {
				require.LessOrEqual(t, base.Count(alive), int64(rollUpBars))
			}
			at = piece.End
		}
		require.Equal(t, whole.End, at)
	})
}
