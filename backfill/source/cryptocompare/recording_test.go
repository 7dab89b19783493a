package cryptocompare_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/coverage"
	"barkeep/backfill/source"
	"barkeep/backfill/source/cryptocompare"
	"barkeep/backfill/source/sourcetest"
	"barkeep/internal/market"
)

func seconds(n int64) market.Instant { return market.Instant(n * 1e6) }

func replay(t *testing.T, name string, now time.Time) *cryptocompare.Source {
	t.Helper()
	s, err := cryptocompare.New(source.Config{
		URL: sourcetest.Replay(t, sourcetest.Recorded(t, "cryptocompare", name)), Key: "k", Now: func() time.Time { return now },
	})
	require.NoError(t, err)
	return s
}

func query(tf market.Timeframe, first, last int64) source.Query {
	return source.Query{
		VendorID: "BTC/USD", Series: market.Series{Symbol: "cryptocompare:BTCUSD", Timeframe: tf},
		Range: market.Range{Start: seconds(first), End: tf.Next(seconds(last))},
	}
}

// CC2, CC3: one row more than the limit, toTs inclusive.
func TestRecordedToTs(t *testing.T) {
	t.Parallel()
	s := replay(t, "btc_to_usd_histo_minute_with_to_ts.json", time.Date(2017, 8, 12, 5, 31, 29, 0, time.UTC))
	q := query(market.M1, 1502515020-1440*60, 1502515020)
	a, err := s.Fetch(t.Context(), q)
	require.NoError(t, err)
	require.Len(t, a.Bars, 1441)
	require.Zero(t, a.Dropped)
	require.Equal(t, seconds(1502515889-29), a.Sent, "max-age=29 (CC8)")
}

// CC4: the last row is the minute in progress, and breaks low ≤ close ≤ high: it is taken, and not final.
func TestRecordedForming(t *testing.T) {
	t.Parallel()
	s := replay(t, "btc_to_usd_histo_minute_with_limit_10.json", time.Date(2017, 8, 12, 5, 39, 55, 0, time.UTC))
	q := query(market.M1, 1502516340-600, 1502516340)
	a, err := s.Fetch(t.Context(), q)
	require.NoError(t, err)
	require.Len(t, a.Bars, 11)
	last := a.Bars[10]
	require.Error(t, last.Check())
	a.Skew = 0 // the replay's clock is of today
	segments := source.Judge(s.Info(), q, a, nil).Segments
	require.Equal(t, coverage.Provisional, segments[len(segments)-1].State)

	later := replay(t, "btc_to_usd_histo_minute_with_limit_10.json", time.Date(2017, 8, 12, 6, 39, 55, 0, time.UTC))
	_, err = later.Fetch(t.Context(), q)
	require.ErrorIs(t, err, market.ErrBar)
}

// A late correction: an hour read ten minutes after its end is not final yet.
func TestRecordedCorrection(t *testing.T) {
	t.Parallel()
	s := replay(t, "btc_to_usd_histo_hour.json", time.Date(2017, 8, 11, 20, 10, 17, 0, time.UTC))
	q := query(market.H1, 1502478000, 1502478000)
	a, err := s.Fetch(t.Context(), q)
	require.NoError(t, err)
	require.InDelta(t, 3549.84, a.Bars[0].Close, 0)
	a.Skew = 0
	require.Equal(t, []source.Segment{{Range: q.Range, State: coverage.Provisional}}, source.Judge(s.Info(), q, a, nil).Segments)

	// Two days later it closed elsewhere, and then it is final.
	s = replay(t, "btc_to_usd_histo_hour_unaggregated.json", time.Date(2017, 8, 13, 0, 16, 5, 0, time.UTC))
	a, err = s.Fetch(t.Context(), q)
	require.NoError(t, err)
	require.InDelta(t, 3548.68, a.Bars[0].Close, 0)
	a.Skew = 0
	require.Equal(t, []source.Segment{{Range: q.Range, State: coverage.Final}}, source.Judge(s.Info(), q, a, nil).Segments)
}

