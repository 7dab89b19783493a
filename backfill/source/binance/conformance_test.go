package binance_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/source"
	"barkeep/backfill/source/binance"
	"barkeep/backfill/source/sourcetest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	sourcetest.Run(t, sourcetest.Subject{
		Network: true, BTCUSD: "BTCUSD", NEWUSD: "NEWUSD", OLDUSD: "OLDUSD",
		New: func(tb testing.TB, c source.Config) source.Source {
			tb.Helper()
			s, err := binance.New(c)
			require.NoError(tb, err)
			return s
		},
	})
}
