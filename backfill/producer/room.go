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
// own on the way whatever the others do (PIPELINE 16). The partitions share the database, so that all of them together are
// bounded too: of fifty symbols asked for at once each page would be fiftieth in its turn.

// way is a page that was published, or is about to be, and not seen in the coverage yet.
type way struct {
	partition int32
	series    market.Series
	start     market.Instant
	fetchedAt market.Instant
	at        time.Time
	bulk      bool
	jobs      []*run // that wanted the slot
}

// allPages bounds the pages of all partitions; ownPages is what a job that a user waits for may have on the way however many
// others are, and twice that while its partition has room: then they are a batch, and each batch costs the database and barkeep something by
// itself; bulkPages is what is left to bulk while users take all they can, in a partition, and twice that in all.
func allPages(window int) int { return 2 * window }

func ownPages(window int) int { return max(1, window/8) }

func bulkPages(window int) int { return max(1, window/4) }

// room waits until a page of the slot may be on its way to the database. It is asked before the fetch, and bindingly by
// depart before the page is published: other fetches may have ended between. A job has no more fetched than there would be room for: what
// waits to depart would be woken at each change for nothing. Nobody else's room is taken by a fetch, which may be slow.
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
		t.ways = slices.DeleteFunc(t.ways, func(o *way) bool { return o == w })
	}, nil
}

func (t *slotTable) admit(ctx context.Context, partition int32, window int, s *slot, w *way) (*way, error) {
	counted := false
	defer func() {
		if counted {
			t.mu.Lock()
			defer t.mu.Unlock()
			t.waiting--
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

// admitted puts w, if there is one, on its way where there is room for it, or lets the slot go ahead without one. Else it counts the slot
// among the users' that wait, if it is one.
func (t *slotTable) admitted(partition int32, window int, s *slot, w *way, counted *bool) bool {
	index := t.store.Snapshot()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.arriveLocked(index)
	if !t.roomLocked(partition, window, s, w == nil) {
		if s.urgent() && !*counted {
			t.waiting++
			*counted = true
		}
		return false
	}
	t.aheadLocked(s, w == nil)
	if w != nil {
		w.partition, w.at, w.bulk, w.jobs = partition, t.now(), !s.urgent(), s.wanted()
		t.ways = append(t.ways, w)
	}
	return true
}

// aheadLocked notes whether the slot is ahead, and returns whether it was; t.mu is held.
func (t *slotTable) aheadLocked(s *slot, ahead bool) (was bool) {
	was = s.ahead
	s.ahead = ahead
	switch {
	case ahead && !was:
		s.owner.ahead++
	case was && !ahead:
		s.owner.ahead--
	}
	return was
}

// roomLocked reports whether one more page of the slot may be on its way, and with fetch whether it may when the pages of its job that are
// ahead are on theirs; t.mu is held.
func (t *slotTable) roomLocked(partition int32, window int, s *slot, fetch bool) bool {
	here, all := 0, len(t.ways)
	var hereBulk, allBulk int
	for _, w := range t.ways {
		if w.partition == partition {
			here++
		}
		if w.bulk {
			allBulk++
			if w.partition == partition {
				hereBulk++
			}
		}
	}
	ahead := func(r *run) int {
		if fetch {
			return r.ahead
		}
		return 0
	}
	more := ahead(s.owner)
	free := here+more < window && all+more < allPages(window)
	if !s.urgent() {
		return free && t.waiting == 0 || hereBulk+more < bulkPages(window) && allBulk+more < 2*bulkPages(window)
	}
	own := ownPages(window)
	if here+more < window {
		own *= 2
	}
	return free || slices.ContainsFunc(s.wanted(), func(r *run) bool { return r.user.Load() && t.ownLocked(r)+ahead(r) < own })
}

// ownLocked counts the pages of a job that are on the way; t.mu is held.
func (t *slotTable) ownLocked(r *run) (pages int) {
	for _, w := range t.ways {
		if slices.Contains(w.jobs, r) {
			pages++
		}
	}
	return pages
}

// arriveLocked forgets the pages that are in the coverage, or will not come there; t.mu is held. Many look at each change, the
// first of them does it for all.
func (t *slotTable) arriveLocked(index *coverage.Index) {
	now := t.now()
	if t.arrived == index && now.Sub(t.arrivedAt) < time.Second/2 {
		return
	}
	t.arrived, t.arrivedAt = index, now
	t.ways = slices.DeleteFunc(t.ways, func(w *way) bool { return now.Sub(w.at) > sentFor || w.ingested(index) })
}

func (w *way) ingested(index *coverage.Index) bool {
	for _, s := range index.Segments(w.series) {
		if s.Range.Contains(w.start) {
			return s.FetchedAt >= w.fetchedAt
		}
	}
	return false
}
