package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

const sharedSessions = 200

// measureShared has sessions hold for the same gap, which the exchange does not answer before all of them do, and tells how often
// it was asked and what memory that cost; a tenth of the sessions first. The barkeep is one of its own, which has done nothing
// before, since memory that once was needed is kept for a while.
func (b *bench) measureShared(ctx context.Context) error {
	fresh, drop, err := b.startOther(ctx)
	if err != nil {
		return err
	}
	defer drop()
	through := b.through.Copy()
	through.Port, through.Database = fresh.port, b.database+"_other"
	for n, count := range []int{sharedSessions / 10, sharedSessions} {
		if err := b.hold(ctx, fresh, through, numberedSymbol(heldPrefix, n), count); err != nil {
			return fmt.Errorf("%d sessions: %w", count, err)
		}
	}
	return nil
}

func (b *bench) hold(ctx context.Context, fresh *process, through *pgx.ConnConfig, symbol string, count int) error {
	const bars = 500
	ask := func(conn *pgx.Conn, n int) error {
		from := page(n)
		var got int
		err := conn.QueryRow(ctx, fmt.Sprintf("select count(*) from ohlcv where symbol = 'binance:%s' and timeframe = '1m' and ts >= '%s' and ts < '%s'",
			symbol, from.Format(time.RFC3339), from.Add(bars*time.Minute).Format(time.RFC3339)), pgx.QueryExecModeSimpleProtocol).Scan(&got)
		if err == nil && got != bars {
			err = fmt.Errorf("%d bars, want %d", got, bars)
		}
		return err
	}
	first, closeFirst, err := connectAll(ctx, through, 1)
	if err != nil {
		return err
	}
	defer closeFirst()
	if err := ask(first[0], 0); err != nil { // binds the symbol
		return err
	}
	before, err := fresh.resident()
	if err != nil {
		return err
	}
	conns, closeAll, err := connectAll(ctx, through, count)
	if err != nil {
		return err
	}
	defer closeAll()
	asked := b.exchange.requests.Load()
	open := b.exchange.gate.shut()
	defer open()
	var group errgroup.Group
	for _, conn := range conns {
		group.Go(func() error { return ask(conn, 3) })
	}
	if err := fresh.await(ctx, func() bool { return fresh.metric(ctx, "barkeep_proxy_holds") == float64(count) }); err != nil {
		open()
		return fmt.Errorf("wait for the holds: %w", errors.Join(err, group.Wait()))
	}
	held, err := fresh.resident()
	if err != nil {
		return err
	}
	began := time.Now()
	open()
	if err := group.Wait(); err != nil {
		return err
	}
	took := time.Since(began)
	after, err := fresh.resident()
	if err != nil {
		return err
	}
	label, fetches, memory := fmt.Sprintf("%d sessions holding for one gap, ", count), 0.0, 0.0
	if count == sharedSessions {
		fetches, memory = 1, 50
	}
	b.report.measure(label+"fetches", "", float64(b.exchange.requests.Load()-asked), fetches)
	b.report.measure(label+"memory of barkeep", "MB", max(held, after)-before, memory)
	b.report.measure(label+"resident memory of serve before", "MB", before, 0)
	b.report.measure(label+"from the answer of the source to the last session's", "ms", millis(took), 0)
	return nil
}

var metricLine = regexp.MustCompile(`(?m)^(\w+) (\S+)$`)

// metric returns a metric without labels, -1 where it cannot be read.
func (p *process) metric(ctx context.Context, name string) float64 {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/metrics", p.status), http.NoBody)
	if err != nil {
		return -1
	}
	request.Close = true
	answer, err := (&http.Client{Timeout: 10 * time.Second}).Do(request)
	if err != nil {
		return -1
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return -1
	}
	for _, match := range metricLine.FindAllSubmatch(text, -1) {
		if string(match[1]) == name {
			if value, err := strconv.ParseFloat(string(match[2]), 64); err == nil {
				return value
			}
		}
	}
	return -1
}
