package kraken

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"barkeep/backfill/source"
	"barkeep/backfill/source/feed"
	"barkeep/internal/market"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Messages as docs.kraken.com describes the channel; the numbers are made up.
const (
	update = `{"channel":"ohlc","type":"update","timestamp":"2023-10-04T16:26:30.524394914Z","data":[{"symbol":"BTC/USD","open":27700.5,` +
		`"high":27712,"low":27699.9,"close":27710.1,"trades":17,"volume":1.25,"vwap":27705.2,"interval_begin":"2023-10-04T16:25:00.000000000Z",` +
		`"interval":5,"timestamp":"2023-10-04T16:30:00.000000Z"}]}`
	snapshot = `{"channel":"ohlc","type":"snapshot","data":[` +
		`{"symbol":"BTC/USD","open":2,"high":2,"low":2,"close":2,"volume":0,"interval_begin":"2023-10-04T16:26:00Z","interval":1},` +
		`{"symbol":"BTC/USD","open":1,"high":1,"low":1,"close":1,"volume":1e-8,"interval_begin":"2023-10-04T16:25:00Z","interval":1}]}`
)

func TestOHLCMessage(t *testing.T) {
	t.Parallel()
	at := market.FromTime(time.Date(2023, 10, 4, 16, 25, 0, 0, time.UTC))
	events, err := readMessage([]byte(update))
	require.NoError(t, err)
	require.Equal(t, []feed.Event{{
		Of:   source.Instance{VendorID: "BTC/USD", Timeframe: market.M5},
		Tick: source.Tick{Bar: market.Bar{TS: at, Open: 27700.5, High: 27712, Low: 27699.9, Close: 27710.1, Volume: 1.25}},
	}}, events)
	events, err = readMessage([]byte(snapshot))
	require.NoError(t, err)
	require.Len(t, events, 2)
	require.Equal(t, []market.Instant{at, market.M1.Next(at)}, []market.Instant{events[0].Tick.Bar.TS, events[1].Tick.Bar.TS}, "the newest is told last")
	require.InDelta(t, 1e-8, events[0].Tick.Bar.Volume, 1e-20)
	for _, text := range []string{
		`{"channel":"heartbeat"}`, `{"channel":"status","type":"update","data":[{"system":"online","api_version":"v2"}]}`, `{"channel":"ohlc","data":[]}`,
		`{"method":"subscribe","result":{"channel":"ohlc","symbol":"BTC/USD","interval":1,"snapshot":true},"success":true,"time_in":"2023-10-04T16:25:00Z"}`,
	} {
		events, err := readMessage([]byte(text))
		require.NoError(t, err, text)
		require.Empty(t, events, text)
	}
	for name, text := range map[string]string{
		"empty":       ``,
		"an array":    `[]`,
		"no data":     `{"channel":"ohlc"}`,
		"refused":     `{"method":"subscribe","error":"Currency pair not supported X/Y","success":false,"symbol":"X/Y"}`,
		"no success":  `{"method":"subscribe","success":false}`,
		"no symbol":   strings.Replace(update, `"BTC/USD"`, `""`, 1),
		"a week":      strings.Replace(update, `"interval":5`, `"interval":10080`, 1),
		"no interval": strings.Replace(update, `"interval":5,`, ``, 1),
		"no volume":   strings.Replace(update, `"volume":1.25,`, ``, 1),
		"no close":    strings.Replace(update, `"close":27710.1,`, ``, 1),
		"a word":      strings.Replace(update, `1.25`, `"much"`, 1),
		"infinite":    strings.Replace(update, `1.25`, `1e999`, 1),
		"off grid":    strings.Replace(update, `16:25:00.0`, `16:26:00.0`, 1),
		"no time":     strings.Replace(update, `"interval_begin"`, `"begin"`, 1),
		"no instant":  strings.Replace(update, `2023-10-04T16:25:00.000000000Z`, `yesterday`, 1),
		"unsound":     strings.Replace(update, `"high":27712`, `"high":1`, 1),
	} {
		events, err := readMessage([]byte(text))
		require.Error(t, err, name)
		require.Empty(t, events, name)
	}
}

func FuzzOHLCMessage(f *testing.F) {
	f.Add([]byte(update))
	f.Add([]byte(snapshot))
	f.Fuzz(func(t *testing.T, text []byte) {
		events, err := readMessage(text)
		for _, e := range events {
			if err != nil || e.Of.VendorID == "" || !e.Of.Timeframe.OnGrid(e.Tick.Bar.TS) || e.Tick.Closed || e.Tick.Bar.Check() != nil {
				t.Fatalf("%v %v", e, err)
			}
		}
	})
}

func TestSubscribe(t *testing.T) {
	t.Parallel()
	of := []source.Instance{{VendorID: "BTC/USD", Timeframe: market.H4}}
	require.JSONEq(t, `{"method":"subscribe","params":{"channel":"ohlc","symbol":["BTC/USD"],"interval":240},"req_id":3}`, string(subscribe(of, true, 3)))
	require.JSONEq(t, `{"method":"unsubscribe","params":{"channel":"ohlc","symbol":["BTC/USD"],"interval":240},"req_id":4}`, string(subscribe(of, false, 4)))
}

// TestFeedIsOfTheSameVendor: a REST server that only speaks Kraken's language is polled, unless a stream is named beside it.
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

// TestFeedKnowsPairsByTheirFeedName: XXBTZUSD is subscribed to as BTC/USD, once the list of pairs is there, and left again; a pair
// that is not listed is not subscribed to.
func TestFeedKnowsPairsByTheirFeedName(t *testing.T) {
	t.Parallel()
	var lists atomic.Int64
	rest := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		lists.Add(1)
		_, _ = w.Write([]byte(`{"error":[],"result":{"XXBTZUSD":{"altname":"XBTUSD","wsname":"XBT/USD"},"XXDGZUSD":{"wsname":"XDG/USD"}}}`))
	}))
	t.Cleanup(rest.Close)
	orders := make(chan string, 10)
	stream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer conn.CloseNow()
		for {
			_, text, err := conn.Read(r.Context())
			if err != nil {
				return
			}
			var o struct {
				Method string
				Params struct{ Symbol []string }
			}
			if json.Unmarshal(text, &o) != nil {
				return
			}
			orders <- o.Method + " " + strings.Join(o.Params.Symbol, ",")
			_ = conn.Write(r.Context(), websocket.MessageText, []byte(update))
		}
	}))
	t.Cleanup(stream.Close)
	s, err := New(source.Config{URL: rest.URL, StreamURL: "ws" + strings.TrimPrefix(stream.URL, "http")})
	require.NoError(t, err)
	f := s.Feed(slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	other := f.Follow(source.Instance{VendorID: "XNEWZUSD", Timeframe: market.M5}, func(source.Tick) { t.Error("told of a pair without a name") })
	told := make(chan source.Tick, 10)
	leave := f.Follow(source.Instance{VendorID: "XXBTZUSD", Timeframe: market.M5}, func(tick source.Tick) { told <- tick })
	require.Equal(t, "subscribe BTC/USD", <-orders)
	tick := <-told
	require.False(t, tick.Closed)
	require.InDelta(t, 27710.1, tick.Bar.Close, 1e-9)
	doge := f.Follow(source.Instance{VendorID: "XXDGZUSD", Timeframe: market.M1}, func(source.Tick) {})
	require.Equal(t, "subscribe DOGE/USD", <-orders)
	other()
	leave()
	leave()
	require.Equal(t, "unsubscribe BTC/USD", <-orders)
	doge()
	require.EqualValues(t, 1, lists.Load(), "the list is not asked for again and again")
}
