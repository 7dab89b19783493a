package source_test

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/source"
)

// A user goes before bulk requests that waited longer.
func TestUsersFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := source.NewLimiter(1, 1, nil)
		require.NoError(t, l.Wait(t.Context(), source.User))
		require.InDelta(t, time.Second, l.Earliest(), float64(time.Millisecond))
		var mu sync.Mutex
		var order []source.Priority
		var wg sync.WaitGroup
		start := func(p source.Priority) {
			wg.Go(func() {
				if l.Wait(t.Context(), p) == nil {
					mu.Lock()
					order = append(order, p)
					mu.Unlock()
				}
			})
			synctest.Wait()
		}
		for range 3 {
			start(source.Bulk)
		}
		start(source.User)
		start(source.User)
		wg.Wait()
		require.Equal(t, []source.Priority{source.User, source.User, source.Bulk, source.Bulk, source.Bulk}, order)
	})
}

func TestPause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := source.NewLimiter(0, 1, nil)
		l.Pause(time.Minute)
		l.Pause(time.Second) // never shortens
		start := time.Now()
		var wg sync.WaitGroup
		for _, p := range []source.Priority{source.User, source.Bulk} {
			wg.Go(func() {
				if err := l.Wait(t.Context(), p); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		require.Equal(t, time.Minute, time.Since(start))

		l.Pause(time.Hour)
		for _, p := range []source.Priority{source.User, source.Bulk} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			require.ErrorIs(t, l.Wait(ctx, p), context.DeadlineExceeded)
			cancel()
		}
	})
}

func TestAge(t *testing.T) {
	t.Parallel()
	for want, header := range map[time.Duration]http.Header{
		0: {}, 29 * time.Second: {"Cache-Control": {"public, max-age=29"}},
		3 * time.Second: {"Cache-Control": {"public, max-age=29"}, "Age": {"3"}},
	} {
		require.Equal(t, want, source.Age(header))
	}
	require.Zero(t, source.Age(http.Header{"Cache-Control": {"no-cache, max-age=60"}}))
}
