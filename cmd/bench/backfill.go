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

var barColumns = []string{"symbol", "timeframe", "ts", "open", "high", "low", "close", "volume"}

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
		var spent, spentByCopy costs
		rounds := min(b.rounds, len(symbols)-1)
		for round := range rounds {
			symbol := symbols[round]
			for i := range rows {
				b := bar(i)
				rows[i] = []any{"binance:" + symbol, "1m", b.TS.Time(), b.Open, b.High, b.Low, b.Close, b.Volume}
			}
			runs := []func() error{
				func() error {
					return spent.during(b, barCount, func() error {
						took, memory, err := b.cold(ctx, through, symbol)
						cold, peak = append(cold, barCount/took.Seconds()), max(peak, memory)
						return err
					})
				},
				func() error {
					return spentByCopy.during(b, barCount, func() error {
						began := time.Now()
						_, err := direct.CopyFrom(ctx, pgx.Identifier{"bars_cold"}, barColumns, pgx.CopyFromRows(rows))
						copied = append(copied, barCount/time.Since(began).Seconds())
						return err
					})
				},
			}
			if err := inTurn(round, runs); err != nil {
				return err
			}
		}
		if err := b.checkRows(ctx, direct, "bars_cold", symbols[:rounds]); err != nil {
			return err
		}
		b.report.measure("copy, 525,600 bars", "bars/s", median(copied), 0)
		b.report.compare("cold backfill, 525,600 bars", "bars/s", cold, "one connection's binary COPY", copied, false, 0.5)
		b.reportSpent("cold backfill", &spent, &spentByCopy)
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
func (b *bench) checkRows(ctx context.Context, direct *pgx.Conn, table string, symbols []string) error {
	var differ int
	err := direct.QueryRow(ctx, "select count(*) from (select * from ohlcv where symbol = any($1) except select * from "+table+" where symbol = any($1)) as d",
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

// measureGap times statements that each miss one page, then ten, and takes off what the exchange itself took.
func (b *bench) measureGap(ctx context.Context) error {
	return b.withConns(ctx, func(direct, through *pgx.Conn) error {
		if err := b.createLike(ctx, direct, "bars_gap"); err != nil {
			return err
		}
		if err := b.gaps(ctx, direct, through, gapSymbol, "one-page gap", 500, 15); err != nil {
			return err
		}
		return b.gaps(ctx, direct, through, gapsSymbol, "ten-page gap", 10*pageLimit, 0)
	})
}

// gaps times gaps of one symbol, of so many bars each; most is the target. Beside each the bars are stored by COPY straight, which
// tells how busy the machine was.
func (b *bench) gaps(ctx context.Context, direct, through *pgx.Conn, symbol, label string, bars int, most float64) error {
	const gaps = 25
	var beyond, covered, copied []float64
	for i := range gaps {
		start := page(1 + i*(4+bars/pageLimit))
		text := fmt.Sprintf("select count(*) from ohlcv where symbol = 'binance:%s' and timeframe = '1m' and ts >= '%s' and ts < '%s'",
			symbol, start.Format(time.RFC3339), start.Add(time.Duration(bars)*time.Minute).Format(time.RFC3339))
		spent, requests := b.exchange.spent.Load(), b.exchange.requests.Load()
		began := time.Now()
		var count int
		if err := through.QueryRow(ctx, text, pgx.QueryExecModeSimpleProtocol).Scan(&count); err != nil {
			return fmt.Errorf("ask for a gap: %w", err)
		}
		took := time.Since(began)
		if count != bars {
			return fmt.Errorf("a gap was answered with %d bars, want %d", count, bars)
		}
		if b.exchange.requests.Load() == requests {
			return errors.New("a gap was answered without a request to the exchange")
		}
		began = time.Now()
		if err := through.QueryRow(ctx, text, pgx.QueryExecModeSimpleProtocol).Scan(&count); err != nil {
			return fmt.Errorf("ask for covered bars: %w", err)
		}
		answered := time.Since(began)
		began = time.Now()
		if _, err := direct.CopyFrom(ctx, pgx.Identifier{"bars_gap"}, barColumns, barsOf([]string{symbol}, start, max(bars, pageLimit))); err != nil {
			return fmt.Errorf("copy the bars: %w", err)
		}
		if i < 2 { // the first ones bind the symbol and make the chunk
			continue
		}
		covered, copied = append(covered, millis(answered)), append(copied, millis(time.Since(began)))
		beyond = append(beyond, millis(took)-millis(time.Duration(b.exchange.spent.Load()-spent)))
	}
	slices.Sort(beyond)
	b.report.measure(label+" beyond the source's latency", "ms", median(beyond), most)
	b.report.measure(label+" beyond the source's latency, 90th percentile", "ms", beyond[len(beyond)*9/10], 0)
	b.report.measure(label+", the same statement covered", "ms", median(covered), 0)
	b.report.measure(label+", the same bars by COPY", "ms", median(copied), 0)
	return nil
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
