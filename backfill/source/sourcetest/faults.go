package sourcetest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/coverage"
	"barkeep/backfill/source"
	"barkeep/internal/exchange"
	"barkeep/internal/market"
)

// limited is a source whose rate limit can be seen.
type limited interface{ Limiter() *source.Limiter }

func (r *rig) page(t *testing.T) source.Query {
	t.Helper()
	start := r.settled(r.base())
	if r.Newest { // faults are in the middle of an answer, which the page has to hold
		start = r.base().Add(r.today(), -120)
	}
	return r.query(t, r.BTCUSD, r.base(), start, 100)
}

// well asserts that the source recovers.
func (r *rig) well(t *testing.T) {
	t.Helper()
	r.exchange.Heal()
	q := r.page(t)
	a, err := r.source.Fetch(t.Context(), q)
	require.NoError(t, err)
	require.Equal(t, truth(q), a.Bars)
}

func testRateLimited(t *testing.T, r *rig) {
	t.Helper()
	r.exchange.Script(exchange.Fault{Status: 429, RetryAfter: time.Second, Times: 1})
	start := time.Now()
	_, err := r.source.Fetch(t.Context(), r.page(t))
	require.ErrorIs(t, err, source.ErrRateLimited)
	again, after := source.Retryable(err)
	require.True(t, again)
	require.Equal(t, time.Second, after)
	require.Positive(t, r.source.(limited).Limiter().Earliest()) //nolint:errcheck,forcetypeassert // a network source has one
	r.well(t)
	require.GreaterOrEqual(t, time.Since(start), time.Second, "asked again too early")

	r.exchange.Script(exchange.Fault{Status: 418, RetryAfter: time.Hour, Times: 1})
	_, err = r.source.Fetch(t.Context(), r.page(t))
	require.ErrorIs(t, err, source.ErrRateLimited)
	_, after = source.Retryable(err)
	require.Equal(t, time.Hour, after)
}

func testFailures(t *testing.T, r *rig) {
	t.Helper()
	for name, fault := range map[string]exchange.Fault{
		"500": {Status: 500}, "503": {Status: 503}, "cut": {Cut: true},
	} {
		r.exchange.Script(fault)
		_, err := r.source.Fetch(t.Context(), r.page(t))
		require.Error(t, err, name)
		again, _ := source.Retryable(err)
		require.True(t, again, name)
		require.Equal(t, "58000", state(t, err), name)
		r.well(t)
	}
	r.exchange.Script(exchange.Fault{SlowEvery: time.Millisecond})
	q := r.query(t, r.BTCUSD, r.base(), r.settled(r.base()), 20)
	a, err := r.source.Fetch(t.Context(), q)
	require.NoError(t, err)
	require.Equal(t, truth(q), a.Bars)
}

func testGarbage(t *testing.T, r *rig) {
	t.Helper()
	for name, fault := range map[string]exchange.Fault{
		"number": {Garble: true}, "outside": {Outside: true}, "off grid": {OffGrid: true}, "impossible": {Impossible: true},
		"html": {Body: "<html>maintenance</html>"}, "nothing": {Body: " "}, "other JSON": {Body: `{"a":[1,2]}`},
	} {
		r.exchange.Script(fault)
		_, err := r.source.Fetch(t.Context(), r.page(t))
		require.ErrorIs(t, err, source.ErrAnswer, name)
		again, _ := source.Retryable(err)
		require.True(t, again, name)
		require.ErrorContains(t, err, r.BTCUSD+" "+r.base().String(), name)
		if field, named := map[string]string{"number": `not a number`, "off grid": "time is off the grid", "impossible": "low"}[name]; named {
			require.ErrorContains(t, err, field, name)
			require.Regexp(t, `\b(read (open|high|low|close|volume)|time|low)\b`, err.Error(), name)
			require.Regexp(t, `\b20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ`, err.Error(), name)
		}
		r.well(t)
	}
}

// A list that names no market is no list: else every symbol were unknown.
func testNoInstruments(t *testing.T, r *rig) {
	t.Helper()
	for _, body := range []string{`[]`, `{}`, `{"symbols":[]}`, `{"Response":"Success","Data":{"pairs":{}}}`, `<html>`} {
		r.exchange.Script(exchange.Fault{Body: body})
		_, err := r.source.Instruments(t.Context())
		require.ErrorIs(t, err, source.ErrAnswer, body)
		again, _ := source.Retryable(err)
		require.True(t, again, body)
		r.well(t)
	}
}

