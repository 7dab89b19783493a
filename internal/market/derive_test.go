package market_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"barkeep/internal/market"
)

// A base divides a timeframe exactly where the opens of the timeframe are opens of the base.
func TestRule2_DividesIsWhatTheGridSays(t *testing.T) {
	t.Parallel()
	start := time.Date(2019, time.November, 28, 0, 0, 0, 0, time.UTC)
	for _, longer := range market.Timeframes() {
		for _, tf := range market.Timeframes() {
			onGrid := tf < longer
			for i, n := longer.Floor(market.FromTime(start)), 0; n < 100; i, n = longer.Next(i), n+1 {
				onGrid = onGrid && tf.OnGrid(i)
			}
			require.Equal(t, onGrid, tf.Divides(longer), "%s in %s", tf, longer)
		}
	}
}

func TestRule20_TheLongestBaseThatDivides(t *testing.T) {
	t.Parallel()
	coinbase := []market.Timeframe{market.M1, market.M5, market.M15, market.H1, market.H6, market.D1}
	for tf, want := range map[market.Timeframe]market.Timeframe{
		market.M3: market.M1, market.M30: market.M15, market.H2: market.H1, market.H4: market.H1, market.H8: market.H1,
		market.H12: market.H6, market.D3: market.D1, market.W1: market.D1, market.Mo1: market.D1,
	} {
		base, found := tf.Base(coinbase)
		require.True(t, found)
		require.Equal(t, want, base, "%s", tf)
	}
	_, found := market.M1.Base(coinbase)
	require.False(t, found)
	_, found = market.Mo1.Base([]market.Timeframe{market.D3, market.W1})
	require.False(t, found, "weeks do not make months")
	base, found := market.W1.Base([]market.Timeframe{market.H8, market.D3})
	require.True(t, found)
	require.Equal(t, market.H8, base)
	rapid.Check(t, func(t *rapid.T) {
		native := rapid.SliceOfDistinct(rapid.SampledFrom(market.Timeframes()), rapid.ID[market.Timeframe]).Draw(t, "native")
		tf := rapid.SampledFrom(market.Timeframes()).Draw(t, "timeframe")
		base, found := tf.Base(native)
		for _, n := range native {
			if n.Divides(tf) && (!found || n > base) {
				t.Fatalf("%s of %v: got %s, %s is better", tf, native, base, n)
			}
		}
	})
}
