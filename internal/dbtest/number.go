package dbtest

import (
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// Number returns the number in an environment variable, by which a test is made longer or run anew, or otherwise where it is not set.
// A text that is no number ends the test.
func Number(tb testing.TB, name string, otherwise int) int {
	tb.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	require.NoError(tb, err, name)
	return n
}
