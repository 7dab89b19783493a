package proxy

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/internal/pgtest"
)

// PROTOCOL 1, 5: where barkeep refuses a statement of a Query, those before it give their results, and leave what PostgreSQL would leave: it executes
// one after the other, and takes back what is in one transaction with the one that fails.
func TestResultsBeforeRefusal(t *testing.T) {
	b := start(t, nil)
	const refused = "select from ohlcv where symbol = 'sim:BTCUSD' and timeframe = '7m'"
	for name, script := range map[string]string{
		"a result":             "Q select 1; FAIL; select 2",
		"two":                  "Q select 1; select 2; FAIL",
		"nothing before":       "Q ; FAIL",
		"a text with a ;":      "Q select ';' /* ; */; FAIL",
		"a comment to its end": "Q select 1; -- FAIL",
		"taken back":           "Q insert into pg_temp.t values (1); FAIL\nwait Z\nQ select count(*) from t",
		"COMMIT before":        "Q insert into pg_temp.t values (1); commit; FAIL\nwait Z\nQ select count(*) from t",
		"begins a block":       "Q begin; select 1; FAIL\nwait Z\nQ select 2\nwait Z\nQ rollback",
		"in a block":           "Q begin\nwait Z\nQ select 1; FAIL\nwait Z\nQ select 2\nwait Z\nQ rollback",
		"behind its end":       "Q begin\nwait Z\nQ commit; FAIL\nwait Z\nQ select 2",
		"fails before":         "Q select 1/0; FAIL",
		"fails in its block":   "Q begin; select 1/0; FAIL\nwait Z\nQ rollback",
		"PREPARE stays":        "Q prepare x as select 9; FAIL\nwait Z\nQ execute x\nwait Z\nB - x\nE -\nS",
		"SET is taken back":    "Q set timezone = 'Asia/Tokyo'; FAIL\nwait Z\nQ show timezone",
		"a COPY":               "Q copy t from stdin; FAIL\nwait G\nd 5\nc",
		"no transaction":       "Q vacuum; FAIL",
		"pipelined":            "Q select 1; FAIL\nQ select 2; FAIL\nQ select 3\nP - select 4\nB - -\nE -\nS\nwait Z 3",
		"does not parse":       "Q select 1; FAIL; selec",
	} {
		t.Run(name, func(t *testing.T) {
			script = "Q create temp table t (a int)\nwait Z\n" + script + "\nwait Z"
			straight := b.shapes(t, b.db.URL, strings.ReplaceAll(script, "FAIL", "select 1/0"))
			through := b.shapes(t, b.url, strings.ReplaceAll(script, "FAIL", refused))
			for _, list := range [][]string{straight, through} {
				for i, text := range list {
					if text == "E ERROR 22012" || text == "E ERROR 22023" {
						list[i] = "E refused"
					}
				}
			}
			require.Equal(t, straight, through)
		})
	}
	got := b.shapes(t, b.url, "Q set barkeep.mode = 'no'; select 1; "+refused+"\nwait Z\nQ select 1; insert into ohlcv default values\nwait Z")
	require.Equal(t, []string{"E ERROR 22023", "Z I", "T", "D 1", "C SELECT 1", "E ERROR 42501", "Z I"}, got, "what is refused itself is not executed")
	require.Empty(t, b.requested())
}

// PROTOCOL 5: what a hold asks the upstream beforehand under names of the proxy's own is answered with the client's.
func TestOwnNamesAreNotSeen(t *testing.T) {
	t.Parallel()
	const asking = "select count(*) from ohlcv where symbol = $1 and timeframe = '1m' and ts >= $2::timestamptz and ts < '2024-01-02Z'"
	for name, script := range map[string]string{
		"too many":             "P - " + asking + "\nB - - sim:BTCUSD 2024-01-01Z x\nE -\nS",
		"too many, named":      "P s " + asking + "\nB p s sim:BTCUSD 2024-01-01Z x\nE p\nS",
		"too many, prepared":   "P s " + asking + "\nS\nwait Z\nB p s sim:BTCUSD 2024-01-01Z x\nE p\nS",
		"too few":              "P s " + asking + "\nB p s sim:BTCUSD\nE p\nS",
		"too few, prepared":    "P s " + asking + "\nS\nwait Z\nB - s sim:BTCUSD\nE -\nS",
		"no time":              "P s " + asking + "\nB p s sim:BTCUSD soon\nE p\nS",
		"no time, unnamed":     "P - " + asking + "\nB - - sim:BTCUSD soon\nE -\nS",
		"a name that is taken": "P s select 7\nS\nwait Z\nP s " + asking + "\nB - s sim:BTCUSD 2024-01-01Z x\nE -\nS\nwait Z\nB - s\nE -\nS",
		"taken, in a block":    "P s select 7\nS\nwait Z\nQ begin\nwait Z\nP s " + asking + "\nB - s sim:BTCUSD 2024-01-01Z\nE -\nS\nwait Z\nQ rollback\nwait Z\nB - s\nE -\nS",
		"taken, then closed":   "P s select 7\nS\nwait Z\nC S s\nP s " + asking + "\nB - s sim:BTCUSD 2024-01-01Z x\nE -\nS",
		"does not parse":       "P s selec" + asking + "\nB - s sim:BTCUSD 2024-01-01Z\nE -\nS",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t, nil)
			errs := func(address string) []string {
				got, err := pgtest.Seen(t.Context(), address, script+"\nwait Z")
				require.NoError(t, err)
				return slices.DeleteFunc(got, func(text string) bool { return !strings.HasPrefix(text, "E ") && !strings.HasPrefix(text, "D ") })
			}
			through := errs(b.url)
			require.Empty(t, b.requested())
			require.Equal(t, errs(b.db.URL), through)
		})
	}
}
