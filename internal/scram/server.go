package scram

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgerrcode"
)

// The mechanisms (RFC 7677).
const (
	Plain = "SCRAM-SHA-256"
	Plus  = "SCRAM-SHA-256-PLUS"
)

// MaxMessage bounds a message, in bytes: PostgreSQL's PG_MAX_SASL_MESSAGE_LENGTH.
const MaxMessage = 1024

// bindingType is the one kind of channel binding that PostgreSQL knows (RFC 5929, section 4).
const bindingType = "tls-server-end-point"

// Error is what a client is told of a message that cannot be, in PostgreSQL's words.
type Error struct{ Code, Message, Detail string }

// Error returns the message with its detail.
func (e *Error) Error() string { return strings.TrimSuffix(e.Message+": "+e.Detail, ": ") }

// SQLState returns the error's SQLSTATE.
func (e *Error) SQLState() string { return e.Code }

func malformed(format string, args ...any) *Error {
	return &Error{pgerrcode.ProtocolViolation, "malformed SCRAM message", fmt.Sprintf(format, args...)}
}

// Mechanisms returns what is offered to a client; binding is nil where its channel cannot be bound to.
func Mechanisms(binding []byte) []string {
	if binding == nil {
		return []string{Plain}
	}
	return []string{Plus, Plain}
}

// Server is the server's side of one exchange: First, Challenge, Final, and then ClientKey. It is not safe for concurrent use.
type Server struct {
	binding []byte // of our certificate; nil: none
	plus    bool
	flag    byte

	firstBare, nonce, challenge, finalBare string
	proof                                  Key
}

// NewServer begins an exchange by the mechanism that the client chose.
func NewServer(mechanism string, binding []byte) (*Server, error) {
	if !slices.Contains(Mechanisms(binding), mechanism) {
		return nil, &Error{pgerrcode.ProtocolViolation, "client selected an invalid SASL authentication mechanism", ""}
	}
	return &Server{binding: binding, plus: mechanism == Plus}, nil
}

// First reads the client-first-message.
func (s *Server) First(message []byte) error {
	r, err := newReader(message)
	if err != nil {
		return err
	}
	if err := s.bindingFlag(r); err != nil {
		return err
	}
	switch r.peek() {
	case ',':
		r.at++
	case 'a':
		return &Error{pgerrcode.FeatureNotSupported, "client uses authorization identity, but it is not supported", ""}
	default:
		return malformed("Unexpected attribute \"%s\" in client-first-message.", sanitized(r.peek()))
	}
	s.firstBare = r.text[r.at:]
	if r.peek() == 'm' {
		return &Error{pgerrcode.FeatureNotSupported, "client requires an unsupported SCRAM extension", ""}
	}
	if _, err := r.value('n'); err != nil { // the user is the StartupMessage's
		return err
	}
	if s.nonce, err = r.value('r'); err != nil {
		return err
	}
	if strings.ContainsFunc(s.nonce, func(c rune) bool { return c < 0x21 || c > 0x7e }) {
		return &Error{pgerrcode.ProtocolViolation, "non-printable characters in SCRAM nonce", ""}
	}
	for r.peek() != 0 {
		if _, _, err := r.any(); err != nil {
			return err
		}
	}
	return nil
}

// bindingFlag reads gs2-cbind-flag and the comma behind it.
func (s *Server) bindingFlag(r *reader) error {
	s.flag = r.peek()
	switch s.flag {
	case 'n', 'y':
		if s.plus {
			return malformed("The client selected %s, but the SCRAM message does not include channel binding data.", Plus)
		}
		// RFC 5802, section 6: "If the flag is set to "y" and the server supports channel binding, the server MUST fail
		// authentication." Who stands in between may have taken the offer away.
		if s.flag == 'y' && s.binding != nil {
			return &Error{
				pgerrcode.InvalidAuthorizationSpecification, "SCRAM channel binding negotiation error",
				"The client supports SCRAM channel binding but thinks the server does not.  However, this server does support channel binding.",
			}
		}
		r.at++
		if r.peek() != ',' {
			return malformed("Comma expected, but found character \"%s\".", sanitized(r.peek()))
		}
		r.at++
		return nil
	case 'p':
		if !s.plus {
			return malformed("The client selected %s without channel binding, but the SCRAM message includes channel binding data.", Plain)
		}
		kind, err := r.value('p')
		if err == nil && kind != bindingType {
			return &Error{pgerrcode.ProtocolViolation, fmt.Sprintf("unsupported SCRAM channel-binding type \"%s\"", kind), ""} //nolint:gocritic // PostgreSQL does not escape it
		}
		return err
	default:
		return malformed("Unexpected channel-binding flag \"%s\".", sanitized(s.flag))
	}
}

