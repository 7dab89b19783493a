package actor

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMachineShowsItsState(t *testing.T) {
	t.Parallel()
	var r Registry
	m := r.New(Producer(), "job 1")
	m.To(Fetching)
	m.To(PublishingFixed)
	require.Equal(t, PublishingFixed, r.Machines()[0].State)
	m.Fail()
	require.Equal(t, Idle, m.State())
	require.Zero(t, r.Undeclared())
	m.To(Writing)
	require.Equal(t, int64(1), r.Undeclared())
	m.Close()
	require.Empty(t, r.Machines())
}

func TestEveryStateLeadsBackToRest(t *testing.T) {
	t.Parallel()
	for _, k := range Kinds() {
		require.Contains(t, k.Mermaid(), "[*] --> "+string(k.Rest))
		require.Contains(t, k.Mermaid(), "error --> "+string(k.Rest))
		for _, s := range k.States() {
			require.True(t, k.Allowed(s, Error))
		}
	}
}

var update = flag.Bool("update", false, "rewrite docs/states.md")

// TestGraphsInTheDocs keeps docs/states.md equal to the code; -update rewrites it.
func TestGraphsInTheDocs(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("# States of the actors\n\nDrawn from the code (`go test ./internal/actor -update`). The status page, the metric `barkeep_actors` and the logs " +
		"show\nwhere each actor is. Any state leads to `error`, and that back to rest.\n")
	for _, k := range Kinds() {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n```mermaid\n%s```\n", k.Name, k.What, k.Mermaid())
	}
	path := filepath.Join("..", "..", "docs", "states.md")
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(b.String()), 0o600))
	}
	have, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, b.String(), string(have), "run go test ./internal/actor -update")
}
