package planner

import (
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/internal/market"
)

var update = flag.Bool("update", false, "rewrite the golden plans")

// goldenBracket is the start of the transaction in all golden plans.
func goldenBracket() Bracket {
	at := market.FromTime(time.Date(2024, 3, 15, 12, 0, 0, 0, time.UTC))
	return Bracket{Lo: at, Hi: at.Shift(10 * time.Millisecond)}
}

// goldenViews are the views of the golden catalog, as pg_get_viewdef gives them, each after those that it reads.
var goldenViews = [][2]string{ //nolint:gochecknoglobals // a table
	{"btc_minutes", "SELECT ohlcv.ts, ohlcv.close FROM public.ohlcv WHERE ohlcv.symbol = 'BTCUSD' AND ohlcv.timeframe = '1m'"},
	{"hourly", "SELECT symbol, ts, open, high, low, close, volume FROM ohlcv WHERE (timeframe = '1h'::text)"},
	{"btc_hourly", "SELECT ts, close FROM hourly WHERE (symbol = 'BTCUSD'::text)"},
	{"returns", "SELECT symbol, timeframe, ts, ((close / NULLIF(lag(close) OVER (PARTITION BY symbol, timeframe ORDER BY ts), (0)::double precision)) - (1)::double precision) AS change FROM ohlcv"},
	{"days", "SELECT symbol, date_trunc('day'::text, ts) AS day, max(high) AS high, min(low) AS low FROM ohlcv WHERE (timeframe = '1h'::text) GROUP BY symbol, (date_trunc('day'::text, ts))"},
	{"recent", "SELECT symbol, timeframe, ts, close FROM ohlcv WHERE (ts > (now() - '24:00:00'::interval))"},
	{"both_majors", "SELECT ohlcv.symbol, ohlcv.ts, ohlcv.close FROM ohlcv WHERE ((ohlcv.symbol = 'BTCUSD'::text) AND (ohlcv.timeframe = '1d'::text)) UNION ALL SELECT ohlcv.symbol, ohlcv.ts, ohlcv.close FROM ohlcv WHERE ((ohlcv.symbol = 'ETHUSD'::text) AND (ohlcv.timeframe = '1d'::text))"},
	{"mine_daily", "SELECT ohlcv.symbol, ohlcv.ts, ohlcv.close FROM ohlcv WHERE ((ohlcv.timeframe = '1d'::text) AND (ohlcv.symbol IN ( SELECT watchlist.symbol FROM public.watchlist WHERE (watchlist.note = 'x'::text))))"},
	{"newest", "SELECT DISTINCT ON (symbol, timeframe) symbol, timeframe, ts, close FROM ohlcv ORDER BY symbol, timeframe, ts DESC"},
}

func goldenCatalog() *Catalog {
	names := map[string]struct{}{"daily": {}, "bars_of": {}, "trades": {}, "===": {}}
	views := map[string]string{}
	for _, view := range goldenViews {
		names[view[0]], views[view[0]] = struct{}{}, view[1]
	}
	return &Catalog{
		Version: 7,
		Names:   names,
		Views:   views,
		Rows:    map[string]struct{}{"bars_of": {}},
		Dynamic: map[string]uint64{"counts": 0b101, "many": 1<<64 - 1},
	}
}

// goldenCase is one case of a golden file: directives (lines that begin with #), the statement, ----, the plan, and where that
// has questions, "---- answered" and the plan that the database's answers make of it.
type goldenCase struct{ directives, sql, want, answered string }

func (c goldenCase) String() string {
	text := c.directives + c.sql + "\n----\n" + c.want
	if c.answered != "" {
		text += answeredMark + c.answered
	}
	return text
}

const answeredMark = "\n---- answered\n"

// directive returns what follows a directive's name; false where the case has none of it.
func (c goldenCase) directive(name string) (rest string, ok bool) {
	for line := range strings.SplitSeq(c.directives, "\n") {
		if rest, ok := strings.CutPrefix(line, "# "+name); ok && (rest == "" || rest[0] == ' ') {
			return strings.TrimPrefix(rest, " "), true
		}
	}
	return "", false
}

func readGolden(t *testing.T, path string) []goldenCase {
	t.Helper()
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	var cases []goldenCase
	for block := range strings.SplitSeq(strings.TrimSpace(string(raw)), "\n\n") {
		block, answered, _ := strings.Cut(block, answeredMark)
		input, want, _ := strings.Cut(block, "\n----")
		c := goldenCase{want: strings.TrimSpace(want), answered: strings.TrimSpace(answered)}
		for line := range strings.SplitSeq(input, "\n") {
			if strings.HasPrefix(line, "# ") {
				c.directives += line + "\n"
			} else {
				c.sql += line + "\n"
			}
		}
		c.sql = strings.TrimSpace(c.sql)
		cases = append(cases, c)
	}
	return cases
}

