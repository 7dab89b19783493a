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

// closed notes that the end of job was published after the series' stretches up to mark.
func (t *slotTable) closed(key seriesKey, mark int64, job uuid.UUID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.recent[key] {
		if s := &t.recent[key][i]; s.number <= mark && s.closer == uuid.Nil {
			s.closer = job
		}
	}
}

// closers returns the jobs whose ends follow stretches of the series.
func (t *slotTable) closers(key seriesKey) []uuid.UUID {
	t.mu.Lock()
	defer t.mu.Unlock()
	var jobs []uuid.UUID
	for _, s := range t.recent[key] {
		if s.closer != uuid.Nil && !slices.Contains(jobs, s.closer) {
			jobs = append(jobs, s.closer)
		}
	}
	return jobs
}

// drop forgets the stretches that the ends of the jobs follow: what of them is there, the coverage says.
func (t *slotTable) drop(key seriesKey, jobs []uuid.UUID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.recent[key] = slices.DeleteFunc(t.recent[key], func(s sent) bool { return slices.Contains(jobs, s.closer) })
	if len(t.recent[key]) == 0 {
		delete(t.recent, key)
	}
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
