package scram

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"strings"
)

// Factors are what the ClientKey was made with, beside the password.
type Factors struct {
	// Salt is in base64.
	Salt       string
	Iterations int
}

// Factors returns those of the verifier.
func (v Verifier) Factors() Factors { return Factors{v.Salt, v.Iterations} }

// Client is the client's side of one exchange: First, Challenge, Final, Verify. It is not safe for concurrent use.
type Client struct {
	header, bound string // gs2-header, and cbind-input
	plus          bool

	firstBare, nonce, challenge, finalBare string
}

// NewClient begins an exchange with a server that offers these mechanisms, by the channel binding of its certificate, or by
// none where that is nil or not offered. ErrNoMechanism says that it offers nothing known.
func NewClient(offered []string, binding []byte) (*Client, error) {
	known := map[string]bool{}
	for _, name := range offered {
		known[name] = true
	}
	c := &Client{header: "n,,"}
	switch {
	case binding != nil && known[Plus]:
		c.plus, c.header = true, "p="+bindingType+",,"
	case !known[Plain]:
		return nil, ErrNoMechanism
	case binding != nil:
		c.header = "y,,"
	}
	c.bound = c.header
	if c.plus {
		c.bound += string(binding)
	}
	c.nonce = newNonce()
	c.firstBare = "n=,r=" + c.nonce
	return c, nil
}

// ErrNoMechanism is returned where the server offers no SCRAM-SHA-256.
var ErrNoMechanism = errors.New("the server offers no SCRAM-SHA-256")

// Mechanism is the one that First is sent with.
func (c *Client) Mechanism() string {
	if c.plus {
		return Plus
	}
	return Plain
}

// Bound reports whether the exchange is bound to the channel.
func (c *Client) Bound() bool { return c.plus }

// First returns the client-first-message. The name in it is empty: PostgreSQL takes the StartupMessage's.
func (c *Client) First() []byte { return []byte(c.header + c.firstBare) }

// Challenge reads the server-first-message and returns what the server has of the password's factors.
func (c *Client) Challenge(message []byte) (Factors, error) {
	r, err := newReader(message)
	if err != nil {
		return Factors{}, errBadChallenge
	}
	nonce, err1 := r.value('r')
	salt, err2 := r.value('s')
	count, err3 := r.value('i')
	iterations, ok := parseIterations(count)
	if err1 != nil || err2 != nil || err3 != nil || !ok || !validSalt(salt) {
		return Factors{}, errBadChallenge
	}
	if !strings.HasPrefix(nonce, c.nonce) || len(nonce) == len(c.nonce) {
		return Factors{}, errors.New("the server's nonce does not begin with ours")
	}
	c.nonce, c.challenge = nonce, string(message)
	return Factors{salt, iterations}, nil
}

var errBadChallenge = errors.New("malformed challenge from the server")

// Final returns the client-final-message: the proof of having the key.
func (c *Client) Final(key Key) []byte {
	c.finalBare = fmt.Sprintf("c=%s,r=%s", encoding.EncodeToString([]byte(c.bound)), c.nonce)
	signature := sign(sha256.Sum256(key[:]), c.firstBare, c.challenge, c.finalBare)
	var proof Key
	subtle.XORBytes(proof[:], key[:], signature[:])
	return []byte(c.finalBare + ",p=" + encoding.EncodeToString(proof[:]))
}

// Verify reads the server-final-message. An error says that the server does not know the password either.
func (c *Client) Verify(message []byte, v *Verifier) error {
	text, ok := strings.CutPrefix(string(message), "v=")
	var got Key
	if !ok || !decodeKey(&got, text) {
		return errors.New("malformed signature from the server")
	}
	want := sign(v.ServerKey, c.firstBare, c.challenge, c.finalBare)
	if !hmac.Equal(got[:], want[:]) {
		return errors.New("wrong signature from the server")
	}
	return nil
}
