package producer

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/source"
	"barkeep/internal/actor"
	"barkeep/internal/market"
)

// scripted answers each request by what the test sends for it.
type scripted struct {
	source.Source
	answers chan error

	mu    sync.Mutex
	asked int // guarded by mu
}

func (*scripted) Name() string { return "scripted" }

func (s *scripted) Fetch(ctx context.Context, _ source.Query) (source.Answer, error) {
	s.mu.Lock()
	s.asked++
	s.mu.Unlock()
	select {
	case err := <-s.answers:
		return source.Answer{}, err
	case <-ctx.Done():
		return source.Answer{}, context.Cause(ctx)
	}
}

func (s *scripted) requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// down and no are a source that cannot answer, and one that refuses a request and is there.
var (
	down = &source.Error{Source: "scripted", Err: source.ErrServer, Again: true}
	no   = &source.Error{Source: "scripted", Err: source.ErrUnknownInstrument}
)

// circuit is a lane to a scripted source whose breaker has opened, for 15 s, after as many attempts as one page has.
type circuit struct {
	t        *testing.T
	p        *Producer
	lane     *lane
	src      *scripted
	registry *actor.Registry
	next     market.Instant
}

func newCircuit(t *testing.T) *circuit {
	t.Helper()
	c := &circuit{t: t, src: &scripted{answers: make(chan error, 64)}, registry: &actor.Registry{}}
	c.p, _ = bench(c.src)
	c.p.config.Attempts, c.p.config.Breaker = 3, 15*time.Second
	c.p.config.Backoff, c.p.config.BackoffLimit = 200*time.Millisecond, 400*time.Millisecond
	c.lane = newLane(c.src, 8, 8, c.registry)
	c.p.lanes = map[string]*lane{"scripted": c.lane}
	for range 3 {
		c.src.answers <- down
	}
	err := <-c.fetch(t.Context())
	require.ErrorIs(t, err, source.ErrServer)
	require.ErrorContains(t, err, "it is asked again after ")
	require.Equal(t, 3, c.src.requests())
	c.at(actor.Open, 1)
	return c
}

// fetch asks for a page of its own in the background.
func (c *circuit) fetch(ctx context.Context) <-chan error {
	c.t.Helper()
	r := c.p.runOf(c.lane, true)
	c.next++
	s := slotFor(c.t, c.p, r, c.next)
	ended := make(chan error, 1)
	go func() {
		_, err := r.fetch(ctx, s, source.Query{})
		ended <- err
	}()
	return ended
}

// at asserts where the breaker is, for metrics and for the status page alike.
func (c *circuit) at(state actor.State, trips int64) {
	c.t.Helper()
	require.Equal(c.t, []Breaker{{Source: "scripted", State: state, Trips: trips}}, c.p.Breakers())
	shown := c.registry.Machines()
	require.Len(c.t, shown, 1)
	require.Equal(c.t, []any{"breaker", "scripted", state}, []any{shown[0].Kind, shown[0].ID, shown[0].State})
	require.Zero(c.t, c.registry.Undeclared())
}

// TestRule18_OneProbeAtATime: while the breaker is open nobody asks; when its time is over one request does, and those who come
// meanwhile wait for what comes of it. Without that a source that comes back is asked by all at once, and fails again.
func TestRule18_OneProbeAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCircuit(t)
		time.Sleep(14 * time.Second)
		require.ErrorIs(t, <-c.fetch(t.Context()), source.ErrServer, "still open")
		require.Equal(t, 3, c.src.requests())

		time.Sleep(2 * time.Second)
		var waiting []<-chan error
		for range 20 {
			waiting = append(waiting, c.fetch(t.Context()))
			synctest.Wait()
		}
		require.Equal(t, 4, c.src.requests(), "one probe")
		c.at(actor.HalfOpen, 1)
		for range waiting {
			c.src.answers <- nil
		}
		for _, ended := range waiting {
			require.NoError(t, <-ended)
		}
		require.Equal(t, 23, c.src.requests())
		c.at(actor.Closed, 1)
	})
}

