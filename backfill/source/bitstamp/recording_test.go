package bitstamp_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/source"
	"barkeep/backfill/source/bitstamp"
	"barkeep/backfill/source/sourcetest"
	"barkeep/internal/market"
)

func seconds(n int64) market.Instant { return market.Instant(n * 1e6) }

func fetch(t *testing.T, name string, tf market.Timeframe, r market.Range) source.Answer {
	t.Helper()
	s, err := bitstamp.New(source.Config{URL: sourcetest.Replay(t, sourcetest.Recorded(t, "bitstamp", name))})
	require.NoError(t, err)
	a, err := s.Fetch(t.Context(), source.Query{
		VendorID: "btcusd", Series: market.Series{Symbol: "bitstamp:BTCUSD", Timeframe: tf}, Range: r,
	})
	require.NoError(t, err)
	return a
}

// BS2: 634 of 1000 rows lie before the start. BS3: 1546992000 came twice, the last one wins.
func TestRecordedDays(t *testing.T) {
	t.Parallel()
	a := fetch(t, "api_v2_ohlc_btcusd_end_1577836799_limit_1000_start_1546300800_step_86400.json", market.D1,
		market.Range{Start: seconds(1546300800), End: seconds(1577836800)})
	require.Equal(t, 634, a.Dropped)
	require.Equal(t, 1, a.Repeated)
	require.Len(t, a.Bars, 365)
	require.False(t, a.Full, "nothing of the range was cut")
}

func TestRecordedMinutes(t *testing.T) {
	t.Parallel()
	end := seconds(1577836800)
	a := fetch(t, "api_v2_ohlc_btcusd_end_1577836799_limit_1000_start_1546300800_step_60.json", market.M1,
		market.Range{Start: market.M1.Add(end, -1000), End: end})
	require.Len(t, a.Bars, 1000)
	flat := 0
	for _, b := range a.Bars {
		if b.Volume == 0 {
			flat++
		}
	}
	require.Equal(t, 13, flat, "BS3")
	a = fetch(t, "api_v2_ohlc_btcusd_end_1577836799_limit_10_start_1546300800_step_60.json", market.M1,
		market.Range{Start: market.M1.Add(end, -10), End: end})
	require.Equal(t, market.Bar{
		TS: seconds(1577836200), Open: 7164.21, High: 7170.66, Low: 7164.21, Close: 7170.66, Volume: 0.08549090,
	}, a.Bars[0])
}

// BS2: rows outside the range take places of the limit. Only where the rows reach to the start was nothing cut there.
func TestRowsBeyondTheEnd(t *testing.T) {
	t.Parallel()
	const start = 1704067200
	ohlc := func(first int64) string {
		var text strings.Builder
		for i := range int64(10) {
			fmt.Fprintf(&text, `,{"timestamp":"%d","open":"1","high":"1","low":"1","close":"1","volume":"1"}`, first+i*60)
		}
		return `{"data":{"pair":"BTC/USD","ohlc":[` + text.String()[1:] + `]}}`
	}
	for first, rest := range map[int64]int64{start - 120: 0, start: 0, start + 120: 2} {
		s, err := bitstamp.New(source.Config{URL: sourcetest.Answering(t, ohlc(first))})
		require.NoError(t, err)
		q := source.Query{
			VendorID: "btcusd", Series: market.Series{Symbol: "bitstamp:BTCUSD", Timeframe: market.M1},
			Range: market.Range{Start: seconds(start), End: seconds(start + 600)},
		}
		a, err := s.Fetch(t.Context(), q)
		require.NoError(t, err)
		j := source.Judge(s.Info(), q, a, nil)
		require.Equal(t, rest, market.M1.Count(j.Rest), "first row at %d", first)
	}
}
