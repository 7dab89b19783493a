package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"barkeep/backfill/ingest"
)

// A worker's queue holds at most about highWater bytes of values; its partition is paused above that until it has sunk
// to lowWater.
const (
	highWater = 8 << 20
	lowWater  = 2 << 20
)

// worker follows one partition. Its goroutine is the session's; deliver and stop are called by others.
type worker struct {
	*session
	part     ingest.Partition
	logger   *slog.Logger
	stopping chan struct{}
	stopOnce sync.Once
	abandon  context.CancelFunc
	done     chan struct{}
	signal   chan struct{} // holds one token while there may be something in the queue

	queueMu sync.Mutex
	queue   []*kgo.Record // guarded by queueMu, as what follows
	bytes   int
	paused  bool
	broken  error // of the last fetch
	end     int64 // high watermark

	hinted time.Time // of the last offset told to the group
}

func newWorker(s *session, number int32) *worker {
	return &worker{
		session:  s,
		part:     ingest.Partition{ClusterID: s.cluster, TopicID: s.topicID, Number: number},
		logger:   s.config.Logger.With(slog.Int("partition", int(number))),
		stopping: make(chan struct{}), done: make(chan struct{}), signal: make(chan struct{}, 1),
	}
}

func (w *worker) stop() { w.stopOnce.Do(func() { close(w.stopping) }) }

// over reports whether no new batch is to be begun.
func (w *worker) over(ctx context.Context) bool {
	select {
	case <-w.stopping:
		return true
	default:
		return ctx.Err() != nil
	}
}

// run follows the partition until it is stopped, from wherever the database says after each error.
func (w *worker) run(ctx context.Context) {
	retry := newBackoff()
	for !w.over(ctx) {
		err := w.follow(ctx, retry)
		w.reader.RemoveConsumePartitions(w.topics())
		if w.over(ctx) {
			break
		}
		w.config.Observe(w.part.Number, StateError)
		if errors.Is(err, errTopicReplaced) {
			select {
			case w.failed <- err:
			default:
			}
			return
		}
		w.logger.LogAttrs(ctx, slog.LevelWarn, "partition is positioned anew", slog.Any("error", err))
		retry.waitOr(ctx, w.stopping)
	}
	w.config.Observe(w.part.Number, StateIdle)
}

func (w *worker) topics() map[string][]int32 {
	return map[string][]int32{w.config.Names.Bars(): {w.part.Number}}
}

// place is where a worker begins: at is what the offset row holds, seek the first offset to read, and probe says that the
// record there must be the one that at names.
type place struct {
	at    ingest.Position
	seek  int64
	probe bool
}

// follow positions the reader and commits batches until something is not as it was.
func (w *worker) follow(ctx context.Context, retry *backoff) error {
	w.config.Observe(w.part.Number, StateIdle)
	from, err := w.position(ctx)
	if err != nil {
		return err
	}
	w.drain()
	w.reader.AddConsumePartitions(map[string]map[int32]kgo.Offset{
		w.config.Names.Bars(): {w.part.Number: kgo.NewOffset().At(from.seek)},
	})
	next, err := w.anchor(ctx, &from)
	if err != nil {
		return err
	}
	at := from.at
	for {
		records, err := w.take(ctx, next, nil)
		if err != nil || len(records) == 0 {
			return err
		}
		if at, err = w.ingest(ctx, at, records); err != nil {
			if errors.Is(err, ingest.ErrOffsetMoved) {
				w.moved.Add(1)
			}
			return err
		}
		next = at.Next
		retry.reset()
		w.hint(ctx, at)
		if w.config.committed != nil {
			if err := w.config.committed(w.part.Number); err != nil {
				return err
			}
		}
		w.config.Observe(w.part.Number, StateIdle)
	}
}

// position reads the offset row and looks whether the log can be what the row speaks of (PIPELINE 20).
func (w *worker) position(ctx context.Context) (place, error) {
	at, found, err := w.writer.Position(ctx, w.part)
	if err != nil {
		return place{}, err
	}
	cluster, id, err := w.identify(ctx)
	if err != nil {
		return place{}, err
	}
	if cluster != w.cluster || id != w.topicID {
		return place{}, errTopicReplaced
	}
	start, end, err := w.bounds(ctx)
	if err != nil {
		return place{}, err
	}
	switch {
	case !found || at.Next == 0:
		return place{at: at, seek: start}, nil
	case end < at.Next:
		w.replay(ctx, at, "the log ends before it")
		return place{at: at, seek: start}, nil
	case start >= at.Next:
		// Retention removed the record before next: there is nothing to compare, and nothing older to replay.
		return place{at: at, seek: start}, nil
	}
	return place{at: at, seek: at.Next - 1, probe: true}, nil
}

func (w *worker) replay(ctx context.Context, at ingest.Position, why string) {
	w.replays.Add(1)
	w.logger.LogAttrs(ctx, slog.LevelWarn, "log is not the one that was read; reading it from its beginning",
		slog.String("reason", why), slog.Int64("next_offset", at.Next), slog.String("record_id", at.LastID))
}

