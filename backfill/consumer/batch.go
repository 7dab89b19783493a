package consumer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgerrcode"
	"github.com/twmb/franz-go/pkg/kgo"

	"barkeep/backfill/ingest"
	"barkeep/backfill/topic"
)

// maxDeadBytes bounds the value of a dead letter (PIPELINE, topics).
const maxDeadBytes = 512 << 10

// recordID returns the id that the offset row keeps of a record: its own, or the SHA-256 of a value that cannot be read.
func recordID(r *kgo.Record) string {
	value, err := topic.UnmarshalBars(r.Value)
	switch {
	case err != nil:
		return idOr("", r)
	case value.Page != nil:
		return idOr(value.Page.RecordID, r)
	case value.RollUp != nil:
		return idOr(value.RollUp.RecordID, r)
	}
	return idOr(value.End.RecordID, r)
}

// idOr returns id if it can be one, else the SHA-256 of the record's value: what is stored must always be storable.
func idOr(id string, r *kgo.Record) string {
	if _, err := uuid.Parse(id); err == nil {
		return id
	}
	sum := sha256.Sum256(r.Value)
	return hex.EncodeToString(sum[:])
}

// entry is a record with what it says.
type entry struct {
	raw *kgo.Record
	ingest.Record
	unreadable error
}

// read decodes a record.
func (w *worker) read(r *kgo.Record) entry {
	e := entry{raw: r, Record: ingest.Record{Offset: r.Offset}}
	value, err := topic.UnmarshalBars(r.Value)
	var deployment string
	switch {
	case err != nil:
		e.unreadable = err
		deployment = topic.ReadHeaders(r).Deployment
	case value.Page != nil:
		e.ID, deployment = value.Page.RecordID, value.Page.Deployment
	case value.RollUp != nil:
		e.ID, deployment = value.RollUp.RecordID, value.RollUp.Deployment
	default:
		e.ID, deployment = value.End.RecordID, value.End.Deployment
	}
	e.Page, e.RollUp, e.End = value.Page, value.RollUp, value.End
	e.ID = idOr(e.ID, r)
	if deployment != w.config.Deployment && (err == nil || deployment != "") {
		w.foreign.Add(1)
		e.Page, e.RollUp, e.End, e.unreadable = nil, nil, nil, nil
	}
	return e
}

// ingest commits the records in batches and returns the position after them.
func (w *worker) ingest(ctx context.Context, at ingest.Position, records []*kgo.Record) (ingest.Position, error) {
	for len(records) > 0 {
		w.config.Observe(w.part.Number, StateProcessing)
		entries := make([]entry, 0, len(records))
		rows := 0
		var batch ingest.Batch
		for len(records) > 0 {
			e := w.read(records[0])
			if !batch.Takes(&e.Record) {
				break
			}
			if e.Page != nil {
				if rows += len(e.Page.Bars); rows > ingest.MaxRows && len(entries) > 0 {
					break
				}
			}
			records = records[1:]
			entries = append(entries, e)
			batch.Records = append(batch.Records, e.Record)
		}
		for i := range entries {
			if entries[i].unreadable == nil {
				continue
			}
			if err := w.bury(ctx, &entries[i], entries[i].unreadable); err != nil {
				return at, err
			}
		}
		w.config.Observe(w.part.Number, StateWriting)
		var err error
		if at, err = w.commit(ctx, at, entries); err != nil {
			return at, err
		}
		if w.over(ctx) {
			return at, nil
		}
	}
	return at, nil
}

// commit writes the entries, halving them where a record is at fault, until that one is found and buried (PIPELINE 22).
func (w *worker) commit(ctx context.Context, at ingest.Position, entries []entry) (ingest.Position, error) {
	batch := ingest.Batch{Partition: w.part, From: at, Records: make([]ingest.Record, len(entries))}
	for i := range entries {
		batch.Records[i] = entries[i].Record
	}
	result, err := w.write(ctx, batch)
	switch {
	case err == nil:
		w.count(result, len(entries))
		return batch.To(), nil
	case !atFault(err):
		return at, err
	case len(entries) == 1:
		if entries[0].Failure != nil {
			return at, err // what is buried already cannot be buried deeper
		}
		if err := w.bury(ctx, &entries[0], err); err != nil {
			return at, err
		}
		return w.commit(ctx, at, entries)
	}
	middle := len(entries) / 2
	if at, err = w.commit(ctx, at, entries[:middle]); err != nil {
		return at, err
	}
	return w.commit(ctx, at, entries[middle:])
}

