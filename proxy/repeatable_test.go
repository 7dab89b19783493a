package proxy

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"barkeep/internal/market"
	"barkeep/internal/pgtest"
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

// A Describe of a statement that was prepared before takes the snapshot too, where the upstream has to analyse it anew.
func TestDescribePinsTheSnapshot(t *testing.T) {
	b := start(t, nil)
	conn, other := b.connect(t, nil), b.connect(t, nil)
	require.NoError(t, simpleExec(conn, "create table changing (a int)"))
	_, err := conn.Prepare(t.Context(), "earlier", "select * from changing")
	require.NoError(t, err)
	require.NoError(t, simpleExec(other, "create index on changing (a)"))
	require.NoError(t, simpleExec(conn, "begin isolation level repeatable read"))
	frontend := conn.PgConn().Frontend()
	frontend.Send(&pgproto3.Describe{ObjectType: 'S', Name: "earlier"})
	frontend.Send(&pgproto3.Sync{})
	require.NoError(t, frontend.Flush())
	for {
		message, err := frontend.Receive()
		require.NoError(t, err)
		if _, ready := message.(*pgproto3.ReadyForQuery); ready {
			break
		}
	}
	require.NoError(t, b.fill(t.Context(), market.Series{Symbol: "sim:BTCUSD", Timeframe: market.M1}))
	var n int
	err = conn.QueryRow(t.Context(), read, pgx.QueryExecModeSimpleProtocol).Scan(&n)
	require.Equal(t, "40001", code(err), "%d bars of 10", n)
}

// The level of a block counts however it came about: by a function of the user's as well, or by the server's own configuration.
func TestIsolationBehindTheScenes(t *testing.T) {
	b := start(t, nil)
	conn := b.connect(t, nil)
	require.NoError(t, simpleExec(conn, `create function levelled(text) returns void language plpgsql as
		$$ begin perform set_config('default_transaction_isolation', $1, false); end $$`))
	b.refresh(t)
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec} {
		b.forget(nil)
		_, err := b.db.Pool.Exec(t.Context(), "delete from public.ohlcv")
		require.NoError(t, err)
		require.NoError(t, simpleExec(conn, readOf("sim:ETHUSD")))
		_, err = conn.Exec(t.Context(), "select levelled('serializable')", mode)
		require.NoError(t, err)
		require.NoError(t, simpleExec(conn, "begin"))
		require.NoError(t, simpleExec(conn, "select count(*) from pg_class"))
		require.NoError(t, b.fill(t.Context(), market.Series{Symbol: "sim:BTCUSD", Timeframe: market.M1}))
		var n int
		err = conn.QueryRow(t.Context(), read, mode).Scan(&n)
		require.Equal(t, "40001", code(err), "%d bars of 10", n)
		require.NoError(t, simpleExec(conn, "rollback"))
		require.NoError(t, simpleExec(conn, "reset default_transaction_isolation"))
	}
}

// So do barkeep's own settings, by whatever runs the function.
func TestSettingsBehindTheScenes(t *testing.T) {
	b := start(t, nil)
	conn := b.connect(t, nil)
	for _, sql := range []string{
		`create function modal(text) returns int language plpgsql as $$ begin execute 'set barkeep.mode to ' || $1; return 1; end $$`,
		`create view seen as select set_config('barkeep.mode', 'wait', false)`,
		`create table log (a int)`,
		`create function logged() returns trigger language plpgsql as $$ begin
			set barkeep.mode = 'wait'; return new; end $$`,
		`create trigger logged before insert on log for each row execute function logged()`,
		`create domain odd as int check (modal('wait') = 1)`,
	} {
		require.NoError(t, simpleExec(conn, sql))
	}
	b.refresh(t)
	count := func() (n int) {
		t.Helper()
		require.NoError(t, conn.QueryRow(t.Context(), read, pgx.QueryExecModeSimpleProtocol).Scan(&n))
		return n
	}
	empty := func() {
		b.forget(nil)
		_, err := b.db.Pool.Exec(t.Context(), "delete from public.ohlcv")
		require.NoError(t, err)
		require.NoError(t, simpleExec(conn, "set barkeep.mode = stored"))
		require.Zero(t, count())
	}
	for _, changes := range []string{
		"select modal('wait')", "select * from seen", "insert into log values (1)", "select 1::odd", "select query_to_xml('select modal(''wait'')', true, true, '')",
		"select query_to_xml('select set_config(''barkeep.mode'', ''wait'', false)', true, true, '')",
	} {
		empty()
		require.NoError(t, simpleExec(conn, changes))
		require.Equal(t, 10, count(), changes)
		empty()
		_, err := conn.Exec(t.Context(), changes, pgx.QueryExecModeExec)
		require.NoError(t, err)
		require.Equal(t, 10, count(), "extended: "+changes)
		batch := &pgconn.Batch{}
		batch.ExecParams(changes, nil, nil, nil, nil)
		batch.ExecParams(readOf("sim:ETHUSD"), nil, nil, nil, nil)
		_, err = conn.PgConn().ExecBatch(t.Context(), batch).ReadAll()
		require.Equal(t, "0A000", code(err), "in the same segment: "+changes)
	}
	empty()
	require.NoError(t, simpleExec(conn, "begin; create function fresh() returns text language sql as $$ select set_config('barkeep.mode', 'wait', false) $$"))
	require.Zero(t, count())
	require.NoError(t, simpleExec(conn, "select fresh()"))
	require.Equal(t, 10, count(), "by a function of the same block")
	require.NoError(t, simpleExec(conn, "rollback"))
}

