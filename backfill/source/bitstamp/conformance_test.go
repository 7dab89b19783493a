package bitstamp_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/source"
	"barkeep/backfill/source/bitstamp"
	"barkeep/backfill/source/sourcetest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	sourcetest.Run(t, sourcetest.Subject{
		Network: true, BTCUSD: "btcusd", NEWUSD: "newusd", OLDUSD: "oldusd",
		New: func(tb testing.TB, c source.Config) source.Source {
			tb.Helper()
			s, err := bitstamp.New(c)
			require.NoError(tb, err)
			return s
		},
	})
}
