package directory

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"barkeep/internal/market"
)

// nameOf is an expression for what the source of the symbol s lists it as.
const nameOf = `CASE WHEN starts_with(s.symbol, s.source || ':') THEN substr(s.symbol, length(s.source) + 2) ELSE s.symbol END`

// Former is an instrument that had a symbol's name before the one that it is bound to.
type Former struct {
	VendorID string
	// Life runs from its listing to its delisting.
	Life market.Range
}

// Formers returns the instruments of the same base and quote that had the symbol's name, at the same source, and were
// delisted when the one it is bound to was listed, in the order of their lives.
func Formers(ctx context.Context, pool *pgxpool.Pool, symbol market.Symbol) ([]Former, error) {
	rows, err := pool.Query(ctx, `SELECT i.vendor_id, i.listed_at, i.delisted_at FROM barkeep.symbol s
	    JOIN barkeep.instrument i ON i.source = s.source AND i.symbol = `+nameOf+`
	   WHERE s.symbol = $1 AND i.delisted_at <= s.listed_at AND (i.vendor_id <> s.vendor_id OR i.listed_at <> s.listed_at)
	     AND EXISTS (SELECT FROM barkeep.instrument c WHERE c.source = i.source AND c.vendor_id = s.vendor_id AND c.base = i.base AND c.quote = i.quote)
	   ORDER BY i.listed_at, i.delisted_at`, string(symbol))
	if err != nil {
		return nil, fmt.Errorf("read who had the name %s: %w", symbol, err)
	}
	formers, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (f Former, err error) {
		var listed, delisted pgtype.Timestamptz
		err = row.Scan(&f.VendorID, &listed, &delisted)
		f.Life = market.Range{Start: orInstant(listed, market.NegInf), End: orInstant(delisted, market.PosInf)}
		return f, err
	})
	if err != nil {
		return nil, fmt.Errorf("read who had the name %s: %w", symbol, err)
	}
	return formers, nil
}
