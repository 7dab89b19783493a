package source_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/source"
	"barkeep/internal/market"
)

// The sequence: a vendor's days open at 16:00 UTC, or one row of a page is a second late. Taken as they are, they would lie beside the bars of the
// grid, where no statement that names a day finds them; left out, the page would vouch for their absence.
func TestRule2_ARowOffTheGridIsAnError(t *testing.T) {
	t.Parallel()
	for text, late := range map[string]time.Duration{"a second late": time.Second, "an hour and a half": 90 * time.Minute} {
		for _, tf := range []market.Timeframe{market.M1, market.H1, market.D1, market.D3, market.W1, market.Mo1} {
			start := tf.Floor(base)
			q := source.Query{Series: market.Series{Symbol: "venue:X", Timeframe: tf}, Range: market.Range{Start: start, End: tf.Add(start, 10)}}
			rows := make([]market.Bar, 3)
			for i := range rows {
				rows[i] = market.Bar{TS: tf.Add(start, int64(i)), Open: 1, High: 1, Low: 1, Close: 1}
			}
			a := source.Answer{Sent: tf.Add(start, 100)}
			require.NoError(t, source.Rows(&a, &q, append([]market.Bar(nil), rows...), false))
			rows[1].TS = rows[1].TS.Shift(late)
			if tf.OnGrid(rows[1].TS) {
				continue // a minute and a half hours later there is a minute
			}
			err := source.Rows(&a, &q, rows, false)
			require.ErrorIs(t, err, source.ErrAnswer, text)
			require.ErrorContains(t, err, "venue:X at "+rows[1].TS.String()+": time is off the grid of "+tf.String(), text)
		}
	}
}
