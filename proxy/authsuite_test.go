package proxy

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestAuthSuiteOfPGX is what of pgx's own suite is about connecting, on TLS with channel binding, and its tests of the ways to log in
// by each of them: straight and through barkeep, the same result of every test. The client's certificate is asked for by a barkeep
// that demands one of every session.
func TestAuthSuiteOfPGX(t *testing.T) {
	u := startAuthUpstream(t)
	_, err := u.pool.Exec(t.Context(), "alter role scrammed superuser")
	require.NoError(t, err)
	through := u.open(t, u.leg("TLS"), nil, nil)
	strict := u.open(t, u.leg("TLS"), func(c *Config) { asksClients(t, c, u.ca) }, nil)
	straight, proxied := u.pgconnSuite(t, u.address, u.address), u.pgconnSuite(t, through.address, strict.address)
	require.Len(t, proxied, len(straight))
	passed := 0
	for name, result := range straight {
		require.Equal(t, result, proxied[name], name)
		if result == "pass" {
			passed++
		}
	}
	require.Greater(t, passed, 15)
	for _, name := range []string{
		"TestConnect/TCP", "TestConnect/Plain_password", "TestConnect/MD5_password", "TestConnect/SCRAM_password",
		"TestConnectTLS/WithChannelBinding", "TestConnectTLS/WithoutChannelBinding",
		"TestConnectTLSPasswordProtectedClientCertWithSSLPassword", "TestConnectTLSPasswordProtectedClientCertWithGetSSLPasswordConfigOption",
	} {
		require.Equal(t, "pass", proxied[name], name)
	}
}

// lockedKey writes a key's file anew, encrypted with a password in the only form that pgx reads.
func lockedKey(t *testing.T, keyFile, password string) {
	t.Helper()
	text, err := os.ReadFile(keyFile)
	require.NoError(t, err)
	block, _ := pem.Decode(text)
	require.NotNil(t, block)
	locked, err := x509.EncryptPEMBlock(rand.Reader, block.Type, block.Bytes, []byte(password), x509.PEMCipherAES256) //nolint:staticcheck // no other form is read
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(keyFile, pem.EncodeToMemory(locked), 0o600))
}

// pgconnSuite returns the result of each test of the suite; who shows a certificate does so at the second address.
func (u *authUpstream) pgconnSuite(t *testing.T, address, strict string) map[string]string {
	t.Helper()
	const encrypted, bound, password = "sslmode=verify-full", "channel_binding=require", "pencil-of-the-key"
	cert, key := u.ca.Issue(t, "scrammed")
	lockedKey(t, key, password)
	host, port, err := net.SplitHostPort(strict)
	require.NoError(t, err)
	certified := fmt.Sprintf("host=%s port=%s user=scrammed password='pencil of scrammed' dbname=%s %s sslrootcert=%s sslcert=%s sslkey=%s",
		host, port, u.database, encrypted, u.ca.File, cert, key)
	cmd := exec.CommandContext(t.Context(), "go", "test", "-json", "-count=1", "-run=^TestConnect", "github.com/jackc/pgx/v5/pgconn")
	cmd.Env = append(os.Environ(),
		"PGX_TEST_DATABASE="+u.url(address, "scrammed", encrypted),
		"PGX_TEST_TCP_CONN_STRING="+u.url(address, "scrammed", "sslmode=disable"),
		"PGX_TEST_PLAIN_PASSWORD_CONN_STRING="+u.url(address, "cleared", "sslmode=disable"),
		"PGX_TEST_MD5_PASSWORD_CONN_STRING="+u.url(address, "hashed", "sslmode=disable"),
		"PGX_TEST_SCRAM_PASSWORD_CONN_STRING="+u.url(address, "scrammed", "sslmode=disable", "channel_binding=disable"),
		"PGX_TEST_SCRAM_PLUS_CONN_STRING="+u.url(address, "scrammed", encrypted, bound),
		"PGX_TEST_TLS_CONN_STRING="+u.url(address, "scrammed", encrypted, "channel_binding=disable"),
		"PGX_TEST_TLS_CLIENT_CONN_STRING="+certified, "PGX_SSL_PASSWORD="+password,
	)
	out, err := cmd.Output() // a test that fails is in the results
	require.NotEmpty(t, out, "%v", err)
	results := map[string]string{}
	failed := map[string]*strings.Builder{}
	for line := range strings.Lines(string(out)) {
		var event struct{ Action, Test, Output string }
		require.NoError(t, json.Unmarshal([]byte(line), &event))
		switch {
		case event.Test == "":
		case event.Action == "pass", event.Action == "fail", event.Action == "skip":
			results[event.Test] = event.Action
			if event.Action == "fail" && failed[event.Test] != nil {
				t.Logf("%s:\n%s", event.Test, failed[event.Test])
			}
		case event.Action == "output":
			if failed[event.Test] == nil {
				failed[event.Test] = &strings.Builder{}
			}
			failed[event.Test].WriteString(event.Output)
		}
	}
	return results
}
