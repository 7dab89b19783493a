package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "rewrite the table of settings in README.md")

// TestReadmeSettings keeps the README's table of settings equal to the code's; -update rewrites it.
func TestReadmeSettings(t *testing.T) {
	t.Parallel()
	const from, to = "<!-- settings -->\n", "<!-- /settings -->"
	path := filepath.Join("..", "..", "README.md")
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	head, rest, ok := strings.Cut(string(content), from)
	require.True(t, ok)
	_, tail, ok := strings.Cut(rest, to)
	require.True(t, ok)
	want := head + from + settingsTable() + to + tail
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(want), 0o600))
		return
	}
	require.Equal(t, want, string(content), "run go test ./cmd/barkeep -run Readme -update")
}

func settingsTable() string {
	var table strings.Builder
	table.WriteString("| key | default | |\n|---|---|---|\n")
	for _, s := range settings() {
		name, ours := strings.CutPrefix(s.key, "sources.sim.")
		switch {
		case ours:
			s.key = "sources.<name>." + name
		case strings.HasPrefix(s.key, "sources."):
			continue
		}
		if s.key == "data_dir" {
			s.value = "~/.local/share/barkeep"
		}
		if s.value != "" {
			s.value = "`" + s.value + "`"
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s |\n", s.key, s.value, s.doc)
	}
	return table.String()
}
