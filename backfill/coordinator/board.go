package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"barkeep/backfill/directory"
	"barkeep/backfill/topic"
	"barkeep/internal/market"
)

// jobChannel is where ingest notifies the end of a job, as its id.
const jobChannel = "barkeep_job"

// jobState is how far an awaited job is known to be.
type jobState int

const (
	jobOpen jobState = iota
	jobDone          // done, superseded or cancelled: who still misses bars submits again
	jobFailedState
)

// job is one that somebody of this process waits for. Waiters with the same gap share it.
type job struct {
	record  topic.Job
	id      uuid.UUID
	askedBy string
	// base is the timeframe that a roll-up is made of, zero for what a source is asked for; life is then the instrument's.
	base market.Timeframe
	life market.Range
	// lender is the symbol whose bars are taken, empty for others; base is then the series' own timeframe, and life the lender's.
	lender market.Symbol

	// The rest is guarded by board.mu.
	waiters   map[chan struct{}]struct{} // each holds one token
	state     jobState
	end       topic.EndState
	err       *Error
	published time.Time // when the record was published last
	hints     hints
}

type shareKey struct {
	series     market.Series
	r          market.Range
	generation int64
	// priority keeps a user from waiting for a bulk job.
	priority int
	// newest keeps who would rather have the newest bars first from the job of who needs all.
	newest bool
	lender market.Symbol
}

// board holds the awaited jobs.
type board struct {
	mu     sync.Mutex
	jobs   map[uuid.UUID]*job // guarded by mu
	shared map[shareKey]*job  // guarded by mu; the open ones
	// left are the open jobs whose last waiter went since the last renewal, guarded by mu.
	left []uuid.UUID
}

func newBoard() *board {
	return &board{jobs: make(map[uuid.UUID]*job), shared: make(map[shareKey]*job)}
}

func (b *board) len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.jobs)
}

// join makes wake a waiter of an open job for exactly the range, one made by fresh where there is none. made reports that
// it was made: the caller submits it, the others wait.
func (b *board) join(key shareKey, wake chan struct{}, limit int, fresh func() *job) (j *job, made bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if j := b.shared[key]; j != nil {
		j.waiters[wake] = struct{}{}
		return j, false, nil
	}
	if len(b.jobs) >= limit {
		return nil, false, queueFull(limit)
	}
	j = fresh()
	j.waiters = map[chan struct{}]struct{}{wake: {}}
	b.jobs[j.id], b.shared[key] = j, j
	return j, true, nil
}

// leave ends one waiter's interest; the job goes on.
func (b *board) leave(j *job, wake chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(j.waiters, wake)
	if len(j.waiters) == 0 {
		if j.state == jobOpen && b.jobs[j.id] == j {
			b.left = append(b.left, j.id)
		}
		delete(b.jobs, j.id)
		b.unshare(j)
	}
}

func (b *board) unshare(j *job) {
	if key := j.key(); b.shared[key] == j {
		delete(b.shared, key)
	}
}

func (j *job) key() shareKey {
	return shareKey{j.record.Series, j.record.Range, j.record.Generation, j.record.Priority, j.record.NewestFirst, j.lender}
}

// settle notes how a job ended and wakes its waiters.
func (b *board) settle(id uuid.UUID, state jobState, end topic.EndState, err *Error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	j := b.jobs[id]
	if j == nil || j.state != jobOpen {
		return
	}
	j.state, j.end, j.err = state, end, err
	b.unshare(j)
	j.wake()
}

// wake has the waiters look; board.mu is held.
func (j *job) wake() {
	for wake := range j.waiters {
		select {
		case wake <- struct{}{}:
		default: // it is awake already
		}
	}
}

// look returns how a job stands.
func (b *board) look(j *job) (jobState, topic.EndState, *Error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return j.state, j.end, j.err
}

// ids returns the open jobs.
func (b *board) ids() []uuid.UUID {
	b.mu.Lock()
	defer b.mu.Unlock()
	ids := make([]uuid.UUID, 0, len(b.jobs))
	for id, j := range b.jobs {
		if j.state == jobOpen {
			ids = append(ids, id)
		}
	}
	return ids
}

