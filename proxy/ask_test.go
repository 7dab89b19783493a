package proxy

import (
	"bytes"
	"context"
	"io"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"barkeep/internal/market"
)

// symbols forgets what was asked for, and returns its symbols.
func (f *filler) symbols() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []string
	for _, request := range f.asked {
		for _, r := range request.Requirements {
			if symbol := string(r.Series.Symbol); !slices.Contains(list, symbol) {
				list = append(list, symbol)
			}
		}
	}
	f.asked = nil
	slices.Sort(list)
	return list
}

// fromData reads the first ten minutes of the symbols that a subquery gives.
func fromData(sub string) string {
	return "select count(*) from ohlcv where symbol in (" + sub + ") and timeframe = '1m' and ts >= '2024-01-01Z' and ts < '2024-01-02Z'"
}

// startWithLists starts a barkeep whose database has tables of the user's.
func startWithLists(t *testing.T, change ...func(*Config)) *bar {
	t.Helper()
	b := start(t, func(cfg *Config) {
		for _, each := range change {
			each(cfg)
		}
	})
	for _, sql := range []string{
		"create table public.watchlist (symbol varchar(40), owner name, added timestamptz default '2024-01-01 00:05Z')",
		"insert into public.watchlist values ('sim:BTCUSD', 'me'), ('sim:ETHUSD', 'me'), ('sim:XRPUSD', 'you'), (null, 'me')",
		"grant select, insert, delete on public.watchlist to public",
	} {
		_, err := b.db.Pool.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	return b
}

var askModes = []pgx.QueryExecMode{
	pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeCacheStatement,
}

// PLANNER 19: symbols, and bounds, that a subquery takes from the user's data, in every protocol, outside of a block and inside.
// Nothing of the questions is seen.
func TestRule19_SubqueryOverTheUsersTable(t *testing.T) {
	b := startWithLists(t)
	for _, mode := range askModes {
		for _, block := range []bool{false, true} {
			notices := make(chan string, 100)
			conn := b.connect(t, notices)
			var status byte = 'I'
			if block {
				require.NoError(t, simpleExec(conn, "begin"))
				status = 'T'
			}
			count := func(sql string, args ...any) int {
				b.forget(nil)
				b.symbols()
				var n int
				require.NoError(t, conn.QueryRow(t.Context(), sql, append([]any{mode}, args...)...).Scan(&n), "%s %v", sql, mode)
				require.Equal(t, status, conn.PgConn().TxStatus(), sql)
				return n
			}
			require.Equal(t, 20, count(fromData("select symbol from watchlist where owner = 'me'")))
			require.Equal(t, []string{"sim:BTCUSD", "sim:ETHUSD"}, b.symbols())
			require.Equal(t, 10, count(fromData("select symbol from watchlist where owner = $1 and added <= $2"), "you", time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)))
			require.Equal(t, []string{"sim:XRPUSD"}, b.symbols())
			require.Zero(t, count(fromData("select symbol from watchlist where owner = $1"), "nobody"))
			require.Empty(t, b.symbols())
			require.Equal(t, 10, count(strings.Replace(fromData("select 1"), "in (select 1)", "= (select max(symbol) from watchlist where owner <> 'you')", 1)))
			require.Equal(t, []string{"sim:ETHUSD"}, b.symbols())
			require.Equal(t, 5, count("select count(*) from ohlcv where symbol = 'sim:BTCUSD' and timeframe = '1m' and ts < '2024-01-02Z' and ts >= (select max(added) from watchlist)"))
			require.Equal(t, market.FromTime(time.Date(2024, 1, 1, 0, 5, 0, 0, time.UTC)), b.asked[0].Requirements[0].Ranges[0].Start)
			require.NoError(t, simpleExec(conn, "rollback"))
			for len(notices) > 0 {
				require.Equal(t, "WARNING: there is no transaction in progress", <-notices)
			}
		}
	}
}

