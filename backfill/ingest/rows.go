package ingest

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/jackc/pgx/v5"

	"barkeep/backfill/coverage"
	"barkeep/internal/market"
)

const (
	barColumns = `(symbol, timeframe, ts, open, high, low, close, volume)`
	copyBars   = `COPY public.ohlcv ` + barColumns + ` FROM STDIN (FORMAT binary)`
	copyStage  = `COPY pg_temp.barkeep_stage ` + barColumns + ` FROM STDIN (FORMAT binary)`
	makeStage  = `CREATE TEMP TABLE IF NOT EXISTS barkeep_stage (symbol text, timeframe text, ts timestamptz,
	  open float8, high float8, low float8, close float8, volume float8) ON COMMIT DELETE ROWS`
	deleteGone = `DELETE FROM public.ohlcv o WHERE o.symbol = $1 AND o.timeframe = $2 AND o.ts >= $3 AND o.ts < $4
	  AND NOT EXISTS (SELECT 1 FROM pg_temp.barkeep_stage s
	    WHERE s.symbol = o.symbol AND s.timeframe = o.timeframe AND s.ts = o.ts)`
	// hashJoins keeps the planner from comparing each row with each: nothing is known of the size of the staging table, nor of
	// a chunk that was made a moment ago.
	hashJoins = `SET LOCAL enable_nestloop = off`
	upsert    = `INSERT INTO public.ohlcv AS o ` + barColumns + `
	  SELECT symbol, timeframe, ts, open, high, low, close, volume FROM pg_temp.barkeep_stage
	  ON CONFLICT (symbol, timeframe, ts) DO UPDATE SET open = excluded.open, high = excluded.high, low = excluded.low,
	    close = excluded.close, volume = excluded.volume
	  WHERE (o.open, o.high, o.low, o.close, o.volume)
	    IS DISTINCT FROM (excluded.open, excluded.high, excluded.low, excluded.close, excluded.volume)`
	// countRevised counts what the staged rows of a stretch change in those that are there.
	countRevised = `SELECT count(*) FILTER (WHERE s.ts IS NOT NULL
	      AND (o.open, o.high, o.low, o.close, o.volume) IS DISTINCT FROM (s.open, s.high, s.low, s.close, s.volume)),
	    count(*) FILTER (WHERE s.ts IS NULL)
	  FROM public.ohlcv o LEFT JOIN pg_temp.barkeep_stage s ON s.symbol = o.symbol AND s.timeframe = o.timeframe AND s.ts = o.ts
	 WHERE o.symbol = $1 AND o.timeframe = $2 AND o.ts >= $3 AND o.ts < $4`
	anyRow = `SELECT 1 FROM public.ohlcv WHERE symbol = $1 AND timeframe = $2 AND ts >= $3 AND ts < $4 LIMIT 1`
)

// seriesWrite is a write with the name of its series.
type seriesWrite struct {
	series market.Series
	write
}

// writeRows makes the rows what the plan says: straight into the table where nothing is known and no row exists, else
// through a staging table (PIPELINE 4, 19). With staged set all rows take the second way.
func (p *plan) writeRows(ctx context.Context, tx pgx.Tx, staged bool) error {
	fresh, known, err := p.split(ctx, tx, staged)
	if err != nil {
		return err
	}
	for _, w := range slices.Concat(fresh, known) {
		p.result.Rows += int64(len(w.bars))
	}
	p.result.Direct = len(known) == 0
	if err := copyRows(ctx, tx, copyBars, fresh); err != nil {
		return fmt.Errorf("copy bars: %w", err)
	}
	if len(known) == 0 {
		return nil
	}
	if _, err := tx.Exec(ctx, makeStage); err != nil {
		return fmt.Errorf("make staging table: %w", err)
	}
	if err := copyRows(ctx, tx, copyStage, known); err != nil {
		return fmt.Errorf("copy bars to staging: %w", err)
	}
	batch := &pgx.Batch{}
	batch.Queue(hashJoins)
	replaced := rangesOf(known)
	p.queueRevised(batch, replaced)
	for series, ranges := range replaced {
		for _, r := range ranges {
			batch.Queue(deleteGone, string(series.Symbol), series.Timeframe.String(),
				coverage.Timestamptz(r.Start), coverage.Timestamptz(r.End))
		}
	}
	batch.Queue(upsert)
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("replace bars: %w", err)
	}
	return nil
}

