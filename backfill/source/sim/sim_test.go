package sim_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/source"
	"barkeep/backfill/source/sim"
	"barkeep/backfill/source/sourcetest"
	"barkeep/internal/market"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	sourcetest.Run(t, sourcetest.Subject{
		BTCUSD: "BTCUSD", NEWUSD: "NEWUSD", OLDUSD: "OLDUSD",
		New: func(testing.TB, source.Config) source.Source { return sim.New(sim.Config{}) },
	})
}

func TestMarket(t *testing.T) {
	t.Parallel()
	start := market.FromTime(time.Date(2023, time.June, 15, 0, 0, 0, 0, time.UTC))
	for _, coin := range sim.Coins() {
		for _, tf := range market.Timeframes() {
			r := market.Range{Start: tf.Floor(start), End: tf.Add(start, 500)}
			bars := coin.Bars(nil, tf, r)
			parts := coin.Bars(coin.Bars(nil, tf, market.Range{Start: r.Start, End: tf.Add(start, 123)}), tf,
				market.Range{Start: tf.Add(start, 123), End: r.End})
			require.Equal(t, bars, parts, "a bar depends on what was asked")
			for i, b := range bars {
				require.NoError(t, b.Check())
				require.True(t, tf.OnGrid(b.TS))
				for _, f := range []float64{b.Open, b.High, b.Low, b.Close, b.Volume} {
					require.InDelta(t, float64(int64(f*64)), f*64, 0)
				}
				if i > 0 && bars[i-1].TS == tf.Add(b.TS, -1) {
					require.InDelta(t, bars[i-1].Close, b.Open, 0)
				}
			}
			if coin.Gappy && tf < market.D1 {
				require.Less(t, len(bars), 450)
				require.Greater(t, len(bars), 200)
			}
		}
	}
}

func BenchmarkBars(b *testing.B) {
	coin := sim.Coins()[0]
	r := market.Range{Start: coin.Listed, End: market.M1.Add(coin.Listed, 8192)}
	var bars []market.Bar
	for b.Loop() {
		bars = coin.Bars(bars[:0], market.M1, r)
	}
	b.ReportMetric(float64(b.N)*8192/b.Elapsed().Seconds()/1e6, "Mbars/s")
}
