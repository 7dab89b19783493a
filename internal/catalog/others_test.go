package catalog

import (
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/internal/dbtest"
)

// PLANNER 6: other tables named ohlcv are known by their schemas, as long as nothing is read of the one through any of that name.
func TestOthers(t *testing.T) {
	db := dbtest.New(t)
	c := New(db.Pool, nil, "")
	for _, step := range []struct {
		sql    string
		others map[string]struct{}
	}{
		{"select 1", nil},
		{"create schema app; create table app.ohlcv (symbol text)", map[string]struct{}{"app": {}}},
		{`create schema "Two"; create table "Two".ohlcv (symbol text) partition by list (symbol)`, map[string]struct{}{"app": {}, "Two": {}}},
		{`alter schema "Two" rename to three; create temp table ohlcv (symbol text)`, map[string]struct{}{"app": {}, "three": {}}},
		{"create view public.v as select * from app.ohlcv", map[string]struct{}{"app": {}, "three": {}}},
		{`create schema four; create view four.ohlcv as select * from public.ohlcv`, nil},
		{"drop view four.ohlcv", map[string]struct{}{"app": {}, "three": {}}},
		{"create function app.f() returns trigger language plpgsql as 'begin perform 1 from public.ohlcv; return new; end'; create trigger t before insert on app.ohlcv for each row execute function app.f()", nil},
		{"drop trigger t on app.ohlcv; drop table three.ohlcv", map[string]struct{}{"app": {}}},
		{"alter table app.ohlcv rename to old", nil},
		{"alter table app.old rename to ohlcv; alter table public.ohlcv rename to gone", nil},
	} {
		_, err := db.Pool.Exec(t.Context(), step.sql)
		require.NoError(t, err, step.sql)
		require.NoError(t, c.Refresh(t.Context()))
		require.Equal(t, step.others, c.Current().Others, step.sql)
	}
}
