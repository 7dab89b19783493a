package proxy

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// PROTOCOL 1: which statement an EXECUTE means is found out when its portal is executed, not when that is bound: its bars are there by then.
func TestAPortalThatExecutesAnotherStatement(t *testing.T) {
	b := start(t, func(c *Config) { c.NoticeAfter = never })
	const (
		first  = "Q prepare foo as select 7::bigint\nwait Z\nQ begin\nwait Z\n"
		reads  = "select count(*) from ohlcv where symbol = 'sim:ETHUSD' and timeframe = '1m' and ts >= '2024-01-01Z' and ts < '2024-01-02Z'"
		takes  = "select count(*) from ohlcv where symbol = $1 and timeframe = '1m' and ts >= '2024-01-01Z' and ts < '2024-01-02Z'"
		again  = "Q deallocate foo\nwait Z\nQ prepare foo as " + reads + "\nwait Z\n"
		named  = "P x execute foo\nB q x\nS\nwait Z\n"
		behind = "P d deallocate foo\nB d d\nE d\nP n prepare foo as " + reads + "\nB n n\nE n\n"
	)
	for name, script := range map[string]string{
		"another":         first + named + again + "E q\nS\nwait Z",
		"of ohlcv before": "Q prepare foo as " + strings.Replace(reads, "ETH", "BTC", 1) + "\nwait Z\nQ begin\nwait Z\n" + named + again + "E q\nS\nwait Z",
		"with a value":    "Q prepare foo(text) as select 7::bigint\nwait Z\nQ begin\nwait Z\nP x execute foo('sim:ETHUSD')\nB q x\nS\nwait Z\nQ deallocate foo; prepare foo(text) as " + takes + "\nwait Z\nE q\nS\nwait Z",
		"behind a Flush":  first + "P x execute foo\nB q x\nH\nwait 2\n" + behind + "E q\nS\nwait Z",
		"the same":        "Q prepare foo as " + reads + "\nwait Z\nQ begin\nwait Z\n" + named + "E q\nS\nwait Z",
		"one release":     first + "P x execute foo\nB q x\n" + behind + "E q\nS\nwait Z",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := b.db.Pool.Exec(t.Context(), "delete from public.ohlcv")
			require.NoError(t, err)
			seen := b.playedToTheEnd(t, script)
			require.NotContains(t, seen, "D 0", "answered from what is stored")
			if !strings.Contains(seen, "E ERROR 0A000") && !strings.Contains(seen, "E ERROR 40001") { // in a pipeline it may be refused
				require.Contains(t, seen, "D 10", seen)
			} else {
				require.Contains(t, []string{"behind a Flush", "one release"}, name, seen)
			}
		})
	}
}
