package ingest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sort"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"barkeep/backfill/coverage"
	"barkeep/backfill/topic"
	"barkeep/internal/market"
)

// plan is what a batch comes to once every page is cut to where it is the newest reading.
type plan struct {
	order  []market.Symbol // as they first came
	series map[market.Symbol][]*seriesPlan
	jobs   jobChanges
	result Result
}

// seriesPlan holds the writes of one series: disjoint, so that there is one row for a key.
type seriesPlan struct {
	series market.Series
	ledger *coverage.Ledger
	writes []write
}

// write makes the rows of a range those of a page.
type write struct {
	r    market.Range
	bars []market.Bar
}

// makePlan reads the coverage that the records touch and enters the pages.
func makePlan(ctx context.Context, tx pgx.Tx, records []Record, bound map[market.Symbol]coverage.Binding,
	now market.Instant,
) (*plan, error) {
	p := &plan{series: make(map[market.Symbol][]*seriesPlan), jobs: newJobChanges()}
	bounds := seriesBounds(records)
	for _, page := range oldestFirst(records) {
		if err := p.page(ctx, tx, page, bound, bounds, now); err != nil {
			return nil, err
		}
	}
	for _, r := range records {
		switch {
		case r.RollUp != nil:
			if err := p.rollUp(ctx, tx, r.RollUp, bound); err != nil {
				return nil, err
			}
		case r.Failure != nil:
			p.jobs.end(r.Failure.JobID, topic.Failed, r.Failure.Code, r.Failure.Message)
		case r.End != nil:
			p.jobs.end(r.End.JobID, r.End.State, r.End.Code, r.End.Message)
		}
	}
	return p, nil
}

// oldestFirst returns the pages by the time of their reading, so that the newest of a batch is entered last whatever the
// order of delivery.
func oldestFirst(records []Record) []*topic.Page {
	var pages []*topic.Page
	for _, r := range records {
		if r.Page != nil {
			pages = append(pages, r.Page)
		}
	}
	slices.SortStableFunc(pages, func(a, b *topic.Page) int { return cmp.Compare(a.FetchedAt, b.FetchedAt) })
	return pages
}

// seriesBounds returns the stretches of each series that the pages vouch for.
func seriesBounds(records []Record) map[market.Series][]market.Range {
	bounds := make(map[market.Series][]market.Range)
	for _, r := range records {
		if r.Page == nil || len(r.Page.Segments) == 0 {
			continue
		}
		b := r.Page.Segments[0].Range
		for _, s := range r.Page.Segments {
			b = market.Range{Start: min(b.Start, s.Range.Start), End: max(b.End, s.Range.End)}
		}
		bounds[r.Page.Series] = append(bounds[r.Page.Series], b)
	}
	return bounds
}

func (p *plan) page(ctx context.Context, tx pgx.Tx, page *topic.Page, bound map[market.Symbol]coverage.Binding,
	bounds map[market.Series][]market.Range, now market.Instant,
) error {
	switch {
	case p.refused(page.Series.Symbol, page.Source, page.Generation, page.JobID, bound):
		return nil
	case page.FetchedAt.Sub(now) > maxAhead:
		p.result.Ahead++
		p.jobs.end(page.JobID, topic.Failed, pgerrcode.SystemError, fmt.Sprintf(
			"the producer's clock is %s ahead of the database's", page.FetchedAt.Sub(now).Round(maxAhead/50)))
		return nil
	}
	s, err := p.of(ctx, tx, page.Series, bounds[page.Series]...)
	if err != nil {
		return err
	}
	segments := make([]coverage.Segment, len(page.Segments))
	for i, segment := range page.Segments {
		segments[i] = coverage.Segment{
			Range: segment.Range, State: segment.State, Source: page.Source, Generation: page.Generation,
			FetchedAt: page.FetchedAt, Reason: segment.Reason, ExpiresAt: segment.ExpiresAt, RetryAt: segment.RetryAt,
		}
	}
	applied := false
	for i, ranges := range s.ledger.ReplaceAll(segments) {
		applied = applied || len(ranges) > 0
		if segments[i].State == coverage.Unavailable {
			continue
		}
		for _, r := range ranges {
			s.enter(r, page.Bars)
		}
	}
	if !applied {
		p.result.Stale++
		return nil
	}
	p.result.Pages++
	p.jobs.progress(page.JobID, int64(len(page.Bars)))
	return nil
}

// refused ends the job of a page or roll-up of another binding than the symbol's (PIPELINE 8, 10). That is also where the
// symbol's row is gone with a database that went back in time: its waiters bind and ask again.
func (p *plan) refused(symbol market.Symbol, source string, generation int64, job string, bound map[market.Symbol]coverage.Binding) bool {
	b, found := bound[symbol]
	if found && b.Generation == generation && b.Source == source {
		return false
	}
	p.result.Superseded++
	p.jobs.end(job, topic.Superseded, "", fmt.Sprintf("%s is bound to another source or generation than the page's", symbol))
	return true
}

// of returns the plan of a series, made on first use.
func (p *plan) of(ctx context.Context, tx pgx.Tx, series market.Series, bounds ...market.Range) (*seriesPlan, error) {
	list, known := p.series[series.Symbol]
	for _, s := range list {
		if s.series == series {
			return s, nil
		}
	}
	if !known {
		p.order = append(p.order, series.Symbol)
	}
	ledger, err := coverage.ReadLedger(ctx, tx, series, bounds...)
	if err != nil {
		return nil, err
	}
	s := &seriesPlan{series: series, ledger: ledger}
	p.series[series.Symbol] = append(list, s)
	return s, nil
}

// enter adds a write and takes its range from earlier ones of the batch, which are older readings.
func (s *seriesPlan) enter(r market.Range, bars []market.Bar) {
	overlaps := false
	for _, w := range s.writes {
		overlaps = overlaps || w.r.Overlaps(r)
	}
	if overlaps {
		var kept []write
		for _, w := range s.writes {
			for _, left := range (market.RangeSet{w.r}).Subtract(market.RangeSet{r}) {
				kept = append(kept, write{r: left, bars: within(w.bars, left)})
			}
		}
		s.writes = kept
	}
	s.writes = append(s.writes, write{r: r, bars: within(bars, r)})
}

// within returns the bars that open in r; bars ascend.
func within(bars []market.Bar, r market.Range) []market.Bar {
	from := sort.Search(len(bars), func(i int) bool { return bars[i].TS >= r.Start })
	to := sort.Search(len(bars), func(i int) bool { return bars[i].TS >= r.End })
	return bars[from:max(from, to)]
}

// span returns the stretch that holds all bars of the plan; it is empty where there are none.
func (p *plan) span() market.Range {
	span := market.Range{Start: market.PosInf, End: market.NegInf}
	for _, list := range p.series {
		for _, s := range list {
			for _, w := range s.writes {
				if len(w.bars) > 0 {
					span.Start = min(span.Start, w.bars[0].TS)
					span.End = max(span.End, w.bars[len(w.bars)-1].TS+1)
				}
			}
		}
	}
	return span
}
