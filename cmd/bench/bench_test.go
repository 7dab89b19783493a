package main

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
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