// abandoned returns the jobs whose last waiter went since it was last asked.
func (b *board) abandoned() []uuid.UUID {
	b.mu.Lock()
	defer b.mu.Unlock()
	ids := b.left
	b.left = nil
	return ids
}

// find returns an open job.
func (b *board) find(id uuid.UUID) *job {
	b.mu.Lock()
	defer b.mu.Unlock()
	if j := b.jobs[id]; j != nil && j.state == jobOpen {
		return j
	}
	return nil
}

// silent reports whether the job was not published for at least d, and notes that it is now.
func (b *board) silent(j *job, d time.Duration, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if now.Sub(j.published) < d {
		return false
	}
	j.published = now
	return true
}

// Run keeps the awaited jobs: it listens, renews, reads their rows and publishes silent ones again, until ctx ends; then
// it returns nil.
func (c *Coordinator) Run(ctx context.Context) error {
	var group sync.WaitGroup
	group.Go(func() { c.listen(ctx) })
	group.Go(func() { c.hearEvents(ctx) })
	group.Go(func() { c.every(ctx, c.config.Renew, c.renew) })
	group.Go(func() {
		c.every(ctx, c.config.Poll, func(ctx context.Context) error { return c.readRows(ctx, c.jobs.ids()) })
	})
	group.Go(func() { c.every(ctx, sweepEvery, c.sweep) })
	group.Go(func() { c.every(ctx, c.config.Silence, c.adopt) })
	group.Go(func() {
		c.every(ctx, c.config.LiveRenewal, c.renewLive)
		c.endLive(ctx)
	})
	group.Go(func() { c.every(ctx, c.config.LiveRenewal, c.removeLive) })
	group.Wait()
	return nil
}

// every calls work at intervals with jitter, so that many processes do not do so at once.
func (c *Coordinator) every(ctx context.Context, mean time.Duration, work func(context.Context) error) {
	for pause(ctx, time.Duration(float64(mean)*(0.75+0.5*rand.Float64()))) {
		if err := bounded(ctx, work); err != nil && ctx.Err() == nil {
			c.config.Logger.LogAttrs(ctx, slog.LevelWarn, "coordinator cannot look after its jobs", slog.Any("error", err))
		}
	}
}

// workTime bounds one round of every: a database that is gone without a word must not end the rounds.
const workTime = 10 * time.Second

func bounded(ctx context.Context, work func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, workTime, errNoAnswer)
	defer cancel()
	return work(ctx)
}

var errNoAnswer = errors.New("no answer from the database or the broker")

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// listen hears of ended jobs and lists that were read. What it misses the polls find.
func (c *Coordinator) listen(ctx context.Context) {
	backoff := 100 * time.Millisecond
	for {
		err := c.hear(ctx)
		if ctx.Err() != nil {
			return
		}
		c.config.Logger.LogAttrs(ctx, slog.LevelWarn, "coordinator lost its connection", slog.Any("error", err))
		if !pause(ctx, backoff) {
			return
		}
		backoff = min(2*backoff, 5*time.Second)
	}
}

func (c *Coordinator) hear(ctx context.Context) error {
	conn, err := c.config.Pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer func() {
		_ = conn.Conn().Close(context.WithoutCancel(ctx)) // a connection that listens is of no use to others
		conn.Release()
	}()
	if _, err := conn.Exec(ctx, "LISTEN "+jobChannel+"; LISTEN "+directory.Channel); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	for {
		notice, err := conn.Conn().WaitForNotification(ctx)
		if err != nil {
			return fmt.Errorf("wait for notification: %w", err)
		}
		if notice.Channel == directory.Channel {
			c.wakeListed()
			continue
		}
		id, err := uuid.Parse(notice.Payload)
		if err != nil || c.jobs.find(id) == nil {
			continue // another coordinator's
		}
		if err := c.readRows(ctx, []uuid.UUID{id}); err != nil {
			return err
		}
	}
}

func (c *Coordinator) wakeListed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.listed)
	c.listed = make(chan struct{})
}

func (c *Coordinator) listedChan() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.listed
}

