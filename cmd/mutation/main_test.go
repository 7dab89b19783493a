package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMutationsFitTheSource: each is found once in the file it names.
func TestMutationsFitTheSource(t *testing.T) {
	t.Parallel()
	mutations, err := parse(list)
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(mutations), 25)
	for _, m := range mutations {
		source, err := os.ReadFile(filepath.Join("..", "..", "planner", m.file))
		require.NoError(t, err)
		mutated, err := m.apply(string(source))
		require.NoError(t, err)
		require.NotEqual(t, string(source), mutated)
	}
}
