package proxy

import (
	"bytes"
	"io"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"barkeep/internal/scram"
)

// FuzzLogin: client and upstream may both send anything, in pieces of any size. Where SCRAM is terminated nobody gets in who does
// not know a key, be it that the upstream says so; and the client's first message of SCRAM never reaches the upstream.
func FuzzLogin(f *testing.F) {
	stream := slices.Concat[[]byte]
	offer := encode(&pgproto3.AuthenticationSASL{AuthMechanisms: []string{scram.Plus, scram.Plain}})
	ok, ready := encode(&pgproto3.AuthenticationOk{}), encode(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	first := encode(&pgproto3.SASLInitialResponse{AuthMechanism: scram.Plain, Data: []byte("n,,n=,r=abc")})
	final := encode(&pgproto3.SASLResponse{Data: []byte("c=biws,r=abc,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")})
	next := encode(&pgproto3.AuthenticationSASLContinue{Data: []byte("r=abc,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096")})
	end := encode(&pgproto3.AuthenticationSASLFinal{Data: []byte("v=AAAA")})
	password := encode(&pgproto3.PasswordMessage{Password: "pencil"})
	refused := encode(&pgproto3.ErrorResponse{Severity: "FATAL", Code: "28P01", Message: "no"})
	f.Add(true, uint16(0), stream(first, final), stream(offer, next, end, ok, ready))
	f.Add(true, uint16(7), stream(first, final), stream(offer, refused))
	f.Add(false, uint16(1), stream(first, final), stream(offer, next, end, ok, ready))
	f.Add(false, uint16(3), password, stream(encode(&pgproto3.AuthenticationMD5Password{}), ok, encode(&pgproto3.BackendKeyData{ProcessID: 1, SecretKey: []byte{1, 2, 3, 4}}), ready))
	f.Add(true, uint16(2), password, stream(encode(&pgproto3.AuthenticationCleartextPassword{}), refused))
	f.Add(true, uint16(5), []byte("p\x00\x00\xff\xff"), stream(offer, refused))
	server := New(Config{Verifiers: forged(forge(f, impostorFactors, clientKey(f, "pencil", impostorFactors)))})
	f.Fuzz(func(t *testing.T, secured bool, piece uint16, client, upstream []byte) {
		var seen, sent bytes.Buffer
		s := newSession(server, &memoryConn{in: pieces{bytes.NewReader(client), int(piece)}, write: func(b []byte) { seen.Write(b) }})
		s.upstream = &memoryConn{in: pieces{bytes.NewReader(upstream), int(piece)}, write: func(b []byte) { sent.Write(b) }}
		s.clientTLS, s.user, s.params, s.place = secured, "alice", map[string]string{}, &Place{Network: "tcp"}
		err := s.authenticate(t.Context())
		if !secured || !bytes.HasPrefix(upstream, offer) {
			return
		}
		require.Error(t, err)
		if bytes.HasPrefix(client, first) {
			require.NotContains(t, sent.String(), "n,,n=,r=abc")
		}
		require.LessOrEqual(t, sent.Len(), 4*scram.MaxMessage)
		require.LessOrEqual(t, seen.Len(), len(upstream)+4*scram.MaxMessage)
	})
}

// pieces reads at most so many bytes at once; zero does not bound it.
type pieces struct {
	io.Reader
	most int
}

func (p pieces) Read(b []byte) (int, error) {
	if p.most > 0 && len(b) > p.most {
		b = b[:p.most]
	}
	return p.Reader.Read(b)
}