// renew tells producers for which jobs somebody waits, and for which nobody does any more: those are bulk at once, not only
// when they are not renewed. Rows are locked by id, as ingest does.
func (c *Coordinator) renew(ctx context.Context) error {
	ids, left := c.jobs.ids(), c.jobs.abandoned()
	if len(ids)+len(left) == 0 {
		return nil
	}
	_, err := c.config.Pool.Exec(ctx, `WITH locked AS (SELECT id FROM barkeep.job WHERE id = ANY ($1::uuid[] || $3::uuid[])
	    AND state IN ('queued', 'fetching') ORDER BY id FOR UPDATE)
	  UPDATE barkeep.job j SET wanted_until = CASE WHEN j.id = ANY ($1) THEN now() + make_interval(secs => $2) ELSE now() END
	  FROM locked WHERE j.id = locked.id`,
		ids, wantedFor.Seconds(), left)
	if err != nil {
		return fmt.Errorf("renew jobs: %w", err)
	}
	return nil
}

const (
	// sweepEvery is how often old rows of jobs are deleted, and keptFor how long those are kept that ended, or whose record
	// was never published or is gone from its topic.
	sweepEvery = time.Hour
	keptFor    = 7 * 24 * time.Hour
)

// sweep deletes the rows of jobs that ended long ago, or that nobody has worked on since.
func (c *Coordinator) sweep(ctx context.Context) error {
	_, err := c.config.Pool.Exec(ctx, `DELETE FROM barkeep.job WHERE coalesce(ended_at, updated_at) < now() - make_interval(secs => $1)`, keptFor.Seconds())
	if err != nil {
		return fmt.Errorf("delete old jobs: %w", err)
	}
	return nil
}

// wantedFor is how long a job stays wanted after a renewal: a coordinator that died is noticed after it.
const wantedFor = 10 * time.Second

// readRows settles the jobs whose rows say that they ended, and publishes the silent ones again.
func (c *Coordinator) readRows(ctx context.Context, ids []uuid.UUID) error {
	if len(ids) == 0 {
		return nil
	}
	rows, err := c.config.Pool.Query(ctx, `SELECT u.id, coalesce(j.state, 'lost'), coalesce(j.error_code, ''),
	    coalesce(j.error_message, ''), coalesce(extract(epoch FROM clock_timestamp() - j.updated_at), 0)::float8
	  FROM unnest($1::uuid[]) AS u (id) LEFT JOIN barkeep.job j USING (id)`, ids)
	if err != nil {
		return fmt.Errorf("read jobs: %w", err)
	}
	var id uuid.UUID
	var state, code, message string
	var silent float64
	var again []*job
	_, err = pgx.ForEachRow(rows, []any{&id, &state, &code, &message, &silent}, func() error {
		j := c.jobs.find(id)
		if j == nil {
			return nil
		}
		switch state {
		case "queued", "fetching":
			if silent >= c.config.Silence.Seconds() && c.jobs.silent(j, c.config.Silence, c.config.Now()) {
				again = append(again, j)
			}
		case "failed":
			failure := jobFailed(j.record.Series, j.record.Range, code, message)
			c.memory.remember(grudgeKey{j.record.Series, j.record.Range}, failure, c.config.Now())
			c.jobs.settle(id, jobFailedState, topic.Failed, failure)
		case "lost":
			// The database went back in time, or is not told yet of a row that is being inserted.
			if c.jobs.silent(j, c.config.Silence, c.config.Now()) {
				c.jobs.settle(id, jobDone, topic.Superseded, nil)
			}
		default:
			c.memory.forget(grudgeKey{j.record.Series, j.record.Range})
			c.jobs.settle(id, jobDone, topic.EndState(state), nil)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read jobs: %w", err)
	}
	for _, j := range again {
		c.config.Logger.LogAttrs(ctx, slog.LevelWarn, "job was silent, publish it again",
			slog.String("job_id", j.record.ID), slog.String("symbol", string(j.record.Series.Symbol)))
		for _, err := range c.produce(ctx, c.records(j)) {
			return fmt.Errorf("publish job again: %w", err)
		}
	}
	return nil
}
