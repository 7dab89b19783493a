package schema_test

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"barkeep/internal/dbtest"
	"barkeep/internal/schema"
)

var update = flag.Bool("update", false, "write made.txt anew")

func items(t *testing.T, conn *pgx.Conn) []string {
	t.Helper()
	list, err := schema.Inventory(t.Context(), conn)
	require.NoError(t, err)
	return list
}

// TestMade: made.txt is what the migrations make. Should this fail after an edit of one of them, the edit is wrong: databases have it.
func TestMade(t *testing.T) {
	conn, have := connect(t, dbtest.Empty(t)), map[string]bool{}
	var lines []string
	for number := 1; number <= schema.Unsummed; number++ {
		require.NoError(t, schema.MigrateTo(t.Context(), conn, number, false, nil))
		var added []string
		for _, item := range items(t, conn) {
			if !have[item] {
				added = append(added, fmt.Sprintf("%d %s\n", number, item))
				have[item] = true
			}
		}
		slices.Sort(added)
		lines = append(lines, added...)
	}
	require.Len(t, items(t, conn), len(lines), "no migration takes away what another has made")
	if *update {
		require.NoError(t, os.WriteFile("made.txt", []byte(strings.Join(lines, "")), 0o600))
		return
	}
	require.Equal(t, strings.Join(lines, ""), schema.Made())
}

// TestAdopt: a database whose migrations were not written down is taken for what it is where it can be known: every version of before.
func TestAdopt(t *testing.T) {
	for version := range schema.Unsummed + 1 {
		hyper := version == schema.Unsummed
		conn := connect(t, dbtest.Empty(t))
		before := "create schema barkeep; create table barkeep.schema_version (version int4 not null)"
		if version > 0 {
			require.NoError(t, schema.MigrateTo(t.Context(), conn, version, hyper, nil))
			before = "drop table barkeep.migration; truncate barkeep.schema_version"
		}
		_, err := conn.Exec(t.Context(), before)
		require.NoError(t, err)
		require.ErrorIs(t, schema.MigratePlain(t.Context(), conn), schema.ErrNoVersion)
		_, err = conn.Exec(t.Context(), "insert into barkeep.schema_version values ($1)", version)
		require.NoError(t, err)
		require.NoError(t, schema.MigratePlain(t.Context(), conn), version)
		have, want, err := schema.Sums(t.Context(), conn)
		require.NoError(t, err)
		require.Equal(t, want, have)
		require.NoError(t, schema.MigratePlain(t.Context(), conn))
	}
}

// TestAdoptOfAnother: a database that lacks something of what its version takes was made by a migration of another text; the first
// such, and what it lacks, are named.
func TestAdoptOfAnother(t *testing.T) {
	const applied = " was applied to this database with another text (it lacks: "
	for _, c := range []struct{ damage, want string }{
		{"drop function barkeep.lost_chunks()", "001_tables.sql" + applied + "function barkeep.lost_chunks()"},
		{"drop view barkeep.jobs; alter table barkeep.job alter bars_done type integer", "001_tables.sql" + applied + "column barkeep.job.bars_done bigint not null)"},
		{"alter function barkeep.cancel(integer) rename to ending", "005_sessions.sql" + applied + "function barkeep.cancel(pid integer)"},
		{"create or replace function barkeep.guard() returns trigger language plpgsql as 'begin return null; end'", "002_guards.sql" + applied + "function barkeep.guard()"},
	} {
		conn := connect(t, dbtest.NewPlain(t).URL)
		_, err := conn.Exec(t.Context(), "drop table barkeep.migration; update barkeep.schema_version set version = 5; "+c.damage)
		require.NoError(t, err, c.damage)
		err = schema.MigratePlain(t.Context(), conn)
		var changed *schema.ChangedError
		require.ErrorAs(t, err, &changed, c.damage)
		require.ErrorContains(t, err, c.want)
		var there bool
		require.NoError(t, conn.QueryRow(t.Context(), "select to_regclass('barkeep.migration') is not null").Scan(&there))
		require.False(t, there, "nothing was changed")
	}
	conn := connect(t, dbtest.NewPlain(t).URL)
	_, err := conn.Exec(t.Context(), "drop table barkeep.migration; update barkeep.schema_version set version = 1000")
	require.NoError(t, err)
	require.ErrorContains(t, schema.MigratePlain(t.Context(), conn), "use a newer barkeep")
}

// TestLowerNumberLater: a migration that was written at the same time as one of a higher number comes after it as well.
func TestLowerNumberLater(t *testing.T) {
	conn := connect(t, dbtest.Empty(t))
	require.NoError(t, schema.MigrateTo(t.Context(), conn, 1, false, map[int]string{902: "create table barkeep.b ()"}))
	require.NoError(t, schema.MigrateTo(t.Context(), conn, 1, false, map[int]string{901: "create table barkeep.a ()", 902: "create table barkeep.b ()"}))
	have, _, err := schema.Sums(t.Context(), conn)
	require.NoError(t, err)
	require.Len(t, have, 3)
	var version int
	require.NoError(t, conn.QueryRow(t.Context(), "select version from barkeep.schema_version where to_regclass('barkeep.a') is not null").Scan(&version))
	require.Equal(t, 902, version)
}

// TestFailedMigration leaves nothing of itself, and is applied anew.
func TestFailedMigration(t *testing.T) {
	conn := connect(t, dbtest.Empty(t))
	err := schema.MigrateTo(t.Context(), conn, 1, false, map[int]string{901: "create table barkeep.a (); select 1/0"})
	require.ErrorContains(t, err, "apply 901_other.sql: ")
	require.NoError(t, schema.MigrateTo(t.Context(), conn, 1, false, map[int]string{901: "create table barkeep.a ()"}))
	have, _, err := schema.Sums(t.Context(), conn)
	require.NoError(t, err)
	require.Len(t, have, 2)
}
