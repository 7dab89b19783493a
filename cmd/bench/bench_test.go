package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/source"
	"barkeep/backfill/source/binance"
	"barkeep/internal/market"
)

// The stand-in obeys BN2–BN4: rows of twelve, both ends inclusive, an unaligned start rounds up, the listing first.
func TestExchange(t *testing.T) {
	t.Parallel()
	e, err := startExchange(t.Context())
	require.NoError(t, err)
	t.Cleanup(e.stop)
	client := &http.Client{Timeout: 10 * time.Second}
	t.Cleanup(client.CloseIdleConnections)
	first := firstBar.UnixMilli()
	for name, c := range map[string]struct {
		query       string
		count       int
		first, last int64
	}{
		"one row":         {query: span(first, first), count: 1, first: first, last: first},
		"inclusive":       {query: span(first, first+60_000), count: 2, first: first, last: first + 60_000},
		"rounds up":       {query: span(first+1, first+120_000), count: 2, first: first + 60_000, last: first + 120_000},
		"before listing":  {query: "&startTime=0&limit=1", count: 1, first: first, last: first},
		"default limit":   {query: "&startTime=0", count: 500, first: first, last: first + 499*60_000},
		"greatest limit":  {query: "&startTime=0&limit=5000", count: 1000, first: first, last: first + 999*60_000},
		"nothing before":  {query: span(first-120_000, first-60_000)},
		"nothing after":   {query: span(first+barCount*60_000, first+2*barCount*60_000)},
		"the last minute": {query: span(first+(barCount-1)*60_000, first+2*barCount*60_000), count: 1, first: first + (barCount-1)*60_000, last: first + (barCount-1)*60_000},
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, e.url+"/api/v3/klines?symbol=AAAUSDT&interval=1m"+c.query, http.NoBody)
		require.NoError(t, err, name)
		answer, err := client.Do(request)
		require.NoError(t, err, name)
		body, err := io.ReadAll(answer.Body)
		require.NoError(t, err, name)
		require.NoError(t, answer.Body.Close(), name)
		var rows [][]any
		require.NoError(t, json.Unmarshal(body, &rows), name)
		require.Len(t, rows, c.count, name)
		if c.count > 0 {
			require.Len(t, rows[0], 12, name)
			require.InDelta(t, c.first, rows[0][0], 0, name)
			require.InDelta(t, c.last, rows[c.count-1][0], 0, name)
		}
	}
}

func span(from, to int64) string {
	return "&startTime=" + strconv.FormatInt(from, 10) + "&endTime=" + strconv.FormatInt(to, 10) + "&limit=1000"
}

func TestBarsHoldTheInvariants(t *testing.T) {
	t.Parallel()
	for i := range barCount {
		b := bar(i)
		require.NoError(t, b.Check())
	}
}

// The ratio is the median of the rounds' ratios, more is better, and a target is met or missed.
func TestReport(t *testing.T) {
	t.Parallel()
	var r report
	r.compare("rate", "tps", []float64{80, 10, 45}, "direct", []float64{100, 100, 50}, false, 0.85)
	r.compare("time", "ms", []float64{100, 110, 400}, "direct", []float64{95, 110, 100}, true, 0.9)
	r.measure("memory", "MB", 299, 300)
	var out strings.Builder
	r.print(&out)
	require.Contains(t, out.String(), "MISSED")
	require.Contains(t, out.String(), "1 targets missed")
	path := filepath.Join(t.TempDir(), "bench.json")
	require.NoError(t, r.write(path))
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.JSONEq(t, `{
		"rate": {"value": 45, "unit": "tps", "ratio": 0.8, "against": "direct", "target": 0.85, "met": false},
		"time": {"value": 110, "unit": "ms", "ratio": 0.95, "against": "direct", "target": 0.9, "met": true},
		"memory": {"value": 299, "unit": "MB", "target": 300, "met": true}
	}`, string(text))
}

