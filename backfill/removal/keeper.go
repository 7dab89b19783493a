package removal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"barkeep/backfill/coverage"
	"barkeep/internal/actor"
	"barkeep/internal/market"
)

// Config sets a Keeper. Pool is needed; the rest has defaults.
type Config struct {
	// Pool stays the caller's, and has service settings.
	Pool *pgxpool.Pool
	// Lease is how long an index may be relied on after its last poll, default 5 s; Grace what rows are kept beyond that, default
	// 10 min: a statement that began under the old coverage may still read them.
	Lease, Grace time.Duration
	// Keep is for how long bars of a timeframe are kept; those that are not in it are kept for ever.
	Keep map[market.Timeframe]time.Duration
	// Every is the mean time between two rounds, default 1 min.
	Every  time.Duration
	Actors *actor.Registry
	Logger *slog.Logger
}

// Keeper withdraws bars that are too old, and deletes the rows of all that was withdrawn long enough ago. Make it with New and Run it;
// its methods are safe for concurrent use.
type Keeper struct {
	config        Config
	retired, rows atomic.Int64
}

// New returns a keeper.
func New(config Config) (*Keeper, error) {
	if config.Pool == nil {
		return nil, errors.New("removal: Pool is nil")
	}
	if config.Lease <= 0 {
		config.Lease = coverage.DefaultLease
	}
	if config.Grace <= 0 {
		config.Grace = DefaultGrace
	}
	if config.Every <= 0 {
		config.Every = time.Minute
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	return &Keeper{config: config}, nil
}

// DefaultGrace is how long rows are kept after the coverage that vouched for them ended everywhere (DESIGN §14).
const DefaultGrace = 10 * time.Minute

// Stats are counts since the start.
type Stats struct {
	// Retired is the number of times that a series had bars withdrawn for their age, Rows that of rows deleted.
	Retired, Rows int64
}

// Stats returns the counts.
func (k *Keeper) Stats() Stats { return Stats{Retired: k.retired.Load(), Rows: k.rows.Load()} }

// Run does a round at intervals until ctx ends, and then returns nil. What goes wrong is logged and done in the next round.
func (k *Keeper) Run(ctx context.Context) error {
	machine := k.config.Actors.New(actor.Remover(), "")
	defer machine.Close()
	for {
		if err := k.round(ctx, machine); err != nil {
			if ctx.Err() != nil {
				return nil // a stop is a cause, not a failure
			}
			machine.Fail()
			k.config.Logger.LogAttrs(ctx, slog.LevelWarn, "bars cannot be removed now", slog.Any("error", err))
		}
		timer := time.NewTimer(time.Duration(float64(k.config.Every) * (0.75 + 0.5*rand.Float64())))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

func (k *Keeper) round(ctx context.Context, machine *actor.Machine) error {
	machine.To(actor.Withdrawing)
	if err := k.Retire(ctx); err != nil {
		return err
	}
	machine.To(actor.Deleting)
	if err := k.Sweep(ctx); err != nil {
		return err
	}
	machine.To(actor.Idle)
	return nil
}

// Retire withdraws the coverage of what is older than it is kept: the first step. All before is unavailable from then on, also
// what was never fetched: it would only be fetched to be removed.
func (k *Keeper) Retire(ctx context.Context) error {
	for tf, keep := range k.config.Keep {
		list, until, err := k.aged(ctx, tf, keep)
		if err != nil {
			return err
		}
		for _, symbol := range list {
			if err := k.retire(ctx, market.Series{Symbol: symbol, Timeframe: tf}, until); err != nil {
				return err
			}
		}
	}
	return nil
}

// aged returns the symbols that have something older than keep that is neither absent nor retired, and how old that is. The edge moves
// by the hour, or the day where bars are kept for weeks, so that coverage does not change all the time.
func (k *Keeper) aged(ctx context.Context, tf market.Timeframe, keep time.Duration) (list []market.Symbol, until market.Instant, err error) {
	unit := "hour"
	if keep >= 7*24*time.Hour {
		unit = "day"
	}
	rows, err := k.config.Pool.Query(ctx, `SELECT c.symbol, l.until
	  FROM (SELECT pg_catalog.date_trunc($2, pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => $3), 'UTC')) l (until)
	  JOIN barkeep.coverage c ON c.timeframe = $1 AND c.range_start < l.until
	 WHERE c.state <> $4 AND NOT (c.state = $5 AND c.reason = $6)
	 GROUP BY c.symbol, l.until ORDER BY c.symbol COLLATE "C"`,
		tf.String(), unit, keep.Seconds(), int16(coverage.Absent), int16(coverage.Unavailable), coverage.Retention)
	if err != nil {
		return nil, 0, fmt.Errorf("look for old bars: %w", err)
	}
	var symbol string
	var edge pgtype.Timestamptz
	_, err = pgx.ForEachRow(rows, []any{&symbol, &edge}, func() error {
		list, until = append(list, market.Symbol(symbol)), market.FromTime(edge.Time)
		return nil
	})
	if err != nil {
		return nil, 0, fmt.Errorf("look for old bars: %w", err)
	}
	return list, until, nil
}

func (k *Keeper) retire(ctx context.Context, series market.Series, until market.Instant) error {
	changed := false
	err := k.within(ctx, series, func(tx pgx.Tx, ledger *coverage.Ledger, by coverage.Binding) error {
		at, err := clock(ctx, tx)
		changed = err == nil && ledger.Retire(until, by, at)
		return err
	})
	if err != nil {
		return fmt.Errorf("withdraw old bars of %s: %w", series, err)
	}
	if changed {
		k.retired.Add(1)
	}
	return nil
}

// Sweep deletes the rows of what was withdrawn longer ago than lease and grace, and is not covered again: the second step.
func (k *Keeper) Sweep(ctx context.Context) error {
	rows, err := k.config.Pool.Query(ctx, `SELECT DISTINCT symbol, timeframe FROM barkeep.coverage
	 WHERE state = $1 AND (reason = $2 OR pg_catalog.starts_with(reason, $2 || ': ') OR reason = $3 AND retry_at IS NULL)
	   AND fetched_at <= pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => $4)
	 ORDER BY symbol, timeframe`,
		int16(coverage.Unavailable), coverage.Forgotten, coverage.Retention, k.hold().Seconds())
	if err != nil {
		return fmt.Errorf("look for rows to remove: %w", err)
	}
	series, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (s market.Series, err error) {
		var symbol, timeframe string
		if err := row.Scan(&symbol, &timeframe); err != nil {
			return s, err
		}
		s.Symbol = market.Symbol(symbol)
		s.Timeframe, err = market.ParseTimeframe(timeframe)
		return s, err
	})
	if err != nil {
		return fmt.Errorf("look for rows to remove: %w", err)
	}
	for _, s := range series {
		for more := true; more; {
			if more, err = k.piece(ctx, s); err != nil {
				return fmt.Errorf("remove rows of %s: %w", s, err)
			}
		}
	}
	return nil
}

func (k *Keeper) hold() time.Duration { return k.config.Lease + k.config.Grace }

// pieceRows bounds what one transaction deletes: it holds the symbol's lock for as long.
const pieceRows = 50_000

// piece deletes the oldest rows that may be, and reports whether there was anything.
func (k *Keeper) piece(ctx context.Context, series market.Series) (found bool, err error) {
	var deleted int64
	err = k.within(ctx, series, func(tx pgx.Tx, ledger *coverage.Ledger, _ coverage.Binding) error {
		now, err := clock(ctx, tx)
		if err != nil {
			return err
		}
		due := ledger.Pending(now.Shift(-k.hold()))
		if found = len(due) > 0; !found {
			return nil
		}
		s := due[0]
		r := s.Range
		var next pgtype.Timestamptz
		err = tx.QueryRow(ctx, `SELECT (SELECT ts FROM public.ohlcv WHERE symbol = $1 AND timeframe = $2 AND ts >= $3 AND ts < $4
		    ORDER BY ts OFFSET $5 LIMIT 1)`, string(series.Symbol), series.Timeframe.String(),
			coverage.Timestamptz(r.Start), coverage.Timestamptz(r.End), pieceRows).Scan(&next)
		if err != nil {
			return fmt.Errorf("look for rows: %w", err)
		}
		if next.Valid {
			r.End = market.FromTime(next.Time)
		}
		gone, err := tx.Exec(ctx, `DELETE FROM public.ohlcv WHERE symbol = $1 AND timeframe = $2 AND ts >= $3 AND ts < $4`,
			string(series.Symbol), series.Timeframe.String(), coverage.Timestamptz(r.Start), coverage.Timestamptz(r.End))
		if err != nil {
			return fmt.Errorf("delete rows: %w", err)
		}
		deleted = gone.RowsAffected()
		ledger.Removed(s, r)
		return nil
	})
	if err != nil {
		return false, err
	}
	if deleted > 0 {
		k.rows.Add(deleted)
		k.config.Logger.LogAttrs(ctx, slog.LevelInfo, "bars removed", slog.String("symbol", string(series.Symbol)),
			slog.String("timeframe", series.Timeframe.String()), slog.Int64("rows", deleted))
	}
	return found, nil
}

// within changes the ledger of a series under its symbol's lock, and stores what was changed.
func (k *Keeper) within(ctx context.Context, series market.Series, change func(pgx.Tx, *coverage.Ledger, coverage.Binding) error) error {
	return pgx.BeginFunc(ctx, k.config.Pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SET LOCAL lock_timeout = '2s'`); err != nil {
			return fmt.Errorf("set up transaction: %w", err)
		}
		bound, err := coverage.LockSymbols(ctx, tx, []market.Symbol{series.Symbol})
		if err != nil {
			return err
		}
		by, found := bound[series.Symbol]
		if !found {
			return nil // the symbol is gone, by hand
		}
		ledger, err := coverage.ReadLedger(ctx, tx, series, market.Always)
		if err != nil {
			return err
		}
		if err := change(tx, ledger, by); err != nil {
			return err
		}
		batch := &pgx.Batch{}
		if !coverage.QueueLedgers(batch, ledger) {
			return nil
		}
		coverage.QueueVersion(batch, series.Symbol)
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return fmt.Errorf("write coverage: %w", err)
		}
		return nil
	})
}
