package okx

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/source"
	"barkeep/backfill/source/sourcetest"
	"barkeep/internal/market"
)

// TestOK1_RecordedCandles: of the recorded messages those with rows are read, and confirm closes a bar some seconds after its end.
func TestOK1_RecordedCandles(t *testing.T) {
	t.Parallel()
	file, err := os.Open(filepath.Join(sourcetest.Recordings(t), "ws_klines", "okcoin.jsonl.gz"))
	require.NoError(t, err)
	defer file.Close()
	unzipped, err := gzip.NewReader(file)
	require.NoError(t, err)
	var bars, closed int
	for lines := bufio.NewScanner(unzipped); lines.Scan(); {
		var m struct {
			Recv float64
			Msg  json.RawMessage
		}
		require.NoError(t, json.Unmarshal(lines.Bytes(), &m))
		of, tick, ok, err := parseMessage(m.Msg)
		require.NoError(t, err, lines.Text())
		if !ok {
			continue
		}
		bars++
		require.Equal(t, market.M1, of.Timeframe)
		if tick.Closed {
			closed++
			require.InDelta(t, 3.4, m.Recv-float64(market.M1.Next(tick.Bar.TS))/1e6, 1)
		}
	}
	require.Equal(t, []int{12, 4}, []int{bars, closed})
}

func TestOK1_Message(t *testing.T) {
	t.Parallel()
	of, tick, ok, err := parseMessage([]byte(`{"arg":{"channel":"candle1Dutc","instId":"BTC-USDT"},"data":[["1685232000000","1","3","0.5","2","7","0","0","0"]]}`))
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, source.Instance{VendorID: "BTC-USDT", Timeframe: market.D1}, of)
	require.Equal(t, source.Tick{Bar: market.Bar{TS: 1685232000e6, Open: 1, High: 3, Low: .5, Close: 2, Volume: 7}}, tick)
	for _, text := range []string{
		`pong`, `{"event":"subscribe","arg":{"channel":"candle1m","instId":"X"}}`,
		`{"arg":{"channel":"candle1D","instId":"X"},"data":[["1685232000000","1","1","1","1","1","0","0","1"]]}`, // by Hong Kong's time
	} {
		_, _, ok, err := parseMessage([]byte(text))
		require.NoError(t, err, text)
		require.False(t, ok, text)
	}
	for _, text := range []string{
		``, `{"event":"error","code":"60012","msg":"Illegal request"}`,
		`{"arg":{"channel":"candle1m","instId":"X"},"data":[]}`,
		`{"arg":{"channel":"candle1m","instId":"X"},"data":[["1685221620001","1","1","1","1","1","0","0","0"]]}`,
		`{"arg":{"channel":"candle1m","instId":"X"},"data":[["1685221620000","1","1","2","1","1","0","0","1"]]}`,
		`{"arg":{"channel":"candle1m","instId":"X"},"data":[["1685221620000","1"]]}`,
	} {
		_, _, ok, err := parseMessage([]byte(text))
		require.Error(t, err, text)
		require.False(t, ok)
	}
	require.JSONEq(t, `{"op":"subscribe","args":[{"channel":"candle1Dutc","instId":"BTC-USDT"}]}`, string(subscribe([]source.Instance{of}, true, 1)))
	require.JSONEq(t, `{"op":"unsubscribe","args":[{"channel":"candle1Dutc","instId":"BTC-USDT"}]}`, string(subscribe([]source.Instance{of}, false, 1)))
}
