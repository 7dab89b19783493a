package bitstamp

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"barkeep/backfill/source"
	"barkeep/backfill/source/feed"
	"barkeep/internal/market"
)

// defaultStream is Bitstamp's WebSocket API, version 2 (www.bitstamp.net/websocket/v2).
const defaultStream = "wss://ws.bitstamp.net"

// channelPrefix is what the name of a channel of trades begins with; the pair follows.
const channelPrefix = "live_trades_"

// Feed returns the bars in progress, formed from the channels of trades, or nil where the source has another URL than Bitstamp's and
// no stream_url beside it. Final bars are read from the history: see feed.Trades. Ids have holes [mem], so a trade that the vendor
// leaves out cannot be seen.
func (s *Source) Feed(log *slog.Logger) source.Feed {
	if s.stream == "" {
		return nil
	}
	// A heartbeat is answered [src], so a feed that is silent is broken.
	return feed.NewTrades(feed.Protocol{
		Source: Name, URL: s.stream, Batch: 1, Keepalive: []byte(`{"event":"bts:heartbeat"}`), Subscribe: subscribe, Read: readMessage,
	}, false, log)
}

// subscribe returns {"event":"bts:subscribe","data":{"channel":"live_trades_btcusd"}}, of one pair.
func subscribe(of []source.Instance, on bool, _ int64) []byte {
	event := "bts:subscribe"
	if !on {
		event = "bts:unsubscribe"
	}
	text, _ := json.Marshal(map[string]any{"event": event, "data": map[string]string{"channel": channelPrefix + of[0].VendorID}}) //nolint:errchkjson // strings
	return text
}

// readMessage reads {"event":"trade","channel":"live_trades_btcusd","data":{"id":1,"amount_str":"0.1","price_str":"400.5",
// "microtimestamp":"1730967567028459",…}}; the amount is of the base. A subscription that succeeded continues none of before.
func readMessage(message []byte) ([]feed.Event, error) {
	var m struct {
		Event   string          `json:"event"`
		Channel string          `json:"channel"`
		Data    json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(message, &m); err != nil {
		return nil, fmt.Errorf("%w: %w", source.ErrAnswer, err)
	}
	pair, trades := strings.CutPrefix(m.Channel, channelPrefix)
	of := source.Instance{VendorID: pair}
	switch {
	case m.Event == "bts:error":
		return nil, fmt.Errorf("%w: %s", source.ErrRefused, source.VendorText(string(m.Data)))
	case m.Event == "bts:request_reconnect":
		return nil, feed.ErrReconnect
	case m.Event == "bts:subscription_succeeded" && trades:
		return []feed.Event{{Of: of, Begins: true}}, nil
	case m.Event != "trade" || !trades:
		return nil, nil
	}
	var t struct {
		ID     int64  `json:"id"`
		Amount string `json:"amount_str"`
		Price  string `json:"price_str"`
		Micros string `json:"microtimestamp"`
	}
	if err := json.Unmarshal(m.Data, &t); err != nil {
		return nil, fmt.Errorf("%w: %w", source.ErrAnswer, err)
	}
	at, err := strconv.ParseInt(t.Micros, 10, 64)
	var trade feed.Trade
	if err == nil {
		trade, err = feed.ReadTrade(t.ID, market.Instant(at), t.Price, t.Amount)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", source.ErrAnswer, source.VendorText(pair), err)
	}
	return []feed.Event{{Of: of, Trade: &trade}}, nil
}
