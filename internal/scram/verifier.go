package scram

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
)

// KeyLen is the length of every key of SCRAM-SHA-256, in bytes.
const KeyLen = sha256.Size

// Key is a ClientKey, StoredKey or ServerKey (RFC 5802, section 3).
type Key [KeyLen]byte

// Verifier is what is stored of a password: enough to check a proof of it, not enough to make one.
type Verifier struct {
	// Salt is in base64, as a challenge has it.
	Salt                 string
	Iterations           int
	StoredKey, ServerKey Key
}

// maxVerifier bounds the text of a verifier; PostgreSQL's own are of 133 bytes.
const maxVerifier = 1024

const verifierPrefix = "SCRAM-SHA-256$"

// ErrNoVerifier is returned for a secret of another kind: md5, or a password as it is.
var ErrNoVerifier = errors.New("secret is not a SCRAM-SHA-256 verifier")

var errBadVerifier = errors.New("secret is a malformed SCRAM-SHA-256 verifier")

// ParseVerifier reads a verifier as pg_authid.rolpassword has it:
// SCRAM-SHA-256$‹iterations›:‹salt›$‹StoredKey›:‹ServerKey›, all but the iterations in base64. Its errors do not repeat it.
func ParseVerifier(text string) (Verifier, error) {
	rest, ok := strings.CutPrefix(text, verifierPrefix)
	if !ok {
		return Verifier{}, ErrNoVerifier
	}
	factors, keys, ok := strings.Cut(rest, "$")
	if !ok || len(text) > maxVerifier {
		return Verifier{}, errBadVerifier
	}
	iterations, salt, ok1 := strings.Cut(factors, ":")
	stored, server, ok2 := strings.Cut(keys, ":")
	v := Verifier{Salt: salt}
	var ok3 bool
	if v.Iterations, ok3 = parseIterations(iterations); !ok1 || !ok2 || !ok3 || !validSalt(salt) {
		return Verifier{}, errBadVerifier
	}
	if !decodeKey(&v.StoredKey, stored) || !decodeKey(&v.ServerKey, server) {
		return Verifier{}, errBadVerifier
	}
	return v, nil
}

// String hides the keys from logs.
func (v Verifier) String() string { return verifierPrefix + "…" }

// GoString hides the keys from logs.
func (v Verifier) GoString() string { return v.String() }

// parseIterations reads a count as PostgreSQL writes it: an int32 above zero, in digits.
func parseIterations(text string) (int, bool) {
	n, err := strconv.ParseInt(text, 10, 32)
	return int(n), err == nil && n > 0 && strconv.FormatInt(n, 10) == text
}

func validSalt(text string) bool {
	salt, err := encoding.DecodeString(text)
	return err == nil && len(salt) > 0
}

// encoding refuses line ends too, which Go's decoder skips by itself: a message has one form.
var encoding = strictEncoding{base64.StdEncoding.Strict()}

type strictEncoding struct{ *base64.Encoding }

func (e strictEncoding) DecodeString(text string) ([]byte, error) {
	if strings.ContainsAny(text, "\r\n") {
		return nil, base64.CorruptInputError(strings.IndexAny(text, "\r\n"))
	}
	return e.Encoding.DecodeString(text)
}

func decodeKey(key *Key, text string) bool {
	decoded, err := encoding.DecodeString(text)
	return err == nil && copy(key[:], decoded) == KeyLen && len(decoded) == KeyLen
}
