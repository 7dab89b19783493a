package producer

import (
	"context"
	"slices"
	"time"

	"barkeep/backfill/coverage"
	"barkeep/backfill/topic"
	"barkeep/internal/market"
)

// The records of a partition are ingested in their order: a page waits for all that were published before it. So that the
// one page of a user does not stand behind the ten years of another, or of nobody any more, the pages that are on their way to
// the database are bounded per partition, whoever asked for them; and each job that a user waits for may have a few of its
// own on the way whatever the others do (PIPELINE 16).

// way is a page that was published, or is about to be, and not seen in the coverage yet.
type way struct {
	series    market.Series
	start     market.Instant
	fetchedAt market.Instant
	at        time.Time
	bulk      bool
	jobs      []*run // that wanted the slot
}

// ownPages is what a job that a user waits for may have on the way however many others are; bulkPages is what is left to bulk
// while users take all they can.
func ownPages(window int) int { return max(1, window/8) }

func bulkPages(window int) int { return max(1, window/4) }

// room waits until a page of the slot may be on its way to the database. It is asked before the fetch, and bindingly by
// depart before the page is published: other fetches may have ended between.
func (t *slotTable) room(ctx context.Context, partition int32, window int, s *slot) error {
	_, err := t.admit(ctx, partition, window, s, nil)
	return err
}

// depart waits for room and takes it for the page. The page has it until it is seen in the coverage, or returned is called
// because it was not published.
func (t *slotTable) depart(ctx context.Context, partition int32, window int, s *slot, page *topic.Page) (returned func(), err error) {
	w, err := t.admit(ctx, partition, window, s, &way{series: page.Series, start: page.Segments[0].Range.Start, fetchedAt: page.FetchedAt})
	if err != nil {
		return nil, err
	}
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.ways[partition] = slices.DeleteFunc(t.ways[partition], func(o *way) bool { return o == w })
	}, nil
}

func (t *slotTable) admit(ctx context.Context, partition int32, window int, s *slot, w *way) (*way, error) {
	counted := false
	defer func() {
		if counted {
			t.mu.Lock()
			defer t.mu.Unlock()
			t.waiting[partition]--
		}
	}()
	for {
		changed := t.store.Changed()
		if t.admitted(partition, window, s, w, &counted) {
			return w, nil
		}
		timer := time.NewTimer(time.Second)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, context.Cause(ctx)
		case <-changed:
		case <-s.joined:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// admitted puts w, if there is one, on its way where there is room for it. Else it counts the slot among the users' that
// wait, if it is one.
func (t *slotTable) admitted(partition int32, window int, s *slot, w *way, counted *bool) bool {
	index := t.store.Snapshot()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.arriveLocked(index, partition)
	if !t.roomLocked(partition, window, s) {
		if s.urgent() && !*counted {
			t.waiting[partition]++
			*counted = true
		}
		return false
	}
	if w != nil {
		w.at, w.bulk, w.jobs = t.now(), !s.urgent(), slices.Clone(s.jobs)
		t.ways[partition] = append(t.ways[partition], w)
	}
	return true
}

// roomLocked reports whether one more page of the slot may be on its way; t.mu is held.
func (t *slotTable) roomLocked(partition int32, window int, s *slot) bool {
	all := t.ways[partition]
	if !s.urgent() {
		bulk := 0
		for _, w := range all {
			if w.bulk {
				bulk++
			}
		}
		return bulk < bulkPages(window) || len(all) < window && t.waiting[partition] == 0
	}
	if len(all) < window {
		return true
	}
	for _, r := range s.jobs {
		own := 0
		for _, w := range all {
			if slices.Contains(w.jobs, r) {
				own++
			}
		}
		if r.user.Load() && own < ownPages(window) {
			return true
		}
	}
	return false
}

// arriveLocked forgets the pages that are in the coverage, or will not come there; t.mu is held.
func (t *slotTable) arriveLocked(index *coverage.Index, partition int32) {
	t.ways[partition] = slices.DeleteFunc(t.ways[partition], func(w *way) bool {
		return t.now().Sub(w.at) > sentFor || w.ingested(index)
	})
}

func (w *way) ingested(index *coverage.Index) bool {
	for _, s := range index.Segments(w.series) {
		if s.Range.Contains(w.start) {
			return s.FetchedAt >= w.fetchedAt
		}
	}
	return false
}
