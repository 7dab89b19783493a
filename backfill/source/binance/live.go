package binance

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"

	"barkeep/backfill/source"
	"barkeep/backfill/source/feed"
	"barkeep/internal/market"
)

// defaultStream is Binance's combined stream [mem]: messages come as {"stream": …, "data": …}, as in the recordings.
const defaultStream = "wss://stream.binance.com:9443/stream"

// maxStreams is what one connection may subscribe to [mem: 1024]; beyond this many there is another connection.
const maxStreams = 200

// Feed returns the kline streams, or nil where the source has another URL than Binance's and no stream_url beside it: who speaks
// Binance's REST need not speak the other.
func (s *Source) Feed(log *slog.Logger) source.Feed {
	if s.stream == "" {
		return nil
	}
	return feed.New(feed.Protocol{Source: Name, URL: s.stream, MaxInstances: maxStreams, Subscribe: subscribe, Parse: parseKline}, log)
}

// subscribe returns {"method":"SUBSCRIBE","params":["btcusdt@kline_1m"],"id":1} [mem]. At most five messages a second may be
// sent [mem], which is more than feed.Protocol's spacing lets through.
func subscribe(of []source.Instance, on bool, number int64) []byte {
	m := struct {
		Method string   `json:"method"`
		Params []string `json:"params"`
		ID     int64    `json:"id"`
	}{Method: "SUBSCRIBE", ID: number}
	if !on {
		m.Method = "UNSUBSCRIBE"
	}
	for _, i := range of {
		m.Params = append(m.Params, strings.ToLower(i.VendorID)+"@kline_"+i.Timeframe.String())
	}
	text, _ := json.Marshal(m) //nolint:errchkjson // strings and a number
	return text
}

// kline is a message of a kline stream (BN8, recorded), and what answers our own messages. Its names differ by case alone, so
// each has its counterpart declared: encoding/json would take one for the other.
type kline struct {
	Data struct {
		Event     string `json:"e"`
		EventTime int64  `json:"E"`
		K         *struct {
			Open      *int64      `json:"t"`
			End       int64       `json:"T"`
			Symbol    string      `json:"s"`
			Interval  string      `json:"i"`
			O         json.Number `json:"o"`
			H         json.Number `json:"h"`
			L         json.Number `json:"l"`
			LastTrade int64       `json:"L"`
			C         json.Number `json:"c"`
			V         json.Number `json:"v"`
			TakerBase json.Number `json:"V"`
			Closed    *bool       `json:"x"`
		} `json:"k"`
	} `json:"data"`
	Error *struct {
		Code int    `json:"code"`
		Msg  string `json:"msg"`
	} `json:"error"`
}

// parseKline reads {"stream":…,"data":{"e":"kline","k":{"t":open time in ms,"s","i","o","h","l","c","v","x":closed}}}. BN8: a bar
// is closed when x says so, some milliseconds to seconds after its end, and a minute without trades is told too.
func parseKline(message []byte) (source.Instance, source.Tick, bool, error) {
	fail := func(err error) (source.Instance, source.Tick, bool, error) {
		return source.Instance{}, source.Tick{}, false, err
	}
	var m kline
	if err := json.Unmarshal(message, &m); err != nil {
		return fail(fmt.Errorf("%w: %w", source.ErrAnswer, err))
	}
	if m.Error != nil {
		return fail(fmt.Errorf("%w: %d: %s", source.ErrRefused, m.Error.Code, source.VendorText(m.Error.Msg)))
	}
	if m.Data.Event != "kline" {
		return fail(nil)
	}
	k := m.Data.K
	if k == nil || k.Open == nil || k.Closed == nil || k.Symbol == "" {
		return fail(fmt.Errorf("%w: a kline lacks t, s or x", source.ErrAnswer))
	}
	tf, err := market.ParseTimeframe(k.Interval)
	if err != nil {
		return fail(fmt.Errorf("%w: %s: %w", source.ErrAnswer, k.Symbol, err))
	}
	bar := market.Bar{TS: market.Instant(*k.Open) * millisecond}
	for _, f := range []struct {
		name string
		text json.Number
		to   *float64
	}{{"open", k.O, &bar.Open}, {"high", k.H, &bar.High}, {"low", k.L, &bar.Low}, {"close", k.C, &bar.Close}, {"volume", k.V, &bar.Volume}} {
		if *f.to, err = f.text.Float64(); err != nil {
			return fail(fmt.Errorf("%w: %s at %s: read %s: %w", source.ErrAnswer, k.Symbol, bar.TS, f.name, err))
		}
	}
	if !tf.OnGrid(bar.TS) {
		return fail(fmt.Errorf("%w: %s at %s: time is off the grid of %s", source.ErrAnswer, k.Symbol, bar.TS, tf))
	}
	if *k.Closed {
		err = bar.Check()
	}
	if err != nil {
		return fail(fmt.Errorf("%w: %s: %w", source.ErrAnswer, k.Symbol, err))
	}
	return source.Instance{VendorID: k.Symbol, Timeframe: tf}, source.Tick{Bar: bar, Closed: *k.Closed}, true, nil
}
