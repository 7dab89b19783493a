package coinbase

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/source"
	"barkeep/backfill/source/feed"
	"barkeep/internal/market"
)

// match is a message as docs.cdp.coinbase.com describes it, with made-up numbers.
const match = `{"type":"match","trade_id":10,"sequence":50,"maker_order_id":"a","taker_order_id":"b","time":"2024-11-07T08:19:27.028459Z",` +
	`"product_id":"BTC-USD","size":"5.25","price":"400.5","side":"sell"}`

func TestMatch(t *testing.T) {
	t.Parallel()
	of := source.Instance{VendorID: "BTC-USD"}
	at := market.FromTime(time.Date(2024, 11, 7, 8, 19, 27, 28459000, time.UTC))
	want := &feed.Trade{ID: 10, At: at, Price: 400.5, Size: 5.25}
	events, err := readMessage([]byte(match))
	require.NoError(t, err)
	require.Equal(t, []feed.Event{{Of: of, Trade: want}}, events)
	events, err = readMessage([]byte(strings.Replace(match, `"match"`, `"last_match"`, 1)))
	require.NoError(t, err)
	require.Equal(t, []feed.Event{{Of: of, Begins: true}, {Of: of, Trade: want}}, events)
	for _, text := range []string{
		`{"type":"subscriptions","channels":[{"name":"matches","product_ids":["BTC-USD"]}]}`, `{"type":"new one"}`, `{}`,
		`{"type":"heartbeat","sequence":90,"last_trade_id":0,"product_id":"BTC-USD","time":"2024-11-07T08:19:28.464459Z"}`,
	} {
		events, err := readMessage([]byte(text))
		require.NoError(t, err, text)
		require.Empty(t, events, text)
	}
	for name, text := range map[string]string{
		"empty":       ``,
		"an array":    `[]`,
		"refused":     `{"type":"error","message":"Failed to subscribe","reason":"X-Y is not a valid product"}`,
		"no product":  strings.Replace(match, `"product_id":"BTC-USD",`, ``, 1),
		"no time":     strings.Replace(match, `"time"`, `"tame"`, 1),
		"no instant":  strings.Replace(match, `2024-11-07T08:19:27.028459Z`, `now`, 1),
		"no id":       strings.Replace(match, `"trade_id":10,`, ``, 1),
		"no price":    strings.Replace(match, `"price":"400.5",`, ``, 1),
		"no size":     strings.Replace(match, `"size":"5.25",`, ``, 1),
		"negative":    strings.Replace(match, `"5.25"`, `"-5.25"`, 1),
		"price 0":     strings.Replace(match, `"400.5"`, `"0"`, 1),
		"not a price": strings.Replace(match, `"400.5"`, `"NaN"`, 1),
		"infinite":    strings.Replace(match, `"400.5"`, `"Inf"`, 1),
	} {
		events, err := readMessage([]byte(text))
		require.Error(t, err, name)
		require.Empty(t, events, name)
	}
}

func FuzzMatch(f *testing.F) {
	f.Add([]byte(match))
	f.Fuzz(func(t *testing.T, text []byte) {
		events, err := readMessage(text)
		for _, e := range events {
			if err != nil || e.Of.VendorID == "" || (!e.Begins && (e.Trade == nil || e.Trade.ID <= 0 || !(e.Trade.Price > 0) || !(e.Trade.Size > 0))) {
				t.Fatalf("%v %v", e, err)
			}
		}
	})
}

func TestSubscribe(t *testing.T) {
	t.Parallel()
	of := []source.Instance{{VendorID: "BTC-USD"}, {VendorID: "ETH-USD"}}
	require.JSONEq(t, `{"type":"subscribe","product_ids":["BTC-USD","ETH-USD"],"channels":["matches","heartbeat"]}`, string(subscribe(of, true, 3)))
	require.JSONEq(t, `{"type":"unsubscribe","product_ids":["BTC-USD"],"channels":["matches","heartbeat"]}`, string(subscribe(of[:1], false, 4)))
}

// TestFeedIsOfTheSameVendor: a REST server that only speaks Coinbase's language is polled, unless a stream is named beside it.
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
