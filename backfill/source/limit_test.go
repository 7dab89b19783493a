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

// TestRule16_BulkIsRaisedWhileItWaits: a user begins to wait for the page of a bulk request that stands behind users and for
// the rate limit; it goes before the other bulk requests, which came earlier.
func TestRule16_BulkIsRaisedWhileItWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := source.NewLimiter(1, 1, nil)
		require.NoError(t, l.Wait(t.Context(), source.User))
		var mu sync.Mutex
		var order []string
		var wg sync.WaitGroup
		start := func(ctx context.Context, name string, p source.Priority) {
			wg.Go(func() {
				if l.Wait(ctx, p) == nil {
					mu.Lock()
					order = append(order, name)
					mu.Unlock()
				}
			})
			synctest.Wait()
		}
		raise := make(chan struct{})
		start(t.Context(), "bulk", source.Bulk)
		start(source.WithRaised(t.Context(), raise), "raised", source.Bulk)
		start(t.Context(), "user", source.User)
		close(raise)
		wg.Wait()
		require.Equal(t, []string{"user", "raised", "bulk"}, order)
		l.Pause(t.Context(), time.Minute)
		already := make(chan struct{})
		close(already)
		began := time.Now()
		require.NoError(t, l.Wait(source.WithRaised(t.Context(), already), source.Bulk))
		require.Equal(t, time.Minute, time.Since(began), "a pause holds users too")
	})
}

// TestRule16_UsersDoNotStarveBulkAtTheLimit: with a user waiting at every moment a bulk request still goes after a while.
func TestRule16_UsersDoNotStarveBulkAtTheLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := source.NewLimiter(1, 1, nil)
		ctx, cancel := context.WithCancel(t.Context())
		var users sync.WaitGroup
		for range 3 {
			users.Go(func() {
				for l.Wait(ctx, source.User) == nil {
				}
			})
		}
		synctest.Wait()
		began := time.Now()
		require.NoError(t, l.Wait(t.Context(), source.Bulk))
		require.InDelta(t, 8, time.Since(began).Seconds(), 1.01, "its patience and the users before it")
		cancel()
		users.Wait()
	})
}

func TestPause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := source.NewLimiter(0, 1, nil)
		l.Pause(t.Context(), time.Minute)
		l.Pause(t.Context(), time.Second) // never shortens
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

		l.Pause(t.Context(), time.Hour)
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
