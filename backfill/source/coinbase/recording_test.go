package coinbase_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/coverage"
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

func candles(first int64, n int) string {
	var text strings.Builder
	for i := range n {
		fmt.Fprintf(&text, ",[%d,1,1,1,1,1]", first+int64(i)*60)
	}
	return "[" + text.String()[1:] + "]"
}

// The candle that opens at end is given, or not, or end is rounded up: each time the page has all its bars, none is reported
// absent that is there, and an empty range is no error.
func TestEndOfTheRange(t *testing.T) {
	t.Parallel()
	const start, bars = 1704067200, 10
	for name, last := range map[string]func(end int64) int64{
		"inclusive":  func(end int64) int64 { return end },
		"exclusive":  func(end int64) int64 { return end - 1 },
		"rounded up": func(end int64) int64 { return (end + 59) / 60 * 60 },
	} {
		for first := range map[int64]bool{start: true, start + 60*bars: true} { // from the start on, or not before the end
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				end, err := time.Parse(time.RFC3339, r.URL.Query().Get("end"))
				if err != nil {
					http.Error(w, "{}", http.StatusBadRequest)
					return
				}
				rows := []string{}
				for at := first; at <= last(end.Unix()); at += 60 {
					rows = append(rows, fmt.Sprintf("[%d,1,1,1,1,1]", at))
				}
				_, _ = fmt.Fprintf(w, "[%s]", strings.Join(rows, ","))
			}))
			t.Cleanup(server.Close)
			s, err := coinbase.New(source.Config{URL: server.URL})
			require.NoError(t, err)
			at := market.Instant(start * 1e6)
			a, err := s.Fetch(t.Context(), source.Query{
				VendorID: "BTC-USD", Series: market.Series{Symbol: "coinbase:BTCUSD", Timeframe: market.M1},
				Range: market.Range{Start: at, End: market.M1.Add(at, bars)},
			})
			require.NoError(t, err, name)
			want := bars
			if first > start {
				want = 0
			}
			require.Len(t, a.Bars, want, name)
		}
	}
}

// CB1: a candle may precede the start. The order of the rows is not relied on, and neither is which end is cut where the
// rows are as many as can be.
func TestPrecedingRows(t *testing.T) {
	t.Parallel()
	const start = 1704067200
	limit := 0
	fetch := func(body string) (source.Answer, source.Query, error) {
		s, err := coinbase.New(source.Config{URL: sourcetest.Answering(t, body)})
		require.NoError(t, err)
		limit = s.Info().PageLimit
		at := market.Instant(start * 1e6)
		q := source.Query{
			VendorID: "BTC-USD", Series: market.Series{Symbol: "coinbase:BTCUSD", Timeframe: market.M1},
			Range: market.Range{Start: at, End: market.M1.Add(at, int64(limit))},
		}
		a, err := s.Fetch(t.Context(), q)
		return a, q, err
	}
	a, q, err := fetch(candles(start-60, 299))
	require.NoError(t, err)
	require.Equal(t, 1, a.Dropped)
	require.Len(t, a.Bars, 298)
	require.Equal(t, []source.Segment{
		{Range: market.Range{Start: q.Range.Start, End: market.M1.Add(q.Range.Start, 298)}, State: coverage.Final},
		{Range: market.Range{Start: market.M1.Add(q.Range.Start, 298), End: q.Range.End}, State: coverage.Absent},
	}, source.Judge(source.Info{}, q, a, nil).Segments)
	_, _, err = fetch(candles(start-60, 300))
	require.ErrorIs(t, err, source.ErrAnswer)
	_, _, err = fetch(candles(start-600, 10))
	require.NoError(t, err, "only rows before the start are an empty answer")
}
