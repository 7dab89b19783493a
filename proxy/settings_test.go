package proxy

import (
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"barkeep/internal/pgtest"
	"barkeep/planner"
)

// TestWrongSettings: a value that a setting of barkeep cannot have is never taken for its default in silence.
func TestWrongSettings(t *testing.T) {
	b := start(t, nil)
	conn := b.connect(t, nil)
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec} {
		for setting, values := range map[string][2]string{
			"barkeep.mode":      {"sotred", "Partial"},
			"barkeep.unbounded": {"eror", "error"},
			"barkeep.timeout":   {"soon", "1.5 min"},
			"barkeep.freshness": {"-5", "0"},
			"barkeep.max_bars":  {"1e3", "1000"},
		} {
			_, err := conn.Exec(t.Context(), "select set_config(name, value, false) from (values ('"+setting+"', '"+values[0]+"')) v (name, value)")
			require.NoError(t, err)
			_, err = conn.Exec(t.Context(), read, mode)
			var refused *pgconn.PgError
			require.ErrorAs(t, err, &refused, setting)
			require.Equal(t, "22023", refused.Code)
			require.Contains(t, refused.Message, setting)
			require.NotEmpty(t, refused.Hint)
			_, err = conn.Exec(t.Context(), "select 1", mode)
			require.NoError(t, err, "what does not read ohlcv goes")
			_, err = conn.Exec(t.Context(), "set "+setting+" = '"+values[1]+"'")
			require.NoError(t, err)
			_, err = conn.Exec(t.Context(), read, mode)
			require.NoError(t, err, setting)
			_, err = conn.Exec(t.Context(), "reset "+setting)
			require.NoError(t, err)
		}
	}
	// SET LOCAL, taken back by the block's end.
	_, err := conn.Exec(t.Context(), "begin; select set_config(lower('BARKEEP.mode'), 'x', true)")
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), read)
	require.Equal(t, "22023", code(err))
	require.EqualValues(t, 'E', conn.PgConn().TxStatus())
	_, err = conn.Exec(t.Context(), "rollback")
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), read)
	require.NoError(t, err)
	// Options of the connection.
	other, err := pgx.Connect(t.Context(), b.url+"&options=-c%20barkeep.max_bars%3Dmany")
	require.NoError(t, err)
	defer other.Close(t.Context())
	_, err = other.Exec(t.Context(), read)
	require.Equal(t, "22023", code(err))
	// ALTER ROLE.
	_, err = b.db.Pool.Exec(t.Context(), `do $$ begin
		execute format('alter role %I in database %I set barkeep.timeout = ''never''', current_user, current_database());
	end $$`)
	require.NoError(t, err)
	_, err = b.connect(t, nil).Exec(t.Context(), read)
	require.Equal(t, "22023", code(err))
}

