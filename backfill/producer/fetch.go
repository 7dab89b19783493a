package producer

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"barkeep/backfill/coverage"
	"barkeep/backfill/source"
	"barkeep/backfill/topic"
	"barkeep/internal/market"
)

// page fetches one page of at most the source's limit from the newer end of r, publishes it, and returns what of r is
// left.
func (r *run) page(ctx context.Context, s *slot, want market.Range) (rest market.Range, err error) {
	query := source.Query{VendorID: r.job.VendorID, Series: r.job.Series, Range: want}
	first, err := r.fetch(ctx, s, query)
	if err != nil {
		return market.Range{}, err
	}
	answer := first
	judged := source.Judge(r.info, query, first, nil)
	if judged.Again {
		if answer, err = r.fetch(ctx, s, query); err != nil {
			return market.Range{}, err
		}
		judged = source.Judge(r.info, query, answer, &first)
	}
	page := topic.Page{Series: r.job.Series, Asked: want, FetchedAt: answer.Sent, Bars: judged.Bars}
	r.postpone(judged.Segments)
	for _, g := range judged.Segments {
		page.Segments = append(page.Segments, topic.Segment{Range: g.Range, State: g.State, Reason: g.Reason, RetryAt: g.RetryAt})
	}
	if len(page.Segments) == 0 {
		return judged.Rest, nil
	}
	returned, err := r.p.slots.depart(ctx, r.owner.id, r.p.config.Window, s, &page)
	if err != nil {
		return market.Range{}, err
	}
	if err := r.publish(ctx, page); err != nil {
		returned()
		return market.Range{}, err
	}
	return judged.Rest, nil
}

// postpone makes the time until an unavailable range is asked for again longer, where it was unavailable the last time, with
// jitter (PIPELINE 18).
func (r *run) postpone(segments []source.Segment) {
	for i := range segments {
		g := &segments[i]
		if g.State != coverage.Unavailable || g.RetryAt == 0 {
			continue
		}
		wait := source.UnavailableFor
		for _, before := range r.p.store.Snapshot().Segments(r.job.Series) {
			if (before.State == coverage.Unavailable || before.Lent()) && before.RetryAt > before.FetchedAt && before.Range.Overlaps(g.Range) {
				wait = max(wait, 2*before.RetryAt.Sub(before.FetchedAt))
			}
		}
		wait = time.Duration(float64(min(wait, source.UnavailableAtMost)) * (0.9 + 0.2*rand.Float64()))
		g.RetryAt = g.RetryAt.Shift(wait - source.UnavailableFor)
	}
}

// fetch asks until there is an answer, the attempts are used up, or the source says that asking is of no use.
func (r *run) fetch(ctx context.Context, s *slot, q source.Query) (source.Answer, error) {
	config := &r.p.config
	backoff, began := config.Backoff, config.Now()
	for attempt := 1; ; attempt++ {
		probe, err := r.lane.breaker.admit(ctx, config.Now)
		if err != nil {
			return source.Answer{}, err
		}
		r.queue(ctx)
		answer, err := r.ask(ctx, s, q, probe)
		again, after := source.Retryable(err)
		if probe && (!again || ctx.Err() != nil) {
			r.lane.breaker.conclude(!again && ctx.Err() == nil) // a source that says no is there
		}
		if err == nil {
			return answer, nil
		}
		if ctx.Err() != nil {
			return source.Answer{}, context.Cause(ctx)
		}
		if errors.Is(err, errShut) {
			attempt--
			continue
		}
		if !again {
			return source.Answer{}, err
		}
		gone := errors.Is(err, source.ErrUnreachable) && attempt >= unreachableAttempts && config.Now().Sub(began) >= unreachableFor
		if probe || attempt >= config.Attempts || after > longestRetryAfter || gone {
			return source.Answer{}, r.lane.breaker.trip(config.Now().Add(max(config.Breaker, after)), err, probe)
		}
		wait := max(time.Duration(float64(backoff)*(0.5+rand.Float64())), after)
		backoff = min(2*backoff, config.BackoffLimit)
		r.delayed(ctx, config.Now().Add(wait), err.Error())
		if !r.lane.breaker.rest(ctx, wait) {
			return source.Answer{}, context.Cause(ctx)
		}
	}
}

const (
	// longestRetryAfter is how long a Retry-After is waited out; beyond it the job fails and says so.
	longestRetryAfter = time.Minute
	// unreachableFor and unreachableAttempts are how long a source that cannot be reached is tried: without a network the
	// user is to hear it within seconds.
	unreachableFor      = 3 * time.Second
	unreachableAttempts = 3
)

// ask makes one request when it is its turn; errShut where the breaker has opened until then, but for its probe.
func (r *run) ask(ctx context.Context, s *slot, q source.Query, probe bool) (source.Answer, error) {
	leave, err := r.lane.enter(ctx, s)
	if err != nil {
		return source.Answer{}, err
	}
	defer leave()
	if !probe && r.lane.breaker.shut() {
		return source.Answer{}, errShut
	}
	q.Priority = s.priority()
	request := Request{Source: r.lane.source.Name()}
	began := r.p.config.Now()
	ctx = source.WithRaised(ctx, s.raised)
	answer, err := r.lane.source.Fetch(source.WithTrace(ctx, func(d time.Duration) { request.Waited += d }), q)
	request.Took = r.p.config.Now().Sub(began) - request.Waited
	answer.Doubtful = r.p.store.Skew().Doubtful()
	request.Skew, request.Bars, request.Err = answer.Skew, len(answer.Bars), err
	r.p.config.Observe(request)
	return answer, err
}