// queueRevised counts the bars that the staged rows change or take away where they were vouched for. That is seldom: only what was
// forgotten or lost is read again.
func (p *plan) queueRevised(batch *pgx.Batch, replaced map[market.Series]market.RangeSet) {
	for _, symbol := range p.order {
		for _, s := range p.series[symbol] {
			for _, r := range s.vouched(replaced[s.series]) {
				batch.Queue(countRevised, string(s.series.Symbol), s.series.Timeframe.String(),
					coverage.Timestamptz(r.Start), coverage.Timestamptz(r.End)).QueryRow(func(row pgx.Row) error {
					var revised, withdrawn int64
					err := row.Scan(&revised, &withdrawn)
					p.result.Revised, p.result.Withdrawn = p.result.Revised+revised, p.result.Withdrawn+withdrawn
					return err
				})
			}
		}
	}
}

// vouched returns where of the ranges rows were vouched for.
func (s *seriesPlan) vouched(ranges market.RangeSet) (vouched market.RangeSet) {
	for _, r := range ranges {
		vouched = vouched.Union(s.ledger.Vouched(r))
	}
	return vouched
}

func rangesOf(writes []seriesWrite) map[market.Series]market.RangeSet {
	lists := make(map[market.Series][]market.Range)
	for _, w := range writes {
		lists[w.series] = append(lists[w.series], w.r)
	}
	sets := make(map[market.Series]market.RangeSet, len(lists))
	for series, list := range lists {
		sets[series] = market.NewRangeSet(list...)
	}
	return sets
}

// split parts the writes into those that may go straight in and those that meet something, each series' in the order of time: pages come
// as they were fetched, several at once, and an index takes what ascends at the least cost.
func (p *plan) split(ctx context.Context, tx pgx.Tx, staged bool) (fresh, known []seriesWrite, err error) {
	for _, symbol := range p.order {
		for _, s := range p.series[symbol] {
			slices.SortFunc(s.writes, func(a, b write) int { return cmp.Compare(a.r.Start, b.r.Start) })
			for _, w := range s.writes {
				if each := (seriesWrite{series: s.series, write: w}); !staged && s.ledger.Untouched(w.r) {
					fresh = append(fresh, each)
				} else {
					known = append(known, each)
				}
			}
		}
	}
	taken, err := occupied(ctx, tx, rangesOf(fresh))
	if err != nil {
		return nil, nil, err
	}
	if len(taken) == 0 {
		return fresh, known, nil
	}
	empty := fresh[:0]
	for _, w := range fresh {
		if len(taken[w.series].Intersect(market.RangeSet{w.r})) > 0 {
			known = append(known, w)
			continue
		}
		empty = append(empty, w)
	}
	return empty, known, nil
}

// occupied returns those of the ranges that hold rows.
func occupied(ctx context.Context, tx pgx.Tx, sets map[market.Series]market.RangeSet) (map[market.Series]market.RangeSet, error) {
	if len(sets) == 0 {
		return nil, nil
	}
	taken := make(map[market.Series]market.RangeSet)
	batch := &pgx.Batch{}
	for series, ranges := range sets {
		for _, r := range ranges {
			batch.Queue(anyRow, string(series.Symbol), series.Timeframe.String(),
				coverage.Timestamptz(r.Start), coverage.Timestamptz(r.End)).Query(func(rows pgx.Rows) error {
				if rows.Next() {
					taken[series] = taken[series].Add(r)
				}
				return nil
			})
		}
	}
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return nil, fmt.Errorf("look for rows: %w", err)
	}
	return taken, nil
}