// TestRule18_AProbeThatFailsOpensAgain: it has one attempt, and all who waited for it fail at once.
func TestRule18_AProbeThatFailsOpensAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCircuit(t)
		time.Sleep(16 * time.Second)
		var waiting []<-chan error
		for range 5 {
			waiting = append(waiting, c.fetch(t.Context()))
		}
		synctest.Wait()
		began := time.Now()
		c.src.answers <- down
		for _, ended := range waiting {
			require.ErrorIs(t, <-ended, source.ErrServer)
		}
		require.Zero(t, time.Since(began))
		require.Equal(t, 4, c.src.requests())
		c.at(actor.Open, 2)
		time.Sleep(14 * time.Second)
		require.Error(t, <-c.fetch(t.Context()))
		require.Equal(t, 4, c.src.requests())
	})
}

// TestRule18_ASourceThatRefusesIsThere: a probe that is refused for good closes the breaker: its request was bad, not the source.
func TestRule18_ASourceThatRefusesIsThere(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCircuit(t)
		time.Sleep(16 * time.Second)
		c.src.answers <- no
		require.ErrorIs(t, <-c.fetch(t.Context()), source.ErrUnknownInstrument)
		c.at(actor.Closed, 1)
	})
}

// TestRule18_AProbeThatIsGivenUpLeavesItsPlace: the job of the probe ends, and the next who waits is the probe. Without that the
// breaker stays half open for ever.
func TestRule18_AProbeThatIsGivenUpLeavesItsPlace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCircuit(t)
		time.Sleep(16 * time.Second)
		ctx, giveUp := context.WithCancelCause(t.Context())
		probe := c.fetch(ctx)
		synctest.Wait()
		next, third := c.fetch(t.Context()), c.fetch(t.Context())
		bored, leave := context.WithCancelCause(t.Context())
		fourth := c.fetch(bored)
		synctest.Wait()
		require.Equal(t, 4, c.src.requests())
		leave(errors.New("waited for long enough"))
		require.ErrorContains(t, <-fourth, "waited for long enough")
		giveUp(errCancelled)
		require.ErrorIs(t, <-probe, errCancelled)
		synctest.Wait()
		require.Equal(t, 5, c.src.requests())
		c.at(actor.HalfOpen, 1)
		c.src.answers <- nil
		c.src.answers <- nil
		require.NoError(t, <-next)
		require.NoError(t, <-third)
		c.at(actor.Closed, 1)
	})
}

// TestRule18_WhoWasAdmittedBeforeIsNotSentAfter: a request that waits for a place while the breaker opens is not sent then.
func TestRule18_WhoWasAdmittedBeforeIsNotSentAfter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCircuit(t)
		c.lane = newLane(c.src, 1, 8, nil) // one place
		first := c.fetch(t.Context())
		synctest.Wait()
		second := c.fetch(t.Context())
		synctest.Wait()
		require.Equal(t, 4, c.src.requests())
		c.src.answers <- &source.Error{Source: "scripted", Err: source.ErrRateLimited, Again: true, RetryAfter: time.Hour}
		require.ErrorIs(t, <-first, source.ErrRateLimited)
		require.ErrorIs(t, <-second, source.ErrRateLimited)
		require.Equal(t, 4, c.src.requests())
		time.Sleep(59 * time.Minute)
		require.ErrorIs(t, <-c.fetch(t.Context()), source.ErrRateLimited, "open for as long as the source wants to be left alone")
		require.Equal(t, 4, c.src.requests())
	})
}

// TestRule18_LateFailuresNeitherCloseNorShorten: requests from before, which fail after the breaker opened.
func TestRule18_LateFailuresNeitherCloseNorShorten(t *testing.T) {
	t.Parallel()
	b := newBreaker(nil, "s")
	now := time.Now()
	far, near := now.Add(time.Hour), now.Add(time.Second)
	require.Error(t, b.trip(far, down, false))
	require.ErrorContains(t, b.trip(near, down, false), far.UTC().Format(time.RFC3339))
	_, err := b.admit(t.Context(), func() time.Time { return near })
	require.Error(t, err)
	probe, err := b.admit(t.Context(), func() time.Time { return far })
	require.NoError(t, err)
	require.True(t, probe)
	require.ErrorIs(t, b.trip(far.Add(time.Hour), down, false), source.ErrServer, "another's, while the probe is under way")
	require.Equal(t, actor.HalfOpen, b.state)
	b.conclude(true)
	require.False(t, b.shut())
	b.conclude(false)
	require.False(t, b.shut(), "there is no probe to end")
}
