package proxy

import (
	"runtime"
	"strings"
	"testing"
	"time"
	"weak"

	"github.com/stretchr/testify/require"

	"barkeep/planner"
)

// A scan that is kept does not outlive the catalog that it was made under, and long texts are not kept.
func TestScansFollowTheCatalog(t *testing.T) {
	t.Parallel()
	var kept scans
	of := func(text string, known *planner.Catalog) *scanned { return kept.of([]byte(text), known) }
	count := func() int { return len(kept.newer) + len(kept.older) }
	first, second := &planner.Catalog{Version: 1}, &planner.Catalog{Version: 2, Names: map[string]struct{}{"daily": {}}}
	for range 2 {
		require.False(t, of("select * from daily", first).reads)
		require.True(t, of("select * from daily", second).reads)
	}
	require.Equal(t, 1, count())
	long := "set timezone = 'UTC' -- " + strings.Repeat("x", maxScannedText)
	require.True(t, of(long, first).effects)
	require.Equal(t, long, of(long, first).text)
	require.Equal(t, 1, count())
	text := []byte("select 1")
	again := kept.of(text, first)
	text[7] = '2' // it was in the buffer of a reader
	for i := range 3 * maxScans {
		of("select "+strings.Repeat("1", i%100)+strings.Repeat("2", i/100), first)
		require.LessOrEqual(t, count(), maxScans)
		if i%(maxScans/4) == 0 {
			require.Same(t, again, of("select 1", first), "after %d others", i)
		}
	}
}

// The template that a text had last is found where it would be made alike, and is not kept beyond the cache of templates.
func TestLastTemplate(t *testing.T) {
	t.Parallel()
	last, none := new(lastTemplate), (*lastTemplate)(nil)
	known := &planner.Catalog{Version: 1}
	key := templateKey{version: 1, path: "public", encoding: "UTF8"}
	cache := planner.NewCache(1)
	prepare := func(text string) *planner.Template {
		return cache.Prepare(text, []uint32{25}, planner.Env{Catalog: known, SearchPath: "public", ClientEncoding: "UTF8"})
	}
	template := prepare("select * from ohlcv where symbol = $1")
	require.Nil(t, last.of(&key, nil))
	last.keep(key, []uint32{25}, template)
	none.keep(key, nil, template)
	require.Nil(t, none.of(&key, nil))
	require.Same(t, template, last.of(&key, []uint32{25}))
	require.Nil(t, last.of(&key, nil))
	require.Nil(t, last.of(&key, []uint32{1043}))
	for _, other := range []templateKey{
		{version: 2, path: "public", encoding: "UTF8"},
		{version: 1, path: "mine", encoding: "UTF8"},
		{version: 1, path: "public", encoding: "LATIN1"},
		{version: 1, path: "public", encoding: "UTF8", nonStandard: true},
	} {
		require.Nil(t, last.of(&other, []uint32{25}))
	}
	template = prepare("select 1 from ohlcv") // the cache has room for one
	runtime.GC()
	require.Nil(t, last.of(&key, []uint32{25}))
	runtime.KeepAlive(template)
}

// What is not looked at any further concerns nobody but the upstream.
func TestIdleTexts(t *testing.T) {
	t.Parallel()
	var kept scans
	known := &planner.Catalog{Version: 1, Names: map[string]struct{}{"daily": {}}}
	for text, idle := range map[string]bool{
		"select 1": true, "select 1;": true, "update t set a = 1": true, "select count(*) from orders where ok": true,
		"select * from ohlcv": false, "select * from daily": false, "begin": false, "commit": false, "rollback; select 1": false,
		"set timezone = 'UTC'": false, "select set_config('timezone', 'UTC', false)": false, "create view v as select 1": false,
		"drop table t": false, "listen x": false, "fetch c": false, "execute p": false, "prepare p as select 1": false,
		"declare c cursor for select 1": false, "do $$begin end$$": false, "call p()": false, "show timezone": false,
		"set transaction snapshot 'x'": false, "savepoint s": false, "explain (barkeep) select 1": false, "discard all": false,
		"create temp table ohlcv (a int)": false,
	} {
		require.Equal(t, idle, kept.of([]byte(text), known).idle, text)
	}
}

