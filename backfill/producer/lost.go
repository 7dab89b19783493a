package producer

import (
	"context"
	"fmt"
	"slices"

	"github.com/google/uuid"
)

// The log may lose what the broker had acknowledged: it is cut short, or its topic made anew. What was published counts as
// there until it is ingested (slotTable.missing), so without what follows a job that asks for the loss would end with
// nothing, again and again. A symbol's pages and the ends of its jobs share a partition: once the end that follows a page
// is in the database, the page is as well, or it never will be.

// mark returns the number of the last stretch that is published now.
func (t *slotTable) mark() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.numbered
}

// maxClosers bounds how many ends of a series' jobs are remembered: the newest follow all that the others follow.
const maxClosers = 16

// closed notes that the end of job was published after the series' stretches up to mark. Each end counts, not the first alone: that of
// a job which nobody looks after any more may be lost as well, and comes again only when the job is taken up (adopt in the coordinator).
func (t *slotTable) closed(key seriesKey, mark int64, job uuid.UUID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !slices.ContainsFunc(t.recent[key], func(s sent) bool { return s.number <= mark }) {
		return
	}
	t.ends[key] = append(t.ends[key], closer{mark, job})
	t.ends[key] = t.ends[key][max(0, len(t.ends[key])-maxClosers):]
}

// followedLocked is the number of the last stretch of the series that an end follows; t.mu is held.
func (t *slotTable) followedLocked(key seriesKey) (last int64) {
	for _, c := range t.ends[key] {
		last = max(last, c.mark)
	}
	return last
}

// keepLocked has kept be what counts as published, and forgets the ends where that is nothing; t.mu is held.
func (t *slotTable) keepLocked(key seriesKey, kept []sent) {
	if t.recent[key] = kept; len(kept) == 0 {
		delete(t.recent, key)
		delete(t.ends, key)
	}
}

// closers returns the jobs whose ends follow stretches of the series.
func (t *slotTable) closers(key seriesKey) []uuid.UUID {
	t.mu.Lock()
	defer t.mu.Unlock()
	var jobs []uuid.UUID
	for _, c := range t.ends[key] {
		jobs = append(jobs, c.job)
	}
	return jobs
}

// drop forgets the stretches that the ends of the jobs follow: what of them is there, the coverage says.
func (t *slotTable) drop(key seriesKey, jobs []uuid.UUID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	last := int64(0)
	for _, c := range t.ends[key] {
		if slices.Contains(jobs, c.job) {
			last = max(last, c.mark)
		}
	}
	t.ends[key] = slices.DeleteFunc(t.ends[key], func(c closer) bool { return c.mark <= last })
	t.keepLocked(key, slices.DeleteFunc(t.recent[key], func(s sent) bool { return s.number <= last }))
}

// refresh reads the coverage of the job's symbol anew, and has what was published and lost be a gap again. Which jobs have
// ended is read first: what they followed is in the coverage that is read afterwards.
func (r *run) refresh(ctx context.Context) error {
	key := seriesKey{r.job.Series, r.job.Generation}
	var ended []uuid.UUID
	if jobs := r.p.slots.closers(key); len(jobs) > 0 {
		// A job that is not known any more was lost with a database that went back in time: its end will not be read.
		err := r.p.config.Pool.QueryRow(ctx, `SELECT coalesce(array_agg(n.id), '{}') FROM unnest($1::uuid[]) AS n (id)
		  LEFT JOIN barkeep.job j ON j.id = n.id WHERE j.id IS NULL OR j.ended_at IS NOT NULL`, jobs).Scan(&ended)
		if err != nil {
			return &databaseError{fmt.Errorf("read ended jobs: %w", err)}
		}
	}
	if err := r.p.store.RefreshSymbol(ctx, r.job.Series.Symbol); err != nil {
		return &databaseError{err}
	}
	r.p.slots.drop(key, ended)
	return nil
}
