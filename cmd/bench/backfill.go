package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const yearOf = "symbol = 'binance:%s' and timeframe = '1m' and ts >= '2023-01-01Z' and ts < '2024-01-01Z'"

// measureBackfill compares a cold year of minutes through the whole pipeline with one connection's binary COPY of the
// same bars into a table of the same layout, and watches the memory of barkeep meanwhile.
func (b *bench) measureBackfill(ctx context.Context) error {
	rows := make([][]any, barCount)
	return b.withConns(ctx, func(direct, through *pgx.Conn) error {
		if err := b.createLike(ctx, direct, "bars_cold"); err != nil {
			return err
		}
		var cold, copied []float64
		var peak float64
		rounds := min(b.rounds, len(symbols)-1)
		for round := range rounds {
			symbol := symbols[round]
			for i := range rows {
				b := bar(i)
				rows[i] = []any{"binance:" + symbol, "1m", b.TS.Time(), b.Open, b.High, b.Low, b.Close, b.Volume}
			}
			runs := []func() error{
				func() error {
					took, memory, err := b.cold(ctx, through, symbol)
					cold, peak = append(cold, barCount/took.Seconds()), max(peak, memory)
					return err
				},
				func() error {
					began := time.Now()
					_, err := direct.CopyFrom(ctx, pgx.Identifier{"bars_cold"},
						[]string{"symbol", "timeframe", "ts", "open", "high", "low", "close", "volume"}, pgx.CopyFromRows(rows))
					copied = append(copied, barCount/time.Since(began).Seconds())
					return err
				},
			}
			if err := inTurn(round, runs); err != nil {
				return err
			}
		}
		if err := b.checkRows(ctx, direct, symbols[:rounds]); err != nil {
			return err
		}
		b.report.measure("copy, 525,600 bars", "bars/s", median(copied), 0)
		b.report.compare("cold backfill, 525,600 bars", "bars/s", cold, "one connection's binary COPY", copied, false, 0.4)
		b.report.measure("resident memory of serve in the cold backfill", "MB", peak, 300)
		return nil
	})
}

// createLike makes a table with the columns, the key and, where ohlcv is a hypertable, the chunks of ohlcv.
func (b *bench) createLike(ctx context.Context, direct *pgx.Conn, name string) error {
	if _, err := direct.Exec(ctx, "create table if not exists "+name+" (like public.ohlcv including defaults, primary key (symbol, timeframe, ts))"); err != nil {
		return fmt.Errorf("create %s: %w", name, err)
	}
	var timescale bool
	if err := direct.QueryRow(ctx, "select exists (select 1 from pg_extension where extname = 'timescaledb')").Scan(&timescale); err != nil {
		return fmt.Errorf("look for TimescaleDB: %w", err)
	}
	if !timescale {
		return nil
	}
	_, err := direct.Exec(ctx, `select create_hypertable($1::text::regclass, 'ts', chunk_time_interval =>
		(select time_interval from timescaledb_information.dimensions where hypertable_name = 'ohlcv' and hypertable_schema = 'public'),
		create_default_indexes => false, if_not_exists => true)`, name)
	if err != nil {
		return fmt.Errorf("create the hypertable %s: %w", name, err)
	}
	return nil
}

// cold times one statement that needs a whole year, and returns the most memory that barkeep took meanwhile, in MB.
func (b *bench) cold(ctx context.Context, through *pgx.Conn, symbol string) (took time.Duration, peak float64, err error) {
	var done sync.WaitGroup
	over := make(chan struct{})
	done.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			if memory, err := b.barkeep.resident(); err == nil {
				peak = max(peak, memory)
			}
			select {
			case <-over:
				return
			case <-tick.C:
			}
		}
	})
	var count int
	began := time.Now()
	err = through.QueryRow(ctx, "select count(*) from ohlcv where "+fmt.Sprintf(yearOf, symbol)).Scan(&count)
	took = time.Since(began)
	close(over)
	done.Wait()
	if err == nil && count != barCount {
		err = fmt.Errorf("%d bars of %s, want %d", count, symbol, barCount)
	}
	return took, peak, err
}

// checkRows makes sure that what the pipeline stored is what COPY stored.
func (b *bench) checkRows(ctx context.Context, direct *pgx.Conn, symbols []string) error {
	var differ int
	err := direct.QueryRow(ctx, "select count(*) from (select * from ohlcv where symbol = any($1) except select * from bars_cold) as d",
		prefixed(symbols)).Scan(&differ)
	if err != nil {
		return fmt.Errorf("compare the rows: %w", err)
	}
	if differ != 0 {
		return fmt.Errorf("%d rows of ohlcv are not those of the exchange", differ)
	}
	return nil
}

func prefixed(symbols []string) []string {
	out := slices.Clone(symbols)
	for i := range out {
		out[i] = "binance:" + out[i]
	}
	return out
}

// measureGap times statements that each miss one page, and takes off what the exchange itself took.
func (b *bench) measureGap(ctx context.Context) error {
	return b.withConns(ctx, func(_, through *pgx.Conn) error {
		const gaps = 25
		var beyond, sourced, covered []float64
		for i := range gaps {
			start := firstBar.AddDate(0, 0, 3*i+1)
			text := fmt.Sprintf("select count(*) from ohlcv where symbol = 'binance:%s' and timeframe = '1m' and ts >= '%s' and ts < '%s'",
				gapSymbol, start.Format(time.RFC3339), start.Add(500*time.Minute).Format(time.RFC3339))
			spent, requests := b.exchange.spent.Load(), b.exchange.requests.Load()
			began := time.Now()
			var count int
			if err := through.QueryRow(ctx, text, pgx.QueryExecModeSimpleProtocol).Scan(&count); err != nil {
				return fmt.Errorf("ask for a gap: %w", err)
			}
			took := time.Since(began)
			if count != 500 {
				return fmt.Errorf("a gap was answered with %d bars, want 500", count)
			}
			if b.exchange.requests.Load() == requests {
				return errors.New("a gap was answered without a request to the exchange")
			}
			began = time.Now()
			if err := through.QueryRow(ctx, text, pgx.QueryExecModeSimpleProtocol).Scan(&count); err != nil {
				return fmt.Errorf("ask for covered bars: %w", err)
			}
			if i < 2 { // the first ones bind the symbol and make the chunk
				continue
			}
			covered = append(covered, millis(time.Since(began)))
			sourced = append(sourced, millis(time.Duration(b.exchange.spent.Load()-spent)))
			beyond = append(beyond, millis(took)-sourced[len(sourced)-1])
		}
		slices.Sort(beyond)
		b.report.measure("one-page gap beyond the source's latency", "ms", median(beyond), 30)
		b.report.measure("one-page gap beyond the source's latency, 90th percentile", "ms", beyond[len(beyond)*9/10], 0)
		b.report.measure("the same statement covered", "ms", median(covered), 0)
		return nil
	})
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// inTurn runs all, beginning with another one in each round.
func inTurn(round int, runs []func() error) error {
	for i := range runs {
		if err := runs[(round+i)%len(runs)](); err != nil {
			return err
		}
	}
	return nil
}
