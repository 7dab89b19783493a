package topic_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/topic"
	"barkeep/internal/market"
)

// What may be lost without harm is told by name: the events, and live bars. Nothing else is.
func TestRule17_HintsAreEventsAndLiveBars(t *testing.T) {
	t.Parallel()
	for _, n := range []topic.Names{{}, {Prefix: "a."}} {
		require.True(t, n.Hint(n.Events()))
		require.True(t, n.Hint(n.Series(market.Series{Symbol: "binance:BTCUSDT", Timeframe: market.M1})))
		for _, lasting := range []string{n.Jobs(), n.Bars(), n.Meta(), n.Dead(), "other.ohlcv.x.1m"} {
			require.False(t, n.Hint(lasting), lasting)
		}
	}
}
