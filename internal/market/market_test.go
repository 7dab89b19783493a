package market_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"barkeep/internal/market"
)

func at(t *testing.T, text string) market.Instant {
	t.Helper()
	parsed, err := time.Parse(time.RFC3339, text)
	require.NoError(t, err)
	return market.FromTime(parsed)
}

func TestParseSymbol(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"BTCUSD", "coinbase:BTCUSD", "1000SHIBUSDT", "a:b:c"} {
		s, err := market.ParseSymbol(good)
		require.NoError(t, err)
		require.Equal(t, good, string(s))
	}
	for _, bad := range []string{"", ":BTC", "sim:", "a\x00b", "a\nb", "\xff", string(make([]byte, 200))} {
		_, err := market.ParseSymbol(bad)
		require.ErrorIs(t, err, market.ErrSymbol, "%q", bad)
	}
	source, name := market.Symbol("coinbase:BTCUSD").Split()
	require.Equal(t, [2]string{"coinbase", "BTCUSD"}, [2]string{source, name})
	source, name = market.Symbol("BTCUSD").Split()
	require.Equal(t, [2]string{"", "BTCUSD"}, [2]string{source, name})
}

func TestTimeframeNames(t *testing.T) {
	t.Parallel()
	for _, tf := range market.Timeframes() {
		got, err := market.ParseTimeframe(tf.String())
		require.NoError(t, err)
		require.Equal(t, tf, got)
	}
	for _, bad := range []string{"", "1", "1H", "60m", "1mo", " 1m", "2m"} {
		_, err := market.ParseTimeframe(bad)
		require.ErrorIs(t, err, market.ErrTimeframe, "%q", bad)
	}
}

func TestGrid(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ tf, in, floor, ceil string }{
		{"1m", "2024-02-29T23:59:59Z", "2024-02-29T23:59:00Z", "2024-03-01T00:00:00Z"},
		{"1h", "2024-01-01T12:00:00Z", "2024-01-01T12:00:00Z", "2024-01-01T12:00:00Z"},
		{"8h", "2024-01-01T15:59:59Z", "2024-01-01T08:00:00Z", "2024-01-01T16:00:00Z"},
		{"1d", "1969-12-31T12:00:00Z", "1969-12-31T00:00:00Z", "1970-01-01T00:00:00Z"},
		{"3d", "1970-01-05T00:00:00Z", "1970-01-04T00:00:00Z", "1970-01-07T00:00:00Z"},
		{"1w", "2024-01-03T00:00:00Z", "2024-01-01T00:00:00Z", "2024-01-08T00:00:00Z"},
		{"1w", "1970-01-01T00:00:00Z", "1969-12-29T00:00:00Z", "1970-01-05T00:00:00Z"},
		{"1M", "2024-02-29T00:00:00Z", "2024-02-01T00:00:00Z", "2024-03-01T00:00:00Z"},
		{"1M", "2023-12-01T00:00:00Z", "2023-12-01T00:00:00Z", "2023-12-01T00:00:00Z"},
	} {
		tf, err := market.ParseTimeframe(c.tf)
		require.NoError(t, err)
		require.Equal(t, at(t, c.floor), tf.Floor(at(t, c.in)), "%s floor %s", c.tf, c.in)
		require.Equal(t, at(t, c.ceil), tf.Ceil(at(t, c.in)), "%s ceil %s", c.tf, c.in)
	}
}