// Challenge returns the server-first-message: our nonce beside the client's, and the factors as the verifier has them, or as
// whoever keeps it makes them up for a user without one.
func (s *Server) Challenge(factors Factors) []byte {
	s.nonce += newNonce()
	s.challenge = fmt.Sprintf("r=%s,s=%s,i=%d", s.nonce, factors.Salt, factors.Iterations)
	return []byte(s.challenge)
}

// Final reads the client-final-message; whether its proof holds is for ClientKey to say.
func (s *Server) Final(message []byte) error {
	r, err := newReader(message)
	if err != nil {
		return err
	}
	bound, err := r.value('c')
	if err != nil {
		return err
	}
	if err := s.checkBinding(bound); err != nil {
		return err
	}
	nonce, err := r.value('r')
	if err != nil {
		return err
	}
	var proof string
	for attribute := byte(0); attribute != 'p'; {
		s.finalBare = r.text[:max(r.at-1, 0)]
		if attribute, proof, err = r.any(); err != nil {
			return err
		}
	}
	if !decodeKey(&s.proof, proof) {
		return malformed("Malformed proof in client-final-message.")
	}
	if r.peek() != 0 {
		return malformed("Garbage found at the end of client-final-message.")
	}
	if nonce != s.nonce {
		return &Error{pgerrcode.ProtocolViolation, "invalid SCRAM response", "Nonce does not match."}
	}
	return nil
}

func (s *Server) checkBinding(bound string) error {
	header := map[byte]string{'n': "n,,", 'y': "y,,"}[s.flag]
	if s.plus {
		header = "p=" + bindingType + ",," + string(s.binding)
	}
	switch {
	case bound == encoding.EncodeToString([]byte(header)):
		return nil
	case s.plus:
		return &Error{pgerrcode.InvalidAuthorizationSpecification, "SCRAM channel binding check failed", ""}
	default:
		return &Error{pgerrcode.ProtocolViolation, "unexpected SCRAM channel-binding attribute in client-final-message", ""}
	}
}

// ClientKey returns the key that the client proved to have, and whether it proved it.
func (s *Server) ClientKey(v *Verifier) (key Key, ok bool) {
	signature := sign(v.StoredKey, s.firstBare, s.challenge, s.finalBare)
	subtle.XORBytes(key[:], s.proof[:], signature[:])
	stored := sha256.Sum256(key[:])
	return key, subtle.ConstantTimeCompare(stored[:], v.StoredKey[:]) == 1
}

// Signature returns the server-final-message, by which the client knows that its password is known here.
func (s *Server) Signature(v *Verifier) []byte {
	signature := sign(v.ServerKey, s.firstBare, s.challenge, s.finalBare)
	return []byte("v=" + encoding.EncodeToString(signature[:]))
}

// Bound reports whether the client bound the exchange to its channel.
func (s *Server) Bound() bool { return s.plus }

// sign is HMAC(key, AuthMessage).
func sign(key Key, firstBare, challenge, finalBare string) (out Key) {
	h := hmac.New(sha256.New, key[:])
	_, _ = h.Write([]byte(firstBare + "," + challenge + "," + finalBare)) // a hash never fails
	h.Sum(out[:0])
	return out
}

// newNonce returns 18 random bytes in base64, as many as PostgreSQL's SCRAM_RAW_NONCE_LEN.
func newNonce() string {
	var raw [18]byte
	_, _ = rand.Read(raw[:]) // crypto/rand never fails
	return encoding.EncodeToString(raw[:])
}
