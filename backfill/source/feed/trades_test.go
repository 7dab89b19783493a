package feed

import (
	"bufio"
	"compress/gzip"
	"encoding/csv"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/source/sourcetest"
	"barkeep/internal/market"
)

const minute = market.Instant(60e6)

func trade(id int64, seconds, price float64) Trade {
	return Trade{ID: id, At: 100*minute + market.Instant(seconds*1e6), Price: price, Size: 1}
}

// TestTradesFormBars: edges of what may be told. Each step is a trade and the bar that it makes, or none.
func TestTradesFormBars(t *testing.T) {
	t.Parallel()
	none := market.Bar{}
	bar := func(m market.Instant, open, high, low, last, volume float64) market.Bar {
		return market.Bar{TS: (100 + m) * minute, Open: open, High: high, Low: low, Close: last, Volume: volume}
	}
	type step struct {
		begin bool
		trade Trade
		want  market.Bar
	}
	for name, c := range map[string]struct {
		consecutive bool
		steps       []step
	}{
		"not the period it began in": {true, []step{
			{trade: trade(1, 1, 5)},
			{trade: trade(2, 59, 6)},
			{trade: trade(3, 60, 7), want: bar(1, 7, 7, 7, 7, 1)},
			{trade: trade(4, 61, 9), want: bar(1, 7, 9, 7, 9, 2)},
			{trade: trade(5, 62, 3), want: bar(1, 7, 9, 3, 3, 3)},
			{trade: trade(6, 180, 4), want: bar(3, 4, 4, 4, 4, 1)},
		}},
		"the anchor at the boundary itself": {true, []step{
			{trade: trade(1, 60, 5)}, {trade: trade(2, 60, 6)}, {trade: trade(3, 120, 7), want: bar(2, 7, 7, 7, 7, 1)},
		}},
		"a hole in the ids": {true, []step{
			{trade: trade(1, 1, 5)},
			{trade: trade(2, 60, 6), want: bar(1, 6, 6, 6, 6, 1)},
			{trade: trade(4, 61, 7)},
			{trade: trade(5, 62, 7)},
			{trade: trade(6, 120, 8), want: bar(2, 8, 8, 8, 8, 1)},
		}},
		"a hole across the boundary": {true, []step{
			{trade: trade(1, 1, 5)}, {trade: trade(3, 61, 6)}, {trade: trade(4, 62, 6)}, {trade: trade(5, 121, 7), want: bar(2, 7, 7, 7, 7, 1)},
		}},
		"twice": {true, []step{
			{trade: trade(1, 1, 5)},
			{trade: trade(2, 60, 6), want: bar(1, 6, 6, 6, 6, 1)},
			{trade: trade(2, 60, 6)},
			{trade: trade(1, 1, 5)},
			{trade: trade(3, 61, 7), want: bar(1, 6, 7, 6, 7, 2)},
		}},
		"late, of a period that is over": {true, []step{
			{trade: trade(1, 1, 5)},
			{trade: trade(2, 60, 6), want: bar(1, 6, 6, 6, 6, 1)},
			{trade: trade(3, 120, 7), want: bar(2, 7, 7, 7, 7, 1)},
			{trade: trade(4, 119, 1)},
			{trade: trade(5, 121, 8), want: bar(2, 7, 8, 7, 8, 2)},
		}},
		"begun anew": {true, []step{
			{trade: trade(1, 1, 5)},
			{trade: trade(2, 60, 6), want: bar(1, 6, 6, 6, 6, 1)},
			{begin: true, trade: trade(3, 61, 7)},
			{trade: trade(4, 62, 7)},
			{trade: trade(5, 120, 8), want: bar(2, 8, 8, 8, 8, 1)},
		}},
		"ids that have holes": {false, []step{
			{trade: trade(10, 1, 5)},
			{trade: trade(20, 60, 6), want: bar(1, 6, 6, 6, 6, 1)},
			{trade: trade(20, 60, 6)},
			{trade: trade(30, 61, 7), want: bar(1, 6, 7, 6, 7, 2)},
			{trade: trade(25, 62, 7)},
			{trade: trade(40, 63, 7)},
			{trade: trade(50, 120, 8), want: bar(2, 8, 8, 8, 8, 1)},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := former{timeframe: market.M1, consecutive: c.consecutive}
			for i, s := range c.steps {
				if s.begin {
					f.begin()
				}
				got, whole := f.add(s.trade)
				require.Equal(t, s.want, got, "step %d", i)
				require.Equal(t, s.want != none, whole, "step %d", i)
			}
		})
	}
}

