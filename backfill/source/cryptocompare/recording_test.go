package cryptocompare_test

import (
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
