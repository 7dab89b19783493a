package source

import (
	"context"

	"barkeep/internal/market"
)

// Probe finds the open of an instrument's first bar by reading forward from the source's earliest instant in the first of tfs,
// then inside the bar found in each next one. It returns market.NegInf where it finds none. s must have all of tfs
// natively.
func Probe(ctx context.Context, s Source, vendorID string, p Priority, now market.Instant, tfs ...market.Timeframe) (market.Instant, error) {
	info := s.Info()
	within := market.Range{Start: info.Earliest, End: now}
	first := market.NegInf
	for _, tf := range tfs {
		found, err := firstBar(ctx, s, &info, Query{
			VendorID: vendorID, Series: market.Series{Symbol: market.Symbol(vendorID), Timeframe: tf},
			Range: within.Outward(tf), Priority: p,
		})
		if err != nil {
			return market.NegInf, err
		}
		if found.IsInf() {
			return first, nil
		}
		first = found
		within = market.Range{Start: first, End: tf.Next(first)}
	}
	return first, nil
}

func firstBar(ctx context.Context, s Source, info *Info, q Query) (market.Instant, error) {
	tf, all := q.Series.Timeframe, q.Range
	for start := all.Start; start < all.End; start = q.Range.End {
		q.Range = market.Range{Start: start, End: min(tf.Add(start, int64(info.PageLimit)), all.End)}
		for range 2 { // "a page without rows is read twice": what lies before the listing will be absent (PIPELINE 5)
			a, err := s.Fetch(ctx, q)
			if err != nil {
				return market.NegInf, err
			}
			if len(a.Bars) > 0 {
				return a.Bars[0].TS, nil
			}
		}
	}
	return market.NegInf, nil
}
