package proxy

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"barkeep/internal/market"
)

// readOf needs one day of the symbol.
func readOf(symbol string) string { return strings.ReplaceAll(read, "sim:BTCUSD", symbol) }

func simpleExec(conn *pgx.Conn, sql string) error {
	_, err := conn.Exec(context.Background(), sql, pgx.QueryExecModeSimpleProtocol)
	return err
}

// connectWith connects with more in the address' query.
func (b *bar) connectWith(t *testing.T, user, more string) *pgx.Conn {
	t.Helper()
	address := b.url
	if user != "" {
		_, rest, _ := strings.Cut(address, "@")
		address = "postgres://" + user + "@" + rest
	}
	conn, err := pgx.Connect(t.Context(), address+more)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// newRole makes a role that may read ohlcv, or not.
func (b *bar) newRole(t *testing.T, may bool) string {
	t.Helper()
	var name string
	require.NoError(t, b.db.Pool.QueryRow(t.Context(), "select 'r_' || replace(gen_random_uuid()::text, '-', '')").Scan(&name))
	exec := func(sql string) {
		_, err := b.db.Pool.Exec(context.WithoutCancel(t.Context()), sql)
		require.NoError(t, err)
	}
	exec("create role " + name + " login")
	if may {
		exec("grant select on public.ohlcv to " + name)
	}
	t.Cleanup(func() {
		for _, sql := range []string{"drop owned by ", "drop role "} {
			if _, err := b.db.Pool.Exec(context.Background(), sql+name); err != nil {
				t.Error(err)
			}
		}
	})
	return name
}

// DESIGN §7: in REPEATABLE READ and SERIALIZABLE a statement sees the bars or fails with 40001, however the level came
// about; the retry succeeds without a fetch. In READ COMMITTED there is nothing to retry.
func TestSnapshotIsNotOlderThanItsBars(t *testing.T) {
	b := start(t, nil)
	role := b.newRole(t, true)
	_, err := b.db.Pool.Exec(t.Context(), "alter role "+role+" set default_transaction_isolation = 'serializable'")
	require.NoError(t, err)
	for name, each := range map[string]struct {
		user, options, before, begin string
		pins                         bool
	}{
		"read committed":       {begin: "begin isolation level read committed"},
		"repeatable read":      {begin: "begin isolation level repeatable read", pins: true},
		"serializable":         {begin: "begin isolation level serializable", pins: true},
		"set transaction":      {begin: "begin; set transaction isolation level repeatable read", pins: true},
		"characteristics":      {before: "set session characteristics as transaction isolation level serializable", begin: "begin", pins: true},
		"option":               {options: "&default_transaction_isolation=repeatable%20read", begin: "begin", pins: true},
		"role":                 {user: role, begin: "start transaction", pins: true},
		"back to the default":  {options: "&default_transaction_isolation=repeatable%20read", begin: "begin; set transaction isolation level read committed"},
		"default by SET LOCAL": {before: "begin; set local default_transaction_isolation = 'serializable'; commit", begin: "begin"},
	} {
		for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec, pgx.QueryExecModeCacheDescribe} {
			t.Run(name+" "+mode.String(), func(t *testing.T) {
				b.forget(nil)
				_, err := b.db.Pool.Exec(t.Context(), "delete from barkeep.ohlcv")
				if err != nil {
					_, err = b.db.Pool.Exec(t.Context(), "delete from public.ohlcv")
				}
				require.NoError(t, err)
				conn := b.connectWith(t, each.user, each.options)
				if each.before != "" {
					require.NoError(t, simpleExec(conn, each.before))
				}
				one := func(sql string) (n int, err error) {
					err = conn.QueryRow(t.Context(), sql, mode).Scan(&n)
					return n, err
				}
				count := func(symbol string) (int, error) { return one(readOf(symbol)) }
				require.NoError(t, simpleExec(conn, each.begin))
				n, err := count("sim:BTCUSD")
				require.NoError(t, err, "nothing took the snapshot before")
				require.Equal(t, 10, n)
				require.NoError(t, b.fill(t.Context(), market.Series{Symbol: "sim:XRPUSD", Timeframe: market.M1}))
				asked := b.requests()
				n, err = count("sim:XRPUSD")
				if !each.pins {
					require.NoError(t, err)
					require.Equal(t, 10, n)
					require.NoError(t, simpleExec(conn, "commit"))
					return
				}
				require.Equal(t, "40001", code(err), "covered now, but not when the snapshot was taken")
				require.NoError(t, simpleExec(conn, "rollback; "+each.begin))
				n, err = one("select 1")
				require.NoError(t, err)
				require.Equal(t, 1, n)
				_, err = count("sim:ETHUSD")
				require.Equal(t, "40001", code(err), "a gap behind a snapshot")
				require.Greater(t, b.requests(), asked, "that was fetched all the same")
				require.EqualValues(t, 'E', conn.PgConn().TxStatus())
				require.NoError(t, simpleExec(conn, "rollback; "+each.begin), "in one Query: the session is never seen idle")
				asked = b.requests()
				n, err = count("sim:ETHUSD")
				require.NoError(t, err, "the retry")
				require.Equal(t, 10, n)
				require.Equal(t, asked, b.requests(), "at once")
				require.NoError(t, simpleExec(conn, "commit"))
			})
		}
	}
}

