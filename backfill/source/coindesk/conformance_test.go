package coindesk_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/source"
	"barkeep/backfill/source/coindesk"
	"barkeep/backfill/source/sourcetest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	sourcetest.Run(t, sourcetest.Subject{
		Network: true, BTCUSD: "coinbase/BTC-USD", NEWUSD: "coinbase/NEW-USD", OLDUSD: "coinbase/OLD-USD", Key: "secret",
		New: func(tb testing.TB, c source.Config) source.Source {
			tb.Helper()
			s, err := coindesk.New(c)
			require.NoError(tb, err)
			return s
		},
	})
}
