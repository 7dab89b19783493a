package producer

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"barkeep/backfill/directory"
	"barkeep/backfill/source"
	"barkeep/internal/market"
)

// probeKey is what jobs that find the same listing have in common. A user does not wait for what a bulk job asks.
type probeKey struct {
	symbol     market.Symbol
	generation int64
	priority   source.Priority
}

// probing is a listing that a job finds for itself and others. What follows done is set before that is closed.
type probing struct {
	done chan struct{}
	// listed is market.NegInf where it stays unknown.
	listed market.Instant
	err    error
	// left is whether the job ended before it knew.
	left bool
}

// probe asks the source for the listing where that is cheap; else the job begins at the source's earliest instant. Jobs of a symbol that
// come at one time ask once: they are all of one partition, and so of this process.
func (r *run) probe(ctx context.Context) error {
	prober, can := r.lane.source.(source.Prober)
	if !can || r.job.Range.Start > r.p.now().Shift(-probeAge) {
		return nil
	}
	key := probeKey{r.job.Series.Symbol, r.job.Generation, r.priority()}
	for {
		found, mine := r.p.joinProbing(key)
		if mine {
			found.listed, found.err = r.find(ctx, prober)
			found.left = ctx.Err() != nil
			r.p.endProbing(key, found)
		}
		select {
		case <-found.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if found.left && !mine {
			continue // it is this job's turn, or another's
		}
		if !found.listed.IsInf() {
			r.life.Start = found.listed
		}
		return found.err
	}
}

// joinProbing returns the probing that is under way, or else begins one that the caller is to end.
func (p *Producer) joinProbing(key probeKey) (found *probing, mine bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if found := p.probings[key]; found != nil {
		return found, false
	}
	found = &probing{done: make(chan struct{}), listed: market.NegInf}
	p.probings[key] = found
	return found, true
}

func (p *Producer) endProbing(key probeKey, found *probing) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.probings, key)
	close(found.done)
}

// find asks the source, unless another job has stored the listing since this one has read that it is unknown.
func (r *run) find(ctx context.Context, prober source.Prober) (market.Instant, error) {
	var stored pgtype.Timestamptz
	err := r.p.config.Pool.QueryRow(ctx, `SELECT (SELECT listed_at FROM barkeep.symbol WHERE symbol = $1 AND generation = $2)`,
		string(r.job.Series.Symbol), r.job.Generation).Scan(&stored)
	if err != nil {
		return market.NegInf, &databaseError{fmt.Errorf("read the listing of %s: %w", r.job.Series.Symbol, err)}
	}
	if stored.Valid && stored.InfinityModifier == pgtype.Finite {
		return market.FromTime(stored.Time), nil
	}
	probe, err := r.lane.breaker.admit(ctx, r.p.config.Now)
	if err != nil {
		return market.NegInf, err // the vendor is left alone by whoever asks
	}
	listed, err := prober.Listed(ctx, r.job.VendorID, r.priority())
	if again, after := source.Retryable(err); probe && again && ctx.Err() == nil {
		return market.NegInf, r.lane.breaker.trip(r.p.config.Now().Add(max(r.p.config.Breaker, after)), err, true)
	} else if probe {
		r.lane.breaker.conclude(ctx.Err() == nil)
	}
	if err != nil || listed.IsInf() {
		r.p.config.Logger.LogAttrs(ctx, slog.LevelInfo, "listing stays unknown", slog.String("symbol", string(r.job.Series.Symbol)), slog.Any("error", err))
		return market.NegInf, ctx.Err()
	}
	if err := directory.SetListed(ctx, r.p.config.Pool, r.job.Series.Symbol, r.job.Generation, listed); err != nil {
		return market.NegInf, &databaseError{err}
	}
	return listed, nil
}

// probeAge spares the probe where a job wants only recent bars.
const probeAge = 30 * 24 * time.Hour
