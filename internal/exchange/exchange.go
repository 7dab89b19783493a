// Package exchange is a stand-in exchange: it speaks the formats of the vendors over HTTP, with what is known of their
// habits, and its market is the computed one of package sim, so that what is right is known. It is for tests, benchmarks and
// the offline demonstration. Faults can be scripted, and every page asked for is counted.
//
// One Server serves them all: their paths differ. A Server starts nothing; it is an http.Handler.
package exchange

import (
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"barkeep/backfill/source/sim"
	"barkeep/internal/market"
)

// Config configures a Server. The zero value serves everybody, now.
type Config struct {
	// Now is the exchange's clock; nil means time.Now.
	Now func() time.Time
	// Key, where it is not empty, is the API key that the CryptoCompare and CoinDesk sides demand.
	Key string
	// Latency delays every answer.
	Latency time.Duration
	// Draw, where it is not nil, gives the fault of a request that no scripted one fits. It is called by several at once.
	Draw func(*http.Request) Fault
	// Served, where it is not nil, is told of each answer with bars, of when its request came, and of the fault that it had. It is called by
	// several at once, after the answer was written.
	Served func(p Page, came time.Time, f Fault)
	// Keep keeps rendered pages in memory and serves them again as they are: for benchmarks. Pages that reach to the last
	// day are never kept.
	Keep bool
}

// Page is one request for bars as the exchange understood it.
type Page struct {
	// Venue is the name of the source that is spoken to.
	Venue, VendorID string
	Timeframe       market.Timeframe
	// Range runs from the first open asked for to the close of the last one.
	Range market.Range
}

// Server is the exchange. It is safe for concurrent use.
type Server struct {
	config Config
	mux    *http.ServeMux
	coins  map[string]*sim.Coin // by Base + "/" + Quote

	mu sync.Mutex
	// asked counts pages, guarded by mu.
	asked map[Page]int
	// faults are those still to happen, in order, guarded by mu.
	faults []*Fault
	// kept holds rendered pages by URL, guarded by mu.
	kept map[string][]byte
}

// New returns a Server.
func New(config Config) *Server {
	if config.Now == nil {
		config.Now = time.Now
	}
	s := &Server{
		config: config, mux: http.NewServeMux(), coins: map[string]*sim.Coin{}, asked: map[Page]int{}, kept: map[string][]byte{},
	}
	for _, coin := range sim.Coins() {
		s.coins[coin.Base+"/"+coin.Quote] = &coin
	}
	s.mux.HandleFunc("GET /api/v3/exchangeInfo", s.binanceInfo)
	s.mux.HandleFunc("GET /api/v3/klines", s.binanceKlines)
	s.mux.HandleFunc("GET /products", s.coinbaseProducts)
	s.mux.HandleFunc("GET /products/{id}/candles", s.coinbaseCandles)
	s.mux.HandleFunc("GET /api/v2/trading-pairs-info/", s.bitstampPairs)
	s.mux.HandleFunc("GET /api/v2/ohlc/{pair}/", s.bitstampOHLC)
	s.mux.HandleFunc("GET /0/public/AssetPairs", s.krakenPairs)
	s.mux.HandleFunc("GET /0/public/OHLC", s.krakenOHLC)
	s.mux.HandleFunc("GET /api/v5/public/instruments", s.okxInstruments)
	s.mux.HandleFunc("GET /api/v5/market/candles", s.okxCandles(false))
	s.mux.HandleFunc("GET /api/v5/market/history-candles", s.okxCandles(true))
	s.mux.HandleFunc("GET /v5/market/instruments-info", s.bybitInstruments)
	s.mux.HandleFunc("GET /v5/market/kline", s.bybitKline)
	s.mux.HandleFunc("GET /spot/v1/markets/instruments", s.coindeskInstruments)
	s.mux.HandleFunc("GET /spot/v1/historical/{unit}", s.coindeskHistory)
	s.mux.HandleFunc("GET /data/v2/cccagg/pairs", s.comparePairs)
	s.mux.HandleFunc("GET /data/v2/{histo}", s.compareHisto)
	return s
}

// Asked returns how often each page was asked for. The caller owns the map.
func (s *Server) Asked() map[Page]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.asked)
}