// recordedTrades returns XRP/ETH trades of Binance, of which the bars beside them are made, by minute.
func recordedTrades(t *testing.T) (trades []Trade, bars map[market.Instant]market.Bar) {
	t.Helper()
	open := func(name string) io.Reader {
		file, err := os.Open(filepath.Join(sourcetest.Recordings(t), "freqtrade", name))
		require.NoError(t, err)
		t.Cleanup(func() { _ = file.Close() })
		unzipped, err := gzip.NewReader(bufio.NewReader(file))
		require.NoError(t, err)
		return unzipped
	}
	number := func(text string) float64 {
		n, err := strconv.ParseFloat(text, 64)
		require.NoError(t, err)
		return n
	}
	var rows [][]any
	require.NoError(t, json.NewDecoder(open("XRP_ETH-trades.json.gz")).Decode(&rows))
	for _, r := range rows {
		id, err := strconv.ParseInt(r[1].(string), 10, 64)
		require.NoError(t, err)
		trades = append(trades, Trade{ID: id, At: market.Instant(r[0].(float64)) * 1000, Price: r[4].(float64), Size: r[5].(float64)})
	}
	lines, err := csv.NewReader(open("XRP_ETH-1m.csv.gz")).ReadAll()
	require.NoError(t, err)
	bars = map[market.Instant]market.Bar{}
	for _, l := range lines[1:] {
		ts := market.Instant(number(l[0])) * 1000
		bars[ts] = market.Bar{TS: ts, Open: number(l[1]), High: number(l[2]), Low: number(l[3]), Close: number(l[4]), Volume: number(l[5])}
	}
	return trades, bars
}

// TestRecordedTradesFormTheRecordedBars: what is told last of each minute is its bar, but for the minute of the first trade; and no
// state is told that has more volume or a wider range than its bar.
func TestRecordedTradesFormTheRecordedBars(t *testing.T) {
	t.Parallel()
	trades, bars := recordedTrades(t)
	last := formed(t, trades, bars)
	require.Len(t, last, len(bars)-1)
	for ts, bar := range last {
		require.InDelta(t, bars[ts].Volume, bar.Volume, 1e-6)
		bar.Volume = bars[ts].Volume
		require.Equal(t, bars[ts], bar)
	}
}

// TestRecordedTradesWithAHoleTellNoShortBar: without one trade, its minute is told no more from there on where the ids show it.
func TestRecordedTradesWithAHoleTellNoShortBar(t *testing.T) {
	t.Parallel()
	trades, bars := recordedTrades(t)
	consecutive := 0
	for hole := 50; hole < len(trades)-2; hole += 250 {
		if trades[hole+1].ID != trades[hole-1].ID+2 {
			continue // ids have a hole of their own here
		}
		consecutive++
		of, next := market.M1.Floor(trades[hole].At), market.M1.Floor(trades[hole+1].At)
		f := former{timeframe: market.M1, consecutive: true}
		for i, tr := range trades {
			if i == hole {
				continue
			}
			bar, whole := f.add(tr)
			if i > hole && whole {
				require.NotEqual(t, of, bar.TS)
				require.NotEqual(t, next, bar.TS)
			}
		}
	}
	require.Greater(t, consecutive, 20)
	require.NotEmpty(t, bars)
}

// formed returns the last state that is told of each minute.
func formed(t *testing.T, trades []Trade, bars map[market.Instant]market.Bar) map[market.Instant]market.Bar {
	t.Helper()
	last := map[market.Instant]market.Bar{}
	f := former{timeframe: market.M1}
	for _, tr := range trades {
		bar, whole := f.add(tr)
		if !whole {
			continue
		}
		of := bars[bar.TS]
		require.LessOrEqual(t, bar.Volume, of.Volume+1e-6)
		require.LessOrEqual(t, bar.High, of.High)
		require.GreaterOrEqual(t, bar.Low, of.Low)
		require.InDelta(t, of.Open, bar.Open, 0)
		last[bar.TS] = bar
	}
	return last
}
