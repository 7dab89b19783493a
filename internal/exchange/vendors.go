package exchange

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"barkeep/backfill/source/sim"
	"barkeep/internal/market"
)

const (
	second      = market.Instant(time.Second / time.Microsecond)
	millisecond = market.Instant(time.Millisecond / time.Microsecond)
)

func number(b []byte, f float64) []byte { return strconv.AppendFloat(b, f, 'f', -1, 64) }

// integer reads a parameter, or returns otherwise where it is not there.
func integer(r *http.Request, name string, otherwise int64) int64 {
	n, err := strconv.ParseInt(r.URL.Query().Get(name), 10, 64)
	if err != nil {
		return otherwise
	}
	return n
}

// timeframe returns the one of that many seconds, zero where there is none.
func timeframe(seconds int64) market.Timeframe {
	for _, tf := range market.Timeframes() {
		if int64(tf.Step()/time.Second) == seconds {
			return tf
		}
	}
	return 0
}

func refuse(w http.ResponseWriter, status int, body string) {
	w.WriteHeader(status)
	_, _ = w.Write([]byte(body)) //nolint:gosec // G705: a vendor's JSON, read by no browser
}

// list sends one element of a JSON array for each coin.
func (s *Server) list(w http.ResponseWriter, open, end string, element func(*sim.Coin) string) {
	names := make([]string, 0, len(s.coins))
	for _, coin := range sim.Coins() {
		names = append(names, element(&coin))
	}
	_, _ = w.Write([]byte(open + strings.Join(names, ",") + end)) // the client's trouble
}

// find returns the coin whose name an id is under write.
func (s *Server) find(id string, write func(*sim.Coin) string) *sim.Coin {
	for _, coin := range s.coins {
		if write(coin) == id {
			return coin
		}
	}
	return nil
}

func (s *Server) binanceInfo(w http.ResponseWriter, _ *http.Request) {
	s.list(w, `{"timezone":"UTC","rateLimits":[],"symbols":[`, `]}`, func(c *sim.Coin) string {
		return fmt.Sprintf(`{"symbol":%q,"status":"TRADING","baseAsset":%q,"quoteAsset":%q}`, c.Symbol(), c.Base, c.Quote)
	})
}

// binanceKlines obeys BN1 to BN4: both ends inclusive, an unaligned start rounds up, the first limit rows.
func (s *Server) binanceKlines(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	coin := s.find(q.Get("symbol"), (*sim.Coin).Symbol)
	if coin == nil {
		refuse(w, http.StatusBadRequest, `{"code":-1121,"msg":"Invalid symbol."}`)
		return
	}
	tf, err := market.ParseTimeframe(q.Get("interval"))
	if err != nil {
		refuse(w, http.StatusBadRequest, `{"code":-1120,"msg":"Invalid interval."}`)
		return
	}
	limit := min(integer(r, "limit", 500), 1000)
	now := market.FromTime(s.config.Now())
	asked := market.Range{
		Start: tf.Ceil(market.Instant(integer(r, "startTime", 0)) * millisecond),
		End:   tf.Next(min(market.Instant(integer(r, "endTime", int64(now/millisecond)))*millisecond, now)),
	}
	asked.Start = max(asked.Start, tf.Floor(coin.Listed)) // BN4
	asked.End = min(asked.End, tf.Add(asked.Start, limit))
	s.serve(w, r, Page{"binance", q.Get("symbol"), tf, asked}, coin, func(bars []market.Bar) []byte {
		out := []byte{'['}
		for i, b := range bars {
			if i > 0 {
				out = append(out, ',')
			}
			out = append(out, '[')
			out = strconv.AppendInt(out, int64(b.TS/millisecond), 10)
			for _, f := range [...]float64{b.Open, b.High, b.Low, b.Close, b.Volume} {
				out = append(number(append(out, ',', '"'), f), '"')
			}
			out = append(out, ',')
			out = strconv.AppendInt(out, int64(tf.Next(b.TS)/millisecond)-1, 10)
			out = append(out, `,"0",0,"0","0","0"]`...)
		}
		return append(out, ']')
	})
}

func coinbaseID(c *sim.Coin) string { return c.Base + "-" + c.Quote }

