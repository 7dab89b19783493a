package catalog

import (
	"context"
	"maps"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"barkeep/internal/dbtest"
	"barkeep/planner"
)

// askIn asks in a transaction, as a session does.
func askIn(tx pgx.Tx) Asker {
	return func(ctx context.Context, sql string) (rows [][]byte, err error) {
		err = pgx.BeginFunc(ctx, tx, func(own pgx.Tx) error {
			if _, err := own.Exec(ctx, "set local search_path = pg_catalog, pg_temp"); err != nil {
				return err
			}
			found, err := own.Query(ctx, sql)
			if err != nil {
				return err
			}
			rows, err = pgx.CollectRows(found, pgx.RowTo[[]byte])
			return err
		})
		return rows, err
	}
}

// TestRule3_WhatATransactionHasDefinedIsSeenFromInside: whatever a transaction defines, also below a savepoint, what is found of it inside
// knows all that is known to everybody once it is committed, and nothing is found before and afterwards.
func TestRule3_WhatATransactionHasDefinedIsSeenFromInside(t *testing.T) {
	t.Parallel()
	for kind, open := range map[string]func(testing.TB) *dbtest.DB{"hypertable": dbtest.New, "plain": dbtest.NewPlain} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			db := open(t)
			ctx := t.Context()
			c := New(db.Pool, nil, "")
			require.NoError(t, c.Refresh(ctx))
			conn, err := db.Pool.Acquire(ctx)
			require.NoError(t, err)
			defer conn.Release()
			for _, sql := range definitions {
				tx, err := conn.Begin(ctx)
				require.NoError(t, err)
				own, err := c.Inside(ctx, askIn(tx), nil)
				require.NoError(t, err)
				require.Nil(t, own, sql)
				require.NoError(t, pgx.BeginFunc(ctx, tx, func(below pgx.Tx) error {
					_, err := below.Exec(ctx, sql)
					return err
				}), sql)
				own, err = c.Inside(ctx, askIn(tx), nil)
				require.NoError(t, err, sql)
				again, err := c.Inside(ctx, askIn(tx), own)
				require.NoError(t, err, sql)
				require.Same(t, own, again, sql)
				inside := c.Current()
				if own != nil {
					inside = c.Including(own, 1<<62)
				}
				require.NoError(t, tx.Commit(ctx), sql)
				require.NoError(t, c.Refresh(ctx))
				requireWithin(t, c.Current(), inside, sql)
			}
		})
	}
}

// requireWithin requires that inside knows everything that committed knows.
func requireWithin(t *testing.T, committed, inside *planner.Catalog, sql string) {
	t.Helper()
	for what, sets := range map[string][2]map[string]struct{}{
		"names": {committed.Names, inside.Names}, "users": {committed.Users, inside.Users}, "rows": {committed.Rows, inside.Rows},
		"setters": {committed.Setters, inside.Setters}, "definers": {committed.Definers, inside.Definers},
	} {
		for name := range sets[0] {
			require.Contains(t, sets[1], name, "%s: %s", what, sql)
		}
	}
	for name := range inside.Written {
		if _, in := committed.Names[name]; in {
			require.Contains(t, committed.Written, name, sql)
		}
	}
	for name, positions := range committed.Dynamic {
		require.Equal(t, positions, inside.Dynamic[name]&positions, "%s: %s", name, sql)
	}
	for oid := range committed.Calls {
		require.Contains(t, inside.Calls, oid, sql)
	}
	for name, text := range inside.Views {
		if _, in := committed.Names[name]; in { // else it reads ohlcv no more
			require.Equal(t, committed.Views[name], text, "%s: %s", name, sql)
		}
	}
	require.True(t, inside.Overload != "" || committed.Overload == "", sql)
	require.True(t, inside.Folds || !committed.Folds, sql)
	require.True(t, inside.Events || !committed.Events, sql)
}

// TestRule3_OthersDefinitionsAreNotATransactionsOwn: what others commit while the transaction is open is no definition of its own, though it
// sees it and has a lower number, and neither is what others have not committed.
func TestRule3_OthersDefinitionsAreNotATransactionsOwn(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	ctx := t.Context()
	c := New(db.Pool, nil, "")
	require.NoError(t, c.Refresh(ctx))
	require.NoError(t, pgx.BeginFunc(ctx, db.Pool, func(tx pgx.Tx) error {
		inside := func() *Own {
			own, err := c.Inside(ctx, askIn(tx), nil)
			require.NoError(t, err)
			return own
		}
		_, err := tx.Exec(ctx, "create temp table rows (x int); select pg_current_xact_id()")
		require.NoError(t, err)
		before := inside()
		_, err = db.Pool.Exec(ctx, "create view public.theirs as select * from public.ohlcv")
		require.NoError(t, err)
		require.NoError(t, c.Refresh(ctx))
		open, err := db.Pool.Begin(ctx)
		require.NoError(t, err)
		defer func() { require.NoError(t, open.Rollback(ctx)) }()
		_, err = open.Exec(ctx, "create view public.not_yet as select * from public.ohlcv")
		require.NoError(t, err)
		require.Equal(t, before, inside())
		_, err = tx.Exec(ctx, "savepoint s; create view public.mine as select * from public.theirs")
		require.NoError(t, err)
		require.Contains(t, c.Including(inside(), 2).Names, "mine")
		_, err = tx.Exec(ctx, "rollback to s")
		require.NoError(t, err)
		require.Equal(t, before, inside())
		return nil
	}))
}

// TestRule3_AnotherNameOfTheTable: what ohlcv is called inside is a name by which it is read, and it is known to have moved.
func TestRule3_AnotherNameOfTheTable(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	ctx := t.Context()
	c := New(db.Pool, nil, "")
	require.NoError(t, c.Refresh(ctx))
	for sql, moves := range map[string]bool{
		"create view public.v as select * from public.ohlcv; create table public.t ()": false, "alter table public.ohlcv rename to quotes": true,
		"alter schema public rename to old": true, "create schema s; alter table public.ohlcv set schema s": true,
	} {
		tx, err := db.Pool.Begin(ctx)
		require.NoError(t, err)
		_, err = tx.Exec(ctx, sql)
		require.NoError(t, err, sql)
		own, err := c.Inside(ctx, askIn(tx), nil)
		require.NoError(t, err, sql)
		require.Equal(t, moves, c.Moves(own), sql)
		names := maps.Clone(c.Including(own, 2).Names)
		_, renamed := names["quotes"]
		require.Equal(t, sql == "alter table public.ohlcv rename to quotes", renamed)
		require.NotContains(t, names, "t")
		require.NoError(t, tx.Rollback(ctx))
	}
}
