package proxy

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/internal/pgtest"
)

// TestRule8_CursorsGoOnInTheirSettings: a cursor compares ts with what a timestamp without zone is in the TimeZone of its
// FETCH. The bars of another time than that of its opening were not asked for.
func TestRule8_CursorsGoOnInTheirSettings(t *testing.T) {
	const of = "select count(*) from ohlcv where symbol = 'sim:CURUSD' and timeframe = '1m' and ts >= timestamp '2024-01-01 00:00' and ts < timestamp '2024-01-01 00:10'"
	for name, c := range map[string]struct{ script, want string }{
		"as it was":             {"Q begin; declare c cursor for " + of + "\nwait Z\nQ fetch c\nwait Z", "D 10"},
		"in one Query":          {"Q begin; declare c cursor for " + of + "; fetch c; set timezone = 'Asia/Tokyo'; commit\nwait Z", "D 10"},
		"another zone":          {"Q begin; declare c cursor for " + of + "\nwait Z\nQ set timezone = 'Asia/Tokyo'\nwait Z\nQ fetch c\nwait Z", "0A000"},
		"and back":              {"Q begin; declare c cursor for " + of + "\nwait Z\nQ set timezone = 'Asia/Tokyo'\nwait Z\nQ set timezone = 'UTC'\nwait Z\nQ fetch c\nwait Z", "D 10"},
		"by a savepoint":        {"Q begin; savepoint s; declare c cursor for " + of + "\nwait Z\nQ savepoint s2; set timezone = 'Asia/Tokyo'\nwait Z\nQ rollback to s2; fetch c\nwait Z", "0A000"},
		"extended":              {"Q begin; declare c cursor for " + of + "\nwait Z\nQ set timezone = 'Asia/Tokyo'\nwait Z\nP - fetch c\nB - -\nE -\nS\nwait Z", "0A000"},
		"a portal":              {"Q begin\nwait Z\nP - " + of + "\nB p -\nS\nwait Z\nQ set timezone = 'Asia/Tokyo'\nwait Z\nE p\nS\nwait Z", "0A000"},
		"a portal as it was":    {"Q begin\nwait Z\nP - " + of + "\nB p -\nS\nwait Z\nQ set application_name = 'x'\nwait Z\nE p\nS\nwait Z", "D 10"},
		"the unnamed portal":    {"Q begin\nwait Z\nP - " + of + "\nB - -\nS\nwait Z\nP s set timezone = 'Asia/Tokyo'\nB p s\nE p\nS\nwait Z\nE -\nS\nwait Z", "0A000"},
		"of an SQL cursor":      {"Q begin; declare c cursor for " + of + "\nwait Z\nQ set timezone = 'Asia/Tokyo'\nwait Z\nE c\nS\nwait Z", "0A000"},
		"held beyond its block": {"Q begin; declare c cursor with hold for " + of + "; commit\nwait Z\nQ set timezone = 'Asia/Tokyo'\nwait Z\nQ fetch c\nwait Z", "D 10"},
		"one of another block":  {"Q begin; declare c cursor for " + of + "; commit\nwait Z\nQ begin; set timezone = 'Asia/Tokyo'; declare c cursor for " + of + "\nwait Z\nQ fetch c\nwait Z", "D "},
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t, nil)
			got, err := pgtest.Seen(t.Context(), b.url+"&timezone=UTC", strings.TrimSuffix(c.script, "\n"))
			require.NoError(t, err, got)
			require.Contains(t, strings.Join(got, "\n"), c.want)
		})
	}
}
