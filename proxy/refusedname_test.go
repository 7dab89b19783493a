package proxy

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/internal/market"
)

// PROTOCOL 5: where a Bind or an EXECUTE names what is not prepared, what comes before it in its segment is answered, and done, as if it had been
// relayed.
func TestUnknownName(t *testing.T) {
	const (
		good = " sim:BTCUSD 2024-01-01Z\n"
		one  = "P a select 8\nB - a\nE -\n"
	)
	quiet := func(c *Config) { c.NoticeAfter = never }
	through, held := start(t, quiet), start(t, func(c *Config) { quiet(c); c.ForceHold = time.Millisecond })
	for _, b := range []*bar{through, held} {
		require.NoError(t, b.fill(t.Context(), market.Series{Symbol: "sim:BTCUSD", Timeframe: market.M1}))
	}
	still := map[string]string{ // what is sent for an error's sake
		"nothing":       "",
		"a Parse":       "P a select 8\n",
		"a description": "P a select 8\nD S a\n",
		"a Close":       "C S a\n",
		"a Parse of it": "P s " + askedRead + "\n",
		"a BEGIN":       "P - begin\nB - -\nE -\n",
	}
	acts := map[string]string{
		"a statement":     one,
		"a bound one":     "P a select 8\nB - a\n",
		"a portal":        "P a select 8\nB p a\n",
		"one that reads":  "P s " + askedRead + "\nB - s" + good,
		"a read":          "P s " + askedRead + "\nB - s" + good + "E -\n",
		"a setting":       "P - set timezone to 'UTC'\nB - -\nE -\n",
		"a write":         "P - create temp table w (a int)\nB - -\nE -\n",
		"a Flush":         one + "H\nwait C\n",
		"a read, a Flush": "P s " + askedRead + "\nB - s" + good + "E -\nH\nwait C\n",
	}
	binds := map[string]string{
		"Bind":           "B - nothing\nE -\nS",
		"Bind alone":     "B - nothing\nS",
		"with arguments": "B - nothing" + good + "E -\nS",
		"into a portal":  "B q nothing\nE q\nS",
		"closed":         "P gone " + askedRead + "\nC S gone\nB - gone" + good + "E -\nS",
		"Describe":       "D S nothing\nS",
		"DEALLOCATE":     "P - deallocate nothing\nB - -\nE -\nS",
		"up to a Flush":  "B - nothing\nH\nwait E\nP b select 9\nS",
	}
	executes := map[string]string{
		"EXECUTE":               "P - execute nothing\nB - -\nE -\nS",
		"EXECUTE, described":    "P - execute nothing\nB - -\nD P -\nE -\nS",
		"EXECUTE, named":        "P x execute nothing('a', 'b')\nB q x\nE q\nS",
		"EXECUTE, then others":  "P x execute nothing\nB - x\nE -\nP b select 9\nB - b\nE -\nC S x\nS",
		"EXECUTE up to a Flush": "P x execute nothing\nB - x\nE -\nH\nwait E\nP b select 9\nS",
		"EXPLAIN":               "P - explain analyze execute nothing\nB - -\nE -\nS",
		"AS EXECUTE":            "P - create temp table made as execute nothing\nB - -\nE -\nS",
	}
	check := func(befores, ends map[string]string) {
		for before, first := range befores {
			for end, last := range ends {
				for _, in := range []string{"", "Q begin\nwait Z\n", "Q select 1\nwait Z\n", "Q select 1\n"} {
					piped := strings.HasSuffix(in, "1\n")
					if piped && strings.Contains(first+last, "wait") {
						continue // that would be for the Query
					}
					script, count := in+first+last, " 1"
					if piped {
						count = " 2"
					}
					script += "\nwait Z" + count + "\nQ rollback\nwait Z\nQ select string_agg(name, ' ' order by name) from pg_prepared_statements\nwait Z"
					want := through.answers(t, through.db.URL, script)
					require.Contains(t, strings.Join(want, "\n"), "E ERROR", script)
					require.Equal(t, want, through.answers(t, through.url, script), "%s, %s: %s", before, end, script)
					require.Equal(t, want, held.answers(t, held.url, script), "held: %s, %s: %s", before, end, script)
				}
			}
		}
	}
	check(still, binds)
	check(acts, binds)
	check(still, executes)
	// Behind what is executed nothing is sent: a function may have prepared it by then, of what nobody knows.
	for before, first := range acts {
		for end, last := range executes {
			if strings.Contains(first+last, "wait") || before == "a setting" || before == "a write" { // which have another error of their own
				continue
			}
			seen := through.answers(t, through.url, first+last+"\nwait Z")
			require.Len(t, seen, 2, "%s, %s: %v", before, end, seen)
			require.Contains(t, seen[0], "E ERROR 26000", "%s, %s", before, end)
			require.Contains(t, seen[0], together, "%s, %s", before, end)
		}
	}
}
