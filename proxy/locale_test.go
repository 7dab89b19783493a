package proxy

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"barkeep/internal/market"
	"barkeep/planner"
)

// TestLiteralsOfPreparedStatements: the literals of a prepared statement are read when it is analysed, in the settings of
// then (PLANNER 6, 9). The test asks PostgreSQL itself which bars the last execution reads.
func TestLiteralsOfPreparedStatements(t *testing.T) {
	const where = " from ohlcv where symbol = 'sim:ZONEUSD' and timeframe = '1m' and "
	minute := where + "ts >= '2024-10-28 21:10' and ts < '2024-10-28 21:20'"
	cast := where + "ts >= timestamptz '2024-10-28 21:10' and ts < timestamptz '2024-10-28 21:20'"
	day := where + "ts >= '04/05/2024' and ts < '04/05/2024'::timestamptz + interval '10 minutes'"
	york, tokyo := "set timezone = 'America/New_York'", "set timezone = 'Asia/Tokyo'"
	const unknownZone = 340 * time.Hour // a week to both sides
	anew := "set search_path = other, public"
	for name, each := range map[string]struct {
		text   string
		script []string // %s is the text; the last is the execution
		at     []string // times that have to be asked for
		most   time.Duration
	}{
		"as before":            {minute, []string{"prepare p as %s", "execute p"}, []string{"2024-10-28 21:10Z"}, 10 * time.Minute},
		"SET":                  {minute, []string{"prepare p as %s", york, "execute p"}, []string{"2024-10-28 21:10Z"}, 5 * time.Hour},
		"cast":                 {cast, []string{"prepare p as %s", york, "execute p"}, []string{"2024-10-28 21:10Z"}, 5 * time.Hour},
		"Parse":                {minute, []string{"parse %s", york, "bind"}, []string{"2024-10-28 21:10Z"}, 5 * time.Hour},
		"SET and back":         {minute, []string{york, "prepare p as %s", "set timezone = 'UTC'", "execute p"}, []string{"2024-10-29 01:10Z"}, 5 * time.Hour},
		"one Query":            {minute, []string{"prepare p as %s", york + "; execute p"}, []string{"2024-10-28 21:10Z"}, 40 * time.Hour},
		"PREPARE behind a SET": {minute, []string{york + "; prepare p as %s; set timezone = 'UTC'", "execute p"}, []string{"2024-10-29 01:10Z"}, unknownZone},
		"all in one Query":     {minute, []string{york + "; prepare p as %s; set timezone = 'UTC'; execute p"}, []string{"2024-10-29 01:10Z"}, 40 * time.Hour},
		"SET LOCAL":            {minute, []string{"begin", "set local timezone = 'Asia/Tokyo'", "prepare p as %s", "commit", "execute p"}, []string{"2024-10-28 12:10Z"}, 10 * time.Hour},
		"DateStyle":            {day, []string{"set datestyle = 'ISO, DMY'", "prepare p as %s", "set datestyle = 'ISO, MDY'", "execute p"}, []string{"2024-05-04 00:00Z"}, 31 * 24 * time.Hour},
		"analysed anew":        {minute, []string{"prepare p as %s", york, anew, "execute p"}, []string{"2024-10-29 01:10Z"}, 5 * time.Hour},
		"analysed in between":  {minute, []string{"prepare p as %s", tokyo, anew, "execute p", york, "execute p"}, []string{"2024-10-28 12:10Z"}, 14 * time.Hour},
		"analysed out of sight": {
			minute,
			[]string{"prepare p as %s", anew + "; " + tokyo + "; execute p; set timezone = 'UTC'", "execute p"},
			[]string{"2024-10-28 12:10Z"},
			40 * time.Hour,
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t, nil)
			b.lacks = []string{"all"}
			_, err := b.db.Pool.Exec(t.Context(), `insert into public.ohlcv select 'sim:ZONEUSD', '1m', at + i * interval '1 minute', 1, 1, 1, 1, 1
				from generate_series(0, 9) i, unnest($1::text[]::timestamptz[]) at`, each.at)
			require.NoError(t, err)
			_, err = b.db.Pool.Exec(t.Context(), "create schema other")
			require.NoError(t, err)
			conn := b.connect(t, nil)
			var read int64
			for _, text := range each.script {
				switch {
				case text == "bind":
					rows := conn.PgConn().ExecPrepared(t.Context(), "p", nil, nil, nil).Read()
					require.NoError(t, rows.Err)
					read = rows.CommandTag.RowsAffected()
				case strings.HasPrefix(text, "parse "):
					_, err := conn.PgConn().Prepare(t.Context(), "p", "select ts"+each.text, nil)
					require.NoError(t, err)
				default:
					if strings.Contains(text, "%s") {
						text = fmt.Sprintf(text, "select ts"+each.text)
					}
					tag, err := conn.Exec(t.Context(), text, pgx.QueryExecModeSimpleProtocol)
					require.NoError(t, err)
					read = tag.RowsAffected()
				}
			}
			require.EqualValues(t, 10*len(each.at), read, "PostgreSQL reads what the test says")
			b.mu.Lock()
			defer b.mu.Unlock()
			ranges := b.asked[len(b.asked)-1].Requirements[0].Ranges
			for _, at := range each.at {
				from, err := time.Parse("2006-01-02 15:04Z", at)
				require.NoError(t, err)
				bars := market.RangeSet{{Start: market.FromTime(from), End: market.FromTime(from.Add(10 * time.Minute))}}
				require.True(t, bars.Subtract(ranges).Empty(), "%s is not in %s", at, ranges)
			}
			bounds := ranges.Bounds()
			require.LessOrEqual(t, bounds.End.Time().Sub(bounds.Start.Time()), each.most, "%s", ranges)
		})
	}
}

func TestLocales(t *testing.T) {
	t.Parallel()
	var l locales
	for i := range 3 * maxLocales {
		l.add(planner.Locale{TimeZone: strconv.Itoa(i / 2)})
	}
	require.Equal(t, []planner.Locale{{TimeZone: strconv.Itoa(3*maxLocales/2 - 1)}}, l.since(l.last()))
	require.Contains(t, l.since(0), planner.Locale{Unknown: true})
	require.LessOrEqual(t, len(l.list), maxLocales+1)
}

// A text is read as its strings and its encoding were when it came.
func TestTextsAsTheyCame(t *testing.T) {
	const where = "from ohlcv where timeframe = '1m' and symbol in "
	b := start(t, nil)
	b.lacks = []string{"all"}
	conn := b.connect(t, nil)
	exec := func(text string) {
		t.Helper()
		_, err := conn.Exec(t.Context(), text, pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err)
	}
	exec("set standard_conforming_strings = off; set escape_string_warning = off")
	_, err := conn.PgConn().Prepare(t.Context(), "p", `select 1 `+where+`('\'', 'sim:B', '\'')`, nil)
	require.NoError(t, err)
	exec("set standard_conforming_strings = on")
	require.Equal(t, "0A000", code(conn.PgConn().ExecPrepared(t.Context(), "p", nil, nil, nil).Read().Err))

	exec("set client_encoding = 'LATIN1'")
	exec("prepare l as select 1 " + where + "('sim:\xc3\xa9')")
	exec("set client_encoding = 'UTF8'")
	exec("execute l")
	require.EqualValues(t, "sim:Ã©", b.requested()[len(b.requested())-1].Requirements[0].Series.Symbol)
}
