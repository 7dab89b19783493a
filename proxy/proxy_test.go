package proxy

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"barkeep/internal/actor"
	"barkeep/internal/market"
)

// read needs one day of one series.
const read = "select count(*) from ohlcv where symbol = 'sim:BTCUSD' and timeframe = '1m' and ts >= '2024-01-01Z' and ts < '2024-01-02Z'"

func code(err error) string {
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok {
		return refused.Code
	}
	return ""
}

func TestRelay(t *testing.T) {
	b := start(t, nil)
	conn := b.connect(t, nil)
	var n int
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeCacheStatement, pgx.QueryExecModeExec, pgx.QueryExecModeDescribeExec} {
		require.NoError(t, conn.QueryRow(t.Context(), "select $1::int + 1", mode, 41).Scan(&n))
		require.Equal(t, 42, n)
	}
	_, err := conn.Exec(t.Context(), "select 1/0")
	require.Equal(t, "22012", code(err))
	_, err = conn.Exec(t.Context(), "create temp table x (a int)")
	require.NoError(t, err)
	count, err := conn.CopyFrom(t.Context(), pgx.Identifier{"x"}, []string{"a"}, pgx.CopyFromSlice(100_000, func(i int) ([]any, error) { return []any{i}, nil }))
	require.NoError(t, err)
	require.EqualValues(t, 100_000, count)
	rows, err := conn.Query(t.Context(), "select a, repeat('x', 1000) from x")
	require.NoError(t, err)
	all, err := pgx.CollectRows(rows, func(pgx.CollectableRow) (int, error) { return 0, nil })
	require.NoError(t, err)
	require.Len(t, all, 100_000)
}

func TestHold(t *testing.T) {
	for name, mode := range map[string]pgx.QueryExecMode{
		"simple": pgx.QueryExecModeSimpleProtocol, "prepared": pgx.QueryExecModeCacheStatement, "exec": pgx.QueryExecModeExec, "describe": pgx.QueryExecModeDescribeExec,
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t, nil)
			conn := b.connect(t, nil)
			var n int
			require.NoError(t, conn.QueryRow(t.Context(), read, mode).Scan(&n))
			require.Equal(t, 10, n)
			require.NoError(t, conn.QueryRow(t.Context(), read, mode).Scan(&n))
			require.Equal(t, 10, n)
			require.Len(t, b.requested(), 1)
			require.Equal(t, "postgres", b.requested()[0].AskedBy)
			const parameters = "select count(*) from ohlcv where symbol = $1 and timeframe = $2 and ts < '2024-01-02Z' and ts >= '2024-01-01Z'"
			require.NoError(t, conn.QueryRow(t.Context(), parameters, mode, "sim:ETHUSD", "1m").Scan(&n))
			require.Equal(t, 10, n)
			require.Len(t, b.requested(), 2)
		})
	}
}

func TestNoticesCancelAndTimeouts(t *testing.T) {
	b := start(t, func(c *Config) { c.NoticeAfter, c.NoticeEvery = 20*time.Millisecond, 20*time.Millisecond })
	b.block = make(chan struct{})
	notices := make(chan string, 1000)
	conn := b.connect(t, notices)

	done := make(chan error, 1)
	go func() { _, err := conn.Exec(context.Background(), read); done <- err }()
	<-b.began
	for notice := ""; notice != "NOTICE: barkeep: fetching sim:BTCUSD 1m: 12 % (581,000 of about 4,840,000 bars), about 90 s left"; { // before it, what is known by then
		notice = <-notices
		require.Contains(t, notice, "NOTICE: barkeep: ")
	}
	require.NoError(t, conn.PgConn().CancelRequest(t.Context()))
	err := <-done
	require.Equal(t, "57014", code(err))
	require.ErrorContains(t, err, "canceling statement due to user request")
	require.Error(t, <-b.ended)
	require.EqualValues(t, 'I', conn.PgConn().TxStatus())

	_, err = conn.Exec(t.Context(), "set statement_timeout = '1s'")
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), read)
	require.Equal(t, "57014", code(err))
	require.ErrorContains(t, err, "statement timeout")
	_, err = conn.Exec(t.Context(), "reset statement_timeout; set barkeep.timeout = '80ms'")
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), read)
	require.Equal(t, "57014", code(err))
	require.ErrorContains(t, err, "barkeep.timeout")
	_, err = conn.Exec(t.Context(), "set barkeep.mode = 'stored'")
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), read)
	require.NoError(t, err)
}

