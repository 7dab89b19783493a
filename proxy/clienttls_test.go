package proxy

import (
	"crypto/tls"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"barkeep/internal/certtest"
)

// shows is a Config.TLS with a certificate of the authority.
func shows(t *testing.T, authority *certtest.Authority) *tls.Config {
	t.Helper()
	return &tls.Config{Certificates: []tls.Certificate{authority.Pair(t, "barkeep")}, MinVersion: tls.VersionTLS12, NextProtos: []string{alpn}}
}

// shakeHands makes TLS of a connection, naming the protocols.
func shakeHands(t *testing.T, conn net.Conn, protocols ...string) (*tls.Conn, error) {
	t.Helper()
	secured := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: protocols})
	err := secured.HandshakeContext(t.Context())
	return secured, err
}

func (b *bar) with(settings string) string {
	return strings.Replace(b.url, "sslmode=disable", settings, 1)
}

// TestTLSClients: drivers come in with every sslmode, by SSLRequest and by the first byte, and are held and answered.
func TestTLSClients(t *testing.T) {
	authority := certtest.NewAuthority(t)
	b := start(t, func(c *Config) { c.TLS, c.RequireTLS = shows(t, authority), true })
	for _, settings := range []string{
		"sslmode=require", "sslmode=prefer", "sslmode=verify-ca&sslrootcert=" + authority.File, "sslmode=verify-full&sslrootcert=" + authority.File,
		"sslmode=require&sslnegotiation=direct", "sslmode=verify-full&sslnegotiation=direct&sslrootcert=" + authority.File,
	} {
		conn, err := pgx.Connect(t.Context(), b.with(settings))
		require.NoError(t, err, settings)
		var n int
		require.NoError(t, conn.QueryRow(t.Context(), read).Scan(&n), settings)
		require.Equal(t, 10, n)
		require.NoError(t, conn.Close(t.Context()))
	}
	require.Len(t, b.requested(), 1)
	_, err := pgx.Connect(t.Context(), b.with("sslmode=verify-full&sslrootcert="+certtest.NewAuthority(t).File))
	require.ErrorContains(t, err, "unknown authority")
	_, err = pgx.Connect(t.Context(), b.url)
	require.Equal(t, "28000", code(err), "without TLS")
	require.ErrorContains(t, err, "connection requires TLS")
}

// TestTLSPsql: libpq agrees.
func TestTLSPsql(t *testing.T) {
	authority := certtest.NewAuthority(t)
	cert, key := authority.Issue(t, "postgres")
	b := start(t, func(c *Config) { asksClients(t, c, authority) })
	mine := "&sslcert=" + cert + "&sslkey=" + key
	in := outcome{"postgres", ""}
	require.Equal(t, in, byPSQL(t, b.with("sslmode=require"+mine)))
	require.Equal(t, in, byPSQL(t, b.with("sslmode=verify-full&sslrootcert="+authority.File+mine)))
	require.Regexp(t, "certificate verify failed|unknown authority", byPSQL(t, b.with("sslmode=verify-full&sslrootcert="+certtest.NewAuthority(t).File+mine)).failure)
	require.Contains(t, byPSQL(t, b.with("sslmode=require")).failure, "connection requires a valid client certificate")
	require.Contains(t, byPSQL(t, b.with("sslmode=disable")).failure, "connection requires TLS")
}

// asksClients has sessions show certificates of the authority.
func asksClients(t *testing.T, c *Config, authority *certtest.Authority) {
	t.Helper()
	c.TLS, c.RequireCertificate = shows(t, authority), true
	c.TLS.ClientCAs, c.TLS.ClientAuth = authority.Pool(), tls.VerifyClientCertIfGiven
}

// TestClientCertificates: a certificate must be of the authority and of the user, or of a name that stands for it.
func TestClientCertificates(t *testing.T) {
	authority, stranger := certtest.NewAuthority(t), certtest.NewAuthority(t)
	var logged logs
	b := start(t, func(c *Config) {
		asksClients(t, c, authority)
		c.Logger = slog.New(slog.NewTextHandler(&logged, nil))
		c.ClientNames = map[string][]string{"reports": {"other", "postgres"}, "nobody": {"other"}}
	})
	for name, each := range map[string]struct {
		by   *certtest.Authority
		of   string
		want string
	}{
		"the user's":        {authority, "postgres", ""},
		"of a name for it":  {authority, "reports", ""},
		"another user's":    {authority, "nobody", "certificate authentication failed for user \"postgres\""},
		"of another case":   {authority, "Postgres", "28000"},
		"without a name":    {authority, "", "28000"},
		"of a stranger":     {stranger, "postgres", "tls: "},
		"none":              {nil, "", "28000"},
		"none, without TLS": {nil, "plain", "28000"},
	} {
		t.Run(name, func(t *testing.T) {
			settings := "sslmode=require"
			switch {
			case each.by != nil:
				cert, key := each.by.Issue(t, each.of)
				settings += "&sslcert=" + cert + "&sslkey=" + key
			case each.of == "plain":
				settings = "sslmode=disable"
			}
			conn, err := pgx.Connect(t.Context(), b.with(settings))
			if each.want == "" {
				require.NoError(t, err)
				require.NoError(t, conn.Close(t.Context()))
				return
			}
			require.ErrorContains(t, err, each.want)
		})
	}
	for _, reason := range []string{
		`user=postgres client=\S+ .*certificate authentication failed`, `user=postgres client=\S+ .*requires a valid client certificate`,
		`user=postgres client=\S+ .*connection requires TLS`, `client=127\.0\.0\.1:\d+ reason=.*signed by unknown authority`,
	} {
		require.Eventually(t, func() bool {
			return regexp.MustCompile(`(?m)level=INFO msg="login refused" .*` + reason).MatchString(logged.String())
		}, 10*time.Second, 5*time.Millisecond, reason)
	}
}

