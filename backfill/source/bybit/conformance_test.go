package bybit_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/source"
	"barkeep/backfill/source/bybit"
	"barkeep/backfill/source/sourcetest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	sourcetest.Run(t, sourcetest.Subject{
		Network: true, NewestFirst: true, BTCUSD: "BTCUSD", NEWUSD: "NEWUSD", OLDUSD: "OLDUSD",
		New: func(tb testing.TB, c source.Config) source.Source {
			tb.Helper()
			s, err := bybit.New(c)
			require.NoError(tb, err)
			return s
		},
	})
}
