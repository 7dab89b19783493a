package proxy

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A Query destroys the unnamed statement, also one that fails before its hold in PostgreSQL's own words (exec_simple_query).
func TestAFailedQueryDestroysTheUnnamedStatement(t *testing.T) {
	b := start(t, func(c *Config) { c.NoticeAfter, c.ForceHold = never, time.Millisecond })
	const then = "B - -\nE -\nS\nwait Z\nP - select 9\nB - -\nE -\nS\nwait Z\nQ rollback\nwait Z"
	for name, script := range map[string]string{
		"it was answered":   "P - select 8\nS\nwait Z\nQ select nothing\nwait Z\n" + then,
		"it is outstanding": "P - select 8\nS\nQ select nothing\nwait Z 2\n" + then,
		"no Sync":           "P - select 8\nQ select nothing\nwait Z\n" + then,
		"of ohlcv":          "P - select 8\nS\nwait Z\nQ select nothing from ohlcv where symbol = 'sim:BTCUSD' and timeframe = '1m'\nwait Z\n" + then,
		"in a block":        "Q begin\nwait Z\nP - select 8\nS\nwait Z\nQ savepoint a\nwait Z\nQ select nothing\nwait Z\nQ rollback to a\nwait Z\n" + then,
		"in a failed one":   "P - select 8\nS\nwait Z\nQ begin; select nothing\nwait Z\nP - rollback\nS\nwait Z\n" + then,
		"a named one stays": "P s select 8\nS\nwait Z\nQ select nothing\nwait Z\nB - s\nE -\nS\nwait Z\n" + then,
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, b.answers(t, b.db.URL, script), b.answers(t, b.url, script))
		})
	}
}
