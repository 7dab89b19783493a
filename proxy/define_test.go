package proxy

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/internal/catalog"
	"barkeep/internal/pgtest"
	"barkeep/planner"
)

// fresh is the catalog as cmd has it: it looks where something may have changed, and is not polled here.
type fresh struct {
	*catalog.Catalog
	ctx context.Context
}

func (f fresh) Current() *planner.Catalog { return f.Fresh(f.ctx) }

func startFresh(t *testing.T) (*bar, *catalog.Catalog) {
	t.Helper()
	var names *catalog.Catalog
	b := start(t, func(cfg *Config) {
		names, _ = cfg.Catalog.(*catalog.Catalog)
		cfg.Catalog = fresh{names, t.Context()}
	})
	return b, names
}

// TestRule3_ADefinitionIsKnownToWhoeverComesAfterIt: what one session has defined is planned for another that comes after the answer,
// however it was defined. Then nobody looks any more: a definition costs one look, not one for each statement.
func TestRule3_ADefinitionIsKnownToWhoeverComesAfterIt(t *testing.T) {
	t.Parallel()
	const (
		view = "create view late as select * from public.ohlcv"
		// What follows defines it out of sight.
		call      = "create function public.make_it() returns int language plpgsql as 'begin execute ''create view late as select * from public.oh'' || ''lcv''; return 1; end'"
		run       = "create function public.run_it(text) returns int language plpgsql as 'begin execute translate($1, ''_'', '' ''); return 1; end'"
		spaceless = "create_view_late_as_select_*_from_public.ohlcv"
		triggers  = "create table public.orders (sql text); create function public.obey() returns trigger language plpgsql as 'begin execute translate(new.sql, ''_'', '' ''); return new; end'; " +
			"create trigger obey before insert on public.orders for each row execute function public.obey()"
	)
	for name, script := range map[string]string{
		"a Query":                      "Q " + view + "\nwait Z",
		"several in a Query":           "Q select 1; " + view + "; select 2\nwait Z",
		"a block":                      "Q begin\nwait Z\nQ " + view + "\nwait Z\nQ select 1\nwait Z\nQ commit\nwait Z",
		"a block, pipelined":           "Q begin\nQ " + view + "\nQ commit\nwait Z 3",
		"a block that goes on":         "Q begin\nwait Z\nQ " + view + "\nwait Z\nQ commit and chain\nwait Z\nQ select 1\nwait Z",
		"a block in a Query":           "Q begin; " + view + "; commit; select 1\nwait Z",
		"a savepoint":                  "Q begin; savepoint s\nwait Z\nQ " + view + "\nwait Z\nQ release s\nwait Z\nQ end\nwait Z",
		"extended":                     "P - " + view + "\nB - -\nE -\nS\nwait Z",
		"extended, flushed":            "P - " + view + "\nB - -\nE -\nH\nwait C\nS\nwait Z",
		"extended, a block":            "P - begin\nB - -\nE -\nP - " + view + "\nB - -\nE -\nP - commit\nB - -\nE -\nS\nwait Z",
		"extended, a block of many":    "P - begin\nB - -\nE -\nS\nP - " + view + "\nB - -\nE -\nS\nP - commit\nB - -\nE -\nS\nwait Z 3",
		"extended, a prepared commit":  "P end commit\nS\nwait Z\nQ begin; " + view + "\nwait Z\nB - end\nE -\nS\nwait Z",
		"extended, a portal":           "Q begin\nwait Z\nP - " + view + "\nB p -\nS\nwait Z\nE p\nS\nwait Z\nQ commit\nwait Z",
		"a function":                   "Q " + call + "\nwait Z\nQ select public.make_it()\nwait Z",
		"a function in a block":        "Q " + call + "\nwait Z\nQ begin\nwait Z\nQ select public.make_it()\nwait Z\nQ commit\nwait Z",
		"a function, extended":         "Q " + call + "\nwait Z\nP - select public.make_it()\nB - -\nE -\nS\nwait Z",
		"a function that is handed it": "Q " + run + "\nwait Z\nQ set barkeep.mode = stored\nwait Z\nP - select public.run_it($1)\nB - - " + spaceless + "\nE -\nS\nwait Z",
		"a trigger":                    "Q " + triggers + "\nwait Z\nP - insert into public.orders values ($1)\nB - - " + spaceless + "\nE -\nS\nwait Z",
		"behind another in a pipeline": "Q create table other ()\nQ " + view + "\nwait Z 2",
		"before another in a pipeline": "Q " + view + "\nQ create table other ()\nwait Z 2",
		"behind an error":              "Q select 1/0\nwait Z\nQ " + view + "\nwait Z",
		"behind a failed segment":      "P - select 1/0\nB - -\nE -\nP - create table other ()\nB - -\nE -\nS\nwait Z\nQ " + view + "\nwait Z",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, names := startFresh(t)
			got, err := pgtest.Seen(t.Context(), b.url, script)
			require.NoError(t, err, got)
			require.Empty(t, refusals(got, name), got)
			other := b.connect(t, nil)
			var bars int
			require.NoError(t, other.QueryRow(t.Context(), `select count(*) from late where symbol = 'sim:LATUSD' and timeframe = '1m'
				and ts >= '2024-01-01 00:00Z' and ts < '2024-01-01 00:10Z'`).Scan(&bars))
			require.Equal(t, 10, bars)
			require.False(t, names.Suspected(), "one look has found it")
		})
	}
}

