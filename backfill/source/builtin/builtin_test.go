package builtin_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/source"
	"barkeep/backfill/source/builtin"
	"barkeep/internal/market"
)

func TestNew(t *testing.T) {
	t.Parallel()
	r, err := builtin.New(nil)
	require.NoError(t, err)
	require.Equal(t, []string{"binance", "coinbase", "bitstamp", "okx", "bybit", "kraken", "sim"}, r.Names(), "without key and folder")

	key := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(key, []byte("secret\n"), 0o600))
	r, err = builtin.New(map[string]source.Config{
		"binance": {Disabled: true}, "coindesk": {Key: "x"}, "cryptocompare": {KeyFile: key}, "file": {Path: t.TempDir()},
	})
	require.NoError(t, err)
	require.Equal(t, []string{"coinbase", "bitstamp", "okx", "bybit", "cryptocompare", "coindesk", "kraken", "sim", "file"}, r.Names())
	_, err = r.Get("binance")
	require.ErrorIs(t, err, source.ErrUnknownSource)
	require.ErrorContains(t, err, "coinbase, bitstamp")
	for _, s := range r.All() {
		info := s.Info()
		require.Equal(t, s.Name() == "sim" || s.Name() == "file", info.PrefixOnly, "PIPELINE 10")
	}

	for name, configs := range map[string]map[string]source.Config{
		"sources.ftx":               {"ftx": {}},
		"sources.binance.":          {"binance": {Rate: -1}},
		"sources.bitstamp.url":      {"bitstamp": {URL: "bitstamp.net"}},
		"sources.file.path":         {"file": {Path: "/nowhere/at/all"}},
		"sources.coinbase.key_file": {"coinbase": {KeyFile: "/nowhere/at/all"}},
	} {
		_, err := builtin.New(configs)
		require.ErrorContains(t, err, name)
	}
}

// limited is a source with a rate limit.
type limited interface{ Limiter() *source.Limiter }

// Every setting of a source is really used, each without the others.
func TestSettings(t *testing.T) {
	t.Parallel()
	at := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	clock := func() time.Time { return at }
	for _, name := range []string{"binance", "coinbase", "bitstamp", "cryptocompare", "coindesk", "kraken", "okx", "bybit"} {
		var path, key string
		vendor := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			path, key = r.URL.Path, r.Header.Get("Authorization")
			w.WriteHeader(http.StatusNotFound)
		}))
		t.Cleanup(vendor.Close)
		build := func(c source.Config) source.Source {
			c.URL, c.Key, c.Now = vendor.URL+"/below/", "secret", clock
			r, err := builtin.New(map[string]source.Config{name: c})
			require.NoError(t, err)
			s, err := r.Get(name)
			require.NoError(t, err)
			return s
		}
		// takes returns how many requests may go at once.
		takes := func(c source.Config) int {
			limiter := build(c).(limited).Limiter() //nolint:forcetypeassert // a network source has one
			n := 0
			for limiter.Earliest() == 0 && n < 1000 {
				require.NoError(t, limiter.Wait(t.Context(), source.User))
				n++
			}
			return n
		}
		many := takes(source.Config{Rate: 0.001})
		require.Greater(t, many, 1, "%s: the default burst holds where the rate is set", name)
		require.Equal(t, 1, takes(source.Config{Rate: 0.001, Burst: 1}), name)
		require.Equal(t, 3, takes(source.Config{Rate: 0.001, Burst: 3}), name)

		s := build(source.Config{Burst: 1})
		limiter := s.(limited).Limiter() //nolint:forcetypeassert // as above
		require.NoError(t, limiter.Wait(t.Context(), source.User))
		require.Positive(t, limiter.Earliest(), "%s: a burst that is set holds with the default rate", name)

		s = build(source.Config{FinalityLag: 7 * time.Minute, AbsenceLag: 9 * time.Hour})
		for _, tf := range s.Info().Native {
			info, standard := s.Info(), build(source.Config{}).Info()
			require.Equal(t, 7*time.Minute, info.Finality.Of(tf), name)
			require.Equal(t, 9*time.Hour, info.Absence.Of(tf), name)
			require.GreaterOrEqual(t, standard.Finality.Of(tf), 10*time.Second, "PIPELINE 6")
			require.Equal(t, time.Hour, standard.Absence.Of(tf), "PIPELINE 5")
		}
		_, err := s.Instruments(t.Context())
		require.Error(t, err)
		require.True(t, strings.HasPrefix(path, "/below/"), "%s: %s", name, path)
		require.Equal(t, name == "cryptocompare" || name == "coindesk", key == "Apikey secret", "the key goes to whom it is of")
	}
	for _, name := range []string{"sim", "file"} {
		r, err := builtin.New(map[string]source.Config{name: {Path: t.TempDir(), FinalityLag: 7 * time.Minute, AbsenceLag: 9 * time.Hour}})
		require.NoError(t, err)
		s, err := r.Get(name)
		require.NoError(t, err)
		info := s.Info()
		require.Equal(t, 7*time.Minute, info.Finality.Of(market.M1), name)
		require.Equal(t, 9*time.Hour, info.Absence.Of(market.M1), name)
	}
	info := must(builtin.New(nil)).All()[1].Info()
	require.Equal(t, 10*time.Minute, info.Finality.Of(market.M1), "Coinbase: PIPELINE 6")
}

func must(r *source.Registry, err error) *source.Registry {
	if err != nil {
		panic(err)
	}
	return r
}
