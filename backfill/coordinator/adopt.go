package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/twmb/franz-go/pkg/kgo"

	"barkeep/backfill/coverage"
	"barkeep/backfill/directory"
	"barkeep/backfill/topic"
	"barkeep/internal/market"
)

const (
	// orphanSilence is how often a job's silence (PIPELINE 15) has to go by before another coordinator than its own looks after it.
	orphanSilence = 3
	// orphanLongest bounds the pause between two publications of such a job, which grows with its age: there may be no producer for days.
	orphanLongest = 10 * time.Minute
	// orphansAtOnce bounds how many are published at a time.
	orphansAtOnce = 64
)

// adopt publishes jobs again that nobody waits for any more and that nobody works on: the coordinator that asked died before it could publish
// them, or was gone when the broker lost them. Their end would never come else, and they would count against their asker's quota for as long as their rows
// are kept. Each is taken by one coordinator. A producer that has the job after all in its queue finds it to be the same.
func (c *Coordinator) adopt(ctx context.Context) error {
	rows, err := c.config.Pool.Query(ctx, `WITH orphan AS (SELECT id FROM barkeep.job
	    WHERE state IN ('queued', 'fetching') AND coalesce(wanted_until, '-infinity') < now() - make_interval(secs => $1)
	      AND updated_at < now() - greatest(make_interval(secs => $2), least((updated_at - asked_at) / 2, make_interval(secs => $3)))
	    ORDER BY id LIMIT $4 FOR UPDATE SKIP LOCKED)
	  UPDATE barkeep.job j SET updated_at = now() FROM orphan WHERE j.id = orphan.id
	  RETURNING j.id, j.symbol, j.timeframe, j.range_start, j.range_end, j.priority, j.source, j.generation, j.asked_at`,
		wantedFor.Seconds(), (orphanSilence * c.config.Silence).Seconds(), orphanLongest.Seconds(), orphansAtOnce)
	if err != nil {
		return fmt.Errorf("find orphaned jobs: %w", err)
	}
	jobs, err := pgx.CollectRows(rows, c.orphan)
	if err != nil {
		return fmt.Errorf("find orphaned jobs: %w", err)
	}
	var records []*kgo.Record
	for _, j := range jobs {
		bound, err := c.rebind(ctx, j)
		if err != nil {
			return err
		}
		c.config.Logger.LogAttrs(ctx, slog.LevelWarn, "nobody looks after a job", slog.String("job_id", j.record.ID),
			slog.String("symbol", string(j.record.Series.Symbol)), slog.Bool("published_again", bound))
		if bound {
			records = append(records, c.records(j)...)
		}
	}
	var failures []error
	for _, err := range c.produce(ctx, records) {
		failures = append(failures, err)
	}
	if len(failures) > 0 {
		return fmt.Errorf("publish orphaned jobs: %w", failures[0])
	}
	return nil
}

// orphan reads a job from its row, but for what the symbol is bound to.
func (c *Coordinator) orphan(row pgx.CollectableRow) (*job, error) {
	j := &job{record: topic.Job{Deployment: c.config.Deployment}}
	var symbol, timeframe string
	var start, end, asked pgtype.Timestamptz
	if err := row.Scan(&j.id, &symbol, &timeframe, &start, &end, &j.record.Priority, &j.record.Source, &j.record.Generation, &asked); err != nil {
		return nil, err
	}
	tf, err := market.ParseTimeframe(timeframe)
	if err != nil {
		return nil, fmt.Errorf("job %s: %w", j.id, err)
	}
	j.record.ID, j.record.Series = j.id.String(), market.Series{Symbol: market.Symbol(symbol), Timeframe: tf}
	j.record.Range = market.Range{Start: coverage.Instant(start), End: coverage.Instant(end)}
	j.record.AskedAt = coverage.Instant(asked)
	return j, nil
}

// rebind completes a job by what its symbol is bound to, and ends it where that is another source or generation by now, or none: then nobody
// could do it.
func (c *Coordinator) rebind(ctx context.Context, j *job) (bound bool, err error) {
	b, found, err := directory.Lookup(ctx, c.config.Pool, j.record.Series.Symbol)
	if err != nil {
		return false, err
	}
	base, derivable := b.Base(j.record.Series.Timeframe)
	other := b.Source != j.record.Source || b.Generation != j.record.Generation
	// Whether others may lend it what lies before its listing only who wants it finds out.
	if !found || !derivable || other || c.mixed(b.Symbol, b.Source) && beforeListing(&b, j.record.Range) {
		_, err := c.config.Pool.Exec(ctx, `UPDATE barkeep.job SET state = 'superseded', ended_at = now(), updated_at = now()
		  WHERE id = $1 AND state IN ('queued', 'fetching')`, j.id)
		if err != nil {
			return false, errors.Join(errors.New("end a job that nobody can do"), err)
		}
		return false, nil
	}
	j.record.VendorID = b.VendorID
	if base != j.record.Series.Timeframe {
		j.base, j.life = base, b.Life(j.record.AskedAt).Bounds()
	}
	return true, nil
}
