package planner

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5" //nolint:depguard // the test asks PostgreSQL itself
	"github.com/stretchr/testify/require"

	"barkeep/internal/market"
)

// Pairs of every kind, NULL among their ends: what is planned has each hour for which PostgreSQL says that the condition is true, and
// where the condition stands by itself no hour that is not beside one of these.
func TestRule11_OverlapsIsPostgreSQLs(t *testing.T) {
	t.Parallel()
	conn := postgresConn(t)
	mustExec(t, conn, "set timezone = 'UTC'")
	from := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	rng := rand.New(rand.NewPCG(11, 7))
	pick := func(list ...string) string { return list[rng.IntN(len(list))] }
	point := func() string {
		if rng.IntN(8) == 0 {
			return "null::timestamptz"
		}
		return "timestamptz '" + from.Add(time.Duration(12+rng.IntN(5))*time.Hour).Format("2006-01-02 15:04") + "Z'"
	}
	length := func() string { return "interval '" + pick("0", "1", "3", "-1", "-3") + " hours'" }
	for range 600 {
		start := pick("ts", "ts", "ts + "+length())
		own := "(" + start + ", " + pick("ts", "ts - "+length(), length()) + ")"
		other := "(" + point() + ", " + pick(point(), point(), length()) + ")"
		condition := "(" + own + " overlaps " + other + ")"
		if rng.IntN(2) == 0 {
			condition = "(" + other + " overlaps " + own + ")"
		}
		around := pick("", "", "not ", " is unknown", " is not true", " is not unknown")
		alone := around == "" && !strings.Contains(condition, "null")
		if around == "not " {
			condition = around + condition
		} else {
			condition += around
		}
		plan := Prepare("select ts from ohlcv where symbol = 'A' and timeframe = '1h' and "+condition, nil, Env{}).Bind(Args{}, Env{}, goldenBracket(), nil)
		var planned market.RangeSet
		for _, r := range plan.Requirements {
			planned = planned.Union(r.Ranges)
		}
		has := func(at time.Time) bool {
			i := market.FromTime(at)
			return planned.Bounds().Overlaps(market.Range{Start: i, End: i + 1}) && !planned.Intersect(market.NewRangeSet(market.Range{Start: i, End: i + 1})).Empty()
		}
		rows, err := conn.Query(t.Context(), "select ("+condition+") is true from generate_series(0, 29) n, lateral (select timestamptz '2024-01-01Z' + n * interval '1 hour' as ts) x order by n")
		require.NoError(t, err, condition)
		true30, err := pgx.CollectRows(rows, pgx.RowTo[bool])
		require.NoError(t, err, condition)
		require.Len(t, true30, 30)
		for n := 1; n < 29; n++ {
			at := from.Add(time.Duration(n) * time.Hour)
			if true30[n] {
				require.True(t, has(at), "%s is true at %s, planned %s", condition, at, planned)
			}
			if alone && has(at) {
				require.True(t, true30[n-1] || true30[n] || true30[n+1], "%s is false around %s, planned %s", condition, at, planned)
			}
		}
	}
}