func TestFailureInsideBlock(t *testing.T) {
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeCacheStatement, pgx.QueryExecModeExec} {
		b := start(t, nil)
		b.block = make(chan struct{})
		conn := b.connect(t, nil)
		_, err := conn.Exec(t.Context(), "create temp table x (a int)")
		require.NoError(t, err)
		_, err = conn.Exec(t.Context(), "begin; insert into x values (1); set local barkeep.timeout = '50ms'")
		require.NoError(t, err)
		_, err = conn.Exec(t.Context(), read, mode)
		require.Equal(t, "57014", code(err), mode.String())
		require.EqualValues(t, 'E', conn.PgConn().TxStatus())
		_, err = conn.Exec(t.Context(), read, pgx.QueryExecModeSimpleProtocol)
		require.Equal(t, "25P02", code(err))
		tag, err := conn.Exec(t.Context(), "commit")
		require.NoError(t, err)
		require.Equal(t, "ROLLBACK", tag.String())
		var n int
		require.NoError(t, conn.QueryRow(t.Context(), "select count(*) from x").Scan(&n))
		require.Zero(t, n)
	}
}

func TestRepeatableRead(t *testing.T) {
	b := start(t, nil)
	conn := b.connect(t, nil)
	tx, err := conn.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	require.NoError(t, err)
	var n int
	require.NoError(t, tx.QueryRow(t.Context(), read, pgx.QueryExecModeSimpleProtocol).Scan(&n))
	require.Equal(t, 10, n)
	const other = "select count(*) from ohlcv where symbol = 'sim:ETHUSD' and timeframe = '1m' and ts >= '2024-01-01Z' and ts < '2024-01-02Z'"
	err = tx.QueryRow(t.Context(), other, pgx.QueryExecModeSimpleProtocol).Scan(&n)
	require.Equal(t, "40001", code(err))
	require.NoError(t, tx.Rollback(t.Context()))
	tx, err = conn.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	require.NoError(t, err)
	require.NoError(t, tx.QueryRow(t.Context(), other, pgx.QueryExecModeExec).Scan(&n))
	require.Equal(t, 10, n)
	require.NoError(t, tx.Commit(t.Context()))
}

// PLANNER 3: what a session has made itself counts before anybody else can see it, and a statement prepared before a
// view came to read ohlcv is planned after it (PLANNER 6).
func TestOwnDefinitions(t *testing.T) {
	b := start(t, nil)
	conn := b.connect(t, nil)
	exec := func(sql string) error {
		_, err := conn.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol)
		return err
	}
	require.NoError(t, exec("create view mine as select 1 as n"))
	_, err := conn.Prepare(t.Context(), "before", "select * from mine")
	require.NoError(t, err)
	require.NoError(t, exec("begin"))
	require.NoError(t, exec("drop view mine"))
	require.NoError(t, exec("create view mine as select count(*)::int as n from ohlcv where symbol = 'sim:BTCUSD' and timeframe = '1d' and ts = '2024-01-01Z'"))
	require.NoError(t, exec("savepoint a"))
	require.Equal(t, "0A000", code(exec("select * from mine")), "read in the block that made it")
	require.NoError(t, exec("rollback to a"))
	_, err = conn.Exec(t.Context(), "before")
	require.Equal(t, "0A000", code(err), "by a statement prepared before it")
	require.NoError(t, exec("rollback"))
	require.NoError(t, exec("select * from mine"), "taken back with its block")
	require.Empty(t, b.requested())

	batch := &pgconn.Batch{}
	batch.ExecParams("create view own as select count(*) from ohlcv where symbol = 'sim:BTCUSD' and timeframe = '1d'", nil, nil, nil, nil)
	batch.ExecParams("select * from own", nil, nil, nil, nil)
	_, err = conn.PgConn().ExecBatch(t.Context(), batch).ReadAll()
	require.Equal(t, "0A000", code(err), "read in the segment that makes it")
}

