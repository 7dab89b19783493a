package binance

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/source"
	"barkeep/backfill/source/sourcetest"
	"barkeep/internal/market"
)

// TestBN8_RecordedKlines: every recorded message of a Binance is read, bars are sound where they are closed, and those that are
// came within seconds of their end.
func TestBN8_RecordedKlines(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]struct{ bars, closed int }{
		"binance": {2, 0}, "binance_us": {5, 1}, "binance_futures": {67, 4}, "binance_tr": {8, 4}, "binance_delivery": {33, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file, err := os.Open(filepath.Join(sourcetest.Recordings(t), "ws_klines", name+".jsonl.gz"))
			require.NoError(t, err)
			defer file.Close()
			unzipped, err := gzip.NewReader(file)
			require.NoError(t, err)
			lines := bufio.NewScanner(unzipped)
			lines.Buffer(nil, 1<<20)
			var bars, closed int
			for lines.Scan() {
				var m struct {
					Recv float64
					Msg  json.RawMessage
				}
				require.NoError(t, json.Unmarshal(lines.Bytes(), &m))
				of, tick, ok, err := parseKline(m.Msg)
				require.NoError(t, err, lines.Text())
				if !ok {
					continue
				}
				bars++
				require.NotEmpty(t, of.VendorID)
				require.Equal(t, market.M1, of.Timeframe)
				require.Positive(t, tick.Bar.Close)
				if tick.Closed {
					closed++
					late := m.Recv - float64(market.M1.Next(tick.Bar.TS))/1e6
					require.Greater(t, late, -1.0)
					require.Less(t, late, 5.0)
				}
			}
			require.NoError(t, lines.Err())
			require.Equal(t, want, struct{ bars, closed int }{bars, closed})
		})
	}
}

const closedKline = `{"stream":"btcusdt@kline_1m","data":{"e":"kline","E":1633998540005,"s":"BTCUSDT","k":{"t":1633998480000,"T":1633998539999,` +
	`"s":"BTCUSDT","i":"1m","o":"1.0","c":"1.5","h":"2.0","l":"0.5","v":"7.25","n":3,"x":true}}}`

func TestBN8_Kline(t *testing.T) {
	t.Parallel()
	of, tick, ok, err := parseKline([]byte(closedKline))
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, source.Instance{VendorID: "BTCUSDT", Timeframe: market.M1}, of)
	require.Equal(t, source.Tick{Closed: true, Bar: market.Bar{TS: 1633998480e6, Open: 1, High: 2, Low: .5, Close: 1.5, Volume: 7.25}}, tick)
	for _, text := range []string{`{"result":null,"id":1}`, `{"stream":"x","data":{"e":"trade"}}`} {
		_, _, ok, err := parseKline([]byte(text))
		require.NoError(t, err)
		require.False(t, ok)
	}
	for _, text := range []string{
		``, `[]`, `{"data":{"e":"kline"}}`, `{"error":{"code":2,"msg":"Invalid request"}}`,
		`{"data":{"e":"kline","k":{"t":1633998480000,"s":"X","i":"1m","o":"1","h":"1","l":"1","c":"1","x":true}}}`,
		`{"data":{"e":"kline","k":{"t":1633998480001,"s":"X","i":"1m","o":"1","h":"1","l":"1","c":"1","v":"0","x":false}}}`,
		`{"data":{"e":"kline","k":{"t":1633998480000,"s":"X","i":"1s","o":"1","h":"1","l":"1","c":"1","v":"0","x":false}}}`,
		`{"data":{"e":"kline","k":{"t":1633998480000,"s":"X","i":"1m","o":"1","h":"1","l":"2","c":"1","v":"0","x":true}}}`,
	} {
		_, _, ok, err := parseKline([]byte(text))
		require.Error(t, err, text)
		require.False(t, ok)
	}
}

func FuzzParseKline(f *testing.F) {
	f.Add([]byte(closedKline))
	f.Fuzz(func(t *testing.T, text []byte) {
		if of, tick, ok, err := parseKline(text); ok && (err != nil || of.VendorID == "" || !of.Timeframe.OnGrid(tick.Bar.TS)) {
			t.Fatalf("%v %v %v", of, tick, err)
		}
	})
}

func TestSubscribe(t *testing.T) {
	t.Parallel()
	of := []source.Instance{{VendorID: "BTCUSDT", Timeframe: market.M1}, {VendorID: "ETHBTC", Timeframe: market.Mo1}}
	require.JSONEq(t, `{"method":"SUBSCRIBE","params":["btcusdt@kline_1m","ethbtc@kline_1M"],"id":3}`, string(subscribe(of, true, 3)))
	require.JSONEq(t, `{"method":"UNSUBSCRIBE","params":["btcusdt@kline_1m"],"id":4}`, string(subscribe(of[:1], false, 4)))
}

// TestFeedIsOfTheSameVendor: a REST server that only speaks Binance's language is polled, unless a stream is named beside it.
func TestFeedIsOfTheSameVendor(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		config source.Config
		want   bool
	}{{source.Config{}, true}, {source.Config{URL: "http://x"}, false}, {source.Config{URL: "http://x", StreamURL: "ws://x"}, true}} {
		s, err := New(c.config)
		require.NoError(t, err)
		require.Equal(t, c.want, s.Feed(slog.New(slog.DiscardHandler)) != nil)
	}
}
