package coinbase

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"barkeep/backfill/source"
	"barkeep/backfill/source/feed"
	"barkeep/internal/market"
)

// defaultStream is the public market data feed of Coinbase Exchange (docs.cdp.coinbase.com, WebSocket feed).
const defaultStream = "wss://ws-feed.exchange.coinbase.com"

// Feed returns the bars in progress, formed from the channel matches, or nil where the source has another URL than Coinbase's and no
// stream_url beside it. Final bars are read from the history: see feed.Trades.
//
// trade_id rises by one for each product [mem]: where it does not, the bar in progress is not told. Should ids have holes, most bars
// would not be told by the feed; the history stands in for it.
func (s *Source) Feed(log *slog.Logger) source.Feed {
	if s.stream == "" {
		return nil
	}
	return feed.NewTrades(feed.Protocol{Source: Name, URL: s.stream, Subscribe: subscribe, Read: readMessage}, true, log)
}

// subscribe returns {"type":"subscribe","product_ids":["BTC-USD"],"channels":["matches","heartbeat"]}. A heartbeat comes each second,
// so a feed that is silent is broken. Its last_trade_id is not used: it has been seen to be 0 always.
func subscribe(of []source.Instance, on bool, _ int64) []byte {
	m := struct {
		Type     string   `json:"type"`
		Products []string `json:"product_ids"`
		Channels []string `json:"channels"`
	}{Type: "subscribe", Channels: []string{"matches", "heartbeat"}}
	if !on {
		m.Type = "unsubscribe"
	}
	for _, i := range of {
		m.Products = append(m.Products, i.VendorID)
	}
	text, _ := json.Marshal(m) //nolint:errchkjson // strings
	return text
}

// readMessage reads {"type":"match","trade_id":10,"product_id":"BTC-USD","time":"2014-11-07T08:19:27.028459Z","size":"5.23512",
// "price":"400.23",…}; size is of the base. last_match has the same form: it is the trade before the first that comes, and tells of a
// subscription that begins.
func readMessage(message []byte) ([]feed.Event, error) {
	var m struct {
		Type    string    `json:"type"`
		Message string    `json:"message"`
		Reason  string    `json:"reason"`
		TradeID int64     `json:"trade_id"`
		Product string    `json:"product_id"`
		Time    time.Time `json:"time"`
		Size    string    `json:"size"`
		Price   string    `json:"price"`
	}
	if err := json.Unmarshal(message, &m); err != nil {
		return nil, fmt.Errorf("%w: %w", source.ErrAnswer, err)
	}
	switch m.Type {
	case "error":
		return nil, fmt.Errorf("%w: %s: %s", source.ErrRefused, source.VendorText(m.Message), source.VendorText(m.Reason))
	case "match", "last_match":
	default:
		return nil, nil
	}
	if m.Product == "" || m.Time.IsZero() {
		return nil, fmt.Errorf("%w: a match lacks its product or time", source.ErrAnswer)
	}
	trade, err := feed.ReadTrade(m.TradeID, market.FromTime(m.Time), m.Price, m.Size)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", source.ErrAnswer, source.VendorText(m.Product), err)
	}
	of := source.Instance{VendorID: m.Product}
	events := []feed.Event{{Of: of, Trade: &trade}}
	if m.Type == "last_match" {
		events = []feed.Event{{Of: of, Begins: true}, {Of: of, Trade: &trade}}
	}
	return events, nil
}
