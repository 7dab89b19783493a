package schema_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"barkeep/internal/dbtest"
	"barkeep/internal/schema"
)

func connect(t *testing.T, address string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func sqlState(err error) string {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgErr.Code
	}
	return ""
}

func TestConcurrentMigrate(t *testing.T) {
	address := dbtest.Empty(t)
	other := dbtest.Empty(t)
	group, ctx := errgroup.WithContext(t.Context())
	for i := range 8 {
		target := []string{address, other}[i%2]
		group.Go(func() error {
			conn, err := pgx.Connect(ctx, target)
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
			return schema.Migrate(ctx, conn)
		})
	}
	require.NoError(t, group.Wait())
	var deployments int
	require.NoError(t, connect(t, address).QueryRow(t.Context(), "select count(*) from barkeep.deployment").Scan(&deployments))
	require.Equal(t, 1, deployments)
}

// TestDroppedTable: a start on a database without ohlcv says so.
func TestDroppedTable(t *testing.T) {
	conn := connect(t, dbtest.New(t).URL)
	require.NoError(t, schema.Migrate(t.Context(), conn))
	_, err := conn.Exec(t.Context(), "drop table public.ohlcv")
	require.NoError(t, err)
	require.ErrorContains(t, schema.Migrate(t.Context(), conn), "public.ohlcv was dropped")
}

func TestHypertableWhereOffered(t *testing.T) {
	db := dbtest.New(t)
	conn := connect(t, db.URL)
	var offered bool
	require.NoError(t, conn.QueryRow(t.Context(), `select exists (select from pg_available_extensions where name = 'timescaledb')
		and exists (select from pg_settings where name like 'timescaledb.%')`).Scan(&offered))
	hyper, err := schema.Hypertable(t.Context(), conn)
	require.NoError(t, err)
	require.Equal(t, offered, hyper)

	hyper, err = schema.Hypertable(t.Context(), connect(t, dbtest.NewPlain(t).URL))
	require.NoError(t, err)
	require.False(t, hyper)
}

// The sequence: chunks of a week (TimescaleDB's default) over fourteen years are 778, of which one full read takes 1,560 locks; eighty such at
// once exhaust the server's shared memory.
func TestRule23_ChunksAreOfAYear(t *testing.T) {
	conn := connect(t, dbtest.New(t).URL)
	hyper, err := schema.Hypertable(t.Context(), conn)
	require.NoError(t, err)
	if !hyper {
		t.Skip("no TimescaleDB")
	}
	var days int
	require.NoError(t, conn.QueryRow(t.Context(), `select extract(day from time_interval)::integer from timescaledb_information.dimensions
		where hypertable_schema = 'public' and hypertable_name = 'ohlcv' and column_name = 'ts'`).Scan(&days))
	require.Equal(t, 365, days)
}

const insertBar = `insert into public.ohlcv values ('sim:X', '1m', '2024-01-01Z', 1, 2, 1, 2, 3)`

func TestRule8_GuardRefusesASuperuser(t *testing.T) {
	for name, open := range map[string]func(testing.TB) *dbtest.DB{"hypertable": dbtest.New, "plain": dbtest.NewPlain} {
		t.Run(name, func(t *testing.T) {
			db := open(t)
			_, err := db.Pool.Exec(t.Context(), insertBar)
			require.NoError(t, err)
			conn := connect(t, db.URL)
			for _, statement := range []string{
				insertBar,
				"update ohlcv set close = 1", "delete from ohlcv", "delete from ohlcv where false", "truncate ohlcv",
				"insert into ohlcv select * from ohlcv where false",
				"merge into ohlcv o using (values ('a')) v(s) on o.symbol = v.s when not matched then insert values ('a', '1m', now(), 1, 1, 1, 1, 1)",
			} {
				_, err := conn.Exec(t.Context(), statement)
				require.Equal(t, "42501", sqlState(err), statement)
			}
			_, err = conn.PgConn().CopyFrom(t.Context(), strings.NewReader("a\t1m\t2024-01-01\t1\t1\t1\t1\t1\n"), "copy ohlcv from stdin")
			require.Equal(t, "42501", sqlState(err))
		})
	}
}