func (s *Server) coinbaseProducts(w http.ResponseWriter, _ *http.Request) {
	s.list(w, "[", "]", func(c *sim.Coin) string {
		return fmt.Sprintf(`{"id":%q,"base_currency":%q,"quote_currency":%q,"status":"online"}`, coinbaseID(c), c.Base, c.Quote)
	})
}

// coinbaseCandles obeys CB1: at most 300, a larger range is rejected, newest first.
func (s *Server) coinbaseCandles(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	coin := s.find(id, coinbaseID)
	if coin == nil {
		refuse(w, http.StatusNotFound, `{"message":"NotFound"}`)
		return
	}
	seconds := integer(r, "granularity", 60)
	tf := timeframe(seconds)
	start, err1 := time.Parse(time.RFC3339, r.URL.Query().Get("start"))
	end, err2 := time.Parse(time.RFC3339, r.URL.Query().Get("end"))
	if !slices.Contains([]int64{60, 300, 900, 3600, 21600, 86400}, seconds) || err1 != nil || err2 != nil {
		refuse(w, http.StatusBadRequest, `{"message":"Unsupported granularity"}`)
		return
	}
	asked := market.Range{Start: tf.Ceil(market.FromTime(start)), End: tf.Next(market.FromTime(end))}
	if tf.Count(asked) > 300 {
		refuse(w, http.StatusBadRequest, `{"message":"granularity too small for the requested time range. Count of aggregations requested exceeds 300"}`)
		return
	}
	s.serve(w, r, Page{"coinbase", id, tf, asked}, coin, func(bars []market.Bar) []byte {
		out := []byte{'['}
		for i := range bars {
			b := bars[len(bars)-1-i]
			if i > 0 {
				out = append(out, ',')
			}
			out = append(out, '[')
			out = strconv.AppendInt(out, int64(b.TS/second), 10)
			for _, f := range [...]float64{b.Low, b.High, b.Open, b.Close, b.Volume} {
				out = number(append(out, ','), f)
			}
			out = append(out, ']')
		}
		return append(out, ']')
	})
}

func bitstampID(c *sim.Coin) string { return strings.ToLower(c.Symbol()) }

func (s *Server) bitstampPairs(w http.ResponseWriter, _ *http.Request) {
	s.list(w, "[", "]", func(c *sim.Coin) string {
		return fmt.Sprintf(`{"name":%q,"url_symbol":%q,"trading":"Enabled"}`, c.Base+"/"+c.Quote, bitstampID(c))
	})
}

// bitstampOHLC obeys BS1 and BS2: the last limit rows up to end, which may begin before start.
func (s *Server) bitstampOHLC(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("pair")
	coin := s.find(id, bitstampID)
	tf := timeframe(integer(r, "step", 60))
	if coin == nil || tf == 0 {
		refuse(w, http.StatusNotFound, `{"code":"not_found","errors":[]}`)
		return
	}
	limit := min(integer(r, "limit", 100), 1000)
	last := min(market.Instant(integer(r, "end", s.config.Now().Unix()))*second, market.FromTime(s.config.Now()))
	end := tf.Next(last)
	asked := market.Range{Start: tf.Add(end, -limit), End: end}
	s.serve(w, r, Page{"bitstamp", id, tf, asked}, coin, func(bars []market.Bar) []byte {
		out := []byte(`{"data":{"ohlc":[`)
		for i, b := range bars {
			if i > 0 {
				out = append(out, ',')
			}
			out = append(number(append(out, `{"close":"`...), b.Close), '"')
			out = append(number(append(out, `,"high":"`...), b.High), '"')
			out = append(number(append(out, `,"low":"`...), b.Low), '"')
			out = append(number(append(out, `,"open":"`...), b.Open), '"')
			out = append(out, `,"timestamp":"`...)
			out = strconv.AppendInt(out, int64(b.TS/second), 10)
			out = append(number(append(out, `","volume":"`...), b.Volume), `"}`...)
		}
		return append(out, `],"pair":"`+coin.Base+"/"+coin.Quote+`"}}`...)
	})
}

