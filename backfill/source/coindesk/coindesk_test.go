package coindesk_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/coverage"
	"barkeep/backfill/source"
	"barkeep/backfill/source/coindesk"
	"barkeep/internal/market"
)

const first = market.Instant(1704067200 * 1e6)

func query(tf market.Timeframe, start market.Instant, n int64) source.Query {
	return source.Query{
		VendorID: "kraken/BTC-USD", Series: market.Series{Symbol: "coindesk:BTCUSD", Timeframe: tf},
		Range: market.Range{Start: start, End: tf.Add(start, n)},
	}
}

// vendor answers at now with a status and a text, and records what was asked.
func vendor(t *testing.T, now time.Time, status int, text func(url.Values) string) (*coindesk.Source, *http.Request) {
	t.Helper()
	asked := &http.Request{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*asked = *r
		w.Header().Set("Date", now.UTC().Format(http.TimeFormat))
		w.WriteHeader(status)
		_, _ = w.Write([]byte(text(r.URL.Query())))
	}))
	t.Cleanup(server.Close)
	s, err := coindesk.New(source.Config{URL: server.URL, Key: "hush", Market: "kraken", Now: func() time.Time { return now }})
	require.NoError(t, err)
	return s, asked
}

func always(text string) func(url.Values) string { return func(url.Values) string { return text } }

func rows(at ...market.Instant) string {
	var list []string
	for _, ts := range at {
		list = append(list, fmt.Sprintf(`{"UNIT":"HOUR","TIMESTAMP":%d,"OPEN":5,"HIGH":5,"LOW":5,"CLOSE":5,"VOLUME":1.5,"QUOTE_VOLUME":7.5}`, int64(ts)/1e6))
	}
	return `{"Data":[` + strings.Join(list, ",") + `],"Err":{}}`
}

// CD1, CD2: the key goes with each call, the market is the configured one, periods without trades are not filled. Whether to_ts
// is inclusive is not known: each way a page has its last bar.
func TestAsked(t *testing.T) {
	t.Parallel()
	hours := func(from, to int64) (all []market.Instant) {
		for n := from; n <= to; n++ {
			all = append(all, market.H1.Add(first, n))
		}
		return all
	}
	for name, until := range map[string]func(ts int64) int64{
		"inclusive": func(ts int64) int64 { return ts / 3600 }, "exclusive": func(ts int64) int64 { return (ts - 1) / 3600 },
	} {
		s, asked := vendor(t, time.Date(2024, 6, 1, 0, 0, 0, 0, time.UTC), 200, func(q url.Values) string {
			var ts int64
			_, _ = fmt.Sscan(q.Get("to_ts"), &ts)
			last := until(ts) - int64(first)/3600e6
			return rows(hours(last-10, last)...)
		})
		q := query(market.H1, first, 10)
		a, err := s.Fetch(t.Context(), q)
		require.NoError(t, err, name)
		require.Len(t, a.Bars, 10, name)
		require.Equal(t, market.Bar{TS: first, Open: 5, High: 5, Low: 5, Close: 5, Volume: 1.5}, a.Bars[0])
		require.Equal(t, []source.Segment{{Range: q.Range, State: coverage.Final}}, source.Judge(s.Info(), q, a, nil).Segments)
		require.Equal(t, "/spot/v1/historical/hours", asked.URL.Path)
		require.Equal(t, "Apikey hush", asked.Header.Get("Authorization"))
		require.NotContains(t, asked.URL.String(), "hush")
		sent := asked.URL.Query()
		require.Equal(t, []string{"kraken", "BTC-USD", "false", "11"}, []string{sent.Get("market"), sent.Get("instrument"), sent.Get("fill"), sent.Get("limit")})
	}
}

// With fill=false a hole is a period without trades: it is settled by one reading where rows stand around it. A page that was
// cut says nothing of what lies before its first row.
func TestSparse(t *testing.T) {
	t.Parallel()
	now := time.Date(2024, 6, 1, 0, 0, 0, 0, time.UTC)
	q := query(market.H1, first, 3)
	s, _ := vendor(t, now, 200, always(rows(market.H1.Add(first, -1), first, market.H1.Add(first, 2))))
	a, err := s.Fetch(t.Context(), q)
	require.NoError(t, err)
	require.Equal(t, []source.Segment{{Range: q.Range, State: coverage.Final}}, source.Judge(s.Info(), q, a, nil).Segments)

	s, _ = vendor(t, now, 200, always(rows(market.H1.Add(first, 1), market.H1.Add(first, 2), market.H1.Add(first, 3), market.H1.Add(first, 4))))
	a, err = s.Fetch(t.Context(), q)
	require.NoError(t, err)
	require.Equal(t, market.Range{Start: first, End: market.H1.Next(first)}, source.Judge(s.Info(), q, a, nil).Rest)
}