// TestRule8_WhatGoesPastTheGuard is what docs/operations.md says that the guard does not see.
func TestRule8_WhatGoesPastTheGuard(t *testing.T) {
	db := dbtest.New(t)
	conn := connect(t, db.URL)
	var chunks bool
	require.NoError(t, conn.QueryRow(t.Context(), "select to_regclass('_timescaledb_catalog.chunk') is not null").Scan(&chunks))
	if !chunks {
		t.Skip("the server has no TimescaleDB, so there are no chunks")
	}
	_, err := db.Pool.Exec(t.Context(), insertBar)
	require.NoError(t, err)
	var chunk string
	require.NoError(t, conn.QueryRow(t.Context(), "select show_chunks('public.ohlcv')::text").Scan(&chunk))
	for _, statement := range []string{
		"update " + chunk + " set close = open", "delete from " + chunk, "truncate " + chunk,
		"set session_replication_role = replica", insertBar, "update ohlcv set close = open", "delete from ohlcv", "truncate ohlcv",
		"reset session_replication_role", "select drop_chunks('public.ohlcv', older_than => now())",
	} {
		_, err := conn.Exec(t.Context(), statement)
		require.NoError(t, err, statement)
	}
}

// TestRule8_GuardAsksForTheRole: the setting alone, which everyone can make, opens nothing.
func TestRule8_GuardAsksForTheRole(t *testing.T) {
	db := dbtest.New(t)
	role := newRole(t, db.URL, "")
	admin := connect(t, db.URL)
	_, err := admin.Exec(t.Context(), "grant all on public.ohlcv to "+role)
	require.NoError(t, err)
	user := connect(t, asRole(t, db.URL, role))
	_, err = user.Exec(t.Context(), "set barkeep.maintenance = on")
	require.NoError(t, err)
	_, err = user.Exec(t.Context(), insertBar)
	require.Equal(t, "42501", sqlState(err))
	_, err = admin.Exec(t.Context(), "grant barkeep_service to "+role)
	require.NoError(t, err)
	_, err = user.Exec(t.Context(), insertBar)
	require.NoError(t, err)
}

// TestRule8_GuardRefusesTheOwner: owning the table is not the service role either.
func TestRule8_GuardRefusesTheOwner(t *testing.T) {
	db := dbtest.New(t)
	role := newRole(t, db.URL, "")
	admin := connect(t, db.URL)
	_, err := admin.Exec(t.Context(), "grant usage, create on schema public, barkeep to "+role+"; alter table public.ohlcv owner to "+role)
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := admin.Exec(context.WithoutCancel(t.Context()), "reassign owned by "+role+" to current_user; drop owned by "+role)
		require.NoError(t, err)
	})
	user := connect(t, asRole(t, db.URL, role))
	for _, setting := range []string{"off", "on"} {
		_, err = user.Exec(t.Context(), "set barkeep.maintenance = "+setting)
		require.NoError(t, err)
		for _, statement := range []string{insertBar, "update ohlcv set close = 1", "delete from ohlcv", "truncate ohlcv"} {
			_, err := user.Exec(t.Context(), statement)
			require.Equal(t, "42501", sqlState(err), statement)
			require.ErrorContains(t, err, "barkeep: ", "it is the guard that refuses")
		}
	}
}

func TestReader(t *testing.T) {
	db := dbtest.New(t)
	role := newRole(t, db.URL, "in role barkeep_reader")
	user := connect(t, asRole(t, db.URL, role))
	for _, relation := range []string{"ohlcv", "barkeep.jobs", "barkeep.symbols", "barkeep.segments", "barkeep.coverage"} {
		_, err := user.Exec(t.Context(), "select * from "+relation)
		require.NoError(t, err, relation)
	}
	for _, statement := range []string{"select * from barkeep.quota", "insert into barkeep.symbol values ('a', 'b', 'c')", insertBar} {
		_, err := user.Exec(t.Context(), statement)
		require.Equal(t, "42501", sqlState(err), statement)
	}
}

