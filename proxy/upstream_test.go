package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"barkeep/internal/certtest"
)

// encrypting passes what comes over TLS from the first byte on to an address in the clear.
func encrypting(t *testing.T, target string, config *tls.Config) (address string) {
	t.Helper()
	return accepting(t, func(conn net.Conn) {
		up, err := new(net.Dialer).Dial("tcp", target)
		if err != nil {
			return
		}
		secured := tls.Server(conn, config)
		defer secured.Close()
		tunnel(secured, up)
	})
}

// TestUpstreamDirectTLS: with sslnegotiation=direct the upstream gets TLS with the first byte, of sessions and of cancel requests; one
// that does not name PostgreSQL's protocol is not spoken to.
func TestUpstreamDirectTLS(t *testing.T) {
	t.Parallel()
	ca := certtest.NewAuthority(t)
	up := newFakeUpstream(t, []byte{1, 2, 3, 4})
	for protocol, reached := range map[string]bool{alpn: true, "h2": false, "": false} {
		shown := &tls.Config{Certificates: []tls.Certificate{ca.Pair(t, "localhost")}, MinVersion: tls.VersionTLS12}
		offered := []string{alpn}
		if protocol != "" {
			shown.NextProtos = []string{protocol}
		}
		if protocol == "h2" {
			offered = append(offered, protocol)
		}
		server := New(Config{Upstream: Upstream{Place: Place{
			Network: "tcp", Address: encrypting(t, up.address, shown), Direct: true,
			TLS: &tls.Config{RootCAs: ca.Pool(), ServerName: "localhost", MinVersion: tls.VersionTLS12, NextProtos: offered},
		}}})
		address := serving(t, server)
		client := askRaw(t, address, false)
		if !reached {
			require.Equal(t, unreachable().Code, client.until('E'), protocol)
			continue
		}
		client.until('Z')
		session := server.find(up.pid, up.key)
		require.NotNil(t, session)
		require.NoError(t, server.passCancel(t.Context(), t.Context(), session.place, cancelOf(up)))
		require.NotEmpty(t, <-up.canceled)
	}
}

func cancelOf(up *fakeUpstream) []byte {
	return []byte{0, 0, 0, byte(12 + len(up.key)), 0x04, 0xd2, 0x16, 0x2e, 0, 0, byte(up.pid >> 8), byte(up.pid), 1, 2, 3, 4}
}

// serving runs a server on a port of loopback until the test ends.
func serving(t *testing.T, server *Server) (url string) {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve(ctx, listener) })
	t.Cleanup(func() { cancel(); server.Abandon(); running.Wait() })
	return "postgres://anybody@" + listener.Addr().String() + "/d"
}

// deserted is an address at which nobody listens.
func deserted(t *testing.T) string {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	return listener.Addr().String()
}

// TestUpstreamMoves: a session that finds nobody where the upstream was has it looked for, once for all who come meanwhile, and is
// made where it is. A cancel request goes to where its session is, wherever the upstream is found by then.
func TestUpstreamMoves(t *testing.T) {
	t.Parallel()
	first, second := newFakeUpstream(t, []byte{1, 2, 3, 4}), newFakeUpstream(t, []byte{1, 2, 3, 4})
	second.pid++
	var looks atomic.Int32
	next := make(chan Place, 10)
	server := New(Config{Upstream: Upstream{
		Place: Place{Network: "tcp", Address: deserted(t)},
		Find: func(ctx context.Context) (Place, error) {
			looks.Add(1)
			select {
			case place := <-next:
				if place.Address == "" {
					return Place{}, errors.New("no server answers")
				}
				return place, nil
			case <-ctx.Done():
				return Place{}, ctx.Err()
			}
		},
	}})
	address := serving(t, server)
	next <- Place{}
	require.Equal(t, unreachable().Code, askRaw(t, address, false).until('E'))

	var clients []*rawClient
	for range 5 {
		clients = append(clients, askRaw(t, address, false))
	}
	next <- Place{Network: "tcp", Address: first.address}
	for _, client := range clients {
		client.until('Z')
	}
	require.EqualValues(t, 2, looks.Load())
	old := server.find(first.pid, first.key)
	require.NotNil(t, old)

	next <- Place{Network: "tcp", Address: second.address}
	_, err := server.lookAgain(t.Context(), old.place)
	require.NoError(t, err)
	askRaw(t, address, false).until('Z')
	require.NotNil(t, server.find(second.pid, second.key))
	askRaw(t, address, false).until('Z')
	require.EqualValues(t, 3, looks.Load())
	require.NoError(t, server.passCancel(t.Context(), t.Context(), old.place, cancelOf(first)))
	require.NotEmpty(t, <-first.canceled)
}

// TestUpstreamIsStandby: a session that comes to a standby is refused, as its client has proven itself there and nowhere else; when
// it comes again it is taken to the primary.
func TestUpstreamIsStandby(t *testing.T) {
	standby := newFakeUpstream(t, []byte{1, 2, 3, 4})
	standby.identity = []string{"true", "4711"}
	b := start(t, func(c *Config) {
		primary := c.Upstream.Place
		c.Upstream.Address, c.Upstream.SystemIdentifier = standby.address, "4711"
		c.Upstream.LifeQuery, c.Upstream.IdentifyQuery = "select 'life'", "select 'false', '4711'"
		c.Upstream.Find = func(context.Context) (Place, error) { return primary, nil }
	})
	_, err := pgx.Connect(t.Context(), b.url)
	require.ErrorContains(t, err, errStandby.Message)
	conn, err := pgx.Connect(t.Context(), b.url)
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
}

// TestAuthRequireAuth: what require_auth of upstream.url does not allow the database to ask for is not asked of the client.
func TestAuthRequireAuth(t *testing.T) {
	u := startAuthUpstream(t)
	users := map[string]string{"trusted": "none", "cleared": "password", "hashed": "md5", "scrammed": "scram-sha-256"}
	for _, leg := range []string{"plaintext", "TLS"} {
		for _, terms := range []string{"", "scram-sha-256", "!none,!password", "password, md5", "none", "!scram-sha-256"} {
			up := u.leg(leg)
			up.RequireAuth = terms
			through := u.open(t, up, nil, nil)
			for user, method := range users {
				allowed := map[string]bool{
					"": true, "scram-sha-256": user == "scrammed", "!none,!password": user == "hashed" || user == "scrammed",
					"password, md5": user == "cleared" || user == "hashed", "none": user == "trusted", "!scram-sha-256": user != "scrammed",
				}[terms]
				got := byPGX(t, u.url(through.address, user))
				if allowed {
					require.Equal(t, outcome{user, ""}, got, "%s over %s with %q", user, leg, terms)
				} else {
					require.Contains(t, got.failure, errRequireAuth(method).Message, "%s over %s with %q", user, leg, terms)
				}
			}
		}
	}
}
