package planner

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/internal/market"
)

// A plan that is wide for the want of a parameter's type says so, in text and in binary, and is exact once the type is told; one
// that is as good as it can be does not.
func TestUntyped(t *testing.T) {
	t.Parallel()
	from := market.FromTime(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC))
	const bars = "select close from ohlcv where symbol = 'BTCUSD' and timeframe = '1m' and "
	for _, each := range []struct {
		sql  string
		oids []uint32
		args []string
		want bool
	}{
		{bars + "ts >= $1 and ts < $1 + interval '1 day'", []uint32{oidTimestamptz}, []string{"2024-01-01 00:00Z"}, true},
		{bars + "ts >= '2024-01-01Z' and ts < $1 + interval '1 day'", []uint32{oidTimestamptz}, []string{"2024-01-01 00:00Z"}, true},
		{bars + "ts >= '2024-01-01Z' and ts < '2024-01-01Z'::timestamptz + $1 * interval '1 hour'", []uint32{701}, []string{"24"}, true},
		{bars + "ts >= date_trunc('day', $1) and ts < '2024-01-02Z'", []uint32{oidTimestamptz}, []string{"2024-01-01 05:00Z"}, true},
		{bars + "ts = any($1) and now() > all($1)", []uint32{oidTimestamptzArray}, []string{`{"2024-01-01 00:00Z"}`}, true},
		{bars + "ts >= $1 and ts < $2", []uint32{0, 0}, []string{"2024-01-01 00:00Z", "2024-01-02 00:00Z"}, false},
		{bars + "ts >= '2024-01-01Z' and ts < '2024-01-02Z' and length($1) > 1", []uint32{oidText}, []string{"x"}, false},
		{strings.Replace(bars, "'BTCUSD'", "$1", 1) + "ts >= '2024-01-01Z' and ts < '2024-01-02Z' and length($1) > 1", []uint32{oidText}, []string{"BTCUSD"}, false},
	} {
		env := Env{TimeZone: "UTC", DateStyle: "ISO, MDY", IntervalStyle: "postgres", ClientEncoding: "UTF8", Catalog: goldenCatalog()}
		args := Args{}
		for _, text := range each.args {
			args.Values = append(args.Values, []byte(text))
		}
		plan := Prepare(each.sql, nil, env).Bind(args, env, Bracket{Lo: from, Hi: from}, Answers{})
		require.Equal(t, each.want, plan.Untyped, "%s: %v", each.sql, plan.Reasons)
		if !each.want {
			continue
		}
		args.OIDs = each.oids
		plan = Prepare(each.sql, each.oids, env).Bind(args, env, Bracket{Lo: from, Hi: from}, Answers{})
		require.False(t, plan.Untyped, each.sql)
		require.Equal(t, each.oids[0] == 701, len(plan.Reasons) > 0, "%s: %v; double precision is not computed with", each.sql, plan.Reasons)
		args.OIDs, args.Formats = nil, []int16{1}
		require.True(t, Prepare(each.sql, nil, env).Bind(args, env, Bracket{Lo: from, Hi: from}, Answers{}).Untyped, "%s: binary", each.sql)
	}
}

// A parameter has the type of its first use: cast to another one it is what that makes of it, and not what the cast makes of its text.
func TestRule9_UnsureCast(t *testing.T) {
	t.Parallel()
	conn := barsConn(t)
	const from = "select ts, symbol from ohlcv where symbol = 'A' and timeframe = '1h' and "
	for _, where := range []string{
		"ts::date >= $1 and ts >= $1::timestamp",
		"ts::date >= $1 and ts >= $1::text::timestamptz",
		"ts >= $1::date and ts >= $1::timestamptz",
		"ts >= $1::timestamp and ts >= $1::varchar::timestamptz",
		"$1 <= ts and date_trunc('day', ts) = date_trunc('day', $1::timestamp)",
		"ts > all (values ($1::date)) and ts >= $1::timestamptz",
		"ts >= $1::date and ts >= coalesce($1, '2026-11-03')::timestamptz",
		"ts::date >= $1 and ts >= $1",
		"ts::timestamp >= $1 and ts >= $1",
	} {
		for _, zone := range []string{"UTC", "America/New_York", "Asia/Tokyo"} {
			for _, text := range []string{"2026-11-01 23:00:00-05", "2026-11-01 03:30"} {
				for _, declared := range []uint32{0, oidUnknown} {
					_, difference := trial{sql: from + where, zone: zone, params: []string{text}, declared: declared, others: 1}.run(t, conn)
					require.Empty(t, difference, "%s: %s", zone, where)
				}
			}
		}
	}
}