// CC9: minutes reach seven days back; what is missing near there is unavailable, and says from when there are some.
func TestEndOfDepth(t *testing.T) {
	t.Parallel()
	now := first.Time()
	edge := first.Shift(-7 * 24 * time.Hour)
	s, _ := vendor(t, now, 200, always(rows(market.M1.Add(edge, 5), market.M1.Add(edge, 6))))
	q := query(market.M1, edge, 7)
	a, err := s.Fetch(t.Context(), q)
	require.NoError(t, err)
	segments := source.Judge(s.Info(), q, a, nil).Segments
	require.Len(t, segments, 2)
	require.Equal(t, coverage.Unavailable, segments[0].State)
	require.Equal(t, market.M1.Add(edge, 5), segments[0].Range.End)
	require.Contains(t, segments[0].Reason, "from 2023-12-25T00:00:00Z on")
	require.Equal(t, coverage.Final, segments[1].State)

	s, _ = vendor(t, now, 200, always(`{"Data":[],"Err":{}}`))
	a, err = s.Fetch(t.Context(), query(market.M1, edge.Shift(3*24*time.Hour), 7))
	require.NoError(t, err)
	require.Empty(t, a.Unavailable, "well inside the depth")
}

func TestErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status int
		text   string
		cause  error
		again  bool
	}{
		{401, `{"Data":{},"Err":{"type":2,"message":"API key required, hush","http_status_code":401}}`, source.ErrRefused, false},
		{404, `{"Data":{},"Err":{"type":1,"message":"Not found: instrument parameter. Not integrated"}}`, source.ErrUnknownInstrument, false},
		{200, `{"Data":{},"Err":{"type":1,"message":"Not found: instruments parameter. One or multiple"}}`, source.ErrUnknownInstrument, false},
		{404, `{"Data":{},"Err":{"type":1,"message":"Not found: market parameter. Not integrated"}}`, source.ErrRefused, false},
		{429, `{"Data":{},"Err":{"type":99,"message":"Rate limit"}}`, source.ErrRateLimited, true},
		{200, `{"Data":{},"Err":{"type":99,"message":"You are over your rate limit"}}`, source.ErrRateLimited, true},
		{200, `{"Data":{},"Err":{"type":3,"message":"broken","http_status_code":500}}`, source.ErrServer, true},
		{403, `<html>`, source.ErrRefused, false},
		{403, `{"Data":{},"Err":{}}`, source.ErrRefused, false},
		{200, `{"Err":{}}`, source.ErrAnswer, true},
		{200, `{"Data":[{"TIMESTAMP":1704067200,"OPEN":5,"HIGH":5,"LOW":5,"CLOSE":5}],"Err":{}}`, source.ErrAnswer, true},
	} {
		s, _ := vendor(t, time.Now(), c.status, always(c.text))
		_, err := s.Fetch(t.Context(), query(market.H1, first, 3))
		require.ErrorIs(t, err, c.cause, c.text)
		require.NotContains(t, err.Error(), "hush")
		again, after := source.Retryable(err)
		require.Equal(t, c.again, again, c.text)
		limited := c.cause == source.ErrRateLimited //nolint:errorlint // one of the table
		require.Equal(t, limited, after > 0, c.text)
	}
	// An instrument that it knows, and has nothing of: what it means is not known, so it is not absence.
	s, _ := vendor(t, time.Now(), 404, always(`{"Data":[],"Err":{"type":1,"message":"Not found: to_ts parameter. No data before"}}`))
	q := query(market.H1, first, 3)
	a, err := s.Fetch(t.Context(), q)
	require.NoError(t, err)
	segments := source.Judge(s.Info(), q, a, &a).Segments
	require.Len(t, segments, 1)
	require.Equal(t, coverage.Unavailable, segments[0].State)
	require.Contains(t, segments[0].Reason, "No data before")
}

// The market is a part of the id, so that bars of two venues are never one series (CC11).
func TestInstruments(t *testing.T) {
	t.Parallel()
	s, asked := vendor(t, time.Now(), 200, always(`{"Data":{"other":{"instruments":{"X-USD":{}}},"kraken":{"TYPE":"950","instruments":{"BTC-USD":{"INSTRUMENT":"BTC-USD"},"ODD":{},"A-B-C":{}}}},"Err":{}}`))
	list, err := s.Instruments(t.Context())
	require.NoError(t, err)
	require.Equal(t, []source.Instrument{{
		VendorID: "kraken/BTC-USD", Symbol: "BTCUSD", Base: "BTC", Quote: "USD", Listed: market.NegInf, Delisted: market.PosInf,
	}}, list)
	require.Equal(t, "kraken", asked.URL.Query().Get("market"))
}
