package planner

import (
	"fmt"
	"math"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestSpeed_LongConditionsStayLinear: a condition of twice the length takes about twice the time to plan, parsing and all, and twice the
// memory. Four times the length is measured, which tells a square from a line in spite of what else the machine does.
func TestSpeed_LongConditionsStayLinear(t *testing.T) { //nolint:paralleltest // it measures
	texts := func(n int) []byte {
		var list strings.Builder
		for i := range n {
			fmt.Fprintf(&list, ",SYMBOL%d", i)
		}
		return []byte("{" + list.String()[1:] + "}")
	}
	or := func(n int, term string) string {
		terms := make([]string, n)
		for i := range terms {
			terms[i] = fmt.Sprintf(term, i, i%28+1)
		}
		return "(" + strings.Join(terms, " or ") + ")"
	}
	for name, each := range map[string]struct {
		n    int
		text func(n int) (string, Args)
	}{
		"= ANY of 5,000": {5000, func(n int) (string, Args) {
			return "symbol = any($1) and timeframe = '1d' and ts > '2024-01-01Z'", Args{Values: [][]byte{texts(n)}}
		}},
		"times = ANY of 5,000": {5000, func(n int) (string, Args) {
			var list strings.Builder
			for i := range n {
				fmt.Fprintf(&list, ",2024-01-01 00:%02d:%02d.%dZ", i/60%60, i%60, i/3600)
			}
			return "symbol = 'A' and timeframe = '1d' and ts = any($1)", Args{Values: [][]byte{[]byte("{" + list.String()[1:] + "}")}}
		}},
		"OR of 200 symbols": {200, func(n int) (string, Args) {
			return "timeframe = '1d' and ts > '2024-01-01Z' and " + or(n, "symbol = 'S%d' /* %d */"), Args{}
		}},
		"OR of 200 series and times": {200, func(n int) (string, Args) {
			return "timeframe = '1d' and " + or(n, "(symbol = 'S%d' and ts >= '2024-01-%02dZ' and ts < '2024-02-01Z')"), Args{}
		}},
		"NOT OR of 200": {200, func(n int) (string, Args) {
			return "symbol = 'A' and timeframe = '1d' and not " + or(n, "(symbol = 'S%d' and ts >= '2024-01-%02dZ' and close > 10)"), Args{}
		}},
		"OR of 200 days": {200, func(n int) (string, Args) {
			return "symbol = 'A' and timeframe = '1d' and " + or(n, "(ts >= '2024-01-01 %[1]d:00Z'::timestamptz or ts::date = '2024-01-%02[2]d')"), Args{}
		}},
	} {
		growth, memory := 0.0, 0.0
		for range 4 { // others may be at work on this machine
			if growth, memory = grows(t, each.n, each.text); growth < 2.6 {
				break
			}
		}
		t.Logf("%s: twice the length takes %.2f times as long and %.2f times the allocations", name, growth, memory)
		require.Less(t, growth, 3.0, name) // a square has 4
		require.Less(t, memory, 2.5, name)
	}
}

// grows returns how many times as long a condition of twice the length takes, by the best of many runs of one and of one of four times
// the length in turn, and how many times the allocations it makes.
func grows(t *testing.T, n int, text func(n int) (string, Args)) (growth, memory float64) {
	t.Helper()
	plan := func(n int) func() {
		where, args := text(n)
		return func() {
			tmpl := Prepare("select * from ohlcv where "+where, nil, Env{})
			require.NoError(t, tmpl.ParseErr)
			tmpl.Bind(args, Env{}, goldenBracket(), nil)
		}
	}
	one, four := plan(n), plan(4*n)
	least := func(best time.Duration, run func()) time.Duration {
		start := time.Now()
		run()
		return min(best, time.Since(start))
	}
	defer debug.SetGCPercent(debug.SetGCPercent(1000)) // it is the planner's time that is measured
	small, large := time.Hour, time.Hour
	for range 12 {
		small, large = least(small, one), least(large, four)
	}
	return math.Sqrt(float64(large) / float64(small)), math.Sqrt(testing.AllocsPerRun(1, four) / testing.AllocsPerRun(1, one))
}
