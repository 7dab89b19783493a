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

// okxRecent is how many bars the route of recent ones has, okxHistoryLag how far the route of history is behind.
const (
	okxRecent     = 1440
	okxHistoryLag = 2 * time.Hour
)

func (s *Server) okxInstruments(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("instType") != "SPOT" {
		refuse(w, http.StatusBadRequest, `{"code":"50014","msg":"Parameter instType can not be empty","data":[]}`)
		return
	}
	s.list(w, `{"code":"0","msg":"","data":[`, `]}`, func(c *sim.Coin) string {
		return fmt.Sprintf(`{"instId":%q,"instType":"SPOT","baseCcy":%q,"quoteCcy":%q,"listTime":"1704067200000","state":"live"}`, coinbaseID(c), c.Base, c.Quote)
	})
}

// okxTimeframe returns the timeframe that OKX calls bar, zero where there is none on our grid: without "utc" days open by
// Hong Kong's time (OK1).
func okxTimeframe(bar string) market.Timeframe {
	name, utc := strings.CutSuffix(bar, "utc")
	if n, hours := strings.CutSuffix(name, "H"); hours {
		name = n + "h"
	} else if n, found := strings.CutSuffix(name, "D"); found {
		name = n + "d"
	} else if n, found := strings.CutSuffix(name, "W"); found {
		name = n + "w"
	}
	tf, err := market.ParseTimeframe(name)
	if err != nil || utc != (tf >= market.H6) {
		return 0
	}
	return tf
}

// okxCandles obeys OK1: at most 100 rows, both bounds exclusive, newest first, confirm "1" on what is closed. Recent bars and
// history are on two routes, of which the one forgets and the other lags.
func (s *Server) okxCandles(history bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		coin, tf := s.find(q.Get("instId"), coinbaseID), okxTimeframe(q.Get("bar"))
		switch {
		case coin == nil:
			refuse(w, http.StatusOK, `{"code":"51001","msg":"Instrument ID or Spread ID doesn't exist.","data":[]}`)
			return
		case tf == 0:
			refuse(w, http.StatusOK, `{"code":"51000","msg":"Parameter bar error","data":[]}`)
			return
		}
		now := market.FromTime(s.config.Now())
		last := now + 1
		if q.Has("after") {
			last = min(last, market.Instant(integer(r, "after", 0))*millisecond)
		}
		if history {
			last = min(last, tf.Floor(now.Shift(-okxHistoryLag)))
		}
		end := tf.Ceil(last)
		asked := market.Range{Start: tf.Add(end, -min(integer(r, "limit", 100), 100)), End: end}
		if q.Has("before") {
			asked.Start = max(asked.Start, tf.Next(market.Instant(integer(r, "before", 0))*millisecond))
		}
		if !history {
			asked.Start = max(asked.Start, tf.Add(now, 1-okxRecent))
		}
		s.serve(w, r, Page{"okx", coinbaseID(coin), tf, asked}, coin, func(bars []market.Bar) []byte {
			out := []byte(`{"code":"0","msg":"","data":[`)
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
				confirm := `","1","2","1"]`
				if tf.Next(b.TS) > now {
					confirm = `","1","2","0"]`
				}
				out = append(out, confirm...)
			}
			return append(out, `]}`...)
		})
	}
}
