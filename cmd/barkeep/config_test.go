package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func writeFile(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

func TestLoadPrecedence(t *testing.T) {
	t.Parallel()
	path := writeFile(t, "barkeep.yaml", `
listen: 127.0.0.1:6000
topic_prefix: from-file
holds: {max: 7}
shutdown: {grace: 3s}
sources:
  binance: {rate: 2.5, finality_lag: 2m}
`)
	cfg, err := Load(Layers{
		File: path,
		Environ: []string{
			"BARKEEP_TOPIC_PREFIX=from-env", "BARKEEP_BROKERS=a:9092,b:9092", "BARKEEP_STATUS_LISTEN=127.0.0.1:1",
			"BARKEEP_SOURCES_BINANCE_URL=http://127.0.0.1:9", "BARKEEP_SOURCES_SIM_ENABLED=false", "HOME=/", "BARKEEP_CONFIG=x",
		},
		Flags: map[string]string{"status.listen": "127.0.0.1:2", "sources.file.path": "/bars"},
	})
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1:6000", cfg.Listen)
	require.Equal(t, "from-env", cfg.TopicPrefix)
	require.Equal(t, []string{"a:9092", "b:9092"}, cfg.Brokers)
	require.Equal(t, "127.0.0.1:2", cfg.Status.Listen)
	require.Equal(t, 7, cfg.Holds.Max)
	require.Equal(t, 500*time.Millisecond, cfg.Holds.NoticeAfter)
	require.Equal(t, 3*time.Second, cfg.Shutdown.Grace)
	require.InDelta(t, 2.5, cfg.Sources["binance"].Rate, 0)
	require.Equal(t, 2*time.Minute, cfg.Sources["binance"].FinalityLag)
	require.Equal(t, "http://127.0.0.1:9", cfg.Sources["binance"].URL)
	require.False(t, *cfg.Sources["sim"].Enabled)
	require.Equal(t, "/bars", cfg.Sources["file"].Path)
}

func TestLoadDefaults(t *testing.T) {
	t.Parallel()
	cfg, err := Load(Layers{})
	require.NoError(t, err)
	require.Equal(t, defaultConfig(), cfg)
}

func TestLoadErrorsNameTheKey(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name, file string
		environ    []string
		flags      map[string]string
		want       string
	}{
		{name: "unknown key", file: "lissten: x", want: "lissten"},
		{name: "unknown nested key", file: "holds: {maximum: 3}", want: "holds.maximum"},
		{name: "unknown variable", environ: []string{"BARKEEP_LISSTEN=x"}, want: "BARKEEP_LISSTEN"},
		{name: "unknown flag", flags: map[string]string{"nope.key": "1"}, want: "nope"},
		{name: "unknown source", file: "sources: {bitfinex: {url: x}}", want: "sources.bitfinex"},
		{name: "not a number", file: "holds: {max: many}", want: "holds.max"},
		{name: "not a duration", file: "shutdown: {grace: soon}", want: "shutdown.grace"},
		{name: "no unit", file: "shutdown: {grace: 30}", want: "shutdown.grace"},
		{name: "not positive", flags: map[string]string{"sessions.max": "0"}, want: "sessions.max"},
		{name: "not an address", flags: map[string]string{"listen": "5433"}, want: "listen"},
		{name: "status abroad without token", flags: map[string]string{"status.listen": "0.0.0.0:8433"}, want: "status.token"},
		{name: "half a TLS", flags: map[string]string{"tls.cert_file": "x"}, want: "tls.key_file"},
		{name: "SASL without brokers", flags: map[string]string{"broker.mechanism": "PLAIN", "broker.user": "u"}, want: "brokers"},
		{name: "path of a vendor", flags: map[string]string{"sources.sim.path": "x"}, want: "sources.sim.path"},
		{name: "bad level", flags: map[string]string{"log.level": "loud"}, want: "log.level"},
		{name: "missing secret", flags: map[string]string{"upstream.url_file": "/nonexistent"}, want: "upstream.url_file"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			layers := Layers{Environ: c.environ, Flags: c.flags}
			if c.file != "" {
				layers.File = writeFile(t, "barkeep.yaml", c.file)
			}
			_, err := Load(layers)
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestLoadSecretFiles(t *testing.T) {
	t.Parallel()
	path := writeFile(t, "secret", "postgres://u:p@h/db\n")
	cfg, err := Load(Layers{Flags: map[string]string{"upstream.url_file": path, "sources.cryptocompare.key_file": path}})
	require.NoError(t, err)
	require.Equal(t, "postgres://u:p@h/db", cfg.Upstream.URL)
	require.Equal(t, "postgres://u:p@h/db", cfg.Sources["cryptocompare"].Key)
	_, err = Load(Layers{Flags: map[string]string{"upstream.url_file": path, "upstream.url": "postgres://h/db"}})
	require.ErrorContains(t, err, "upstream.url")
}

func TestEverySettingIsDocumented(t *testing.T) {
	t.Parallel()
	names := map[string]string{}
	for _, s := range settings() {
		require.NotEmpty(t, s.doc, s.key)
		require.Empty(t, names[envName(s.key)], "%s and another key have one variable", s.key)
		names[envName(s.key)] = s.key
	}
}