// refresh has the catalog look at the database.
func (b *bar) refresh(t *testing.T) {
	t.Helper()
	require.NoError(t, b.server.cfg.Catalog.(interface { //nolint:forcetypeassert // the tests' own
		Refresh(ctx context.Context) error
	}).Refresh(t.Context()))
}

// DESIGN §7, PROTOCOL 1b: what begins a block of REPEATABLE READ and what reads in it may come in one segment or Query: both are held before anything
// of them is upstream, and the block's snapshot is taken after the hold. What the segment has pinned before stays pinned.
func TestLevelInItsOwnSegment(t *testing.T) {
	t.Parallel()
	const asking = "select count(*) from ohlcv where symbol = $1 and timeframe = '1m' and ts >= '2024-01-01Z' and ts < '2024-01-02Z'"
	ask := func(texts ...string) string {
		return "P - " + strings.Join(texts, "\nB - -\nE -\nP - ") + "\nB - -\nE -\n"
	}
	begin, eth, xrp := "BEGIN ISOLATION LEVEL REPEATABLE READ", readOf("sim:ETHUSD"), readOf("sim:XRPUSD")
	later := "wait Z\ndo fill sim:XRPUSD\n" + ask(xrp) + "S\nwait Z"
	ready := []string{"1 ", "2 ", "C BEGIN", "1 ", "2 ", "D 10", "C SELECT 1", "Z T"}
	tooOld := []string{"E ERROR 40001", "Z E"}
	one := []string{"1 ", "2 ", "D 10", "C SELECT 1", "Z I"}
	for name, each := range map[string]struct {
		script string
		want   []string
		asked  []int // the series of each request
	}{
		"segment":            {ask(begin, read) + "S\n" + later, slices.Concat(ready, tooOld), []int{1, 1}},
		"START TRANSACTION":  {ask("start transaction isolation level serializable, read write", read) + "S\n" + later, slices.Concat(ready[:2], []string{"C START TRANSACTION"}, ready[3:], tooOld), []int{1, 1}},
		"READ COMMITTED":     {ask("begin isolation level read committed", read) + "S\n" + later, slices.Concat(ready, ready[3:]), []int{1}},
		"Flush between":      {ask(begin) + "H\nwait C\n" + ask(read) + "S\n" + later, slices.Concat(ready, tooOld), []int{1, 1}},
		"SET TRANSACTION":    {ask("begin", "set transaction isolation level serializable", read) + "S\n" + later, slices.Concat(ready[:3], []string{"1 ", "2 ", "C SET"}, ready[3:], tooOld), []int{1, 1}},
		"two of them":        {ask(begin, read, eth) + "S\nwait Z", slices.Concat(ready[:7], ready[3:]), []int{2}},
		"behind autocommit":  {ask(xrp) + "S\n" + ask(begin, read) + "S\nwait Z 2", slices.Concat(one, ready), []int{1, 1}},
		"to its end":         {ask(begin, read, "commit") + "S\nwait Z\n" + ask(eth) + "S\nwait Z", slices.Concat(ready[:7], []string{"1 ", "2 ", "C COMMIT", "Z I"}, one), []int{1, 1}},
		"fails by itself":    {ask(begin, "select 1/0", read) + "S\nwait Z\nQ rollback\nwait Z\n" + ask(eth) + "S\nwait Z", slices.Concat(ready[:4], []string{"E ERROR 22012", "Z E", "C ROLLBACK", "Z I"}, one), []int{1, 1}},
		"pinned by a Parse":  {ask(begin) + "P p " + asking + "\nD S p\nH\nwait T\nB - p sim:BTCUSD\nE -\nS\nwait Z", slices.Concat(ready[:3], []string{"1 ", "t", "T"}, tooOld), []int{1}},
		"held at its Parse":  {ask(begin) + "H\nwait C\nP - " + read + "\nH\nB - -\nE -\nS\nwait Z", ready, []int{1}},
		"Query":              {"Q " + begin + "; " + read + "\n" + later, slices.Concat([]string{"C BEGIN", "T", "D 10", "C SELECT 1", "Z T"}, tooOld), []int{1, 1}},
		"Query, another one": {"Q " + begin + "; select 1\nwait Z\nQ commit; " + begin + "; " + read + "\nwait Z", []string{"C BEGIN", "T", "D 1", "C SELECT 1", "Z T", "C COMMIT", "C BEGIN", "T", "D 10", "C SELECT 1", "Z T"}, []int{1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t, nil)
			require.Equal(t, each.want, b.shapes(t, b.url, each.script))
			var asked []int
			for _, request := range b.requested() {
				asked = append(asked, len(request.Requirements))
			}
			require.Equal(t, each.asked, asked)
			if !slices.Contains(each.want, tooOld[0]) {
				require.Equal(t, each.want, b.shapes(t, b.db.URL, each.script), "straight")
			}
		})
	}
	// Outside of a block each statement has a snapshot of its own, that of its Parse ends with a Sync that nobody sees.
	for name, each := range map[string]struct {
		script string
		want   []string
	}{
		"Parse, Describe and Flush": {"P p " + asking + "\nD S p\nH\nwait T\nB - p sim:BTCUSD\nE -\nS\nwait Z", slices.Concat([]string{"1 ", "t", "T"}, one[1:])},
		"one behind the other":      {ask(read) + "S\n" + ask(eth) + "S\n" + ask(xrp) + "S\nwait Z 3", slices.Concat(one, one, one)},
		"a typo":                    {ask(strings.Replace(read, "count(*)", "count(*) + nowhere", 1)) + "S\nwait Z", []string{"E ERROR 42703", "Z I"}},
	} {
		t.Run("autocommit, "+name, func(t *testing.T) {
			t.Parallel()
			b := start(t, nil)
			got := b.shapes(t, b.url, "Q set default_transaction_isolation = 'repeatable read'\nwait Z\n"+each.script)
			require.Equal(t, append([]string{"C SET", "Z I"}, each.want...), got)
		})
	}
}

// seesAlike plays a script straight and through barkeep, where the same is to be seen.
func (b *bar) seesAlike(t *testing.T, script string) {
	t.Helper()
	want, err := pgtest.Seen(t.Context(), b.db.URL, script)
	require.NoError(t, err, want)
	got, err := pgtest.Seen(t.Context(), b.url, script)
	require.NoError(t, err, got)
	require.Equal(t, want, got)
}

// shapes plays a script at an address: of columns and parameters only that they came, of errors the code.
func (b *bar) shapes(t *testing.T, address, script string) (all []string) {
	t.Helper()
	record, err := pgtest.Play(t.Context(), pgtest.Peer{URL: address, Hooks: map[string]func(context.Context, []string) error{
		"fill": func(ctx context.Context, words []string) error {
			return b.fill(ctx, market.Series{Symbol: market.Symbol(words[0]), Timeframe: market.M1})
		},
	}}, script)
	require.NoError(t, err, record)
	for _, step := range record.Steps {
		for _, text := range step.Seen {
			switch words := strings.Fields(text); words[0] {
			case "T", "t":
				text = words[0]
			case "E":
				text = strings.Join(words[:3], " ")
			}
			all = append(all, text)
		}
	}
	return all
}
