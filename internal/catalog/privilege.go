package catalog

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// privilegeExpiry bounds how long a GRANT or REVOKE goes unnoticed. It only opens or closes the way to a fetch: the
	// executor checks every read itself.
	privilegeExpiry = 2 * time.Second
	// privilegesKept bounds the cache.
	privilegesKept = 4096
)

// NoTableError is returned where ohlcv was dropped.
type NoTableError struct{}

// Error says what is gone.
func (NoTableError) Error() string { return "relation \"ohlcv\" was dropped" }

// SQLState returns 42P01, undefined_table.
func (NoTableError) SQLState() string { return pgerrcode.UndefinedTable }

// Hint tells how to get it back.
func (NoTableError) Hint() string {
	return "Restore the database, or give barkeep a new one: bars are fetched again as they are asked for."
}

// ours is the relation that is meant where none is named.
const ours = "public." + table

type readKey struct{ role, relation, columns string }

type readAnswer struct {
	may   bool
	until time.Time
}

// mayReadSQL is the check that the executor makes: SELECT on the table, or on every column that is read, or on any
// column where none is named (count(*)). $3 is null for all columns.
const mayReadSQL = `
select coalesce(has_schema_privilege($1::name, c.relnamespace, 'USAGE') and (
         has_table_privilege($1::name, c.oid, 'SELECT')
         or case when cardinality($3::text[]) = 0 then has_any_column_privilege($1::name, c.oid, 'SELECT')
            else (select bool_and(has_column_privilege($1::name, c.oid, a.attnum, 'SELECT'))
                    from pg_attribute a
                   where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
                     and ($3::text[] is null or a.attname = any($3::text[]))) end), false)
  from pg_class c where c.oid = to_regclass($2)`

// MayRead reports whether the role may read the columns of the relation, nil columns meaning all of them and none
// meaning any one. An empty relation is public.ohlcv. A role or relation that does not exist may not, and an ohlcv that does not is a
// NoTableError. The answer is remembered for a moment.
func (c *Catalog) MayRead(ctx context.Context, role string, columns []string, relation string) (bool, error) {
	if relation == "" {
		relation = ours
	}
	key := readKey{role: role, relation: relation, columns: strings.Join(columns, ",")}
	if columns == nil {
		key.columns = "*"
	}
	now := c.now()
	c.mayRead.Lock()
	known, ok := c.mayRead.known[key]
	c.mayRead.Unlock()
	if ok && now.Before(known.until) {
		return known.may, nil
	}
	var may bool
	err := whileLost(ctx, func(ctx context.Context) (err error) {
		may, err = c.askRight(ctx, role, relation, columns)
		return err
	})
	if err != nil {
		return false, err
	}
	c.mayRead.Lock()
	defer c.mayRead.Unlock()
	if len(c.mayRead.known) >= privilegesKept {
		clear(c.mayRead.known)
	}
	c.mayRead.known[key] = readAnswer{may: may, until: now.Add(privilegeExpiry)}
	return may, nil
}

func (c *Catalog) askRight(ctx context.Context, role, relation string, columns []string) (may bool, err error) {
	rows, err := c.pool.Query(ctx, mayReadSQL, role, relation, columns)
	if err != nil {
		return false, fmt.Errorf("check the right to read %s: %w", relation, err)
	}
	defer rows.Close()
	there := false
	for rows.Next() {
		there = true
		if err := rows.Scan(&may); err != nil {
			return false, fmt.Errorf("check the right to read %s: %w", relation, err)
		}
	}
	if err := rows.Err(); err != nil {
		var refused *pgconn.PgError
		if errors.As(err, &refused) && refused.Code == pgerrcode.UndefinedObject {
			return false, nil
		}
		return false, fmt.Errorf("check the right to read %s: %w", relation, err)
	}
	if !there && relation == ours {
		return false, NoTableError{}
	}
	return may, nil
}
