package source_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/source"
)

func TestVendorText(t *testing.T) {
	t.Parallel()
	require.Equal(t, "bad key *** of ***", source.VendorText("bad\nkey k1\x00 of\t\xff k1 ", "k1", ""))
	long := source.VendorText(strings.Repeat("€", 1000))
	require.Less(t, len(long), 310)
	require.True(t, utf8.ValidString(long))
}
