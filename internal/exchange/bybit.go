package exchange

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"barkeep/backfill/source/sim"
	"barkeep/internal/market"
)

// bybitInstruments lists the markets in two pages.
func (s *Server) bybitInstruments(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("category") != "spot" {
		refuse(w, http.StatusOK, `{"retCode":10001,"retMsg":"params error: category illegal","result":{}}`)
		return
	}
	coins := sim.Coins()
	half, next := coins[:len(coins)/2], "first%3Dhalf%26page%3D2"
	if r.URL.Query().Get("cursor") == next {
		half, next = coins[len(coins)/2:], ""
	}
	list := make([]string, 0, len(half))
	for i := range half {
		c := &half[i]
		list = append(list, fmt.Sprintf(`{"symbol":%q,"baseCoin":%q,"quoteCoin":%q,"status":"Trading"}`, c.Symbol(), c.Base, c.Quote))
	}
	_, _ = w.Write([]byte(`{"retCode":0,"retMsg":"OK","result":{"category":"spot","nextPageCursor":"` + next + `","list":[` +
		strings.Join(list, ",") + `]},"retExtInfo":{},"time":1704067200000}`)) // the client's trouble
}

// bybitTimeframe returns the timeframe that Bybit calls interval, zero where there is none.
func bybitTimeframe(interval string) market.Timeframe {
	switch interval {
	case "D":
		return market.D1
	case "W":
		return market.W1
	case "M":
		return market.Mo1
	}
	minutes, err := strconv.Atoi(interval)
	if err != nil || minutes >= int(market.D1.Step()/time.Minute) {
		return 0
	}
	return timeframe(60 * int64(minutes))
}

// bybitKline obeys BY1: start and end inclusive, at most 1000 rows, newest first.
func (s *Server) bybitKline(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	coin, tf := s.find(q.Get("symbol"), (*sim.Coin).Symbol), bybitTimeframe(q.Get("interval"))
	switch {
	case q.Get("category") != "spot" || tf == 0:
		refuse(w, http.StatusOK, `{"retCode":10001,"retMsg":"Invalid period!","result":{}}`)
		return
	case coin == nil:
		refuse(w, http.StatusOK, `{"retCode":10001,"retMsg":"Not supported symbols","result":{"category":"","symbol":"","list":[]}}`)
		return
	}
	now := market.FromTime(s.config.Now())
	end := tf.Next(min(market.Instant(integer(r, "end", int64(now/millisecond)))*millisecond, now))
	asked := market.Range{Start: tf.Add(end, -min(integer(r, "limit", 200), 1000)), End: end}
	asked.Start = max(asked.Start, tf.Ceil(market.Instant(integer(r, "start", 0))*millisecond))
	s.serve(w, r, Page{"bybit", coin.Symbol(), tf, asked}, coin, func(bars []market.Bar) []byte {
		out := []byte(`{"retCode":0,"retMsg":"OK","result":{"category":"spot","symbol":"` + coin.Symbol() + `","list":[`)
		for i := range bars {
			b := bars[len(bars)-1-i]
			if i > 0 {
				out = append(out, ',')
			}
			out = strconv.AppendInt(append(out, `["`...), int64(b.TS/millisecond), 10)
			out = append(out, '"')
			for _, f := range [...]float64{b.Open, b.High, b.Low, b.Close} {
				out = append(number(append(out, ',', '"'), f), '"')
			}
			out = strconv.AppendFloat(append(out, `,"`...), b.Volume, 'f', 8, 64)
			out = append(out, `","7"]`...)
		}
		return append(out, `]},"retExtInfo":{},"time":1704067200000}`...)
	})
}
