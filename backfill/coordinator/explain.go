package coordinator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"barkeep/backfill/directory"
	"barkeep/internal/market"
)

// Explanation says what of one requirement is there, and what fetching the rest would take.
type Explanation struct {
	Series market.Series
	// Source is the one that serves the symbol, or would; empty where that cannot be said yet.
	Source string
	// Fallback are the sources that may stand in for it, in order.
	Fallback []string
	// Base is the timeframe that the bars are rolled up from where the source has not theirs, else zero; BaseMissing is what of
	// it would be fetched before.
	Base        market.Timeframe
	BaseMissing market.RangeSet
	// Needed is all that is read, and Missing what of it would be fetched: within the instrument's life as far as that is
	// known, and no later than the bar that forms.
	Needed, Missing market.RangeSet
	// Open are the reads of n bars of which it is not known yet how far they reach; Missing has the next page of each.
	Open []market.Count
	// Pages is about the number of pages of the source that Missing comes to.
	Pages int64
	// Took is about the time that it would take, waiting included, as fast as the source was lately; negative where it was not
	// asked lately.
	Took time.Duration
	// Failure says why Ensure would fail: an unknown symbol, a timeframe that the source has not.
	Failure error
}

// Explain says for each requirement what Ensure would do. It fetches nothing and binds nothing.
func (c *Coordinator) Explain(ctx context.Context, req Request) ([]Explanation, error) {
	if !c.config.Coverage.Valid() || !c.Snapshot().OfLife(req.Life) {
		if err := c.config.Coverage.Refresh(ctx); err != nil {
			return nil, fmt.Errorf("refresh coverage: %w", err)
		}
	}
	list := make([]Explanation, 0, len(req.Requirements))
	for _, r := range req.Requirements {
		e, err := c.explain(ctx, r, atLeast(req.Freshness))
		if err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return list, nil
}

func (c *Coordinator) explain(ctx context.Context, r market.Requirement, fresh time.Duration) (Explanation, error) {
	e, least := Explanation{Series: r.Series, Took: -1}, int64(leastPage)
	b, found, err := directory.Find(ctx, c.config.Pool, r.Series.Symbol)
	if unknown, ok := errors.AsType[*directory.UnknownSymbolError](err); ok {
		e.Failure, err = unknown, nil
	}
	if err != nil || e.Failure != nil {
		return e, err
	}
	now, index, life := c.now(), c.Snapshot(), market.RangeSet{market.Always}
	if found {
		e.Source = b.Source
		if base, can := b.Base(r.Series.Timeframe); !can {
			e.Failure = noTimeframe(r.Series, &b)
		} else if base != r.Series.Timeframe {
			e.Base, least = base, 1
		}
		life = b.Life(r.Series.Timeframe.Next(now))
		if e.Fallback, life, err = c.lenders(ctx, r.Series, &b, life); err != nil {
			return e, err
		}
	}
	e.Needed = r.Ranges.Outward(r.Series.Timeframe)
	for _, n := range r.Counts {
		needs, gap, err := c.resolve(ctx, index, r.Series, n, fresh, now, life.Bounds().Start, 1, least)
		if err != nil {
			return e, err
		}
		if !gap.Empty() {
			e.Open = append(e.Open, n)
			needs = gap
		}
		e.Needed = e.Needed.Union(market.RangeSet{needs})
	}
	e.Needed = e.Needed.Intersect(market.NewRangeSet(market.Range{Start: market.NegInf, End: r.Series.Timeframe.Next(now)})).Intersect(life.Outward(r.Series.Timeframe))
	e.Missing = index.Missing(r.Series, e.Needed, fresh, now)
	if e.Missing.Empty() {
		e.Failure = nil
		return e, nil
	}
	if !found || e.Failure != nil {
		return e, err
	}
	fetched, tf := e.Missing, r.Series.Timeframe
	if e.Base.Valid() {
		base := market.Series{Symbol: r.Series.Symbol, Timeframe: e.Base}
		alive := b.Life(e.Base.Next(now)).Union(life).Outward(e.Base)
		e.BaseMissing = index.Missing(base, e.Missing.Intersect(alive), fresh, now)
		fetched, tf = e.BaseMissing, e.Base
	}
	if fetched.Empty() {
		return e, nil
	}
	e.Pages = pages(fetched, tf, b.Declared.PageLimit)
	e.Took, err = c.duration(ctx, &b, fetched.Count(tf))
	return e, err
}

// lenders returns the sources that may lend to a series, as far as their lists are known, and the life of its instrument with theirs.
func (c *Coordinator) lenders(ctx context.Context, series market.Series, b *directory.Binding, life market.RangeSet) (names []string, whole market.RangeSet, err error) {
	if !c.mixed(series.Symbol, b.Source) {
		return nil, life, nil
	}
	for _, name := range c.config.Fallback[b.Source] {
		l, found, err := directory.Find(ctx, c.config.Pool, lenderOf(series.Symbol, name))
		if _, unknown := errors.AsType[*directory.UnknownSymbolError](err); unknown || err == nil && !found {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		same, err := directory.Same(ctx, c.config.Pool, b, &l)
		if err != nil {
			return nil, nil, err
		}
		if _, can := l.Base(series.Timeframe); same && can {
			names, life = append(names, name), life.Union(l.Life(life.Bounds().End))
		}
	}
	return names, life, nil
}

// pages returns about how many pages of at most limit bars the ranges take.
func pages(ranges market.RangeSet, tf market.Timeframe, limit int) (n int64) {
	size := max(int64(limit), 1)
	for _, r := range ranges {
		n = add(n, (tf.Count(r)+size-1)/size)
	}
	return n
}

// duration estimates the time for so many bars from the latest jobs that the source was asked for, negative where there are
// none.
func (c *Coordinator) duration(ctx context.Context, b *directory.Binding, bars int64) (time.Duration, error) {
	names := make([]string, len(b.Native))
	for i, tf := range b.Native {
		names[i] = tf.String()
	}
	var done, seconds float64
	err := c.config.Pool.QueryRow(ctx, `SELECT coalesce(sum(bars_done), 0)::float8, coalesce(sum(extract(epoch FROM ended_at - asked_at)), 0)::float8
	  FROM (SELECT bars_done, asked_at, ended_at FROM barkeep.job
	         WHERE source = $1 AND state = 'done' AND bars_done > 0 AND (timeframe = ANY ($2) OR cardinality($2::text[]) = 0) ORDER BY ended_at DESC LIMIT 20) AS latest`, b.Source, names).
		Scan(&done, &seconds)
	if err != nil {
		return 0, fmt.Errorf("read the latest jobs of %s: %w", b.Source, err)
	}
	if done == 0 {
		return -1, nil
	}
	return time.Duration(float64(bars) / done * seconds * float64(time.Second)), nil
}
