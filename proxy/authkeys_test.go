package proxy

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"barkeep/internal/scram"
	"barkeep/internal/verifier"
)

// abroad are connections from another machine.
type abroad struct{ net.Listener }

func (l abroad) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return away{conn}, nil
}

type away struct{ net.Conn }

func (away) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 4711} }

// TestAuthTrustIsNoProof: what the upstream trusts is barkeep, and a client from elsewhere is not.
func TestAuthTrustIsNoProof(t *testing.T) {
	u := startAuthUpstream(t)
	elsewhere := func(l net.Listener) net.Listener { return abroad{l} }
	for _, leg := range upstreamLegs {
		shut, open := u.open(t, u.leg(leg), nil, elsewhere), u.open(t, u.leg(leg), func(c *Config) { c.AllowTrust = true }, elsewhere)
		for clientLeg, settings := range clientLegs {
			for _, m := range methods[:4] {
				name := fmt.Sprintf("%s to %s, %s", clientLeg, leg, m.name)
				got := byPGX(t, u.url(shut.address, m.user, settings...))
				if m.name == "trust" {
					require.Contains(t, got.failure, errNoProof.Message, name)
				} else {
					require.Equal(t, outcome{m.user, ""}, got, name)
				}
				require.Equal(t, outcome{m.user, ""}, byPGX(t, u.url(open.address, m.user, settings...)), name)
			}
		}
	}
}

// TestAuthOurCertificateIsNoProof: pg_hba.conf's cert lets barkeep in, whoever is behind it.
func TestAuthOurCertificateIsNoProof(t *testing.T) {
	u := startAuthUpstream(t)
	up := u.leg("TLS")
	up.TLS.Certificates = []tls.Certificate{u.ca.Pair(t, "certified")}
	through := u.open(t, up, nil, nil)
	for _, settings := range clientLegs {
		for _, user := range []string{"certified", "trusted"} {
			got := byPGX(t, u.url(through.address, user, settings...))
			require.Contains(t, got.failure, errOurCertificate.Message, user)
			require.Contains(t, got.failure, "28000")
		}
		require.Equal(t, outcome{"scrammed", ""}, byPGX(t, u.url(through.address, "scrammed", settings...)), "a second factor is one")
	}
}

// TestAuthMethods: what cannot be relayed is named.
func TestAuthMethods(t *testing.T) {
	u := startAuthUpstream(t)
	for _, leg := range []string{"plaintext", "TLS"} {
		through := u.open(t, u.leg(leg), nil, nil)
		for _, settings := range clientLegs {
			got := byPGX(t, u.url(through.address, "gsser", settings...))
			require.Contains(t, got.failure, "the database asks for authentication by GSSAPI, which barkeep cannot relay (SQLSTATE 28000)")
		}
	}
	require.Contains(t, errMethod(authSSPI).Message, "by SSPI")
	require.Contains(t, errMethod(authKerberos).Message, "by Kerberos")
	require.Contains(t, errMethod(99).Message, "a method of number 99")
}