// DESIGN §3: a statement that has a gap is an actor, whose state can be seen; a covered one is none.
func TestDatastoreIsVisible(t *testing.T) {
	var actors actor.Registry
	b := start(t, func(c *Config) { c.Actors = &actors })
	b.block = make(chan struct{})
	conn := b.connect(t, nil)
	ended := make(chan error, 1)
	ask := func() {
		_, err := conn.Exec(t.Context(), read, pgx.QueryExecModeSimpleProtocol)
		ended <- err
	}
	waits := func() bool {
		list := actors.Machines()
		return len(list) == 1 && list[0].Kind == "datastore" && list[0].State == actor.WaitingForData
	}
	go ask()
	require.Eventually(t, waits, 10*time.Second, time.Millisecond)
	require.NoError(t, conn.PgConn().CancelRequest(t.Context()))
	require.Equal(t, "57014", code(<-ended))
	require.Empty(t, actors.Machines())
	go ask()
	require.Eventually(t, waits, 10*time.Second, time.Millisecond)
	close(b.block)
	require.NoError(t, <-ended)
	require.Empty(t, actors.Machines())
	ask()
	require.NoError(t, <-ended)
	require.Zero(t, actors.Undeclared())
}

// PLANNER 10: what now() is upstream lies in the bracket, however far that clock is from ours.
func TestRule10_TheUpstreamsClock(t *testing.T) {
	for _, off := range []time.Duration{time.Hour, -time.Hour} {
		b := start(t, func(c *Config) { c.Skew = func() (least, most time.Duration) { return off - time.Second, off } })
		conn := b.connect(t, nil)
		_, err := conn.Exec(t.Context(), "select 1 from ohlcv where symbol='sim:BTCUSD' and timeframe='1m' and ts between now() - interval '5 min' and now()")
		require.NoError(t, err)
		need := b.requested()[0].Requirements[0].Ranges.Bounds()
		theirs := time.Now().Add(off)
		require.LessOrEqual(t, need.Start, market.FromTime(theirs.Add(-5*time.Minute-time.Second)))
		require.GreaterOrEqual(t, need.End, market.FromTime(theirs))
		require.Less(t, need.Start.Time(), need.End.Time())
		require.Less(t, need.End.Sub(need.Start), 10*time.Minute)
	}
}

func TestTypoFailsBeforeHold(t *testing.T) {
	b := start(t, nil)
	b.block = make(chan struct{})
	conn := b.connect(t, nil)
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec} {
		_, err := conn.Exec(t.Context(), "select nonsense from ohlcv where symbol = 'sim:BTCUSD' and timeframe = '1m'", mode)
		require.Equal(t, "42703", code(err))
		require.EqualValues(t, 'I', conn.PgConn().TxStatus())
	}
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec} {
		_, err := conn.Exec(t.Context(), "begin")
		require.NoError(t, err)
		_, err = conn.Exec(t.Context(), "select nonsense from ohlcv where symbol = 'sim:BTCUSD' and timeframe = '1m'", mode)
		require.Equal(t, "42703", code(err))
		require.EqualValues(t, 'E', conn.PgConn().TxStatus())
		_, err = conn.Exec(t.Context(), "rollback")
		require.NoError(t, err)
	}
	require.Empty(t, b.requested())
}

