package builtin_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/source"
	"barkeep/backfill/source/builtin"
)

func TestNew(t *testing.T) {
	t.Parallel()
	r, err := builtin.New(nil)
	require.NoError(t, err)
	require.Equal(t, []string{"binance", "coinbase", "bitstamp", "sim"}, r.Names(), "without key and folder")

	key := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(key, []byte("secret\n"), 0o600))
	r, err = builtin.New(map[string]source.Config{
		"binance": {Disabled: true}, "cryptocompare": {KeyFile: key}, "file": {Path: t.TempDir()},
	})
	require.NoError(t, err)
	require.Equal(t, []string{"coinbase", "bitstamp", "cryptocompare", "sim", "file"}, r.Names())
	_, err = r.Get("binance")
	require.ErrorIs(t, err, source.ErrUnknownSource)
	require.ErrorContains(t, err, "coinbase, bitstamp")
	for _, s := range r.All() {
		info := s.Info()
		require.Equal(t, s.Name() == "sim" || s.Name() == "file", info.PrefixOnly, "PIPELINE 10")
	}

	for name, configs := range map[string]map[string]source.Config{
		"sources.kraken":      {"kraken": {}},
		"sources.binance.":    {"binance": {Rate: -1}},
		"sources.bitstamp":    {"bitstamp": {URL: "bitstamp.net"}},
		"sources.file: path":  {"file": {Path: "/nowhere/at/all"}},
		"sources.coinbase: r": {"coinbase": {KeyFile: "/nowhere/at/all"}},
	} {
		_, err := builtin.New(configs)
		require.ErrorContains(t, err, name)
	}
}
