package proxy

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"barkeep/internal/pgtest"
)

// PROTOCOL 1, 5: where a statement of a pipeline fails before its hold has ended, nothing that comes before it in its segment is executed, also not what no
// rollback takes back. The error says that it may not be of the first statement, for whose a driver takes it.
func TestNothingIsExecutedForAnError(t *testing.T) {
	const (
		counts   = "P - insert into half select nextval('counter')\nB - -\nE -\n"
		prepares = "P s select count(*) from ohlcv where symbol = $1 and timeframe = '1m' and ts >= $2::timestamptz and ts < '2024-01-02Z'\n"
		wrong    = "P - select from ohlcv where symbol = 'sim:BTCUSD' and timeframe = '7m'\nB - -\nE -\n"
	)
	fails := &scripted{}
	b := start(t, func(c *Config) { fails.Coordinator, c.Coordinator = c.Coordinator, fails })
	var unknown error = stated{"22023", "do this"}
	fails.reason.Store(&unknown)
	_, err := b.db.Pool.Exec(t.Context(), "create sequence public.counter; create table public.half (a int)")
	require.NoError(t, err)
	b.refresh(t)
	for name, each := range map[string]struct {
		script, code string
		together     bool
	}{
		"a refusal":              {counts + wrong + "S", "22023", true},
		"a fetch":                {counts + "P - " + read + "\nB - -\nE -\nS", "22023", true},
		"a Bind":                 {counts + prepares + "B - s sim:BTCUSD soon\nE -\nS", "22007", true},
		"a Parse":                {counts + "P - selec" + read + "\nB - -\nE -\nS", "42601", true},
		"behind a read":          {"P - " + read + "\nB - -\nE -\n" + counts + wrong + "S", "22023", true},
		"then a Flush":           {counts + wrong + "H\nwait E\nS", "22023", true},
		"a portal from before":   {"Q begin\nwait Z\nP - insert into half select nextval('counter')\nB p -\nS\nwait Z\nE p\n" + wrong + "S\nwait Z\nQ rollback", "22023", true},
		"before all others":      {wrong + counts + "S", "22023", false},
		"alone":                  {wrong + "S", "22023", false},
		"behind its BEGIN alone": {"P - begin\nB - -\nE -\n" + wrong + "S\nwait Z\nQ rollback", "22023", false},
	} {
		t.Run(name, func(t *testing.T) {
			record, err := pgtest.Play(t.Context(), pgtest.Peer{URL: b.url}, each.script+"\nwait Z")
			require.NoError(t, err, record)
			var answers []string
			for _, step := range record.Steps {
				for _, text := range step.Seen {
					if strings.HasPrefix(text, "E ") {
						answers = append(answers, text)
					}
					require.NotEqual(t, "C INSERT 0 1", text)
				}
			}
			require.Len(t, answers, 1)
			require.Contains(t, answers[0], "E ERROR "+each.code)
			require.Equal(t, each.together, strings.Contains(answers[0], "D="+together), answers[0])
			rows, _ := b.db.Pool.Query(t.Context(), "select is_called or exists (select from public.half) from public.counter")
			done, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[bool])
			require.NoError(t, err)
			require.False(t, done)
		})
	}
}
