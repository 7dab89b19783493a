package proxy

import (
	"context"
	"encoding/binary"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
)

// FunctionCall names no function: one in the closure, one that makes SQL of its arguments and one that runs SQL are refused, others
// pass (PLANNER 3).
func TestRule3_FunctionCall(t *testing.T) {
	b := start(t, nil)
	conn := b.connect(t, nil)
	exec := func(sql string) {
		t.Helper()
		_, err := conn.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err, sql)
	}
	oid := func(name string) (n uint32) {
		require.NoError(t, conn.QueryRow(t.Context(), "select oid from pg_proc where proname = $1 order by oid limit 1", name).Scan(&n))
		return n
	}
	// call returns the SQLSTATE, empty for a result, and the state of the transaction after it.
	call := func(oid uint32, args ...[]byte) (state string, tx byte) {
		t.Helper()
		front := conn.PgConn().Frontend()
		front.Send(&pgproto3.FunctionCall{Function: oid, ArgFormatCodes: []uint16{1}, Arguments: args, ResultFormatCode: 1})
		require.NoError(t, front.Flush())
		for {
			message, err := front.Receive()
			require.NoError(t, err)
			switch m := message.(type) {
			case *pgproto3.ErrorResponse:
				state = m.Code
			case *pgproto3.ReadyForQuery:
				return state, m.TxStatus
			}
		}
	}
	exec("create function bars() returns bigint language sql as 'select count(*) from ohlcv'")
	exec("create function dyn(int, text) returns int language plpgsql as $$begin execute $2; return 1; end$$")
	exec("create function plain(int) returns int language sql as 'select $1 + 1'")
	bars, dyn, plain, xml := oid("bars"), oid("dyn"), oid("plain"), oid("table_to_xml")
	require.NoError(t, b.server.cfg.Catalog.(interface { //nolint:forcetypeassert // the tests' own
		Refresh(ctx context.Context) error
	}).Refresh(t.Context()))
	number := binary.BigEndian.AppendUint32(nil, 41)
	for _, refused := range []struct {
		oid  uint32
		args [][]byte
	}{{bars, nil}, {dyn, [][]byte{number, []byte("select 1")}}, {xml, [][]byte{number, {1}, {1}, {}}}} {
		state, tx := call(refused.oid, refused.args...)
		require.Equal(t, "0A000", state)
		require.EqualValues(t, 'I', tx)
		exec("begin")
		state, tx = call(refused.oid, refused.args...)
		require.Equal(t, "0A000", state)
		require.EqualValues(t, 'E', tx)
		exec("rollback")
	}
	state, _ := call(plain, number)
	require.Empty(t, state)
	exec("set barkeep.mode = 'stored'")
	state, _ = call(bars)
	require.Empty(t, state)
	state, _ = call(dyn, number, []byte("select 1"))
	require.Empty(t, state)
	require.Empty(t, b.requested())
}

// What reads an object by name reads what the session has just given that name, before anybody else sees it (PLANNER 3).
func TestRule3_DependentsOfOwnDefinitions(t *testing.T) {
	b := start(t, nil)
	conn := b.connect(t, nil)
	exec := func(sql string) error {
		_, err := conn.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol)
		return err
	}
	for _, sql := range []string{
		"create table bars2 (n int)", "create function counts() returns bigint language plpgsql as 'begin return (select count(*) from bars2); end'",
		"create function outer_one() returns bigint language sql as 'select counts()'", "create table kept (n bigint default outer_one())",
		"create function one() returns bigint language sql as 'select 1::bigint'", "create view ones as select one()", "create view days as select * from ohlcv where timeframe = '1d'",
		"create function other() returns bigint language sql as 'select 2::bigint'",
	} {
		require.NoError(t, exec(sql), sql)
	}
	require.NoError(t, b.server.cfg.Catalog.(interface { //nolint:forcetypeassert // the tests' own
		Refresh(ctx context.Context) error
	}).Refresh(t.Context()))
	for _, each := range []struct{ make, run string }{
		{"drop table bars2; create view bars2 as select * from ohlcv", "select counts()"},
		{"create temp view bars2 as select * from ohlcv", "select outer_one()"},
		{"create temp view bars2 as select * from ohlcv", "insert into kept default values"},
		{"create or replace function one() returns bigint language sql as 'select count(*) from ohlcv'", "select * from ones"},
	} {
		require.NoError(t, exec("begin"))
		require.NoError(t, exec(each.run), "before")
		require.NoError(t, exec(each.make), each.make)
		require.NoError(t, exec("savepoint a"))
		require.Equal(t, "0A000", code(exec(each.run)), each.run)
		require.NoError(t, exec("rollback to a"))
		require.NoError(t, exec("select other()"))
		require.NoError(t, exec("select ts from days where symbol = 'sim:BTCUSD' and ts = '2024-01-01Z'"), "a view that nothing changed is looked into")
		require.NoError(t, exec("rollback"))
		require.Equal(t, "0A000", code(exec(each.make+"; "+each.run)), "in one text")
	}
}

// A trigger made in the same block refuses what fires it where its function may read ohlcv, and no more (PLANNER 3).
func TestRule3_OwnTriggers(t *testing.T) {
	b := start(t, nil)
	conn := b.connect(t, nil)
	exec := func(sql string) error {
		_, err := conn.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol)
		return err
	}
	for _, sql := range []string{
		"create table log (i int)", "create function plain() returns trigger language plpgsql as 'begin return new; end'",
		"create function reads() returns trigger language plpgsql as 'begin new.i := (select count(*) from ohlcv); return new; end'",
	} {
		require.NoError(t, exec(sql), sql)
	}
	require.NoError(t, b.server.cfg.Catalog.(interface { //nolint:forcetypeassert // the tests' own
		Refresh(ctx context.Context) error
	}).Refresh(t.Context()))
	for _, each := range []struct{ before, function, state string }{
		{"select 1", "plain()", ""},
		{"select 1", "reads()", "0A000"},
		{"select 1", "plain('ohlcv')", "0A000"},
		{"create function pg_temp.new() returns trigger language plpgsql as 'begin return new; end'", "pg_temp.new()", ""},
		{"create function pg_temp.new() returns trigger language plpgsql as 'begin new.i := (select count(*) from ohlcv); return new; end'", "pg_temp.new()", "0A000"},
		{"create function pg_temp.new() returns trigger language plpgsql as 'begin execute tg_argv[0]; return new; end'", "pg_temp.new('select 1')", "0A000"},
	} {
		require.NoError(t, exec("begin"))
		require.NoError(t, exec(each.before))
		require.NoError(t, exec("create trigger t before insert on log for each row execute function "+each.function))
		require.Equal(t, each.state, code(exec("insert into log values (1)")), "%s, %s", each.before, each.function)
		require.NoError(t, exec("rollback"))
	}
}
