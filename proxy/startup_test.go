package proxy

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestTLS(t *testing.T) {
	b := start(t, func(c *Config) {
		c.TLS = &tls.Config{Certificates: []tls.Certificate{certificate(t)}, MinVersion: tls.VersionTLS12}
	})
	b.url = strings.Replace(b.url, "sslmode=disable", "sslmode=require", 1)
	conn := b.connect(t, nil)
	var n int
	require.NoError(t, conn.QueryRow(t.Context(), read).Scan(&n))
	require.Equal(t, 10, n)
	require.Len(t, b.asked, 1)
}

func TestStartupPackets(t *testing.T) {
	b := start(t, nil)
	config, err := pgx.ParseConfig(b.url)
	require.NoError(t, err)
	address := net.JoinHostPort(config.Host, itoa(int(config.Port)))
	packet := func(words ...uint32) []byte {
		var out []byte
		for _, word := range words {
			out = binary.BigEndian.AppendUint32(out, word)
		}
		return out
	}
	for name, each := range map[string]struct {
		sent []byte
		want string
	}{
		"too short":        {packet(7, 0), ""},
		"too long":         {packet(10_001, 3<<16), ""},
		"SSL declined":     {packet(8, codeSSL), "N"},
		"GSS declined":     {packet(8, codeGSS), "N"},
		"protocol 2":       {packet(8, 2<<16), "EFATAL08P01"},
		"cancel, no key":   {packet(8, codeCancel), ""},
		"cancel, long key": {append(packet(12+257, codeCancel, 1), make([]byte, 257)...), ""},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
			require.NoError(t, err)
			defer conn.Close()
			require.NoError(t, conn.SetDeadline(time.Now().Add(5*time.Second)))
			_, err = conn.Write(each.sent)
			require.NoError(t, err)
			got := make([]byte, 512)
			n, _ := conn.Read(got)
			if len(each.want) < 2 {
				require.Equal(t, each.want, string(got[:n]))
				return
			}
			require.Equal(t, each.want[0], got[0])
			require.Contains(t, string(got[:n]), "FATAL")
			require.Contains(t, string(got[:n]), "08P01")
		})
	}
}

func TestStripPlus(t *testing.T) {
	message := append([]byte{'R', 0, 0, 0, 0, 0, 0, 0, 10}, "SCRAM-SHA-256-PLUS\x00SCRAM-SHA-256\x00\x00"...)
	out := stripPlus(message)
	require.Equal(t, "SCRAM-SHA-256\x00\x00", string(out[9:]))
	require.EqualValues(t, len(out)-1, binary.BigEndian.Uint32(out[1:]))
}

func TestTrustIsForLoopback(t *testing.T) {
	require.True(t, onLoopback(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}))
	require.True(t, onLoopback(&net.UnixAddr{}))
	require.False(t, onLoopback(&net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)}))
}

func TestCancelReachesUpstream(t *testing.T) {
	b := start(t, nil)
	conn := b.connect(t, nil)
	done := make(chan error, 1)
	go func() { _, err := conn.Exec(context.Background(), "select pg_sleep(30)"); done <- err }()
	for range 100 {
		require.NoError(t, conn.PgConn().CancelRequest(t.Context()))
		select {
		case err := <-done:
			require.Equal(t, "57014", code(err))
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
	t.Fatal("not cancelled")
}

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "": 0, "5s": 5 * time.Second, "30min": 30 * time.Minute, "250": 250 * time.Millisecond, "1.5 h": 90 * time.Minute, "x": 0, "500us": 500 * time.Microsecond,
	} {
		require.Equal(t, want, duration(text), text)
	}
}