// PROTOCOL 1b: Parse alone takes the snapshot of a REPEATABLE READ transaction.
func TestParsePinsTheSnapshot(t *testing.T) {
	b := start(t, nil)
	conn := b.connect(t, nil)
	const parameters = "select count(*) from ohlcv where symbol = $1 and timeframe = '1m' and ts >= '2024-01-01Z' and ts < '2024-01-02Z'"
	require.NoError(t, simpleExec(conn, "begin isolation level repeatable read"))
	_, err := conn.Prepare(t.Context(), "unknown", parameters)
	require.NoError(t, err)
	require.Zero(t, b.requests(), "its arguments are not known")
	_, err = conn.Exec(t.Context(), "unknown", "sim:BTCUSD")
	require.Equal(t, "40001", code(err))
	require.Equal(t, 1, b.requests())
	require.NoError(t, simpleExec(conn, "rollback and chain"))
	var n int
	require.NoError(t, conn.QueryRow(t.Context(), "unknown", "sim:BTCUSD").Scan(&n))
	require.Equal(t, 10, n, "in a chained transaction, whose snapshot is its own")
	require.NoError(t, simpleExec(conn, "commit"))

	require.NoError(t, simpleExec(conn, "begin isolation level repeatable read"))
	_, err = conn.Prepare(t.Context(), "known", readOf("sim:ETHUSD"))
	require.NoError(t, err)
	require.Equal(t, 2, b.requests(), "the Parse is held where all is known")
	require.NoError(t, conn.QueryRow(t.Context(), "known").Scan(&n))
	require.Equal(t, 10, n)
	require.NoError(t, simpleExec(conn, "commit"))
}

// An imported snapshot may be older than anything barkeep knows of: never the empty answer.
func TestImportedSnapshot(t *testing.T) {
	b := start(t, nil)
	exporter, conn := b.connect(t, nil), b.connect(t, nil)
	require.NoError(t, simpleExec(exporter, "begin isolation level repeatable read"))
	var id string
	require.NoError(t, exporter.QueryRow(t.Context(), "select pg_export_snapshot()").Scan(&id))
	require.NoError(t, b.fill(t.Context(), market.Series{Symbol: "sim:BTCUSD", Timeframe: market.M1}))
	set := fmt.Sprintf("set transaction snapshot '%s'", id)
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec} {
		require.NoError(t, simpleExec(conn, "begin isolation level repeatable read"))
		_, err := conn.Exec(t.Context(), set, mode)
		require.NoError(t, err)
		_, err = conn.Exec(t.Context(), read, mode)
		require.Equal(t, "40001", code(err))
		require.NoError(t, simpleExec(conn, "rollback"))
	}
	require.Equal(t, "40001", code(simpleExec(conn, "begin isolation level repeatable read; "+set+"; "+read)))
	require.NoError(t, simpleExec(conn, "rollback"))
	require.NoError(t, simpleExec(conn, "begin isolation level repeatable read; set local barkeep.mode = 'stored'; "+set))
	require.NoError(t, simpleExec(conn, read))
	require.NoError(t, simpleExec(conn, "rollback"))
	require.NoError(t, simpleExec(conn, "begin isolation level repeatable read"))
	require.NoError(t, simpleExec(conn, read), "the next transaction has its own snapshot")
	require.NoError(t, simpleExec(conn, "rollback"))
	require.Zero(t, b.requests())
}
