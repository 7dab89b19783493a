package scram

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// derive returns the keys of a password.
func derive(tb testing.TB, password string, f Factors) (client Key, v Verifier) {
	tb.Helper()
	salt, err := encoding.DecodeString(f.Salt)
	require.NoError(tb, err)
	salted, err := pbkdf2.Key(sha256.New, password, salt, f.Iterations, KeyLen)
	require.NoError(tb, err)
	mac := func(text string) (out Key) {
		h := hmac.New(sha256.New, salted)
		h.Write([]byte(text))
		h.Sum(out[:0])
		return out
	}
	client = mac("Client Key")
	return client, Verifier{Salt: f.Salt, Iterations: f.Iterations, StoredKey: sha256.Sum256(client[:]), ServerKey: mac("Server Key")}
}

var factors = Factors{"W22ZaJ0SNY7soEsUEjb6gQ==", 4096}

// TestRFC7677 is the example of section 3: both sides make its proof and its signature.
func TestRFC7677(t *testing.T) {
	t.Parallel()
	key, v := derive(t, "pencil", factors)
	c, err := NewClient([]string{Plain}, nil)
	require.NoError(t, err)
	c.firstBare, c.nonce = "n=user,r=rOprNGfwEbeRWgbNEkqO", "rOprNGfwEbeRWgbNEkqO"
	const challenge = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
	got, err := c.Challenge([]byte(challenge))
	require.NoError(t, err)
	require.Equal(t, factors, got)
	const final = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
	require.Equal(t, final, string(c.Final(key)))

	s, err := NewServer(Plain, nil)
	require.NoError(t, err)
	require.NoError(t, s.First([]byte("n,,n=user,r=rOprNGfwEbeRWgbNEkqO")))
	s.nonce, s.challenge = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0", challenge
	require.NoError(t, s.Final([]byte(final)))
	recovered, ok := s.ClientKey(&v)
	require.True(t, ok)
	require.Equal(t, key, recovered)
	const signature = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
	require.Equal(t, signature, string(s.Signature(&v)))
	require.NoError(t, c.Verify([]byte(signature), &v))
	require.Error(t, c.Verify([]byte("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5="), &v))
	require.Error(t, c.Verify([]byte("e=other-error"), &v))
}

// TestThrough is the exchange of one in the middle: a client with a password, us as its server, us as a client with the key that
// we recovered, a server.
func TestThrough(t *testing.T) {
	t.Parallel()
	ours, theirs := []byte("our certificate"), []byte("the upstream's certificate")
	for name, each := range map[string]struct {
		client, server []byte // what the two ends bind to
		ours, theirs   []byte // and what we show and see
		password       string
		fails          string
	}{
		"no binding":        {nil, nil, nil, nil, "pencil", ""},
		"bound to us":       {ours, nil, ours, nil, "pencil", ""},
		"bound to both":     {ours, theirs, ours, theirs, "pencil", ""},
		"bound upstream":    {nil, theirs, nil, theirs, "pencil", ""},
		"wrong password":    {ours, theirs, ours, theirs, "pen", "proof"},
		"another is shown":  {[]byte("Mallory's"), nil, ours, nil, "pencil", "SCRAM channel binding check failed"},
		"another answers":   {nil, theirs, nil, []byte("Mallory's"), "pencil", "SCRAM channel binding check failed"},
		"offer was cut off": {nil, theirs, nil, []byte("cut"), "pencil", "SCRAM channel binding negotiation error: The client supports SCRAM channel binding but thinks the server does not.  However, this server does support channel binding."},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, v := derive(t, "pencil", factors)
			err := through(t, each.password, &v, each.client, each.ours, each.theirs, each.server)
			if each.fails == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, each.fails)
		})
	}
}

func through(t *testing.T, password string, v *Verifier, client, ours, theirs, server []byte) error {
	t.Helper()
	offer := Mechanisms(server)
	if string(theirs) == "cut" {
		offer = []string{Plain}
	}
	user, err := NewClient(Mechanisms(ours), client)
	require.NoError(t, err)
	down, err := NewServer(user.Mechanism(), ours)
	require.NoError(t, err)
	up, err := NewClient(offer, theirs)
	require.NoError(t, err)
	upstream, err := NewServer(up.Mechanism(), server)
	require.NoError(t, err)
	require.Equal(t, up.Bound(), upstream.Bound())

	if err := errors.Join(down.First(user.First()), upstream.First(up.First())); err != nil {
		return err
	}
	f, err := up.Challenge(upstream.Challenge(v.Factors()))
	require.NoError(t, err)
	f, err = user.Challenge(down.Challenge(f))
	require.NoError(t, err)
	key, _ := derive(t, password, f)
	if err := down.Final(user.Final(key)); err != nil {
		return err
	}
	recovered, ok := down.ClientKey(v)
	if !ok {
		return errors.New("the proof does not hold")
	}
	if err := upstream.Final(up.Final(recovered)); err != nil {
		return err
	}
	_, ok = upstream.ClientKey(v)
	require.True(t, ok)
	require.NoError(t, up.Verify(upstream.Signature(v), v))
	require.NoError(t, user.Verify(down.Signature(v), v))
	return nil
}

func TestChallengeRefusesAnotherServer(t *testing.T) {
	t.Parallel()
	for _, offered := range [][]string{nil, {"OAUTHBEARER"}, {Plus}} {
		_, err := NewClient(offered, nil)
		require.ErrorIs(t, err, ErrNoMechanism)
	}
	c, err := NewClient([]string{Plain, Plus}, nil)
	require.NoError(t, err)
	require.Equal(t, "n,,n=,r="+c.nonce, string(c.First()))
	long := strings.Repeat("A", 64)
	for name, message := range map[string]string{
		"empty": "", "nothing": "r=,s=,i=", "not ours": "r=" + long + ",s=AAAA,i=1", "only ours": "r=" + c.nonce + ",s=AAAA,i=1",
		"no salt": "r=" + c.nonce + "x,i=1", "bad salt": "r=" + c.nonce + "x,s=!,i=1", "no count": "r=" + c.nonce + "x,s=AAAA",
		"zero": "r=" + c.nonce + "x,s=AAAA,i=0", "huge": "r=" + c.nonce + "x,s=AAAA,i=99999999999999999999", "zero byte": "r=" + c.nonce + "x,s=AAAA,i=1\x00",
	} {
		_, err := c.Challenge([]byte(message))
		require.Error(t, err, name)
	}
	f, err := c.Challenge([]byte("r=" + c.nonce + "x,s=AAAA,i=2147483647"))
	require.NoError(t, err, "the number costs nothing here")
	require.Equal(t, Factors{"AAAA", 2147483647}, f)
}

func TestBinding(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	sign := func(algorithm x509.SignatureAlgorithm, with crypto.Signer) *x509.Certificate {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), SignatureAlgorithm: algorithm}
		der, err := x509.CreateCertificate(rand.Reader, template, template, with.Public(), with)
		require.NoError(t, err)
		certificate, err := x509.ParseCertificate(der)
		require.NoError(t, err)
		return certificate
	}
	for algorithm, size := range map[x509.SignatureAlgorithm]int{x509.ECDSAWithSHA256: 32, x509.ECDSAWithSHA384: 48, x509.ECDSAWithSHA512: 64} {
		require.Len(t, Binding(sign(algorithm, key)), size)
	}
	require.Nil(t, Binding(sign(x509.PureEd25519, edKey)))
	require.Len(t, Binding(&x509.Certificate{SignatureAlgorithm: x509.SHA1WithRSA}), 32)
}
