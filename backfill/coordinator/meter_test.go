package coordinator

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/directory"
	"barkeep/internal/market"
)

// TestRule17_ProgressIsWhatIsStored: it is told from coverage alone, never goes back, and is never complete while bars are missing.
func TestRule17_ProgressIsWhatIsStored(t *testing.T) {
	t.Parallel()
	clock := time.Unix(1_700_000_000, 0)
	var told market.Progress
	m := meter{report: func(p market.Progress) { told = p }, now: func() time.Time { return clock }, began: clock}
	m.tell()
	require.Zero(t, told, "nothing is known yet")
	m.see(market.Series{Symbol: "sim:BTCUSD", Timeframe: market.M1}, 1000)
	for _, step := range []struct{ missing, done int64 }{
		{1000, 0},
		{900, 100},
		{950, 100}, // withdrawn
		{600, 400},
		{1, 999},
		{0, 1000},
	} {
		m.see(told.Series, step.missing)
		clock = clock.Add(time.Second)
		m.tell()
		require.Equal(t, step.done, told.Done)
		require.Equal(t, int64(1000), told.Total)
	}
	require.Zero(t, told.Left)
}

// TestRule18_FailuresAreRememberedLonger: 30 s, then twice as long each time up to 10 min, with jitter; a success, or long
// silence, forgets.
func TestRule18_FailuresAreRememberedLonger(t *testing.T) {
	t.Parallel()
	m, now := newMemory(), time.Unix(1_700_000_000, 0)
	key, failure := symbolKey("NOSUCH"), errors.New("unknown")
	kept := func() time.Duration {
		m.remember(key, failure, now)
		m.remember(key, errors.New("another waiter"), now)
		require.Equal(t, failure, m.recall(key, now))
		began := now
		for m.recall(key, now) != nil {
			now = now.Add(100 * time.Millisecond)
		}
		return now.Sub(began)
	}
	for _, want := range []float64{30, 60, 120, 240, 480, 600, 600} {
		require.InEpsilon(t, want, kept().Seconds(), 0.11)
	}
	m.forget(key)
	require.InEpsilon(t, 30, kept().Seconds(), 0.11)
	now = now.Add(longestGrudge + time.Second)
	require.InEpsilon(t, 30, kept().Seconds(), 0.11)
	require.NoError(t, m.recall(symbolKey("OTHER"), now))
}

// TestRule18_AnUnknownSymbolOfAFolderIsAskedForSoon: nobody is asked but this machine, and still not every second.
func TestRule18_AnUnknownSymbolOfAFolderIsAskedForSoon(t *testing.T) {
	t.Parallel()
	m, now := newMemory(), time.Unix(1_700_000_000, 0)
	key := symbolKey("file:NOSUCH")
	for _, want := range []float64{2, 4, 8, 16, 30, 30} {
		m.rememberUnknown(key, &directory.UnknownSymbolError{Local: true}, now)
		require.Error(t, m.recall(key, now.Add(time.Duration(want*0.89*float64(time.Second)))))
		now = now.Add(time.Duration(want * 1.11 * float64(time.Second)))
		require.NoError(t, m.recall(key, now))
	}
	m.rememberUnknown(symbolKey("NOSUCH"), &directory.UnknownSymbolError{}, now)
	require.Error(t, m.recall(symbolKey("NOSUCH"), now.Add(26*time.Second)))
}
