// Package sourcetest is the conformance suite that every source passes.
package sourcetest

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/coverage"
	"barkeep/backfill/source"
	"barkeep/internal/exchange"
	"barkeep/internal/market"
)

// Subject is the source under test.
type Subject struct {
	// New makes the source; config's URL is that of the stand-in exchange, its Path an empty folder.
	New func(tb testing.TB, config source.Config) source.Source
	// Network means that the source asks the exchange, so that the exchange's faults reach it.
	Network bool
	// BTCUSD, NEWUSD and OLDUSD are its vendor ids for those coins of the computed market.
	BTCUSD, NEWUSD, OLDUSD string
	// Key is the key that the exchange demands.
	Key string
	// Now is when the test takes place, zero for today: a source without depth is tried while the market's changes are within
	// its reach.
	Now time.Time
	// Newest means that an answer reaches to the bar that forms, whatever was asked.
	Newest bool
	// NewestFirst means that the vendor's rows descend.
	NewestFirst bool
}

func instant(tb testing.TB, text string) market.Instant {
	tb.Helper()
	t, err := time.Parse(time.RFC3339, text)
	require.NoError(tb, err)
	return market.FromTime(t)
}

// rig is one source at one exchange.
type rig struct {
	Subject
	exchange *exchange.Server
	source   source.Source
	info     source.Info
	now      func() time.Time
}

func (s Subject) rig(tb testing.TB) *rig {
	tb.Helper()
	now := time.Now
	if !s.Now.IsZero() {
		began := time.Now()
		now = func() time.Time { return s.Now.Add(time.Since(began)) }
	}
	server := exchange.New(exchange.Config{Key: s.Key, Now: now})
	listener := httptest.NewServer(server)
	tb.Cleanup(listener.Close)
	config := source.Config{URL: listener.URL, Rate: 1e6, Burst: 1000, Key: s.Key, Now: now}
	made := s.New(tb, config)
	return &rig{Subject: s, exchange: server, source: made, info: made.Info(), now: now}
}

// base is the shortest timeframe in which the vendor keeps history, or of those without, the one that reaches back furthest.
func (r *rig) base() market.Timeframe {
	var base market.Timeframe
	for _, tf := range r.info.Native {
		if r.info.Depth[tf] == 0 {
			return tf
		}
		if base == 0 || r.info.Depth[tf] > r.info.Depth[base] {
			base = tf
		}
	}
	return base
}

// shallow reports whether the vendor keeps no timeframe for good.
func (r *rig) shallow() bool { return r.info.Depth[r.base()] > 0 }

// settled is a time long past every lag, on the grid of every timeframe but the month's; where the vendor does not reach
// back that far, it lies in the middle of what it has of tf.
func (r *rig) settled(tf market.Timeframe) market.Instant {
	if depth := r.info.Depth[tf]; depth > 0 {
		return tf.Floor(r.today().Shift(-depth / 2))
	}
	return market.FromTime(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC))
}

func (r *rig) today() market.Instant { return market.FromTime(r.now()) }

func (r *rig) query(tb testing.TB, id string, tf market.Timeframe, start market.Instant, n int64) source.Query {
	tb.Helper()
	return source.Query{
		VendorID: id, Series: market.Series{Symbol: "BTCUSD", Timeframe: tf},
		Range: market.Range{Start: tf.Floor(start), End: tf.Add(start, n)}, Priority: source.User,
	}
}

func truth(q source.Query) []market.Bar {
	return exchange.Truth("BTC", "USD", q.Series.Timeframe, q.Range)
}

// Run runs the suite.
func Run(t *testing.T, s Subject) { //nolint:thelper // it is the test
	for _, c := range []struct {
		name    string
		network bool
		run     func(*testing.T, *rig)
	}{
		{"info", false, testInfo},
		{"instruments", false, testInstruments},
		{"listing", false, testListing},
		{"pages", false, testPages},
		{"refuses what it cannot do", false, testRefuses},
		{"unknown instrument", false, testUnknown},
		{"empty", false, testEmpty},
		{"delisted", false, testDelisted},
		{"forming bar", false, testForming},
		{"cancelled", false, testCancelled},
		{"cancel after every page and resume", false, testResume},
		{"rate limited", true, testRateLimited},
		{"failures", true, testFailures},
		{"garbage", true, testGarbage},
		{"untidy rows", true, testUntidy},
		{"late rows", true, testLate},
		{"no instruments", true, testNoInstruments},
		{"hole", true, testHole},
		{"clock", true, testClock},
	} {
		if c.network && !s.Network {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(t, s.rig(t))
		})
	}
}

