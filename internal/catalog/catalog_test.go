package catalog

import (
	"context"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"barkeep/internal/dbtest"
	"barkeep/planner"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestClosure(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	ctx := t.Context()
	c := New(db.Pool, nil, "")
	require.Nil(t, c.Current())
	require.NoError(t, c.Refresh(ctx))
	before := c.Current()
	require.NoError(t, c.Refresh(ctx))
	require.Same(t, before, c.Current(), "nothing changed, nothing was loaded")

	for _, sql := range []string{
		`create view public.daily as select symbol, ts, close from public.ohlcv where timeframe = '1d'`,
		`create view public.over_daily as select max(close) as top from public.daily`,
		`create view public.guarded with (security_barrier) as select * from public.ohlcv`,
		`create materialized view public."Kept" as select count(*) as n from public.ohlcv`,
		`create function public.last_close(text) returns float8 language plpgsql as $$begin return (select close from ohlcv where symbol = $1 limit 1); end$$`,
		`create function public.parsed() returns bigint begin atomic select count(*) from public.daily; end`,
		`create function public.through(text) returns float8 language sql as $$select public.last_close($1)$$`,
		`create table public.watched (symbol text check (public.last_close(symbol) is not null))`,
		`create table public.fired (symbol text)`,
		`create function public.fire() returns trigger language plpgsql as $$begin perform public.through('x'); return new; end$$`,
		`create trigger fire before insert on public.fired for each row execute function public.fire()`,
		`create table public.other (a int)`,
		`create view public.unrelated as select * from public.other`,
		`create schema second`, `create view second.twice as select * from public.ohlcv`, `create table public.twice (a int)`,
		`create view public.by_text as select query_to_xml('select * from ohlcv', true, true, '')`,
		`create function public.same(text, text) returns boolean language sql as $$select $1 = $2 and public.last_close($1) > 0$$`,
		`create operator public.=== (leftarg = text, rightarg = text, function = public.same)`,
	} {
		_, err := db.Pool.Exec(ctx, sql)
		require.NoError(t, err, sql)
	}
	require.NoError(t, c.Refresh(ctx))
	got := c.Current()
	require.NotEqual(t, before.Version, got.Version)
	for _, name := range []string{
		"daily", "over_daily", "guarded", "kept", "last_close", "parsed", "through", "watched", "fired", "twice", "by_text", "same", "===",
	} {
		require.Contains(t, got.Names, name)
	}
	for _, name := range []string{"other", "unrelated", "ohlcv"} {
		require.NotContains(t, got.Names, name)
	}
	require.Contains(t, got.Views["daily"], "ohlcv")
	require.Contains(t, got.Views, "over_daily")
	for _, name := range []string{"same", "===", "fire"} {
		require.Contains(t, got.Users, name)
	}
	require.NotContains(t, got.Users, "lower")
	require.NotContains(t, got.Users, "first", "it came with an extension")
	for _, opaque := range []string{"guarded", "kept", "twice", "last_close"} {
		require.NotContains(t, got.Views, opaque)
	}

	_, err := db.Pool.Exec(ctx, `create schema third; create view third.ohlcv as select * from public.ohlcv`)
	require.NoError(t, err)
	require.NoError(t, c.Refresh(ctx))
	require.Contains(t, c.Current().Names, "ohlcv", "another one than the table")
	require.NotContains(t, c.Current().Views, "ohlcv")
	_, err = db.Pool.Exec(ctx, `drop schema third cascade`)
	require.NoError(t, err)

	require.NotContains(t, c.Current().Names, "date_trunc")
	_, err = db.Pool.Exec(ctx, `create function public.date_trunc(text, date) returns date language sql immutable as 'select $2'`)
	require.NoError(t, err)
	require.NoError(t, c.Refresh(ctx))
	require.Contains(t, c.Current().Names, "date_trunc", "it fits a date better than the builtin one")
	_, err = db.Pool.Exec(ctx, `drop function public.date_trunc(text, date)`)
	require.NoError(t, err)

	_, err = db.Pool.Exec(ctx, `alter view public.daily rename to every_day`)
	require.NoError(t, err)
	require.NoError(t, c.Refresh(ctx))
	require.Contains(t, c.Current().Names, "every_day")
	_, err = db.Pool.Exec(ctx, `drop view public.every_day cascade`)
	require.NoError(t, err)
	require.NoError(t, c.Refresh(ctx))
	require.NotContains(t, c.Current().Names, "every_day")
	require.NotContains(t, c.Current().Names, "parsed", "it went with its view")
}

// TestFreshLooksForDefinitions: each statement looks while one is on its way, for a while, and one of those that come after its end.
func TestFreshLooksForDefinitions(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	ctx := t.Context()
	c := New(db.Pool, nil, "")
	now := time.Now()
	c.now = func() time.Time { return now }
	require.NoError(t, c.Refresh(ctx))
	conn, err := db.Pool.Acquire(ctx)
	require.NoError(t, err)
	defer conn.Release()
	define := func(sql string) {
		t.Helper()
		_, err := conn.Exec(ctx, sql)
		require.NoError(t, err)
	}
	define(`create view public.sudden as select * from public.ohlcv`)
	require.NotContains(t, c.Fresh(ctx).Names, "sudden", "nobody said that something changed")
	c.Defining()
	require.Contains(t, c.Fresh(ctx).Names, "sudden")
	define(`create temp view passing as select * from public.ohlcv`)
	require.Contains(t, c.Fresh(ctx).Names, "passing", "it is still on its way")
	now = now.Add(2 * suspectFor)
	require.False(t, c.Suspected(), "it takes long")
	define(`create view public.slow as select * from public.ohlcv`)
	c.Defined()
	gone, cancel := context.WithCancel(ctx)
	cancel()
	require.NotContains(t, c.Fresh(gone).Names, "slow")
	require.True(t, c.Suspected(), "that look has failed")
	require.Contains(t, c.Fresh(ctx).Names, "slow")
	require.False(t, c.Suspected())
	c.Defining()
	c.Lost()
	require.NoError(t, c.Refresh(ctx))
	require.True(t, c.Suspected(), "it may still be running")
	now = now.Add(suspectFor)
	require.False(t, c.Suspected())
}

// TestDefinitionsAreToldToOthers: what is defined through one process is known to another before its poll is due, though nobody asks
// the first one for anything.
func TestDefinitionsAreToldToOthers(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	one, other := New(db.Pool, nil, ""), New(db.Pool, nil, "")
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for _, c := range []*Catalog{one, other} {
		c.poll = time.Hour
		require.NoError(t, c.Refresh(ctx))
		running.Go(func() { _ = c.Run(ctx) })
	}
	defer running.Wait()
	defer cancel()
	listening := func() bool {
		var count int
		require.NoError(t, db.Pool.QueryRow(ctx, "select count(*) from pg_stat_activity where datname = current_database() and query = 'LISTEN barkeep_catalog'").Scan(&count))
		return count == 2
	}
	require.Eventually(t, listening, 30*time.Second, 10*time.Millisecond)
	knows := func(c *Catalog, view string) func() bool {
		return func() bool { _, ok := c.Current().Names[view]; return ok }
	}
	for _, view := range []string{"first", "second"} {
		one.Defining()
		_, err := db.Pool.Exec(ctx, "create view public."+view+" as select * from public.ohlcv")
		require.NoError(t, err)
		one.Defined()
		require.Eventually(t, knows(one, view), 30*time.Second, time.Millisecond)
		require.Eventually(t, knows(other, view), 30*time.Second, time.Millisecond)
	}
}

func TestReloads(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	c := New(db.Pool, nil, "")
	require.NoError(t, c.Refresh(t.Context()))
	before := c.Reloads()
	_, err := db.Pool.Exec(t.Context(), "select pg_reload_conf()")
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		require.NoError(t, c.Refresh(t.Context()))
		return c.Reloads() > before
	}, 30*time.Second, 10*time.Millisecond)
}

