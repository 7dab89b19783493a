package source_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/source"
	"barkeep/internal/market"
)

// forgetful is a source of bars at some minutes, which at first has none of what it is asked for.
type forgetful struct {
	source.Source
	at    []int64
	asked map[market.Range]int
}

func (*forgetful) Info() source.Info {
	return source.Info{Native: []market.Timeframe{market.M1}, PageLimit: 10, Earliest: minute(0)}
}

func (f *forgetful) Fetch(_ context.Context, q source.Query) (source.Answer, error) {
	f.asked[q.Range]++
	var a source.Answer
	for _, n := range f.at {
		if q.Range.Contains(minute(n)) && f.asked[q.Range] > 1 {
			a.Bars = append(a.Bars, bars(n)...)
		}
	}
	return a, nil
}

// The sequence: a source answers with nothing for a moment, where the instrument has traded already. What lies before the first bar that is found will be
// absent, so a page without rows is read a second time.
func TestRule5_AProbeReadsAnEmptyPageTwice(t *testing.T) {
	t.Parallel()
	f := &forgetful{at: []int64{13, 14, 25}, asked: map[market.Range]int{}}
	listed, err := source.Probe(t.Context(), f, "A", source.Bulk, minute(40), market.M1)
	require.NoError(t, err)
	require.Equal(t, minute(13), listed)
	page := func(n int64) market.Range { return market.Range{Start: minute(10 * n), End: minute(10*n + 10)} }
	require.Equal(t, map[market.Range]int{page(0): 2, page(1): 2}, f.asked)
	f = &forgetful{asked: map[market.Range]int{}}
	listed, err = source.Probe(t.Context(), f, "A", source.Bulk, minute(40), market.M1)
	require.NoError(t, err)
	require.Equal(t, market.NegInf, listed, "it has none")
}
