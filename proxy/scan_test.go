package proxy

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/planner"
)

// A scan that is kept does not outlive the catalog that it was made under, and long texts are not kept.
func TestScansFollowTheCatalog(t *testing.T) {
	t.Parallel()
	kept := newScans()
	first, second := &planner.Catalog{Version: 1}, &planner.Catalog{Version: 2, Names: map[string]struct{}{"daily": {}}}
	for range 2 {
		require.False(t, kept.of("select * from daily", first).reads)
		require.True(t, kept.of("select * from daily", second).reads)
	}
	require.Equal(t, 1, kept.cache.Len())
	long := "set timezone = 'UTC' -- " + strings.Repeat("x", maxScannedText)
	require.True(t, kept.of(long, first).effects)
	require.Equal(t, 1, kept.cache.Len())
	for i := range maxScans + 10 {
		kept.of("select "+strings.Repeat("1", i%100)+strings.Repeat("2", i/100), first)
	}
	require.Equal(t, maxScans, kept.cache.Len())
}
