package directory

import (
	"context"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"barkeep/internal/market"
)

// enabled is the condition on the row o of barkeep.source that its source may be asked.
const enabled = `NOT coalesce((o.declared ->> 'disabled')::boolean, false)`

// ListingSQL lists the symbols that there may be rows of and that begin with $1: those that are bound, those that sources list,
// under their prefix, and those of the array $2 that a source lists and serves without a prefix (PLANNER 13).
const ListingSQL = `SELECT symbol FROM barkeep.symbol WHERE starts_with(symbol, $1::text)
  UNION SELECT i.source || ':' || i.symbol FROM barkeep.instrument i JOIN barkeep.source o ON o.name = i.source
   WHERE starts_with(i.source || ':' || i.symbol, $1::text) AND ` + enabled + `
  UNION SELECT i.symbol FROM barkeep.instrument i JOIN barkeep.source o ON o.name = i.source
   WHERE ` + enabled + ` AND i.symbol = ANY ($2::text[]) AND starts_with(i.symbol, $1::text) AND NOT coalesce((o.declared ->> 'prefix_only')::boolean, false)`

// Listed reports whether the lists of all sources that may have a symbol with the prefix are known, and not older than maxAge; local
// ones are believed for localAge. Where it returns false it has asked for a reading, and the caller tries again after a notification
// on Channel, or a while, with what it has waited: a list that was read meanwhile is new enough. A source whose list nobody has read
// since it was asked for patience ago is one that nobody serves any more: what it has is as it was. It returns *ListError where a
// list that was never read cannot be.
func Listed(ctx context.Context, pool *pgxpool.Pool, prefix string, maxAge, waited, patience time.Duration) (bool, error) {
	all, err := readSources(ctx, pool)
	if err != nil || len(all) == 0 {
		return false, err
	}
	var stale []string
	for _, e := range all {
		if venue := e.name + ":"; !strings.HasPrefix(venue, prefix) && !strings.HasPrefix(prefix, venue) {
			continue
		}
		limit := maxAge
		if e.declared.Local {
			limit = min(limit, localAge)
		}
		switch {
		case !e.read && e.failure != "":
			return false, &ListError{Source: e.name, Reason: e.failure, Symbol: market.Symbol(prefix)}
		case !e.read, e.age > max(limit, waited) && e.failure == "" && e.wanted < patience:
			stale = append(stale, e.name)
		}
	}
	if len(stale) > 0 {
		return false, want(ctx, pool, stale)
	}
	return true, nil
}
