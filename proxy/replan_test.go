package proxy

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/internal/market"
	"barkeep/internal/pgtest"
)

// TestRule19_APlanThatIsKeptShowsWhatWasFilled: PostgreSQL keeps the plan of a prepared statement, with the chunks that there were when it was
// made, and within a block it takes no note of new ones by itself. What was filled into a new chunk, for the statement itself or for
// others, is in its answer all the same.
func TestRule19_APlanThatIsKeptShowsWhatWasFilled(t *testing.T) {
	t.Parallel()
	const (
		of      = "select count(*) from ohlcv where symbol = 'sim:KPTUSD' and timeframe = '1m' and ts >= '2024-01-01 00:00Z' and ts < '2024-01-01 00:10Z'"
		each    = "select count(*) from ohlcv where symbol = $1 and timeframe = '1m' and ts >= '2024-01-01 00:00Z' and ts < '2024-01-01 00:10Z'"
		generic = "Q set plan_cache_mode = force_generic_plan\nwait Z\n"
		stored  = "Q set local barkeep.mode = stored\nwait Z\n"
		wait    = "Q set local barkeep.mode = wait\nwait Z\n"
	)
	for name, script := range map[string]string{
		"parsed in the block":          "Q begin\nwait Z\nP v " + of + "\nD S v\nS\nwait Z\nB - v\nE -\nS\nwait Z",
		"parsed before it":             "P v " + of + "\nS\nwait Z\nQ begin\nwait Z\nQ select 1\nwait Z\nB - v\nE -\nS\nwait Z",
		"unnamed":                      "Q begin\nwait Z\nP - " + of + "\nS\nwait Z\nB - -\nE -\nS\nwait Z",
		"with parameters":              generic + "Q begin\nwait Z\nP v " + each + "\nS\nwait Z\nB - v sim:KPTUSD\nE -\nS\nwait Z",
		"in a portal":                  "Q begin\nwait Z\nP v " + of + "\nS\nwait Z\nB p v\nS\nwait Z\nE p\nS\nwait Z",
		"executed before":              "Q begin\nwait Z\n" + stored + "P v " + of + "\nB - v\nE -\nS\nwait Z\n" + wait + "B - v\nE -\nS\nwait Z",
		"by EXECUTE":                   "Q begin\nwait Z\n" + stored + "Q prepare v as " + of + "\nwait Z\nQ execute v\nwait Z\n" + wait + "Q execute v\nwait Z",
		"filled for others":            "Q begin\nwait Z\n" + stored + "P v " + of + "\nB - v\nE -\nS\nwait Z\n" + wait + "do fill\nB - v\nE -\nS\nwait Z",
		"filled for others, pipelined": "Q begin\nwait Z\n" + stored + "P v " + of + "\nB - v\nE -\nS\nwait Z\n" + wait + "do fill\nQ select 1\nB - v\nE -\nS\nwait Z 2",
		"for others, by EXECUTE":       "Q begin\nwait Z\n" + stored + "Q prepare v as " + of + "\nwait Z\nQ execute v\nwait Z\n" + wait + "do fill\nQ execute v\nwait Z",
		"in an open pipeline":          "Q begin\nwait Z\n" + stored + "P v " + of + "\nB - v\nE -\nS\nwait Z\n" + wait + "P - select 1\nB - -\nE -\nH\nwait C\ndo fill\nB - v\nE -\nS\nwait Z",
		"by a cursor":                  "Q begin\nwait Z\n" + stored + "Q prepare v as " + of + "\nwait Z\nQ execute v\nwait Z\n" + wait + "do fill\nQ create temp table t as execute v\nwait Z\nQ select * from t\nwait Z",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t, nil)
			series, err := market.ParseSymbol("sim:KPTUSD")
			require.NoError(t, err)
			record, err := pgtest.Play(t.Context(), pgtest.Peer{URL: b.url, Hooks: map[string]func(context.Context, []string) error{
				"fill": func(ctx context.Context, _ []string) error {
					return b.fill(ctx, market.Series{Symbol: series, Timeframe: market.M1})
				},
			}}, script)
			require.NoError(t, err)
			last := ""
			for _, step := range record.Steps {
				for _, line := range step.Seen {
					if line[0] == 'D' || line[0] == 'E' {
						last = line
					}
				}
			}
			if name == "in an open pipeline" {
				require.Contains(t, last, "E ERROR 40001")
				return
			}
			require.Equal(t, "D 10", last)
		})
	}
}