func TestPrivilege(t *testing.T) {
	b := start(t, nil)
	conn := b.connect(t, nil)
	_, err := conn.Exec(t.Context(), "set role pg_monitor")
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), read)
	require.Equal(t, "42501", code(err))
	require.Empty(t, b.requested())
	_, err = conn.Exec(t.Context(), "reset role")
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), read)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "insert into ohlcv values ('a', '1m', now(), 1, 1, 1, 1, 1)")
	require.Equal(t, "42501", code(err))
}

// PIPELINE 8: what is written to a child of ohlcv is read as its bars, and what is written through a parent passes by its triggers.
func TestNoChildren(t *testing.T) {
	b := start(t, nil)
	conn := b.connect(t, nil)
	_, err := conn.Exec(t.Context(), "create table mine (like ohlcv)")
	require.NoError(t, err)
	for _, mode := range []string{"wait", "stored"} {
		_, err := conn.Exec(t.Context(), "set barkeep.mode = "+mode)
		require.NoError(t, err)
		for _, text := range []string{
			"create table child () inherits (ohlcv)", "create temp table child () inherits (public.ohlcv)", "alter table mine inherit ohlcv",
			"alter table ohlcv inherit mine", "select 1; create table child () inherits (ohlcv)",
		} {
			_, err := conn.Exec(t.Context(), text, pgx.QueryExecModeSimpleProtocol)
			require.Equal(t, "42501", code(err), text)
			if !strings.Contains(text, ";") {
				_, err = conn.Exec(t.Context(), text)
				require.Equal(t, "42501", code(err), text)
			}
		}
	}
	_, err = conn.Exec(t.Context(), "create table child () inherits (mine)")
	require.NoError(t, err)
}

func TestClientDeathEndsHold(t *testing.T) {
	b := start(t, nil)
	b.block = make(chan struct{})
	conn := b.connect(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { _, err := conn.Exec(ctx, read); done <- err }()
	<-b.began
	_ = conn.PgConn().Conn().Close()
	cancel()
	require.Error(t, <-done)
	select {
	case err := <-b.ended:
		require.Error(t, err)
	case <-time.After(10 * time.Second):
		t.Fatal("the hold goes on without its client")
	}
}

func TestIdleTimeoutsDuringHold(t *testing.T) {
	b := start(t, nil)
	b.block = make(chan struct{})
	conn := b.connect(t, nil)
	_, err := conn.Exec(t.Context(), "set idle_session_timeout = '1s'; set idle_in_transaction_session_timeout = '1s'")
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { _, err := conn.Exec(context.Background(), read, pgx.QueryExecModeExec); done <- err }()
	<-b.began
	<-time.After(1500 * time.Millisecond)
	close(b.block)
	require.NoError(t, <-done)
}

func TestPipelinedBehindHold(t *testing.T) {
	b := start(t, nil)
	b.block = make(chan struct{})
	conn := b.connect(t, nil)
	batch := &pgx.Batch{}
	var got []int
	for i := range 300 {
		batch.Queue("select $1::int, $2::text", i, strings.Repeat("x", 4000)).QueryRow(func(row pgx.Row) error {
			var n int
			var text string
			err := row.Scan(&n, &text)
			got = append(got, n)
			return err
		})
	}
	batch.Queue(read).QueryRow(func(row pgx.Row) error {
		var n int
		defer func() { got = append(got, n) }()
		return row.Scan(&n)
	})
	done := make(chan error, 1)
	go func() { done <- conn.SendBatch(context.Background(), batch).Close() }()
	<-b.began
	close(b.block)
	require.NoError(t, <-done)
	require.Len(t, got, 301)
	require.Equal(t, 10, got[300])
}

func TestDrain(t *testing.T) {
	b := start(t, nil)
	conn := b.connect(t, nil)
	require.NoError(t, conn.Ping(t.Context()))
	b.stop()
	_, err := conn.Exec(t.Context(), "select 1")
	require.Error(t, err)
	require.Zero(t, b.server.Sessions())
}

func TestTooManySessions(t *testing.T) {
	b := start(t, func(c *Config) { c.MaxSessions = 1 })
	b.connect(t, nil)
	_, err := pgx.Connect(t.Context(), b.url)
	require.Equal(t, "53300", code(err))
}

// A view that is itself named ohlcv is not the table: bounds on its columns say nothing of the table's (PLANNER 3, 6).
func TestRule6_AViewNamedOhlcv(t *testing.T) {
	b := start(t, nil)
	conn := b.connect(t, nil)
	run := func(sql string) error {
		_, err := conn.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol)
		return err
	}
	where := " where symbol = 'sim:BTCUSD' and timeframe = '1m' and ts >= '2024-01-01Z' and ts < '2024-01-01 00:10Z'"
	require.NoError(t, run("create schema my"))
	require.NoError(t, run("begin"))
	require.NoError(t, run("create view my.ohlcv as select symbol, timeframe, ts + interval '100 days' as ts from public.ohlcv"))
	require.Equal(t, "0A000", code(run("select count(*) from my.ohlcv"+where)), "in the block that makes it")
	require.NoError(t, run("rollback"))
	require.NoError(t, run("create view my.ohlcv as select symbol, timeframe, ts + interval '100 days' as ts from public.ohlcv"))
	refresh := b.server.cfg.Catalog.(interface { //nolint:forcetypeassert // the tests' own
		Refresh(ctx context.Context) error
	}).Refresh
	require.NoError(t, refresh(t.Context()))
	require.Equal(t, "0A000", code(run("select count(*) from my.ohlcv"+where)))
	require.NoError(t, run("set search_path = my, public"))
	require.Equal(t, "0A000", code(run("select count(*) from ohlcv"+where)))
	require.NoError(t, run("select count(*) from public.ohlcv"+where))
	require.NoError(t, run("drop view my.ohlcv"))
	require.NoError(t, refresh(t.Context()))
	require.NoError(t, run("select count(*) from ohlcv"+where))
}