func (w *worker) bounds(ctx context.Context) (start, end int64, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Second, errors.New("broker did not answer within 10 s"))
	defer cancel()
	name := w.config.Names.Bars()
	starts, err := w.admin.ListStartOffsets(ctx, name)
	if err != nil {
		return 0, 0, fmt.Errorf("find the log's start: %w", err)
	}
	ends, err := w.admin.ListEndOffsets(ctx, name)
	if err != nil {
		return 0, 0, fmt.Errorf("find the log's end: %w", err)
	}
	first, ok1 := starts.Lookup(name, w.part.Number)
	last, ok2 := ends.Lookup(name, w.part.Number)
	if !ok1 || !ok2 || first.Err != nil || last.Err != nil {
		return 0, 0, fmt.Errorf("find the log's bounds: %w", errors.Join(errors.New("no answer for the partition"), first.Err, last.Err))
	}
	return first.Offset, last.Offset, nil
}

// anchor reads the record before next where there is one to compare, and returns the offset to go on from.
func (w *worker) anchor(ctx context.Context, from *place) (next int64, err error) {
	if !from.probe {
		return from.seek, nil
	}
	one := 1
	records, err := w.take(ctx, from.seek, &one)
	if err != nil || len(records) == 0 {
		return 0, err
	}
	if recordID(records[0]) == from.at.LastID {
		return from.at.Next, nil
	}
	w.replay(ctx, from.at, "another record stands before it")
	start, _, err := w.bounds(ctx)
	if err != nil {
		return 0, err
	}
	w.reader.RemoveConsumePartitions(w.topics())
	w.drain()
	w.reader.AddConsumePartitions(map[string]map[int32]kgo.Offset{
		w.config.Names.Bars(): {w.part.Number: kgo.NewOffset().At(start)},
	})
	return start, nil
}

// drain forgets what was delivered for an earlier position.
func (w *worker) drain() {
	w.queueMu.Lock()
	defer w.queueMu.Unlock()
	w.queue, w.bytes, w.broken = nil, 0, nil
	if w.paused {
		w.reader.ResumeFetchPartitions(w.topics())
		w.paused = false
	}
}

// deliver takes what was polled. It is called by the session's poll loop and never waits.
func (w *worker) deliver(p kgo.FetchPartition) {
	w.queueMu.Lock()
	defer w.queueMu.Unlock()
	if p.Err != nil {
		w.broken = p.Err
	}
	w.end = p.HighWatermark
	w.queue = append(w.queue, p.Records...)
	for _, r := range p.Records {
		w.bytes += len(r.Value)
	}
	if w.bytes > highWater && !w.paused {
		w.reader.PauseFetchPartitions(w.topics())
		w.paused = true
	}
	select {
	case w.signal <- struct{}{}:
	default:
	}
}

// staleWait is how long records of an earlier position may keep coming after a seek.
const staleWait = 500 * time.Millisecond

// errSequence means that the records are not those that follow.
var errSequence = errors.New("records out of sequence")

// take waits for records and returns those that have arrived, from offset next on, up to a batch's bytes or to limit. It
// returns none when the worker is to stop. Records before next are dropped: a poll that began before a seek may still
// deliver them. Records beyond next may be of such a poll too, so they are an error only if next does not follow soon.
func (w *worker) take(ctx context.Context, next int64, limit *int) ([]*kgo.Record, error) {
	timer := time.NewTimer(staleWait)
	timer.Stop()
	defer timer.Stop()
	waiting := false
	for {
		if w.over(ctx) {
			return nil, nil
		}
		records, skipped, err := w.dequeue(next, limit)
		if err != nil || len(records) > 0 {
			return records, err
		}
		if skipped && !waiting {
			timer.Reset(staleWait)
			waiting = true
		}
		select {
		case <-w.signal:
		case <-timer.C:
			return nil, fmt.Errorf("wait for offset %d: %w", next, errSequence)
		case <-w.stopping:
		case <-ctx.Done():
		}
	}
}

// dequeue takes the run of records that begins at next.
func (w *worker) dequeue(next int64, limit *int) (records []*kgo.Record, skipped bool, err error) {
	w.queueMu.Lock()
	defer w.queueMu.Unlock()
	size := 0
	for len(w.queue) > 0 {
		r := w.queue[0]
		follows := r.Offset == next
		full := size+len(r.Value) > ingest.MaxBytes || (limit != nil && len(records) == *limit)
		if len(records) > 0 && (full || !follows) {
			break
		}
		if follows {
			records = append(records, r)
			size += len(r.Value)
			next++
		}
		skipped = skipped || (!follows && r.Offset >= next)
		w.queue[0] = nil
		w.queue = w.queue[1:]
		w.bytes -= len(r.Value)
	}
	if w.paused && w.bytes < lowWater {
		w.reader.ResumeFetchPartitions(w.topics())
		w.paused = false
	}
	if len(records) == 0 && w.broken != nil {
		return nil, skipped, fmt.Errorf("fetch: %w", w.broken)
	}
	w.mu.Lock()
	w.lag[w.part.Number] = w.end - next
	w.mu.Unlock()
	return records, skipped, nil
}

// hint tells the group how far the database is, at most once a second, but always when nothing more is in hand.
func (w *worker) hint(ctx context.Context, at ingest.Position) {
	w.queueMu.Lock()
	idle := len(w.queue) == 0
	w.queueMu.Unlock()
	if !idle && time.Since(w.hinted) < time.Second {
		return
	}
	w.hinted = time.Now()
	offsets := map[string]map[int32]kgo.EpochOffset{
		w.config.Names.Bars(): {w.part.Number: {Epoch: -1, Offset: at.Next}},
	}
	w.group.CommitOffsets(ctx, offsets, nil)
}