// TestRefreshesAreShared: while something may just have changed each statement refreshes; many at a time must not wait for
// one read each.
func TestRefreshesAreShared(t *testing.T) {
	t.Parallel()
	c, _ := countedCatalog(t, "")
	require.NoError(t, c.Refresh(t.Context()))
	conn, err := c.pool.Acquire(t.Context()) // the only one: none gets an answer
	require.NoError(t, err)
	before := c.pool.Stat().AcquireCount()
	errs := make(chan error, 50)
	for range cap(errs) {
		go func() { errs <- c.Refresh(t.Context()) }()
	}
	require.Eventually(t, func() bool { return c.refreshes.Sharing() == cap(errs) }, time.Minute, time.Millisecond)
	conn.Release()
	for range cap(errs) {
		require.NoError(t, <-errs)
	}
	require.LessOrEqual(t, c.pool.Stat().AcquireCount()-before, int64(2), "that of the first, and that of all who came meanwhile")
}

// TestLookIsCheap: the fingerprint is not read where nothing has committed; what has committed, or may have been lost, has it read.
func TestLookIsCheap(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	look := func(in pgx.Tx, state string) (name string, read bool) {
		t.Helper()
		var fingerprint []string
		var configured time.Time
		require.NoError(t, in.QueryRow(t.Context(), lookSQL, state).Scan(&name, &configured, &fingerprint))
		return name, fingerprint != nil
	}
	begin := func() pgx.Tx {
		t.Helper()
		tx, err := db.Pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
		require.NoError(t, err)
		t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
		return tx
	}
	tx := begin()
	first, read := look(tx, "")
	require.True(t, read)
	again, read := look(tx, first)
	require.Equal(t, first, again)
	require.False(t, read)
	for _, sql := range []string{
		`create table public.made (a int)`, `drop table public.made`, `create or replace view public.made as select 1 as one`,
		`alter view public.made rename to making`, `set synchronous_commit = off; create temp table passing (a int); reset synchronous_commit`,
		`checkpoint`,
	} {
		_, err := db.Pool.Exec(t.Context(), sql)
		require.NoError(t, err, sql)
		after, read := look(begin(), first)
		require.NotEqual(t, first, after, sql)
		require.True(t, read, sql)
		first = after
	}
}

