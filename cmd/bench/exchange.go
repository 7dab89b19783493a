package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"barkeep/internal/market"
)

// A year of minutes is what is fetched.
const (
	barCount  = 525_600
	pageLimit = 1000 // klines: "limit … max 1000"
)

var firstBar = time.Date(2023, 1, 1, 0, 0, 0, 0, time.UTC)

// page returns where the n-th whole page begins. Sources are asked by pages that begin at multiples of their length since 1970,
// so that those who need a bar of one share it (PIPELINE 16): what is asked for from here on is one page, and not parts of two.
func page(n int) time.Time {
	const length = pageLimit * 60 // seconds
	first := (firstBar.Unix() + length - 1) / length
	return time.Unix((first+int64(n))*length, 0).UTC()
}

// symbols are instruments the stand-in lists; each round of the cold backfill takes one that is new.
var symbols = []string{"AAAUSDT", "BBBUSDT", "CCCUSDT", "DDDUSDT", "EEEUSDT", "FFFUSDT", "GGGUSDT", "HHHUSDT", gapSymbol, gapsSymbol}

// gapSymbol is kept for gaps of one page, gapsSymbol for those of ten.
const gapSymbol, gapsSymbol = "GAPUSDT", "GAQUSDT"

// The others are numbered: of those with manyPrefix each round backfills some that are new, those with heldPrefix are answered
// when the gate is open, and those with livePrefix form now.
const manyPrefix, heldPrefix, livePrefix = "MANY", "HELD", "LIVE"

var numbered = map[string]int{manyPrefix: manyRounds * (manySymbols + manySymbols/10 + 1), heldPrefix: 2, livePrefix: liveSeries}

func numberedSymbol(prefix string, n int) string { return fmt.Sprintf("%s%03dUSDT", prefix, n) }

// exchange stands in for Binance. Its rows are rendered once, before anything is measured: an answer is a slice of one
// text, without delay.
type exchange struct {
	url      string
	server   *http.Server
	text     []byte
	offsets  []int
	requests atomic.Int64
	spent    atomic.Int64 // nanoseconds inside the handler

	gate  gate
	feeds feeds
}

// gate holds back answers while it is shut.
type gate struct {
	mu   sync.Mutex
	open chan struct{} // guarded by mu; nil where the gate is open
}

// shut holds back what is asked from now on, until open is called.
func (g *gate) shut() (open func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	wait := make(chan struct{})
	g.open = wait
	return sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		close(wait)
		g.open = nil
	})
}

func (g *gate) pass(ctx context.Context) {
	g.mu.Lock()
	wait := g.open
	g.mu.Unlock()
	if wait == nil {
		return
	}
	select {
	case <-wait:
	case <-ctx.Done():
	}
}

// bar returns the i-th bar. Prices and volumes are dyadic fractions.
func bar(i int) market.Bar {
	base := 30_000 + math.Floor(2_000*math.Sin(float64(i)/5_000)) + float64(i%97)/4
	return market.Bar{
		TS:   market.FromTime(firstBar.Add(time.Duration(i) * time.Minute)),
		Open: base, High: base + 2.25, Low: base - 1.5, Close: base + 0.75, Volume: float64(i%1013)/8 + 0.125,
	}
}

func startExchange(ctx context.Context) (*exchange, error) {
	e := &exchange{offsets: make([]int, 0, barCount+1)}
	for i := range barCount {
		b := bar(i)
		opened := b.TS.Time()
		e.offsets = append(e.offsets, len(e.text))
		e.text = fmt.Appendf(e.text, `[%d,"%.8f","%.8f","%.8f","%.8f","%.8f",%d,"0.00000000",10,"0.00000000","0.00000000","0"],`,
			opened.UnixMilli(), b.Open, b.High, b.Low, b.Close, b.Volume, opened.Add(time.Minute).UnixMilli()-1)
	}
	e.offsets = append(e.offsets, len(e.text))
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the stand-in exchange: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/api/v3/klines", e.klines)
	mux.HandleFunc("/api/v3/exchangeInfo", exchangeInfo)
	mux.HandleFunc("/stream", e.feeds.serve)
	mux.HandleFunc("/api/v3/time", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `{"serverTime":%d}`, time.Now().UnixMilli())
	})
	e.server = &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	e.url = "http://" + listener.Addr().String()
	go func() {
		if err := e.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			panic(err) //nolint:forbidigo // the run is void without the exchange.
		}
	}()
	return e, nil
}

func (e *exchange) stop() { _ = e.server.Close() }

// klines answers as Binance does: both ends inclusive on the open time, ascending.
func (e *exchange) klines(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	defer func() { e.spent.Add(int64(time.Since(began))) }()
	e.requests.Add(1)
	query := r.URL.Query()
	if query.Get("interval") != "1m" {
		http.Error(w, `{"code":-1120,"msg":"Invalid interval."}`, http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Date", began.UTC().Format(http.TimeFormat))
	switch symbol := query.Get("symbol"); {
	case strings.HasPrefix(symbol, heldPrefix):
		e.gate.pass(r.Context())
	case strings.HasPrefix(symbol, livePrefix):
		formingKlines(w, query, began)
		return
	}
	limit := number(query.Get("limit"), 500)
	first := number(query.Get("startTime"), 0) - firstBar.UnixMilli()
	last := number(query.Get("endTime"), math.MaxInt64/2) - firstBar.UnixMilli()
	const step = int64(time.Minute / time.Millisecond)
	from := max(0, (first+step-1)/step)
	to := min(barCount, last/step+1, from+min(limit, pageLimit))
	if last < 0 || from >= to {
		_, _ = w.Write([]byte("[]"))
		return
	}
	rows := e.text[e.offsets[from] : e.offsets[to]-1]
	w.Header().Set("Content-Length", strconv.Itoa(len(rows)+2))
	_, _ = w.Write([]byte("["))
	_, _ = w.Write(rows)
	_, _ = w.Write([]byte("]"))
}

func exchangeInfo(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	all := slices.Clone(symbols)
	for prefix, count := range numbered {
		for n := range count {
			all = append(all, numberedSymbol(prefix, n))
		}
	}
	rows := make([]string, 0, len(all))
	for _, s := range all {
		rows = append(rows, fmt.Sprintf(`{"symbol":%q,"status":"TRADING","baseAsset":%q,"quoteAsset":"USDT","isSpotTradingAllowed":true,"permissions":["SPOT"],"permissionSets":[["SPOT"]]}`,
			s, strings.TrimSuffix(s, "USDT")))
	}
	_, _ = fmt.Fprintf(w, `{"timezone":"UTC","serverTime":%d,"rateLimits":[],"exchangeFilters":[],"symbols":[%s]}`,
		time.Now().UnixMilli(), strings.Join(rows, ","))
}

func number(text string, otherwise int64) int64 {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n
	}
	return otherwise
}
