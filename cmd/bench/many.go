package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

const (
	manySymbols = 50
	manyBars    = 100_000 // of each symbol
	manyRounds  = 3       // a round stores ten million rows
)

// measureMany compares the backfill of many symbols that are asked for at once, each by a session of its own, with one
// connection's binary COPY of as many bars into a table of the same layout; a tenth of the symbols first, and before that
// one symbol with a tenth of a year, whose year is measured by measureBackfill.
func (b *bench) measureMany(ctx context.Context) error {
	used := 0
	return b.withConns(ctx, func(direct, _ *pgx.Conn) error {
		if err := b.createLike(ctx, direct, "bars_many"); err != nil {
			return err
		}
		for _, size := range []struct{ count, bars int }{{1, barCount / 10 / pageLimit * pageLimit}, {manySymbols / 10, manyBars}, {manySymbols, manyBars}} {
			count := size.count
			var cold, copied []float64
			var spent, spentByCopy costs
			var last []string
			for round := range min(b.rounds, manyRounds) {
				last = nil
				for range count {
					last, used = append(last, numberedSymbol(manyPrefix, used)), used+1
				}
				bars := float64(count * size.bars)
				err := inTurn(round, []func() error{
					func() error {
						return spent.during(b, bars, func() error {
							took, err := b.coldMany(ctx, last, size.bars)
							cold = append(cold, bars/took.Seconds())
							return err
						})
					},
					func() error {
						return spentByCopy.during(b, bars, func() error {
							began := time.Now()
							_, err := direct.CopyFrom(ctx, pgx.Identifier{"bars_many"}, barColumns, barsOf(last, page(0), size.bars))
							copied = append(copied, bars/time.Since(began).Seconds())
							return err
						})
					},
				})
				if err != nil {
					return err
				}
			}
			if err := b.checkRows(ctx, direct, "bars_many", last[:min(2, count)]); err != nil {
				return err
			}
			target := 0.0
			if count == manySymbols {
				target = 0.5
			}
			label := fmt.Sprintf("cold backfill, %d symbols of %d bars at once", count, size.bars)
			b.report.compare(label, "bars/s", cold, "one connection's binary COPY", copied, false, target)
			b.reportSpent(label, &spent, &spentByCopy)
		}
		return nil
	})
}

// barsOf gives bars of each symbol to COPY, count from start on.
func barsOf(symbols []string, start time.Time, count int) pgx.CopyFromSource {
	bars := make([]any, 0, 6*count)
	first := int(start.Sub(firstBar) / time.Minute)
	for i := range count {
		b := bar(first + i)
		bars = append(bars, b.TS.Time(), b.Open, b.High, b.Low, b.Close, b.Volume)
	}
	row, at := make([]any, 8), 0
	row[1] = "1m"
	names := make([]any, len(symbols))
	for i, name := range prefixed(symbols) {
		names[i] = name
	}
	return pgx.CopyFromFunc(func() ([]any, error) {
		if at == len(names)*count {
			return nil, nil
		}
		row[0] = names[at/count]
		copy(row[2:], bars[6*(at%count):6*(at%count)+6])
		at++
		return row, nil
	})
}

// coldMany times sessions that each need so many bars of a symbol.
func (b *bench) coldMany(ctx context.Context, symbols []string, bars int) (time.Duration, error) {
	conns, closeAll, err := connectAll(ctx, b.through, len(symbols))
	if err != nil {
		return 0, err
	}
	defer closeAll()
	var group errgroup.Group
	start, end := page(0).Format(time.RFC3339), page(bars/pageLimit).Format(time.RFC3339)
	began := time.Now()
	for i, conn := range conns {
		group.Go(func() error {
			var count int
			err := conn.QueryRow(ctx, fmt.Sprintf("select count(*) from ohlcv where symbol = 'binance:%s' and timeframe = '1m' and ts >= '%s' and ts < '%s'",
				symbols[i], start, end)).Scan(&count)
			if err == nil && count != bars {
				err = fmt.Errorf("%d bars of %s, want %d", count, symbols[i], bars)
			}
			return err
		})
	}
	err = group.Wait()
	return time.Since(began), err
}

// connectAll opens so many connections, some at a time.
func connectAll(ctx context.Context, to *pgx.ConnConfig, count int) (conns []*pgx.Conn, closeAll func(), err error) {
	conns = make([]*pgx.Conn, count)
	var group errgroup.Group
	group.SetLimit(20)
	for i := range conns {
		group.Go(func() (err error) {
			conns[i], err = pgx.ConnectConfig(ctx, to.Copy())
			return err
		})
	}
	err = group.Wait()
	closeAll = func() {
		var all sync.WaitGroup
		for _, conn := range conns {
			if conn != nil {
				all.Go(func() { _ = conn.Close(context.WithoutCancel(ctx)) })
			}
		}
		all.Wait()
	}
	if err != nil {
		closeAll()
		return nil, nil, fmt.Errorf("connect %d sessions: %w", count, err)
	}
	return conns, closeAll, nil
}
