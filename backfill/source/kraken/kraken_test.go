package kraken_test

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
	"barkeep/backfill/source/kraken"
	"barkeep/backfill/source/sourcetest"
	"barkeep/internal/market"
)

// recorded is what GET /0/public/OHLC?pair=XBTUSD&interval=1&since=1788415200 answered on 2026-09-03, as published in a test of
// another project: since is inclusive, and "last" names the last row, which was forming.
const recorded = `{"error":[],"result":{"XXBTZUSD":[
	[1788415200,"77776.4","77800.0","77717.8","77736.8","77777.6","4.07649664",167],
	[1788415260,"77736.7","77741.5","77714.0","77714.7","77727.6","1.69139349",65],
	[1788415320,"77714.7","77730.3","77682.0","77707.9","77694.0","2.64594439",90],
	[1788415380,"77703.2","77703.2","77690.9","77701.7","77698.6","0.40658752",58]],"last":1788415380}}`

const first = market.Instant(1788415200 * 1e6)

func at(t *testing.T, url string, now time.Time) *kraken.Source {
	t.Helper()
	s, err := kraken.New(source.Config{URL: url, Now: func() time.Time { return now }})
	require.NoError(t, err)
	return s
}

func minutes(start market.Instant, n int64) source.Query {
	return source.Query{
		VendorID: "XXBTZUSD", Series: market.Series{Symbol: "kraken:BTCUSD", Timeframe: market.M1},
		Range: market.Range{Start: start, End: market.M1.Add(start, n)},
	}
}

// judged fetches and judges with the clocks in step: a replay's Date is of today.
func judged(t *testing.T, s *kraken.Source, q source.Query) (source.Answer, []source.Segment) {
	t.Helper()
	a, err := s.Fetch(t.Context(), q)
	require.NoError(t, err)
	a.Skew = 0
	return a, source.Judge(s.Info(), q, a, nil).Segments
}

// KR1: the last row is always the one that is not committed yet. It is not final when its minute and the lag are over, since
// trades may still be on their way into it; it is when the market has been at rest for an hour.
func TestLastRowIsNotFinal(t *testing.T) {
	t.Parallel()
	url := sourcetest.Answering(t, recorded)
	q := minutes(first, 4)
	whole := []source.Segment{{Range: q.Range, State: coverage.Final}}
	open := []source.Segment{
		{Range: market.Range{Start: first, End: market.M1.Add(first, 3)}, State: coverage.Final},
		{Range: market.Range{Start: market.M1.Add(first, 3), End: q.Range.End}, State: coverage.Provisional},
	}
	for after, want := range map[time.Duration][]source.Segment{
		-20 * time.Second: open, 20 * time.Second: open, time.Hour - time.Second: open, time.Hour: whole,
	} {
		s := at(t, url, q.Range.End.Time().Add(after))
		r, err := s.Fetch(t.Context(), q)
		require.NoError(t, err)
		r.Skew = 0
		require.Len(t, r.Bars, 4)
		require.Equal(t, want, source.Judge(s.Info(), q, r, nil).Segments, "%s after the close", after)
	}
	a, _ := judged(t, at(t, url, q.Range.End.Time()), q)
	require.Equal(t, market.Bar{
		TS: first, Open: 77776.4, High: 77800, Low: 77717.8, Close: 77736.8, Volume: 4.07649664,
	}, a.Bars[0], "the volume stands after the average price")
}

