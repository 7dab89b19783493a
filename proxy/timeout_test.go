package proxy

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"barkeep/planner"
)

// PROTOCOL 3: the upstream's statement_timeout does not run during a hold, so barkeep's own does, wherever it was set.
func TestStatementTimeoutDuringHold(t *testing.T) {
	b := start(t, nil)
	b.forget(make(chan struct{}))
	byRole, plain := b.newRole(t, true), b.newRole(t, true)
	exec := func(sql string) {
		_, err := b.db.Pool.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	exec("alter role " + byRole + " set statement_timeout = '70ms'")
	database := b.db.Pool.Config().ConnConfig.Database
	exec("alter role " + plain + ` in database "` + database + `" set statement_timeout = '70ms'`)
	require.NoError(t, simpleExec(b.connect(t, nil), `create function patient(int) returns void language plpgsql as
		$$ begin execute 'set statement_timeout = ' || $1; end $$`))
	b.refresh(t)
	for name, each := range map[string]struct{ user, options, before string }{
		"SET":                 {before: "set statement_timeout = '70ms'"},
		"SET in a block":      {before: "begin; set local statement_timeout = 70"},
		"set_config":          {before: "select set_config('statement_timeout', '70', false)"},
		"options":             {options: "&options=-c%20statement_timeout%3D70"},
		"startup":             {options: "&statement_timeout=70"},
		"function":            {before: "select patient(70)"},
		"RESET to the role's": {user: byRole, before: "set statement_timeout = 0; reset statement_timeout"},
		"rolled back to it":   {before: "set statement_timeout = 70; begin; savepoint a; set local statement_timeout = 0; rollback to a"},
		"released":            {before: "begin; savepoint a; set statement_timeout = 70; release a; commit"},
		"role":                {user: byRole},
		"role in a database":  {user: plain},
	} {
		for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec} {
			t.Run(name+" "+mode.String(), func(t *testing.T) {
				conn := b.connectWith(t, each.user, each.options)
				if each.before != "" {
					require.NoError(t, simpleExec(conn, each.before))
				}
				began := time.Now()
				_, err := conn.Exec(t.Context(), read, mode)
				require.Equal(t, "57014", code(err))
				require.ErrorContains(t, err, "statement timeout")
				took := time.Since(began)
				require.Greater(t, took, 60*time.Millisecond)
				require.Less(t, took, 5*time.Second)
				t.Logf("ended %s after its 70 ms", took-70*time.Millisecond)
			})
		}
	}
	exec(`alter database "` + database + `" set statement_timeout = '70ms'`)
	require.Equal(t, "57014", code(simpleExec(b.connect(t, nil), read)), "set for the database")
	conn := b.connect(t, nil)
	exec(`alter database "` + database + `" reset statement_timeout`)
	require.Equal(t, "57014", code(simpleExec(conn, read)), "the session has what it began with")
}

// A statement_timeout that holds no more ends no hold.
func TestStatementTimeoutThatIsOver(t *testing.T) {
	b := start(t, nil)
	b.forget(make(chan struct{}))
	for _, before := range []string{
		"begin; set local statement_timeout = 20; commit", "begin; set statement_timeout = 20; rollback", "set statement_timeout = 20; reset all",
		"set statement_timeout = 20; discard all", "begin; savepoint a; set local statement_timeout = 20; rollback to a",
	} {
		for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec} {
			conn := b.connect(t, nil)
			for each := range strings.SplitSeq(before+"; set barkeep.timeout = '100ms'", "; ") { // DISCARD ALL cannot be in a Query of several
				_, err := conn.Exec(t.Context(), each, mode)
				require.NoError(t, err)
			}
			_, err := conn.Exec(t.Context(), read, mode)
			require.ErrorContains(t, err, "barkeep.timeout", before)
		}
	}
}

// A hold ends 100 ms before transaction_timeout, which would end the whole session and not the statement alone
// (PostgreSQL 17).
func TestTransactionTimeoutDuringHold(t *testing.T) {
	b := start(t, nil)
	b.forget(make(chan struct{}))
	conn := b.connect(t, nil)
	var version int
	require.NoError(t, b.db.Pool.QueryRow(t.Context(), "select current_setting('server_version_num')::int").Scan(&version))
	if version < 17_00_00 {
		require.Error(t, simpleExec(conn, "set transaction_timeout = '1s'"), "there is no such setting to be tested")
		return
	}
	require.NoError(t, simpleExec(conn, "set transaction_timeout = '1s'"))
	began := time.Now()
	require.NoError(t, simpleExec(conn, "begin"))
	require.NoError(t, simpleExec(conn, "select pg_sleep(0.3)"))
	err := simpleExec(conn, read)
	require.Equal(t, "57014", code(err))
	require.ErrorContains(t, err, "transaction timeout")
	require.Less(t, time.Since(began), 1250*time.Millisecond, "counted from BEGIN, not from the hold's begin")
	require.NoError(t, simpleExec(conn, "rollback"), "the session lives")
}