// A page is one of the vendor's, which barkeep asks for whole (PIPELINE 16): a thousand minutes from a multiple of a thousand on.
func TestPagesAreWhole(t *testing.T) {
	t.Parallel()
	for n := range 3 {
		require.Zero(t, page(n).Unix()/60%pageLimit)
		require.Equal(t, page(0).Add(time.Duration(n)*pageLimit*time.Minute), page(n))
	}
	require.False(t, page(0).Before(firstBar))
	require.Less(t, page(0).Sub(firstBar), pageLimit*time.Minute)
}

// Held symbols are answered once the gate is open, all others meanwhile.
func TestGate(t *testing.T) {
	t.Parallel()
	e, err := startExchange(t.Context())
	require.NoError(t, err)
	t.Cleanup(e.stop)
	client := &http.Client{Timeout: time.Minute}
	t.Cleanup(client.CloseIdleConnections)
	get := func(symbol string) int {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, e.url+"/api/v3/klines?interval=1m&startTime=0&symbol="+symbol, http.NoBody)
		if err != nil {
			return 0
		}
		answer, err := client.Do(request)
		if err != nil {
			return 0
		}
		_ = answer.Body.Close()
		return answer.StatusCode
	}
	held := numberedSymbol(heldPrefix, 0)
	require.Equal(t, http.StatusOK, get(held))
	open := e.gate.shut()
	answered := make(chan int, 1)
	go func() { answered <- get(held) }()
	require.Eventually(t, func() bool { return e.requests.Load() == 2 }, time.Minute, time.Millisecond)
	require.Equal(t, http.StatusOK, get(symbols[0]))
	require.Empty(t, answered)
	open()
	require.Equal(t, http.StatusOK, <-answered)
	require.Equal(t, http.StatusOK, get(held))
}

// Who has subscribed is told what Binance's own parser reads (BN8), and history goes on to the bar that forms.
func TestLiveFeed(t *testing.T) {
	t.Parallel()
	e, err := startExchange(t.Context())
	require.NoError(t, err)
	t.Cleanup(e.stop)
	vendor, err := binance.New(source.Config{URL: e.url, StreamURL: "ws" + strings.TrimPrefix(e.url, "http") + "/stream"})
	require.NoError(t, err)
	socket := vendor.Feed(slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- socket.Run(ctx) }()
	symbol := numberedSymbol(livePrefix, 7)
	ticks := make(chan source.Tick, 100)
	leave := socket.Follow(source.Instance{VendorID: symbol, Timeframe: market.M1}, func(tick source.Tick) { ticks <- tick })
	opened := time.Now().Truncate(time.Minute)
	require.Eventually(t, func() bool { return e.feeds.tell(ctx, symbol, opened, 41, true) }, time.Minute, time.Millisecond)
	require.Equal(t, source.Tick{
		Bar: market.Bar{TS: market.FromTime(opened), Open: 100.5, High: 101.25, Low: 99.75, Close: 100.5, Volume: 41}, Closed: true,
	}, <-ticks)
	leave()
	cancel()
	require.NoError(t, <-ended)
	require.False(t, e.feeds.tell(t.Context(), numberedSymbol(livePrefix, 8), opened, 1, false))
	listed, err := vendor.Listed(t.Context(), symbol, source.Bulk)
	require.NoError(t, err)
	require.Equal(t, market.FromTime(firstBar), listed)
	until := market.FromTime(opened)
	answer, err := vendor.Fetch(t.Context(), source.Query{
		VendorID: symbol, Series: market.Series{Symbol: market.Symbol("binance:" + symbol), Timeframe: market.M1},
		Range: market.Range{Start: market.M1.Add(until, -10), End: market.M1.Add(until, 1)},
	})
	require.NoError(t, err)
	require.Len(t, answer.Bars, 11)
	require.Equal(t, until, answer.Bars[10].TS)
}