func testInfo(t *testing.T, r *rig) {
	t.Helper()
	require.NotEmpty(t, r.source.Name())
	require.NotEmpty(t, r.info.Native)
	require.IsIncreasing(t, r.info.Native)
	require.Positive(t, r.info.PageLimit)
	require.LessOrEqual(t, r.info.PageLimit, 8192, "PIPELINE 14")
	require.False(t, r.info.Earliest.IsInf())
	for _, tf := range r.info.Native {
		require.GreaterOrEqual(t, r.info.Finality.Of(tf), time.Duration(0))
	}
}

func testInstruments(t *testing.T, r *rig) {
	t.Helper()
	list, err := r.source.Instruments(t.Context())
	require.NoError(t, err)
	seen, found := map[string]bool{}, false
	for _, i := range list {
		require.False(t, seen[i.VendorID], "%s twice", i.VendorID)
		seen[i.VendorID] = true
		require.Equal(t, i.Symbol, i.Base+i.Quote)
		_, err := market.ParseSymbol(i.Symbol)
		require.NoError(t, err)
		if i.Symbol == "BTCUSD" {
			found = true
			require.Equal(t, source.Instrument{
				VendorID: r.BTCUSD, Symbol: "BTCUSD", Base: "BTC", Quote: "USD", Listed: i.Listed, Delisted: i.Delisted,
			}, i)
		}
	}
	require.True(t, found)
}

func testListing(t *testing.T, r *rig) {
	t.Helper()
	want := instant(t, "2023-06-15T04:00:00Z")
	if prober, can := r.source.(source.Prober); can {
		listed, err := prober.Listed(t.Context(), r.NEWUSD, source.User)
		require.NoError(t, err)
		require.Equal(t, want, listed)
		return
	}
	list, err := r.source.Instruments(t.Context())
	require.NoError(t, err)
	for _, i := range list {
		if i.VendorID == r.NEWUSD {
			if r.shallow() { // a vendor without history cannot know when it begins: to guess would hide bars
				want = market.NegInf
			}
			require.Equal(t, want, i.Listed)
			return
		}
	}
	require.Fail(t, "not listed")
}

func testPages(t *testing.T, r *rig) {
	t.Helper()
	for _, tf := range r.info.Native {
		if r.info.Depth[tf] > 0 && !r.shallow() {
			continue
		}
		n, first := int64(r.info.PageLimit), instant(t, "2015-02-01T00:00:00Z")
		if depth := r.info.Depth[tf]; depth > 0 {
			first = tf.Add(r.today().Shift(-depth), 5)
		}
		if most := tf.Count(market.Range{Start: first, End: r.settled(tf)}); n > most {
			n = most
		}
		for _, count := range []int64{1, 2, n - 1, n} {
			q := r.query(t, r.BTCUSD, tf, tf.Add(r.settled(tf), -n), count)
			a, err := r.source.Fetch(t.Context(), q)
			require.NoError(t, err, "%s × %d", tf, count)
			require.Equal(t, truth(q), a.Bars, "%s × %d", tf, count)
			require.InDelta(t, float64(r.today()), float64(a.Sent), 60e6)
			j := source.Judge(r.info, q, a, nil)
			require.Equal(t, []source.Segment{{Range: q.Range, State: coverage.Final}}, j.Segments)
			require.False(t, j.Again)
			require.True(t, j.Rest.Empty())
		}
	}
}

func testRefuses(t *testing.T, r *rig) {
	t.Helper()
	tf := r.base()
	for name, q := range map[string]source.Query{
		"too many": r.query(t, r.BTCUSD, tf, r.settled(tf), int64(r.info.PageLimit)+1),
		"empty":    r.query(t, r.BTCUSD, tf, r.settled(tf), 0),
		"off grid": {VendorID: r.BTCUSD, Series: market.Series{Timeframe: tf}, Range: market.Range{Start: 1, End: 2}},
		"infinite": {VendorID: r.BTCUSD, Series: market.Series{Timeframe: tf}, Range: market.Always},
	} {
		_, err := r.source.Fetch(t.Context(), q)
		require.Error(t, err, name)
		again, _ := source.Retryable(err)
		require.False(t, again, name)
	}
	for _, tf := range market.Timeframes() {
		if r.info.HasNative(tf) {
			continue
		}
		_, err := r.source.Fetch(t.Context(), r.query(t, r.BTCUSD, tf, r.settled(tf), 1))
		require.ErrorIs(t, err, source.ErrTimeframe)
		require.Equal(t, "0A000", state(t, err))
		require.ErrorContains(t, err, r.info.NativeNames())
	}
}