// The upstream's idle timeouts do not end a session that waits, in a block and outside, before the unnamed statement is
// sent or after (PROTOCOL 2).
func TestIdleTimeoutsAreSurvived(t *testing.T) {
	b := start(t, nil)
	conn := b.connect(t, nil)
	// Long enough for a busy machine between two statements, short of the hold.
	require.NoError(t, simpleExec(conn, "set idle_session_timeout = '1s'; set idle_in_transaction_session_timeout = '1s'"))
	for _, begin := range []string{"select 1", "begin", "begin isolation level repeatable read"} {
		for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec, pgx.QueryExecModeDescribeExec} {
			block := make(chan struct{})
			b.forget(block)
			require.NoError(t, simpleExec(conn, begin))
			done := make(chan error, 1)
			go func() {
				var n int
				done <- conn.QueryRow(context.Background(), "select count(*) from ohlcv where symbol = $1 and timeframe = '1m' and ts >= '2024-01-01Z' and ts < '2024-01-02Z'", mode, "sim:BTCUSD").Scan(&n)
			}()
			select {
			case <-b.began:
			case err := <-done:
				require.NoError(t, err, "ended without a hold")
			}
			<-time.After(1500 * time.Millisecond)
			close(block)
			err := <-done
			if begin == "begin isolation level repeatable read" && mode == pgx.QueryExecModeDescribeExec {
				require.Equal(t, "40001", code(err), "its Parse took the snapshot")
			} else {
				require.NoError(t, err, begin+" "+mode.String())
			}
			require.NoError(t, simpleExec(conn, "rollback"))
		}
	}
}

// STYLE §5: one hold too many is an error of the statement, and leaves the others alone.
func TestTooManyHolds(t *testing.T) {
	b := start(t, func(c *Config) { c.MaxHolds = 1 })
	block := make(chan struct{})
	b.forget(block)
	first, second := b.connect(t, nil), b.connect(t, nil)
	done := make(chan error, 1)
	go func() { done <- simpleExec(first, read) }()
	<-b.began
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec} {
		_, err := second.Exec(t.Context(), readOf("sim:ETHUSD"), mode)
		require.Equal(t, "53300", code(err))
	}
	require.NoError(t, simpleExec(second, "select 1"))
	close(block)
	require.NoError(t, <-done)
	require.NoError(t, simpleExec(second, readOf("sim:ETHUSD")), "there is room again")
}

// What the upstream says by itself passes during a hold.
func TestUnsolicitedDuringHold(t *testing.T) {
	b := start(t, nil)
	block := make(chan struct{})
	b.forget(block)
	client := dialRaw(t, b.url, false)
	client.send(&pgproto3.Query{String: "listen news"})
	client.until('Z')
	client.send(&pgproto3.Query{String: read})
	<-b.began
	_, err := b.db.Pool.Exec(t.Context(), "notify news, 'hello'")
	require.NoError(t, err)
	require.Contains(t, client.until('A'), "hello")
	close(block)
	require.Contains(t, client.until('D'), "10")
	client.until('Z')

	b.forget(make(chan struct{}))
	client.send(&pgproto3.Query{String: "select pg_backend_pid()"})
	pid := client.until('D')[6:]
	client.until('Z')
	<-b.ended
	client.send(&pgproto3.Query{String: read})
	<-b.began
	_, err = b.db.Pool.Exec(t.Context(), "select pg_terminate_backend($1::text::int)", pid)
	require.NoError(t, err)
	require.Equal(t, "57P01", client.until('E'), "the upstream's own word")
	require.Error(t, <-b.ended, "nobody waits any more")
}

