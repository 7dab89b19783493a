package proxy

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/internal/pgtest"
)

// proofTypes are the messages of the manual's "Message Formats" that authentication takes, but those of Kerberos, GSSAPI and SSPI:
// barkeep refuses what asks for them.
var proofTypes = []string{
	"PasswordMessage>", "SASLInitialResponse>", "SASLResponse>",
	"<R CleartextPassword", "<R MD5Password", "<R SASL", "<R SASLContinue", "<R SASLFinal", "<R Ok",
}

// TestAuthTranscripts is TestTranscripts for the messages of authentication, which take a PostgreSQL of their own.
func TestAuthTranscripts(t *testing.T) {
	u := startAuthUpstream(t)
	through := u.open(t, u.leg("plaintext"), nil, nil)
	script, err := os.ReadFile("../testdata/pgwire/auth/relayed.txt")
	require.NoError(t, err)
	play := func(name, address string) *pgtest.Record {
		record, err := pgtest.Play(t.Context(), pgtest.Peer{Name: name, URL: u.url(address, "trusted", "sslmode=disable")}, string(script))
		require.NoError(t, err)
		return record
	}
	direct := play("postgres", u.address)
	require.NoError(t, pgtest.Compare(string(script), direct, play("barkeep", through.address)))
	for _, on := range ways[1:3] {
		require.NoError(t, pgtest.Compare(string(script), direct, play("barkeep", rechunk(t, through.address, on))), on.name)
	}
	for _, each := range proofTypes {
		require.True(t, direct.Types[each], each)
	}
}
