package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMutationsFitTheSource: each is found once in the file it names, and but for a few tables is in one function.
func TestMutationsFitTheSource(t *testing.T) {
	t.Parallel()
	mutations, err := parse(list)
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(mutations), 25)
	inOne := 0
	for i, m := range mutations {
		source, err := os.ReadFile(filepath.Join("..", "..", "planner", m.file))
		require.NoError(t, err)
		mutated, err := m.apply(string(source))
		require.NoError(t, err)
		require.NotEqual(t, string(source), mutated)
		_, woven := weave(string(source), map[int]mutation{i: m})
		inOne += len(woven)
	}
	require.Greater(t, inOne, len(mutations)-5)
}