// CREATE MATERIALIZED VIEW reads what its query does; CREATE SCHEMA makes what its elements make.
func TestRule7_DefinitionsThatReadOrHide(t *testing.T) {
	b := start(t, nil)
	conn := b.connect(t, nil)
	run := func(sql string) error {
		_, err := conn.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol)
		return err
	}
	where := " where symbol = 'sim:BTCUSD' and timeframe = '1m' and ts >= '2024-01-01Z' and ts < '2024-01-01 00:10Z'"
	require.NoError(t, run("create materialized view kept as select ts, close from ohlcv"+where))
	require.Len(t, b.requested(), 1)
	var n int
	require.NoError(t, b.db.Pool.QueryRow(t.Context(), "select count(*) from public.kept").Scan(&n))
	require.Equal(t, 10, n)
	require.Equal(t, "0A000", code(run("create schema s1 create view v9 as select * from public.ohlcv; select count(*) from s1.v9"+where)))
	require.NoError(t, run("begin"))
	require.NoError(t, run("create schema s1 create view v9 as select * from public.ohlcv"))
	require.Equal(t, "0A000", code(run("select count(*) from s1.v9"+where)))
	require.NoError(t, run("rollback"))
}

// TestAnsweredWithWhatThereIs: a coordinator that says what the answer will lack is not asked again for it.
func TestAnsweredWithWhatThereIs(t *testing.T) {
	b := start(t, nil)
	b.lacks = []string{"the newest bars could not be refreshed"}
	notices := make(chan string, 100)
	conn := b.connect(t, notices)
	var bars int
	require.NoError(t, conn.QueryRow(t.Context(), read).Scan(&bars))
	require.Zero(t, bars)
	require.Equal(t, 1, b.requests())
	require.Len(t, notices, 1)
	require.Equal(t, "WARNING: the newest bars could not be refreshed", <-notices)
}
