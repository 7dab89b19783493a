package ingest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sort"
	"sync"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"barkeep/backfill/coverage"
	"barkeep/internal/market"
)

// chunkCache remembers which chunks of the hypertable were seen, so that a batch asks only for years it meets first.
type chunkCache struct {
	mu sync.Mutex
	// interval is a chunk's length in microseconds, 0 before it was read, negative where ohlcv is a plain table.
	interval int64
	seen     map[int64]struct{} // by start
}

// prepareChunks makes the chunks that the batch will meet, each in a short transaction of its own: a transaction that
// creates a chunk blocks the creation of all others until it ends (PIPELINE 23). Where that is refused for good, the COPY
// makes the chunks itself, which is only slower for others. So it does for a roll-up, whose bars have the chunks of their base
// but where the first of them opens in the one before.
func (w *Writer) prepareChunks(ctx context.Context, b Batch) error {
	if w.unready.Load() {
		return nil
	}
	interval, err := w.chunkInterval(ctx)
	if err != nil {
		return err
	}
	if interval <= 0 {
		return nil
	}
	for start := range w.unseen(b, interval) {
		if err := w.createChunk(ctx, start, start+interval); err != nil {
			var pgErr *pgconn.PgError
			if !errors.As(err, &pgErr) || retryable(pgErr.Code) {
				return err
			}
			// A name or a right that is missing stays so; a chunk that cannot be is the insert's to refuse.
			if pgerrcode.IsSyntaxErrororAccessRuleViolation(pgErr.Code) {
				w.unready.Store(true)
			}
			w.logger.LogAttrs(ctx, slog.LevelWarn, "chunk cannot be made beforehand", slog.Any("error", err))
			return nil
		}
		w.chunks.mu.Lock()
		w.chunks.seen[start] = struct{}{}
		w.chunks.mu.Unlock()
	}
	return nil
}

func retryable(code string) bool {
	return pgerrcode.IsConnectionException(code) || pgerrcode.IsTransactionRollback(code) ||
		pgerrcode.IsInsufficientResources(code) || pgerrcode.IsObjectNotInPrerequisiteState(code) ||
		pgerrcode.IsOperatorIntervention(code)
}

// chunkInterval returns the hypertable's chunk length in microseconds, negative where there is none.
func (w *Writer) chunkInterval(ctx context.Context) (int64, error) {
	w.chunks.mu.Lock()
	interval := w.chunks.interval
	w.chunks.mu.Unlock()
	if interval != 0 {
		return interval, nil
	}
	var installed bool
	if err := w.pool.QueryRow(ctx, `SELECT pg_catalog.to_regclass('_timescaledb_catalog.dimension') IS NOT NULL`).
		Scan(&installed); err != nil {
		return 0, fmt.Errorf("look for the hypertable: %w", err)
	}
	interval = -1
	if installed {
		err := w.pool.QueryRow(ctx, `SELECT d.interval_length FROM _timescaledb_catalog.dimension d
		  JOIN _timescaledb_catalog.hypertable h ON h.id = d.hypertable_id
		  WHERE h.schema_name = 'public' AND h.table_name = 'ohlcv' AND d.interval_length IS NOT NULL`).Scan(&interval)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return 0, fmt.Errorf("read chunk interval: %w", err)
		}
	}
	w.chunks.mu.Lock()
	defer w.chunks.mu.Unlock()
	w.chunks.interval, w.chunks.seen = interval, map[int64]struct{}{}
	return interval, nil
}

// unseen returns the starts of the chunks that the batch's rows fall in and that were not made yet.
func (w *Writer) unseen(b Batch, interval int64) map[int64]struct{} {
	w.chunks.mu.Lock()
	defer w.chunks.mu.Unlock()
	starts := make(map[int64]struct{})
	for _, r := range b.Records {
		if r.Page == nil || len(r.Page.Bars) == 0 {
			continue
		}
		for bars := r.Page.Bars; len(bars) > 0; {
			start := chunkStart(bars[0].TS, interval)
			if _, seen := w.chunks.seen[start]; !seen {
				starts[start] = struct{}{}
			}
			// Only chunks with a row: a page with one absurd time must not make those of the years between.
			next := sort.Search(len(bars), func(i int) bool { return int64(bars[i].TS)-start >= interval })
			bars = bars[next:]
		}
	}
	return starts
}

// chunkStart returns the start of the chunk that i lies in: TimescaleDB counts from the Unix epoch.
func chunkStart(i market.Instant, interval int64) int64 {
	start := int64(i) - int64(i)%interval
	if start > int64(i) {
		start -= interval
	}
	return start
}

func (w *Writer) createChunk(ctx context.Context, start, end int64) error {
	err := pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
		var there bool
		if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM _timescaledb_catalog.chunk c
		    JOIN _timescaledb_catalog.chunk_constraint cc ON cc.chunk_id = c.id
		    JOIN _timescaledb_catalog.dimension_slice s ON s.id = cc.dimension_slice_id
		    JOIN _timescaledb_catalog.hypertable h ON h.id = c.hypertable_id
		  WHERE h.schema_name = 'public' AND h.table_name = 'ohlcv' AND NOT c.dropped
		    AND s.range_start < $2 AND s.range_end > $1)`, start, end).Scan(&there); err != nil || there {
			return err
		}
		defer w.watchLocks(ctx, tx)()
		if _, err := tx.Exec(ctx, `SET LOCAL lock_timeout = '2s'`); err != nil {
			return err
		}
		// The function that makes a chunk is not in the Apache edition; a row that comes and goes is in every one.
		at := coverage.Timestamptz(market.Instant(start))
		if _, err := tx.Exec(ctx, `INSERT INTO public.ohlcv VALUES ('', '', $1, 0, 0, 0, 0, 0)`, at); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `DELETE FROM public.ohlcv WHERE symbol = '' AND timeframe = '' AND ts = $1`, at)
		return err
	})
	if err != nil {
		return fmt.Errorf("make chunk from %s: %w", market.Instant(start), err)
	}
	return nil
}