// What the session alone sees counts: temporary tables, its own rows that are not committed, row security, search_path.
func TestRule19_TheSessionsOwnView(t *testing.T) {
	b := startWithLists(t)
	one := func(conn *pgx.Conn, want int, symbols ...string) {
		t.Helper()
		b.forget(nil)
		b.symbols()
		var n int
		require.NoError(t, conn.QueryRow(t.Context(), fromData("select symbol from watchlist"), pgx.QueryExecModeSimpleProtocol).Scan(&n))
		require.Equal(t, want, n)
		require.Equal(t, symbols, b.symbols())
	}
	conn := b.connect(t, nil)
	require.NoError(t, simpleExec(conn, "begin; delete from watchlist; insert into watchlist values ('sim:SOLUSD')"))
	one(conn, 10, "sim:SOLUSD")
	require.NoError(t, simpleExec(conn, "savepoint a; insert into watchlist values ('sim:ADAUSD')"))
	one(conn, 20, "sim:ADAUSD", "sim:SOLUSD")
	require.NoError(t, simpleExec(conn, "rollback to a"))
	one(conn, 10, "sim:SOLUSD")
	require.NoError(t, simpleExec(conn, "insert into watchlist values ('sim:ADAUSD')"), "the block can write")
	require.NoError(t, simpleExec(conn, "rollback"))
	one(conn, 30, "sim:BTCUSD", "sim:ETHUSD", "sim:XRPUSD")

	require.NoError(t, simpleExec(conn, "create temp table watchlist (symbol text); insert into watchlist values ('sim:DOTUSD')"))
	one(conn, 10, "sim:DOTUSD")
	require.NoError(t, simpleExec(conn, "set search_path = public, pg_temp"))
	one(conn, 30, "sim:BTCUSD", "sim:ETHUSD", "sim:XRPUSD")

	for _, sql := range []string{
		"alter table public.watchlist enable row level security",
		"create policy own on public.watchlist for select using (owner = current_user)",
	} {
		_, err := b.db.Pool.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	role := b.newRole(t, true)
	_, err := b.db.Pool.Exec(t.Context(), "insert into public.watchlist values ('sim:LTCUSD', '"+role+"')")
	require.NoError(t, err)
	one(b.connectWith(t, role, ""), 10, "sim:LTCUSD")
	require.NoError(t, simpleExec(conn, "set role "+role))
	one(conn, 10, "sim:LTCUSD")
}

// An error of the question is the statement's, and fails its block; what only the question cannot do is refused.
func TestRule19_ErrorsOfTheQuestion(t *testing.T) {
	b := startWithLists(t)
	for _, sql := range []string{
		"create table public.secret (symbol text); insert into public.secret values ('sim:BTCUSD')",
		"create function public.mine(varchar) returns varchar language sql stable as 'select $1'",
		"create function public.lower(public.watchlist) returns varchar language sql as 'select $1.symbol'",
		"create function public.shout(public.watchlist) returns varchar language sql as 'select $1.symbol'",
		"create view public.dice as select symbol from public.watchlist where random() < 2",
		"create view public.called as select public.mine(symbol) as symbol from public.watchlist; create view public.calls as select * from public.called",
		"create collation public.vague (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
		"create table public.vaguely (symbol text collate public.vague); insert into public.vaguely values ('sim:BTCUSD')",
		"create function public.guard(text) returns boolean language sql stable as 'select true'",
		"create table public.guarded (symbol text); alter table public.guarded enable row level security; create policy p on public.guarded using (public.guard(symbol))",
		"grant select on all tables in schema public to public; revoke select on public.secret from public",
	} {
		_, err := b.db.Pool.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	role := b.newRole(t, true)
	for name, each := range map[string]struct{ sql, code, message string }{
		"permission":    {fromData("select symbol from secret"), "42501", "permission denied for table secret"},
		"no relation":   {fromData("select symbol from nothing"), "42P01", `relation "nothing" does not exist`},
		"no column":     {fromData("select nothing from watchlist"), "42703", `column "nothing" does not exist`},
		"division":      {fromData("select symbol from watchlist where 1 / (length(symbol) - length(symbol)) = 1"), "22012", "division by zero"},
		"correlated":    {strings.Replace(fromData("select max(w.symbol) from watchlist w where w.added = o.ts"), "ohlcv", "ohlcv o", 1), "0A000", "cannot tell which symbols"},
		"volatile":      {fromData("select symbol from watchlist group by symbol having random() < 2"), "0A000", "it calls the function random"},
		"own function":  {fromData("select mine(symbol) from watchlist"), "0A000", "it calls the function mine"},
		"shadowed":      {fromData("select lower(w) from watchlist w"), "0A000", "it calls lower"},
		"as a column":   {fromData("select w.shout from watchlist w"), "0A000", "it calls shout"},
		"in a view":     {fromData("select symbol from dice"), "0A000", "it calls the function random"},
		"below a view":  {fromData("select symbol from calls"), "0A000", "it calls the function mine"},
		"many":          {fromData("select i::text from generate_series(1, 10001) i"), "0A000", "more than 10,000 values"},
		"not the first": {"select 1; " + fromData("select symbol from watchlist"), "0A000", "behind other statements"},
		"policy":        {fromData("select symbol from guarded"), "0A000", "it calls the function guard"},
		"collation":     {fromData("select symbol collate vague from watchlist"), "0A000", "it uses the collation vague"},
		"its column":    {fromData("select symbol from vaguely"), "0A000", "texts are equal that are not the same"},
		"another type":  {fromData("select 1 as symbol"), "42883", "operator does not exist"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, block := range []bool{false, true} {
				conn := b.connectWith(t, role, "")
				if block {
					require.NoError(t, simpleExec(conn, "begin"))
				}
				_, err := conn.Exec(t.Context(), each.sql, pgx.QueryExecModeSimpleProtocol)
				require.Equal(t, each.code, code(err), "%v", err)
				require.ErrorContains(t, err, each.message)
				if block {
					require.EqualValues(t, 'E', conn.PgConn().TxStatus())
					require.Equal(t, "25P02", code(simpleExec(conn, "select 1")))
					require.NoError(t, simpleExec(conn, "rollback"))
				}
				require.EqualValues(t, 'I', conn.PgConn().TxStatus())
				require.NoError(t, simpleExec(conn, "select 1"))
			}
		})
	}
	require.Zero(t, b.requests())
}

// A user's cast is called where nothing names it, and a user's operator where the grammar implies one.
func TestRule19_CallsThatNothingNames(t *testing.T) {
	b := startWithLists(t)
	exec := func(sql string) {
		t.Helper()
		_, err := b.db.Pool.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	conn := b.connect(t, nil)
	refused := func(sub, why string) {
		t.Helper()
		_, err := conn.Exec(t.Context(), fromData(sub), pgx.QueryExecModeSimpleProtocol)
		require.Equal(t, "0A000", code(err), "%s: %v", sub, err)
		require.ErrorContains(t, err, why)
	}
	exec("create type public.mixed as (a text); create table public.mix (c public.mixed); insert into public.mix values (row('x'))")
	exec("create function public.toss(public.mixed) returns text language sql as $$ select case when random() < 0.5 then 'sim:BTCUSD' else 'sim:ETHUSD' end $$")
	exec("create cast (public.mixed as text) with function public.toss(public.mixed)")
	refused("select c::text from mix", "it calls toss")
	exec("drop cast (public.mixed as text)")

	exec("create function public.chance(varchar, varchar) returns boolean language sql as 'select random() < 0.5'")
	exec("create operator public.= (leftarg = varchar, rightarg = varchar, function = public.chance)")
	for _, sub := range []string{
		"select max(symbol) from watchlist where symbol in (select symbol from watchlist)",
		"select max(w.symbol) from watchlist w join watchlist v using (symbol)",
		"select max(w.symbol) from watchlist w natural join watchlist v",
		"select max(case symbol when symbol then symbol end) from watchlist",
	} {
		refused(sub, "it calls chance")
	}
	exec("drop operator public.= (varchar, varchar)")
	exec("create operator public.<= (leftarg = varchar, rightarg = varchar, function = public.chance)")
	refused("select max(symbol) from watchlist where symbol between symbol and symbol", "it calls chance")
	require.Zero(t, b.requests())
}

// A table that changes during the hold is asked again, until nothing is missing of what it holds then.
func TestRule19_AskedAgainAfterTheHold(t *testing.T) {
	b := startWithLists(t)
	for _, mode := range askModes {
		block := make(chan struct{})
		b.forget(block)
		conn := b.connect(t, nil)
		done := make(chan int, 1)
		go func() {
			var n int
			if err := conn.QueryRow(context.Background(), fromData("select symbol from watchlist where owner = 'me'"), mode).Scan(&n); err != nil {
				n = -1
			}
			done <- n
		}()
		<-b.began
		_, err := b.db.Pool.Exec(t.Context(), "insert into public.watchlist values ('sim:LTCUSD', 'me')")
		require.NoError(t, err)
		close(block)
		require.Equal(t, 30, <-done, mode)
		require.Equal(t, []string{"sim:BTCUSD", "sim:ETHUSD", "sim:LTCUSD"}, b.symbols())
		<-b.began
		_, err = b.db.Pool.Exec(t.Context(), "delete from public.watchlist where symbol = 'sim:LTCUSD'; delete from public.ohlcv")
		require.NoError(t, err)
	}
}

// A snapshot that is taken cannot see what is filled for the answer, and asking would take one that is not.
func TestRule19_NotInRepeatableRead(t *testing.T) {
	b := startWithLists(t)
	conn := b.connect(t, nil)
	sql := fromData("select symbol from watchlist where owner = 'me'")
	for _, level := range []string{"repeatable read", "serializable"} {
		require.NoError(t, simpleExec(conn, "begin isolation level "+level))
		err := simpleExec(conn, sql)
		require.Equal(t, "0A000", code(err))
		require.ErrorContains(t, err, "REPEATABLE READ")
		require.NoError(t, simpleExec(conn, "rollback"))
	}
	require.NoError(t, simpleExec(conn, "set default_transaction_isolation = 'serializable'"))
	require.NoError(t, simpleExec(conn, sql), "outside of a block each statement has its own snapshot")
	require.Equal(t, []string{"sim:BTCUSD", "sim:ETHUSD"}, b.symbols())
}

// What stands before a statement in its own pipeline may change the data, and is not executed yet.
func TestRule19_Pipelines(t *testing.T) {
	b := startWithLists(t)
	conn := b.connect(t, nil)
	sql := fromData("select symbol from watchlist where owner = 'me'")
	batch := &pgx.Batch{}
	batch.Queue(sql)
	batch.Queue("select 1")
	require.NoError(t, conn.SendBatch(t.Context(), batch).Close(), "the first")
	require.Equal(t, []string{"sim:BTCUSD", "sim:ETHUSD"}, b.symbols())
	batch = &pgx.Batch{}
	batch.Queue("insert into watchlist values ('sim:LTCUSD', 'me')")
	batch.Queue(sql)
	err := conn.SendBatch(t.Context(), batch).Close()
	require.Equal(t, "0A000", code(err))
	require.ErrorContains(t, err, "behind other statements")
	var n int
	require.NoError(t, conn.QueryRow(t.Context(), "select count(*) from watchlist").Scan(&n))
	require.Equal(t, 4, n, "the pipeline failed as a whole")
}

// BEGIN, and a SET on which no answer depends, may come before the statement in its Query; but not one on which it does, in a view or a policy.
func TestRule19_BehindBeginAndSet(t *testing.T) {
	b := startWithLists(t)
	conn := b.connect(t, nil)
	require.NoError(t, simpleExec(conn, "create view own as select symbol from watchlist where owner = current_setting('application_name')"))
	require.NoError(t, simpleExec(conn, "begin; set statement_timeout = '1min'; "+fromData("select symbol from watchlist where owner = 'me'")+"; commit"))
	require.Equal(t, []string{"sim:BTCUSD", "sim:ETHUSD"}, b.symbols())
	require.NoError(t, simpleExec(conn, "set application_name = 'you'"))
	require.NoError(t, simpleExec(conn, "begin; "+fromData("select symbol from own")))
	require.Equal(t, []string{"sim:XRPUSD"}, b.symbols())
	require.NoError(t, simpleExec(conn, "rollback"))
	err := simpleExec(conn, "set application_name = 'me'; "+fromData("select symbol from own"))
	require.Equal(t, "0A000", code(err))
	require.ErrorContains(t, err, "behind a SET")
	err = simpleExec(conn, "set search_path = public; "+fromData("select symbol from watchlist"))
	require.ErrorContains(t, err, "behind other statements")
	require.Empty(t, b.symbols())
}

// slow is a question that takes for ever: the join cannot be done by anything but trying every pair.
const slow = "select max(i)::text from generate_series(1, 1000000) i, generate_series(1, 1000000) j where i + j < 0"

// A cancel request, and the client's end, reach the question; statement_timeout is the upstream's own.
func TestRule19_TheQuestionEndsWithTheStatement(t *testing.T) {
	b := startWithLists(t)
	running := func() (n int) {
		require.NoError(t, b.db.Pool.QueryRow(t.Context(), "select count(*) from pg_stat_activity where datname = current_database() and query like '%generate_series(1, 1000000)%' and state = 'active' and pid <> pg_backend_pid()").Scan(&n))
		return n
	}
	for _, mode := range askModes {
		for _, block := range []bool{false, true} {
			conn := b.connect(t, nil)
			if block {
				require.NoError(t, simpleExec(conn, "begin"))
			}
			done := make(chan error, 1)
			go func() { _, err := conn.Exec(context.Background(), fromData(slow), mode); done <- err }()
			require.Eventually(t, func() bool { return running() == 1 }, 10*time.Second, 5*time.Millisecond)
			require.NoError(t, conn.PgConn().CancelRequest(t.Context()))
			err := <-done
			require.Equal(t, "57014", code(err), mode)
			require.ErrorContains(t, err, "user request")
			require.Zero(t, running())
			if block {
				require.EqualValues(t, 'E', conn.PgConn().TxStatus())
				require.NoError(t, simpleExec(conn, "rollback"))
			}
			require.NoError(t, simpleExec(conn, "select pg_sleep(0.02)"), "the cancel request came no later")

			if block {
				require.NoError(t, simpleExec(conn, "begin"))
			}
			require.NoError(t, simpleExec(conn, "set statement_timeout = '70ms'"))
			_, err = conn.Exec(t.Context(), fromData(slow), mode)
			require.Equal(t, "57014", code(err), mode)
			require.ErrorContains(t, err, "statement timeout")
			if block {
				require.NoError(t, simpleExec(conn, "rollback"))
			}
			require.NoError(t, simpleExec(conn, "reset statement_timeout"))

			go func() { _, err := conn.Exec(context.Background(), fromData(slow), mode); done <- err }()
			require.Eventually(t, func() bool { return running() == 1 }, 10*time.Second, 5*time.Millisecond)
			require.NoError(t, conn.PgConn().Conn().Close())
			require.Error(t, <-done)
			require.Eventually(t, func() bool { return running() == 0 }, 10*time.Second, 5*time.Millisecond)
		}
	}
}

// hesitant passes on what a session sends, but for the end of a question by itself: the first time it makes a pause in the middle of it.
func hesitant(t *testing.T, target string, pause time.Duration, paused *atomic.Int64) (address string) {
	t.Helper()
	end := regexp.MustCompile(`rollback( to savepoint "barkeep/own")?\x00..`)
	return accepting(t, func(near net.Conn) {
		far, err := new(net.Dialer).DialContext(context.WithoutCancel(t.Context()), "tcp", target)
		if err != nil {
			return
		}
		var back sync.WaitGroup
		back.Go(func() { _, _ = io.Copy(near, far); _ = near.Close() })
		buffer := make([]byte, 64<<10)
		for {
			n, err := near.Read(buffer)
			if err != nil {
				break
			}
			at := 0
			if found := end.FindIndex(buffer[:n]); found != nil && !bytes.Contains(buffer[:n], []byte("generate_series")) && paused.CompareAndSwap(0, 1) {
				at = found[1]
				if _, err := far.Write(buffer[:at]); err != nil {
					break
				}
				<-time.After(pause)
			}
			if _, err := far.Write(buffer[at:n]); err != nil {
				break
			}
		}
		_ = far.Close()
		back.Wait()
	})
}

// The sequence: statement_timeout ends the question, and then the ROLLBACK behind it too, since the machine is busy. The session is left in a failed
// block that its client has not begun, and answers 25P02 from then on.
func TestRule19_TheEndOfAQuestionIsTriedAgain(t *testing.T) {
	var paused atomic.Int64
	b := startWithLists(t, func(cfg *Config) {
		cfg.Upstream.Address = hesitant(t, cfg.Upstream.Address, time.Second, &paused)
	})
	for _, block := range []bool{false, true} {
		paused.Store(0)
		conn := b.connect(t, nil)
		for tries := 0; paused.Load() == 0; tries++ { // the statement's time may be up before its question is asked
			require.Less(t, tries, 10, "no end was hit")
			require.NoError(t, simpleExec(conn, "set statement_timeout = '400ms'"))
			if block {
				require.NoError(t, simpleExec(conn, "begin"))
			}
			err := simpleExec(conn, fromData(slow))
			require.Equal(t, "57014", code(err))
			require.ErrorContains(t, err, "statement timeout")
			if block {
				require.EqualValues(t, 'E', conn.PgConn().TxStatus())
				require.NoError(t, simpleExec(conn, "rollback"))
			}
			require.EqualValues(t, 'I', conn.PgConn().TxStatus())
			require.NoError(t, simpleExec(conn, "reset statement_timeout"))
		}
	}
}

// A question that reads ohlcv is planned and filled first; EXPLAIN (BARKEEP) shows as far as it can be known.
func TestRule19_Stages(t *testing.T) {
	b := startWithLists(t)
	top := fromData("select symbol from ohlcv where symbol in (select symbol from watchlist where owner = 'me') and timeframe = '1d' and ts >= '2024-01-01Z' and ts < '2024-01-02Z' group by symbol order by symbol desc limit 1")
	for _, mode := range askModes {
		for _, block := range []bool{false, true} {
			b.forget(nil)
			b.symbols()
			_, err := b.db.Pool.Exec(t.Context(), "delete from public.ohlcv")
			require.NoError(t, err)
			conn := b.connect(t, nil)
			if block {
				require.NoError(t, simpleExec(conn, "begin"))
			}
			lines := explainedLines(t, conn, "explain (barkeep) "+top, mode)
			require.Contains(t, lines, "sim:BTCUSD 1d from sim")
			require.Contains(t, lines, "sim:ETHUSD 1d from sim")
			require.Contains(t, lines, "warning: these bars decide what else is needed: that is known once they are there")
			require.Zero(t, b.requests())
			var n int
			require.NoError(t, conn.QueryRow(t.Context(), top, mode).Scan(&n))
			require.Equal(t, 10, n)
			b.mu.Lock()
			require.Len(t, b.asked, 2)
			require.Len(t, b.asked[0].Requirements, 2)
			series := map[market.Series]bool{}
			for _, r := range b.asked[1].Requirements {
				series[r.Series] = true
			}
			b.mu.Unlock()
			require.True(t, series[market.Series{Symbol: "sim:ETHUSD", Timeframe: market.M1}])
			require.False(t, series[market.Series{Symbol: "sim:BTCUSD", Timeframe: market.M1}])
			lines = explainedLines(t, conn, "explain (barkeep) "+top, mode)
			require.Contains(t, lines, "sim:ETHUSD 1m from sim")
			require.NotContains(t, lines, "sim:BTCUSD 1m from sim")
		}
	}
}
