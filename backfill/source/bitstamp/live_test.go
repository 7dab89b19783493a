package bitstamp

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/source"
	"barkeep/backfill/source/feed"
)

const trade = `{"event":"trade","channel":"live_trades_btcusd","data":{"id":10,"amount":5.25,"amount_str":"5.25","price":400.5,"price_str":"400.5",` +
	`"type":1,"timestamp":"1730967567","microtimestamp":"1730967567028459","buy_order_id":1,"sell_order_id":2}}`

func TestTrade(t *testing.T) {
	t.Parallel()
	of := source.Instance{VendorID: "btcusd"}
	events, err := readMessage([]byte(trade))
	require.NoError(t, err)
	require.Equal(t, []feed.Event{{Of: of, Trade: &feed.Trade{ID: 10, At: 1730967567028459, Price: 400.5, Size: 5.25}}}, events)
	events, err = readMessage([]byte(`{"event":"bts:subscription_succeeded","channel":"live_trades_btcusd","data":{}}`))
	require.NoError(t, err)
	require.Equal(t, []feed.Event{{Of: of, Begins: true}}, events)
	_, err = readMessage([]byte(`{"event":"bts:request_reconnect","channel":"","data":""}`))
	require.ErrorIs(t, err, feed.ErrReconnect)
	for _, text := range []string{`{"event":"bts:heartbeat","channel":"","data":{"status":"success"}}`, `{"event":"trade","channel":"x","data":{}}`} {
		events, err := readMessage([]byte(text))
		require.NoError(t, err, text)
		require.Empty(t, events, text)
	}
	for name, text := range map[string]string{
		"empty":    ``,
		"refused":  `{"event":"bts:error","channel":"","data":{"code":null,"message":"Incorrect JSON format."}}`,
		"no data":  `{"event":"trade","channel":"live_trades_btcusd"}`,
		"no id":    strings.Replace(trade, `"id":10,`, ``, 1),
		"no time":  strings.Replace(trade, `"microtimestamp"`, `"time"`, 1),
		"no price": strings.Replace(trade, `"price_str"`, `"p"`, 1),
		"no size":  strings.Replace(trade, `"amount_str"`, `"a"`, 1),
		"negative": strings.Replace(trade, `"5.25"`, `"-5.25"`, 1),
	} {
		events, err := readMessage([]byte(text))
		require.Error(t, err, name)
		require.Empty(t, events, name)
	}
	require.JSONEq(t, `{"event":"bts:subscribe","data":{"channel":"live_trades_btcusd"}}`, string(subscribe([]source.Instance{of}, true, 1)))
	require.JSONEq(t, `{"event":"bts:unsubscribe","data":{"channel":"live_trades_btcusd"}}`, string(subscribe([]source.Instance{of}, false, 1)))
}

// TestFeedIsOfTheSameVendor: a REST server that only speaks Bitstamp's language is polled, unless a stream is named beside it.
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
