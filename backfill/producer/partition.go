package producer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/google/uuid"
	"github.com/jackc/pgerrcode"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"barkeep/backfill/topic"
	"barkeep/internal/market"
)

// partition is one partition of the jobs topic that this producer owns.
type partition struct {
	id     int32
	cancel context.CancelCauseFunc
	// work ends when the partition is taken away; it is handed to goroutines, never kept by them.
	work func() context.Context

	// The rest is guarded by Producer.mu. open holds the offsets taken and whether their job has ended, ascending.
	open      []tracked
	next      int64 // what to commit: all before it have ended
	epoch     int32
	committed int64
}

type tracked struct {
	offset int64
	ended  bool
}

var errRevoked = errors.New("partition was taken away")

func (p *Producer) assign(ctx context.Context, topics map[string][]int32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, id := range topics[p.config.Names.Jobs()] {
		work, cancel := context.WithCancelCause(ctx)
		p.partitions[id] = &partition{id: id, cancel: cancel, work: func() context.Context { return work }, next: -1, committed: -1}
	}
}

// revoke abandons the jobs of the partitions: who owns them now does them from the start.
func (p *Producer) revoke(topics map[string][]int32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, id := range topics[p.config.Names.Jobs()] {
		if owned := p.partitions[id]; owned != nil {
			owned.cancel(errRevoked)
			delete(p.partitions, id)
		}
	}
}

// take begins the job of a record.
func (p *Producer) take(ctx context.Context, r *kgo.Record) {
	select {
	case p.queued <- struct{}{}:
	case <-ctx.Done():
		return
	}
	release := func() { <-p.queued }
	p.mu.Lock()
	defer p.mu.Unlock()
	owned := p.partitions[r.Partition]
	if owned == nil || ctx.Err() != nil {
		release()
		return // taken away since it was read
	}
	owned.open = append(owned.open, tracked{offset: r.Offset})
	owned.epoch = r.LeaderEpoch
	job, err := topic.UnmarshalJob(r.Value)
	id, idErr := uuid.Parse(job.ID)
	switch {
	case err == nil && idErr == nil && job.Deployment == p.config.Deployment:
	case err == nil && job.Deployment != p.config.Deployment:
		p.config.Logger.LogAttrs(ctx, slog.LevelWarn, "job of another deployment dropped", slog.String("deployment", job.Deployment))
		p.endLocked(owned, r.Offset)
		release()
		return
	default:
		p.jobs.Go(func() { //nolint:contextcheck // lives as long as the partition is owned, not as the call
			defer release()
			p.refuse(owned, r, errors.Join(err, idErr))
		})
		return
	}
	if running := p.runs[id]; running != nil && running.owner == owned {
		running.offsets = append(running.offsets, r.Offset) // published again while it runs
		release()
		return
	}
	run := p.newRun(owned, job, id, r.Offset)
	p.runs[id] = run
	p.jobs.Go(func() { //nolint:contextcheck // lives as long as the partition is owned, not as the call
		defer release()
		run.do(owned.work())
	})
}

// refuse fails the job of a record that cannot be read, as far as its headers name it (PIPELINE 12).
func (p *Producer) refuse(owned *partition, r *kgo.Record, cause error) {
	ctx := owned.work()
	h := topic.ReadHeaders(r)
	p.config.Logger.LogAttrs(ctx, slog.LevelError, "job cannot be read", slog.String("job_id", h.JobID), slog.Any("error", cause))
	tf, err := market.ParseTimeframe(h.Timeframe)
	if _, idErr := uuid.Parse(h.JobID); err == nil && idErr == nil && h.Deployment == p.config.Deployment {
		end := topic.End{
			RecordID: uuid.NewString(), Deployment: p.config.Deployment, JobID: h.JobID,
			Series: market.Series{Symbol: market.Symbol(h.Symbol), Timeframe: tf}, State: topic.Failed,
			Code: pgerrcode.InternalError, Message: "the job's record could not be read",
		}
		if err := p.publish(ctx, p.config.Names.EndRecord(end)); err != nil {
			return // taken away, or stopped: the next producer does this
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endLocked(owned, r.Offset)
}

// publish produces a record until the broker has it or ctx ends.
func (p *Producer) publish(ctx context.Context, r *kgo.Record) error {
	for backoff := p.config.Backoff; ; backoff = min(2*backoff, p.config.BackoffLimit) {
		err := p.client.ProduceSync(ctx, r).FirstErr()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		topic.Renew(p.client, r.Topic, err)
		p.config.Logger.LogAttrs(ctx, slog.LevelWarn, "cannot publish, try again", slog.String("topic", r.Topic), slog.Any("error", err))
		if !pause(ctx, backoff) {
			return context.Cause(ctx)
		}
		r = &kgo.Record{Topic: r.Topic, Key: r.Key, Value: r.Value, Headers: r.Headers}
	}
}

// endLocked marks an offset's job as ended; p.mu is held.
func (p *Producer) endLocked(owned *partition, offsets ...int64) {
	for _, offset := range offsets {
		for i := range owned.open {
			if owned.open[i].offset == offset {
				owned.open[i].ended = true
			}
		}
	}
	done := 0
	for done < len(owned.open) && owned.open[done].ended {
		owned.next = owned.open[done].offset + 1
		done++
	}
	owned.open = append(owned.open[:0], owned.open[done:]...)
	select {
	case p.commit <- struct{}{}:
	default: // asked for already
	}
}

func (p *Producer) keepCommitting(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.commit:
		}
		if err := p.commitNow(ctx, p.client); err != nil && ctx.Err() == nil {
			p.config.Logger.LogAttrs(ctx, slog.LevelWarn, "cannot commit offsets of jobs", slog.Any("error", err))
		}
		pause(ctx, p.config.Backoff) // several ends, one commit
	}
}

// commitNow commits what has ended.
func (p *Producer) commitNow(ctx context.Context, client *kgo.Client) error {
	p.mu.Lock()
	offsets := make(map[int32]kgo.EpochOffset)
	for id, owned := range p.partitions {
		if owned.next > owned.committed {
			offsets[id] = kgo.EpochOffset{Epoch: owned.epoch, Offset: owned.next}
		}
	}
	p.mu.Unlock()
	if len(offsets) == 0 {
		return nil
	}
	var failed error
	client.CommitOffsetsSync(ctx, map[string]map[int32]kgo.EpochOffset{p.config.Names.Jobs(): offsets},
		func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, _ *kmsg.OffsetCommitResponse, err error) {
			failed = err
		})
	if failed != nil {
		return fmt.Errorf("commit offsets: %w", failed)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, offset := range offsets {
		if owned := p.partitions[id]; owned != nil {
			owned.committed = max(owned.committed, offset.Offset)
		}
	}
	return nil
}