// keyed demands the key as CryptoCompare does since May 2026, in the other of its two envelopes.
func (s *Server) keyed(w http.ResponseWriter, r *http.Request) bool {
	if s.config.Key == "" || r.Header.Get("Authorization") == "Apikey "+s.config.Key {
		return true
	}
	refuse(w, http.StatusUnauthorized, `{"Data":{},"Err":{"type":2,"message":"API key required","http_status_code":401}}`)
	return false
}

// comparePairs lists the aggregate's pairs by base, and a token whose name cannot be a symbol.
func (s *Server) comparePairs(w http.ResponseWriter, r *http.Request) {
	if !s.keyed(w, r) {
		return
	}
	const times = `{"histo_minute_start_ts":1420070400,"histo_minute_start":"2015-01-01","isActive":true}`
	quotes := map[string][]string{"X:Y": {`"USD":` + times}}
	for _, coin := range sim.Coins() {
		quotes[coin.Base] = append(quotes[coin.Base], `"`+coin.Quote+`":`+times)
	}
	bases := make([]string, 0, len(quotes))
	for _, base := range slices.Sorted(maps.Keys(quotes)) {
		bases = append(bases, `"`+base+`":{"tsyms":{`+strings.Join(quotes[base], ",")+`}}`)
	}
	_, _ = w.Write([]byte(`{"Response":"Success","Message":"","HasWarning":false,"Type":100,"RateLimit":{},"Data":{"pairs":{` +
		strings.Join(bases, ",") + `}}}`)) // the client's trouble
}

// compareHisto obeys CC2, CC3, CC6, CC7, CC9 and CC10: limit + 1 rows up to toTs inclusive, errors with status 200, zeros
// where there is nothing.
func (s *Server) compareHisto(w http.ResponseWriter, r *http.Request) {
	if !s.keyed(w, r) {
		return
	}
	q := r.URL.Query()
	tf, found := map[string]market.Timeframe{
		"histominute": market.M1, "histohour": market.H1, "histoday": market.D1,
	}[r.PathValue("histo")]
	id := q.Get("fsym") + "/" + q.Get("tsym")
	coin := s.coins[id]
	if coin == nil || !found {
		refuse(w, http.StatusOK, `{"Response":"Error","Message":"`+q.Get("e")+` market does not exist for this coin pair (`+
			q.Get("fsym")+"-"+q.Get("tsym")+`)","HasWarning":false,"Type":2,"RateLimit":{},"Data":{},"ParamWithError":"fsym"}`)
		return
	}
	now := s.config.Now()
	last := tf.Floor(min(market.Instant(integer(r, "toTs", now.Unix()))*second, market.FromTime(now)))
	asked := market.Range{Start: tf.Add(last, -min(integer(r, "limit", 1440), 2000)), End: tf.Next(last)}
	s.serve(w, r, Page{"cryptocompare", id, tf, asked}, coin, func(bars []market.Bar) []byte {
		if tf == market.M1 && asked.End < market.FromTime(now.Add(-7*24*time.Hour)) {
			bars = nil
		}
		out := []byte(`{"Response":"Success","Message":"","HasWarning":false,"Type":100,"RateLimit":{},"Data":{"Aggregated":false,"Data":[`)
		for i, b := range withZeros(bars, tf, asked) {
			if i > 0 {
				out = append(out, ',')
			}
			out = append(out, `{"time":`...)
			out = strconv.AppendInt(out, int64(b.TS/second), 10)
			out = number(append(out, `,"high":`...), b.High)
			out = number(append(out, `,"low":`...), b.Low)
			out = number(append(out, `,"open":`...), b.Open)
			out = number(append(out, `,"volumefrom":`...), b.Volume)
			out = number(append(out, `,"volumeto":`...), b.Volume*b.Close)
			out = number(append(out, `,"close":`...), b.Close)
			out = append(out, `,"conversionType":"direct","conversionSymbol":""}`...)
		}
		return append(out, `]}}`...)
	})
}

// withZeros fills the bars that are not there at the front (CC10), or all where none is, by zeros.
func withZeros(bars []market.Bar, tf market.Timeframe, r market.Range) []market.Bar {
	end := r.End
	if len(bars) > 0 {
		end = bars[0].TS
	}
	var all []market.Bar
	for ts := r.Start; ts < end; ts = tf.Next(ts) {
		all = append(all, market.Bar{TS: ts})
	}
	return append(all, bars...)
}