func state(t *testing.T, err error) string {
	t.Helper()
	var e *source.Error
	require.ErrorAs(t, err, &e)
	return e.SQLState()
}

func testUnknown(t *testing.T, r *rig) {
	t.Helper()
	id := strings.NewReplacer("BTC", "NOPE", "btc", "nope", "XBT", "NOPE").Replace(r.BTCUSD)
	_, err := r.source.Fetch(t.Context(), r.query(t, id, r.base(), r.settled(r.base()), 5))
	require.ErrorIs(t, err, source.ErrUnknownInstrument)
	require.Equal(t, "22023", state(t, err))
	again, _ := source.Retryable(err)
	require.False(t, again)
}

// A page before the listing has no rows; two readings make it absent.
func testEmpty(t *testing.T, r *rig) {
	t.Helper()
	q := r.query(t, r.NEWUSD, r.base(), instant(t, "2023-05-01T00:00:00Z"), 10)
	first, err := r.source.Fetch(t.Context(), q)
	require.NoError(t, err)
	require.Empty(t, first.Bars)
	j := source.Judge(r.info, q, first, nil)
	require.True(t, j.Again)
	require.Equal(t, []source.Segment{{Range: q.Range, State: coverage.Provisional}}, j.Segments)
	second, err := r.source.Fetch(t.Context(), q)
	require.NoError(t, err)
	j = source.Judge(r.info, q, second, &first)
	require.False(t, j.Again)
	require.Equal(t, []source.Segment{{Range: q.Range, State: coverage.Absent}}, j.Segments)
}

func testDelisted(t *testing.T, r *rig) {
	t.Helper()
	tf := r.base()
	end := tf.Ceil(instant(t, "2022-05-13T02:00:00Z"))
	q := r.query(t, r.OLDUSD, tf, tf.Add(end, -3), 10)
	a, err := r.source.Fetch(t.Context(), q)
	require.NoError(t, err)
	require.Equal(t, exchange.Truth("OLD", "USD", tf, q.Range), a.Bars)
	j := source.Judge(r.info, q, a, &a)
	require.Equal(t, []source.Segment{
		{Range: market.Range{Start: q.Range.Start, End: end}, State: coverage.Final},
		{Range: market.Range{Start: end, End: q.Range.End}, State: coverage.Absent},
	}, j.Segments)
}

// The bar that forms, and what lies ahead, is never final.
func testForming(t *testing.T, r *rig) {
	t.Helper()
	tf := market.H1
	now := r.today()
	q := r.query(t, r.BTCUSD, tf, tf.Add(now, -5), 10)
	a, err := r.source.Fetch(t.Context(), q)
	require.NoError(t, err)
	j := source.Judge(r.info, q, a, &a)
	last := j.Segments[len(j.Segments)-1]
	require.Equal(t, coverage.Provisional, last.State)
	require.LessOrEqual(t, last.Range.Start, tf.Floor(now))
	require.Equal(t, q.Range.End, last.Range.End)
}

func testCancelled(t *testing.T, r *rig) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := r.source.Fetch(ctx, r.query(t, r.BTCUSD, r.base(), r.settled(r.base()), 5))
	require.ErrorIs(t, err, context.Canceled)
}

func testResume(t *testing.T, r *rig) {
	t.Helper()
	tf := r.base()
	const pages, size = 4, 50
	all := r.query(t, r.BTCUSD, tf, r.settled(tf), pages*size)
	var got []market.Bar
	for n := range int64(pages) {
		ctx, cancel := context.WithCancel(t.Context())
		q := r.query(t, r.BTCUSD, tf, tf.Add(all.Range.Start, n*size), size)
		a, err := r.source.Fetch(ctx, q)
		require.NoError(t, err)
		got = append(got, a.Bars...)
		cancel()
		_, err = r.source.Fetch(ctx, q)
		require.Error(t, err)
	}
	require.Equal(t, truth(all), got)
}
