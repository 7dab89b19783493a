package sourcetest

import (
	"cmp"
	"slices"

	"barkeep/internal/market"
)

// RollUp returns the bars of tf that those of a base make, in the words of PIPELINE 9 and by no other way than that: base is
// ascending, and a bucket without a bar has none.
func RollUp(base []market.Bar, tf market.Timeframe) []market.Bar {
	buckets := map[market.Instant][]market.Bar{}
	for _, b := range base {
		buckets[tf.Floor(b.TS)] = append(buckets[tf.Floor(b.TS)], b)
	}
	out := make([]market.Bar, 0, len(buckets))
	for open, in := range buckets {
		bar := market.Bar{TS: open, Open: in[0].Open, High: in[0].High, Low: in[0].Low, Close: in[len(in)-1].Close}
		for _, b := range in {
			bar.High, bar.Low, bar.Volume = max(bar.High, b.High), min(bar.Low, b.Low), bar.Volume+b.Volume
		}
		out = append(out, bar)
	}
	slices.SortFunc(out, func(a, b market.Bar) int { return cmp.Compare(a.TS, b.TS) })
	return out
}