// TestSettingsInQuery: each statement of a Query is planned and held under what the statements before it set (PLANNER 8).
func TestSettingsInQuery(t *testing.T) {
	b := start(t, nil)
	conn := b.connect(t, nil)
	rows := func(sql string) (int, error) {
		results, err := conn.PgConn().Exec(t.Context(), sql).ReadAll()
		if err != nil {
			_ = conn.PgConn().Exec(t.Context(), "rollback").Close()
			return 0, err
		}
		return len(results[len(results)-1].Rows), nil
	}
	asked := func() []Request {
		b.mu.Lock()
		defer b.mu.Unlock()
		defer func() { b.asked = nil }()
		return b.asked
	}
	of := func(symbol string) string {
		return "select ts from ohlcv where symbol = 'sim:" + symbol + "' and timeframe = '1m'"
	}
	// stored fetches nothing, and holds for that Query only where it is local.
	for _, set := range []string{
		"set local barkeep.mode = 'stored'", "set local barkeep.mode to Stored", "select set_config('barkeep.mode', 'stored', true)",
	} {
		n, err := rows(set + "; " + of("AUSD"))
		require.NoError(t, err, set)
		require.Zero(t, n, set)
		require.Empty(t, asked(), set)
	}
	// Of two statements only the one that is not under stored is held.
	n, err := rows(of("BUSD") + "; set barkeep.mode = 'stored'; " + of("AUSD"))
	require.NoError(t, err)
	require.Zero(t, n)
	requests := asked()
	require.Len(t, requests, 1)
	require.Len(t, requests[0].Requirements, 1)
	require.EqualValues(t, "sim:BUSD", requests[0].Requirements[0].Series.Symbol)
	// A session under stored waits where the Query says so; before, bars that are missing were left out in silence.
	n, err = rows("set barkeep.mode = 'wait'; set local barkeep.max_bars = 77; set local barkeep.freshness = '7s'; " + of("CUSD"))
	require.NoError(t, err)
	require.Equal(t, 10, n)
	requests = asked()
	require.Len(t, requests, 1)
	require.EqualValues(t, 77, requests[0].MaxBars)
	require.Equal(t, "7s", requests[0].Freshness.String())
	require.Equal(t, "wait", requests[0].Mode)
	// The end of a block takes SET LOCAL back.
	n, err = rows("begin; set local barkeep.mode = 'stored'; commit; " + of("DUSD"))
	require.NoError(t, err)
	require.Equal(t, 10, n)
	_, err = rows("begin; set local barkeep.mode = 'stored'")
	require.NoError(t, err)
	n, err = rows("commit; " + of("EUSD"))
	require.NoError(t, err)
	require.Equal(t, 10, n)
	asked()
	// What cannot have that value, what is not known beforehand, and holds that differ.
	for sql, want := range map[string]string{
		"set local barkeep.mode = 'sotred'; " + of("FUSD"):                                                              "22023",
		"set local barkeep.max_bars = -1; " + of("FUSD"):                                                                "22023",
		"set local barkeep.mode = 'x'; set local barkeep.mode = 'wait'; set local barkeep.timeout = 'y'; " + of("FUSD"): "22023",
		"reset barkeep.mode; " + of("FUSD"):                                                                             "0A000",
		"select set_config('barkeep.' || 'mode', 'stored', true); " + of("FUSD"):                                        "0A000",
		of("FUSD") + "; set local barkeep.mode = 'partial'; " + of("FUSD"):                                              "0A000",
	} {
		_, err := rows(sql)
		require.Equal(t, want, code(err), sql)
		require.Empty(t, asked(), sql)
	}
	// A wrong value of the session's, mended in the Query.
	_, err = rows("select set_config(lower('BARKEEP.mode'), 'x', false)")
	require.NoError(t, err)
	n, err = rows("set local barkeep.mode = 'wait'; " + of("GUSD"))
	require.NoError(t, err)
	require.Equal(t, 10, n)
	// barkeep.timeout of the Query ends its hold.
	_, err = rows("set barkeep.mode = 'wait'")
	require.NoError(t, err)
	b.mu.Lock()
	b.block = make(chan struct{})
	b.mu.Unlock()
	_, err = rows("set local barkeep.timeout = '50ms'; " + of("HUSD"))
	require.Equal(t, "57014", code(err))
	_, err = rows("set local barkeep.timeout = 50; set local barkeep.mode = partial; " + of("HUSD"))
	require.NoError(t, err)
}

// TestConfiguredDefaults: what is configured holds where the session has no setting of its own, and only there.
func TestConfiguredDefaults(t *testing.T) {
	t.Parallel()
	s := &session{server: New(Config{Limits: Limits{Timeout: time.Minute, MaxBars: 7, Freshness: 3 * time.Second}})}
	none := s.withOwn(settings{}, planner.Own{})
	require.Equal(t, []any{time.Minute, int64(7), 3 * time.Second}, []any{none.timeout, none.maxBars, none.freshness})
	own := s.withOwn(settings{}, planner.Own{Timeout: "2min", MaxBars: "8", Freshness: "0"})
	require.Equal(t, []any{2 * time.Minute, int64(8), time.Duration(0)}, []any{own.timeout, own.maxBars, own.freshness})
}