// TestAuthUsersFile: a file of verifiers is as good as the database's function, while its verifiers are the database's.
func TestAuthUsersFile(t *testing.T) {
	u := startAuthUpstream(t)
	path := filepath.Join(t.TempDir(), "users.txt")
	write := func(secret string) {
		require.NoError(t, os.WriteFile(path, []byte(`"scrammed" "`+secret+`"`), 0o600))
	}
	var secret, other string
	const read = "select secret from barkeep.verifier($1)"
	require.NoError(t, u.pool.QueryRow(t.Context(), read, "scrammed").Scan(&secret))
	require.NoError(t, u.pool.QueryRow(t.Context(), read, "barred").Scan(&other))
	through := u.open(t, u.leg("TLS"), func(c *Config) { c.Verifiers = verifier.File(path) }, nil)
	address := u.url(through.address, "scrammed", "sslmode=verify-full", "channel_binding=require")

	write(secret)
	require.Equal(t, outcome{"scrammed", ""}, byPGX(t, address))
	require.Equal(t, outcome{"scrammed", ""}, byPSQL(t, address))
	write(other)
	require.Contains(t, byPGX(t, address).failure, "28P01")
	require.Contains(t, through.logs.String(), "its verifier is not the database's")
	write("hush")
	over := u.open(t, u.leg("unix"), func(c *Config) { c.Verifiers = verifier.File(path) }, nil)
	for _, binding := range bindings { // also where SCRAM could be relayed: nobody is let in by less
		for _, door := range []*door{through, over} {
			require.Contains(t, byPGX(t, u.url(door.address, "scrammed", "sslmode=verify-full", "channel_binding="+binding)).failure, errNoVerifiers.Message, binding)
			require.Contains(t, door.logs.String(), `level=WARN msg="verifier not read"`)
			require.NotContains(t, door.logs.String(), "hush")
		}
	}
	write(secret)
	require.Contains(t, byPGX(t, u.url(through.address, "barred", "sslmode=verify-full")).failure, "28P01")
	require.Contains(t, through.logs.String(), "auth.users_file has no such user")
	write(secret)
	require.Equal(t, outcome{"scrammed", ""}, byPGX(t, address), "it is read at each login")

	// One who has the salt right and the keys wrong: a file that somebody else wrote.
	v, err := scram.ParseVerifier(secret)
	require.NoError(t, err)
	key := clientKey(t, "pencil of Mallory", v.Factors())
	write(forge(t, v.Factors(), key))
	mallory := strings.Replace(address, "pencil%20of%20scrammed", "pencil%20of%20Mallory", 1)
	require.NotEqual(t, address, mallory)
	require.Contains(t, byPGX(t, mallory).failure, "28P01", "the database has the last word")
}

// TestAuthChangedPassword: a password that was changed is the one at the next login, and the old one is none any more.
func TestAuthChangedPassword(t *testing.T) {
	u := startAuthUpstream(t)
	through := u.open(t, u.leg("TLS"), nil, nil)
	address := u.url(through.address, "changing", "sslmode=verify-full", "channel_binding=require")
	for _, password := range []string{"pencil of changing", "another", "pencil of changing"} {
		_, err := u.pool.Exec(t.Context(), "set password_encryption = 'scram-sha-256'; alter role changing password '"+password+"'")
		require.NoError(t, err)
		got := byPGX(t, address)
		if password == "another" {
			require.Contains(t, got.failure, "28P01")
		} else {
			require.Equal(t, outcome{"changing", ""}, got)
		}
	}
	_, err := u.pool.Exec(t.Context(), "alter role changing valid until 'yesterday'")
	require.NoError(t, err)
	require.Contains(t, byPGX(t, address).failure, "28P01")
}

// TestAuthVerifiersOutOfReach: for the moment they cannot be read, which is no reason to do with less.
func TestAuthVerifiersOutOfReach(t *testing.T) {
	u := startAuthUpstream(t)
	through := u.open(t, u.leg("TLS"), nil, nil)
	u.pool.Close()
	for _, binding := range bindings {
		got := byPGX(t, u.url(through.address, "scrammed", "sslmode=verify-full", "channel_binding="+binding))
		require.Contains(t, got.failure, errNoVerifiers.Message)
		require.Contains(t, got.failure, "57P03")
	}
	require.Equal(t, outcome{"scrammed", ""}, byPGX(t, u.url(through.address, "scrammed", "sslmode=disable")), "who needs none gets in")
}

