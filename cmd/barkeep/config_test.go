package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"

	"barkeep/internal/market"
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
holds.notice_every: 3s
sources.binance.burst: 9
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
	require.Equal(t, []string{"127.0.0.1:6000"}, cfg.Listen)
	require.Equal(t, "from-env", cfg.TopicPrefix)
	require.Equal(t, []string{"a:9092", "b:9092"}, cfg.Brokers)
	require.Equal(t, "127.0.0.1:2", cfg.Status.Listen)
	require.Equal(t, 7, cfg.Holds.Max)
	require.Equal(t, 3*time.Second, cfg.Holds.NoticeEvery)
	require.Equal(t, 9, cfg.Sources["binance"].Burst)
	require.Equal(t, 500*time.Millisecond, cfg.Holds.NoticeAfter)
	require.Equal(t, 3*time.Second, cfg.Shutdown.Grace)
	require.InDelta(t, 2.5, cfg.Sources["binance"].Rate, 0)
	require.Equal(t, 2*time.Minute, cfg.Sources["binance"].FinalityLag)
	require.Equal(t, "http://127.0.0.1:9", cfg.Sources["binance"].URL)
	require.False(t, *cfg.Sources["sim"].Enabled)
	require.Equal(t, "/bars", cfg.Sources["file"].Path)
}

func TestRetentionIsByTimeframe(t *testing.T) {
	t.Parallel()
	cfg, err := Load(Layers{File: writeFile(t, "barkeep.yaml", "retention: [1m=90d, 1M=87600h]")})
	require.NoError(t, err)
	kept, err := cfg.retention()
	require.NoError(t, err)
	require.Equal(t, map[market.Timeframe]time.Duration{market.M1: 90 * 24 * time.Hour, market.Mo1: 87600 * time.Hour}, kept)
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
		{name: "market of a vendor that is one", file: "sources: {kraken: {market: x}}", want: "sources.kraken.market"},
		{name: "fallback that there is not", file: "sources: {kraken: {fallback: [x]}}", want: `sources.kraken.fallback: there is no source "x"`},
		{name: "fallback to itself", file: "sources: {kraken: {fallback: [kraken]}}", want: "sources.kraken.fallback: a source does not"},
		{name: "fallback twice", file: "sources: {kraken: {fallback: [okx, okx]}}", want: "sources.kraken.fallback: okx is named twice"},
		{name: "fallback that is off", file: "sources: {kraken: {fallback: [okx]}, okx: {enabled: false}}", want: "sources.kraken.fallback: okx is not enabled"},
		{name: "market that cannot be", file: "sources: {coindesk: {market: a/b}}", want: "sources.coindesk.market"},
		{name: "not a number", file: "holds: {max: many}", want: "holds.max"},
		{name: "not a duration", file: "shutdown: {grace: soon}", want: "shutdown.grace"},
		{name: "no unit", file: "shutdown: {grace: 30}", want: "shutdown.grace"},
		{name: "not positive", flags: map[string]string{"sessions.max": "0"}, want: "sessions.max"},
		{name: "retention of no timeframe", flags: map[string]string{"retention": "7m=90d"}, want: "retention"},
		{name: "retention of no time", environ: []string{"BARKEEP_RETENTION=1m=90d,5m=long"}, want: "retention"},
		{name: "retention without a unit", file: "retention: [1m=90]", want: "retention"},
		{name: "retention of next to nothing", flags: map[string]string{"retention": "1m=10m"}, want: "retention"},
		{name: "retention twice", flags: map[string]string{"retention": "1m=10d,1m=20d"}, want: "retention"},
		{name: "a breaker that does not break", flags: map[string]string{"producer.breaker": "0s"}, want: "producer.breaker"},
		{name: "rows that go at once", flags: map[string]string{"removal.grace": "0s"}, want: "removal.grace"},
		{name: "not an address", flags: map[string]string{"listen": "5433"}, want: "listen"},
		{name: "no address at all", file: "listen: []", want: "listen"},
		{name: "one of several is none", environ: []string{"BARKEEP_LISTEN=127.0.0.1:1,/run/barkeep,5433"}, want: "listen"},
		{name: "permissions in decimal", file: "unix_socket: {permissions: 770}", want: "unix_socket.permissions"},
		{name: "permissions in words", environ: []string{"BARKEEP_UNIX_SOCKET_PERMISSIONS=rwx"}, want: "unix_socket.permissions"},
		{name: "no such TLS", flags: map[string]string{"tls.min_version": "1.1"}, want: "tls.min_version"},
		{name: "TLS required and none there", flags: map[string]string{"tls.require": "true"}, want: "tls.require"},
		{name: "client certificates without TLS", flags: map[string]string{"tls.client_ca_file": "x"}, want: "tls.client_ca_file"},
		{name: "half a name", flags: map[string]string{"tls.cert_file": "x", "tls.key_file": "x", "tls.client_ca_file": "x", "tls.client_names": "a=b,c"}, want: "tls.client_names"},
		{name: "status abroad without token", flags: map[string]string{"status.listen": "0.0.0.0:8433"}, want: "status.token"},
		{name: "half a TLS", flags: map[string]string{"tls.cert_file": "x"}, want: "tls.key_file"},
		{name: "SASL without brokers", flags: map[string]string{"broker.mechanism": "PLAIN", "broker.user": "u"}, want: "brokers"},
		{name: "path of a vendor", flags: map[string]string{"sources.sim.path": "x"}, want: "sources.sim.path"},
		{name: "key of a vendor that takes none", environ: []string{"BARKEEP_SOURCES_BINANCE_KEY=x"}, want: "sources.binance.key"},
		{name: "URL of no vendor", flags: map[string]string{"sources.sim.url": "http://x"}, want: "sources.sim.url"},
		{name: "rate of no vendor", flags: map[string]string{"sources.file.rate": "1"}, want: "sources.file.rate"},
		{name: "unknown key of a source", file: "sources: {binance: {ulr: x}}", want: "sources.binance.ulr"},
		{name: "not a number of a source", file: "sources: {binance: {rate: fast}}", want: "sources.binance.rate"},
		{name: "key twice", file: "holds: {max: 1}\nholds: {max: 2}", want: "holds"},
		{name: "key in two spellings", file: "holds: {max: 1}\nholds.max: 2", want: "holds.max is set twice"},
		{name: "value of a section", file: "upstream: x", want: "upstream"},
		{name: "password without mechanism", flags: map[string]string{"brokers": "h:1", "broker.password": "x"}, want: "broker.mechanism"},
		{name: "not a database", flags: map[string]string{"upstream.url": "mysql://h/db"}, want: "upstream.url"},
		{name: "a parameter of libpq's own", flags: map[string]string{"upstream.url": "postgres://h/db?requirepeer=postgres"}, want: "requirepeer"},
		{name: "a certificate that must be shown", flags: map[string]string{"upstream.url": "postgres://h/db?sslcertmode=require"}, want: "sslcertmode"},
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

// TestLoadErrorsKeepSecrets: an address that cannot be parsed may hold a password all the same.
func TestLoadErrorsKeepSecrets(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"user:hush@host/db", "postgres://u:hu%zzsh@h/db", "host=h password='hush", "postgres://u:hush@h:port/db"} {
		_, err := Load(Layers{Flags: map[string]string{"upstream.url": address}})
		require.ErrorContains(t, err, "upstream.url")
		require.NotContains(t, err.Error(), "hu")
	}
}