// refusals returns the errors that a script was not to see.
func refusals(got []string, name string) (list []string) {
	for _, line := range got {
		if line[0] == 'E' && name != "behind an error" && name != "behind a failed segment" {
			list = append(list, line)
		}
	}
	return list
}

// TestRule3_ADefinitionWhoseSessionIsGone: nobody sees its ReadyForQuery, so that all look for a while.
func TestRule3_ADefinitionWhoseSessionIsGone(t *testing.T) {
	t.Parallel()
	b, names := startFresh(t)
	_, err := b.db.Pool.Exec(t.Context(), "create table public.locked ()")
	require.NoError(t, err)
	tx, err := b.db.Pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "lock table public.locked")
	require.NoError(t, err)
	defer func() { require.NoError(t, tx.Rollback(context.WithoutCancel(t.Context()))) }()

	conn := b.connect(t, nil)
	require.NoError(t, conn.Ping(t.Context()))
	require.False(t, names.Suspected())
	failed := make(chan error, 1)
	go func() {
		_, err := conn.Exec(t.Context(), "alter table public.locked add column a int")
		failed <- err
	}()
	require.Eventually(t, names.Suspected, 30*time.Second, time.Millisecond)
	_, err = b.db.Pool.Exec(t.Context(), "select pg_terminate_backend($1)", conn.PgConn().PID())
	require.NoError(t, err)
	require.ErrorContains(t, <-failed, "57P01")
	require.Eventually(t, func() bool { return b.server.Sessions() == 0 }, 30*time.Second, time.Millisecond)
	require.NoError(t, names.Refresh(t.Context()))
	require.True(t, names.Suspected())
}

// TestRule3_DefinitionsInAPipelineReadNothing: they need no settings, which others before them may change.
func TestRule3_DefinitionsInAPipelineReadNothing(t *testing.T) {
	t.Parallel()
	b := start(t, nil)
	const view, read = "P - create view s.v as select * from public.ohlcv\nB - -\nE -\n", "P - select count(*) from public.ohlcv" + gapOf + "\nB - -\nE -\n"
	for _, c := range []struct{ script, last string }{
		{"P - create schema s\nB - -\nE -\n" + view + "S\nwait Z", "C CREATE VIEW"},
		{"P - drop view s.v\nB - -\nE -\n" + view + "S\nwait Z", "C CREATE VIEW"},
		{"P - set search_path = s\nB - -\nE -\nP - create view w as select * from public.ohlcv\nB - -\nE -\nS\nwait Z", "C CREATE VIEW"},
		{"P - drop view s.v\nB - -\nE -\n" + view + read + "S\nwait Z", "E ERROR 0A000 " + errSettingsInSegment.Message},
		{"P - drop view s.v\nB - -\nE -\nP - create table s.t as select * from public.ohlcv" + gapOf + "\nB - -\nE -\nS\nwait Z", "E ERROR 0A000 " + errSettingsInSegment.Message},
	} {
		got, err := pgtest.Seen(t.Context(), b.url, c.script)
		require.NoError(t, err)
		require.GreaterOrEqual(t, len(got), 2, "%s: %q", c.script, got)
		require.Contains(t, got[len(got)-2], c.last, "%s: %q", c.script, got)
	}
}
