package producer

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"barkeep/backfill/source"
	"barkeep/internal/market"
)

// still answers after a while, with what lies behind the range: nothing is published.
type still struct {
	source.Source
	asked chan market.Instant
}

func (*still) Name() string { return "still" }

func (s *still) Fetch(_ context.Context, q source.Query) (source.Answer, error) {
	s.asked <- q.Range.Start
	<-time.After(time.Millisecond)
	return source.Answer{Full: true, Backwards: true, Bars: []market.Bar{{TS: q.Range.End}}}, nil
}

// TestSlotsAreFetchedInOrder: the slots of a job are asked for as they ascend, or as they descend where who waits would rather have the newest,
// each once, with holes between what is needed.
func TestSlotsAreFetchedInOrder(t *testing.T) {
	t.Parallel()
	for _, newest := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			const slots, limit = 40, 10
			src := &still{asked: make(chan market.Instant, slots)}
			p, _ := bench(src)
			p.config.setDefaults()
			p.hints.Store(maxHints) // no broker is told
			r := p.runOf(newLane(src, 1, 1, nil), true)
			r.id = uuid.New()
			r.info = source.Info{PageLimit: limit}
			r.life = market.Range{End: market.PosInf}
			r.job.Series, r.job.NewestFirst = market.Series{Symbol: "still:X", Timeframe: market.M1}, newest
			start := market.M1.Add(0, 1_000_000*limit)
			r.job.Range = market.Range{Start: start, End: market.M1.Add(start, slots*limit)}
			require.NoError(t, r.pages(t.Context()))
			var got []market.Instant
			for range slots {
				got = append(got, <-src.asked)
			}
			if newest {
				slices.Reverse(got)
			}
			require.True(t, slices.IsSorted(got), "%v", got)
			require.Equal(t, start, got[0])
			require.Len(t, slices.Compact(got), slots)
			require.Zero(t, r.ahead)
		})
	}
}

// TestRule16_NoMoreIsFetchedThanThereIsRoomFor: slots that have had room count for their job before their page is on its way, and no
// longer once their fetch is over.
func TestRule16_NoMoreIsFetchedThanThereIsRoomFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, in := bench(&told{})
		years, page := p.runOf(in, true), p.runOf(in, true)
		var slots []*slot
		for i := range window {
			s := slotFor(t, p, years, market.Instant(i))
			require.NoError(t, p.slots.room(t.Context(), 0, window, s))
			slots = append(slots, s)
		}
		require.Equal(t, window, years.ahead)
		require.NoError(t, p.slots.room(t.Context(), 0, window, slotFor(t, p, page, window+1)), "nobody else's room is taken")
		one := slotFor(t, p, years, window)
		admitted := make(chan error, 1)
		go func() { admitted <- p.slots.room(t.Context(), 0, window, one) }()
		synctest.Wait()
		require.Empty(t, admitted)
		began := time.Now()
		p.slots.release(slotKey{generation: 1}, slots[0], nil, false)
		require.NoError(t, <-admitted)
		require.Zero(t, time.Since(began), "it is told")
		require.Equal(t, window, years.ahead)
	})
}
