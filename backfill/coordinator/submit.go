package coordinator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"barkeep/backfill/coverage"
	"barkeep/backfill/directory"
	"barkeep/backfill/quota"
	"barkeep/backfill/topic"
	"barkeep/internal/market"
)

// bind finds out which source serves the part's symbol, once, waiting for lists that were never read (PIPELINE 10).
func (f *filling) bind(ctx context.Context, p *part) error {
	if p.binding != nil {
		return nil
	}
	c := f.c
	key := symbolKey(p.series.Symbol)
	if err := c.memory.recall(key, c.config.Now()); err != nil {
		return err
	}
	maxAge := c.config.ListAge
	began := c.config.Now()
	for {
		listed := c.listedChan()
		b, bound, err := directory.Bind(ctx, c.config.Pool, p.series.Symbol, maxAge, c.config.Now().Sub(began))
		if err != nil {
			if unknown, found := errors.AsType[*directory.UnknownSymbolError](err); found {
				c.memory.rememberUnknown(key, unknown, c.config.Now())
			}
			return err
		}
		if bound {
			c.memory.forget(key)
			p.binding = &b
			return f.derive(p)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-listed:
		case <-time.After(listRetry):
		}
		if c.config.Now().Sub(began) > c.config.ListWait {
			maxAge = forever // a newer list did not come; those never read are still waited for
		}
	}
}

const (
	// listRetry is how often the lists are looked at while one is awaited, should its notification be lost.
	listRetry = 250 * time.Millisecond
	forever   = 1 << 62
)

// submission is a job that is to be submitted, and the part that made it.
type submission struct {
	part *part
	job  *job
}

// submit makes jobs for what of the gaps is not being fetched for their parts, and submits them all at once: of fifty symbols
// the last does not wait for a round trip of each before it.
func (f *filling) submit(ctx context.Context, index *coverage.Index) error {
	var made []submission
	var failure error
	for _, p := range f.parts {
		gap := f.ready(p)
		if gap.Empty() {
			continue
		}
		jobs, err := f.jobs(ctx, index, p, gap)
		for _, j := range jobs {
			made = append(made, submission{p, j})
		}
		if err != nil {
			failure = f.ofItsOwn(index, err)
			break
		}
	}
	// Those made before a failure too: others may have joined them.
	err := f.c.publish(ctx, made, f.quota, f.req.AskedBy)
	if err != nil {
		for _, m := range made { // they were never submitted: that is no round in which they brought nothing
			m.part.drop(f.c.jobs, m.job, f.wake)
		}
	}
	if failure != nil {
		return failure
	}
	return err
}

// jobs joins or makes jobs for what of gap is not being fetched for this part, and returns those made, with an error too.
func (f *filling) jobs(ctx context.Context, index *coverage.Index, p *part, gap market.RangeSet) (made []*job, err error) {
	if made, err = f.borrow(p); err != nil {
		return made, err
	}
	rest := gap.Subtract(p.inFlight()).Subtract(p.onLoan())
	if rest.Empty() {
		return made, nil
	}
	if rest, err = f.dead(ctx, index, p, rest); err != nil || rest.Empty() {
		return made, err
	}
	for _, r := range fewJobs(rest) {
		if failure := f.c.memory.recall(grudgeKey{p.series, r}, f.c.config.Now()); failure != nil {
			if err := f.excuse(p, market.RangeSet{r}, failure); err != nil {
				return made, err
			}
			f.poke()
			continue
		}
		mixed, err := f.mixedBefore(ctx, p, r)
		if err != nil {
			return made, err
		}
		j, fresh, err := f.c.jobs.join(shareKey{p.series, r, p.binding.Generation, f.priority(), f.newestFirst(), ""}, f.wake, f.c.config.MaxJobs, func() *job {
			j := f.newJob(p, r)
			j.record.Mixed = mixed
			return j
		})
		if err != nil {
			return made, err
		}
		p.jobs = append(p.jobs, j)
		if fresh {
			if p.from == nil { // else the gap is that of the base
				f.c.gaps.Add(1)
				f.c.gapBars.Add(market.RangeSet{r}.Intersect(p.binding.Life(f.now)).Count(p.series.Timeframe))
			}
			made = append(made, j)
		}
	}
	return made, nil
}

