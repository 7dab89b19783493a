package ingest

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"barkeep/backfill/coverage"
	"barkeep/backfill/topic"
	"barkeep/internal/market"
)

// rollUp enters the bars that the base's stored ones make, as if they were a page read just now (PIPELINE 9). What it vouches
// for is what the base's coverage says under the lock that every writer of the base takes; where that is nothing, nothing
// is written and the asker finds its gap again. A repeated order finds its own segments, which are as new, and changes nothing.
func (p *plan) rollUp(ctx context.Context, tx pgx.Tx, r *topic.RollUp, bound map[market.Symbol]coverage.Binding) error {
	if p.refused(r.Series.Symbol, r.Source, r.Generation, r.JobID, bound) {
		return nil
	}
	base := market.Series{Symbol: r.Series.Symbol, Timeframe: r.Base}
	if r.Lender != "" {
		base.Symbol = r.Lender
	}
	ledger, err := coverage.ReadLedger(ctx, tx, base, r.Range)
	if err != nil {
		return err
	}
	s, err := p.of(ctx, tx, r.Series, r.Range)
	if err != nil {
		return err
	}
	var entered, count int64
	for _, stretch := range s.derived(r, ledger) {
		bars, err := readRollUp(ctx, tx, base, r.Series.Timeframe, ledger.Known(stretch))
		if err != nil {
			return err
		}
		s.enter(stretch, bars)
		entered++
		count += int64(len(bars))
	}
	if entered == 0 {
		p.result.Stale++
		return nil
	}
	p.result.RollUps++
	p.jobs.progress(r.JobID, count)
	return nil
}

// derived enters what the order makes of its base into the coverage of the series, and returns where that holds.
func (s *seriesPlan) derived(r *topic.RollUp, base *coverage.Ledger) (stretches []market.Range) {
	if r.Lender != "" {
		for _, segment := range base.Lends(r.Range) {
			stretches = append(stretches, s.ledger.Lend(segment, r.Source)...)
		}
		return stretches
	}
	for _, segment := range base.Derive(r.Series.Timeframe, r.Range, r.AskedAt) {
		if segment.Generation, segment.DerivedFrom = r.Generation, r.Base; segment.Source == "" {
			segment.Source = r.Source
		}
		stretches = append(stretches, s.ledger.Replace(segment)...)
	}
	return stretches
}

// readRollUp returns the bars of tf that the base's rows of r make; where there is no row in a bucket there is no bar. Rows are
// folded in the order of time, so that a sum of volumes is the same however they were stored.
func readRollUp(ctx context.Context, tx pgx.Tx, base market.Series, tf market.Timeframe, r market.Range) ([]market.Bar, error) {
	rows, err := tx.Query(ctx, `SELECT ts, open, high, low, close, volume FROM public.ohlcv
	  WHERE symbol = $1 AND timeframe = $2 AND ts >= $3 AND ts < $4 ORDER BY ts`,
		string(base.Symbol), base.Timeframe.String(), coverage.Timestamptz(r.Start), coverage.Timestamptz(r.End))
	if err != nil {
		return nil, fmt.Errorf("read bars of %s: %w", base, err)
	}
	var bars []market.Bar
	var closes market.Instant
	var ts time.Time
	var b market.Bar
	_, err = pgx.ForEachRow(rows, []any{&ts, &b.Open, &b.High, &b.Low, &b.Close, &b.Volume}, func() error {
		at := market.FromTime(ts)
		if len(bars) == 0 || at >= closes {
			b.TS, closes = tf.Floor(at), tf.Next(at)
			bars = append(bars, b)
			return nil
		}
		last := &bars[len(bars)-1]
		last.High, last.Low, last.Close = max(last.High, b.High), min(last.Low, b.Low), b.Close
		last.Volume += b.Volume
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read bars of %s: %w", base, err)
	}
	return bars, nil
}
