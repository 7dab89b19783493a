package certificate

import (
	"bytes"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"barkeep/internal/certtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serial is the number of the certificate that a handshake shows.
func serial(t *testing.T, s *Store) string {
	t.Helper()
	near, far := net.Pipe()
	var running sync.WaitGroup
	running.Go(func() {
		server := tls.Server(far, s.Serving())
		_ = server.HandshakeContext(t.Context())
	})
	defer running.Wait()
	client := tls.Client(near, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{ALPN}})
	require.NoError(t, client.HandshakeContext(t.Context()))
	require.Equal(t, ALPN, client.ConnectionState().NegotiatedProtocol)
	return client.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

func TestReload(t *testing.T) {
	t.Parallel()
	authority := certtest.NewAuthority(t)
	cert, key := authority.Issue(t, "first")
	var log strings.Builder
	s, err := Load(Config{CertFile: cert, KeyFile: key, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	require.NoError(t, s.Reload())
	require.Empty(t, log.String(), "nothing has changed")
	first := serial(t, s)
	require.Equal(t, "first", s.Current().Certificates[0].Leaf.Subject.CommonName)

	authority.Renew(t, "second", cert, key)
	require.Equal(t, first, serial(t, s), "not before it is told")
	require.NoError(t, s.Reload())
	second := serial(t, s)
	require.NotEqual(t, first, second)
	require.Contains(t, log.String(), `msg="certificate read" subject="CN=second" not_after=`)

	otherCert, _ := authority.Issue(t, "third")
	content, err := os.ReadFile(otherCert)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(cert, content, 0o600))
	require.ErrorContains(t, s.Reload(), cert, "the key is of another certificate")
	require.Equal(t, second, serial(t, s))
	require.NoError(t, os.Remove(key))
	require.ErrorContains(t, s.Reload(), "read certificate")
	require.Equal(t, second, serial(t, s))
}

func TestLoadRefuses(t *testing.T) {
	t.Parallel()
	authority := certtest.NewAuthority(t)
	cert, key := authority.Issue(t, "x")
	for name, cfg := range map[string]Config{
		"no file":      {CertFile: cert + "x", KeyFile: key},
		"no key":       {CertFile: cert, KeyFile: cert},
		"no authority": {CertFile: cert, KeyFile: key, ClientCAFile: key},
	} {
		_, err := Load(cfg)
		require.Error(t, err, name)
	}
}

// TestRunFollowsFiles: changed files are used without a word to barkeep; of those that cannot be used it says so, once.
func TestRunFollowsFiles(t *testing.T) {
	t.Parallel()
	authority := certtest.NewAuthority(t)
	cert, key := authority.Issue(t, "first")
	log := &lockedBuffer{}
	s, err := Load(Config{CertFile: cert, KeyFile: key, Every: time.Millisecond, Logger: slog.New(slog.NewTextHandler(log, nil))})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = s.Run(ctx) })
	defer running.Wait()
	defer cancel()

	first := serial(t, s)
	authority.Renew(t, "second", cert, key)
	require.Eventually(t, func() bool { return serial(t, s) != first }, 10*time.Second, time.Millisecond)
	second := serial(t, s)
	before := log.count("cannot be used") // the pair did not fit for a moment
	require.NoError(t, os.WriteFile(cert, []byte("garbage"), 0o600))
	require.Eventually(t, func() bool { return log.count("cannot be used") > before }, 10*time.Second, time.Millisecond)
	require.NoError(t, os.Remove(key))
	require.Eventually(t, func() bool { return log.count("no such file") == 1 }, 10*time.Second, time.Millisecond)
	authority.Renew(t, "third", cert, key)
	require.Eventually(t, func() bool { return serial(t, s) != second }, 10*time.Second, time.Millisecond)
	require.Equal(t, 1, log.count("no such file"))
}

type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(text []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(text)
}

func (b *lockedBuffer) count(part string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Count(b.text.Bytes(), []byte(part))
}
