package coordinator

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"barkeep/backfill/coverage"
	"barkeep/internal/market"
)

// countKey names one requirement of n bars; within is clipped to now.
type countKey struct {
	series market.Series
	count  market.Count
}

type countEntry struct {
	version coverage.Version
	needs   market.Range
}

// countCache remembers, per version of a symbol's coverage, the range that holds the n bars (DESIGN §12).
type countCache struct {
	mu      sync.Mutex
	entries map[countKey]countEntry // guarded by mu
}

const maxCounts = 4096

func newCountCache() *countCache { return &countCache{entries: make(map[countKey]countEntry)} }

// get returns the range that holds the bars, where it is known for this version of the index and still covered.
func (c *countCache) get(index *coverage.Index, series market.Series, n market.Count, fresh time.Duration, now market.Instant) (market.Range, bool) {
	n.Within = clip(n.Within, series.Timeframe, now)
	if n.N <= 0 || n.Within.Empty() {
		return market.Range{}, true
	}
	version, _ := index.Version(series.Symbol)
	c.mu.Lock()
	e, found := c.entries[countKey{series, n}]
	c.mu.Unlock()
	if !found || e.version != version {
		return market.Range{}, false
	}
	one := [1]market.Range{e.needs}
	return e.needs, index.Covered(series, one[:], fresh, now)
}

func (c *countCache) put(index *coverage.Index, series market.Series, n market.Count, now market.Instant, needs market.Range) {
	n.Within = clip(n.Within, series.Timeframe, now)
	version, _ := index.Version(series.Symbol)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.entries) >= maxCounts {
		clear(c.entries)
	}
	c.entries[countKey{series, n}] = countEntry{version, needs}
}

// clip rounds r outward and ends it after the bar that forms at now: what opens later does not exist.
func clip(r market.Range, tf market.Timeframe, now market.Instant) market.Range {
	r = r.Outward(tf)
	r.End = min(r.End, tf.Next(now))
	if r.Empty() {
		return market.Range{}
	}
	return r
}

// resolve returns the range that is known to hold the n bars of the requirement, or, in gap, what has to be fetched next
// to know it: counted from the starting end, inside coverage without a hole, the stored rows are the ones that exist
// (PLANNER 17). factor widens the next page where earlier ones held fewer bars than they could; origin is where the
// instrument's life begins, market.NegInf where that is not known; a page has at least so many bars.
func (c *Coordinator) resolve(ctx context.Context, index *coverage.Index, series market.Series, n market.Count, fresh time.Duration, now, origin market.Instant, factor, least int64) (needs, gap market.Range, err error) {
	if known, found := c.counts.get(index, series, n, fresh, now); found {
		return known, market.Range{}, nil
	}
	within := clip(n.Within, series.Timeframe, now)
	known := contiguous(index, series, within, n.Newest, fresh, now)
	var have int64
	if !known.Empty() {
		edge, count, err := c.nth(ctx, series, known, n)
		if err != nil {
			return market.Range{}, market.Range{}, err
		}
		if count == n.N {
			needs = known
			if n.Newest {
				needs.Start = edge
			} else {
				needs.End = series.Timeframe.Next(edge)
			}
			c.counts.put(index, series, n, now, needs)
			return needs, market.Range{}, nil
		}
		have = count
	}
	if known == within {
		c.counts.put(index, series, n, now, within)
		return within, market.Range{}, nil
	}
	return market.Range{}, nextPage(series.Timeframe, within, known, origin, n.Newest, max((n.N-have)*factor, least)), nil
}

// leastPage is for sources: a page is asked for as a whole anyway.
const leastPage = 16

// nextPage returns the stretch of about bars next to what is known, on the side away from the starting end.
func nextPage(tf market.Timeframe, within, known market.Range, origin market.Instant, newest bool, bars int64) market.Range {
	if newest {
		end := within.End
		if !known.Empty() {
			end = known.Start
		}
		start := tf.Add(end, -bars)
		if start <= origin {
			start = within.Start // there is nothing before, which is told at once
		}
		return market.Range{Start: start, End: end}.Intersect(within)
	}
	start := within.Start
	if !known.Empty() {
		start = known.End
	}
	return market.Range{Start: start, End: tf.Add(max(start, origin), bars+1)}.Intersect(within)
}

// contiguous returns the covered part of within that begins at its newest (else oldest) end, empty where that end is not
// covered.
func contiguous(index *coverage.Index, series market.Series, within market.Range, newest bool, fresh time.Duration, now market.Instant) market.Range {
	if within.Empty() {
		return market.Range{}
	}
	gaps := index.Missing(series, market.RangeSet{within}, fresh, now)
	if len(gaps) == 0 {
		return within
	}
	known := market.Range{Start: gaps[len(gaps)-1].End, End: within.End}
	if !newest {
		known = market.Range{Start: within.Start, End: gaps[0].Start}
	}
	if known.Empty() {
		return market.Range{}
	}
	return known
}

// inside reports whether all is covered that the n bars are among: then nothing has to be counted.
func inside(index *coverage.Index, series market.Series, n market.Count, fresh time.Duration, now market.Instant) bool {
	one := [1]market.Range{n.Within}
	return index.Covered(series, one[:], fresh, now)
}

// nth returns the open of the n-th stored bar of known from the starting end, and n; or fewer, where there are fewer.
func (c *Coordinator) nth(ctx context.Context, series market.Series, known market.Range, n market.Count) (edge market.Instant, count int64, err error) {
	order, last := "ASC", "max"
	if n.Newest {
		order, last = "DESC", "min"
	}
	var at *time.Time
	err = c.config.Pool.QueryRow(ctx, `SELECT count(*), `+last+`(ts) FROM (SELECT ts FROM public.ohlcv
	   WHERE symbol = $1 AND timeframe = $2 AND ts >= $3 AND ts < $4 ORDER BY ts `+order+` LIMIT $5) AS n`,
		string(series.Symbol), series.Timeframe.String(), coverage.Timestamptz(known.Start), coverage.Timestamptz(known.End), n.N).
		Scan(&count, &at)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, fmt.Errorf("count stored bars of %s: %w", series, err)
	}
	if at != nil {
		edge = market.FromTime(*at)
	}
	return edge, count, nil
}