// poke has this filling look again, without what was excused.
func (f *filling) poke() {
	select {
	case f.wake <- struct{}{}:
	default: // it will anyway
	}
}

// maxJobsOfPart bounds the jobs of one series of a statement.
const maxJobsOfPart = 16

// fewJobs returns what jobs are made for. Many small holes are one job: producers leave out what is covered, and ingest takes no more than may
// be lent.
func fewJobs(set market.RangeSet) market.RangeSet {
	if len(set) > maxJobsOfPart {
		return market.RangeSet{set.Bounds()}
	}
	return set
}

// ofItsOwn returns err, or that the statement needs more fetches at one time than there may be: then it is of no use to try again when others
// have ended.
func (f *filling) ofItsOwn(index *coverage.Index, err error) error {
	if !errors.Is(err, errQueueFull) {
		return err
	}
	if n := f.fetches(index); n > f.c.config.MaxJobs {
		return tooManyFetches(n, f.c.config.MaxJobs)
	}
	return err
}

// fetches returns how many jobs the statement awaits, with those that would be made if there were room.
func (f *filling) fetches(index *coverage.Index) (n int) {
	for _, p := range f.parts {
		n += len(p.jobs)
		gap := f.ready(p)
		if gap.Empty() {
			continue
		}
		for _, each := range p.loans {
			n += len(f.borrowed(p, each))
		}
		rest := gap.Subtract(p.inFlight()).Subtract(p.onLoan())
		for _, r := range fewJobs(rest.Subtract(rangesOf(index.Unavailable(p.series, rest, f.now)))) {
			if f.c.memory.recall(grudgeKey{p.series, r}, f.c.config.Now()) == nil {
				n++
			}
		}
	}
	return n
}

func (f *filling) newJob(p *part, r market.Range) *job {
	id, now := newID(), f.c.config.Now()
	j := &job{id: id, askedBy: f.req.AskedBy, published: now, record: topic.Job{
		ID: id.String(), Deployment: f.c.config.Deployment, Series: p.series, Range: r, Priority: f.priority(),
		Source: p.binding.Source, VendorID: p.binding.VendorID, Generation: p.binding.Generation, AskedAt: market.FromTime(now),
		NewestFirst: f.newestFirst(),
	}}
	if p.from != nil {
		// The bucket that forms is that of the statement: the base may have taken longer to fetch than the bucket to close.
		j.base, j.life, j.record.AskedAt = p.from.series.Timeframe, f.held(p), f.now
	}
	return j
}

// priority is 1 where a user waits, 0 for bulk.
func (f *filling) priority() int {
	if f.req.Bulk {
		return 0
	}
	return 1
}

// newestFirst reports whether the statement may be answered before all bars are there: then those that it has are to be the newest.
func (f *filling) newestFirst() bool { return f.req.Mode == ModePartial }