func TestCancelJob(t *testing.T) {
	db := dbtest.New(t)
	role := newRole(t, db.URL, "in role barkeep_reader")
	mine, other := uuid.NewString(), uuid.NewString()
	for id, by := range map[string]string{mine: role, other: "somebody"} {
		_, err := db.Pool.Exec(t.Context(), `insert into barkeep.job(id, symbol, timeframe, range_start, range_end, source, generation, asked_by)
			values ($1, 'a', '1m', '2024-01-01Z', '2024-01-02Z', 'sim', 1, $2)`, id, by)
		require.NoError(t, err)
	}
	user := connect(t, asRole(t, db.URL, role))
	var ok bool
	require.NoError(t, user.QueryRow(t.Context(), "select barkeep.cancel_job($1)", mine).Scan(&ok))
	require.True(t, ok)
	require.NoError(t, user.QueryRow(t.Context(), "select barkeep.cancel_job($1)", other).Scan(&ok))
	require.False(t, ok)
}

func TestDefaultsAreKept(t *testing.T) {
	db := dbtest.New(t)
	conn := connect(t, db.URL)
	for _, d := range schema.Defaults() {
		var have string
		require.NoError(t, conn.QueryRow(t.Context(), "select current_setting($1)", d.Name).Scan(&have))
		require.Equal(t, d.Value, have)
	}
	_, err := conn.Exec(t.Context(), fmt.Sprintf("alter database %s set barkeep.mode = 'stored'", conn.Config().Database))
	require.NoError(t, err)
	require.NoError(t, schema.Migrate(t.Context(), conn))
	var mode string
	require.NoError(t, connect(t, db.URL).QueryRow(t.Context(), "show barkeep.mode").Scan(&mode))
	require.Equal(t, "stored", mode)
}

// TestMigrateAsOwner: whoever is not a superuser is told, right by right, what an administrator has to do once.
func TestMigrateAsOwner(t *testing.T) {
	dbtest.New(t) // the roles exist
	address := dbtest.Empty(t)
	role := newRole(t, address, "")
	conn := connect(t, asRole(t, address, role))
	err := schema.Migrate(t.Context(), conn)
	var rights *schema.RightsError
	require.ErrorAs(t, err, &rights)
	require.Contains(t, err.Error(), "grant barkeep_service to")

	admin := connect(t, address)
	_, err = admin.Exec(t.Context(), "grant barkeep_service to "+role)
	require.NoError(t, err)
	err = schema.Migrate(t.Context(), conn)
	require.ErrorAs(t, err, &rights)
	require.Contains(t, err.Error(), "alter database")
	require.Equal(t, "42501", rights.SQLState())

	_, err = admin.Exec(t.Context(), "alter database "+conn.Config().Database+" owner to "+role)
	require.NoError(t, err)
	err = schema.Migrate(t.Context(), conn)
	require.ErrorAs(t, err, &rights)
	require.Contains(t, rights.Remedy, "set barkeep.mode = 'wait'")
	_, err = admin.Exec(t.Context(), rights.Remedy)
	require.NoError(t, err)
	require.NoError(t, schema.Migrate(t.Context(), conn))
	_, err = conn.Exec(t.Context(), "set barkeep.maintenance = on; "+insertBar)
	require.NoError(t, err)
}

