package okx_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/source"
	"barkeep/backfill/source/okx"
	"barkeep/backfill/source/sourcetest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	sourcetest.Run(t, sourcetest.Subject{
		Network: true, NewestFirst: true, BTCUSD: "BTC-USD", NEWUSD: "NEW-USD", OLDUSD: "OLD-USD",
		New: func(tb testing.TB, c source.Config) source.Source {
			tb.Helper()
			s, err := okx.New(c)
			require.NoError(tb, err)
			return s
		},
	})
}