// setup applies a case's directives: "tz X", "max_bars X", "mode X", "unbounded X", "hidden", "oids 1 2", "param text" (NULL is null),
// "answer text" (to every question), "catalog", "folds" (a catalog with such a collation). Of those for TestCorpus: "error SQLSTATE" (PostgreSQL refuses the statement),
// "unordered" (which of the rows come is PostgreSQL's choice).
func (c goldenCase) setup(t *testing.T) (env Env, args Args, answer *string) {
	t.Helper()
	for line := range strings.SplitSeq(strings.TrimSpace(c.directives), "\n") {
		key, rest, _ := strings.Cut(strings.TrimPrefix(line, "# "), " ")
		switch key {
		case "tz":
			env.TimeZone = rest
		case "datestyle":
			env.DateStyle = rest
		case "intervalstyle":
			env.IntervalStyle = rest
		case "mode":
			env.Mode = rest
		case "unbounded":
			env.Unbounded = rest
		case "max_bars":
			env.MaxBars = rest
		case "timeout":
			env.Timeout = rest
		case "freshness":
			env.Freshness = rest
		case "unsettled":
			env.Unsettled = true
		case "hidden":
			env.Hidden = true
		case "catalog":
			env.Catalog = goldenCatalog()
		case "folds":
			env.Catalog = goldenCatalog()
			env.Catalog.Folds = true
		case "oids":
			for word := range strings.FieldsSeq(rest) {
				var oid uint32
				_, err := fmt.Sscan(word, &oid)
				require.NoError(t, err)
				args.OIDs = append(args.OIDs, oid)
			}
		case "param":
			if rest == "NULL" {
				args.Values = append(args.Values, nil)
			} else {
				args.Values = append(args.Values, []byte(rest))
			}
		case "unaskable":
			args.Unaskable = rest
		case "answer":
			answer = &rest
		}
	}
	return env, args, answer
}

// ask answers questions about the user's data: each "rows type value …" is the answer to the next of them; they are asked no further
// than there are answers.
func (c goldenCase) ask(t *testing.T, tmpl *Template, args Args, env Env, plan Plan) Plan {
	t.Helper()
	args.Data = map[string]Column{}
	for line := range strings.SplitSeq(c.directives, "\n") {
		rest, ok := strings.CutPrefix(line, "# rows ")
		if !ok {
			continue
		}
		require.NotEmpty(t, plan.Data, c.sql)
		words := strings.Fields(rest)
		column := Column{OID: typeOIDs[words[0]]}
		for _, word := range words[1:] {
			switch at, err := time.Parse(time.RFC3339, word); {
			case word == "NULL":
				column.Values = append(column.Values, nil)
			case words[0] == "unknown":
				column.Unknown = strings.Join(words[1:], " ")
			case err == nil:
				us := uint64(market.FromTime(at) - pgEpoch)
				column.Values = append(column.Values, binary.BigEndian.AppendUint64(nil, us))
			default:
				column.Values = append(column.Values, []byte(word))
			}
		}
		args.Data[plan.Data[0].Key] = column
		plan = tmpl.Bind(args, env, goldenBracket(), nil)
	}
	return plan
}

