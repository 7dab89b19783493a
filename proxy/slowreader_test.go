package proxy

import (
	"crypto/tls"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"barkeep/internal/certtest"
)

// What was answered is the client's: neither a drain nor the limit of idle time ends a session before its client has taken it all.
func TestSlowReaderGetsItsAnswers(t *testing.T) {
	secured := func(c *Config) {
		c.TLS = &tls.Config{Certificates: []tls.Certificate{certtest.NewAuthority(t).Pair(t, "barkeep")}, MinVersion: tls.VersionTLS12}
	}
	graceful := func(c *Config) { c.Grace = 30 * time.Second }
	impatient := func(c *Config) { c.IdleTimeout = 300 * time.Millisecond }
	plain := func(t *testing.T, address string) *rawClient {
		t.Helper()
		return dialRaw(t, address, false)
	}
	for name, each := range map[string]struct {
		dial   func(t *testing.T, address string) *rawClient
		config []func(*Config)
		drains bool
		code   string
	}{
		"drain":          {plain, []func(*Config){graceful}, true, "57P01"},
		"drain, TLS":     {dialRawTLS, []func(*Config){graceful, secured}, true, "57P01"},
		"idle time":      {plain, []func(*Config){impatient}, false, "57P05"},
		"idle time, TLS": {dialRawTLS, []func(*Config){impatient, secured}, false, "57P05"},
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t, func(c *Config) {
				for _, change := range each.config {
					change(c)
				}
			})
			c := each.dial(t, b.url)
			slow := b.server.list()[0]
			answers := fillSockets(t, c, slow)
			idle := dialRaw(t, b.url, false)
			if each.drains {
				go b.stop()
			}
			require.Equal(t, each.code, idle.until('E')) // by then the slow one has been looked at, too
			require.NoError(t, c.conn.SetDeadline(time.Now().Add(time.Minute)))
			for range answers {
				require.Len(t, c.until('D'), 2+4+answerBytes)
				c.until('Z')
			}
			require.Equal(t, each.code, c.until('E'))
		})
	}
}

// answerBytes is what PostgreSQL sends at once with the end of the answer: it has a buffer of 8 kB.
const answerBytes = 7000

// fillSockets has a client ask, and read nothing, until an answer stays on the session's hands. It returns how many there are.
func fillSockets(t *testing.T, c *rawClient, s *session) (answers int) {
	t.Helper()
	require.NoError(t, c.conn.SetDeadline(time.Now().Add(time.Minute)))
	answered := func() uint64 {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.readies
	}
	taken := func() bool {
		if !s.out.TryLock() {
			return false
		}
		defer s.out.Unlock()
		return len(s.unsent) == 0
	}
	for answers = 1; answers < 5000; answers++ {
		before := answered()
		c.send(&pgproto3.Query{String: "select repeat('x', " + strconv.Itoa(answerBytes) + ")"})
		require.Eventually(t, func() bool { return answered() > before }, 30*time.Second, 100*time.Microsecond)
		for until := time.Now().Add(100 * time.Millisecond); !taken(); {
			if time.Now().After(until) {
				return answers
			}
		}
	}
	require.Fail(t, "all was taken")
	return 0
}
