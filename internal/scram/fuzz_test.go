package scram

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzServer: a client may send anything; nobody gets in without the proof, what was taken in reads as it was sent, and an
// error is one that PostgreSQL has.
func FuzzServer(f *testing.F) {
	f.Add(false, false, []byte("n,,n=,r=abc"), []byte("c=biws,r=*,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="))
	f.Add(true, true, []byte("p=tls-server-end-point,,n=,r=abc,x=y"), []byte("c=biws,r=*,x=y,p=AAAA"))
	f.Add(false, true, []byte("y,,n=,r="), []byte("p="))
	f.Add(false, false, []byte("n,a=b,m=1"), []byte(",,,"))
	_, v := derive(f, "pencil", factors)
	f.Fuzz(func(t *testing.T, plus, bound bool, first, final []byte) {
		var binding []byte
		if bound {
			binding = []byte("hash")
		}
		s, err := NewServer(map[bool]string{true: Plus, false: Plain}[plus], binding)
		if plus && !bound {
			require.Error(t, err)
			return
		}
		require.NoError(t, err)
		if err := s.First(first); err != nil {
			checkError(t, err)
			return
		}
		require.True(t, strings.HasSuffix(string(first), ","+s.firstBare), "what is signed is what was sent")
		require.NotContains(t, string(first), "\x00")
		sent := s.nonce
		challenge := string(s.Challenge(factors))
		require.True(t, strings.HasPrefix(challenge, "r="+sent))
		// A star stands for the nonce, which no fuzzer guesses.
		final = []byte(strings.Replace(string(final), "*", s.nonce, 1))
		if err := s.Final(final); err != nil {
			checkError(t, err)
			return
		}
		require.True(t, strings.HasPrefix(string(final), s.finalBare+",p="))
		require.Contains(t, s.finalBare, ",r="+s.nonce)
		_, ok := s.ClientKey(&v)
		require.False(t, ok)
		_, ok = s.ClientKey(&Verifier{})
		require.False(t, ok, "nor against no verifier")
	})
}

func checkError(t *testing.T, err error) {
	t.Helper()
	var own *Error
	require.ErrorAs(t, err, &own)
	require.Contains(t, []string{"08P01", "0A000", "28000"}, own.SQLState())
	require.NotEmpty(t, own.Message)
}

// FuzzClient: a server that does not know the password gets nothing accepted.
func FuzzClient(f *testing.F) {
	f.Add([]byte("r=*x,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"), []byte("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="))
	f.Add([]byte("r=*,s=,i=-1"), []byte("e=other-error"))
	key, v := derive(f, "pencil", factors)
	f.Fuzz(func(t *testing.T, challenge, final []byte) {
		c, err := NewClient([]string{Plain, Plus}, []byte("hash"))
		require.NoError(t, err)
		own := c.nonce
		got, err := c.Challenge([]byte(strings.Replace(string(challenge), "*", own, 1)))
		if err != nil {
			return
		}
		require.True(t, strings.HasPrefix(c.nonce, own))
		require.Greater(t, len(c.nonce), len(own))
		require.Positive(t, got.Iterations)
		require.Contains(t, string(c.Final(key)), ",r="+c.nonce+",p=")
		require.Error(t, c.Verify(final, &v))
	})
}
