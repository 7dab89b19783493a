package proxy

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/internal/market"
	"barkeep/internal/pgtest"
)

// PROTOCOL 5: where a Bind fails by its parameters before its hold, what comes before it in its segment is upstream as if it had been relayed: its
// messages are answered, and the prepared statements that they make, replace and close are made, replaced and closed.
func TestRefusedBind(t *testing.T) {
	const (
		bad  = " sim:BTCUSD 2023-13-45\nE -\n"
		good = "\nwait Z\ndo fill\nB - s sim:BTCUSD 2024-01-01Z\nE -\nS"
	)
	quiet := func(c *Config) { c.NoticeAfter = never }
	through, held := start(t, quiet), start(t, func(c *Config) { quiet(c); c.ForceHold = time.Millisecond })
	for name, script := range map[string]string{
		"unnamed":                 "P - " + askedRead + "\nB - -" + bad + "S\nwait Z\ndo fill\nB - - sim:BTCUSD 2024-01-01Z\nE -\nS",
		"named":                   "P s " + askedRead + "\nB - s" + bad + "S" + good,
		"into a portal":           "P s " + askedRead + "\nB p s sim:BTCUSD soon\nE p\nS" + good,
		"described":               "P s " + askedRead + "\nD S s\nB - s" + bad + "D P -\nS" + good,
		"prepared before":         "P s " + askedRead + "\nS\nwait Z\nB - s" + bad + "S" + good,
		"then others":             "P s " + askedRead + "\nB - s" + bad + "P a select 8\nB - a\nE -\nC S s\nS\nwait Z\nB - a\nE -\nS" + good,
		"behind another":          "P a select 8\nP s " + askedRead + "\nB - s" + bad + "S\nwait Z\nB - a\nE -\nS" + good,
		"a name taken back":       "P s select 7\nP b select 8\nS\nwait Z\nC S b\nC S s\nP s " + askedRead + "\nB - s" + bad + "S\nwait Z\nB - b\nS" + good,
		"up to a Flush":           "P s " + askedRead + "\nB - s" + bad + "H\nwait E\nP a select 8\nS\nwait Z\nB - a\nS" + good,
		"Flushes between":         "P s " + askedRead + "\nH\nwait 1\nD S s\nH\nwait T\nB - s" + bad + "H\nwait E\nS" + good,
		"in a block":              "Q begin\nwait Z\nP s " + askedRead + "\nB - s" + bad + "S\nwait Z\nB - s sim:BTCUSD 2024-01-01Z\nE -\nS\nwait Z\nQ rollback" + good,
		"in a block, back":        "Q begin; create temp table t (a int); savepoint x\nwait Z\nP s " + askedRead + "\nB - s" + bad + "S\nwait Z\nQ rollback to x\nwait Z\nQ commit\nwait Z\nQ select count(*) from t" + good,
		"a block that writes":     "Q begin; create temp table t (a int)\nwait Z\ndo fill\ndo forget\nP s with i as (insert into t select count(*) from ohlcv where symbol = $1 and timeframe = '1m' and ts >= $2::timestamptz and ts < '2024-01-02Z' returning a) select a from i\nB - s sim:BTCUSD 2024-01-01Z\nE -\nS\nwait Z\nB - s" + bad + "S\nwait Z\nQ commit",
		"a block that locks":      "Q begin; create temp table t (a int)\nwait Z\ndo fill\ndo forget\nP s select t.a from t where (select count(*) from ohlcv where symbol = $1 and timeframe = '1m' and ts >= $2::timestamptz and ts < '2024-01-02Z') > 0 for update\nB - s sim:BTCUSD 2024-01-01Z\nE -\nS\nwait Z\nB - s" + bad + "S\nwait Z\nQ commit",
		"with its BEGIN":          "P - begin\nB - -\nE -\nP s " + askedRead + "\nB - s" + bad + "S\nwait Z\nQ rollback" + good,
		"pipelined":               "Q select 1\nP s " + askedRead + "\nB - s" + bad + "S\nP a " + askedRead + "\nB - a" + bad + "S\nQ select 2\nwait Z 3\nQ select 3" + good,
		"pipelined, a block":      "Q begin\nP s " + askedRead + "\nB - s" + bad + "S\nP a " + askedRead + "\nB - a" + bad + "S\nwait Z 2\nQ rollback" + good,
		"no end of it":            "P s " + askedRead + "\nB - s" + bad + "Q select 1\nS\nwait Z\nQ select 2" + good,
		"does not parse":          "P a select 8\nP s selec " + askedRead + "\nB - s" + bad + "S\nwait Z\nQ select 1",
		"does not parse, a block": "Q begin\nwait Z\nP a select 8\nP s selec " + askedRead + "\nB - s" + bad + "S\nwait Z\nQ rollback\nwait Z\nB - a\nE -\nS",
		"no such column":          "P a select 8\nP s select nothing from ohlcv where symbol = $1 and timeframe = '1m' and ts > $2\nB - s" + bad + "S\nwait Z\nB - a\nE -\nS",
		"too few":                 "P a select 8\nP s " + askedRead + "\nB - s sim:BTCUSD\nE -\nS" + good,
		"too few, in a block":     "Q begin\nwait Z\nP s " + askedRead + "\nB - s sim:BTCUSD\nE -\nS\nwait Z\nQ rollback" + good,
		"of another type":         "P s select close from ohlcv where symbol = $1 and timeframe = '1m' and volume > $2::int\nB - s" + bad + "S\nwait Z\nQ select 1",
		"in its own question":     "Q create temp table mine (symbol text, ts timestamptz)\nwait Z\nP s select count(*) from ohlcv where symbol in (select symbol from mine where ts > $2::timestamptz) and timeframe = $1\nB - s 1m 2023-13-45\nE -\nS\nwait Z\nQ select 1",
	} {
		t.Run(name, func(t *testing.T) {
			script += "\nwait Z\nQ select string_agg(name, ' ' order by name) from pg_prepared_statements\nwait Z"
			want := through.answers(t, through.db.URL, script)
			require.Contains(t, strings.Join(want, "\n"), "E ERROR")
			require.Equal(t, want, through.answers(t, through.url, script))
			require.Equal(t, want, held.answers(t, held.url, script), "held")
		})
	}
}

// answers plays a script on the series sim:BTCUSD, which is not covered at its beginning, at the address.
func (b *bar) answers(t *testing.T, address, script string) (all []string) {
	t.Helper()
	forget := func(context.Context, []string) error { b.forget(nil); return nil }
	require.NoError(t, forget(t.Context(), nil))
	record, err := pgtest.Play(t.Context(), pgtest.Peer{URL: address, Hooks: map[string]func(context.Context, []string) error{
		"fill": func(ctx context.Context, _ []string) error {
			return b.fill(ctx, market.Series{Symbol: "sim:BTCUSD", Timeframe: market.M1})
		},
		"forget": forget,
	}}, script)
	require.NoError(t, err, record)
	for _, step := range record.Steps {
		all = append(all, step.Seen...)
	}
	return all
}
