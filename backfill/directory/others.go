package directory

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"barkeep/internal/market"
)

// Others returns the symbols under which other sources list an instrument of the same base and quote as the one that symbol is bound to,
// for people: those that only serve by their prefix invent bars or are the user's own, and are left out.
func Others(ctx context.Context, pool *pgxpool.Pool, symbol market.Symbol, bound *Binding) ([]string, error) {
	rows, err := pool.Query(ctx, `SELECT DISTINCT n.source || ':' || n.symbol FROM barkeep.instrument i
	    JOIN barkeep.instrument n ON n.base = i.base AND n.quote = i.quote AND n.source <> i.source AND n.base <> ''
	    JOIN barkeep.source o ON o.name = n.source AND NOT coalesce((o.declared ->> 'prefix_only')::boolean, false) AND `+enabled+`
	   WHERE i.source = $1 AND i.vendor_id = $2 ORDER BY 1`, bound.Source, bound.VendorID)
	if err != nil {
		return nil, fmt.Errorf("look for other sources of %s: %w", symbol, err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look for other sources of %s: %w", symbol, err)
	}
	return names, nil
}

// Same reports whether two bindings are of the same base and quote, as their sources list them.
func Same(ctx context.Context, pool *pgxpool.Pool, a, b *Binding) (same bool, err error) {
	err = pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM barkeep.instrument i JOIN barkeep.instrument o ON o.base = i.base AND o.quote = i.quote
	  WHERE i.base <> '' AND i.source = $1 AND i.vendor_id = $2 AND o.source = $3 AND o.vendor_id = $4)`,
		a.Source, a.VendorID, b.Source, b.VendorID).Scan(&same)
	if err != nil {
		return false, fmt.Errorf("compare %s of %s with that of %s: %w", a.Symbol, a.Source, b.Source, err)
	}
	return same, nil
}