// Forget sets all counts to zero.
func (s *Server) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.asked)
}

// Truth returns the bars of an instrument that open in r, by base and quote: what a source must have found in the end.
func Truth(base, quote string, tf market.Timeframe, r market.Range) []market.Bar {
	for _, coin := range sim.Coins() {
		if coin.Base == base && coin.Quote == quote {
			return coin.Bars(nil, tf, r)
		}
	}
	return nil
}

// ServeHTTP answers one request, by the next fault that fits it or well.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	fault := s.next(r)
	if fault == nil {
		fault = &Fault{}
		if s.config.Draw != nil {
			*fault = s.config.Draw(r)
		}
	}
	came := time.Now()
	now := s.config.Now().Add(fault.Clock)
	w.Header().Set("Date", now.UTC().Format(http.TimeFormat))
	w.Header().Set("Content-Type", "application/json")
	if !pause(r, max(fault.Delay, s.config.Latency)) {
		return
	}
	if fault.Status != 0 {
		if fault.RetryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(fault.RetryAfter/time.Second)))
		}
		w.WriteHeader(fault.Status)
		return
	}
	if fault.Body != "" {
		_, _ = w.Write([]byte(fault.Body)) // the client's trouble
		return
	}
	s.mux.ServeHTTP(&writer{ResponseWriter: w, fault: fault, request: r, came: came}, r)
}

// writer carries the fault to the handler and spoils the body by it.
type writer struct {
	http.ResponseWriter
	fault   *Fault
	request *http.Request
	came    time.Time
}

func pause(r *http.Request, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-r.Context().Done():
		return false
	case <-timer.C:
		return true
	}
}

// serve counts a page and sends its bars, rendered.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, p Page, coin *sim.Coin, render func([]market.Bar) []byte) {
	s.mu.Lock()
	s.asked[p]++
	body, found := s.kept[r.URL.RequestURI()]
	s.mu.Unlock()
	fault, came := &Fault{}, time.Now()
	if spoiled, ok := w.(*writer); ok {
		fault, came = spoiled.fault, spoiled.came
	}
	now := market.FromTime(s.config.Now())
	if !found || fault.spoilsRows() {
		asked := p.Range
		asked.End = min(asked.End, now)
		if fault.Behind > 0 {
			asked.End = max(asked.Start, min(asked.End, p.Timeframe.Add(p.Timeframe.Floor(now), 1-int64(fault.Behind))))
		}
		body = render(fault.rows(coin.Bars(nil, p.Timeframe, asked), p.Timeframe))
		if s.config.Keep && !fault.spoilsRows() && p.Range.End < now.Shift(-24*time.Hour) {
			s.mu.Lock()
			s.kept[r.URL.RequestURI()] = body
			s.mu.Unlock()
		}
	}
	send(w, r, fault, body)
	if s.config.Served != nil {
		s.config.Served(p, came, *fault)
	}
}

// send writes a body whole, cut, or slowly.
func send(w http.ResponseWriter, r *http.Request, fault *Fault, body []byte) {
	if fault.Garble && len(body) > 0 {
		body = []byte(garble(string(body)))
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	if fault.Cut {
		body = body[:len(body)/2] // the server closes the connection: the length was announced
	}
	if fault.SlowEvery <= 0 {
		_, _ = w.Write(body) // the client's trouble
		return
	}
	control := http.NewResponseController(unwrap(w))
	for len(body) > 0 {
		n := min(64, len(body))
		if _, err := w.Write(body[:n]); err != nil || control.Flush() != nil || !pause(r, fault.SlowEvery) {
			return
		}
		body = body[n:]
	}
}

func unwrap(w http.ResponseWriter) http.ResponseWriter {
	if spoiled, ok := w.(*writer); ok {
		return spoiled.ResponseWriter
	}
	return w
}

// garble makes one number of a body unreadable: the digits after the last decimal point but one, or the last digit.
func garble(body string) string {
	if i := strings.LastIndexByte(body, '.'); i > 0 {
		return body[:i] + ".x" + body[i+1:]
	}
	if i := strings.LastIndexAny(body, "0123456789"); i >= 0 {
		return body[:i] + "x" + body[i+1:]
	}
	return body
}
