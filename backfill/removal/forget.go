package removal

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"barkeep/backfill/coverage"
	"barkeep/internal/market"
)

// Order says what to forget.
type Order struct {
	Symbol market.Symbol
	// Timeframe is the one that is forgotten, with all that was rolled up from it; zero means all.
	Timeframe market.Timeframe
	// Range is rounded outward.
	Range market.Range
	// Source binds the symbol to another source, which must list it and not be named in the symbol; empty leaves the binding.
	// All of the symbol is forgotten then, so that no series is of two venues (PIPELINE 10).
	Source string
}

// Outcome is what came of it.
type Outcome struct {
	// Generation is the symbol's new one, Source what serves it now.
	Generation int64
	Source     string
	// Series are those whose coverage was withdrawn, or whose rows are to be removed, shortest timeframe first.
	Series []market.Series
	// Lenders are the symbols of other sources that had lent bars of what was forgotten: those were forgotten there too.
	Lenders []market.Symbol
}

var (
	// ErrPart is returned where another source is asked for, and not all of the symbol is forgotten.
	ErrPart = errors.New("another source serves all of a symbol or nothing: forget all of it")
	// ErrSource is returned, wrapped, where the source cannot serve the symbol.
	ErrSource = errors.New("the source cannot serve the symbol")
)

// Forget raises the symbol's generation and withdraws the coverage that the order names, in one transaction (PIPELINE 8). Pages
// and jobs of the old generation are refused from then on, their waiters ask again; what was not named stays valid. The
// rows are deleted by a Keeper when no index can vouch for them any more. It returns coverage.ErrUnbound, wrapped, for a symbol that
// nobody has asked for yet. Where it fails, the outcome names the lenders in which something is withdrawn all the same: each of them is a
// transaction before that.
func Forget(ctx context.Context, pool *pgxpool.Pool, o Order) (Outcome, error) {
	if o.Source != "" && (o.Timeframe.Valid() || o.Range != market.Always) {
		return Outcome{}, ErrPart
	}
	lenders, err := forgetLent(ctx, pool, o)
	if err != nil {
		return Outcome{Lenders: lenders}, err
	}
	var out Outcome
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		bound, err := coverage.LockSymbols(ctx, tx, []market.Symbol{o.Symbol})
		if err != nil {
			return err
		}
		was, found := bound[o.Symbol]
		if !found {
			return fmt.Errorf("%w: %q", coverage.ErrUnbound, string(o.Symbol))
		}
		if out, err = raise(ctx, tx, o, was); err != nil {
			return err
		}
		out.Series, err = bury(ctx, tx, o, was)
		return err
	})
	if err != nil {
		return Outcome{Lenders: lenders}, fmt.Errorf("forget %s: %w", o.Symbol, err)
	}
	out.Lenders = lenders
	return out, nil
}

// forgetLent forgets what was lent where it was lent from, else the same bars would be lent again. That comes first: what is lent anew in between
// was fetched anew.
func forgetLent(ctx context.Context, pool *pgxpool.Pool, o Order) (lenders []market.Symbol, err error) {
	index := coverage.NewStore(pool, coverage.Config{})
	if err := index.RefreshSymbol(ctx, o.Symbol); err != nil {
		return nil, fmt.Errorf("read what was lent to %s: %w", o.Symbol, err)
	}
	for _, tf := range market.Timeframes() {
		if o.Timeframe.Valid() && tf != o.Timeframe {
			continue
		}
		for _, s := range index.Snapshot().Segments(market.Series{Symbol: o.Symbol, Timeframe: tf}) {
			r := s.Range.Intersect(o.Range.Outward(tf))
			if !s.Lent() || r.Empty() {
				continue
			}
			lender := market.Symbol(s.Source + ":" + string(o.Symbol))
			if _, err := Forget(ctx, pool, Order{Symbol: lender, Timeframe: tf, Range: r}); errors.Is(err, coverage.ErrUnbound) {
				continue // it is gone, by hand
			} else if err != nil {
				return lenders, err
			}
			if !slices.Contains(lenders, lender) {
				lenders = append(lenders, lender)
			}
		}
	}
	return lenders, nil
}