func testUntidy(t *testing.T, r *rig) {
	t.Helper()
	q := r.page(t)
	for name, fault := range map[string]exchange.Fault{"shuffled": {Shuffle: true}, "beside": {Extra: 3}} {
		r.exchange.Script(fault)
		a, err := r.source.Fetch(t.Context(), q)
		require.NoError(t, err, name)
		require.Equal(t, truth(q), a.Bars, name)
		require.GreaterOrEqual(t, a.Dropped, 2*fault.Extra, name)
		r.exchange.Heal()
	}
	r.exchange.Script(exchange.Fault{Duplicate: true})
	a, err := r.source.Fetch(t.Context(), q)
	require.NoError(t, err)
	require.Len(t, a.Bars, len(truth(q)))
	require.Positive(t, a.Repeated)
	if !r.NewestFirst { // there the order is reversed, and with it which one is the last
		require.Equal(t, truth(q), a.Bars)
	}
}

// Rows that appear late are not final in between: a young tail stays provisional.
func testLate(t *testing.T, r *rig) {
	t.Helper()
	tf, late := r.base(), 2
	if r.Newest || 2*r.info.Finality.Of(tf) >= r.info.Absence.Of(tf) { // else the tail is old enough to be absent
		tf = r.info.Native[0]
	}
	q := r.query(t, r.BTCUSD, tf, tf.Add(r.today().Shift(-2*r.info.Finality.Of(tf)), -20), 20)
	if r.Newest {
		late += int(tf.Count(market.Range{Start: q.Range.End, End: tf.Next(r.today())}))
	}
	r.exchange.Script(exchange.Fault{Late: late, Times: 1})
	a, err := r.source.Fetch(t.Context(), q)
	require.NoError(t, err)
	require.Len(t, a.Bars, 18)
	for _, s := range source.Judge(r.info, q, a, nil).Segments {
		if s.Range.End > tf.Add(q.Range.End, -2) {
			require.Equal(t, coverage.Provisional, s.State)
		}
	}
	a, err = r.source.Fetch(t.Context(), q)
	require.NoError(t, err)
	require.Equal(t, truth(q), a.Bars)
}

// A hole is read twice where the source is dense, and believed where it is not.
func testHole(t *testing.T, r *rig) {
	t.Helper()
	q := r.page(t)
	r.exchange.Script(exchange.Fault{Hole: 3, Times: 1})
	first, err := r.source.Fetch(t.Context(), q)
	require.NoError(t, err)
	require.Len(t, first.Bars, 97)
	j := source.Judge(r.info, q, first, nil)
	require.Equal(t, r.info.Dense, j.Again)
	if !r.info.Dense {
		require.Equal(t, []source.Segment{{Range: q.Range, State: coverage.Final}}, j.Segments)
		return
	}
	require.Len(t, j.Segments, 3)
	require.Equal(t, coverage.Provisional, j.Segments[1].State)
	second, err := r.source.Fetch(t.Context(), q)
	require.NoError(t, err)
	require.Equal(t, []source.Segment{{Range: q.Range, State: coverage.Final}}, source.Judge(r.info, q, second, &first).Segments)
	twice := source.Judge(r.info, q, first, &first)
	require.False(t, twice.Again)
	require.Equal(t, coverage.Absent, twice.Segments[1].State)
}

// A clock that is off makes a page provisional, whichever way.
func testClock(t *testing.T, r *rig) {
	t.Helper()
	for _, off := range []time.Duration{-time.Minute, time.Minute} {
		r.exchange.Script(exchange.Fault{Clock: off, Times: 1})
		q := r.page(t)
		a, err := r.source.Fetch(t.Context(), q)
		require.NoError(t, err)
		require.InDelta(t, off.Seconds(), a.Skew.Seconds(), 2)
		require.Equal(t, []source.Segment{{Range: q.Range, State: coverage.Provisional}}, source.Judge(r.info, q, a, nil).Segments)
	}
	r.well(t)
}
