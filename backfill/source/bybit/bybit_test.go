package bybit_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/source"
	"barkeep/backfill/source/bybit"
	"barkeep/backfill/source/sourcetest"
	"barkeep/internal/market"
)

const first = market.Instant(1704067200 * 1e6)

func minutes(n int64) source.Query {
	return source.Query{
		VendorID: "BTCUSDT", Series: market.Series{Symbol: "bybit:BTCUSDT", Timeframe: market.M1},
		Range: market.Range{Start: first, End: market.M1.Add(first, n)},
	}
}

func at(t *testing.T, url string) *bybit.Source {
	t.Helper()
	s, err := bybit.New(source.Config{URL: url})
	require.NoError(t, err)
	return s
}

// kline serves the flat minutes between start and end as the parameters' reading picks them, newest first.
func kline(t *testing.T, asked *url.Values, from, to func(ms int64) int64) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*asked = r.URL.Query()
		var start, end int64
		_, err1 := fmt.Sscan(asked.Get("start"), &start)
		_, err2 := fmt.Sscan(asked.Get("end"), &end)
		if err1 != nil || err2 != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		var rows []string
		for ms := to(end); ms >= from(start); ms -= 60000 {
			rows = append(rows, fmt.Sprintf(`["%d","5","5","5","5","1.5","7.5"]`, ms))
		}
		_, _ = fmt.Fprintf(w, `{"retCode":0,"retMsg":"OK","result":{"category":"spot","list":[%s]},"time":1}`, strings.Join(rows, ","))
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// BY1: whether start and end are inclusive, and whether start is rounded up or down, is from memory: each way a page has all its
// bars.
func TestBoundsServeEitherWay(t *testing.T) {
	t.Parallel()
	const minute = 60000
	down := func(ms int64) int64 { return ms / minute * minute }
	up := func(ms int64) int64 { return (ms + minute - 1) / minute * minute }
	for name, c := range map[string]struct{ from, to func(int64) int64 }{
		"inclusive":          {up, down},
		"exclusive":          {func(ms int64) int64 { return down(ms) + minute }, func(ms int64) int64 { return up(ms) - minute }},
		"start rounded down": {down, down},
	} {
		for _, n := range []int64{1, 2, 998} {
			var asked url.Values
			q := minutes(n)
			a, err := at(t, kline(t, &asked, c.from, c.to)).Fetch(t.Context(), q)
			require.NoError(t, err, name)
			require.Len(t, a.Bars, int(n), name)
			require.Equal(t, q.Range.Start, a.Bars[0].TS, name)
			require.InDelta(t, 1.5, a.Bars[0].Volume, 0, "the volume is of the base, the turnover of the quote")
			require.Equal(t, "spot", asked.Get("category"))
			require.Equal(t, "1000", asked.Get("limit"))
		}
	}
	// As many rows as there can be may be cut, at either end.
	var asked url.Values
	early := func(ms int64) int64 { return down(ms) - minute }
	_, err := at(t, kline(t, &asked, early, down)).Fetch(t.Context(), minutes(998))
	require.ErrorIs(t, err, source.ErrAnswer)
	require.ErrorContains(t, err, "some may be cut")
}

func TestNamesOfTimeframes(t *testing.T) {
	t.Parallel()
	names := map[string]string{}
	var asked url.Values
	s := at(t, kline(t, &asked, func(ms int64) int64 { return ms }, func(int64) int64 { return 0 }))
	for _, tf := range s.Info().Native {
		q := source.Query{VendorID: "BTCUSDT", Series: market.Series{Timeframe: tf}}
		q.Range = market.Range{Start: tf.Floor(first), End: tf.Next(first)}
		_, err := s.Fetch(t.Context(), q)
		require.NoError(t, err)
		names[tf.String()] = asked.Get("interval")
	}
	require.Equal(t, map[string]string{
		"1m": "1", "3m": "3", "5m": "5", "15m": "15", "30m": "30", "1h": "60", "2h": "120", "4h": "240", "6h": "360", "12h": "720",
		"1d": "D", "1w": "W", "1M": "M",
	}, names)
}

// A list that names a next page is followed to its end; one that goes round in circles is an error.
func TestPagesOfTheList(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		pages := map[string][2]string{"": {"A", "a=1&b"}, "a=1&b": {"B", "c"}, "c": {"C", ""}}
		page := pages[r.URL.Query().Get("cursor")]
		_, _ = fmt.Fprintf(w, `{"retCode":0,"result":{"nextPageCursor":%q,"list":[{"symbol":"%sUSD","baseCoin":"%sUSD","quoteCoin":"T"}]}}`, page[1], page[0], page[0])
	}))
	t.Cleanup(server.Close)
	list, err := at(t, server.URL).Instruments(t.Context())
	require.NoError(t, err)
	require.Len(t, list, 3)
	require.Equal(t, "CUSD", list[2].VendorID)

	circle := sourcetest.Answering(t, `{"retCode":0,"result":{"nextPageCursor":"x","list":[{"symbol":"AUSD","baseCoin":"A","quoteCoin":"USD"}]}}`)
	s, err := bybit.New(source.Config{URL: circle, Rate: 1e6, Burst: 1000})
	require.NoError(t, err)
	_, err = s.Instruments(t.Context())
	require.ErrorIs(t, err, source.ErrAnswer)
	require.ErrorContains(t, err, "does not end")
}

func TestErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status int
		text   string
		cause  error
		again  bool
		after  time.Duration
	}{
		{200, `{"retCode":10001,"retMsg":"Not supported symbols","result":{}}`, source.ErrUnknownInstrument, false, 0},
		{200, `{"retCode":10001,"retMsg":"params error: Symbol Invalid","result":{}}`, source.ErrUnknownInstrument, false, 0},
		{200, `{"retCode":10001,"retMsg":"Invalid period!","result":{}}`, source.ErrRefused, false, 0},
		{200, `{"retCode":10006,"retMsg":"Too many visits!","result":{}}`, source.ErrRateLimited, true, time.Second},
		{200, `{"retCode":10018,"retMsg":"Exceeded the IP Rate Limit.","result":{}}`, source.ErrRateLimited, true, 10 * time.Minute},
		{403, `access too frequent`, source.ErrRateLimited, true, 10 * time.Minute},
		{403, `<html>not from your country</html>`, source.ErrRefused, false, 0},
		{200, `{"retCode":10016,"retMsg":"Server error.","result":{}}`, source.ErrServer, true, 0},
		{200, `{"retCode":0,"retMsg":"OK","result":{}}`, source.ErrAnswer, true, 0},
		{200, `{"retCode":0,"result":{"list":[["1704067200000","5","5","5","5"]]}}`, source.ErrAnswer, true, 0},
		{200, `{"retCode":0,"result":{"list":[["1704067200000","5","?","5","5","1","1"]]}}`, source.ErrAnswer, true, 0},
	} {
		s := at(t, sourcetest.Replay(t, sourcetest.Recording{Status: c.status, Body: []byte(c.text)}))
		_, err := s.Fetch(t.Context(), minutes(10))
		require.ErrorIs(t, err, c.cause, c.text)
		again, after := source.Retryable(err)
		require.Equal(t, c.again, again, c.text)
		require.Equal(t, c.after, after, c.text)
		require.Equal(t, c.after > 0, s.Limiter().Earliest() > 0, c.text)
	}
}
