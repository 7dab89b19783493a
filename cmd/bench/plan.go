package main

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"time"

	pg "github.com/pganalyze/pg_query_go/v6"

	"barkeep/internal/market"
	"barkeep/planner"
)

// typical is a statement as a driver sends it again and again: a series, two times, an order.
const typical = "select ts, open, high, low, close from ohlcv where symbol = $1 and timeframe = '1m' and ts >= $2 and ts < $3 order by ts"

// dashboard is a statement of about 300 bytes.
const dashboard = `SELECT time_bucket('900s', ts) AS "time", symbol AS metric, avg(close) AS value, max(high) AS high, min(low) AS low, sum(volume) AS volume ` +
	`FROM ohlcv WHERE symbol IN ('BTCUSD', 'ETHUSD') AND timeframe = '1m' AND ts BETWEEN '2024-01-01T00:00:00Z' AND '2024-01-01T06:00:00Z' GROUP BY 1, 2 ORDER BY 1, 2`

// measurePlan times the planner by itself: from the cache, with other constants, anew beside the parser alone, and with long conditions.
func (b *bench) measurePlan(context.Context) error {
	env, now := planner.Env{TimeZone: "UTC"}, market.FromTime(time.Now())
	bracket := planner.Bracket{Lo: now, Hi: now}
	cache := planner.NewCache(1000)
	values := planner.Args{Values: [][]byte{[]byte("BTCUSD"), []byte("2024-01-01"), []byte("2024-01-02")}}
	cached := func(int) { cache.Prepare(typical, nil, env).Bind(values, env, bracket, nil) }
	b.report.measure("plan from the cache", "µs", micros(best(cached)), 2)
	b.report.measure("allocations of a plan from the cache", "", allocations(cached), 10)
	other := func(i int) {
		text := fmt.Sprintf("select ts, close from ohlcv where symbol = 'BTCUSD' and timeframe = '1m' and ts >= '2024-01-01 00:00:%02d.%06dZ' and ts < '2024-02-02Z' order by ts",
			i/1_000_000%60, i%1_000_000)
		cache.Prepare(text, nil, env).Bind(planner.Args{}, env, bracket, nil)
	}
	b.report.measure("plan with other constants", "µs", micros(best(other)), 15)
	var anew, parsed []float64
	for range 5 * b.rounds {
		anew = append(anew, micros(best(func(int) { planner.Prepare(dashboard, nil, env).Bind(planner.Args{}, env, bracket, nil) })))
		parsed = append(parsed, micros(best(func(int) { _, _ = pg.Parse(dashboard) })))
	}
	b.report.compare("plan anew, 300 bytes", "µs", anew, "the parser alone", parsed, true, 1/1.5)
	for _, long := range []struct {
		name string
		plan func(n int) func(int)
	}{
		{"= ANY($1) of 5,000", func(n int) func(int) {
			list := planner.Args{Values: [][]byte{[]byte("{" + strings.Join(names(n*25), ",") + "}")}}
			return func(int) {
				planner.Prepare("select ts from ohlcv where symbol = any($1) and timeframe = '1d' and ts > '2024-01-01Z'", nil, env).Bind(list, env, bracket, nil)
			}
		}},
		{"OR of 200", func(n int) func(int) {
			text := "select ts from ohlcv where timeframe = '1d' and (symbol = '" + strings.Join(names(n), "' and ts > '2024-01-01Z' or symbol = '") + "')"
			return func(int) { planner.Prepare(text, nil, env).Bind(planner.Args{}, env, bracket, nil) }
		}},
	} {
		growth := micros(best(long.plan(400))) / micros(best(long.plan(200)))
		b.report.measure("plan of twice the length, "+long.name, "×", growth, 3)
	}
	return nil
}

func names(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("SYMBOL%d", i)
	}
	return list
}

// best returns how long f takes, as the least of many short runs: what else the machine does only adds to it.
func best(f func(i int)) time.Duration {
	const runs, atLeast = 200, 50 * time.Microsecond
	n, count := 1, 0
	run := func() time.Duration {
		began := time.Now()
		for range n {
			f(count)
			count++
		}
		return time.Since(began)
	}
	for n < 1<<10 && run() < atLeast {
		n *= 2
	}
	least := time.Hour
	began := time.Now()
	for i := 0; i < runs && (i < 10 || time.Since(began) < time.Second); i++ {
		least = min(least, run())
	}
	return least / time.Duration(n)
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// allocations returns how many allocations f makes.
func allocations(f func(i int)) float64 {
	const runs = 1000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range runs {
		f(i)
	}
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / runs
}
