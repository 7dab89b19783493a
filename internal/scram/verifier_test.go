package scram_test

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/internal/scram"
)

func mac(key []byte, text string) (out scram.Key) {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	h.Sum(out[:0])
	return out
}

// keys are those of a password.
func keys(t *testing.T, password, salt string, iterations int) (client, stored, server scram.Key) {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(salt)
	require.NoError(t, err)
	salted, err := pbkdf2.Key(sha256.New, password, raw, iterations, scram.KeyLen)
	require.NoError(t, err)
	client = mac(salted, "Client Key")
	return client, sha256.Sum256(client[:]), mac(salted, "Server Key")
}

// stored is the verifier of a password, as PostgreSQL keeps it.
func stored(t *testing.T, password, salt string, iterations int) string {
	t.Helper()
	_, storedKey, serverKey := keys(t, password, salt, iterations)
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", iterations, salt,
		base64.StdEncoding.EncodeToString(storedKey[:]), base64.StdEncoding.EncodeToString(serverKey[:]))
}

func TestParseVerifier(t *testing.T) {
	t.Parallel()
	const salt = "W22ZaJ0SNY7soEsUEjb6gQ=="
	good := stored(t, "pencil", salt, 4096)
	v, err := scram.ParseVerifier(good)
	require.NoError(t, err)
	_, storedKey, serverKey := keys(t, "pencil", salt, 4096)
	require.Equal(t, scram.Verifier{Salt: salt, Iterations: 4096, StoredKey: storedKey, ServerKey: serverKey}, v)
	require.NotContains(t, fmt.Sprintf("%v %+v %#v %s", v, v, v, v), base64.StdEncoding.EncodeToString(storedKey[:]))

	for _, kind := range []string{"", "md5" + strings.Repeat("0", 32), "pencil", "scram-sha-256$4096:"} {
		_, err := scram.ParseVerifier(kind)
		require.ErrorIs(t, err, scram.ErrNoVerifier, kind)
	}
	for name, bad := range map[string]string{
		"no keys":             "SCRAM-SHA-256$4096:" + salt,
		"no salt":             strings.Replace(good, ":"+salt, "", 1),
		"empty salt":          strings.Replace(good, salt, "", 1),
		"salt not base64":     strings.Replace(good, salt, "!!!!", 1),
		"line end":            strings.Replace(good, salt, salt[:8]+"\n"+salt[8:], 1),
		"zero iterations":     strings.Replace(good, "4096", "0", 1),
		"negative iterations": strings.Replace(good, "4096", "-1", 1),
		"signed iterations":   strings.Replace(good, "4096", "+1", 1),
		"many iterations":     strings.Replace(good, "4096", "2147483648", 1),
		"short key":           good[:len(good)-8],
		"long key":            good[:len(good)-1] + "AAAA=",
		"one key":             good[:strings.LastIndex(good, ":")],
		"another key":         good + ":" + good[len(good)-44:],
		"too long":            strings.Replace(good, salt, strings.Repeat("AAAA", 300), 1),
	} {
		_, err := scram.ParseVerifier(bad)
		require.Error(t, err, name)
		require.NotErrorIs(t, err, scram.ErrNoVerifier, name)
		require.NotContains(t, err.Error(), salt, name)
	}
}

func FuzzParseVerifier(f *testing.F) {
	f.Add("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=")
	f.Fuzz(func(t *testing.T, text string) {
		v, err := scram.ParseVerifier(text)
		if err != nil {
			return
		}
		require.Equal(t, text, fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", v.Iterations, v.Salt,
			base64.StdEncoding.EncodeToString(v.StoredKey[:]), base64.StdEncoding.EncodeToString(v.ServerKey[:])), "a verifier has one form")
	})
}
