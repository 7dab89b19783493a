package binance_test

import (
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/source"
	"barkeep/backfill/source/binance"
	"barkeep/internal/exchange"
	"barkeep/internal/market"
)

func BenchmarkFetch(b *testing.B) {
	server := httptest.NewServer(exchange.New(exchange.Config{Keep: true}))
	defer server.Close()
	s, err := binance.New(source.Config{URL: server.URL, Rate: 1e9, Burst: 1000})
	require.NoError(b, err)
	start := market.Instant(1704067200 * 1e6)
	q := source.Query{
		VendorID: "BTCUSDT", Series: market.Series{Timeframe: market.M1},
		Range: market.Range{Start: start, End: market.M1.Add(start, 1000)},
	}
	for b.Loop() {
		a, err := s.Fetch(b.Context(), q)
		if err != nil || len(a.Bars) != 1000 {
			b.Fatal(err, len(a.Bars))
		}
	}
	b.ReportMetric(float64(b.N)*1000/b.Elapsed().Seconds()/1e6, "Mbars/s")
}