// TestTimeBucket compares the stand-in with TimescaleDB's own, where the server has it.
func TestTimeBucket(t *testing.T) {
	plain := connect(t, dbtest.NewPlain(t).URL)
	hyperDB := dbtest.New(t)
	hyper := connect(t, hyperDB.URL)
	isHyper, err := schema.Hypertable(t.Context(), hyper)
	require.NoError(t, err)
	for _, width := range []string{"1 minute", "7 minutes", "1 hour", "36 hours", "1 day", "3 days", "1 week", "1 month", "3 months", "1 year", "7 years"} {
		for _, at := range []string{"2024-02-29 23:59:59.5Z", "2000-01-01Z", "2000-01-03Z", "1999-12-31 12:00Z", "1970-01-01Z", "2026-03-29 02:30+02"} {
			const query = "select time_bucket($1::text::interval, $2::text::timestamptz)"
			var got, want time.Time
			require.NoError(t, plain.QueryRow(t.Context(), query, width, at).Scan(&got), "%s %s", width, at)
			if isHyper {
				require.NoError(t, hyper.QueryRow(t.Context(), query, width, at).Scan(&want), "%s %s", width, at)
				require.True(t, want.Equal(got), "%s %s: %s, want %s", width, at, got, want)
			}
		}
	}
	for _, width := range []string{"1 month 1 day", "0 days", "-1 hour"} {
		_, err := plain.Exec(t.Context(), "select time_bucket($1::text::interval, now())", width)
		require.Error(t, err, width)
	}
}

func TestServiceSettings(t *testing.T) {
	db := dbtest.New(t)
	for name, want := range map[string]string{"search_path": "pg_catalog", "timezone": "UTC", "barkeep.maintenance": "on", "application_name": "barkeep"} {
		var have string
		require.NoError(t, db.Pool.QueryRow(t.Context(), "select current_setting($1)", name).Scan(&have))
		require.Equal(t, want, have)
	}
}

// TestNewerSchema: an older barkeep leaves a newer database alone.
func TestNewerSchema(t *testing.T) {
	db := dbtest.New(t)
	_, err := db.Pool.Exec(t.Context(), "insert into barkeep.migration (number, name, sum) values (1000, '1000_later.sql', '')")
	require.NoError(t, err)
	require.ErrorContains(t, schema.Migrate(t.Context(), connect(t, db.URL)), "1000_later.sql, which this barkeep does not know: use a newer barkeep")
}

// TestChangedMigration: a migration of another text than was applied is an error, and nothing is written.
func TestChangedMigration(t *testing.T) {
	db := dbtest.New(t)
	_, err := db.Pool.Exec(t.Context(), "update barkeep.migration set sum = repeat('0', 64) where number = 2; delete from barkeep.migration where number = 1")
	require.NoError(t, err)
	err = schema.Migrate(t.Context(), connect(t, db.URL))
	var changed *schema.ChangedError
	require.ErrorAs(t, err, &changed)
	require.Equal(t, "002_guards.sql", changed.Migration)
	require.ErrorContains(t, err, "give this one a new database or data_dir")
	var first bool
	require.NoError(t, db.Pool.QueryRow(t.Context(), "select exists (select from barkeep.migration where number = 1)").Scan(&first))
	require.False(t, first)
}

func newRole(t *testing.T, address, options string) string {
	t.Helper()
	role := "barkeep_t_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	admin := connect(t, address)
	_, err := admin.Exec(t.Context(), "create role "+role+" login "+options)
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := admin.Exec(context.Background(), "reassign owned by "+role+" to current_user; drop owned by "+role+"; drop role "+role)
		if err != nil {
			t.Logf("drop role: %v", err)
		}
	})
	return role
}

func asRole(t *testing.T, address, role string) string {
	t.Helper()
	u, err := url.Parse(address)
	require.NoError(t, err)
	u.User = url.User(role)
	return u.String()
}

// TestMigrateOnServiceConnection: its search_path names no place to create in.
func TestMigrateOnServiceConnection(t *testing.T) {
	config, err := schema.ConnectConfig(dbtest.Empty(t))
	require.NoError(t, err)
	conn, err := pgx.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	require.NoError(t, schema.Migrate(t.Context(), conn))
	require.NoError(t, schema.Migrate(t.Context(), conn))
	_, err = conn.Exec(t.Context(), insertBar)
	require.NoError(t, err)
}
