package ratebucket_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/ratebucket"
	"barkeep/backfill/source"
	"barkeep/backfill/source/binance"
	"barkeep/internal/dbtest"
	"barkeep/internal/exchange"
	"barkeep/internal/market"
)

// TestRule18_TheBucketOfTheDatabase: many ask at once, each by connections of its own, and no more is granted than the limit, nor much less.
func TestRule18_TheBucketOfTheDatabase(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	const perSecond, burst = 200.0, 50
	var mu sync.Mutex
	sum := 0
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	began := time.Now()
	var group sync.WaitGroup
	for range 8 {
		b := ratebucket.New(db.Pool, slog.New(slog.DiscardHandler), "many", perSecond, burst)
		group.Go(func() {
			for ctx.Err() == nil {
				granted, wait, err := b.Lease(context.WithoutCancel(ctx), 7)
				require.NoError(t, err)
				require.Equal(t, granted == 0, wait > 0)
				require.LessOrEqual(t, wait, time.Second/perSecond+time.Millisecond)
				mu.Lock()
				sum += granted
				mu.Unlock()
				select {
				case <-ctx.Done():
				case <-time.After(wait):
				}
			}
		})
	}
	group.Wait()
	most := burst + perSecond*time.Since(began).Seconds()
	require.LessOrEqual(t, float64(sum), most)
	require.Greater(t, float64(sum), most/2)
}

// A bucket begins full, one whose row was lost begins anew, and a clock that was set back stops nobody for long.
func TestRule18_ABucketThatIsNotThere(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	b := ratebucket.New(db.Pool, slog.New(slog.DiscardHandler), "one", 0.5, 3)
	lease := func() (int, time.Duration) {
		granted, wait, err := b.Lease(t.Context(), 9)
		require.NoError(t, err)
		return granted, wait
	}
	granted, _ := lease()
	require.Equal(t, 3, granted)
	granted, wait := lease()
	require.Zero(t, granted)
	require.InDelta(t, 2*time.Second, wait, float64(time.Second))
	for _, sql := range []string{"UPDATE barkeep.rate_bucket SET updated_at = now() + interval '1 year'", "UPDATE barkeep.rate_bucket SET updated_at = now() - interval '1 year'", "DELETE FROM barkeep.rate_bucket"} {
		_, err := db.Pool.Exec(t.Context(), sql)
		require.NoError(t, err)
		granted, wait = lease()
		if granted == 0 {
			require.InDelta(t, 2*time.Second, wait, float64(time.Second), sql)
		}
	}
	require.Equal(t, 3, granted)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := b.Lease(ended, 1)
	require.ErrorIs(t, err, context.Canceled)
}

// TestRule18_TheLimitHoldsAcrossProducers: two who ask one exchange as one address, as two producers do, are together within its limit, and one
// with another key has a limit of its own.
func TestRule18_TheLimitHoldsAcrossProducers(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	vendor := httptest.NewServer(exchange.New(exchange.Config{Keep: true}))
	defer vendor.Close()
	const perSecond, burst = 40, 4
	made := func(key string) source.Source {
		s, err := binance.New(source.Config{URL: vendor.URL, Rate: perSecond, Burst: burst, Key: key})
		require.NoError(t, err)
		ratebucket.Share(db.Pool, slog.New(slog.DiscardHandler), s)
		return s
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	start := market.FromTime(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC))
	began := time.Now()
	ask := func(sources ...source.Source) (answers int) {
		var mu sync.Mutex
		var group sync.WaitGroup
		for _, s := range sources {
			for range 4 {
				group.Go(func() {
					for ctx.Err() == nil {
						if _, err := s.Fetch(ctx, source.Query{
							VendorID: "BTCUSD", Series: market.Series{Symbol: "binance:BTCUSD", Timeframe: market.M1}, Priority: source.User,
							Range: market.Range{Start: start, End: market.M1.Add(start, 10)},
						}); err == nil {
							mu.Lock()
							answers++
							mu.Unlock()
						}
					}
				})
			}
		}
		group.Wait()
		return answers
	}
	got := float64(ask(made(""), made("")))
	most := burst + perSecond*time.Since(began).Seconds()
	require.LessOrEqual(t, got, most)
	require.Greater(t, got, most/2)
	secret, open := made("secret").(limited), made("").(limited) //nolint:forcetypeassert // a network source has one
	require.NotEqual(t, open.Limiter().Name(), secret.Limiter().Name())
	require.NotContains(t, secret.Limiter().Name(), "secret")
}

// TestRule18_APauseHoldsAcrossProducers: a vendor tells one of two producers to leave it alone for an hour. The other asks it nothing more, knows
// for how long, and one with another key goes on.
func TestRule18_APauseHoldsAcrossProducers(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	venue := exchange.New(exchange.Config{Keep: true})
	var asked atomic.Int32
	vendor := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) == 1 {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		venue.ServeHTTP(w, r)
	}))
	defer vendor.Close()
	made := func(key string) (source.Source, *source.Limiter) {
		s, err := binance.New(source.Config{URL: vendor.URL, Rate: 40, Burst: 4, Key: key})
		require.NoError(t, err)
		ratebucket.Share(db.Pool, slog.New(slog.DiscardHandler), s)
		limiter := s.Limiter()
		return s, limiter
	}
	start := market.FromTime(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC))
	fetch := func(ctx context.Context, s source.Source) error {
		_, err := s.Fetch(ctx, source.Query{
			VendorID: "BTCUSD", Series: market.Series{Symbol: "binance:BTCUSD", Timeframe: market.M1}, Priority: source.User,
			Range: market.Range{Start: start, End: market.M1.Add(start, 10)},
		})
		return err
	}
	told, _ := made("")
	require.ErrorIs(t, fetch(t.Context(), told), source.ErrRateLimited)
	other, limiter := made("")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- fetch(ctx, other) }()
	require.Eventually(t, func() bool { return limiter.Earliest() > 59*time.Minute }, 30*time.Second, 5*time.Millisecond)
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
	require.EqualValues(t, 1, asked.Load(), "the other asks nothing")
	keyed, _ := made("secret")
	require.NoError(t, fetch(t.Context(), keyed))
}

// A pause is as long as it is whatever was left, is never shortened, and ends: what follows has the limit again, without a burst.
func TestRule18_APauseIsADebt(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	b := ratebucket.New(db.Pool, slog.New(slog.DiscardHandler), "one", 0.5, 3)
	lease := func() (int, time.Duration) {
		granted, wait, err := b.Lease(t.Context(), 9)
		require.NoError(t, err)
		return granted, wait
	}
	require.NoError(t, b.Pause(t.Context(), time.Hour), "before there is a row")
	require.NoError(t, b.Pause(t.Context(), time.Minute))
	for range 2 {
		granted, wait := lease()
		require.Zero(t, granted, "a debt grants nothing")
		require.InDelta(t, time.Hour, wait, float64(time.Minute))
	}
	_, err := db.Pool.Exec(t.Context(), "UPDATE barkeep.rate_bucket SET updated_at = updated_at - interval '1 hour'")
	require.NoError(t, err)
	granted, _ := lease()
	require.Positive(t, granted, "the pause is over")
	require.LessOrEqual(t, granted, 3)
	_, err = db.Pool.Exec(t.Context(), "DROP TABLE barkeep.rate_bucket")
	require.NoError(t, err)
	require.Error(t, b.Pause(t.Context(), time.Hour))
}

type limited interface{ Limiter() *source.Limiter }