// TestKnownStateKeepsTheCatalog: a look that finds another state with the same definitions loads nothing, and the next definition is seen.
func TestKnownStateKeepsTheCatalog(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	c := New(db.Pool, nil, "")
	require.NoError(t, c.Refresh(t.Context()))
	for i := range 5 {
		before, state := c.Current(), c.known.state
		_, err := db.Pool.Exec(t.Context(), `insert into barkeep.rate_bucket (source) values ($1)`, strconv.Itoa(i))
		require.NoError(t, err)
		require.NoError(t, c.Refresh(t.Context()))
		require.Same(t, before, c.Current())
		require.NotEqual(t, state, c.known.state)
		_, err = db.Pool.Exec(t.Context(), `create view public.v`+strconv.Itoa(i)+` as select * from public.ohlcv`)
		require.NoError(t, err)
		require.NoError(t, c.Refresh(t.Context()))
		require.Contains(t, c.Current().Names, "v"+strconv.Itoa(i))
	}
}

func BenchmarkRefresh(b *testing.B) {
	db := dbtest.New(b)
	c := New(db.Pool, nil, "")
	b.Run("nothing committed", func(b *testing.B) {
		for b.Loop() {
			require.NoError(b, c.Refresh(b.Context()))
		}
	})
	b.Run("something committed", func(b *testing.B) {
		for b.Loop() {
			c.known.state = ""
			require.NoError(b, c.Refresh(b.Context()))
		}
	})
}

func TestChunks(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	ctx := t.Context()
	var hypertable bool
	require.NoError(t, db.Pool.QueryRow(ctx, `select exists (select from pg_extension where extname = 'timescaledb')`).Scan(&hypertable))
	if !hypertable {
		return
	}
	_, err := db.Pool.Exec(ctx, `insert into public.ohlcv values ('sim:A', '1m', '2024-01-01Z', 1, 1, 1, 1, 1)`)
	require.NoError(t, err)
	c := New(db.Pool, nil, "")
	require.NoError(t, c.Refresh(ctx))
	var chunk string
	require.NoError(t, db.Pool.QueryRow(ctx, `select relname from pg_class c join pg_inherits i on i.inhrelid = c.oid
		where i.inhparent = 'public.ohlcv'::regclass limit 1`).Scan(&chunk))
	require.Contains(t, c.Current().Names, chunk)
}

