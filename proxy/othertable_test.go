package proxy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// otherTable makes a table of ohlcv's name in a schema of a user's.
const otherTable = "create schema app; create table app.ohlcv (symbol text, timeframe text, ts timestamptz, close float8)"

// otherRow is a row of it.
const otherRow = "insert into app.ohlcv values ('x', '1m', '2024-01-01Z', 1)"

// PLANNER 6: a table named ohlcv in another schema is its owner's. What names it with its schema, or without where search_path has no public, is
// answered as by PostgreSQL, and nothing is fetched for it.
func TestTableOfTheName(t *testing.T) {
	b, _ := startFresh(t)
	conn := b.connect(t, nil)
	for _, statement := range []string{otherTable, otherRow} {
		_, err := conn.Exec(t.Context(), statement)
		require.NoError(t, err)
	}
	for _, statement := range []string{
		"select * from app.ohlcv",
		"select count(*) from app.ohlcv where symbol = 'nobody'",
		"select a.symbol, b.close from app.ohlcv a left join app.ohlcv b on a.ts < b.ts order by 1 limit 3",
		"select count(*) from app.ohlcv where symbol in (select symbol from app.ohlcv where close > 0)",
		"insert into app.ohlcv values ('y', '1m', now(), 2)",
		"insert into app.ohlcv select symbol, '5m', ts, close from app.ohlcv returning symbol, timeframe",
		"update app.ohlcv set close = close + 1 where symbol = 'x' returning close",
		"update app.ohlcv o set close = p.close from app.ohlcv p where o.symbol = p.symbol",
		"delete from app.ohlcv using (values ('x')) v (s) where symbol = v.s",
		"merge into app.ohlcv o using (values ('x'), ('z')) v (s) on o.symbol = v.s when matched then delete when not matched then insert values (v.s, '1m', now(), 3)",
		"with w as (insert into app.ohlcv values ('w', '1m', now(), 2) returning symbol) select * from w",
		"truncate app.ohlcv",
		"lock table app.ohlcv in share mode",
		"create table mine as select * from app.ohlcv",
		"select nothing from app.ohlcv",
		"insert into app.ohlcv values (1, 2, 3, 4, 5)",
		"select * from app.ohlcv for update",
		"explain (costs off) select * from app.ohlcv",
	} {
		for _, path := range []string{"", "app", "app, pg_temp"} {
			for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeCacheStatement} {
				statement := statement
				if path != "" {
					statement = strings.ReplaceAll(statement, "app.", "")
				}
				want, wanted := outcomeOf(t, b.db.URL, path, statement, mode)
				got, gotten := outcomeOf(t, b.url, path, statement, mode)
				require.Equal(t, wanted, gotten, "%s: %s", path, statement)
				require.Equal(t, want, got, "%s: %s", path, statement)
			}
		}
	}
	require.Empty(t, b.requested())
}

// PLANNER 6: in doubt the name is ours, whatever else has it.
func TestTableOfTheNameInDoubt(t *testing.T) {
	const (
		bounds  = " where symbol = 'sim:ETHUSD' and timeframe = '1m' and ts >= '2024-01-01Z' and ts < '2024-01-02Z'"
		count   = "select count(*) from app.ohlcv" + bounds
		insert  = "insert into app.ohlcv values ('y', '1m', now(), 2)"
		moves   = "alter table app.ohlcv rename to old; alter table public.ohlcv set schema app; "
		reader  = "create function app.f() returns trigger language plpgsql as $$ begin new.close := (select count(*) from public.ohlcv" + bounds + "); return new; end $$"
		trigger = "create trigger t before insert on app.ohlcv for each row execute function app.f()"
	)
	for name, statements := range map[string][]string{
		"of ours":                   {"insert into public.ohlcv values ('y', '1m', now(), 2)"},
		"without a schema":          {"insert into ohlcv values ('y', '1m', now(), 2)"},
		"public is in search_path":  {"set search_path = app, public", "insert into ohlcv values ('y', '1m', now(), 2)"},
		"public, qualified":         {"set search_path = app", "insert into public.ohlcv values ('y', '1m', now(), 2)"},
		"a trigger":                 {reader, trigger, insert},
		"a trigger, by search_path": {reader, trigger, "set search_path = app", "insert into ohlcv values ('y', '1m', now(), 2)"},
		"a trigger in the block":    {reader, "begin", trigger, insert},
		"a trigger in the Query":    {reader, trigger + "; " + insert},
		"a view":                    {"alter table app.ohlcv rename to old", "create view app.ohlcv as select * from public.ohlcv", count},
		"a view in the block":       {"begin", "alter table app.ohlcv rename to old", "create view app.ohlcv as select * from public.ohlcv", count},
		"a view in the Query":       {"alter table app.ohlcv rename to old; create view app.ohlcv as select * from public.ohlcv; " + count},
		"another view":              {"create schema second", "create view second.ohlcv as select * from public.ohlcv", "select count(*) from second.ohlcv" + bounds},
		"ours moves in the block":   {"begin", moves, "set local statement_timeout = '3s'", count},
		"ours moves in the Query":   {moves + count},
		"temporary, a view":         {"create temp view ohlcv as select * from public.ohlcv", "set search_path = app", "select count(*) from ohlcv" + bounds},
	} {
		t.Run(name, func(t *testing.T) {
			b, _ := startFresh(t)
			conn := b.connect(t, nil)
			_, err := conn.Exec(t.Context(), otherTable)
			require.NoError(t, err)
			for i, statement := range statements {
				if _, err = conn.Exec(t.Context(), statement, pgx.QueryExecModeSimpleProtocol); i < len(statements)-1 {
					require.NoError(t, err, statement)
				}
			}
			require.True(t, err != nil || len(b.requested()) > 0, "taken for another's")
		})
	}
}

// outcomeOf executes a statement in a transaction that is rolled back, and returns its rows and tag, and its error.
func outcomeOf(t *testing.T, address, path, statement string, mode pgx.QueryExecMode) (rows []string, failure string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), address)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(context.WithoutCancel(t.Context()))) }()
	if path != "" {
		_, err = conn.Exec(t.Context(), "set search_path = "+path)
		require.NoError(t, err)
	}
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	list, err := tx.Query(t.Context(), statement, mode)
	if err == nil {
		for list.Next() {
			values, err := list.Values()
			require.NoError(t, err)
			rows = append(rows, fmt.Sprint(values))
		}
		list.Close()
		rows, err = append(rows, list.CommandTag().String()), list.Err()
	}
	if own, is := errors.AsType[*pgconn.PgError](err); is {
		failure = own.Code + " " + own.Message
	} else {
		require.NoError(t, err)
	}
	require.NoError(t, tx.Rollback(t.Context()))
	return rows, failure
}
