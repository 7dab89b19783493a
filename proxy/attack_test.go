package proxy

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
)

// TestAttackBeforeLogin has many connections at once do what costs a careless server its memory or its places: be silent, say a
// length of 2 GB, send a byte a second, send garbage, begin TLS and stop, ask for TLS and stop, begin a StartupMessage and a
// cancel request. A session works on and clients come in meanwhile, and the memory of barkeep's process stays where it is.
// TEST_ATTACK is how many connections; 5,000 is the full measure.
func TestAttackBeforeLogin(t *testing.T) {
	attackers := 2 * attackedPlaces
	if text := os.Getenv("TEST_ATTACK"); text != "" {
		var err error
		attackers, err = strconv.Atoi(text)
		require.NoError(t, err)
	}
	folder := t.TempDir()
	child(t, "upstream", folder)
	ask := child(t, attackedRole, folder)
	content, err := os.ReadFile(filepath.Join(folder, attackedRole))
	require.NoError(t, err)
	address := string(content)
	garbage := make([]byte, 4096)
	_, _ = rand.Read(garbage)
	ways := [][]byte{
		nil,
		{0x7f, 0xff, 0xff, 0xff},
		{0},
		garbage,
		clientHello(t)[:30],
		packet(codeSSL, ""),
		{recordHandshake, 3, 1, 0x3f, 0xff, 1, 0xff, 0xff, 0xff},
		packet(3<<16, "user\x00x\x00")[:15], packet(codeCancel, "12345678")[:12],
	}
	session := logsIn(t, address)
	for range 20 {
		require.NoError(t, logsIn(t, address).conn.Close(), "what is made once is made now")
	}
	before := ask()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	var opened atomic.Int64
	for i := range attackers {
		running.Go(func() { attack(ctx, address, ways[i%len(ways)], &opened) })
	}
	require.Eventually(t, func() bool { return opened.Load() >= int64(attackers) }, time.Minute, time.Millisecond)
	refused, login, query := 0, time.Duration(0), time.Duration(0)
	rounds := attackers / 10
	for range rounds {
		began := time.Now()
		session.send(&pgproto3.Query{String: "select 1"})
		session.until('Z')
		query = max(query, time.Since(began))
		began = time.Now()
		if client := logsIn(t, address); client == nil {
			refused++
		} else {
			require.NoError(t, client.conn.Close())
		}
		login = max(login, time.Since(began))
	}
	after := ask()
	t.Logf("%d attackers, %d connections: slowest of %d queries %s, of as many logins %s, %d refused; resident %d kB before, %d kB after; %d goroutines after",
		attackers, opened.Load(), rounds, query, login, refused, before.Resident>>10, after.Resident>>10, after.Goroutines)
	require.Zero(t, refused)
	require.LessOrEqual(t, after.Goroutines, before.Goroutines+attackedPlaces+50)
	if !raceEnabled { // what is measured then is the detector
		require.Less(t, after.Resident, before.Resident+32<<20)
	}
}

// logsIn returns a session, or nil where it was refused.
func logsIn(t *testing.T, address string) *rawClient {
	t.Helper()
	conn := dialTCP(t, address)
	_, err := conn.Write(packet(3<<16, "user\x00postgres\x00database\x00other\x00\x00"))
	require.NoError(t, err)
	for {
		kind, _, err := readMessage(conn)
		if err != nil || kind == 'E' {
			return nil
		}
		if kind == 'Z' {
			return &rawClient{t: t, conn: conn}
		}
	}
}

// attack opens connections from another address one after the other, sends on each, then a byte a second, until it is closed.
func attack(ctx context.Context, address string, sent []byte, opened *atomic.Int64) {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	for ctx.Err() == nil {
		if conn, err := dialer.DialContext(ctx, "tcp", address); err == nil {
			opened.Add(1)
			pester(ctx, conn, sent)
		}
		_ = wait(ctx, time.Second)
	}
}

func pester(ctx context.Context, conn net.Conn, sent []byte) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	_, err := conn.Write(sent)
	for err == nil {
		_ = conn.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := io.Copy(io.Discard, conn); !errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		_, err = conn.Write([]byte{0})
	}
}

// TestArrivals: beyond the bound the oldest of the address that has the most gives way, with 53300; who has logged in does not count.
func TestArrivals(t *testing.T) {
	up := newFakeUpstream(t, []byte("key!"))
	b := start(t, func(c *Config) {
		c.Upstream = Upstream{Place: Place{Network: "tcp", Address: up.address}}
		c.MaxStarting = 3
	})
	address := hostOf(t, b.url)
	require.NotNil(t, logsIn(t, address))
	from := func(ip byte) net.Conn {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, ip)}}
		conn, err := dialer.DialContext(t.Context(), "tcp", address)
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
		return conn
	}
	waits := func(n int) {
		require.Eventually(t, func() bool {
			b.server.mu.Lock()
			defer b.server.mu.Unlock()
			return b.server.arrivals.all == n
		}, 10*time.Second, time.Millisecond)
	}
	waits(0)
	alone := from(3)
	waits(1)
	first := from(2)
	waits(2)
	second := from(2)
	waits(3)
	require.NotNil(t, logsIn(t, address), "who comes is through before anybody notices")
	require.Equal(t, "E FATAL 53300 sorry, too many clients already ", told(t, first, 0))
	waits(2)
	third, fourth := from(2), from(2)
	require.Equal(t, "E FATAL 53300 sorry, too many clients already ", told(t, second, 0))
	require.NoError(t, fourth.Close())
	require.NoError(t, third.Close())
	waits(1)
	_, err := alone.Write(packet(3<<16, "user\x00postgres\x00\x00"))
	require.NoError(t, err)
	require.Contains(t, told(t, alone, 0), "Z")
}

// TestPlacesAreForThoseWhoLogIn: where sessions are as many as may be, one whose client does not prove itself makes room, and not
// before it had the time for it.
func TestPlacesAreForThoseWhoLogIn(t *testing.T) {
	server := New(Config{Limits: Limits{MaxSessions: 2}})
	come := func(age time.Duration) *session {
		s := newSession(server, &memoryConn{})
		_, leave := server.arrive(t.Context(), s)
		t.Cleanup(leave)
		server.arrivals.of[netip.Prefix{}][server.arrivals.all-1].since = time.Now().Add(-age)
		return s
	}
	proven, slow, next := come(time.Minute), come(2*arrivalGrace), come(0)
	require.True(t, server.add(proven))
	require.Nil(t, server.admit(proven))
	require.True(t, server.add(slow))
	require.True(t, server.add(next))
	require.Equal(t, 2, server.Sessions())
	require.NotContains(t, server.sessions, slow)
	require.False(t, server.add(come(0)), "those that are there have time left, or are in")
}

func TestOrigin(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"192.0.2.1:5": "192.0.2.1/32", "[::ffff:192.0.2.1]:5": "192.0.2.1/32", "[2001:db8::1:2:3]:5": "2001:db8::/64", "[fe80::1%eth0]:1": "fe80::/64",
	} {
		require.Equal(t, want, origin(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(text))).String())
	}
	require.Equal(t, netip.Prefix{}, origin(&net.UnixAddr{}))
}
