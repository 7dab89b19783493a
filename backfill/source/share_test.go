package source_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/source"
)

// ledger is a token bucket in memory.
type ledger struct {
	rate, burst float64

	mu      sync.Mutex
	tokens  float64
	at      time.Time
	granted int
	away    bool
	paused  time.Time
}

func newLedger(rate, burst float64) *ledger {
	return &ledger{rate: rate, burst: burst, tokens: burst, at: time.Now()}
}

func (l *ledger) Lease(_ context.Context, want int) (granted int, wait time.Duration, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.away {
		return 0, 0, errors.New("away")
	}
	now := time.Now()
	if wait = l.paused.Sub(now); wait > 0 {
		return 0, wait, nil
	}
	wait = 0
	l.tokens, l.at = min(l.tokens+now.Sub(l.at).Seconds()*l.rate, l.burst), now
	granted = min(want, int(l.tokens+1e-9))
	l.tokens -= float64(granted)
	l.granted += granted
	if granted == 0 {
		wait = time.Duration((1 - l.tokens) / l.rate * float64(time.Second))
	}
	return granted, wait, nil
}

func (l *ledger) Pause(_ context.Context, d time.Duration) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.away {
		return errors.New("away")
	}
	if until := time.Now().Add(d); until.After(l.paused) {
		l.paused = until
	}
	return nil
}

// asked counts the requests that each of the limiters lets go in the time, when each is asked by so many at every moment.
func asked(t *testing.T, during time.Duration, each int, limiters ...*source.Limiter) []int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), during)
	defer cancel()
	counts := make([]int, len(limiters))
	var mu sync.Mutex
	var group sync.WaitGroup
	for i, l := range limiters {
		for range each {
			group.Go(func() {
				for l.Wait(ctx, source.User) == nil {
					mu.Lock()
					counts[i]++
					mu.Unlock()
				}
			})
		}
	}
	group.Wait()
	return counts
}

// The sequence: two producers have a source's limit each, and its vendor shuts out the address that both ask from. All of the limit is
// used, whoever uses it.
func TestRule18_ALimitIsShared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all := newLedger(20, 5)
		limiters := make([]*source.Limiter, 3)
		for i := range limiters {
			limiters[i] = source.NewLimiter(20, 5, nil)
			limiters[i].Share(all)
		}
		counts := asked(t, 30*time.Second, 4, limiters...)
		sum := counts[0] + counts[1] + counts[2]
		require.LessOrEqual(t, sum, 20*30+5)
		require.Greater(t, sum, 20*30*9/10)
		alone := asked(t, 30*time.Second, 4, limiters[0])
		require.Greater(t, alone[0], 20*30*9/10, "those who ask for nothing take nothing along")
		one := asked(t, 30*time.Second, 1, limiters[0])
		require.Greater(t, one[0], 20*30*9/10)
	})
}

// What was leased and is not used lapses; a limiter that comes late has its part.
func TestRule18_ALeaseLapses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all := newLedger(100, 100)
		l := source.NewLimiter(100, 100, nil)
		l.Share(all)
		require.NoError(t, l.Wait(t.Context(), source.User))
		require.Equal(t, 10, all.granted, "a tenth of a second's")
		for range 9 {
			require.NoError(t, l.Wait(t.Context(), source.User))
		}
		require.Equal(t, 10, all.granted)
		require.NoError(t, l.Wait(t.Context(), source.User))
		require.Equal(t, 20, all.granted)
		time.Sleep(time.Second)
		require.NoError(t, l.Wait(t.Context(), source.User))
		require.Equal(t, 30, all.granted, "nine have lapsed")
	})
}

