package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"barkeep/backfill/coverage"
	"barkeep/backfill/ratebucket"
	"barkeep/backfill/source"
	"barkeep/internal/market"
)

// Config says what is read again. Pool and Registry are needed.
type Config struct {
	Pool     *pgxpool.Pool
	Registry *source.Registry
	// Symbol and Timeframe bound what pages are drawn from; empty and zero mean all.
	Symbol    market.Symbol
	Timeframe market.Timeframe
	// Pages is how many are read, default 20; where there are fewer, all are.
	Pages int
	// Rand draws them; nil means differently each time.
	Rand *rand.Rand
	// Backoff is the time before a request that failed is tried again, default 1 s, unless the source says how long.
	Backoff time.Duration
	Now     func() time.Time
}

// Difference is one bar that the source and the database do not agree on.
type Difference struct {
	// Stored is nil where the database has no such bar, Source where the source has none.
	Stored, Source *market.Bar
}

// Page is what was found in one page.
type Page struct {
	Series market.Series
	// Range is what was compared; it is empty where Err says why nothing was.
	Range       market.Range
	Source      string
	Bars        int
	Differences []Difference
	Err         error
}

// page is a page to read.
type page struct {
	series     market.Series
	r          market.Range
	source     string
	vendorID   string
	generation int64
}

// segment is a stretch that pages are drawn from.
type segment struct {
	page
	pages int64
}

// ErrNothing is returned where there is no final coverage to draw from.
var ErrNothing = errors.New("nothing is final yet that could be read again")

// errSource is told of pages whose source is not configured.
var errSource = errors.New("the source is not configured here")