func TestAnswer(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	c := New(db.Pool, nil, "")
	env := planner.Env{TimeZone: "Asia/Tokyo", DateStyle: "ISO, DMY", IntervalStyle: "postgres"}
	answers, err := c.Answer(t.Context(), []planner.Question{
		{Key: "a", Under: env.Locale(), SQL: `select extract(epoch from '02/01/2024'::timestamptz)::text`},
		{Key: "b", Under: env.Locale(), SQL: `select '31/31/2024'::timestamptz::text`},
		{Key: "c", Under: env.Locale(), SQL: `select null::text`},
		{Key: "d", Under: env.Locale(), SQL: `select 1/0`},
		{Key: "e", Under: env.Locale(), SQL: `select current_setting('TimeZone')`},
	})
	require.NoError(t, err)
	require.Equal(t, "1704121200.000000", *answers["a"], "January 2nd, midnight in Tokyo")
	require.Equal(t, planner.Failed("22008"), answers["b"])
	require.Nil(t, answers["c"])
	require.Contains(t, answers, "c")
	require.Equal(t, planner.Failed("22012"), answers["d"])
	require.Equal(t, "Asia/Tokyo", *answers["e"])

	again, err := c.Answer(t.Context(), []planner.Question{
		{Key: "zone", SQL: `select current_setting('TimeZone')`},
		{Key: "write", SQL: `create table pg_catalog.never (a int)`},
	})
	require.NoError(t, err)
	require.Equal(t, "UTC", *again["zone"], "settings end with the round trip")
	require.Equal(t, planner.Failed("25006"), again["write"])
}

func TestMayRead(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	ctx := t.Context()
	for _, sql := range []string{
		`drop role if exists catalog_none`, `drop role if exists catalog_some`, `drop role if exists catalog_all`,
		`create role catalog_none`, `create role catalog_some`, `create role catalog_all`,
		`grant select (symbol, ts) on public.ohlcv to catalog_some`, `grant select on public.ohlcv to catalog_all`,
	} {
		_, err := db.Pool.Exec(ctx, sql)
		require.NoError(t, err, sql)
	}
	t.Cleanup(func() {
		for _, role := range []string{"catalog_none", "catalog_some", "catalog_all"} {
			_, _ = db.Pool.Exec(t.Context(), `drop owned by `+role)
		}
	})
	c := New(db.Pool, nil, "")
	cases := []struct {
		role    string
		columns []string
		want    bool
	}{
		{"catalog_none", nil, false},
		{"catalog_none", []string{}, false},
		{"catalog_some", nil, false},
		{"catalog_some", []string{}, true},
		{"catalog_some", []string{"symbol", "ts"}, true},
		{"catalog_some", []string{"symbol", "close"}, false},
		{"catalog_all", nil, true},
		{"catalog_all", []string{"close"}, true},
		{"no such role", nil, false},
	}
	for range 2 { // the second time from memory
		for _, want := range cases {
			got, err := c.MayRead(ctx, want.role, want.columns, "")
			require.NoError(t, err)
			require.Equal(t, want.want, got, "%v", want)
		}
	}
	may, err := c.MayRead(ctx, "catalog_all", nil, "public.nothing")
	require.NoError(t, err)
	require.False(t, may)

	_, err = db.Pool.Exec(ctx, `drop table public.ohlcv`)
	require.NoError(t, err)
	_, err = New(db.Pool, nil, "").MayRead(ctx, "catalog_all", nil, "")
	require.ErrorIs(t, err, NoTableError{})
	_, err = New(db.Pool, nil, "").MayRead(ctx, "no such role", nil, "")
	require.ErrorIs(t, err, NoTableError{})
}

// counted counts what is written to a connection.
type counted struct {
	net.Conn
	writes *atomic.Int64
}

