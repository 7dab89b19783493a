package okx_test

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/coverage"
	"barkeep/backfill/source"
	"barkeep/backfill/source/okx"
	"barkeep/backfill/source/sourcetest"
	"barkeep/internal/market"
)

const first = market.Instant(1704067200 * 1e6)

func minutes(start market.Instant, n int64) source.Query {
	return source.Query{
		VendorID: "BTC-USDT", Series: market.Series{Symbol: "okx:BTCUSDT", Timeframe: market.M1},
		Range: market.Range{Start: start, End: market.M1.Add(start, n)},
	}
}

// rows are flat bars of the minutes from..to, newest first, of which the last unconfirmed are not finished.
func rows(from, to int64, unconfirmed int) string {
	var list []string
	for n := to; n >= from; n-- {
		confirm := 1
		if unconfirmed > 0 {
			unconfirmed--
			confirm = 0
		}
		list = append(list, fmt.Sprintf(`["%d","5","5","5","5","1.5","7","7","%d"]`, int64(market.M1.Add(first, n))/1000, confirm))
	}
	return `{"code":"0","msg":"","data":[` + strings.Join(list, ",") + `]}`
}

// vendor answers text on path and records what was asked.
func vendor(t *testing.T, now time.Time, text string) (*okx.Source, *url.URL) {
	t.Helper()
	asked := &url.URL{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*asked = *r.URL
		w.Header().Set("Date", now.UTC().Format(http.TimeFormat))
		_, _ = w.Write([]byte(text))
	}))
	t.Cleanup(server.Close)
	s, err := okx.New(source.Config{URL: server.URL, Now: func() time.Time { return now }})
	require.NoError(t, err)
	return s, asked
}

// OK1: a bar that is not confirmed is not final however old, nor what follows it.
func TestUnconfirmed(t *testing.T) {
	t.Parallel()
	q := minutes(first, 10)
	s, asked := vendor(t, q.Range.End.Time().Add(10*time.Hour), rows(0, 9, 2))
	a, err := s.Fetch(t.Context(), q)
	require.NoError(t, err)
	require.Equal(t, []source.Segment{
		{Range: market.Range{Start: first, End: market.M1.Add(first, 8)}, State: coverage.Final},
		{Range: market.Range{Start: market.M1.Add(first, 8), End: q.Range.End}, State: coverage.Provisional},
	}, source.Judge(s.Info(), q, a, nil).Segments)
	require.Equal(t, market.Bar{TS: first, Open: 5, High: 5, Low: 5, Close: 5, Volume: 1.5}, a.Bars[0], "vol, not volCcy")
	require.Equal(t, "/api/v5/market/candles", asked.Path)
	require.Equal(t, url.Values{
		"instId": {"BTC-USDT"}, "bar": {"1m"}, "after": {"1704067800000"}, "limit": {"10"},
	}, asked.Query(), "after is exclusive (OK1): the end of the range")
}

// What history lacks at its young end is not absent: it may lag. What is older is absent after two readings.
func TestHistoryMayLag(t *testing.T) {
	t.Parallel()
	q := minutes(first, 10)
	segments := func(age time.Duration, text string) ([]source.Segment, market.Range) {
		s, asked := vendor(t, q.Range.End.Time().Add(age), text)
		a, err := s.Fetch(t.Context(), q)
		require.NoError(t, err)
		require.Equal(t, "/api/v5/market/history-candles", asked.Path)
		j := source.Judge(s.Info(), q, a, &a)
		return j.Segments, j.Rest
	}
	got := market.Range{Start: first, End: market.M1.Add(first, 6)}
	tail := market.Range{Start: got.End, End: q.Range.End}

	list, rest := segments(48*time.Hour, rows(-4, 5, 0))
	require.Equal(t, []source.Segment{{Range: got, State: coverage.Final}}, list)
	require.Equal(t, tail, rest, "it stays a gap")
	list, rest = segments(96*time.Hour, rows(-4, 5, 0))
	require.Equal(t, []source.Segment{{Range: got, State: coverage.Final}, {Range: tail, State: coverage.Absent}}, list)
	require.True(t, rest.Empty())

	list, _ = segments(48*time.Hour, rows(0, -1, 0))
	require.Len(t, list, 1)
	require.Equal(t, coverage.Unavailable, list[0].State)
	list, _ = segments(96*time.Hour, rows(0, -1, 0))
	require.Equal(t, []source.Segment{{Range: q.Range, State: coverage.Absent}}, list)
}

// A page that other rows took places of may be cut at its start: nothing is said of what lies before its first row.
func TestCutAtItsStart(t *testing.T) {
	t.Parallel()
	q := minutes(first, 10)
	s, _ := vendor(t, q.Range.End.Time().Add(96*time.Hour), rows(3, 12, 0))
	a, err := s.Fetch(t.Context(), q)
	require.NoError(t, err)
	require.Equal(t, 3, a.Dropped)
	j := source.Judge(s.Info(), q, a, nil)
	require.Equal(t, market.Range{Start: first, End: market.M1.Add(first, 3)}, j.Rest)
}