// Run reads pages again and reports each. It returns ErrNothing where there are none, and the database's errors; what a
// source refuses is the page's own error.
func Run(ctx context.Context, config Config, report func(Page)) error {
	if config.Pages <= 0 {
		config.Pages = 20
	}
	if config.Rand == nil {
		config.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	if config.Backoff <= 0 {
		config.Backoff = time.Second
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	ratebucket.Share(config.Pool, slog.New(slog.DiscardHandler), config.Registry.All()...)
	segments, err := config.segments(ctx)
	if err != nil {
		return err
	}
	drawn := config.draw(segments)
	if len(drawn) == 0 {
		return ErrNothing
	}
	for _, p := range drawn {
		found, err := config.read(ctx, p)
		if err != nil {
			return err
		}
		report(found)
	}
	return nil
}

// segments returns the final stretches that the symbol's own instrument has bars of, or the one that lent them, and how many pages they are.
func (c *Config) segments(ctx context.Context) ([]segment, error) {
	timeframe := ""
	if c.Timeframe.Valid() {
		timeframe = c.Timeframe.String()
	}
	rows, err := c.Pool.Query(ctx, `SELECT c.symbol, c.timeframe, greatest(c.range_start, coalesce(o.listed_at, '1900-01-01Z')),
	    least(c.range_end, coalesce(o.delisted_at, c.range_end), now()), o.source, o.vendor_id, c.generation
	  FROM barkeep.coverage c JOIN barkeep.symbol s ON s.symbol = c.symbol
	  JOIN barkeep.symbol o ON o.source = c.source AND o.symbol = CASE c.source WHEN s.source THEN c.symbol ELSE c.source || ':' || c.symbol END
	 WHERE c.state = $1 AND c.derived_from = '' AND ($2 = '' OR c.symbol = $2) AND ($3 = '' OR c.timeframe = $3)
	 ORDER BY c.symbol COLLATE "C", c.timeframe, c.range_start`, int16(coverage.Final), string(c.Symbol), timeframe)
	if err != nil {
		return nil, fmt.Errorf("read what is final: %w", err)
	}
	var list []segment
	var symbol string
	var start, end time.Time
	var s segment
	_, err = pgx.ForEachRow(rows, []any{&symbol, &timeframe, &start, &end, &s.source, &s.vendorID, &s.generation}, func() error {
		tf, err := market.ParseTimeframe(timeframe)
		if err != nil {
			return fmt.Errorf("symbol %s: %w", symbol, err)
		}
		s.series = market.Series{Symbol: market.Symbol(symbol), Timeframe: tf}
		s.r = market.Range{Start: market.FromTime(start), End: market.FromTime(end)}.Inward(tf)
		s.pages = 1
		if from, err := c.Registry.Get(s.source); err == nil {
			limit := int64(from.Info().PageLimit)
			s.pages = (tf.Count(s.r) + limit - 1) / limit
		}
		if !s.r.Empty() {
			list = append(list, s)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read what is final: %w", err)
	}
	return list, nil
}

// draw returns distinct pages, in the order of the segments.
func (c *Config) draw(segments []segment) []page {
	var total int64
	for _, s := range segments {
		total += s.pages
	}
	chosen := map[int64]bool{}
	if total <= int64(c.Pages) {
		for n := range total {
			chosen[n] = true
		}
	}
	for want := min(total, int64(c.Pages)); int64(len(chosen)) < want; {
		chosen[c.Rand.Int64N(total)] = true
	}
	numbers := make([]int64, 0, len(chosen))
	for n := range chosen {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	var drawn []page
	var before int64
	for _, s := range segments {
		for len(numbers) > 0 && numbers[0] < before+s.pages {
			drawn = append(drawn, s.cut(c.Registry, numbers[0]-before))
			numbers = numbers[1:]
		}
		before += s.pages
	}
	return drawn
}

// cut returns the n-th page of a segment.
func (p page) cut(registry *source.Registry, n int64) page {
	if from, err := registry.Get(p.source); err == nil {
		tf, limit := p.series.Timeframe, int64(from.Info().PageLimit)
		p.r = market.Range{Start: tf.Add(p.r.Start, n*limit), End: tf.Add(p.r.Start, (n+1)*limit)}.Intersect(p.r)
	}
	return p
}

// read asks the source for a page and compares.
func (c *Config) read(ctx context.Context, p page) (Page, error) {
	out := Page{Series: p.series, Source: p.source}
	from, missing := c.Registry.Get(p.source)
	if missing != nil {
		out.Err = fmt.Errorf("%w: %s", errSource, p.source)
		return out, nil //nolint:nilerr // the page tells it, and the next one may be of another source
	}
	info := from.Info()
	q := source.Query{VendorID: p.vendorID, Series: p.series, Range: p.r}
	answer, err := c.fetch(ctx, from, q)
	if err != nil {
		out.Err = err
		return out, ctx.Err()
	}
	judged := source.Judge(info, q, answer, nil)
	if judged.Again {
		first := answer
		if answer, err = c.fetch(ctx, from, q); err != nil {
			out.Err = err
			return out, ctx.Err()
		}
		judged = source.Judge(info, q, answer, &first)
	}
	var said []market.Range
	for _, s := range judged.Segments {
		switch s.State {
		case coverage.Final, coverage.Absent:
			said = append(said, s.Range)
		case coverage.Unavailable:
			out.Err = fmt.Errorf("it is not available any more: %s", s.Reason)
		default:
		}
	}
	stored, compared, err := c.stored(ctx, p, answer.Sent)
	if err != nil {
		return out, err
	}
	compared = compared.Intersect(market.NewRangeSet(said...))
	if compared.Empty() {
		if out.Err == nil {
			out.Err = errMeanwhile
		}
		return out, nil
	}
	out.Err, out.Range = nil, compared.Bounds()
	out.Bars, out.Differences = compare(stored, answer.Bars, compared)
	return out, nil
}

// errMeanwhile is told of a page that was read anew by somebody else while it was audited, or forgotten.
var errMeanwhile = errors.New("nothing to compare: it is not final any more, or the source does not vouch for it")

const attempts = 3

func (c *Config) fetch(ctx context.Context, from source.Source, q source.Query) (source.Answer, error) {
	for attempt := 1; ; attempt++ {
		answer, err := from.Fetch(ctx, q)
		again, after := source.Retryable(err)
		if err == nil || !again || attempt == attempts || ctx.Err() != nil {
			return answer, err
		}
		timer := time.NewTimer(max(after, c.Backoff))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return answer, context.Cause(ctx)
		}
	}
}

// stored returns the rows of a page and where they are still final by a reading before at, in one snapshot.
func (c *Config) stored(ctx context.Context, p page, at market.Instant) (bars []market.Bar, final market.RangeSet, err error) {
	symbol, timeframe := string(p.series.Symbol), p.series.Timeframe.String()
	low, high := coverage.Timestamptz(p.r.Start), coverage.Timestamptz(p.r.End)
	err = pgx.BeginTxFunc(ctx, c.Pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT greatest(range_start, $3), least(range_end, $4) FROM barkeep.coverage
		  WHERE symbol = $1 AND timeframe = $2 AND range_start < $4 AND range_end > $3 AND state = $5 AND generation = $6 AND fetched_at <= $7`,
			symbol, timeframe, low, high, int16(coverage.Final), p.generation, coverage.Timestamptz(at))
		if err != nil {
			return err
		}
		var start, end pgtype.Timestamptz
		if _, err := pgx.ForEachRow(rows, []any{&start, &end}, func() error {
			final = final.Add(market.Range{Start: market.FromTime(start.Time), End: market.FromTime(end.Time)})
			return nil
		}); err != nil {
			return err
		}
		rows, err = tx.Query(ctx, `SELECT ts, open, high, low, close, volume FROM public.ohlcv
		  WHERE symbol = $1 AND timeframe = $2 AND ts >= $3 AND ts < $4 ORDER BY ts`, symbol, timeframe, low, high)
		if err != nil {
			return err
		}
		var ts time.Time
		var b market.Bar
		_, err = pgx.ForEachRow(rows, []any{&ts, &b.Open, &b.High, &b.Low, &b.Close, &b.Volume}, func() error {
			b.TS = market.FromTime(ts)
			bars = append(bars, b)
			return nil
		})
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read what is stored of %s: %w", p.series, err)
	}
	return bars, final, nil
}

// compare walks both lists, which ascend, and returns how many bars the source has in where, and what differs.
func compare(stored, said []market.Bar, where market.RangeSet) (bars int, list []Difference) {
	within := func(all []market.Bar) []market.Bar {
		return slices.DeleteFunc(slices.Clone(all), func(b market.Bar) bool { return !where.Contains(b.TS) })
	}
	stored, said = within(stored), within(said)
	bars = len(said)
	for len(stored) > 0 || len(said) > 0 {
		switch {
		case len(said) == 0 || len(stored) > 0 && stored[0].TS < said[0].TS:
			list = append(list, Difference{Stored: &stored[0]})
			stored = stored[1:]
		case len(stored) == 0 || said[0].TS < stored[0].TS:
			list = append(list, Difference{Source: &said[0]})
			said = said[1:]
		default:
			if stored[0] != said[0] {
				list = append(list, Difference{Stored: &stored[0], Source: &said[0]})
			}
			stored, said = stored[1:], said[1:]
		}
	}
	return bars, list
}