// TestRule8_WrongSettingsAreRefused: a value that a setting of barkeep's cannot have is an error where it is set, as it is for
// PostgreSQL's own, and the setting stays what it was.
func TestRule8_WrongSettingsAreRefused(t *testing.T) {
	b := start(t, nil)
	for name, c := range map[string]struct{ script, code, shown string }{
		"SET":                  {"Q set barkeep.mode = bogus\nwait Z", "22023", "D wait"},
		"in a block":           {"Q begin\nwait Z\nQ set barkeep.mode = stored\nwait Z\nQ set local barkeep.max_bars = -1\nwait Z\nQ commit\nwait Z", "22023", "D wait"},
		"behind another":       {"Q set barkeep.mode = partial; set barkeep.timeout = 'long'\nwait Z", "22023", "D wait"},
		"set_config":           {"Q select set_config('barkeep.mode', 'bogus', false)\nwait Z", "22023", "D wait"},
		"extended":             {"P - set barkeep.freshness = 'x'\nB - -\nE -\nS\nwait Z", "22023", "D wait"},
		"prepared before":      {"P s set barkeep.unbounded = 'x'\nS\nwait Z\nB - s\nE -\nS\nwait Z", "22023", "D wait"},
		"unknown":              {"Q set barkeep.modus = 'wait'\nwait Z", "42704", "D wait"},
		"in a failed block":    {"Q begin; select 1/0\nwait Z\nQ set barkeep.mode = bogus\nwait Z\nQ rollback\nwait Z", "25P02", "D wait"},
		"right":                {"Q set barkeep.mode = 'STORED'; set barkeep.timeout = '90s'; set barkeep.max_bars = 5; set barkeep.freshness = 30\nwait Z", "C SET", "D STORED"},
		"right, and its reset": {"Q set barkeep.mode = 'stored'\nwait Z\nQ reset barkeep.mode\nwait Z", "C RESET", "D wait"},
		"default":              {"Q set barkeep.mode = 'stored'; set barkeep.mode to default; set barkeep.timeout to ''\nwait Z", "C SET", "D wait"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := pgtest.Seen(t.Context(), b.url+"&options=-c%20barkeep.mode%3Dwait", c.script+"\nQ show barkeep.mode\nwait Z")
			require.NoError(t, err, got)
			require.Contains(t, strings.Join(got, "\n"), c.code)
			require.Equal(t, c.shown, got[len(got)-3], "%s", strings.Join(got, "\n"))
		})
	}
}

// Every setting is in docs/sql.md, with the values that its error lists.
func TestSettingsAreInTheReference(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../docs/sql.md")
	require.NoError(t, err)
	for _, own := range ownSettings {
		_, line, found := strings.Cut(string(raw), "\n| `"+own.name+"` |")
		require.True(t, found, own.name)
		line, _, _ = strings.Cut(line, "\n")
		if list, ok := strings.CutPrefix(own.allowed, "Available values: "); ok {
			for value := range strings.SplitSeq(strings.TrimSuffix(list, "."), ", ") {
				require.Contains(t, line, "`"+value+"`", own.name)
			}
		}
	}
	for unit := range durationUnits {
		require.Contains(t, string(raw), "`"+unit+"`")
	}
}

// reloadedCatalog says when the server's configuration was reloaded.
type reloadedCatalog struct {
	Catalog
	reloads atomic.Uint64
}

func (c *reloadedCatalog) Reloads() uint64 { return c.reloads.Load() }

// A reload of the server's configuration changes settings that no statement has set: they are read anew.
func TestReloadedSettings(t *testing.T) {
	names := &reloadedCatalog{}
	b := start(t, func(cfg *Config) { names.Catalog, cfg.Catalog = cfg.Catalog, names })
	conn := b.connect(t, nil)
	freshness := func(symbol string) time.Duration {
		_, err := conn.Exec(t.Context(), strings.ReplaceAll(read, "BTCUSD", symbol))
		require.NoError(t, err)
		asked := b.requested()
		return asked[len(asked)-1].Freshness
	}
	_, err := conn.Exec(t.Context(), "set barkeep.freshness = ''") // the server's default
	require.NoError(t, err)
	require.Zero(t, freshness("BTCUSD"))
	b.server.SetLimits(Limits{Freshness: time.Hour}) // a session sees it when it reads its settings
	require.Zero(t, freshness("ETHUSD"), "nothing has changed them")
	names.reloads.Add(1)
	require.Equal(t, time.Hour, freshness("LTCUSD"))
}

// A session may bind any number of named portals that change settings: those whose transaction is over are forgotten, those of the open block are not.
func TestPortalsAreForgotten(t *testing.T) {
	s := newSession(&Server{cfg: Config{}}, nil)
	s.statements = map[string]candidates{}
	r := &s.reader
	segment := func(name string) {
		s.keepPortal(name, nil)
		s.push(entry{kind: kindSync})
		s.portalsSent()
	}
	for i := range 10 * leastPortals {
		segment(itoa(i))
		s.ready('I')
		require.LessOrEqual(t, len(r.portals), leastPortals)
	}
	for i := range 10 * leastPortals {
		segment("open " + itoa(i))
		s.ready('T')
		require.Contains(t, r.portals, "open 0")
	}
	for i := range 10 * leastPortals {
		segment("pipelined " + itoa(i)) // and never is nothing outstanding
		if i > 0 {
			s.ready('I')
		}
	}
	require.Less(t, len(r.portals), 20*leastPortals)
	require.NotContains(t, r.portals, "open 0")
	require.Contains(t, r.portals, "pipelined "+itoa(10*leastPortals-1))
}