// TestBindIdle: to pass over the look at a statement that concerns the upstream alone leaves what the look leaves, whatever came before.
func TestBindIdle(t *testing.T) {
	t.Parallel()
	idle := &statement{scan: scan{idle: true}}
	for name, before := range map[string]func(r *reader){
		"nothing":              func(*reader) {},
		"a block begins":       func(r *reader) { r.begins = "begin" },
		"behind a Bind":        func(r *reader) { r.begins, r.used, r.acts = "begin", true, true },
		"settings are changed": func(r *reader) { r.segmentEffects, r.dirty, r.blockEffects = true, true, true },
		"held":                 func(r *reader) { r.gated, r.units, r.sole = true, []unit{{portal: true}}, 1 },
		"definitions":          func(r *reader) { r.defines = true },
		"failure ended":        func(r *reader) { r.revives, r.plainly = true, true },
		"another portal":       func(r *reader) { r.unnamed, r.segments = bound{effects: true, loose: true}, 7 },
	} {
		left := func(bind func(s *session, st *statement)) (reader, statement) {
			s, _, _ := memorySession(t)
			st := *idle
			st.version = versionOf(s.catalog())
			before(&s.reader)
			bind(s, &st)
			return s.reader, st
		}
		r1, st1 := left(func(s *session, st *statement) { require.True(t, s.bindIdle(candidates{st}), name) })
		r2, st2 := left(func(s *session, st *statement) { s.bindInFull(unit{}, nil, candidates{st}) })
		require.Equal(t, r2, r1, name)
		require.Equal(t, st2, st1, name)
	}
	for name, before := range map[string]func(s *session){
		"settings out of sight":    func(s *session) { s.reader.hidden = true },
		"definitions out of sight": func(s *session) { s.reader.inside.unsure = true },
		"a cursor that makes them": func(s *session) { s.reader.inside.later = true },
		"every statement held":     func(s *session) { s.server.cfg.ForceHold = 1 },
	} {
		s, _, _ := memorySession(t)
		st := *idle
		st.version = versionOf(s.catalog())
		before(s)
		require.False(t, s.bindIdle(candidates{&st}), name)
	}
}

// What is kept of a text keeps no catalog: where definitions change often there are many, each as large as what it knows of.
func TestScansKeepNoCatalog(t *testing.T) {
	t.Parallel()
	var kept scans
	cache := planner.NewCache(16)
	gone := func() weak.Pointer[planner.Catalog] {
		known := &planner.Catalog{Version: 1, Names: map[string]struct{}{"daily": {}}}
		last := &kept.of([]byte("select * from ohlcv where symbol = 'sim:BTCUSD'"), known).templates
		env := planner.Env{Catalog: known}
		template := cache.Prepare("select * from ohlcv where symbol = 'sim:BTCUSD'", nil, env)
		template.Bind(planner.Args{}, env, planner.Bracket{}, nil)
		last.keep(templateKey{version: known.Version}, nil, template)
		return weak.Make(known)
	}()
	require.Eventually(t, func() bool { runtime.GC(); return gone.Value() == nil }, 10*time.Second, time.Millisecond)
	runtime.KeepAlive(cache)
	runtime.KeepAlive(&kept)
}

func TestParametersIn(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{
		"": 0, "select 1": 0, "select $1": 1, "select $2, $1": 2, "$12": 12, "a$3b $": 3, "$": 0, "$$ $7 $$": 7, "$65535": 65535,
		"$99999999999999999999999": maxParameters, "$x$1": 1,
	} {
		require.Equal(t, want, parametersIn(text), text)
	}
}