// TestDirectTLS: who begins with TLS must name PostgreSQL's protocol; after that SSLRequest is declined, and what comes is as
// at any session.
func TestDirectTLS(t *testing.T) {
	b := start(t, func(c *Config) { c.TLS = shows(t, certtest.NewAuthority(t)) })
	address := hostOf(t, b.url)
	silent := func(conn net.Conn) {
		t.Helper()
		_, err := conn.Read(make([]byte, 1))
		require.Error(t, err)
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	}
	conn, err := shakeHands(t, dialTCP(t, address))
	require.NoError(t, err)
	_, _ = conn.Write(packet(3<<16, "user\x00postgres\x00\x00"))
	silent(conn)
	_, err = shakeHands(t, dialTCP(t, address), "http/1.1")
	require.ErrorContains(t, err, "no application protocol")

	conn, err = shakeHands(t, dialTCP(t, address), "h2", alpn)
	require.NoError(t, err)
	require.Equal(t, alpn, conn.ConnectionState().NegotiatedProtocol)
	answer := make([]byte, 2)
	for i, request := range []uint32{codeSSL, codeGSS} {
		_, err = conn.Write(packet(request, ""))
		require.NoError(t, err)
		_, err = io.ReadFull(conn, answer[i:i+1])
		require.NoError(t, err)
	}
	require.Equal(t, "NN", string(answer))
	_, err = conn.Write(packet(3<<16, "user\x00postgres\x00database\x00none\x00\x00"))
	require.NoError(t, err)
	require.Contains(t, told(t, conn, 0), "FATAL 3D000")
}

// TestTLSByRequest: the protocol may be left out there; nothing is taken that came in the clear; GSSENCRequest does not
// follow; a cancel request may.
func TestTLSByRequest(t *testing.T) {
	b := start(t, func(c *Config) { c.TLS = shows(t, certtest.NewAuthority(t)) })
	address := hostOf(t, b.url)
	require.Equal(t, "E FATAL 08P01 received unencrypted data after SSL request "+errBehindSSLRequest.Detail, func() string {
		conn := dialTCP(t, address)
		_, err := conn.Write(append(packet(codeSSL, ""), packet(3<<16, "user\x00postgres\x00\x00")...))
		require.NoError(t, err)
		return told(t, conn, 0)
	}())
	granted := func(protocols ...string) *tls.Conn {
		conn := dialTCP(t, address)
		_, err := conn.Write(packet(codeSSL, ""))
		require.NoError(t, err)
		answer := make([]byte, 1)
		_, err = io.ReadFull(conn, answer)
		require.NoError(t, err)
		require.Equal(t, "S", string(answer))
		secured, err := shakeHands(t, conn, protocols...)
		require.NoError(t, err)
		return secured
	}
	require.Equal(t, alpn, granted(alpn).ConnectionState().NegotiatedProtocol)
	for _, request := range []uint32{codeSSL, codeGSS} {
		conn := granted()
		_, err := conn.Write(packet(request, ""))
		require.NoError(t, err)
		require.Contains(t, told(t, conn, 0), "E FATAL 0A000 unsupported frontend protocol 1234.56")
	}
	session, err := pgx.Connect(t.Context(), b.with("sslmode=require"))
	require.NoError(t, err)
	defer session.Close(t.Context())
	done := make(chan error, 1)
	go func() { _, err := session.Exec(t.Context(), "select pg_sleep(30)"); done <- err }()
	require.Eventually(t, func() bool {
		for _, conn := range []net.Conn{granted(alpn), dialTCP(t, address)} { // libpq before 17 cancels in the clear
			_, err := conn.Write(packet(codeCancel, string(binary.BigEndian.AppendUint32(nil, session.PgConn().PID()))+string(session.PgConn().SecretKey())))
			require.NoError(t, err)
			_, err = io.ReadAll(conn)
			require.NoError(t, err)
		}
		return len(done) > 0
	}, 10*time.Second, 20*time.Millisecond)
	require.Equal(t, "57014", code(<-done))
}

// TestCancelInTheClear: where TLS is required of sessions, a key is enough to cancel.
func TestCancelInTheClear(t *testing.T) {
	key := []byte("key!")
	up := newFakeUpstream(t, key)
	b := start(t, func(c *Config) {
		c.TLS, c.RequireTLS, c.Upstream = shows(t, certtest.NewAuthority(t)), true, Upstream{Place: Place{Network: "tcp", Address: up.address}}
	})
	conn := dialTCP(t, hostOf(t, b.url))
	want := packet(codeCancel, "\x00\x00\x00\x01key!")
	_, err := conn.Write(want)
	require.NoError(t, err)
	require.Equal(t, want, <-up.canceled)
}
