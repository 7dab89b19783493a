package exchange

import (
	"fmt"
	"net/http"
	"strconv"

	"barkeep/backfill/source/sim"
	"barkeep/internal/market"
)

// coindeskMarket is the one that the CoinDesk side knows.
const coindeskMarket = "coinbase"

func coindeskNotFound(w http.ResponseWriter, what string) {
	refuse(w, http.StatusNotFound, `{"Data":{},"Err":{"type":1,"message":"Not found: `+what+
		` parameter. Not integrated yet or not supported.","other_info":{"param":"`+what+`","values":["x"]}}}`)
}

func (s *Server) coindeskInstruments(w http.ResponseWriter, r *http.Request) {
	if !s.keyed(w, r) {
		return
	}
	if r.URL.Query().Get("market") != coindeskMarket {
		coindeskNotFound(w, "market")
		return
	}
	s.list(w, `{"Data":{"`+coindeskMarket+`":{"TYPE":"950","EXCHANGE_STATUS":"ACTIVE","instruments":{"ODD":{"TYPE":"951"},`, `}}},"Err":{}}`, func(c *sim.Coin) string {
		return fmt.Sprintf(`%q:{"TYPE":"951","INSTRUMENT_STATUS":"ACTIVE","INSTRUMENT":%q}`, coinbaseID(c), coinbaseID(c))
	})
}

// coindeskHistory obeys CD1 to CD3: limit rows up to to_ts inclusive, ascending; periods without trades are left out where
// fill is false, else they are flat.
func (s *Server) coindeskHistory(w http.ResponseWriter, r *http.Request) {
	if !s.keyed(w, r) {
		return
	}
	q := r.URL.Query()
	tf, found := map[string]market.Timeframe{"minutes": market.M1, "hours": market.H1, "days": market.D1}[r.PathValue("unit")]
	coin := s.find(q.Get("instrument"), coinbaseID)
	switch {
	case !found:
		refuse(w, http.StatusNotFound, `{"Data":{},"Err":{"type":1,"message":"Path does not exist"}}`)
		return
	case q.Get("market") != coindeskMarket:
		coindeskNotFound(w, "market")
		return
	case coin == nil:
		coindeskNotFound(w, "instrument")
		return
	}
	now := s.config.Now()
	last := tf.Floor(min(market.Instant(integer(r, "to_ts", now.Unix()))*second, market.FromTime(now)))
	asked := market.Range{Start: tf.Add(last, 1-min(integer(r, "limit", 30), 2000)), End: tf.Next(last)}
	s.serve(w, r, Page{"coindesk", coinbaseID(coin), tf, asked}, coin, func(bars []market.Bar) []byte {
		if q.Get("fill") != "false" {
			bars = filled(bars, tf)
		}
		out := []byte(`{"Data":[`)
		for i, b := range bars {
			if i > 0 {
				out = append(out, ',')
			}
			out = strconv.AppendInt(append(out, `{"UNIT":"X","TIMESTAMP":`...), int64(b.TS/second), 10)
			out = append(out, `,"TYPE":"954","MARKET":"`+coindeskMarket+`","INSTRUMENT":"`+coinbaseID(coin)+`"`...)
			out = number(append(out, `,"OPEN":`...), b.Open)
			out = number(append(out, `,"HIGH":`...), b.High)
			out = number(append(out, `,"LOW":`...), b.Low)
			out = number(append(out, `,"CLOSE":`...), b.Close)
			out = append(out, `,"FIRST_TRADE_TIMESTAMP":1,"TOTAL_TRADES":7,"QUOTE_VOLUME":1`...)
			out = append(strconv.AppendFloat(append(out, `,"VOLUME":`...), b.Volume, 'f', 8, 64), '}')
		}
		return append(out, `],"Err":{}}`...)
	})
}

// filled puts a flat bar into each hole.
func filled(bars []market.Bar, tf market.Timeframe) (all []market.Bar) {
	for i, b := range bars {
		if i > 0 {
			before := bars[i-1]
			for ts := tf.Next(before.TS); ts < b.TS; ts = tf.Next(ts) {
				p := before.Close
				all = append(all, market.Bar{TS: ts, Open: p, High: p, Low: p, Close: p})
			}
		}
		all = append(all, b)
	}
	return all
}
