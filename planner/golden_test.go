package planner

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
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

func goldenCatalog() *Catalog {
	return &Catalog{
		Version: 7,
		Names:   map[string]struct{}{"btc_minutes": {}, "daily": {}, "bars_of": {}, "trades": {}, "===": {}},
		Views: map[string]string{
			"btc_minutes": "SELECT ohlcv.ts, ohlcv.close FROM public.ohlcv WHERE ohlcv.symbol = 'BTCUSD' AND ohlcv.timeframe = '1m'",
		},
		Rows:    map[string]struct{}{"bars_of": {}},
		Dynamic: map[string]uint64{"counts": 0b101, "many": 1<<64 - 1},
	}
}

// goldenCase is one case of a golden file: directives (lines that begin with #), the statement, ----, the plan.
type goldenCase struct{ directives, sql, want string }

func readGolden(t *testing.T, path string) []goldenCase {
	t.Helper()
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	var cases []goldenCase
	for block := range strings.SplitSeq(strings.TrimSpace(string(raw)), "\n\n") {
		input, want, _ := strings.Cut(block, "\n----")
		c := goldenCase{want: strings.TrimSpace(want)}
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

// setup applies a case's directives: "tz X", "mode X", "unbounded X", "hidden", "oids 1 2", "param text" (NULL is null),
// "answer text" (to every question), "catalog".
func (c goldenCase) setup(t *testing.T) (env Env, args Args, answer *string) {
	t.Helper()
	for line := range strings.SplitSeq(strings.TrimSpace(c.directives), "\n") {
		key, rest, _ := strings.Cut(strings.TrimPrefix(line, "# "), " ")
		switch key {
		case "tz":
			env.TimeZone = rest
		case "mode":
			env.Mode = rest
		case "unbounded":
			env.Unbounded = rest
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
		case "answer":
			answer = &rest
		}
	}
	return env, args, answer
}

// TestRule10_KeptPlansAreThoseOfAFreshTemplate: a template that has been bound before gives each execution the plan that a fresh
// one gives, whatever the clock, the settings and the prepared statements are by then.
func TestRule10_KeptPlansAreThoseOfAFreshTemplate(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/plan/*.txt")
	require.NoError(t, err)
	later := goldenBracket()
	later.Lo, later.Hi = later.Lo.Shift(time.Hour), later.Hi.Shift(time.Hour)
	kept := 0
	for _, path := range files {
		for _, c := range readGolden(t, path) {
			env, args, _ := c.setup(t)
			other := Env{TimeZone: "Etc/GMT-9", DateStyle: "SQL, DMY", Own: Own{Mode: modeStored, Unbounded: "error"}, Hidden: true, Catalog: env.Catalog}
			args.Prepared = func(string) ([]Candidate, bool) { return []Candidate{{Template: Prepare("select 1", nil, env)}}, true }
			old := Prepare(c.sql, args.OIDs, env)
			first := old.Bind(args, env, goldenBracket(), nil)
			if old.fixed.Load() != nil {
				kept++
			}
			require.Equal(t, first, old.Bind(args, env, goldenBracket(), nil), c.sql)
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
				got := formatPlan(tmpl, plan) + formatUnder(env, plan)
				if !*update && got != c.want {
					t.Errorf("%s%s\ngot:\n%s\nwant:\n%s", c.directives, c.sql, got, c.want)
				}
				fmt.Fprintf(&out, "%s%s\n----\n%s\n\n", c.directives, c.sql, got)
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