// raise opens a new generation, of another source where the order says so.
func raise(ctx context.Context, tx pgx.Tx, o Order, was coverage.Binding) (out Outcome, err error) {
	if o.Source == "" || o.Source == was.Source {
		err = tx.QueryRow(ctx, `UPDATE barkeep.symbol AS s SET generation = `+coverage.NextGeneration+` WHERE symbol = $1 RETURNING generation, source`,
			string(o.Symbol)).Scan(&out.Generation, &out.Source)
		if err != nil {
			return out, fmt.Errorf("raise the generation: %w", err)
		}
		return out, nil
	}
	if venue, _ := o.Symbol.Split(); venue != "" {
		return out, fmt.Errorf("%w: %s names %s itself", ErrSource, o.Symbol, venue)
	}
	err = tx.QueryRow(ctx, `UPDATE barkeep.symbol s SET generation = `+coverage.NextGeneration+`, source = $2, vendor_id = i.vendor_id,
	    listed_at = nullif(i.listed_at, '-infinity'), delisted_at = nullif(i.delisted_at, 'infinity'), bound_at = now()
	  FROM (SELECT vendor_id, listed_at, delisted_at FROM barkeep.instrument WHERE source = $2 AND symbol = $1
	         ORDER BY coalesce(delisted_at, 'infinity') DESC, listed_at DESC, vendor_id LIMIT 1) i,
	       barkeep.source o
	 WHERE s.symbol = $1 AND o.name = $2 AND NOT coalesce((o.declared ->> 'prefix_only')::boolean, false)
	RETURNING s.generation, s.source`, string(o.Symbol), o.Source).Scan(&out.Generation, &out.Source)
	if errors.Is(err, pgx.ErrNoRows) {
		return out, fmt.Errorf("%w: %s does not list %s, or serves it by its prefix only", ErrSource, o.Source, o.Symbol)
	}
	if err != nil {
		return out, fmt.Errorf("bind to %s: %w", o.Source, err)
	}
	return out, nil
}

// bury withdraws the coverage and leaves the notes.
func bury(ctx context.Context, tx pgx.Tx, o Order, was coverage.Binding) ([]market.Series, error) {
	list, err := timeframes(ctx, tx, o.Symbol, o.Timeframe)
	if err != nil {
		return nil, err
	}
	at, err := clock(ctx, tx)
	if err != nil {
		return nil, err
	}
	var ledgers []*coverage.Ledger
	var series []market.Series
	for _, tf := range list {
		each := market.Series{Symbol: o.Symbol, Timeframe: tf}
		ledger, err := coverage.ReadLedger(ctx, tx, each, market.Always)
		if err != nil {
			return nil, err
		}
		ledger.Bury(o.Range, was, at)
		ledgers, series = append(ledgers, ledger), append(series, each)
	}
	batch := &pgx.Batch{}
	coverage.QueueLedgers(batch, ledgers...)
	coverage.QueueVersion(batch, o.Symbol)
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return nil, fmt.Errorf("write coverage: %w", err)
	}
	return series, nil
}

// timeframes returns those of the symbol that have coverage or rows: all, or one and what was rolled up from it.
func timeframes(ctx context.Context, tx pgx.Tx, symbol market.Symbol, only market.Timeframe) ([]market.Timeframe, error) {
	name := ""
	if only.Valid() {
		name = only.String()
	}
	var names []string
	for _, tf := range market.Timeframes() {
		names = append(names, tf.String())
	}
	rows, err := tx.Query(ctx, `SELECT t FROM pg_catalog.unnest($2::text[]) t
	  WHERE ($3 = '' OR t = $3 OR EXISTS (SELECT FROM barkeep.coverage WHERE symbol = $1 AND timeframe = t AND derived_from = $3))
	    AND (EXISTS (SELECT FROM barkeep.coverage WHERE symbol = $1 AND timeframe = t)
	         OR EXISTS (SELECT FROM public.ohlcv WHERE symbol = $1 AND timeframe = t))`,
		string(symbol), names, name)
	if err != nil {
		return nil, fmt.Errorf("read timeframes: %w", err)
	}
	var list []market.Timeframe
	var text string
	_, err = pgx.ForEachRow(rows, []any{&text}, func() error {
		tf, err := market.ParseTimeframe(text)
		list = append(list, tf)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read timeframes: %w", err)
	}
	slices.Sort(list)
	return list, nil
}

// clock reads the database's.
func clock(ctx context.Context, tx pgx.Tx) (market.Instant, error) {
	var now pgtype.Timestamptz
	if err := tx.QueryRow(ctx, `SELECT pg_catalog.clock_timestamp()`).Scan(&now); err != nil {
		return 0, fmt.Errorf("read the database's clock: %w", err)
	}
	return market.FromTime(now.Time), nil
}
