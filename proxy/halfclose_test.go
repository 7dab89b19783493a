package proxy

import (
	"crypto/tls"
	"io"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"barkeep/internal/certtest"
)

// A client may end its own direction behind its last message, and read on: it gets what PostgreSQL gives it, and then the end.
func TestHalfClosed(t *testing.T) {
	b := start(t, nil)
	encrypted := start(t, func(c *Config) {
		c.TLS = &tls.Config{Certificates: []tls.Certificate{certtest.NewAuthority(t).Pair(t, "barkeep")}, MinVersion: tls.VersionTLS12}
	})
	for name, each := range map[string]struct {
		url string
		tls bool
	}{"straight": {b.db.URL, false}, "through": {b.url, false}, "TLS": {encrypted.url, true}} {
		t.Run(name, func(t *testing.T) {
			c := dialRaw(t, each.url, false)
			if each.tls {
				c = dialRawTLS(t, each.url)
			}
			c.send(&pgproto3.Query{String: "select pg_sleep(0.2)"}, &pgproto3.Query{String: "select repeat('x', 1000) from generate_series(1, 5000)"},
				&pgproto3.Parse{Query: "select 'last'"}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{})
			require.NoError(t, c.conn.(interface{ CloseWrite() error }).CloseWrite())
			rows, ready := 0, 0
			for {
				kind, body, err := readMessage(c.conn)
				if err != nil {
					require.ErrorIs(t, err, io.EOF)
					break
				}
				switch kind {
				case 'D':
					rows++
				case 'Z':
					ready++
				case 'E':
					require.Fail(t, string(body))
				}
			}
			require.Equal(t, 5002, rows)
			require.Equal(t, 3, ready)
		})
	}
	// One that is gone altogether leaves nothing behind.
	c := dialRaw(t, b.url, false)
	require.NoError(t, c.conn.Close())
	require.Eventually(t, func() bool { return len(b.server.list()) == 0 }, 30*time.Second, time.Millisecond)
}

// dialRawTLS is dialRaw with TLS.
func dialRawTLS(t *testing.T, address string) *rawClient {
	t.Helper()
	target, err := url.Parse(address)
	require.NoError(t, err)
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", target.Host)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	encrypted, err := secure(t.Context(), conn, &Place{TLS: &tls.Config{InsecureSkipVerify: true}}, time.Minute)
	require.NoError(t, err)
	c := askRawOn(t, encrypted, target, false)
	c.until('Z')
	return c
}
