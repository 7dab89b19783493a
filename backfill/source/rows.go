package source

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"barkeep/internal/market"
)

// Rows turns what a vendor returned into an Answer's rows, by the rules that hold for all adapters:
//   - rows outside the asked range are dropped and counted; where nothing else came that is an error (BN6), unless all lie
//     before the start and beforeStart says that the vendor does so (BS2, CB1);
//   - unordered rows are sorted; of those with one timestamp the last wins (BS3);
//   - a time off the grid is an error (PIPELINE 2), as is a closed bar that cannot be (DESIGN §8).
//
// It works in place: bars belongs to the answer afterwards. Sent and Skew of the answer decide what is closed.
func Rows(a *Answer, q *Query, bars []market.Bar, beforeStart bool) error {
	tf := q.Series.Timeframe
	kept, after := bars[:0], 0
	sorted := true
	for i := range bars {
		ts := bars[i].TS
		if !q.Range.Contains(ts) {
			a.Dropped++
			if ts >= q.Range.End {
				after++
			}
			continue
		}
		if !tf.OnGrid(ts) {
			return fmt.Errorf("%w: %s at %s: time is off the grid of %s", ErrAnswer, q.Series.Symbol, ts, tf)
		}
		if n := len(kept); n > 0 && kept[n-1].TS >= ts {
			sorted = false
		}
		kept = append(kept, bars[i])
	}
	if len(kept) == 0 && a.Dropped > 0 && (after > 0 || !beforeStart) {
		return fmt.Errorf("%w: all %d rows lie outside %s", ErrAnswer, a.Dropped, q.Range)
	}
	if !sorted {
		kept = order(a, kept)
	}
	closed := a.Sent.Shift(min(a.Skew, 0))
	for i := range kept {
		if tf.Next(kept[i].TS) > closed {
			break
		}
		if err := kept[i].Check(); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrAnswer, q.Series.Symbol, err)
		}
	}
	a.Bars = kept
	return nil
}

// order sorts bars and keeps the last of those with one timestamp.
func order(a *Answer, bars []market.Bar) []market.Bar {
	slices.SortStableFunc(bars, func(x, y market.Bar) int { return cmp.Compare(x.TS, y.TS) })
	kept := bars[:0]
	for i := range bars {
		if n := len(kept); n > 0 && kept[n-1].TS == bars[i].TS {
			kept[n-1] = bars[i]
			a.Repeated++
			continue
		}
		kept = append(kept, bars[i])
	}
	return kept
}

// Unusable returns the error for an answer that cannot be used; it may be better the next time.
func Unusable(source, op string, err error) *Error {
	if !errors.Is(err, ErrAnswer) {
		err = fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	return &Error{Source: source, Op: op, Err: err, Again: true}
}
