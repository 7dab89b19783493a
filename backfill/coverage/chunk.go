package coverage

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"barkeep/internal/market"
)

// lostChunk is a chunk of ohlcv whose rows went without a trigger firing (PIPELINE 8).
type lostChunk struct {
	id int64
	r  market.Range
	// file is what the chunk's table is kept in now, NULL where the table is gone.
	file pgtype.Uint32
}

// QueueChunks adds to batch the statement that writes down the chunks of ohlcv that overlap r. Who stores bars of r sends
// it in the same transaction, after the bars: a chunk that is then dropped is missed by the next poll (PIPELINE 7).
func QueueChunks(batch *pgx.Batch, r market.Range) {
	batch.Queue(`SELECT barkeep.note_chunks($1, $2)`, int64(r.Start), int64(r.End))
}

// withdrawLost compares the chunk catalog with what was written down and withdraws the coverage of chunks that were
// dropped or truncated: they become a gap (PIPELINE 7, 8).
//
// A chunk cannot go while a transaction that touched it is open, so whoever had rows in it had committed their coverage
// before lost was read. What is committed later than that has its rows in another chunk, or in the emptied one; if it
// is withdrawn too, it is only read once more.
func (s *Store) withdrawLost(ctx context.Context, q querier) error {
	lost, err := readLost(ctx, q)
	if err != nil || len(lost) == 0 {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, installTime, errNoAnswer)
	defer cancel()
	var series []market.Series
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		series, err = withdrawChunks(ctx, tx, lost)
		return err
	})
	if err != nil {
		return fmt.Errorf("withdraw coverage of lost chunks: %w", err)
	}
	for _, c := range lost {
		s.config.Logger.LogAttrs(ctx, slog.LevelWarn, "a chunk of ohlcv was dropped or truncated: its coverage is withdrawn",
			slog.Int64("chunk", c.id), slog.String("range", c.r.String()), slog.Int("series", len(series)))
	}
	return nil
}

func readLost(ctx context.Context, q querier) ([]lostChunk, error) {
	ctx, cancel := soon(ctx)
	defer cancel()
	rows, err := q.Query(ctx, `SELECT id, range_start, range_end, file FROM barkeep.lost_chunks() ORDER BY id`)
	if err != nil {
		return nil, fmt.Errorf("compare chunks: %w", err)
	}
	lost, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c lostChunk, err error) {
		return c, row.Scan(&c.id, &c.r.Start, &c.r.End, &c.file)
	})
	if err != nil {
		return nil, fmt.Errorf("compare chunks: %w", err)
	}
	return lost, nil
}

// withdrawChunks withdraws what is known of the chunks' ranges, of all series, and takes note of how the chunks are now.
func withdrawChunks(ctx context.Context, tx pgx.Tx, lost []lostChunk) ([]market.Series, error) {
	ranges := make([]market.Range, len(lost))
	for i, c := range lost {
		ranges[i] = c.r
	}
	gone := market.NewRangeSet(ranges...)
	series, symbols, err := seriesWithin(ctx, tx, gone)
	if err != nil {
		return nil, err
	}
	if _, err := LockSymbols(ctx, tx, symbols); err != nil {
		return nil, err
	}
	batch := &pgx.Batch{}
	var ledgers []*Ledger
	for _, of := range series {
		ledger, err := ReadLedger(ctx, tx, of, market.Always)
		if err != nil {
			return nil, err
		}
		for _, r := range gone.Outward(of.Timeframe) {
			ledger.Withdraw(r)
		}
		ledgers = append(ledgers, ledger)
	}
	QueueLedgers(batch, ledgers...)
	for _, symbol := range symbols {
		QueueVersion(batch, symbol)
	}
	for _, c := range lost {
		if c.file.Valid {
			batch.Queue(`UPDATE barkeep.chunk SET file = $2 WHERE id = $1`, c.id, c.file)
		} else {
			batch.Queue(`DELETE FROM barkeep.chunk WHERE id = $1`, c.id)
		}
	}
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return nil, fmt.Errorf("write coverage: %w", err)
	}
	return series, nil
}

// seriesWithin returns the series with coverage in gone, and their symbols.
func seriesWithin(ctx context.Context, tx pgx.Tx, gone market.RangeSet) ([]market.Series, []market.Symbol, error) {
	starts, ends := make([]pgtype.Timestamptz, len(gone)), make([]pgtype.Timestamptz, len(gone))
	for i, r := range gone {
		starts[i], ends[i] = Timestamptz(r.Start), Timestamptz(r.End)
	}
	rows, err := tx.Query(ctx, `SELECT DISTINCT c.symbol, c.timeframe FROM barkeep.coverage c
	    JOIN ROWS FROM (pg_catalog.unnest($1::timestamptz[]), pg_catalog.unnest($2::timestamptz[])) g (low, high)
	      ON c.range_start < g.high AND c.range_end > g.low
	 ORDER BY c.symbol, c.timeframe`, starts, ends)
	if err != nil {
		return nil, nil, fmt.Errorf("read series of lost chunks: %w", err)
	}
	var series []market.Series
	var symbols []market.Symbol
	var symbol, timeframe string
	_, err = pgx.ForEachRow(rows, []any{&symbol, &timeframe}, func() error {
		tf, err := market.ParseTimeframe(timeframe)
		if err != nil {
			return fmt.Errorf("symbol %s: %w", symbol, err)
		}
		series = append(series, market.Series{Symbol: market.Symbol(symbol), Timeframe: tf})
		if last := len(symbols) - 1; last < 0 || symbols[last] != market.Symbol(symbol) {
			symbols = append(symbols, market.Symbol(symbol))
		}
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read series of lost chunks: %w", err)
	}
	return series, symbols, nil
}