// Timeframes from six hours on are asked for by their name in UTC (OK1).
func TestNamesOfTimeframes(t *testing.T) {
	t.Parallel()
	names := map[string]string{}
	s, asked := vendor(t, time.Date(2024, 6, 1, 0, 0, 0, 0, time.UTC), `{"code":"0","msg":"","data":[]}`)
	for _, tf := range s.Info().Native {
		q := source.Query{VendorID: "BTC-USDT", Series: market.Series{Timeframe: tf}}
		q.Range = market.Range{Start: tf.Floor(first), End: tf.Next(first)}
		_, err := s.Fetch(t.Context(), q)
		require.NoError(t, err)
		names[tf.String()] = asked.Query().Get("bar")
	}
	require.Equal(t, map[string]string{
		"1m": "1m", "3m": "3m", "5m": "5m", "15m": "15m", "30m": "30m", "1h": "1H", "2h": "2H", "4h": "4H",
		"6h": "6Hutc", "12h": "12Hutc", "1d": "1Dutc", "1w": "1Wutc", "1M": "1Mutc",
	}, names)
}

// A day that opens by Hong Kong's time is an error that names it (PIPELINE 2).
func TestOffTheGrid(t *testing.T) {
	t.Parallel()
	s, _ := vendor(t, time.Date(2024, 6, 1, 0, 0, 0, 0, time.UTC), `{"code":"0","data":[["1704124800000","5","5","5","5","1","1","1","1"]]}`)
	_, err := s.Fetch(t.Context(), source.Query{
		VendorID: "BTC-USDT", Series: market.Series{Symbol: "okx:BTCUSDT", Timeframe: market.D1},
		Range: market.Range{Start: first, End: market.D1.Next(first)},
	})
	require.ErrorIs(t, err, source.ErrAnswer)
	require.ErrorContains(t, err, "2024-01-01T16:00:00Z: time is off the grid of 1d")
}

func TestErrors(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]struct {
		cause error
		again bool
	}{
		`{"code":"51001","msg":"Instrument ID does not exist","data":[]}`: {source.ErrUnknownInstrument, false},
		`{"code":"50011","msg":"Too Many Requests","data":[]}`:            {source.ErrRateLimited, true},
		`{"code":"50001","msg":"Service unavailable","data":[]}`:          {source.ErrServer, true},
		`{"code":"51000","msg":"Parameter bar error","data":[]}`:          {source.ErrRefused, false},
		`{"code":"0","msg":""}`: {source.ErrAnswer, true},
		`{"msg":"hello"}`:       {source.ErrAnswer, true},
		`{"code":"0","data":[["1704067200000","5","5","5","5"]]}`:                       {source.ErrAnswer, true},
		`{"code":"0","data":[["1704067200000","5","5","5","5","1","1","1",1]]}`:         {source.ErrAnswer, true},
		`{"code":"0","data":[["1704067200000","5","5","?","5","1","1","1","1"]]}`:       {source.ErrAnswer, true},
		`{"code":"0","data":[["1704067200000","5","5","5","5","1","1","1","1"]]} extra`: {source.ErrAnswer, true},
	} {
		s, _ := vendor(t, time.Now(), text)
		_, err := s.Fetch(t.Context(), minutes(first, 10))
		require.ErrorIs(t, err, want.cause, text)
		again, _ := source.Retryable(err)
		require.Equal(t, want.again, again, text)
	}
}

// The rows of the recorded feed, which has the same columns: four of them are confirmed.
func TestRecordedRows(t *testing.T) {
	t.Parallel()
	f, err := os.Open(filepath.Join(sourcetest.Recordings(t), "ws_klines", "okcoin.jsonl.gz"))
	require.NoError(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	seen, confirmed := 0, 0
	for lines := bufio.NewScanner(z); lines.Scan(); {
		var line struct{ Msg struct{ Data [][]string } }
		require.NoError(t, json.Unmarshal(lines.Bytes(), &line))
		for _, row := range line.Msg.Data {
			seen++
			text, err := json.Marshal(map[string]any{"code": "0", "data": [][]string{row}})
			require.NoError(t, err)
			var ms int64
			_, err = fmt.Sscan(row[0], &ms)
			require.NoError(t, err)
			q := minutes(market.Instant(ms*1000), 1)
			s, _ := vendor(t, q.Range.End.Time().Add(2*time.Hour), string(text))
			a, err := s.Fetch(t.Context(), q)
			require.NoError(t, err)
			require.Len(t, a.Bars, 1)
			state := source.Judge(s.Info(), q, a, nil).Segments[0].State
			require.Equal(t, row[len(row)-1] == "1", state == coverage.Final)
			if state == coverage.Final {
				confirmed++
			}
		}
	}
	require.Equal(t, 4, confirmed)
	require.Greater(t, seen, confirmed)
}