// copyRows sends the writes' bars by COPY in binary form, encoded straight into the wire's buffer.
func copyRows(ctx context.Context, tx pgx.Tx, sql string, writes []seriesWrite) error {
	if !slices.ContainsFunc(writes, func(w seriesWrite) bool { return len(w.bars) > 0 }) {
		return nil
	}
	_, err := tx.Conn().PgConn().CopyFrom(ctx, &encoder{writes: writes}, sql)
	return err //nolint:wrapcheck // the callers say which table
}

// postgresEpoch is 2000-01-01, from which PostgreSQL counts binary timestamps in microseconds.
const postgresEpoch = market.Instant(946_684_800_000_000)

// encoder is the byte stream of a binary COPY (PostgreSQL manual, COPY, "Binary Format") of bars. It keeps nothing per row.
type encoder struct {
	writes []seriesWrite
	row    int
	// prefix is a row's bytes up to its ts: field count, symbol, timeframe, length of ts.
	prefix []byte
	// pending was encoded but did not fit.
	pending []byte
	state   int // 0 before the header, 1 in the rows, 2 after the trailer
}

// Read fills p with whole rows as far as they fit.
func (e *encoder) Read(p []byte) (int, error) {
	out := p[:0:len(p)]
	if len(e.pending) > 0 {
		n := copy(p, e.pending)
		e.pending = e.pending[n:]
		return n, nil
	}
	if e.state == 0 {
		e.state = 1
		out = e.emit(out, append([]byte("PGCOPY\n\xff\r\n\x00"), 0, 0, 0, 0, 0, 0, 0, 0))
	}
	for e.state == 1 && len(e.pending) == 0 {
		bar := e.next()
		if bar == nil {
			e.state = 2
			out = e.emit(out, []byte{0xff, 0xff})
			break
		}
		if size := len(e.prefix) + 8 + 5*12; cap(out)-len(out) < size {
			if len(out) > 0 {
				e.row--
				return len(out), nil
			}
			out = e.emit(out, e.appendBar(make([]byte, 0, size), bar))
			break
		}
		out = e.appendBar(out, bar)
	}
	if len(out) == 0 && e.state == 2 && len(p) > 0 {
		return 0, io.EOF
	}
	return len(out), nil
}

// emit appends what fits and keeps the rest for the next Read.
func (e *encoder) emit(out, bytes []byte) []byte {
	n := min(cap(out)-len(out), len(bytes))
	e.pending = bytes[n:]
	return append(out, bytes[:n]...)
}

// next returns the next bar and moves on, nil after the last.
func (e *encoder) next() *market.Bar {
	for len(e.writes) > 0 {
		w := &e.writes[0]
		if e.row < len(w.bars) {
			if e.row == 0 {
				e.prefix = appendPrefix(e.prefix[:0], w.series)
			}
			e.row++
			return &w.bars[e.row-1]
		}
		e.writes, e.row = e.writes[1:], 0
	}
	return nil
}

func appendPrefix(b []byte, s market.Series) []byte {
	b = binary.BigEndian.AppendUint16(b, 8)
	for _, text := range [...]string{string(s.Symbol), s.Timeframe.String()} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(text))) //nolint:gosec // a symbol is at most 128 bytes
		b = append(b, text...)
	}
	return binary.BigEndian.AppendUint32(b, 8)
}

func (e *encoder) appendBar(b []byte, bar *market.Bar) []byte {
	b = append(b, e.prefix...)
	b = binary.BigEndian.AppendUint64(b, uint64(bar.TS-postgresEpoch)) //nolint:gosec // two's complement is the format
	for _, v := range [...]float64{bar.Open, bar.High, bar.Low, bar.Close, bar.Volume} {
		b = binary.BigEndian.AppendUint32(b, 8)
		b = binary.BigEndian.AppendUint64(b, math.Float64bits(v))
	}
	return b
}
