package proxy

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// TestNameOfAnother: what is certain to be another relation named ohlcv is PostgreSQL's alone; the rest is ours, and its bars are asked
// for. For each the last statement is judged.
func TestNameOfAnother(t *testing.T) {
	b := start(t, nil)
	const where = " where symbol = 'sim:ANOTHER' and timeframe = '1m' and ts < '2024-01-01Z'"
	const read, columns = "select * from ohlcv" + where, " (symbol text, timeframe text, ts timestamptz)"
	number := 0
	for name, each := range map[string]struct {
		ours       bool
		statements []string
	}{
		"temporary":             {false, []string{"create temp table ohlcv" + columns, read}},
		"dropped":               {true, []string{"create temp table ohlcv" + columns, "drop table ohlcv", read}},
		"dropped in its Query":  {true, []string{"create temp table ohlcv" + columns, "drop table ohlcv; " + read}},
		"taken back":            {true, []string{"begin", "create temp table ohlcv" + columns, "rollback", read}},
		"gone by commit":        {true, []string{"begin", "create temp table ohlcv" + columns + " on commit drop", "commit", read}},
		"qualified":             {true, []string{"create temp table ohlcv" + columns, "select * from public.ohlcv" + where}},
		"temporary view":        {true, []string{"create temp view ohlcv as select * from public.ohlcv", read}},
		"with a default":        {true, []string{"create temp table ohlcv" + columns, "alter table ohlcv add a int default 1", read}},
		"path with public last": {true, []string{"create schema if not exists other", "set search_path = other, public", read}},
		"path with public":      {true, []string{"create temp table ohlcv" + columns, "set search_path = public, pg_temp", read}},
		"prepared before": {true, []string{
			"create temp table first (a int)", "prepare before as " + read, "create temp table ohlcv" + columns, "execute before",
		}},
		"prepared afterwards by SQL": {true, []string{"create temp table ohlcv" + columns, "prepare later as " + read, "execute later"}}, // in doubt
		"path without public":        {false, []string{"create schema if not exists other", "create table if not exists other.ohlcv" + columns, "set search_path = other", read}},
		"path set in its Query":      {true, []string{"set search_path = other", "set search_path = public; " + read}},
		"path set for a block":       {true, []string{"begin", "set local search_path = other", "rollback", read}},
	} {
		symbol, before := "sim:NAME"+itoa(number), len(b.requested())
		number++
		conn := b.connect(t, nil)
		for _, statement := range each.statements {
			_, err := conn.Exec(t.Context(), strings.ReplaceAll(statement, "sim:ANOTHER", symbol), pgx.QueryExecModeSimpleProtocol)
			if err != nil && strings.HasPrefix(statement, "execute") && strings.Contains(err.Error(), "cached plan must not change result type") {
				continue // what else is done on the server had the upstream look again for what the name means
			}
			require.NoError(t, err, "%s: %s", name, statement)
		}
		require.Equal(t, each.ours, len(b.requested()) > before, name)
		require.NoError(t, conn.Close(t.Context()))
	}
}

// TestPreparedBeforeItsNameIsAnothers: because of a new table the upstream does not look again for what a name means, unless something else makes it
// do so: what was parsed before is ours.
func TestPreparedBeforeItsNameIsAnothers(t *testing.T) {
	b := start(t, nil)
	conn := b.connect(t, nil)
	_, err := conn.Exec(t.Context(), "create temp table first (a int)")
	require.NoError(t, err)
	_, err = conn.Prepare(t.Context(), "before", "select count(*) from ohlcv where symbol = 'sim:ANOTHER' and timeframe = '1m' and ts >= '2024-01-01Z' and ts < '2024-01-02Z'")
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "create temp table ohlcv (symbol text, timeframe text, ts timestamptz)")
	require.NoError(t, err)
	var bars int
	require.NoError(t, conn.QueryRow(t.Context(), "before").Scan(&bars))
	require.Len(t, b.requested(), 1)
	asked := len(b.requested())
	for i := range 3 { // what is parsed afterwards is not ours, the second time too
		_, err = conn.Exec(t.Context(), "insert into ohlcv values ($1, '1m', '2024-01-01Z')", "sim:ANOTHER")
		require.NoError(t, err)
		require.NoError(t, conn.QueryRow(t.Context(), "select count(*) from ohlcv where symbol = $1 and timeframe = '5m' or ts < $2", "sim:OTHER", time.Now()).Scan(&bars))
		require.Equal(t, i+1, bars)
	}
	require.Len(t, b.requested(), asked)
	_, err = conn.Exec(t.Context(), "drop table ohlcv")
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "insert into ohlcv values ($1, '1m', '2024-01-01Z')", "sim:ANOTHER")
	require.Equal(t, "42501", code(err))
}

// A temporary table that is filled from ohlcv does not shade it: the session would be asked before each statement for ever.
func TestShades(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"create temp table t as select * from ohlcv where symbol = 'sim:A'":                               false,
		"CREATE TEMPORARY TABLE t AS SELECT o.ts FROM public.ohlcv o JOIN \"ohlcv\" p USING (ts)":         false,
		"select * into temp t from watchlist, ohlcv":                                                      false,
		"create temp table ohlcv_1m as select ohlcv.ts, \"ohlcv\".close from ohlcv":                       false,
		"create temp view my_ohlcv as select * from public . \"ohlcv\"":                                   false,
		"create temp table ohlcv (a int)":                                                                 true,
		"create temporary table if not exists \"ohlcv\" as select 1":                                      true,
		"create table pg_temp.ohlcv (a int)":                                                              true,
		"create table pg_temp.\"ohlcv\" as select * from public.ohlcv":                                    true,
		"create temp table /* from */ ohlcv as select * from public.ohlcv":                                true,
		"create temp view ohlcv as select * from public.ohlcv":                                            true,
		"create temp recursive view OHLCV (a) as select 1":                                                true,
		"select 1 as a into temporary table ohlcv":                                                        true,
		"alter table pg_temp.t rename to ohlcv":                                                           true,
		"create temp table t as select * from ohlcv; alter table t rename to ohlcv":                       true,
		"do $$ begin execute 'create temp table ' || 'ohlcv' || ' as select * from public.ohlcv'; end $$": true,
		"select * from ohlcv": false,
	} {
		require.Equal(t, want, shades(text), text)
	}
}