// TestAuthCertificates: an exchange is bound to the certificate that this client was shown, whichever that is, and to none where
// there is nothing to bind to.
func TestAuthCertificates(t *testing.T) {
	u := startAuthUpstream(t)
	one, two := u.ca.Pair(t, "one"), u.ca.Pair(t, "two")
	edwards := u.edwards(t)
	turn := 0
	for name, config := range map[string]*tls.Config{
		"several": {Certificates: []tls.Certificate{one, two}},
		"chosen for each": {GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			turn++
			return []*tls.Certificate{&one, &two}[turn%2], nil
		}},
		"configured for each": {GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			turn++
			return &tls.Config{Certificates: [][]tls.Certificate{{one}, {two}}[turn%2]}, nil
		}},
		"configured for none":  {Certificates: []tls.Certificate{one}, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, nil }},
		"chosen for no name":   {Certificates: []tls.Certificate{one}, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil }},
		"nothing to bind with": {Certificates: []tls.Certificate{edwards}},
	} {
		config.MinVersion = tls.VersionTLS12
		through := u.open(t, u.leg("TLS"), func(c *Config) { c.TLS = config }, nil)
		for range 3 {
			for _, binding := range bindings {
				got := byPGX(t, u.url(through.address, "scrammed", "sslmode=verify-full", "channel_binding="+binding))
				if name == "nothing to bind with" && binding == "require" {
					require.Contains(t, got.failure, "channel binding required", name)
					continue
				}
				require.Equal(t, outcome{"scrammed", ""}, got, "%s, %s", name, binding)
			}
		}
	}
}

// edwards is a certificate by Ed25519, for which RFC 5929 defines no channel binding.
func (u *authUpstream) edwards(t *testing.T) tls.Certificate {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	require.NoError(t, err)
	file, err := os.ReadFile(u.ca.File)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(u.ca.File, append(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...), 0o600))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestAuthImpostor: an upstream that does not know the password cannot pass for the database, though it lets everybody in.
func TestAuthImpostor(t *testing.T) {
	u := startAuthUpstream(t)
	impostor := newImpostor(t)
	through := u.open(t, Upstream{Place: Place{Network: "tcp", Address: impostor}}, func(c *Config) {
		c.Verifiers = forged(forge(t, impostorFactors, clientKey(t, "pencil of scrammed", impostorFactors)))
	}, nil)
	got := byPGX(t, u.url(through.address, "scrammed", "sslmode=verify-full"))
	require.Contains(t, got.failure, errImpostor.Message)
}

// forge is the verifier of a ClientKey.
func forge(tb testing.TB, f scram.Factors, key scram.Key) string {
	tb.Helper()
	stored := sha256.Sum256(key[:])
	text := fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", f.Iterations, f.Salt,
		base64.StdEncoding.EncodeToString(stored[:]), base64.StdEncoding.EncodeToString(make([]byte, scram.KeyLen)))
	_, err := scram.ParseVerifier(text)
	require.NoError(tb, err)
	return text
}

// forged are verifiers of one password for everybody.
type forged string

// Secret implements Verifiers.
func (f forged) Secret(context.Context, string) (verifier.Secret, error) {
	v, err := scram.ParseVerifier(string(f))
	return verifier.Secret{Verifier: v}, err
}

var impostorFactors = scram.Factors{Salt: "W22ZaJ0SNY7soEsUEjb6gQ==", Iterations: 4096}

// newImpostor is a server that takes any proof, and has none of its own.
func newImpostor(t *testing.T) string {
	t.Helper()
	return accepting(t, impostor)
}

func impostor(conn net.Conn) {
	if _, err := readStartup(conn); err != nil {
		return
	}
	_, _ = conn.Write(encode(&pgproto3.AuthenticationSASL{AuthMechanisms: []string{scram.Plain}}))
	backend := pgproto3.NewBackend(conn, conn)
	if backend.SetAuthType(pgproto3.AuthTypeSASL) != nil {
		return
	}
	message, err := backend.Receive()
	first, ok := message.(*pgproto3.SASLInitialResponse)
	if err != nil || !ok {
		return
	}
	down, err := scram.NewServer(scram.Plain, nil)
	if err != nil || down.First(first.Data) != nil {
		return
	}
	_, _ = conn.Write(encode(&pgproto3.AuthenticationSASLContinue{Data: down.Challenge(impostorFactors)}))
	if backend.SetAuthType(pgproto3.AuthTypeSASLContinue) != nil {
		return
	}
	if _, err := backend.Receive(); err != nil {
		return
	}
	signature := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, scram.KeyLen))
	_, _ = conn.Write(encode(&pgproto3.AuthenticationSASLFinal{Data: []byte("v=" + signature)}))
	_, _ = conn.Write(encode(&pgproto3.AuthenticationOk{}))
	_, _ = io.Copy(io.Discard, conn)
}
