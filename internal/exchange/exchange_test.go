package exchange_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/internal/exchange"
	"barkeep/internal/market"
)

func get(t *testing.T, url string) (int, string, error) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	require.NoError(t, err)
	answer, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(body), err
}

const klines = "/api/v3/klines?symbol=BTCUSD&interval=1m&startTime=1704067200000&endTime=1704067319999"

func TestAskedAndKept(t *testing.T) {
	t.Parallel()
	s := exchange.New(exchange.Config{Keep: true})
	server := httptest.NewServer(s)
	defer server.Close()
	_, first, err := get(t, server.URL+klines)
	require.NoError(t, err)
	_, second, err := get(t, server.URL+klines)
	require.NoError(t, err)
	require.Equal(t, first, second)
	start := market.Instant(1704067200 * 1e6)
	require.Equal(t, map[exchange.Page]int{{
		Venue: "binance", VendorID: "BTCUSD", Timeframe: market.M1, Range: market.Range{Start: start, End: market.M1.Add(start, 2)},
	}: 2}, s.Asked())
	s.Forget()
	require.Empty(t, s.Asked())
}

func TestScript(t *testing.T) {
	t.Parallel()
	s := exchange.New(exchange.Config{})
	server := httptest.NewServer(s)
	defer server.Close()
	s.Script(
		exchange.Fault{Path: "klines", Skip: 1, Times: 1, Status: 429, RetryAfter: 3 * time.Second},
		exchange.Fault{Path: "products", Cut: true},
	)
	for _, want := range []int{200, 429, 200} {
		status, _, err := get(t, server.URL+klines)
		require.NoError(t, err)
		require.Equal(t, want, status)
	}
	const candles = "/products/BTC-USD/candles?granularity=60&start=2024-01-01T00:00:00Z&end=2024-01-01T01:00:00Z"
	_, _, err := get(t, server.URL+candles)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	s.Heal()
	_, _, err = get(t, server.URL+candles)
	require.NoError(t, err)
	require.Len(t, s.Asked(), 2)
}

// TestDrawn: a request that no scripted fault fits has the one that is drawn for it, and what was served is told with it.
func TestDrawn(t *testing.T) {
	t.Parallel()
	var served []exchange.Fault
	draws := []exchange.Fault{{Status: 503}, {}, {Hole: 1}}
	s := exchange.New(exchange.Config{
		Draw: func(r *http.Request) exchange.Fault {
			require.Equal(t, "/api/v3/klines", r.URL.Path)
			fault := draws[0]
			draws = draws[1:]
			return fault
		},
		Served: func(p exchange.Page, came time.Time, fault exchange.Fault) {
			require.WithinDuration(t, time.Now(), came, time.Minute)
			require.Equal(t, "BTCUSD", p.VendorID)
			served = append(served, fault)
		},
	})
	server := httptest.NewServer(s)
	defer server.Close()
	s.Script(exchange.Fault{Path: "klines", Times: 1, Status: 429})
	for _, want := range []int{429, 503, 200, 200} {
		status, _, err := get(t, server.URL+klines)
		require.NoError(t, err)
		require.Equal(t, want, status)
	}
	server.Close() // waits for the answers
	require.Equal(t, []exchange.Fault{{}, {Hole: 1}}, served)
}
