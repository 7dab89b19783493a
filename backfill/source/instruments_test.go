package source_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/source"
)

func TestListable(t *testing.T) {
	t.Parallel()
	of := func(base, quote string) source.Instrument {
		return source.Instrument{VendorID: base + "/" + quote, Symbol: base + quote, Base: base, Quote: quote}
	}
	list, err := source.Listable([]source.Instrument{
		of("", "USD"), of("BTC", "USD"), of("X:Y", "USD"), of("A\x00", "USD"), of("\xff", "USD"), of("1", "USD"), of("BTC", ""),
	})
	require.NoError(t, err)
	require.Equal(t, []source.Instrument{of("BTC", "USD"), of("1", "USD")}, list)
	_, err = source.Listable([]source.Instrument{of("", "")})
	require.ErrorIs(t, err, source.ErrAnswer)
}
