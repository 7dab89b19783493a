package kraken

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"barkeep/backfill/source"
	"barkeep/backfill/source/feed"
	"barkeep/internal/market"
)

// defaultStream is the public feed of Kraken's WebSocket API, version 2 (docs.kraken.com, Candles (OHLC)).
const defaultStream = "wss://ws.kraken.com/v2"

// Feed returns the ohlc channel, or nil where the source has another URL than Kraken's and no stream_url beside it.
//
// The channel tells the bar in progress at each trade, and has no flag that closes it. That the last state of a bar comes before the
// first of the next is not promised, and what comes later could not be taken back: final bars are read from the history.
func (s *Source) Feed(log *slog.Logger) source.Feed {
	if s.stream == "" {
		return nil
	}
	// A message has one timeframe for all its pairs, so each is subscribed to by itself. A connection with a subscription is told
	// a heartbeat about each second where there is nothing else [mem].
	protocol := feed.Protocol{Source: Name, URL: s.stream, Batch: 1, Spacing: 100 * time.Millisecond, Subscribe: subscribe, Read: readMessage}
	return &live{
		source: s, log: log, socket: feed.New(protocol, log), changed: make(chan struct{}, 1), names: map[string]string{}, wishes: map[*wish]struct{}{},
	}
}

const (
	// namesEvery is how often the names are asked for while a pair has none, namesAgain after an error.
	namesEvery, namesAgain = time.Hour, 30 * time.Second
)

// live follows by the names that Kraken's feed has: XXBTZUSD is BTC/USD there.
type live struct {
	source  *Source
	log     *slog.Logger
	socket  *feed.Socket
	changed chan struct{} // has an element when there may be a wish without a name

	mu     sync.Mutex
	names  map[string]string  // by VendorID; guarded by mu
	wishes map[*wish]struct{} // guarded by mu
}

// wish is what somebody wants to be told. leave is set once the pair's name is known; live.mu guards it.
type wish struct {
	of    source.Instance
	tell  func(source.Tick)
	leave func()
}

// Follow subscribes as soon as the pair's name is known.
func (l *live) Follow(of source.Instance, tell func(source.Tick)) (leave func()) {
	w := &wish{of: of, tell: tell}
	l.mu.Lock()
	l.wishes[w] = struct{}{}
	l.placeLocked()
	l.mu.Unlock()
	select {
	case l.changed <- struct{}{}:
	default: // it is awake already
	}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.wishes, w)
		if w.leave != nil {
			w.leave()
		}
	}
}

// placeLocked subscribes to what has a name and reports whether all have.
func (l *live) placeLocked() (all bool) {
	all = true
	for w := range l.wishes {
		if w.leave != nil {
			continue
		}
		name, known := l.names[w.of.VendorID]
		if !known {
			all = false
			continue
		}
		w.leave = l.socket.Follow(source.Instance{VendorID: name, Timeframe: w.of.Timeframe}, w.tell)
	}
	return all
}

// Run holds the connections, and asks for the pairs' names while one is wanted that is not known.
func (l *live) Run(ctx context.Context) error {
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() { _ = l.socket.Run(ctx) }) // it returns nil
	var notBefore time.Time
	for ctx.Err() == nil {
		var again <-chan time.Time
		if l.lacking() {
			wait := time.Until(notBefore)
			if wait <= 0 {
				notBefore = time.Now().Add(l.ask(ctx))
				continue
			}
			again = time.After(wait)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-l.changed:
		case <-again:
		}
	}
	return nil
}

func (l *live) lacking() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.placeLocked()
}