// publish inserts the rows, if the asker's quota allows them all, then publishes the records. A job that could not be published is failed here and in its row,
// so that those who joined it meanwhile are not left waiting; those who joined one that the quota refused look again, for themselves.
func (c *Coordinator) publish(ctx context.Context, made []submission, limits *quota.Limits, askedBy string) error {
	if len(made) == 0 {
		return nil
	}
	// The submission goes on when the asker is gone: others may have joined.
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), publishTimeout, errPublish)
	defer cancel()
	batch := &pgx.Batch{}
	var fetches, cost int64
	for _, m := range made {
		j := m.job
		life := m.part.binding.Life(j.record.AskedAt)
		if j.lender != "" {
			life = market.NewRangeSet(j.life)
		}
		bars := (market.RangeSet{j.record.Range}).Intersect(life).Count(j.record.Series.Timeframe)
		costs := int64(0) // of a roll-up or a loan, which fetch nothing
		if m.part.from == nil && j.lender == "" {
			costs = bars
		}
		if costs > 0 {
			fetches, cost = fetches+1, add(cost, costs)
		}
		batch.Queue(`INSERT INTO barkeep.job (id, symbol, timeframe, range_start, range_end, source, generation, priority,
		    asked_by, asked_at, wanted_until, bars_total, costs)
		  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, now() + make_interval(secs => $11), $12, $13)`,
			j.id, string(j.record.Series.Symbol), j.record.Series.Timeframe.String(), coverage.Timestamptz(j.record.Range.Start),
			coverage.Timestamptz(j.record.Range.End), j.record.Source, j.record.Generation, int16(j.record.Priority), askedBy, //nolint:gosec // 0 or 1
			coverage.Timestamptz(j.record.AskedAt), wantedFor.Seconds(), bars, costs)
	}
	if err := c.insert(ctx, batch, limits, fetches, cost); err != nil {
		for _, m := range made {
			c.jobs.settle(m.job.id, jobDone, topic.Superseded, nil)
		}
		return err
	}
	var records []*kgo.Record
	of := make(map[*kgo.Record]*job)
	for _, m := range made {
		for _, r := range c.records(m.job) {
			records = append(records, r)
			of[r] = m.job
		}
	}
	failed := make(map[*job]error)
	for r, err := range c.produce(ctx, records) {
		failed[of[r]] = err
	}
	for j, err := range failed {
		failure := brokerDown(err)
		c.jobs.settle(j.id, jobFailedState, topic.Failed, failure)
		// The row is for users to see; when it cannot be written it ends by nobody wanting it.
		_, _ = c.config.Pool.Exec(ctx, `UPDATE barkeep.job SET state = 'failed', error_code = $2, error_message = $3,
		    ended_at = now(), updated_at = now() WHERE id = $1 AND state = 'queued'`, j.id, failure.Code, failure.Message)
	}
	return nil
}

// insert inserts the rows in one transaction, in which the quota, where there is one, has admitted them.
func (c *Coordinator) insert(ctx context.Context, batch *pgx.Batch, limits *quota.Limits, fetches, bars int64) error {
	if limits == nil || !limits.Counts() {
		if err := c.config.Pool.SendBatch(ctx, batch).Close(); err != nil {
			return fmt.Errorf("insert jobs: %w", err)
		}
		return nil
	}
	return pgx.BeginFunc(ctx, c.config.Pool, func(tx pgx.Tx) error {
		if err := limits.Admit(ctx, tx, fetches, bars); err != nil {
			return err
		}
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return fmt.Errorf("insert jobs: %w", err)
		}
		return nil
	})
}

const publishTimeout = 15 * time.Second

var errPublish = errors.New("submitting jobs took too long")

// produce publishes records and returns the errors of those that the broker does not have.
func (c *Coordinator) produce(ctx context.Context, records []*kgo.Record) map[*kgo.Record]error {
	failed := make(map[*kgo.Record]error)
	for _, result := range c.client.ProduceSync(ctx, records...) {
		if result.Err != nil {
			failed[result.Record] = result.Err
		}
	}
	var again []*kgo.Record
	original := make(map[*kgo.Record]*kgo.Record)
	for _, r := range records { // in their order: what ends a job comes after what it ends
		if err := failed[r]; err != nil && topic.Renew(c.client, r.Topic, err) {
			fresh := &kgo.Record{Topic: r.Topic, Key: r.Key, Value: r.Value, Headers: r.Headers}
			again = append(again, fresh)
			original[fresh] = r
		}
	}
	for _, result := range c.client.ProduceSync(ctx, again...) {
		delete(failed, original[result.Record])
		if result.Err != nil {
			failed[original[result.Record]] = result.Err
		}
	}
	return failed
}
