package schema_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"barkeep/internal/dbtest"
	"barkeep/internal/schema"
)

// TestRule19_LifeNamesTheDatabase: a database's life is named by its OID and the start of its server, also in a tablespace of its own, and
// whatever a session has set.
func TestRule19_LifeNamesTheDatabase(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	name := pgx.Identifier{db.Pool.Config().ConnConfig.Database + "_moved"}.Sanitize()
	conn, err := pgx.Connect(t.Context(), db.URL)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		for _, sql := range []string{"drop database if exists " + name, "drop tablespace if exists " + name} {
			_, err := conn.Exec(ctx, sql)
			require.NoError(t, err)
		}
		require.NoError(t, conn.Close(ctx))
	})
	for _, sql := range []string{
		"set allow_in_place_tablespaces = on", "create tablespace " + name + " location ''",
		"create database " + name + " template template0 tablespace " + name,
	} {
		_, err := conn.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	moved, err := pgx.ParseConfig(db.URL)
	require.NoError(t, err)
	moved.Database += "_moved"
	in, err := pgx.ConnectConfig(t.Context(), moved)
	require.NoError(t, err)
	lives := map[string]bool{}
	for _, each := range []*pgx.Conn{conn, in} {
		_, err := each.Exec(t.Context(), "set timezone = 'Asia/Kathmandu'; set datestyle = 'SQL, DMY'; set extra_float_digits = -15; set search_path = pg_temp")
		require.NoError(t, err)
		var life, want string
		require.NoError(t, each.QueryRow(t.Context(), "select "+schema.Life+`, (select concat_ws(' ', extract(epoch from pg_postmaster_start_time()), oid)
			from pg_database where datname = current_database())`).Scan(&life, &want))
		require.Equal(t, want, life)
		lives[life] = true
	}
	require.Len(t, lives, 2)
	require.NoError(t, in.Close(t.Context()))
}