// ask reads the pairs' names and returns for how long not to ask again.
func (l *live) ask(ctx context.Context) time.Duration {
	list, err := l.source.Instruments(ctx)
	if err != nil {
		if ctx.Err() == nil {
			l.log.LogAttrs(ctx, slog.LevelWarn, "cannot read the names of a live feed, try again", slog.String("source", Name), slog.Any("error", err))
		}
		return namesAgain
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, i := range list {
		l.names[i.VendorID] = i.Base + "/" + i.Quote
	}
	return namesEvery
}

// subscribe returns {"method":"subscribe","params":{"channel":"ohlc","symbol":["BTC/USD"],"interval":1,"snapshot":true},"req_id":1}.
func subscribe(of []source.Instance, on bool, number int64) []byte {
	type params struct {
		Channel  string   `json:"channel"`
		Symbol   []string `json:"symbol"`
		Interval int64    `json:"interval"`
	}
	m := struct {
		Method string `json:"method"`
		Params params `json:"params"`
		ReqID  int64  `json:"req_id"`
	}{Method: "subscribe", Params: params{Channel: "ohlc", Interval: int64(of[0].Timeframe.Step() / time.Minute)}, ReqID: number}
	if !on {
		m.Method = "unsubscribe"
	}
	for _, i := range of {
		m.Params.Symbol = append(m.Params.Symbol, i.VendorID)
	}
	text, _ := json.Marshal(m) //nolint:errchkjson // strings and numbers
	return text
}

// candle is one row of the ohlc channel; volume is of the base.
type candle struct {
	Symbol string      `json:"symbol"`
	Open   json.Number `json:"open"`
	High   json.Number `json:"high"`
	Low    json.Number `json:"low"`
	Close  json.Number `json:"close"`
	Volume json.Number `json:"volume"`
	Begin  time.Time   `json:"interval_begin"`
	Step   int64       `json:"interval"`
}

// readMessage reads {"channel":"ohlc","type":"update","data":[{"symbol":"BTC/USD","open":…,"high":…,"low":…,"close":…,"vwap":…,
// "trades":…,"volume":…,"interval_begin":"2023-10-04T16:25:00.000000000Z","interval":5}]}. A snapshot comes first, in the same form;
// whether its rows ascend is not known.
func readMessage(message []byte) ([]feed.Event, error) {
	var m struct {
		Channel string          `json:"channel"`
		Error   string          `json:"error"`
		Success *bool           `json:"success"`
		Data    json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(message, &m); err != nil {
		return nil, fmt.Errorf("%w: %w", source.ErrAnswer, err)
	}
	if m.Error != "" || (m.Success != nil && !*m.Success) {
		return nil, fmt.Errorf("%w: %s", source.ErrRefused, source.VendorText(m.Error))
	}
	if m.Channel != "ohlc" {
		return nil, nil
	}
	var rows []candle
	if err := json.Unmarshal(m.Data, &rows); err != nil {
		return nil, fmt.Errorf("%w: %w", source.ErrAnswer, err)
	}
	events := make([]feed.Event, 0, len(rows))
	for i := range rows {
		e, err := rows[i].event()
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", source.ErrAnswer, source.VendorText(rows[i].Symbol), err)
		}
		events = append(events, e)
	}
	slices.SortStableFunc(events, func(a, b feed.Event) int { return cmp.Compare(a.Tick.Bar.TS, b.Tick.Bar.TS) })
	return events, nil
}

func (c *candle) event() (feed.Event, error) {
	tf, found := timeframeOf(c.Step)
	if c.Symbol == "" || !found || c.Begin.IsZero() {
		return feed.Event{}, fmt.Errorf("interval %d that begins at %s", c.Step, c.Begin)
	}
	bar := market.Bar{TS: market.FromTime(c.Begin)}
	for _, f := range []struct {
		name string
		text json.Number
		to   *float64
	}{{"open", c.Open, &bar.Open}, {"high", c.High, &bar.High}, {"low", c.Low, &bar.Low}, {"close", c.Close, &bar.Close}, {"volume", c.Volume, &bar.Volume}} {
		var err error
		if *f.to, err = f.text.Float64(); err != nil {
			return feed.Event{}, fmt.Errorf("at %s: read %s: %w", bar.TS, f.name, err)
		}
	}
	if !tf.OnGrid(bar.TS) {
		return feed.Event{}, fmt.Errorf("time %s is off the grid of %s", bar.TS, tf)
	}
	if err := bar.Check(); err != nil {
		return feed.Event{}, err
	}
	return feed.Event{Of: source.Instance{VendorID: c.Symbol, Timeframe: tf}, Tick: source.Tick{Bar: bar}}, nil
}

// timeframeOf returns the timeframe of so many minutes.
func timeframeOf(minutes int64) (market.Timeframe, bool) {
	for _, tf := range native() {
		if int64(tf.Step()/time.Minute) == minutes {
			return tf, true
		}
	}
	return 0, false
}
