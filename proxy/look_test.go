package proxy

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"barkeep/internal/dbtest"
)

// PLANNER 19: where the plain look says that there is nothing behind the names of a question, the whole one finds nothing; and it says so
// of what nearly every question names, which would cost a plan of the whole look else.
func TestRule19_PlainLook(t *testing.T) {
	conn, err := pgx.Connect(t.Context(), dbtest.New(t).URL)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(t.Context())) }()
	exec := func(sql string) {
		t.Helper()
		_, err := conn.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err, sql)
	}
	exec(`create table plain (s text, n int); create table parts (s text) partition by list (s); create materialized view kept as select s from plain;
		create view seen as select s from plain; create table guarded (s text); alter table guarded enable row level security;
		create table other (s text); create policy p on other using (s = 'x'); create sequence counted; create schema elsewhere; create table elsewhere.far (s text);
		create temp table passing (s text); create table ruled (s text); create rule r as on update to ruled do also nothing;
		create function chosen() returns text language sql as $$ select 'x' $$; create function label(plain) returns text language sql as $$ select 'x' $$;
		create function same(text, text) returns boolean language sql as 'select true'; create operator === (leftarg = text, rightarg = text, function = same)`)
	none := []string{}
	for name, c := range map[string]struct {
		relations, functions, columns, operators, targets []string
		plain                                             bool
	}{
		"a table":             {[]string{"plain"}, []string{"max", "lower"}, []string{"s", "symbol"}, []string{"=", "<>", "~~"}, none, true},
		"two":                 {[]string{"plain", `elsewhere."far"`}, none, []string{"s"}, none, none, true},
		"partitions":          {[]string{"parts"}, none, []string{"s"}, none, none, true},
		"a materialized view": {[]string{"kept"}, none, []string{"s"}, none, none, true},
		"a temporary table":   {[]string{"passing"}, none, []string{"s"}, none, none, true},
		"nothing":             {none, none, none, none, none, true},
		"no such table":       {[]string{"gone"}, none, []string{"s"}, none, none, true},
		"a policy off":        {[]string{"other"}, none, []string{"s"}, none, none, true},
		"row security":        {[]string{"plain", "guarded"}, none, []string{"s"}, none, none, false},
		"a view":              {[]string{"seen"}, none, []string{"s"}, none, none, false},
		"a sequence":          {[]string{"counted"}, none, none, none, none, false},
		"a function":          {[]string{"plain"}, []string{"chosen"}, []string{"s"}, none, none, false},
		"a function's column": {[]string{"plain"}, none, []string{"s", "label"}, none, none, false},
		"a table written":     {[]string{"plain"}, none, []string{"s"}, []string{"="}, []string{"other"}, true},
		"a view written":      {[]string{"plain"}, none, []string{"s"}, none, []string{"seen"}, false},
		"a table with a rule": {[]string{"plain"}, none, []string{"s"}, none, []string{"ruled"}, false},
		"an operator":         {[]string{"plain"}, none, []string{"s"}, []string{"==="}, none, false},
	} {
		t.Run(name, func(t *testing.T) {
			look := func() (plain bool, found []string) {
				require.NoError(t, conn.QueryRow(t.Context(), plainSQL, c.relations, c.functions, c.columns, c.operators, c.targets).Scan(&plain))
				rows, err := conn.Query(t.Context(), lookSQL, c.relations, c.functions, c.columns, c.operators, c.targets, false)
				require.NoError(t, err)
				found, err = pgx.CollectRows(rows, pgx.RowTo[string])
				require.NoError(t, err)
				return plain, found
			}
			plain, found := look()
			require.Equal(t, c.plain, plain)
			if plain {
				require.Empty(t, found)
			}
			// A user's cast is called where nothing names it.
			exec("create type mixed as (a text); create function toss(mixed) returns text language sql as $$ select 'x' $$; create cast (mixed as text) with function toss(mixed)")
			plain, found = look()
			require.False(t, plain)
			require.Contains(t, found, "nit calls toss")
			exec("drop type mixed cascade")
		})
	}
}