// TestRule10_KeptPlansAreThoseOfAFreshTemplate: a template that has been bound before gives each execution the plan that a fresh
// one gives, whatever the clock, the settings and the prepared statements are by then.
func TestRule10_KeptPlansAreThoseOfAFreshTemplate(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/plan/*.txt")
	require.NoError(t, err)
	later := goldenBracket()
	later.Lo, later.Hi = later.Lo.Shift(time.Hour), later.Hi.Shift(time.Hour)
	kept, bound := 0, 0
	for _, path := range files {
		for _, c := range readGolden(t, path) {
			env, args, _ := c.setup(t)
			other := Env{TimeZone: "Etc/GMT-9", DateStyle: "SQL, DMY", Own: Own{Mode: modeStored, Unbounded: "error"}, Hidden: true, Catalog: env.Catalog}
			args.Prepared = func(string) ([]Candidate, bool) { return []Candidate{{Template: Prepare("select 1", nil, env)}}, true }
			old := Prepare(c.sql, args.OIDs, env)
			first := old.Bind(args, env, goldenBracket(), nil)
			require.Equal(t, first, old.Bind(args, env, goldenBracket(), nil), c.sql)
			if old.fixed.Load() != nil {
				kept++
				bound += min(len(args.Values), 1)
			}
			require.Equal(t, first, old.Bind(args, env, goldenBracket(), nil), c.sql)
			for i := range args.Values { // one that differs, and one that is NULL
				for _, value := range [][]byte{[]byte("7"), []byte(""), nil} {
					others := args
					others.Values = slices.Clone(args.Values)
					others.Values[i] = value
					want := Prepare(c.sql, args.OIDs, env).Bind(others, env, goldenBracket(), nil)
					for range 3 {
						require.Equal(t, want, old.Bind(others, env, goldenBracket(), nil), c.sql)
					}
				}
			}
			for range 2 {
				old.Bind(args, env, goldenBracket(), nil)
			}
			reads := args
			reads.Prepared = func(string) ([]Candidate, bool) {
				return []Candidate{{Template: Prepare("table ohlcv", nil, env)}}, true
			}
			for _, a := range []Args{args, reads} {
				for _, e := range []Env{env, other, env} {
					want := Prepare(c.sql, a.OIDs, e).Bind(a, e, later, nil)
					require.Equal(t, want, old.Bind(a, e, later, nil), c.sql)
				}
			}
		}
	}
	require.Greater(t, kept, 50, "most texts are constant")
	require.Positive(t, bound, "some have parameters")
}

func TestGolden(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/plan/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, path := range files {
		t.Run(filepath.Base(path), func(t *testing.T) {
			t.Parallel()
			var out strings.Builder
			for _, c := range readGolden(t, path) {
				env, args, answer := c.setup(t)
				tmpl := Prepare(c.sql, args.OIDs, env)
				plan := tmpl.Bind(args, env, goldenBracket(), nil)
				if answer != nil {
					answers := Answers{}
					for _, q := range plan.Questions {
						answers[q.Key] = answer
					}
					plan = tmpl.Bind(args, env, goldenBracket(), answers)
				}
				plan = c.ask(t, tmpl, args, env, plan)
				got := formatPlan(tmpl, plan) + formatUnder(env, plan)
				if !*update && got != c.want {
					t.Errorf("%s%s\ngot:\n%s\nwant:\n%s", c.directives, c.sql, got, c.want)
				}
				c.want = got
				fmt.Fprintf(&out, "%s\n\n", c)
			}
			if *update {
				require.NoError(t, os.WriteFile(path, []byte(out.String()), 0o600))
			}
		})
	}
}

// formatUnder shows the own settings under which ohlcv is read, where they are not the session's.
func formatUnder(env Env, p Plan) string {
	var b strings.Builder
	for _, own := range p.Under {
		if len(p.Under) > 1 || own != env.Own {
			fmt.Fprintf(&b, "\nunder %+v", own)
		}
	}
	return b.String()
}

func formatPlan(tmpl *Template, p Plan) string {
	var b strings.Builder
	if !tmpl.Reads() {
		return "reads nothing"
	}
	for _, r := range p.Requirements {
		fmt.Fprintf(&b, "%s %s\n", r.Series, r.Ranges)
		for _, c := range r.Counts {
			end := "oldest"
			if c.Newest {
				end = "newest"
			}
			fmt.Fprintf(&b, "%s %s %d of %s\n", r.Series, end, c.N, market.RangeSet{c.Within})
		}
	}
	for _, q := range p.Questions {
		fmt.Fprintf(&b, "question %s\n", q.SQL)
		if q.Listed != nil {
			fmt.Fprintf(&b, "listed %q named %q\n", q.Listed.Prefix, q.Listed.Named)
		}
	}
	for _, text := range p.Found {
		fmt.Fprintf(&b, "found %s\n", text)
	}
	for _, d := range p.Data {
		fmt.Fprintf(&b, "data %s\n", d)
	}
	for _, r := range p.Reasons {
		fmt.Fprintf(&b, "reason %s\n", strings.TrimSpace(r.Code+" "+r.Text))
	}
	if p.Refusal != nil {
		fmt.Fprintf(&b, "refused %s %s\n", p.Refusal.SQLState, p.Refusal.Message)
	}
	for _, w := range p.Warnings {
		fmt.Fprintf(&b, "warning %s\n", w)
	}
	if b.Len() == 0 {
		return "needs nothing"
	}
	return strings.TrimSpace(b.String())
}
