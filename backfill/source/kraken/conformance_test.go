package kraken_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/source"
	"barkeep/backfill/source/kraken"
	"barkeep/backfill/source/sourcetest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	sourcetest.Run(t, sourcetest.Subject{
		Network: true, BTCUSD: "XXBTZUSD", NEWUSD: "NEWUSD", OLDUSD: "OLDUSD",
		// The listing of NEWUSD and the end of OLDUSD lie within 720 days.
		Now: time.Date(2024, 1, 1, 12, 0, 30, 0, time.UTC), Newest: true,
		New: func(tb testing.TB, c source.Config) source.Source {
			tb.Helper()
			s, err := kraken.New(c)
			require.NoError(tb, err)
			return s
		},
	})
}
