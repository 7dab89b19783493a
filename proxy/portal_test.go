package proxy

import (
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"barkeep/internal/market"
)

// hourOf reads the hour that begins at midnight where the session is.
const hourOf = "select count(*) from ohlcv where symbol = 'sim:BTCUSD' and timeframe = '1m' and ts >= '2024-01-01' and ts < '2024-01-01 01:00'"

// A portal changes the session when it is executed, which may be in another segment than its Bind: what is planned there and from
// there on must not be planned in the settings of before. A read in the same pipeline is refused, one in a later pipeline sees them.
func TestPortalThatChangesSettings(t *testing.T) {
	b := start(t, nil)
	tokyo := market.Instant(1704034800000000) // 2023-12-31 15:00 UTC
	utc := market.Instant(1704067200000000)
	parse := &pgproto3.Parse{Query: "select set_config('timezone', 'Asia/Tokyo', false), set_config('barkeep.max_bars', '77', false)"}
	bind := func(portal string) *pgproto3.Bind { return &pgproto3.Bind{DestinationPortal: portal} }
	execute := func(portal string) *pgproto3.Execute { return &pgproto3.Execute{Portal: portal} }
	readBars := []pgproto3.FrontendMessage{&pgproto3.Parse{Query: hourOf}, &pgproto3.Bind{}, &pgproto3.Execute{}}
	type pipeline []pgproto3.FrontendMessage
	join := func(parts ...[]pgproto3.FrontendMessage) pipeline {
		var all pipeline
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	of := func(list ...pgproto3.FrontendMessage) []pgproto3.FrontendMessage { return list }
	for name, each := range map[string]struct {
		pipelines []pipeline // each ends with a Sync
		refused   bool       // the last is
		starts    market.Instant
	}{
		"named, read behind it":    {pipelines: []pipeline{join(of(parse, bind("p"))), join(of(execute("p")), readBars)}, refused: true},
		"unnamed, read behind it":  {pipelines: []pipeline{join(of(parse, bind(""))), join(of(execute("")), readBars)}, refused: true},
		"named, read later":        {pipelines: []pipeline{join(of(parse, bind("p"))), join(of(execute("p"))), join(readBars)}, starts: tokyo},
		"unnamed, read later":      {pipelines: []pipeline{join(of(parse, bind(""))), join(of(execute(""))), join(readBars)}, starts: tokyo},
		"behind a read":            {pipelines: []pipeline{join(readBars, of(parse, bind(""), execute(""))), join(readBars)}, starts: tokyo},
		"named, behind a read":     {pipelines: []pipeline{join(of(parse, bind("p"))), join(readBars, of(execute("p"))), join(readBars)}, starts: tokyo},
		"never executed":           {pipelines: []pipeline{join(of(parse, bind("p"))), join(readBars)}, starts: utc},
		"another has its name":     {pipelines: []pipeline{join(of(parse, bind("p"))), join(of(&pgproto3.Close{ObjectType: 'P', Name: "p"}, &pgproto3.Parse{Query: hourOf}, bind("p"), execute("p")))}, starts: utc},
		"the Close is not reached": {pipelines: []pipeline{join(of(parse, bind("p"), &pgproto3.Parse{Query: "savepoint a"}, bind(""), execute(""))), join(of(&pgproto3.Parse{Query: "select 1/0"}, bind(""), execute(""), &pgproto3.Close{ObjectType: 'P', Name: "p"})), join(of(&pgproto3.Parse{Query: "rollback to a"}, bind(""), execute(""))), join(of(execute("p"))), join(readBars)}, starts: tokyo},
	} {
		t.Run(name, func(t *testing.T) {
			c := dialRaw(t, b.url, false)
			c.send(&pgproto3.Query{String: "set timezone = 'UTC'; set barkeep.max_bars = '1000'"})
			c.until('Z')
			c.send(&pgproto3.Query{String: hourOf}) // the settings are read
			c.until('Z')
			c.send(&pgproto3.Query{String: "begin"})
			c.until('Z')
			for i, p := range each.pipelines {
				b.forget(nil)
				c.send(append(p, &pgproto3.Sync{})...)
				if i == len(each.pipelines)-1 && each.refused {
					require.Equal(t, "0A000", c.until('E'))
				}
				c.until('Z')
			}
			if each.refused {
				return
			}
			asked := b.requested()
			last := asked[len(asked)-1]
			require.Len(t, last.Requirements, 1)
			require.Equal(t, each.starts, last.Requirements[0].Ranges.Bounds().Start)
			require.EqualValues(t, map[bool]int{true: 77, false: 1000}[each.starts == tokyo], last.MaxBars, "the upstream reports the zone by itself, but not this")
		})
	}
}
