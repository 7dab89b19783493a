package planner

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// hostileSeed names the variable that makes this process a child that plans hostile texts.
const hostileSeed = "PLANNER_HOSTILE_SEED"

// Every form by which a text grows deep: before, inside and behind what it is wrapped around. What has no inside grows from the
// left.
var hostileForms = [][3]string{ //nolint:gochecknoglobals // a table
	{"(", "1", ")"},
	{"", "1", "+1"},
	{"1+", "1", ""},
	{"-", "1", ""},
	{"", "1", " AND true"},
	{"NOT ", "true", ""},
	{"", "'a'", "||'b'"},
	{"", "1", "::int"},
	{"CAST(", "1", " AS int)"},
	{"", "'a'", " COLLATE \"C\""},
	{"", "ts", " AT TIME ZONE 'UTC'"},
	{"", "true", " IS TRUE"},
	{"", "1", " IS NULL"},
	{"CASE WHEN true THEN ", "1", " END"},
	{"CASE ", "1", " WHEN 1 THEN 1 END"},
	{"abs(", "1", ")"},
	{"ARRAY[", "1", "]"},
	{"ROW(", "1", ")"},
	{"", "(array[1])", "[1]"},
	{"", "(o)", ".symbol"},
	{"EXISTS (SELECT ", "1", ")"},
	{"(SELECT ", "1", ")"},
	{"1 IN (SELECT ", "1", ")"},
	{"1 IN (", "1", ")"},
	{"1 = ANY (ARRAY[", "1", "])"},
	{"1 BETWEEN 0 AND ", "1", ""},
	{"", "1", " OPERATOR(pg_catalog.+) 1"},
	{"", "'a'", " LIKE 'a' ESCAPE 'b'"},
	{"coalesce(", "1", ", 1)"},
	{"(1, ", "1", ")"},
	{"", "1", " UNION ALL SELECT 1"},
	{"", "1", " EXCEPT SELECT 1"},
	{"(SELECT * FROM (SELECT ", "1", ") x)"},
	{"(WITH w AS (SELECT ", "1", ") TABLE w)"},
	{"sum(", "1", ") OVER (PARTITION BY 1)"},
	{"1 ORDER BY (SELECT ", "1", ")"},
	{"xmlelement(name a, ", "1", ")"},
	{"", "int '1'", "::int[][]"},
	{"json_array(", "1", ")"},
	{"$$", "1", "$$"},
	{"/*", "*/1/*", "*/"},
	{"'", "1", "'"},
	{"\"", "1", "\""},
	{"U&\"\\0061", "", "\" +"},
	{"", "a", ".a"},
	{"1 ", "1", ""},
	{"(1 JOIN ", "1", ")"},
	{"%", "1", "%"},
	{"[", "1", "]"},
	{"\x00", "1", ""},
	{"\xff", "1", ""},
	{"1;", "1", ";1"},
}

// Where such a thing stands.
var hostileFrames = []string{ //nolint:gochecknoglobals // a table
	"SELECT %s FROM ohlcv o WHERE symbol = 'A' AND timeframe = '1d'", "SELECT 1 FROM ohlcv WHERE symbol = 'A' AND timeframe = '1d' AND ts > %s",
	"SELECT 1 FROM ohlcv GROUP BY GROUPING SETS (%s)", "EXPLAIN ANALYZE SELECT %s FROM ohlcv", "PREPARE p AS SELECT %s FROM ohlcv",
	"SELECT 1 FROM ohlcv, LATERAL (SELECT %s) x", "INSERT INTO t SELECT %s FROM ohlcv ON CONFLICT DO NOTHING", "COPY (SELECT %s FROM ohlcv) TO STDOUT",
	"SELECT 'select %s from ohlcv'", "DO $a$ BEGIN PERFORM %s FROM ohlcv; END $a$", "SELECT set_config('barkeep.mode', %s, true)", "%s ohlcv",
	"WITH RECURSIVE r AS (SELECT %s UNION ALL SELECT 1 FROM ohlcv) TABLE r", "CREATE VIEW v AS SELECT %s FROM ohlcv", "EXECUTE ohlcv(%s)",
}

// hostile returns a text that grows deep in one or more ways, some inside of others.
func hostile(r *rand.Rand) string {
	depths := []int{1, 2, 30, 390, 399, 401, 1_000, 2_900, 3_001, 6_000, 30_000}
	text := ""
	for part := range 1 + r.IntN(4) {
		form := hostileForms[r.IntN(len(hostileForms))]
		if part == 0 {
			text = form[1]
		}
		each := []string{form[0], form[2]}
		n := depths[r.IntN(len(depths))]
		for n > 1 && (len(text)+n*len(each[0]+each[1])) > 400_000 {
			n /= 2
		}
		text = strings.Repeat(each[0], n) + text + strings.Repeat(each[1], n)
	}
	if r.IntN(3) == 0 { // chains inside of each other
		form := hostileForms[r.IntN(len(hostileForms))]
		open, end := "(", ")"
		if r.IntN(2) == 0 {
			open, end = "(SELECT ", ")"
		}
		n := depths[2+r.IntN(6)]
		for range 2 + r.IntN(60) {
			if next := open + strings.Repeat(form[0], n) + text + strings.Repeat(form[2], n) + end; len(next) < 400_000 {
				text = next
			}
		}
	}
	if r.IntN(10) == 0 {
		text = text[:r.IntN(len(text)+1)]
	}
	return strings.Replace(hostileFrames[r.IntN(len(hostileFrames))], "%s", text, 1)
}

// TestRule5_HostileTexts: no text takes the process down. The parser's C stack overflows where Go cannot catch it, so that it is
// another process that plans them.
func TestRule5_HostileTexts(t *testing.T) {
	if text := os.Getenv(hostileSeed); text != "" {
		planHostile(t, text)
		return
	}
	t.Parallel()
	seed := rand.Uint64()
	command := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestRule5_HostileTexts$", "-test.v")
	command.Env = append(os.Environ(), hostileSeed+"="+strconv.FormatUint(seed, 10))
	out, err := command.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("hostile: all planned")) {
		lines := bytes.Split(out, []byte("\n"))
		require.FailNow(t, "a hostile text ended the process", "%s=%d: %v\n%s", hostileSeed, seed, err, bytes.Join(lines[:min(len(lines), 40)], []byte("\n")))
	}
}

// planHostile is the child.
func planHostile(t *testing.T, text string) {
	t.Helper()
	seed, err := strconv.ParseUint(text, 10, 64)
	require.NoError(t, err)
	r := rand.New(rand.NewPCG(seed, 0))
	cache := NewCache(16)
	for i := range 250 {
		sql := hostile(r)
		fmt.Printf("%d: %d bytes, %.100q\n", i, len(sql), sql) // what is printed last is what ended the process
		for _, env := range []Env{{TimeZone: "UTC"}, {TimeZone: "UTC", Catalog: goldenCatalog()}} {
			MayRead(sql, env.Catalog)
			Effects(sql, nil)
			template := cache.Prepare(sql, nil, env)
			template.Bind(Args{}, env, goldenBracket(), nil)
			template.Names()
			template.SetsOwn()
		}
	}
	fmt.Println("hostile: all planned")
}
