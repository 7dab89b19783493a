package exchange

import (
	"fmt"
	"net/http"
	"strconv"

	"barkeep/backfill/source/sim"
	"barkeep/internal/market"
)

// krakenKept is how many bars of a timeframe Kraken keeps (KR1).
const krakenKept = 720

// krakenAsset returns Kraken's name of an asset.
func krakenAsset(name string) string {
	switch name {
	case "BTC":
		return "XBT"
	case "DOGE":
		return "XDG"
	}
	return name
}

// krakenID returns Kraken's own name of a pair: old assets have a class before their name, X for coins and Z for money.
func krakenID(c *sim.Coin) string {
	base, quote := krakenAsset(c.Base), krakenAsset(c.Quote)
	switch base {
	case "XBT", "ETH", "LTC", "XRP", "XDG":
		switch quote {
		case "USD", "EUR":
			return "X" + base + "Z" + quote
		case "XBT":
			return "X" + base + "X" + quote
		}
	}
	return base + quote
}

func krakenAltName(c *sim.Coin) string { return krakenAsset(c.Base) + krakenAsset(c.Quote) }

// krakenPairs lists the pairs, a dark pool's without a wsname among them.
func (s *Server) krakenPairs(w http.ResponseWriter, _ *http.Request) {
	s.list(w, `{"error":[],"result":{"XXBTZUSD.d":{"altname":"XBTUSD.d","base":"XXBT","quote":"ZUSD"},`, `}}`, func(c *sim.Coin) string {
		return fmt.Sprintf(`%q:{"altname":%q,"wsname":%q,"aclass_base":"currency","status":"online","fees":[[0,0.4]]}`,
			krakenID(c), krakenAltName(c), krakenAsset(c.Base)+"/"+krakenAsset(c.Quote))
	})
}

// krakenOHLC obeys KR1: of the newest 720 bars those from since on, inclusive, to the one that forms; errors with status 200.
func (s *Server) krakenOHLC(w http.ResponseWriter, r *http.Request) {
	id := r.URL.Query().Get("pair")
	coin := s.find(id, krakenID)
	if coin == nil {
		coin = s.find(id, krakenAltName)
	}
	if coin == nil {
		refuse(w, http.StatusOK, `{"error":["EQuery:Unknown asset pair"]}`)
		return
	}
	tf := timeframe(60 * integer(r, "interval", 1))
	if tf == 0 {
		refuse(w, http.StatusOK, `{"error":["EGeneral:Invalid arguments"]}`)
		return
	}
	now := market.FromTime(s.config.Now())
	asked := market.Range{Start: tf.Add(now, 1-krakenKept), End: tf.Next(now)}
	asked.Start = max(asked.Start, tf.Ceil(market.Instant(integer(r, "since", 0))*second))
	s.serve(w, r, Page{"kraken", krakenID(coin), tf, asked}, coin, func(bars []market.Bar) []byte {
		out := []byte(`{"error":[],"result":{"` + krakenID(coin) + `":[`)
		last := asked.Start
		for i, b := range bars {
			if i > 0 {
				out = append(out, ',')
			}
			out = append(out, '[')
			out = strconv.AppendInt(out, int64(b.TS/second), 10)
			for _, f := range [...]float64{b.Open, b.High, b.Low, b.Close, b.Open} {
				out = append(number(append(out, ',', '"'), f), '"')
			}
			out = append(strconv.AppendFloat(append(out, `,"`...), b.Volume, 'f', 8, 64), `",7]`...)
			last = b.TS
		}
		return append(out, `],"last":`+strconv.FormatInt(int64(last/second), 10)+`}}`...)
	})
}