// write tries a batch until the database has taken or refused it, or the worker is to end.
func (w *worker) write(ctx context.Context, batch ingest.Batch) (ingest.Result, error) {
	retry := newBackoff()
	for {
		result, err := w.writer.Commit(ctx, batch)
		if err == nil || atFault(err) || errors.Is(err, ingest.ErrOffsetMoved) || w.over(ctx) {
			return result, err
		}
		w.config.Observe(w.part.Number, StateError)
		w.logger.LogAttrs(ctx, slog.LevelWarn, "batch is tried again", slog.Any("error", err))
		retry.waitOr(ctx, w.stopping)
		if w.over(ctx) {
			return result, err
		}
		w.config.Observe(w.part.Number, StateWriting)
	}
}

// atFault reports whether an error lies in the records, by its SQLSTATE's class.
func atFault(err error) bool {
	var stated interface{ SQLState() string }
	if !errors.As(err, &stated) || len(stated.SQLState()) != 5 {
		return false
	}
	switch stated.SQLState()[:2] {
	case "21", "22", "23", "54":
		return true
	}
	return false
}

func (w *worker) count(result ingest.Result, records int) {
	w.records.Add(int64(records))
	w.pages.Add(int64(result.Pages))
	w.bars.Add(result.Rows)
	w.stale.Add(int64(result.Stale))
	w.revised.Add(result.Revised)
	w.withdrawn.Add(result.Withdrawn)
	w.superseded.Add(int64(result.Superseded))
	w.ahead.Add(int64(result.Ahead))
}

// bury publishes a record that cannot be used to the dead letter topic, and turns its entry into the failure of its job.
func (w *worker) bury(ctx context.Context, e *entry, cause error) error {
	h := topic.ReadHeaders(e.raw)
	letter := &kgo.Record{
		Topic: w.config.Names.Dead(), Key: e.raw.Key, Value: e.raw.Value[:min(len(e.raw.Value), maxDeadBytes)],
		Headers: append(append([]kgo.RecordHeader{}, e.raw.Headers...),
			kgo.RecordHeader{Key: "barkeep-error", Value: []byte(cause.Error())},
			kgo.RecordHeader{Key: "barkeep-origin", Value: fmt.Appendf(nil, "%s/%d/%d", e.raw.Topic, e.raw.Partition, e.raw.Offset)}),
	}
	if err := w.reader.ProduceSync(ctx, letter).FirstErr(); err != nil {
		topic.Renew(w.reader, letter.Topic, err)
		return fmt.Errorf("publish dead letter: %w", err)
	}
	w.dead.Add(1)
	w.logger.LogAttrs(ctx, slog.LevelError, "record cannot be used", slog.Any("error", cause), slog.Int64("offset", e.Offset),
		slog.String("symbol", h.Symbol), slog.String("timeframe", h.Timeframe), slog.String("job_id", h.JobID))
	job := h.JobID
	if e.Page != nil {
		job = e.Page.JobID
	}
	e.Page, e.RollUp, e.End, e.unreadable = nil, nil, nil, nil
	e.Failure = &ingest.Failure{
		JobID: job, Code: pgerrcode.SystemError,
		Message: fmt.Sprintf("a page of %q %q could not be used; it is kept in topic %s", h.Symbol, h.Timeframe, letter.Topic),
	}
	return nil
}

// backoff waits longer each time, with jitter.
type backoff struct{ next time.Duration }

const firstWait = 50 * time.Millisecond

func newBackoff() *backoff { return &backoff{next: firstWait} }

func (b *backoff) reset() { b.next = firstWait }

func (b *backoff) wait(ctx context.Context) { b.waitOr(ctx, nil) }

func (b *backoff) waitOr(ctx context.Context, stop <-chan struct{}) {
	timer := time.NewTimer(time.Duration(float64(b.next) * (0.5 + rand.Float64())))
	defer timer.Stop()
	b.next = min(2*b.next, 5*time.Second)
	select {
	case <-timer.C:
	case <-stop:
	case <-ctx.Done():
	}
}