// A setting that changes upstream during a hold is told to the client and counts when the statement is planned again; an
// upstream that goes without a word is told as well.
func TestParameterStatusDuringHold(t *testing.T) {
	up := newFakeUpstream(t, []byte("four"))
	b := start(t, func(c *Config) { c.Upstream.Address = up.address })
	block := make(chan struct{})
	b.forget(block)
	client := dialRaw(t, b.url, false)
	upstream := <-up.sessions
	client.send(&pgproto3.Query{String: "select * from ohlcv where symbol = 'sim:BTCUSD' and timeframe = '1m' and ts = '2024-01-01 12:00'"})
	<-b.began
	_, err := upstream.Write(encode(&pgproto3.ParameterStatus{Name: "TimeZone", Value: "Asia/Tokyo"}))
	require.NoError(t, err)
	require.Equal(t, "TimeZone\x00Asia/Tokyo\x00", client.until('S'))
	close(block)
	client.until('Z')
	b.forget(make(chan struct{}))
	client.send(&pgproto3.Query{String: "select * from ohlcv where symbol = 'sim:BTCUSD' and timeframe = '1m' and ts = '2024-01-01 12:00'"})
	<-b.began
	require.NotEqual(t, b.requested()[0].Requirements[0].Ranges, b.requested()[1].Requirements[0].Ranges, "another time zone, another bar")
	require.NoError(t, upstream.Close())
	require.Equal(t, "08006", client.until('E'))
}

// PROTOCOL 3: in a segment of which the upstream has a part, its statement_timeout runs from the first message after the last
// Execute: a hold ends with what is left of it, and what came before in the segment is not committed.
func TestStatementTimeoutInOpenSegment(t *testing.T) {
	b := start(t, nil)
	b.forget(make(chan struct{}))
	require.NoError(t, simpleExec(b.connect(t, nil), "create table part (a int)"))
	for name, executed := range map[string]bool{"bound": false, "executed": true} {
		t.Run(name, func(t *testing.T) {
			c := dialRaw(t, b.url, false)
			c.send(&pgproto3.Query{String: "set statement_timeout = '600ms'"})
			c.until('Z')
			began := time.Now()
			first := []pgproto3.FrontendMessage{&pgproto3.Parse{Query: "insert into part values (1)"}, &pgproto3.Bind{}}
			rest := []pgproto3.FrontendMessage{&pgproto3.Execute{}}
			if executed {
				first, rest = append(first, rest...), nil
			}
			c.send(append(first, &pgproto3.Flush{})...)
			c.until('2')
			<-time.After(400 * time.Millisecond)
			c.send(append(rest, &pgproto3.Parse{Query: read}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{})...)
			require.Equal(t, "57014", c.until('E'))
			took := time.Since(began)
			require.Equal(t, "I", c.until('Z'))
			t.Logf("%s: ended %s after the segment's first message", name, took)
			require.Equal(t, executed, took > 900*time.Millisecond)
			var n int
			require.NoError(t, b.db.Pool.QueryRow(t.Context(), "select count(*) from public.part").Scan(&n))
			require.Zero(t, n, "half a segment is committed")
		})
	}
}

// A hold in a segment that fails by what the upstream has of it has nothing to wait for: the client has its error.
func TestSegmentFailsDuringHold(t *testing.T) {
	b := start(t, func(c *Config) { c.NoticeAfter, c.NoticeEvery = 50*time.Millisecond, 50*time.Millisecond })
	b.forget(make(chan struct{}))
	c := dialRaw(t, b.url, false)
	var pid uint32
	for _, each := range b.server.list() {
		pid = each.pid
	}
	c.send(&pgproto3.Parse{Query: "select 1 / (extract(epoch from clock_timestamp()) * 0)::int from pg_sleep(2)"}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Flush{})
	b.active(t, pid)
	c.send(&pgproto3.Parse{Query: read}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{})
	<-b.began
	require.Equal(t, "22012", c.until('E'))
	require.Equal(t, "I", c.until('Z'))
	require.Error(t, <-b.ended)
	c.send(&pgproto3.Query{String: "select 1"})
	c.until('D')
	c.until('Z')
}

// slowAnswers is a catalog whose answers do not come.
type slowAnswers struct{ Catalog }

func (slowAnswers) Answer(ctx context.Context, _ []planner.Question) (planner.Answers, error) {
	<-ctx.Done()
	return nil, fmt.Errorf("ask: %w", ctx.Err())
}

// statement_timeout counts from the first look at a statement: the planner's questions take their time too.
func TestStatementTimeoutWhilePlanned(t *testing.T) {
	b := start(t, func(c *Config) { c.Catalog = slowAnswers{c.Catalog} })
	conn := b.connect(t, nil)
	require.NoError(t, simpleExec(conn, "set statement_timeout = '100ms'"))
	const asks = "select count(*) from ohlcv where symbol = 'sim:BTCUSD' and timeframe = '1m' and ts > '2024-01-01 12:00 Europe/Berlin'"
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec} {
		_, err := conn.Exec(t.Context(), asks, mode)
		require.Equal(t, "57014", code(err))
		require.ErrorContains(t, err, "statement timeout")
	}
}
