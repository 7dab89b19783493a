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
	p = &Producer{config: Config{Now: time.Now, Observe: func(Request) {}}, store: coverage.NewStore(nil, coverage.Config{}), probings: map[probeKey]*probing{}}
	p.slots = newSlotTable(p.store, time.Now)
	return p, newLane(s, 2, 1, nil)
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
			bulk := p.runOf(in, false)
			_, err := in.enter(t.Context(), &slot{}) // other bulk has the place
			require.NoError(t, err)
			key := slotKey{market.Series{Symbol: "sim:BTCUSD", Timeframe: market.M1}, 1, 0}
			mine, _ := p.slots.claim(key, bulk)
			ended := make(chan error, 1)
			go func() {
				_, err := bulk.ask(t.Context(), mine, source.Query{}, false)
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

// sendOff publishes the page of a slot of the run, if there is room for it within a second and a half: who waits looks again
// each second.
func (p *Producer) sendOff(t *testing.T, r *run, start market.Instant) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second+time.Second/2)
	defer cancel()
	key := slotKey{series: r.job.Series, generation: 1, start: start}
	s, _ := p.slots.claim(key, r)
	require.NotNil(t, s)
	defer p.slots.release(key, s, nil, false)
	page := &topic.Page{Series: r.job.Series, Generation: 1, FetchedAt: 1, Segments: []topic.Segment{
		{Range: market.Range{Start: start, End: start + 1}, State: coverage.Final},
	}}
	_, err := p.slots.depart(ctx, r.owner.id, window, s, page)
	return err
}

// fillUp has the run publish until it has to wait, and returns how many pages it could.
func (p *Producer) fillUp(t *testing.T, r *run, from market.Instant) (pages int) {
	t.Helper()
	for p.sendOff(t, r, from+market.Instant(pages)) == nil {
		pages++
	}
	return pages
}

const window = 32

// TestRule16_PagesOnTheWayAreBounded: however much a user asks for, the page of another stands behind a window of it; users
// come before bulk, and bulk never stands still for them.
func TestRule16_PagesOnTheWayAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, in := bench(&told{})
		require.Equal(t, window, p.fillUp(t, p.runOf(in, true), 0))
		require.Equal(t, ownPages(window), p.fillUp(t, p.runOf(in, true), 1000), "another user")
		require.Equal(t, bulkPages(window), p.fillUp(t, p.runOf(in, false), 2000))
		require.Zero(t, p.fillUp(t, p.runOf(in, false), 3000))
		at := func(id int32, user bool) *run {
			r := p.runOf(in, user)
			r.owner = &partition{id: id}
			return r
		}
		rest := allPages(window) - window - ownPages(window) - bulkPages(window)
		require.Equal(t, rest, p.fillUp(t, at(1, true), 4000), "the partitions share the database")
		require.Equal(t, 2*ownPages(window), p.fillUp(t, at(2, true), 5000), "its partition has room")
		require.Equal(t, 2*ownPages(window), p.fillUp(t, at(2, true), 5500), "so it has for another")
		require.Equal(t, bulkPages(window), p.fillUp(t, at(2, false), 6000))
		require.Zero(t, p.fillUp(t, at(3, false), 7000))
		<-time.After(sentFor)
		require.Equal(t, window, p.fillUp(t, p.runOf(in, false), 8000), "what ingest refused does not count for ever")
		require.Equal(t, ownPages(window), p.fillUp(t, p.runOf(in, true), 9000))
	})
}

// TestRule16_UsersAreBeforeBulk: while a user's page waits for room, bulk takes no more than its share.
func TestRule16_UsersAreBeforeBulk(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, in := bench(&told{})
		bulk, user := p.runOf(in, false), p.runOf(in, true)
		require.Equal(t, window, p.fillUp(t, bulk, 0))
		require.Equal(t, ownPages(window), p.fillUp(t, user, 1000))
		ended := make(chan error, 1)
		go func() { ended <- p.sendOff(t, user, 2000) }()
		synctest.Wait()
		require.Equal(t, 1, p.slots.waiting)
		s, _ := p.slots.claim(slotKey{start: 3000}, bulk)
		p.slots.mu.Lock()
		p.slots.ways = p.slots.ways[:bulkPages(window)]
		require.False(t, p.slots.roomLocked(0, window, s, false))
		p.slots.mu.Unlock()
		require.NoError(t, <-ended)
		require.Zero(t, p.slots.waiting)
		require.True(t, p.slots.roomLocked(0, window, s, false))
	})
}

// TestRule16_AUserJoinsASlotThatWaitsForRoom: the slot of a job that has all it may have on the way goes at once when a job that
// has nothing there wants it too, or when somebody waits for it.
func TestRule16_AUserJoinsASlotThatWaitsForRoom(t *testing.T) {
	t.Parallel()
	for _, user := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			p, in := bench(&told{})
			big := p.runOf(in, user)
			require.Equal(t, window, p.fillUp(t, big, 0))
			key := slotKey{big.job.Series, 1, 1000}
			s, _ := p.slots.claim(key, big)
			admitted := make(chan error, 1)
			go func() { admitted <- p.slots.room(t.Context(), 0, window, s) }()
			synctest.Wait()
			require.Empty(t, admitted)
			began := time.Now()
			_, other := p.slots.claim(key, p.runOf(in, true))
			require.Same(t, s, other)
			require.NoError(t, <-admitted)
			require.Zero(t, time.Since(began))
		})
	}
}
