package main

import (
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/internal/schema"
	"barkeep/proxy"
)

// found is where the service's connections to a database end up.
func found(t *testing.T, dsn string) (proxy.Place, error) {
	t.Helper()
	config, err := schema.PoolConfig(dsn)
	require.NoError(t, err)
	return (&finder{config: config.ConnConfig}).find(t.Context())
}

// requireFound: of several hosts it is the one that answers, with TLS as sslmode says and the server allows. The database lets
// nobody in without TLS, so that allow ends up with it, though it begins without.
func requireFound(t *testing.T, secured string) {
	t.Helper()
	address, err := url.Parse(secured)
	require.NoError(t, err)
	terms := address.Query()
	terms.Del("channel_binding")
	at := "127.0.0.1:" + address.Port()
	for hosts, name := range map[string]string{
		"localhost:" + address.Port():                              "localhost",
		"127.0.0.1:1," + at + ",localhost:" + address.Port():       "127.0.0.1",
		"localhost:1,localhost:" + address.Port() + ",127.0.0.1:1": "localhost",
	} {
		for _, mode := range []string{"allow", "prefer", "require", "verify-full"} {
			terms.Set("sslmode", mode)
			dsn := strings.Replace(secured, address.Host, hosts, 1)
			place, err := found(t, strings.Replace(dsn, address.RawQuery, terms.Encode(), 1))
			require.NoError(t, err, "%s, %s", hosts, mode)
			require.Equal(t, "tcp", place.Network)
			require.Equal(t, at, place.Address)
			require.False(t, place.Direct)
			require.NotNil(t, place.TLS, "%s, %s", hosts, mode)
			require.Equal(t, mode != "verify-full", place.TLS.InsecureSkipVerify)
			if mode == "verify-full" {
				require.Equal(t, name, place.TLS.ServerName, "%s, %s", hosts, mode)
			}
		}
	}
	terms.Set("sslmode", "disable")
	_, err = found(t, strings.Replace(secured, address.RawQuery, terms.Encode(), 1))
	require.ErrorContains(t, err, "no pg_hba.conf entry")
	terms.Set("sslmode", "verify-full")
	terms.Set("sslnegotiation", "direct")
	if place, err := found(t, strings.Replace(secured, address.RawQuery, terms.Encode(), 1)); err == nil { // PostgreSQL 17
		require.True(t, place.Direct)
		require.Equal(t, []string{"postgresql"}, place.TLS.NextProtos)
	}
}
