package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"barkeep/backfill/coverage"
	"barkeep/internal/market"
	"barkeep/internal/schema"
)

const (
	indexSeries   = 10_000
	indexSegments = 100 // of each series
	indexChecks   = 200_000
	indexMinutes  = 60 // of each segment
)

// indexFillSymbols and indexFillSegments give series so many segments that cannot be merged: final and absent in turn, and after
// each of those of a symbol with an odd number a bar is missing. Each series is of a symbol of its own, which is the most there
// is to compare at a poll. They are stored in the order of time, those of a symbol far from each other.
const (
	indexFillSymbols = `
	insert into barkeep.symbol (symbol, source, vendor_id, version)
	select format('sim:S%sUSD', n), 'sim', n::text, 1 from generate_series(1, $1::int) n`
	indexFillSegments = `
	insert into barkeep.coverage (symbol, timeframe, range_start, range_end, state, source, generation, fetched_at)
	select s.symbol, '1m', timestamptz '2023-01-01Z' + (n - 1) * make_interval(mins => $2), timestamptz '2023-01-01Z' + n * make_interval(mins => $2) - right(s.vendor_id, 1)::int % 2 * interval '1 minute',
	       case when n % 2 = 0 then 3 else 1 end, 'sim', 1, timestamptz '2024-01-01Z'
	  from barkeep.symbol s cross join generate_series(1, $1::int) n`
)

// measureIndex loads the index of coverage of many series from a database of its own and asks it about ranges, at a tenth of the
// size first.
func (b *bench) measureIndex(ctx context.Context) error {
	for _, series := range []int{indexSeries / 10, indexSeries} {
		if err := b.indexOf(ctx, series); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) indexOf(ctx context.Context, series int) (err error) {
	pool, drop, err := b.fillIndex(ctx, series)
	if err != nil {
		return err
	}
	defer drop()
	defer pool.Close()
	var loads []float64
	var store *coverage.Store
	var memory float64
	for range b.rounds {
		before := heap()
		store = coverage.NewStore(pool, coverage.Config{})
		began := time.Now()
		if err := store.Load(ctx); err != nil {
			return fmt.Errorf("load the index: %w", err)
		}
		loads = append(loads, millis(time.Since(began)))
		memory = heap() - before
	}
	if got := store.Snapshot().Len(); got != series*indexSegments {
		return fmt.Errorf("the index has %d segments, want %d", got, series*indexSegments)
	}
	var polls, within, across []float64
	for range b.rounds {
		began := time.Now()
		if err := store.Refresh(ctx); err != nil {
			return fmt.Errorf("poll: %w", err)
		}
		polls = append(polls, millis(time.Since(began)))
		for _, c := range []struct {
			segments int64
			into     *[]float64
		}{{1, &within}, {indexSegments, &across}} {
			took, err := checks(store, series, c.segments)
			if err != nil {
				return err
			}
			*c.into = append(*c.into, took)
		}
	}
	label := fmt.Sprintf("coverage index, %d series of %d segments, ", series, indexSegments)
	check, load := 0.0, 0.0
	if series == indexSeries {
		check, load = 2, 2000
	}
	b.report.measure(label+"check of a range in one segment", "µs", median(within), check)
	b.report.measure(label+"check of a range over all segments", "µs", median(across), check)
	b.report.measure(label+"load", "ms", median(loads), load)
	b.report.measure(label+"poll that finds nothing new", "ms", median(polls), 0)
	b.report.measure(label+"heap", "MB", memory, 0)
	return nil
}

// fillIndex makes a database of its own with the segments.
func (b *bench) fillIndex(ctx context.Context, series int) (pool *pgxpool.Pool, drop func(), err error) {
	name := b.database + "_index"
	if err := b.command(ctx, "create database "+name+" template template0"); err != nil {
		return nil, nil, err
	}
	remove := func() {
		if err := b.command(context.WithoutCancel(ctx), "drop database "+name+" with (force)"); err != nil {
			b.report.notes = append(b.report.notes, err.Error())
		}
	}
	defer func() {
		if err != nil {
			remove()
		}
	}()
	served := b.direct.Copy()
	served.Database = name
	config, err := schema.PoolConfig(urlOf(served))
	if err != nil {
		return nil, nil, fmt.Errorf("connect to the database: %w", err)
	}
	if pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return nil, nil, fmt.Errorf("connect to the database: %w", err)
	}
	err = pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
		if err := schema.Migrate(ctx, conn.Conn()); err != nil {
			return fmt.Errorf("migrate: %w", err)
		}
		if _, err := conn.Exec(ctx, indexFillSymbols, series); err != nil {
			return fmt.Errorf("make symbols: %w", err)
		}
		if _, err := conn.Exec(ctx, indexFillSegments, indexSegments, indexMinutes); err != nil {
			return fmt.Errorf("make segments: %w", err)
		}
		_, err := conn.Exec(ctx, "vacuum analyze barkeep.coverage, barkeep.symbol")
		return err
	})
	if err != nil {
		pool.Close()
		return nil, nil, fmt.Errorf("fill the index: %w", err)
	}
	return pool, remove, nil
}

// checks returns how long a check takes in µs, each of a series that is drawn and of a range that is covered by so many segments.
func checks(store *coverage.Store, series int, segments int64) (float64, error) {
	const step = market.Instant(indexMinutes * int64(time.Minute/time.Microsecond))
	asked := make([]market.Series, indexChecks)
	needs := make([]market.RangeSet, indexChecks)
	for i := range asked {
		symbol, hole := 1+rand.IntN(series), market.Instant(0)
		switch {
		case symbol%2 == 0:
		case segments == 1:
			hole = market.Instant(time.Minute / time.Microsecond)
		default:
			symbol++
		}
		asked[i] = market.Series{Symbol: market.Symbol(fmt.Sprintf("sim:S%dUSD", symbol)), Timeframe: market.M1}
		start := market.FromTime(firstBar) + step*market.Instant(rand.Int64N(indexSegments-segments+1))
		needs[i] = market.NewRangeSet(market.Range{Start: start, End: start + step*market.Instant(segments) - hole})
	}
	now := market.FromTime(time.Now())
	began := time.Now()
	for i := range asked {
		if !store.Snapshot().Covered(asked[i], needs[i], 0, now) {
			return 0, errors.New("a range is not covered that is")
		}
	}
	return float64(time.Since(began)) / float64(time.Microsecond) / indexChecks, nil
}

// heap returns the live heap in MB.
func heap() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc) / 1e6
}