// CC2, CC3, CC5: in every recording one row more comes than the limit, or than the default, and the last is at toTs.
func TestEveryRecording(t *testing.T) {
	t.Parallel()
	entries, err := os.ReadDir(filepath.Join(sourcetest.Recordings(t), "cryptocompare"))
	require.NoError(t, err)
	seen := 0
	for _, entry := range entries {
		if !strings.Contains(entry.Name(), "_histo_") {
			continue
		}
		seen++
		var recorded struct {
			URL        string `json:"url"`
			RecordedAt string `json:"recorded_at"`
			Body       struct {
				Data   []struct{ Time int64 }
				TimeTo int64
			} `json:"body"`
		}
		text, err := os.ReadFile(filepath.Join(sourcetest.Recordings(t), "cryptocompare", entry.Name()))
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(text, &recorded))
		address, err := url.Parse(recorded.URL)
		require.NoError(t, err)
		tf := map[string]market.Timeframe{"/data/histominute": market.M1, "/data/histohour": market.H1, "/data/histoday": market.D1}[address.Path]
		asked := address.Query()
		rows := map[market.Timeframe]int{market.M1: 1441, market.H1: 169, market.D1: 31}[tf]
		if limit := asked.Get("limit"); limit != "" {
			n, err := strconv.Atoi(limit)
			require.NoError(t, err)
			rows = n + 1
		}
		step := int64(tf.Step() / time.Second)
		if asked.Get("aggregate") == "2" {
			step *= 2
			rows = min(rows, 1001)
		}
		data := recorded.Body.Data
		require.Len(t, data, rows, entry.Name())
		last := data[len(data)-1].Time
		if asked.Get("toTs") != "" {
			require.Equal(t, asked.Get("toTs"), strconv.FormatInt(last, 10), entry.Name())
		}
		require.LessOrEqual(t, last, recorded.Body.TimeTo, entry.Name())
		if step > int64(tf.Step()/time.Second) {
			continue // barkeep aggregates nothing
		}
		at, err := http.ParseTime(recorded.RecordedAt)
		require.NoError(t, err)
		q := query(tf, data[0].Time, last)
		a, err := replay(t, entry.Name(), at).Fetch(t.Context(), q)
		require.NoError(t, err, entry.Name())
		require.Len(t, a.Bars, rows, entry.Name())
		require.Zero(t, a.Dropped, entry.Name())
	}
	require.Equal(t, 18, seen)
}

func TestRecordedV2(t *testing.T) {
	t.Parallel()
	s := replay(t, "v2_histoday_btcusd_limit30.json", time.Date(2022, 6, 20, 0, 0, 0, 0, time.UTC))
	a, err := s.Fetch(t.Context(), query(market.D1, 1652140800, 1654732800))
	require.NoError(t, err)
	require.Len(t, a.Bars, 31)
	require.Equal(t, market.Bar{
		TS: seconds(1652140800), Open: 30076.9, High: 32625.41, Low: 29836.19, Close: 31013.12, Volume: 103840.6,
	}, a.Bars[0])
}

// CC7: errors come with HTTP 200.
func TestRecordedErrors(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"error_rate_limit_free.json", "error_rate_limit_paid.json"} {
		_, err := replay(t, name, time.Now()).Fetch(t.Context(), query(market.H1, 1502478000, 1502478000))
		require.ErrorIs(t, err, source.ErrRateLimited, name)
		again, after := source.Retryable(err)
		require.True(t, again)
		require.Positive(t, after)
	}
	_, err := replay(t, "error_no_data_for_tosymbol.json", time.Now()).Fetch(t.Context(), query(market.H1, 1502478000, 1502478000))
	require.ErrorIs(t, err, source.ErrUnknownInstrument)
}