// kept serves rows of n minutes, the newest of which forms at now, and every gap-th of which had no trade.
func kept(t *testing.T, now time.Time, n, gap int) string {
	t.Helper()
	newest := now.Truncate(time.Minute).Unix()
	var rows []string
	for i := range n {
		if k := n - 1 - i; gap == 0 || k%gap != 1 {
			rows = append(rows, fmt.Sprintf(`[%d,"5","5","5","5","5","1",1]`, newest-int64(k)*60))
		}
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", now.UTC().Format(http.TimeFormat))
		_, _ = fmt.Fprintf(w, `{"error":[],"result":{"XXBTZUSD":[%s],"last":%d}}`, strings.Join(rows, ","), newest)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// PIPELINE 3, 5, KR1: what lies beyond the 720 bars is unavailable and says from when there are bars, whether the limit counts
// bars or minutes; never absent. What is missing within them is absent.
func TestDepth(t *testing.T) {
	t.Parallel()
	now := time.Date(2024, 1, 1, 12, 0, 30, 0, time.UTC)
	newest := market.M1.Floor(market.FromTime(now))
	oldest := market.M1.Add(newest, -719)

	t.Run("straddling", func(t *testing.T) {
		t.Parallel()
		q := minutes(market.M1.Add(oldest, -100), 200)
		a, segments := judged(t, at(t, kept(t, now, 720, 0), now), q)
		require.Len(t, a.Bars, 100)
		require.Len(t, segments, 2)
		require.Equal(t, coverage.Unavailable, segments[0].State)
		require.Equal(t, market.Range{Start: q.Range.Start, End: oldest}, segments[0].Range)
		require.Contains(t, segments[0].Reason, "from "+oldest.String()+" on")
		require.Equal(t, source.Segment{Range: market.Range{Start: oldest, End: q.Range.End}, State: coverage.Final}, segments[1])
	})
	t.Run("beyond", func(t *testing.T) {
		t.Parallel()
		q := minutes(market.M1.Add(oldest, -300), 100)
		_, segments := judged(t, at(t, kept(t, now, 720, 0), now), q)
		require.Len(t, segments, 1)
		require.Equal(t, coverage.Unavailable, segments[0].State)
		require.Contains(t, segments[0].Reason, "kraken keeps the newest 720 bars")
	})
	t.Run("the limit counts minutes", func(t *testing.T) {
		t.Parallel()
		q := minutes(market.M1.Add(oldest, -10), 60)
		a, segments := judged(t, at(t, kept(t, now, 720, 4), now), q)
		require.Less(t, len(a.Bars), 50)
		require.Equal(t, coverage.Unavailable, segments[0].State)
		require.LessOrEqual(t, segments[0].Range.End, market.M1.Add(oldest, 1))
		absent := 0
		for _, s := range segments[1:] {
			require.NotEqual(t, coverage.Unavailable, s.State)
			if s.State == coverage.Absent {
				absent++
			}
		}
		require.Zero(t, absent, "a hole between bars of a sparse source is final with them")
	})
	t.Run("the limit counts bars", func(t *testing.T) {
		t.Parallel()
		// 720 bars that stand for 960 minutes: what lies before minute 720 is there all the same.
		q := minutes(market.M1.Add(oldest, -100), 50)
		a, segments := judged(t, at(t, kept(t, now, 960, 4), now), q)
		require.NotEmpty(t, a.Bars)
		for _, s := range segments {
			require.NotEqual(t, coverage.Unavailable, s.State)
		}
	})
	t.Run("a young pair", func(t *testing.T) {
		t.Parallel()
		q := minutes(market.M1.Add(newest, -400), 100)
		a, segments := judged(t, at(t, kept(t, now, 200, 0), now), q)
		require.Empty(t, a.Bars)
		require.Equal(t, []source.Segment{{Range: q.Range, State: coverage.Provisional}}, segments)
		s := at(t, kept(t, now, 200, 0), now)
		require.Equal(t, []source.Segment{{Range: q.Range, State: coverage.Absent}}, source.Judge(s.Info(), q, a, &a).Segments)
	})
}

// Errors come with HTTP 200.
func TestErrors(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]struct {
		cause error
		again bool
	}{
		"EQuery:Unknown asset pair":        {source.ErrUnknownInstrument, false},
		"EAPI:Rate limit exceeded":         {source.ErrRateLimited, true},
		"EGeneral:Too many requests":       {source.ErrRateLimited, true},
		"EService: Throttled: 1788415200":  {source.ErrRateLimited, true},
		"EService:Unavailable":             {source.ErrServer, true},
		"EService:Market in cancel_only":   {source.ErrServer, true},
		"EGeneral:Internal error":          {source.ErrServer, true},
		"EGeneral:Invalid arguments:since": {source.ErrRefused, false},
	} {
		s := at(t, sourcetest.Answering(t, `{"error":["`+text+`"]}`), time.Now())
		_, err := s.Fetch(t.Context(), minutes(first, 4))
		require.ErrorIs(t, err, want.cause, text)
		again, after := source.Retryable(err)
		require.Equal(t, want.again, again, text)
		limited := want.cause == source.ErrRateLimited //nolint:errorlint // one of the table
		require.Equal(t, limited, after > 0, text)
		require.Equal(t, limited, s.Limiter().Earliest() > 0, text)
	}
	for _, text := range []string{
		`{"error":[],"result":{"last":1}}`, `{"result":{"XXBTZUSD":[]}}`, `{"error":[],"result":{"A":[],"B":[]}}`,
		`{"error":[],"result":{"A":[[1788415200,"1","1","1","1"]]}}`, `{"error":[],"result":{"A":[["soon","1","1","1","1","1","1",1]]}}`,
	} {
		_, err := at(t, sourcetest.Answering(t, text), time.Now()).Fetch(t.Context(), minutes(first, 4))
		require.ErrorIs(t, err, source.ErrAnswer, text)
	}
}

// Kraken's own names: XBT and XDG, classes before old assets, and pairs without a name for the feed.
func TestNames(t *testing.T) {
	t.Parallel()
	s := at(t, sourcetest.Answering(t, `{"error":[],"result":{
		"XXBTZUSD":{"altname":"XBTUSD","wsname":"XBT/USD","base":"XXBT","quote":"ZUSD","fees":[[0,0.4]]},
		"XXBTZUSD.d":{"altname":"XBTUSD.d","base":"XXBT","quote":"ZUSD"},
		"XETHXXBT":{"altname":"ETHXBT","wsname":"ETH/XBT"},"XDGUSD":{"altname":"XDGUSD","wsname":"XDG/USD"},
		"1INCHEUR":{"altname":"1INCHEUR","wsname":"1INCH/EUR"}}}`), time.Now())
	list, err := s.Instruments(t.Context())
	require.NoError(t, err)
	names := map[string]string{}
	for _, i := range list {
		names[i.VendorID] = i.Symbol
		require.Equal(t, market.NegInf, i.Listed)
	}
	require.Equal(t, map[string]string{
		"XXBTZUSD": "BTCUSD", "XETHXXBT": "ETHBTC", "XDGUSD": "DOGEUSD", "1INCHEUR": "1INCHEUR",
	}, names)
}
