package producer

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/source"
	"barkeep/internal/dbtest"
	"barkeep/internal/market"
)

// line has runs stand in line for the one place of a lane, which another has, and returns in which order they get it.
func line(t *testing.T, p *Producer, in *lane, runs []*run) (order []*run) {
	t.Helper()
	leave, err := in.enter(t.Context(), slotFor(t, p, p.runOf(in, true), 0))
	require.NoError(t, err)
	got := make(chan *run, len(runs))
	for i, r := range runs {
		s := slotFor(t, p, r, market.Instant(i+1))
		go func() {
			leave, err := in.enter(t.Context(), s)
			if err == nil {
				got <- r
				leave()
			}
		}()
		synctest.Wait()
	}
	leave()
	synctest.Wait()
	for range runs {
		order = append(order, <-got)
	}
	require.Equal(t, 1, in.free)
	require.Empty(t, in.queue)
	return order
}

func slotFor(t *testing.T, p *Producer, r *run, start market.Instant) *slot {
	t.Helper()
	s, _ := p.slots.claim(slotKey{generation: 1, start: start}, r)
	require.NotNil(t, s)
	return s
}

// TestRule16_OnePageIsBeforeYears: a user who needs a page stands before those who have had many, who take turns.
func TestRule16_OnePageIsBeforeYears(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, _ := bench(&told{})
		in := newLane(&told{}, 1, 1, nil)
		years, others, page := p.runOf(in, true), p.runOf(in, true), p.runOf(in, true)
		years.requests.Store(5)
		others.requests.Store(4)
		order := line(t, p, in, []*run{years, years, years, others, others, others, page})
		for i, want := range []*run{page, others, years, others, years, others, years} {
			require.Same(t, want, order[i], "place %d", i)
		}
	})
}

// TestRule16_UsersDoNotStarveBulk: bulk has one place in nine however many users stand in line.
func TestRule16_UsersDoNotStarveBulk(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, _ := bench(&told{})
		in := newLane(&told{}, 1, 1, nil)
		bulk := p.runOf(in, false)
		runs := []*run{bulk, bulk}
		for range 3 * patience {
			runs = append(runs, p.runOf(in, true))
		}
		var at []int
		for i, r := range line(t, p, in, runs) {
			if r == bulk {
				at = append(at, i)
			}
		}
		require.Equal(t, []int{patience, 2*patience + 1}, at)
	})
}

// TestWhoLeavesTheLineGivesItsPlaceOn: a request that ends while it waits, or just when it is its turn, keeps nobody out.
func TestWhoLeavesTheLineGivesItsPlaceOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, _ := bench(&told{})
		in := newLane(&told{}, 1, 1, nil)
		leave, err := in.enter(t.Context(), slotFor(t, p, p.runOf(in, false), 0))
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = in.enter(ctx, slotFor(t, p, p.runOf(in, true), 1))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Empty(t, in.queue)
		leave()
		leave, err = in.enter(t.Context(), slotFor(t, p, p.runOf(in, false), 2))
		require.NoError(t, err)
		leave()
		require.Equal(t, []int{1, 1}, []int{in.free, in.bulk})
	})
}

// probed is a source that can find listings.
type probed struct {
	told
	probes int
}

func (s *probed) Listed(context.Context, string, source.Priority) (market.Instant, error) {
	s.probes++
	return 0, errors.New("not reached")
}

// TestRule18_AnOpenBreakerSparesTheProbe: a vendor that is left alone is not asked for listings either, which would have the
// waiter wait for it.
func TestRule18_AnOpenBreakerSparesTheProbe(t *testing.T) {
	t.Parallel()
	src := &probed{}
	p, in := bench(src)
	p.config.Logger, p.config.Pool = slog.New(slog.DiscardHandler), dbtest.New(t).Pool
	r := p.runOf(in, true)
	require.NoError(t, r.probe(t.Context()))
	require.Equal(t, 1, src.probes)
	_ = in.breaker.trip(time.Now().Add(time.Minute), source.ErrUnreachable, false)
	require.ErrorIs(t, r.probe(t.Context()), source.ErrUnreachable)
	require.Equal(t, 1, src.probes)
}
