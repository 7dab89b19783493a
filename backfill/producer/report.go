package producer

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// keepReporting writes into the jobs' rows that they live, and reads from them what became of them (PIPELINE 15, 16).
func (p *Producer) keepReporting(ctx context.Context) {
	for pause(ctx, time.Duration(float64(p.config.Report)*(0.75+0.5*rand.Float64()))) {
		if err := p.report(ctx); err != nil && ctx.Err() == nil {
			p.config.Logger.LogAttrs(ctx, slog.LevelWarn, "cannot report on jobs", slog.Any("error", err))
		}
	}
}

func (p *Producer) report(ctx context.Context) error {
	p.mu.Lock()
	runs := make(map[uuid.UUID]*run, len(p.runs))
	ids, totals, begun := make([]uuid.UUID, 0, len(p.runs)), make([]int64, 0, len(p.runs)), make([]bool, 0, len(p.runs))
	for id, r := range p.runs {
		runs[id] = r
		ids, totals, begun = append(ids, id), append(totals, r.total.Load()), append(begun, r.stop.Load() != nil)
	}
	p.mu.Unlock()
	if len(ids) == 0 {
		return nil
	}
	for _, r := range runs {
		r.warn(ctx)
	}
	rows, err := p.config.Pool.Query(ctx, `WITH locked AS (SELECT id FROM barkeep.job WHERE id = ANY ($1::uuid[]) ORDER BY id FOR UPDATE)
	  UPDATE barkeep.job j SET updated_at = now(),
	    bars_total = CASE WHEN n.total > 0 THEN n.total ELSE j.bars_total END,
	    state = CASE WHEN j.state = 'queued' AND n.begun THEN 'fetching' ELSE j.state END,
	    started_at = CASE WHEN n.begun THEN coalesce(j.started_at, now()) END
	  FROM unnest($1::uuid[], $2::int8[], $3::bool[]) AS n (id, total, begun), locked
	  WHERE j.id = n.id AND locked.id = j.id AND j.state IN ('queued', 'fetching')
	  RETURNING j.id, j.cancelled, coalesce(j.wanted_until > now(), false) AND j.priority > 0`, ids, totals, begun)
	if err != nil {
		return fmt.Errorf("write jobs: %w", err)
	}
	var id uuid.UUID
	var cancelled, wanted bool
	_, err = pgx.ForEachRow(rows, []any{&id, &cancelled, &wanted}, func() error {
		r := runs[id]
		delete(runs, id)
		if was := r.user.Swap(wanted); wanted && !was {
			p.slots.raise(r)
		}
		if cancelled {
			r.halt(errCancelled)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write jobs: %w", err)
	}
	// A page that could not be used has failed its job, or the database went back: nobody waits for the rest.
	for _, r := range runs {
		r.halt(errEnded)
	}
	return nil
}
