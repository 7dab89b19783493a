package schema

import (
	"context"
	_ "embed"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// unsummed is the number of the last migration that databases may have of which the text was not written down.
const unsummed = 5

// made is what each migration up to unsummed makes as it is now: lines of its number and an item of inventory.
//
//go:embed made.txt
var made string

// makes returns the items of a migration up to unsummed.
func makes(number int) []string {
	var items []string
	for line := range strings.Lines(made) {
		if of, item, _ := strings.Cut(strings.TrimSpace(line), " "); of == strconv.Itoa(number) {
			items = append(items, item)
		}
	}
	return items
}

// inventorySQL lists what a migration may make: columns with their types, constraints and indexes by name, functions by the text they run, and
// triggers. None of it depends on the server's version.
const inventorySQL = `
with relation as (
  select c.oid, c.relkind, n.nspname || '.' || c.relname as name from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
   where n.nspname = 'barkeep' and c.relkind in ('r', 'v') and c.relname not in ('migration', 'schema_version') or c.oid = pg_catalog.to_regclass('public.ohlcv')
)
select pg_catalog.format('column %s.%s %s%s', r.name, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), case when a.attnotnull then ' not null' end)
  from relation r join pg_catalog.pg_attribute a on a.attrelid = r.oid where a.attnum > 0 and not a.attisdropped
union all
select pg_catalog.format('constraint %s of %s', k.conname, r.name) from relation r join pg_catalog.pg_constraint k on k.conrelid = r.oid where k.contype in ('c', 'p', 'u')
union all
select pg_catalog.format('index %s on %s', i.relname, r.name)
  from relation r join pg_catalog.pg_index x on x.indrelid = r.oid join pg_catalog.pg_class i on i.oid = x.indexrelid
union all
select pg_catalog.format('trigger %s on %s', t.tgname, r.name) from relation r join pg_catalog.pg_trigger t on t.tgrelid = r.oid
 where not t.tgisinternal and t.tgname like 'barkeep%'
union all
select pg_catalog.format('function barkeep.%s(%s) of text %s', p.proname, pg_catalog.pg_get_function_identity_arguments(p.oid), pg_catalog.md5(p.prosrc))
  from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace where n.nspname = 'barkeep'`

// inventory returns what the database has of what migrations make.
func inventory(ctx context.Context, tx pgx.Tx) ([]string, error) {
	rows, err := tx.Query(ctx, inventorySQL)
	if err != nil {
		return nil, fmt.Errorf("read what the database has: %w", err)
	}
	items, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("read what the database has: %w", err)
	}
	return items, nil
}
