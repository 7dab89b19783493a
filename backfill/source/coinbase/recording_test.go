package coinbase_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/source"
	"barkeep/backfill/source/coinbase"
	"barkeep/backfill/source/sourcetest"
	"barkeep/internal/market"
)

// CB1: low before high before open.
func TestRecording(t *testing.T) {
	t.Parallel()
	s, err := coinbase.New(source.Config{
		URL: sourcetest.Replay(t, sourcetest.Recorded(t, "coinbase", "candles_BTC-USDT_1h_one.json")),
	})
	require.NoError(t, err)
	at := market.Instant(1710327600 * 1e6)
	a, err := s.Fetch(t.Context(), source.Query{
		VendorID: "BTC-USDT", Series: market.Series{Symbol: "coinbase:BTCUSDT", Timeframe: market.H1},
		Range: market.Range{Start: at, End: market.H1.Next(at)},
	})
	require.NoError(t, err)
	require.Equal(t, []market.Bar{{
		TS: at, Open: 73243.33, High: 73402.47, Low: 73241.5, Close: 73370.65, Volume: 1.56794406,
	}}, a.Bars)
}