// PIPELINE 18: where the database cannot be reached, half of the last share is used; without one, a small part of the limit.
func TestRule18_TheLedgerCannotBeReached(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all := newLedger(20, 1)
		l, other, fresh := source.NewLimiter(20, 1, nil), source.NewLimiter(20, 1, nil), source.NewLimiter(20, 1, nil)
		for _, each := range []*source.Limiter{l, other, fresh} {
			each.Share(all)
		}
		counts := asked(t, 20*time.Second, 3, l, other)
		all.mu.Lock()
		all.away = true
		all.mu.Unlock()
		alone := asked(t, 20*time.Second, 3, l, fresh)
		require.InDelta(t, counts[0]/2, alone[0], float64(counts[0])/4)
		require.InDelta(t, 20*0.1/2*20, alone[1], 3)
		all.mu.Lock()
		all.away = false
		all.mu.Unlock()
		require.Greater(t, asked(t, 10*time.Second, 3, l)[0], 150, "and back")
	})
}

// nearly has one request in ten milliseconds, and says until then that there is none, but not for how long.
type nearly struct {
	from  time.Time
	asked int
}

func (n *nearly) Lease(context.Context, int) (granted int, wait time.Duration, err error) {
	n.asked++
	if n.asked > 1000 {
		return 0, 0, errors.New("asked without end")
	}
	if time.Since(n.from) < 10*time.Millisecond {
		return 0, 0, nil
	}
	return 1, 0, nil
}

func (n *nearly) Pause(context.Context, time.Duration) error { return nil }

// The sequence: a ledger lacks a part of a request that fills up within less than a nanosecond, says that there is none for no time at all, and
// the processor does nothing but ask until then.
func TestRule18_AnEmptyLedgerIsNotAskedWithoutEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ledger := &nearly{from: time.Now()}
		l := source.NewLimiter(20, 1, nil)
		l.Share(ledger)
		require.NoError(t, l.Wait(t.Context(), source.User))
		require.LessOrEqual(t, ledger.asked, 12)
	})
}

// The sequence: the vendor tells one producer to leave it alone for a minute, and the other goes on asking, so that the address is shut out for
// days. The other keeps the pause too, also when the ledger is away before its end; where it is away from the start, only who was told keeps it.
func TestRule18_APauseIsShared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all := newLedger(20, 5)
		away := func(is bool) {
			all.mu.Lock()
			defer all.mu.Unlock()
			all.away = is
		}
		told, other := source.NewLimiter(20, 5, nil), source.NewLimiter(20, 5, nil)
		told.Share(all)
		other.Share(all)
		gone, leave := context.WithCancel(t.Context())
		leave()
		began := time.Now()
		told.Pause(gone, time.Minute)             // who asked has given up: the pause stands
		told.Pause(t.Context(), time.Millisecond) // never shortens
		first, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, other.Wait(first, source.User), context.DeadlineExceeded)
		require.Equal(t, 59*time.Second, other.Earliest(), "known, so that waiters fail at once")
		away(true)
		require.NoError(t, other.Wait(t.Context(), source.User))
		require.Equal(t, time.Minute, time.Since(began))

		began = time.Now()
		told.Pause(t.Context(), time.Minute)
		require.NoError(t, other.Wait(t.Context(), source.User))
		require.Less(t, time.Since(began), 5*time.Second, "it was not told")
		require.NoError(t, told.Wait(t.Context(), source.User))
		require.GreaterOrEqual(t, time.Since(began), time.Minute)
		away(false)
	})
}

// Users of the process go before its bulk for what is leased too, and who gives up leaves the others their way.
func TestRule16_UsersAreFirstAtTheLedger(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all := newLedger(1, 1)
		l := source.NewLimiter(1000, 1000, nil) // the ledger is what holds back
		l.Share(all)
		require.NoError(t, l.Wait(t.Context(), source.User))
		var mu sync.Mutex
		var order []source.Priority
		var group sync.WaitGroup
		ask := func(ctx context.Context, p source.Priority) {
			group.Go(func() {
				if l.Wait(ctx, p) == nil {
					mu.Lock()
					order = append(order, p)
					mu.Unlock()
				}
			})
			synctest.Wait()
		}
		gone, leave := context.WithCancel(t.Context())
		ask(gone, source.Bulk) // it asks the ledger, for all
		ask(t.Context(), source.Bulk)
		ask(t.Context(), source.User)
		leave()
		require.Positive(t, l.Earliest())
		group.Wait()
		require.Equal(t, []source.Priority{source.User, source.Bulk}, order)
	})
}
