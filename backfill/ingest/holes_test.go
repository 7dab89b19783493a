package ingest_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/coverage"
	"barkeep/backfill/topic"
	"barkeep/internal/dbtest"
	"barkeep/internal/market"
)

// holed is a page of n minutes from minute `from` that lacks one bar in four, as a source tells it that vouches for each hole.
func holed(random *rand.Rand, from, n int, value float64, fetched int64) *topic.Page {
	p := page(from, n, value, fetched)
	p.Segments = nil
	bars := p.Bars[:0]
	for _, b := range p.Bars {
		state := coverage.Absent
		if random.IntN(4) > 0 {
			state = coverage.Final
			bars = append(bars, b)
		}
		if last := len(p.Segments) - 1; last >= 0 && p.Segments[last].State == state {
			p.Segments[last].Range.End += minute
			continue
		}
		p.Segments = append(p.Segments, topic.Segment{Range: market.Range{Start: b.TS, End: b.TS + minute}, State: state})
	}
	p.Bars = bars
	return p
}

// TestRule19_ABatchDoesNotPayForAllHolesEverRead: each hole is a segment, and an instrument may have a hundred thousand. Each segment of a page
// once looked at all of them: a batch took half a minute, in which ingest of the partition stood still, its jobs seemed silent and were published
// again, and what was on its way was taken for lost and fetched again.
func TestRule19_ABatchDoesNotPayForAllHolesEverRead(t *testing.T) {
	t.Parallel()
	const pages, bars, known = 16, 1000, 100_000
	db := dbtest.New(t)
	w := newWorld(t, db)
	// batch is half of its pages before what is known, and half behind; each time the same bars are missing.
	batch := func(first int, value float64, fetched int64) (all []*topic.Page, count int64) {
		random := rand.New(rand.NewPCG(1, 2))
		for k := range pages {
			from := first + k*bars
			if k >= pages/2 {
				from += 2*known + pages*bars
			}
			all = append(all, holed(random, from, bars, value, fetched))
			count += int64(len(all[k].Bars))
		}
		return all, count
	}
	timed := func(all []*topic.Page) (revised, withdrawn int64, took time.Duration) {
		began := time.Now()
		result := w.commit(t, all...)
		return result.Revised, result.Withdrawn, time.Since(began)
	}
	alone, _ := batch(-10*known, 1, 1e7) // far from what is read later
	_, _, first := timed(alone)

	_, err := db.Pool.Exec(t.Context(), `INSERT INTO barkeep.coverage (symbol, timeframe, range_start, range_end, state, source, generation, fetched_at)
	  SELECT $1, '1m', at, at + '2 min', 1 + 2 * (i % 2), 'sim', 1, $2::timestamptz
	    FROM generate_series(0, $3::int - 1) i, LATERAL (SELECT $2::timestamptz + i * '2 min'::interval AS at) a`,
		string(btc.Symbol), t0.Time(), known)
	require.NoError(t, err)
	all, count := batch(-pages/2*bars, 1, 1e7)
	_, _, took := timed(all)
	t.Logf("a batch alone took %s, with %d segments between its pages %s", first, known, took)
	require.Less(t, took, 10*first+2*time.Second)

	all, _ = batch(-pages/2*bars, 2, 2e7)
	revised, withdrawn, took := timed(all)
	t.Logf("read again it took %s", took)
	require.Equal(t, []int64{count, 0}, []int64{revised, withdrawn}, "what the source has changed is counted")
	require.Less(t, took, 10*first+2*time.Second)
	want := map[int]float64{}
	for _, p := range append(alone, all...) {
		for _, b := range p.Bars {
			want[int((b.TS-t0)/minute)] = b.Close
		}
	}
	require.Equal(t, want, w.closes(t, btc))
}