// TestFlagsMayBeEmpty: an empty value is one.
func TestFlagsMayBeEmpty(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"serve", "--status-listen="}, {"serve", "--set=status.listen="}} {
		var c cli
		parser, err := kong.New(&c)
		require.NoError(t, err)
		_, err = parser.Parse(args)
		require.NoError(t, err)
		cfg, err := c.load()
		require.NoError(t, err)
		require.Empty(t, cfg.Status.Listen)
		require.Equal(t, defaultConfig().Listen, cfg.Listen)
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

// TestLoadListen: several addresses, as a list or in one text, and permissions with and without quotes.
func TestLoadListen(t *testing.T) {
	t.Parallel()
	want := []string{"127.0.0.1:1", "[::1]:1", "/run/barkeep"}
	for _, layers := range []Layers{
		{File: writeFile(t, "list.yaml", "listen: ['127.0.0.1:1', '[::1]:1', /run/barkeep]\nunix_socket: {permissions: 0770}")},
		{File: writeFile(t, "text.yaml", "listen: '127.0.0.1:1,[::1]:1,/run/barkeep'\nunix_socket: {permissions: '0770'}")},
		{Environ: []string{"BARKEEP_LISTEN=127.0.0.1:1,[::1]:1,/run/barkeep", "BARKEEP_UNIX_SOCKET_PERMISSIONS=770"}},
	} {
		cfg, err := Load(layers)
		require.NoError(t, err)
		require.Equal(t, want, cfg.Listen)
		mode, err := cfg.UnixSocket.Permissions.mode()
		require.NoError(t, err)
		require.EqualValues(t, 0o770, mode)
	}
	require.Equal(t, map[string][]string{"a=b": {"c", "d"}}, clientNames([]string{"a=b=c", "a=b=d"}))
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
