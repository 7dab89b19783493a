package planner

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// reference is docs/sql.md.
func reference(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile("../docs/sql.md")
	require.NoError(t, err)
	return string(raw)
}

var reasonConstant = regexp.MustCompile(`(?m)^\tReason\w+ += "(\w+)"$`)

// reasonCodes are those that plan.go declares.
func reasonCodes(t *testing.T) []string {
	t.Helper()
	raw, err := os.ReadFile("plan.go")
	require.NoError(t, err)
	var codes []string
	for _, found := range reasonConstant.FindAllStringSubmatch(string(raw), -1) {
		codes = append(codes, found[1])
	}
	require.Greater(t, len(codes), 6)
	return codes
}

var sqlBlock = regexp.MustCompile("(?s)```sql\n(.*?)\n```(?:\n```text\n(.*?)\n```)?")

// planned plans an example, at the clock of the golden plans.
func planned(sql string) (*Template, Plan) {
	env := Env{}
	if strings.HasPrefix(sql, "-- with barkeep.max_bars = 1,") {
		env.MaxBars = "1"
	}
	if strings.Contains(sql, "200 of them") {
		terms := make([]string, 200)
		for i := range terms {
			terms[i] = "symbol = 'S" + strconv.Itoa(i) + "' and ts >= '2024-01-01Z'::timestamptz + interval '" + strconv.Itoa(i) + " days' and ts < '2025-01-01Z'"
		}
		sql = strings.Replace(sql, "(…)", "("+strings.Join(terms, " or ")+")", 1)
	}
	tmpl := Prepare(sql, nil, env)
	plan := tmpl.Bind(Args{}, env, goldenBracket(), nil)
	if len(plan.Questions) > 0 && env.MaxBars != "" {
		both := `{"t": ["sim:A", "sim:B"], "n": null}`
		plan = tmpl.Bind(Args{}, env, goldenBracket(), Answers{plan.Questions[0].Key: &both})
	}
	return tmpl, plan
}

// The examples of the reference need what it says.
func TestReferenceExamples(t *testing.T) {
	t.Parallel()
	examples := 0
	for _, block := range sqlBlock.FindAllStringSubmatch(reference(t), -1) {
		if block[2] == "" {
			continue
		}
		examples++
		tmpl, plan := planned(block[1])
		require.Equal(t, block[2], formatPlan(tmpl, plan), block[1])
	}
	require.Greater(t, examples, 8)
}

// Every reason code has its section in the reference, the examples there give that reason, and those after "Better" do not, nor a refusal.
func TestReferenceReasonCodes(t *testing.T) {
	t.Parallel()
	text := reference(t)
	for _, code := range reasonCodes(t) {
		_, section, found := strings.Cut(text, "\n### `"+code+"`\n")
		require.True(t, found, "%s is not in docs/sql.md", code)
		if end := strings.Index(section, "\n#"); end >= 0 {
			section = section[:end]
		}
		bad, better, found := strings.Cut(section, "\nBetter:")
		require.True(t, found, code)
		examples := sqlBlock.FindAllStringSubmatch(bad, -1)
		require.NotEmpty(t, examples, code)
		for _, example := range examples {
			_, plan := planned(example[1])
			codes := map[string]bool{}
			for _, r := range plan.Reasons {
				codes[r.Code] = true
			}
			require.True(t, codes[code], "%s: %s gives %v", code, example[1], plan.Reasons)
		}
		for _, example := range sqlBlock.FindAllStringSubmatch(better, -1) {
			_, plan := planned(example[1])
			require.Empty(t, plan.Reasons, example[1])
			require.Nil(t, plan.Refusal, example[1])
		}
	}
}

// Every setting that the planner follows is in the reference, with its values.
func TestReferenceSettings(t *testing.T) {
	t.Parallel()
	text := reference(t)
	for _, mode := range []string{modeWait, modePartial, modeStored, modeStrict} {
		require.Contains(t, text, "`"+mode+"`")
	}
	for _, name := range []string{"mode", "timeout", "max_bars", "freshness", "unbounded"} {
		require.NotNil(t, new(Own).field(ownPrefix+name))
		require.Contains(t, text, "\n| `"+ownPrefix+name+"` |")
	}
}
