package okx

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"

	"barkeep/backfill/source"
	"barkeep/backfill/source/feed"
	"barkeep/internal/market"
)

// defaultStream is where OKX has its candle channels: they were moved from the public to the business path [src: ccxt and others].
const defaultStream = "wss://ws.okx.com:8443/ws/v5/business"

// channelPrefix is what a candle channel's name begins with; a timeframe's name (see bar) follows.
const channelPrefix = "candle"

// Feed returns the candle channels, or nil where the source has another URL than OKX's and no stream_url beside it.
func (s *Source) Feed(log *slog.Logger) source.Feed {
	if s.stream == "" {
		return nil
	}
	// A connection that is silent for 30 s is closed by OKX, unless it is sent "ping", which it answers with "pong" [mem].
	return feed.New(feed.Protocol{Source: Name, URL: s.stream, Keepalive: []byte("ping"), Subscribe: subscribe, Parse: parseMessage}, log)
}

type argument struct {
	Channel string `json:"channel"`
	InstID  string `json:"instId"`
}

// subscribe returns {"op":"subscribe","args":[{"channel":"candle1m","instId":"BTC-USDT"}]}.
func subscribe(of []source.Instance, on bool, _ int64) []byte {
	m := struct {
		Op   string     `json:"op"`
		Args []argument `json:"args"`
	}{Op: "subscribe"}
	if !on {
		m.Op = "unsubscribe"
	}
	for _, i := range of {
		m.Args = append(m.Args, argument{channelPrefix + bar(i.Timeframe), i.VendorID})
	}
	text, _ := json.Marshal(m) //nolint:errchkjson // strings
	return text
}

// parseMessage reads {"arg":{"channel":"candle1m","instId":…},"data":[[ts, o, h, l, c, vol, …, confirm]]} (OK1): the bar is closed
// where confirm is "1", seconds after its end in the recordings.
func parseMessage(message []byte) (source.Instance, source.Tick, bool, error) {
	fail := func(err error) (source.Instance, source.Tick, bool, error) {
		return source.Instance{}, source.Tick{}, false, err
	}
	if string(message) == "pong" {
		return fail(nil)
	}
	var m struct {
		Event, Code, Msg string
		Arg              argument
		Data             json.RawMessage
	}
	if err := json.Unmarshal(message, &m); err != nil {
		return fail(fmt.Errorf("%w: %w", source.ErrAnswer, err))
	}
	if m.Event == "error" {
		return fail(fmt.Errorf("%w: %s: %s", source.ErrRefused, m.Code, source.VendorText(m.Msg)))
	}
	tf, found := timeframeOf(m.Arg.Channel)
	if m.Event != "" || !found || m.Data == nil {
		return fail(nil)
	}
	bars, unfinished, err := parse(message)
	if err == nil && len(bars) != 1 {
		err = fmt.Errorf("%d rows", len(bars))
	}
	if err != nil {
		return fail(fmt.Errorf("%w: %s: %w", source.ErrAnswer, m.Arg.InstID, err))
	}
	tick := source.Tick{Bar: bars[0], Closed: unfinished == 0}
	if !tf.OnGrid(tick.Bar.TS) {
		err = fmt.Errorf("time %s is off the grid of %s", tick.Bar.TS, tf)
	} else if tick.Closed {
		err = tick.Bar.Check()
	}
	if err != nil {
		return fail(fmt.Errorf("%w: %s: %w", source.ErrAnswer, m.Arg.InstID, err))
	}
	return source.Instance{VendorID: m.Arg.InstID, Timeframe: tf}, tick, true, nil
}

func timeframeOf(channel string) (market.Timeframe, bool) {
	name, ok := strings.CutPrefix(channel, channelPrefix)
	for _, tf := range market.Timeframes() {
		if ok && bar(tf) == name {
			return tf, true
		}
	}
	return 0, false
}
