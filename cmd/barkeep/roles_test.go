package main

import (
	"context"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"barkeep/internal/dbtest"
	"barkeep/internal/schema"
)

// as is the address for another user.
func as(t *testing.T, address, user string) string {
	t.Helper()
	u, err := url.Parse(address)
	require.NoError(t, err)
	u.User = url.User(user)
	return u.String()
}

// connected is a session at the address, for as long as the test.
func connected(t *testing.T, address string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// loginRoles makes an owner of the database, a service and a reader, none of them a superuser, as docs/operations.md says under Rights.
func loginRoles(t *testing.T, admin *pgx.Conn) (owner, service, reader string) {
	t.Helper()
	database := admin.Config().Database
	suffix := strings.ReplaceAll(uuid.NewString(), "-", "")
	owner, service, reader = "barkeep_o_"+suffix, "barkeep_s_"+suffix, "barkeep_r_"+suffix
	for _, sql := range []string{
		"create role " + owner + " login in role barkeep_service",
		"create role " + service + " login in role barkeep_service",
		"create role " + reader + " login in role barkeep_reader",
		"alter database " + database + " owner to " + owner,
		"grant execute on function pg_hba_file_rules() to barkeep_service",
		"grant select on pg_hba_file_rules to barkeep_service",
	} {
		mustExec(t, admin, sql)
	}
	for _, d := range schema.Defaults() {
		mustExec(t, admin, "alter database "+database+" set "+d.Name+" = '"+d.Value+"'")
	}
	t.Cleanup(func() {
		for _, role := range []string{owner, service, reader} {
			_, _ = admin.Exec(context.Background(), "reassign owned by "+role+" to current_user")
			_, _ = admin.Exec(context.Background(), "drop owned by "+role)
			_, err := admin.Exec(context.Background(), "drop role "+role)
			require.NoError(t, err)
		}
	})
	return owner, service, reader
}

// TestLeastPrivilege: the owner migrates; all parts run as a login role that is a member of barkeep_service and nothing else; a member of
// barkeep_reader gets its bars. None of the three is a superuser, and neither of the last two can do more.
func TestLeastPrivilege(t *testing.T) {
	t.Parallel()
	dbtest.New(t) // the two roles exist
	address := dbtest.Empty(t)
	admin := connected(t, address)
	owner, service, reader := loginRoles(t, admin)
	require.NoError(t, migrate(t.Context(), as(t, address, owner)))
	s := startStack(t, t.TempDir(), func(c *Config) { c.Upstream.URL = as(t, address, service) })

	target := s.app.pool.Config().ConnConfig
	require.Equal(t, service, target.User)
	client := connected(t, "postgres://"+reader+"@"+s.addr+"/"+target.Database+"?sslmode=disable")
	count := func(from, to string) (bars int, err error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err = client.QueryRow(ctx, `select count(*) from ohlcv where symbol = 'sim:BTCUSD' and timeframe = '1m' and ts >= $1::text::timestamptz and ts < $2::text::timestamptz`,
			from, to).Scan(&bars)
		return bars, err
	}
	bars, err := count("2024-01-01Z", "2024-01-03Z")
	require.NoError(t, err)
	require.Equal(t, 2880, bars)
	var weeks int // a roll-up
	require.NoError(t, client.QueryRow(t.Context(), `select count(*) from ohlcv where symbol = 'sim:ETHUSD' and timeframe = '1w' and ts >= '2024-01-01Z' and ts < '2024-02-05Z'`).Scan(&weeks))
	require.Equal(t, 5, weeks)
	var sessions int
	require.NoError(t, client.QueryRow(t.Context(), `select count(*) from barkeep.session where username = $1`, reader).Scan(&sessions))
	require.Equal(t, 1, sessions)

	mustExec(t, connected(t, as(t, address, owner)), "insert into barkeep.quota (role, max_bars) values ('barkeep_reader', 1000)")
	for day := time.Date(2024, 3, 1, 0, 0, 0, 0, time.UTC); err == nil && day.Year() == 2024; day = day.AddDate(0, 0, 2) { // until it is no longer believed that there is none
		_, err = count(day.Format(time.RFC3339), day.AddDate(0, 0, 1).Format(time.RFC3339))
	}
	require.Equal(t, "54000", sqlState(err))
	require.ErrorContains(t, err, "max_bars = 1000 (barkeep.quota, row barkeep_reader)")

	straight := map[string]*pgx.Conn{service: connected(t, as(t, address, service)), reader: connected(t, as(t, address, reader))}
	mustExec(t, straight[service], "set barkeep.maintenance = on")
	for sql, who := range map[string][]string{
		"create table public.mine ()": {service, reader}, "create table barkeep.mine ()": {service, reader}, "drop table public.ohlcv": {service, reader},
		"truncate public.ohlcv": {service, reader}, "truncate barkeep.coverage": {service, reader}, "update barkeep.deployment set created_at = now()": {service, reader},
		"update barkeep.quota set jobs = 1": {service, reader}, "insert into barkeep.migration (number, name, sum) values (0, '', '')": {service, reader},
		"create role made": {service, reader}, "select * from pg_authid": {service, reader}, "alter table public.ohlcv disable trigger barkeep_guard": {service, reader},
		"delete from public.ohlcv": {reader}, "delete from barkeep.coverage": {reader}, "update barkeep.symbol set version = 0": {reader},
		"insert into barkeep.job select * from barkeep.job": {reader}, "select * from barkeep.quota": {reader}, "select barkeep.verifier('x')": {reader},
	} {
		for _, role := range who {
			_, err := straight[role].Exec(t.Context(), sql)
			require.Contains(t, []string{"42501"}, sqlState(err), "%s as %s: %v", sql, role, err)
		}
	}
}

// TestServiceDoesNotMigrate: a service that finds a migration missing says who has to apply it.
func TestServiceDoesNotMigrate(t *testing.T) {
	t.Parallel()
	dbtest.New(t)
	address := dbtest.Empty(t)
	admin := connected(t, address)
	owner, service, _ := loginRoles(t, admin)
	err := migrate(t.Context(), as(t, address, service))
	require.Equal(t, "42501", sqlState(err))
	require.ErrorContains(t, err, "the role that migrates must be able to create schemas and tables in this database")
	require.NoError(t, migrate(t.Context(), as(t, address, owner)))
	mustExec(t, admin, "delete from barkeep.migration where number = (select max(number) from barkeep.migration)")
	err = migrate(t.Context(), as(t, address, service))
	require.Equal(t, "42501", sqlState(err))
	require.ErrorContains(t, err, "the role that migrates must be able to create tables in the schemas public and barkeep")
}
