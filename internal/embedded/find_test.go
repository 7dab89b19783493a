package embedded_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/internal/embedded"
)

// TestFind: a folder nobody has served, one with a broker, one that is broken.
func TestFind(t *testing.T) {
	t.Parallel()
	_, _, err := embedded.Find(t.TempDir(), "barkeep")
	require.ErrorIs(t, err, embedded.ErrNone)
	dir := t.TempDir()
	write := func(part, name, text string) {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, part), 0o750))
		require.NoError(t, os.WriteFile(filepath.Join(dir, part, name), []byte(text), 0o600))
	}
	write("postgres", "server.json", `{"port": 4321}`)
	url, brokers, err := embedded.Find(dir, "barkeep")
	require.NoError(t, err)
	require.Equal(t, "postgres://postgres@127.0.0.1:4321/barkeep?sslmode=disable", url)
	require.Empty(t, brokers)
	broker, err := embedded.StartBroker(t.Context(), embedded.BrokerConfig{DataDir: dir, NoSync: true})
	require.NoError(t, err)
	defer func() { require.NoError(t, broker.Stop()) }()
	_, brokers, err = embedded.Find(dir, "barkeep")
	require.NoError(t, err)
	require.Equal(t, broker.Brokers, brokers)
	write("broker", "broker.json", `{`)
	_, _, err = embedded.Find(dir, "barkeep")
	require.ErrorContains(t, err, "broker.json")
}