func TestRule1InwardInRangeInOutward(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		tf := rapid.SampledFrom(market.Timeframes()).Draw(t, "timeframe")
		start := market.Instant(rapid.Int64Range(-4e15, 4e15).Draw(t, "start"))
		r := market.Range{Start: start, End: start + market.Instant(rapid.Int64Range(1, 9e12).Draw(t, "length"))}
		out, in := r.Outward(tf), r.Inward(tf)
		require.Equal(t, r, r.Intersect(out))
		require.Equal(t, in, in.Intersect(r))
		require.True(t, tf.OnGrid(out.Start) && tf.OnGrid(out.End))
		if !in.Empty() {
			require.Less(t, int64(r.Start-1), int64(in.Start))
			require.Equal(t, in, in.Inward(tf))
			require.Equal(t, in, in.Outward(tf))
			require.GreaterOrEqual(t, tf.Count(out), tf.Count(in))
		}
		n := rapid.Int64Range(-5000, 5000).Draw(t, "n")
		floor := tf.Floor(start)
		require.Equal(t, floor, tf.Add(tf.Add(floor, n), -n))
		if n > 0 {
			require.Equal(t, n, tf.Count(market.Range{Start: floor, End: tf.Add(floor, n)}))
		}
	})
}

func TestInfinities(t *testing.T) {
	t.Parallel()
	for _, tf := range market.Timeframes() {
		require.Equal(t, market.Always, market.Always.Outward(tf))
		require.Equal(t, market.Always, market.Always.Inward(tf))
		require.Equal(t, market.PosInf, tf.Add(0, int64(market.PosInf)))
		require.Equal(t, market.NegInf, tf.Add(0, int64(market.NegInf)))
	}
	require.Equal(t, int64(market.PosInf), market.RangeSet{market.Always}.Count(market.M1))
	require.Equal(t, "[-infinity, infinity)", market.Always.String())
	require.Equal(t, market.PosInf, market.PosInf.Shift(-time.Hour))
}

// The set operations against a bitmap of minutes.
func TestRangeSetAgainstBitmap(t *testing.T) {
	t.Parallel()
	const size = 64
	type bitmap [size]bool
	draw := func(t *rapid.T, name string) (market.RangeSet, bitmap) {
		var ranges []market.Range
		var bits bitmap
		for range rapid.IntRange(0, 6).Draw(t, name+" count") {
			a := rapid.IntRange(0, size).Draw(t, name+" start")
			b := rapid.IntRange(0, size).Draw(t, name+" end")
			ranges = append(ranges, market.Range{Start: market.Instant(a), End: market.Instant(b)})
			for i := a; i < b; i++ {
				bits[i] = true
			}
		}
		return market.NewRangeSet(ranges...), bits
	}
	same := func(t *rapid.T, set market.RangeSet, bits bitmap) {
		for i := range size {
			require.Equal(t, bits[i], set.Contains(market.Instant(i)), "%s at %d", set, i)
		}
		for k, r := range set {
			require.False(t, r.Empty())
			require.True(t, k == 0 || set[k-1].End < r.Start, "not normal: %s", set)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		a, abits := draw(t, "a")
		b, bbits := draw(t, "b")
		same(t, a, abits)
		var or, and, less bitmap
		for i := range size {
			or[i], and[i], less[i] = abits[i] || bbits[i], abits[i] && bbits[i], abits[i] && !bbits[i]
		}
		same(t, a.Union(b), or)
		same(t, a.Intersect(b), and)
		same(t, a.Subtract(b), less)
		for _, r := range b {
			require.Equal(t, market.RangeSet{r}.Subtract(a).Empty(), a.ContainsRange(r))
		}
	})
}

func TestBarCheck(t *testing.T) {
	t.Parallel()
	good := market.Bar{Open: 2, High: 3, Low: 1, Close: 2, Volume: 0}
	require.NoError(t, good.Check())
	for name, spoil := range map[string]func(*market.Bar){
		"low": func(b *market.Bar) { b.Low = 2.5 }, "high": func(b *market.Bar) { b.High = 1.5 },
		"volume": func(b *market.Bar) { b.Volume = -1 },
		"open":   func(b *market.Bar) { b.Open = nan() }, "close": func(b *market.Bar) { b.Close = 1 / zero() },
	} {
		bad := good
		spoil(&bad)
		require.ErrorIs(t, bad.Check(), market.ErrBar, name)
	}
}

func zero() float64 { return 0 }
func nan() float64  { return zero() / zero() }
