package binance_test

import (
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
	"barkeep/backfill/source/binance"
	"barkeep/backfill/source/sourcetest"
	"barkeep/internal/market"
)

func ms(n int64) market.Instant { return market.Instant(n * 1000) }

func fetch(t *testing.T, name string, tf market.Timeframe, r market.Range) (source.Answer, source.Query, error) {
	t.Helper()
	s, err := binance.New(source.Config{URL: sourcetest.Replay(t, sourcetest.Recorded(t, "binance", name))})
	require.NoError(t, err)
	q := source.Query{VendorID: "BTCUSDT", Series: market.Series{Symbol: "binance:BTCUSDT", Timeframe: tf}, Range: r}
	a, err := s.Fetch(t.Context(), q)
	return a, q, err
}

// Every recorded answer parses, and is an error only where it was asked for in the wrong unit (BN6).
func TestRecordings(t *testing.T) {
	t.Parallel()
	entries, err := os.ReadDir(filepath.Join(sourcetest.Recordings(t), "binance"))
	require.NoError(t, err)
	for _, entry := range entries {
		if !strings.Contains(entry.Name(), "klines") || !strings.Contains(entry.Name(), "startTime") {
			continue
		}
		parts := strings.Split(strings.TrimSuffix(entry.Name(), ".json"), "_")
		asked := url.Values{}
		for i := 0; i+1 < len(parts); i++ {
			asked.Set(parts[i], parts[i+1])
		}
		tf, err := market.ParseTimeframe(asked.Get("interval"))
		require.NoError(t, err)
		start, err := strconv.ParseInt(asked.Get("startTime"), 10, 64)
		require.NoError(t, err)
		end, err := strconv.ParseInt(asked.Get("endTime"), 10, 64)
		require.NoError(t, err)
		r := market.Range{Start: tf.Ceil(ms(start)), End: tf.Next(ms(end))}
		r.End = max(min(r.End, tf.Add(r.Start, 1000)), tf.Next(r.Start))
		a, _, err := fetch(t, entry.Name(), tf, r)
		if start < 1e11 || strings.Contains(entry.Name(), "LTCUSDT") { // seconds; or answered with other rows than asked
			require.ErrorIs(t, err, source.ErrAnswer, entry.Name())
			continue
		}
		require.NoError(t, err, entry.Name())
		require.NotEmpty(t, a.Bars, entry.Name())
	}
}

// BN5: maintenance hours are absent; they are read twice, then absent.
func TestMaintenance(t *testing.T) {
	t.Parallel()
	r := market.Range{Start: ms(1591880400000), End: market.H1.Next(ms(1593572400000))}
	a, q, err := fetch(t, "api_v3_klines_endTime_1593572400000_interval_1h_limit_1000_startTime_1591880400000_symbol_BTCUSDT.json", market.H1, r)
	require.NoError(t, err)
	require.Len(t, a.Bars, 468)
	info := source.Info{Dense: true}
	require.True(t, source.Judge(info, q, a, nil).Again)
	j := source.Judge(info, q, a, &a)
	var absent []market.Range
	for _, s := range j.Segments {
		if s.State == coverage.Absent {
			absent = append(absent, s.Range)
		}
	}
	require.Contains(t, absent, market.Range{Start: ms(1593309600000), End: ms(1593309600000 + 3*3600000)})
}

// BN4: asked for from before the listing, the first row is the listing.
func TestListing(t *testing.T) {
	t.Parallel()
	r := market.Range{Start: ms(1546300800000), End: market.D1.Next(ms(1577836800000))}
	a, q, err := fetch(t, "fapi_v1_klines_endTime_1577836800000_interval_1d_limit_1000_startTime_1546300800000_symbol_BTCUSDT.json", market.D1, r)
	require.NoError(t, err)
	require.Len(t, a.Bars, 116)
	listed := market.FromTime(time.Date(2019, 9, 8, 0, 0, 0, 0, time.UTC))
	require.Equal(t, listed, a.Bars[0].TS)
	require.Zero(t, a.Dropped)
	segments := source.Judge(source.Info{Dense: true}, q, a, &a).Segments
	require.Equal(t, source.Segment{Range: market.Range{Start: r.Start, End: listed}, State: coverage.Absent}, segments[0])
}

// BN6: asked for in seconds, it answers with status 200 and 500 unrelated rows.
func TestWrongUnit(t *testing.T) {
	t.Parallel()
	start := market.M5.Ceil(ms(1602816289))
	_, _, err := fetch(t, "fapi_v1_klines_endTime_1602819889_interval_5m_startTime_1602816289_symbol_LTCUSDT.json", market.M5,
		market.Range{Start: start, End: market.M5.Add(start, 12)})
	require.ErrorIs(t, err, source.ErrAnswer)
	require.ErrorContains(t, err, "all 500 rows lie outside")
}

func TestRecordedInstruments(t *testing.T) {
	t.Parallel()
	s, err := binance.New(source.Config{URL: sourcetest.Replay(t, sourcetest.Recorded(t, "binance", "exchangeInfo_truncated.json"))})
	require.NoError(t, err)
	list, err := s.Instruments(t.Context())
	require.NoError(t, err)
	require.Len(t, list, 3)
	for _, i := range list {
		require.Equal(t, i.Symbol, i.Base+i.Quote)
		require.Equal(t, i.Symbol, i.VendorID)
	}
}