func (c counted) Write(b []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(b)
}

// countedCatalog is a catalog whose pool has one connection, which is open.
func countedCatalog(t *testing.T, listing string) (*Catalog, *atomic.Int64) {
	t.Helper()
	db := dbtest.New(t)
	config := db.Pool.Config()
	config.MaxConns = 1
	writes, dial := &atomic.Int64{}, config.ConnConfig.DialFunc
	config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		return counted{conn, writes}, err
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	require.NoError(t, pool.Ping(t.Context()))
	return New(pool, nil, listing), writes
}

// TestRule9_OneRoundTrip: all questions of a statement go at once, whatever settings they are asked under.
func TestRule9_OneRoundTrip(t *testing.T) {
	t.Parallel()
	c, writes := countedCatalog(t, "select unnest($2::text[]) union select $1 || 'X'")
	tokyo, delhi := planner.Locale{TimeZone: "Asia/Tokyo"}, planner.Locale{TimeZone: "Asia/Kolkata", DateStyle: "ISO, DMY"}
	writes.Store(0)
	answers, err := c.Answer(t.Context(), []planner.Question{
		{Key: "a", Under: tokyo, SQL: `select current_setting('TimeZone')`},
		{Key: "b", Under: delhi, SQL: `select current_setting('TimeZone') || current_setting('DateStyle')`},
		{Key: "c", SQL: `select string_agg(symbol, ',' order by symbol collate "C") from listed`, Listed: &planner.Listing{Prefix: "A", Named: []string{`a"b\`, "{c,d}"}}},
		{Key: "d", Under: tokyo, SQL: `select current_setting('TimeZone') || current_user`},
	})
	require.NoError(t, err)
	require.EqualValues(t, 1, writes.Load())
	require.Equal(t, "Asia/Tokyo", *answers["a"])
	require.Equal(t, "Asia/KolkataISO, DMY", *answers["b"])
	require.Equal(t, `AX,a"b\,{c,d}`, *answers["c"])
	require.Contains(t, *answers["d"], "Asia/Tokyo")
}

// TestRule10_OnlyImmutableResultsAreKept: no other is answered without the database, and no error.
func TestRule10_OnlyImmutableResultsAreKept(t *testing.T) {
	t.Parallel()
	c, writes := countedCatalog(t, "")
	questions := []planner.Question{
		{Key: "immutable", SQL: `select lower('A')`, Immutable: true}, {Key: "null", SQL: `select lower(null)`, Immutable: true},
	}
	for round := range 3 {
		writes.Store(0)
		answers, err := c.Answer(t.Context(), questions)
		require.NoError(t, err)
		require.Equal(t, "a", *answers["immutable"])
		require.Nil(t, answers["null"])
		require.Contains(t, answers, "null")
		require.Equal(t, round == 0, writes.Load() > 0)
	}
	for _, q := range []planner.Question{
		{Key: "stable", SQL: `select clock_timestamp()::text`},
		{Key: "failed", SQL: `select chr(-1)`, Immutable: true},
		{Key: "long", SQL: `select repeat('x', 5000)`, Immutable: true},
	} {
		first, err := c.Answer(t.Context(), []planner.Question{q})
		require.NoError(t, err)
		writes.Store(0)
		second, err := c.Answer(t.Context(), []planner.Question{q})
		require.NoError(t, err)
		require.Positive(t, writes.Load(), q.Key)
		require.Equal(t, q.Key == "stable", *first[q.Key] != *second[q.Key])
	}
}

// TestRule13_CostlyPatterns: what takes long is given up, and the other questions are answered.
func TestRule13_CostlyPatterns(t *testing.T) {
	t.Parallel()
	c, _ := countedCatalog(t, "")
	answers, err := c.Answer(t.Context(), []planner.Question{
		{Key: "costly", SQL: `select pg_sleep(30)::text`}, {Key: "cheap", SQL: `select 'x'`},
	})
	require.NoError(t, err)
	require.Equal(t, planner.Failed("57014"), answers["costly"])
	require.Equal(t, "x", *answers["cheap"])
}
