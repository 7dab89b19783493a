package directory

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"barkeep/backfill/coverage"
	"barkeep/internal/market"
)

// successors finds the symbols of a source whose instrument was delisted, and which the list has under another id or
// listing since. While the delisting is not known nothing is decided: two ids of one name may both be alive.
const successors = `SELECT DISTINCT ON (s.symbol) s.symbol, s.delisted_at, i.vendor_id, i.listed_at, nullif(i.delisted_at, 'infinity')
  FROM barkeep.symbol s JOIN barkeep.instrument i ON i.source = s.source
   AND i.symbol = ` + nameOf + `
 WHERE s.source = $1 AND s.delisted_at < 'infinity' AND i.listed_at >= s.delisted_at
   AND (i.vendor_id <> s.vendor_id OR i.listed_at <> coalesce(s.listed_at, '-infinity'))
 ORDER BY s.symbol, i.listed_at, i.vendor_id`

type successor struct {
	symbol             market.Symbol
	end                pgtype.Timestamptz
	vendorID           string
	listed, delistedAt pgtype.Timestamptz
}

// relist opens a new generation for each symbol whose name has passed to another instrument, and closes what is known of
// the old one at its delisting: nothing that was said of the time after holds for the new one (PIPELINE 11).
func relist(ctx context.Context, tx pgx.Tx, source string) error {
	rows, err := tx.Query(ctx, successors, source)
	if err != nil {
		return fmt.Errorf("compare listings: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (n successor, err error) {
		return n, row.Scan(&n.symbol, &n.end, &n.vendorID, &n.listed, &n.delistedAt)
	})
	if err != nil {
		return fmt.Errorf("compare listings: %w", err)
	}
	symbols := make([]market.Symbol, len(found))
	for i, n := range found {
		symbols[i] = n.symbol
	}
	if _, err := coverage.LockSymbols(ctx, tx, symbols); err != nil {
		return err
	}
	for _, n := range found {
		if _, err := tx.Exec(ctx, `UPDATE barkeep.symbol AS s SET vendor_id = $2, listed_at = $3, delisted_at = $4,
		    generation = `+coverage.NextGeneration+`, version = version + 1, bound_at = now() WHERE symbol = $1`,
			string(n.symbol), n.vendorID, n.listed, n.delistedAt); err != nil {
			return fmt.Errorf("bind %s to its new listing: %w", n.symbol, err)
		}
		if err := closeAt(ctx, tx, n.symbol, orInstant(n.end, market.PosInf), orInstant(n.listed, market.NegInf)); err != nil {
			return err
		}
	}
	return nil
}

// closeAt withdraws what is known of the symbol after the end of an instrument. The bar that it ended in is its own as a whole,
// but where the next one was listed within it.
func closeAt(ctx context.Context, tx pgx.Tx, symbol market.Symbol, end, next market.Instant) error {
	rows, err := tx.Query(ctx, `SELECT DISTINCT timeframe FROM barkeep.coverage WHERE symbol = $1`, string(symbol))
	if err != nil {
		return fmt.Errorf("read timeframes of %s: %w", symbol, err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("read timeframes of %s: %w", symbol, err)
	}
	for _, name := range names {
		tf, err := market.ParseTimeframe(name)
		if err != nil {
			return fmt.Errorf("symbol %s: %w", symbol, err)
		}
		after := market.RangeSet{{Start: min(tf.Ceil(end), tf.Floor(next)), End: market.PosInf}}
		if err := coverage.Withdraw(ctx, tx, market.Series{Symbol: symbol, Timeframe: tf}, after); err != nil {
			return fmt.Errorf("close coverage of %s: %w", symbol, err)
		}
	}
	return nil
}