// Keyless calls are refused in another envelope, with 401.
func TestKeyless(t *testing.T) {
	t.Parallel()
	s, err := cryptocompare.New(source.Config{URL: sourcetest.Replay(t, sourcetest.Recording{
		Status: 401, Body: []byte(`{"Data":{},"Err":{"type":2,"message":"API key required, see the docs","http_status_code":401}}`),
	})})
	require.NoError(t, err)
	_, err = s.Fetch(t.Context(), query(market.H1, 1502478000, 1502478000))
	require.ErrorIs(t, err, source.ErrRefused)
	require.ErrorContains(t, err, "API key required")
	again, _ := source.Retryable(err)
	require.False(t, again)
}

// CC9, CC10: zeros before the depth are unavailable, not empty.
func TestZeros(t *testing.T) {
	t.Parallel()
	s, err := cryptocompare.New(source.Config{URL: sourcetest.Replay(t, sourcetest.Recording{
		Status: 200, Body: []byte(`{"Response":"Success","Type":100,"Data":{"Data":[{"time":1502478000,"high":0,"low":0,"open":0,"volumefrom":0,"volumeto":0,"close":0,"conversionType":"direct"}]}}`),
	})})
	require.NoError(t, err)
	for tf, want := range map[market.Timeframe]coverage.State{market.M1: coverage.Unavailable, market.H1: coverage.Absent} {
		q := query(tf, 1502478000, 1502478000)
		a, err := s.Fetch(t.Context(), q)
		require.NoError(t, err)
		segments := source.Judge(s.Info(), q, a, &a).Segments
		require.Len(t, segments, 1)
		require.Equal(t, want, segments[0].State)
	}
}

// CC9: minutes that are missing before the first one, near the end of the depth, may be there on another plan.
func TestEndOfDepth(t *testing.T) {
	t.Parallel()
	now := time.Date(2024, 1, 8, 0, 0, 0, 0, time.UTC)
	for after, want := range map[time.Duration][]coverage.State{
		0:              {coverage.Unavailable, coverage.Final},
		48 * time.Hour: {coverage.Provisional, coverage.Final}, // dense: to be read again
	} {
		first := now.Add(-7*24*time.Hour + after).Unix()
		row := func(at int64, price int) string {
			return fmt.Sprintf(`{"time":%d,"high":%[2]d,"low":%[2]d,"open":%[2]d,"volumefrom":1,"volumeto":1,"close":%[2]d,"conversionType":"direct"}`, at, price)
		}
		s, err := cryptocompare.New(source.Config{Key: "k", Now: func() time.Time { return now }, URL: sourcetest.Answering(t,
			`{"Response":"Success","Type":100,"Data":{"Data":[`+row(first, 0)+`,`+row(first+60, 5)+`]}}`)})
		require.NoError(t, err)
		q := query(market.M1, first, first+60)
		a, err := s.Fetch(t.Context(), q)
		require.NoError(t, err)
		a.Skew = 0
		j := source.Judge(s.Info(), q, a, nil)
		var states []coverage.State
		for _, segment := range j.Segments {
			states = append(states, segment.State)
		}
		require.Equal(t, want, states)
		require.Equal(t, after > 0, j.Again)
	}
}

// Both routes' shapes of the list of pairs.
func TestPairs(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`{"Response":"Success","Type":100,"RateLimit":{},"Data":{"pairs":{"BTC":{"tsyms":{"USD":{"histo_minute_start_ts":1},"EUR":{}}},"$A:":{"tsyms":{"USD":{}}}}}}`,
		`{"Response":"Success","Type":100,"RateLimit":{},"Data":{"BTC":{"USD":{"markets":["Kraken"]},"EUR":{"markets":[]}},"$A:":{"USD":{"markets":[]}}}}`,
	} {
		s, err := cryptocompare.New(source.Config{Key: "k", URL: sourcetest.Answering(t, text)})
		require.NoError(t, err)
		list, err := s.Instruments(t.Context())
		require.NoError(t, err)
		var ids []string
		for _, i := range list {
			require.Equal(t, i.Base+i.Quote, i.Symbol)
			ids = append(ids, i.VendorID)
		}
		require.Equal(t, []string{"BTC/USD", "BTC/EUR"}, ids)
	}
}
