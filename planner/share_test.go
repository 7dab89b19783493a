package planner

import (
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// otherConstants writes other constants of the same form into a text.
func otherConstants(r *rand.Rand, text string) string {
	cut, ok := outlineOf(text)
	if !ok {
		return text
	}
	var b strings.Builder
	at := 0
	for _, l := range cut.literals {
		b.WriteString(text[at:l.start])
		lex := lexer{src: text, pos: l.start}
		tok, _ := lex.next()
		at = tok.end
		changed := []byte(text[l.start:at])
		for i, c := range changed {
			if isDigit(c) && r.IntN(4) == 0 {
				changed[i] = byte('0' + r.IntN(10))
			}
			if l.kind == tokenString && r.IntN(8) == 0 && c >= 'A' && c <= 'C' {
				changed[i] = byte('A' + r.IntN(4))
			}
		}
		b.Write(changed)
	}
	return b.String() + text[at:]
}

// A text that takes its template from another one is planned as by itself.
func TestSharedTemplatesPlanAsTheirOwn(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	files, err := filepath.Glob("testdata/plan/*.txt")
	require.NoError(t, err)
	shared, narrow := 0, 0
	for _, path := range files {
		for _, c := range readGolden(t, path) {
			env, args, _ := c.setup(t)
			args.Prepared = func(string) ([]Candidate, bool) { return []Candidate{{Template: Prepare("select 1", nil, env)}}, true }
			cache := NewCache(100)
			cache.Prepare(c.sql, args.OIDs, env).Bind(args, env, goldenBracket(), nil)
			for range 5 {
				other := otherConstants(r, c.sql)
				got, own := cache.Prepare(other, args.OIDs, env), Prepare(other, args.OIDs, env)
				want := own.Bind(args, env, goldenBracket(), nil)
				require.Equal(t, want, got.Bind(args, env, goldenBracket(), nil), "%s\nafter\n%s", other, c.sql)
				require.Equal(t, own.Columns(), got.Columns())
				if got.given != nil {
					shared++
					if len(want.Requirements) > 0 {
						narrow++
					}
				}
			}
		}
	}
	require.Greater(t, shared, 300)
	require.Greater(t, narrow, 200)
}

// EXECUTE of a statement whose template is another's, and that needs its own tree for what it asks of the database.
func TestExecuteOfASharedTemplate(t *testing.T) {
	t.Parallel()
	env := Env{TimeZone: "America/New_York"}
	text := func(day string) string {
		return "select from ohlcv where symbol = 'A' and timeframe = '1d' and ts > timestamptz '01/" + day + "/2024'"
	}
	cache := NewCache(10)
	cache.Prepare(text("02"), nil, env)
	inner := cache.Prepare(text("03"), nil, env)
	require.NotNil(t, inner.given)
	args := Args{Prepared: func(string) ([]Candidate, bool) { return []Candidate{{Template: inner}}, true }}
	plan := cache.Prepare("execute p", nil, env).Bind(args, env, goldenBracket(), nil)
	require.NotEmpty(t, plan.Questions)
	for _, q := range plan.Questions {
		require.Contains(t, q.SQL, "01/03/2024")
	}
}

func TestOutlines(t *testing.T) {
	t.Parallel()
	same := func(a, b string) bool {
		x, ok := outlineOf(a)
		y, ok2 := outlineOf(b)
		return ok && ok2 && x.skeleton == y.skeleton
	}
	require.True(t, same("select 1 where a = 'x' and b < 2.5", "select 7 where a = 'it''s' and b < 1000.25"))
	require.False(t, same("select 1", "select 1.5"), "of another type")
	require.False(t, same("select 1", "select 1234567890"), "of another type")
	require.False(t, same("select 'x'", "select 1"))
	require.False(t, same("select 1 -- a 1", "select 1 -- a 2"), "comments stay")
	for _, text := range []string{
		"select E'x'", "select 'a'\n'b'", "select U&'x'", "select $$x$$", "select B'1'", "select 0x1F", "select 1_000", "select 1e5", "select x",
	} {
		_, ok := outlineOf(text)
		require.False(t, ok, text)
		_, ok = outlineOf(text + " -- é 'x'")
		require.False(t, ok, text)
	}
	// What is not compared has to be the same; what could be SQL is looked at by itself.
	cache := NewCache(10)
	prepare := func(sql string) *Template { return cache.Prepare(sql, nil, Env{}) }
	where := " from ohlcv where symbol = 'A' and timeframe = '1d' and ts > '2024-01-01Z' order by ts limit 5"
	require.Nil(t, prepare("select 'x', close"+where).given)
	require.Nil(t, prepare("select 'y', close"+where).given)
	require.Len(t, prepare("select 'x', close"+strings.NewReplacer("'A'", "'B'", "limit 5", "limit 7").Replace(where)).given, 2)
	require.Nil(t, prepare("select 'x', close"+strings.Replace(where, "'A'", "'table ohlcv'", 1)).given)
	require.Nil(t, prepare("select 'x', close"+strings.Replace(where, "'1d'", "'"+strings.Repeat("x", 100)+"'", 1)).given)
}

func BenchmarkOtherConstants(b *testing.B) {
	c := NewCache(100)
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		n++
		text := "select ts, open, high, low, close from ohlcv where symbol = 'BTCUSD' and timeframe = '1m' and ts >= '2024-01-0" + string(rune('1'+n%9)) +
			" 00:0" + string(rune('0'+n/9%10)) + ":" + string(rune('0'+n/90%6)) + string(rune('0'+n/540%10)) + "Z' and ts < '2024-02-02Z' order by ts"
		c.Prepare(text, nil, Env{}).Bind(Args{}, Env{}, goldenBracket(), nil)
	}
}
