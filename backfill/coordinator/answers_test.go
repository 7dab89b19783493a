package coordinator_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/source"
	"barkeep/backfill/source/sim"
	"barkeep/internal/market"
)

// TestRule5_APageWithoutRowsIsReadTwice: one empty answer is a mistake of the vendor's and hides nothing; two are believed,
// and not asked for again.
func TestRule5_APageWithoutRowsIsReadTwice(t *testing.T) {
	t.Parallel()
	r := newRig(t, sim.Config{PageLimit: 360})
	r.consumer()
	r.producer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var empty atomic.Int64
	alter := func(a *source.Answer) {
		if empty.Add(-1) >= 0 {
			a.Bars = nil
		}
	}
	r.source.alter.Store(&alter)

	empty.Store(1)
	_, err := c.Ensure(ctx, need("sim:BTCUSD", market.M1, "2024-01-01T00:00:00Z", "2024-01-01T06:00:00Z"), nil)
	require.NoError(t, err)
	require.Equal(t, 360, r.bars("sim:BTCUSD", "1m", "2024-01-01Z", "2024-01-01 06:00Z"))
	require.Equal(t, int64(2), r.source.fetches.Load())

	empty.Store(2)
	nothing := need("sim:BTCUSD", market.M1, "2024-02-01T00:00:00Z", "2024-02-01T06:00:00Z")
	for range 2 {
		_, err = c.Ensure(ctx, nothing, nil)
		require.NoError(t, err)
		require.Zero(t, r.bars("sim:BTCUSD", "1m", "2024-02-01Z", "2024-02-01 06:00Z"))
		require.Equal(t, int64(4), r.source.fetches.Load(), "it is known now")
	}
}
