package coordinator

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"

	"barkeep/backfill/topic"
	"barkeep/internal/market"
)

// hints are what events told of a job. They are never more than a help: coverage and rows decide (PIPELINE 17).
type hints struct {
	// startAt is the earliest instant at which the job's next request can start, and cause why.
	startAt time.Time
	cause   string
}

// tell notes that a job that is awaited is held back, and wakes its waiters.
func (b *board) tell(id uuid.UUID, e *topic.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	j := b.jobs[id]
	if j == nil || j.state != jobOpen || e.Kind != topic.Warned {
		return
	}
	j.hints.startAt, j.hints.cause = e.StartAt.Time(), e.Message
	j.wake()
}

// hints returns what is known of a job.
func (b *board) hints(j *job) hints {
	b.mu.Lock()
	defer b.mu.Unlock()
	return j.hints
}

// hearEvents reads the topic of events from its end until ctx ends: what was said before, or while it did not listen, is lost
// without harm.
func (c *Coordinator) hearEvents(ctx context.Context) {
	opts := slices.Concat(c.config.Options, []kgo.Opt{
		kgo.ConsumeTopics(c.config.Names.Events()), kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd()),
	})
	if len(c.config.Brokers) > 0 {
		opts = append(opts, kgo.SeedBrokers(c.config.Brokers...))
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		c.config.Logger.LogAttrs(ctx, slog.LevelWarn, "coordinator does not hear of delays", slog.Any("error", err))
		return
	}
	defer client.Close()
	for {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return
		}
		fetches.EachRecord(c.hint)
		if err := fetches.Err(); err != nil {
			c.config.Logger.LogAttrs(ctx, slog.LevelWarn, "coordinator cannot read events", slog.Any("error", err))
			if !pause(ctx, c.config.Poll) {
				return
			}
		}
	}
}

// hint takes an event; one that cannot be read, or is another deployment's, is dropped.
func (c *Coordinator) hint(r *kgo.Record) {
	if topic.ReadHeaders(r).Deployment != c.config.Deployment {
		return
	}
	id, err := uuid.ParseBytes(r.Key)
	if err != nil || c.jobs.find(id) == nil {
		return // another coordinator's
	}
	if e, err := topic.UnmarshalEvent(r.Value); err == nil {
		c.jobs.tell(id, &e)
	}
}

// delays fails the waiter whose deadline comes before the earliest start of one of its jobs (PIPELINE 18), and remembers
// the latest start for people.
func (f *filling) delays(ctx context.Context) error {
	f.meter.delay = ""
	now := f.c.config.Now()
	deadline, bounded := ctx.Deadline()
	for _, p := range f.parts {
		for _, j := range slices.Clone(p.jobs) {
			h := f.c.jobs.hints(j)
			if !h.startAt.After(now) {
				continue
			}
			if !bounded || h.startAt.Before(deadline) {
				f.meter.delay = delayText(h)
				continue
			}
			p.drop(f.c.jobs, j, f.wake)
			if err := f.excuse(p, market.RangeSet{j.record.Range}, tooLate(p.series, j.record.Range, h)); err != nil {
				return err
			}
			p.gapped = false
		}
	}
	return nil
}

func delayText(h hints) string {
	return fmt.Sprintf("%s; it is asked again at %s", h.cause, h.startAt.UTC().Format(time.TimeOnly+"Z"))
}
