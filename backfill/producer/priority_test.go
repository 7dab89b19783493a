package producer

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/coverage"
	"barkeep/backfill/source"
	"barkeep/backfill/topic"
	"barkeep/internal/market"
)

// told says with which priority it was asked.
type told struct {
	source.Source
	asked chan source.Priority
}

func (*told) Name() string { return "told" }

func (s *told) Fetch(_ context.Context, q source.Query) (source.Answer, error) {
	s.asked <- q.Priority
	return source.Answer{}, nil
}

func bench(s source.Source) (p *Producer, in *lane) {
	p = &Producer{config: Config{Now: time.Now, Observe: func(Request) {}}, store: coverage.NewStore(nil, coverage.Config{})}
	p.slots = newSlotTable(p.store, time.Now)
	return p, newLane(s, 2)
}

func (p *Producer) runOf(in *lane, user bool) *run {
	r := &run{p: p, lane: in, owner: &partition{}, job: topic.Job{Source: "told"}}
	r.user.Store(user)
	return r
}

// TestRule16_SlotHasTheHighestPriorityOfItsJobs: a bulk job holds a slot and stands behind other bulk; a user's job comes to
// the same slot, and the fetch is a user's at once. Without that the user waits as long as bulk does.
func TestRule16_SlotHasTheHighestPriorityOfItsJobs(t *testing.T) {
	t.Parallel()
	for _, again := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			src := &told{asked: make(chan source.Priority, 1)}
			p, in := bench(src)
			in.bulk <- struct{}{} // other bulk has the place
			bulk := p.runOf(in, false)
			key := slotKey{market.Series{Symbol: "sim:BTCUSD", Timeframe: market.M1}, 1, 0}
			mine, _ := p.slots.claim(key, bulk)
			ended := make(chan error, 1)
			go func() {
				_, err := bulk.ask(t.Context(), mine, source.Query{})
				ended <- err
			}()
			synctest.Wait()
			require.Empty(t, src.asked)
			if again { // somebody waits for the bulk job itself again
				bulk.user.Store(true)
				p.slots.raise(bulk)
			} else {
				none, other := p.slots.claim(key, p.runOf(in, true))
				require.Nil(t, none)
				require.Same(t, mine, other)
			}
			require.NoError(t, <-ended)
			require.Equal(t, source.User, <-src.asked)
		})
	}
}

// TestRule16_BulkWaitsForIngest: with the window full of pages that are not ingested bulk waits, and a user does not.
func TestRule16_BulkWaitsForIngest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, in := bench(&told{})
		series := market.Series{Symbol: "sim:BTCUSD", Timeframe: market.M1}
		const window = 3
		for i := range window {
			p.slots.published(0, true, &topic.Page{Series: series, Generation: 1, FetchedAt: 1, Segments: []topic.Segment{
				{Range: market.Range{Start: market.Instant(i), End: market.Instant(i + 1)}, State: coverage.Final},
			}})
		}
		user, _ := p.slots.claim(slotKey{series, 1, 0}, p.runOf(in, true))
		require.NoError(t, p.slots.room(t.Context(), 0, window, user))
		bulk, _ := p.slots.claim(slotKey{series, 1, 1}, p.runOf(in, false))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		require.ErrorIs(t, p.slots.room(ctx, 0, window, bulk), context.DeadlineExceeded)
		require.NoError(t, p.slots.room(t.Context(), 1, window, bulk), "another partition")
		time.AfterFunc(time.Second, bulk.raise)
		began := time.Now()
		require.NoError(t, p.slots.room(t.Context(), 0, window, bulk))
		require.Equal(t, time.Second, time.Since(began))
	})
}
