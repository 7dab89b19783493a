package proxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"

	"barkeep/internal/scram"
	"barkeep/internal/verifier"
)

// The requests inside an Authentication message.
const (
	authOK           = 0
	authKerberos     = 2
	authCleartext    = 3
	authMD5          = 5
	authGSS          = 7
	authSSPI         = 9
	authSASL         = 10
	authSASLContinue = 11
	authSASLFinal    = 12
)

const (
	// maxAuth bounds a message of the authentication exchange.
	maxAuth = 64 << 10
	// maxPassword bounds what a client answers: PostgreSQL's PG_MAX_AUTH_TOKEN_LENGTH.
	maxPassword = 65535
)

// login is the authentication of one session. Who the client is, is for the upstream alone to say: every session logs in
// there as its own user, and an ErrorResponse that says no is the upstream's own.
//
//	relay      what the upstream asks and the client answers passes through; -PLUS is left out of the offer, as both
//	           channels end here
//	terminate  two exchanges of SCRAM: the client's with us, by the verifier of its user, and ours with the upstream, by
//	           the ClientKey that the client's proof gives away (RFC 5802, section 3)
//
// Relay is right but where a client can bind to its channel to us, or the upstream must be bound to: PROTOCOL.md, "SCRAM
// relay matrix".
type login struct {
	*session
	method string // of the upstream, as libpq's require_auth names it, that has been gone through; empty: none
	proven bool   // the client has proved who it is, or the upstream will say that it has not
	bound  bool   // the upstream is bound to our channel
	deaf   bool   // a client that says it could bind to its channel cannot be relayed
}

// authenticate returns at the upstream's first ReadyForQuery.
func (s *session) authenticate(ctx context.Context) error {
	l := login{session: s}
	for {
		message, err := s.nextUpstream()
		if err != nil {
			return err
		}
		answer := false
		switch message[0] {
		case 'R':
			if message, answer, err = l.request(ctx, message); err != nil {
				return err
			}
		case 'K':
			if len(message) > 9 {
				s.pid, s.secret = binary.BigEndian.Uint32(message[5:]), bytes.Clone(message[9:])
				s.server.register(s)
			}
		case 'S':
			s.parameterStatus(message[5:])
		case 'E':
			return l.refused(message)
		case 'Z':
			s.tx = message[5]
			if err := s.identify(ctx); err != nil {
				return err
			}
			err := s.tell(encode(&pgproto3.ReadyForQuery{TxStatus: s.tx}))
			s.greeting = nil
			return err
		}
		s.greeting = append(s.greeting, message...)
		// What needs no answer goes out with what follows.
		if answer || s.have == s.from {
			if err := s.tell(nil); err != nil {
				return err
			}
		}
		if answer {
			if err := l.relayAnswer(); err != nil {
				return err
			}
		}
	}
}

// tell writes to the client what waits to be written, and a message.
func (s *session) tell(message []byte) error {
	s.greeting = append(s.greeting, message...)
	_, err := s.client.Write(s.greeting)
	s.greeting = s.greeting[:0]
	if err != nil {
		return fmt.Errorf("write to client: %w", err)
	}
	return nil
}

// refused passes the upstream's refusal on.
func (l *login) refused(message []byte) error {
	if err := l.tell(message); err != nil {
		return err
	}
	return fmt.Errorf("upstream refused the session: %w", upstreamError(message))
}

// nextUpstream returns the upstream's next message; it is valid until the next call.
func (s *session) nextUpstream() ([]byte, error) {
	for {
		if s.have-s.from >= 5 {
			size := int(binary.BigEndian.Uint32(s.upBuf[s.from+1:])) + 1
			if size < 5 || size > maxAuth {
				return nil, fmt.Errorf("read from upstream: message of %d bytes", size)
			}
			if s.have-s.from >= size {
				message := s.upBuf[s.from : s.from+size]
				s.from += size
				return message, nil
			}
		}
		s.roomUpstream(nil)
		n, err := s.upstream.Read(s.upBuf[s.have:])
		s.have += n
		if n == 0 && err != nil {
			return nil, fmt.Errorf("read from upstream: %w", errors.Join(errUpstreamGone, err))
		}
	}
}

// request returns what of an authentication request the client gets, and whether it has to answer.
func (l *login) request(ctx context.Context, message []byte) (out []byte, answer bool, err error) {
	if len(message) < 9 {
		return nil, false, fmt.Errorf("authentication request of %d bytes", len(message))
	}
	request := binary.BigEndian.Uint32(message[5:])
	if unbound := request == authOK || request == authCleartext || request == authMD5; unbound && !l.bound && l.server.cfg.Upstream.Binding == BindingRequired {
		return nil, false, l.refuse(errNotBound)
	}
	if method := methodOf(request, message); method != "" && !l.server.cfg.Upstream.accepts(method) {
		return nil, false, l.refuse(errRequireAuth(method))
	}
	switch request {
	case authOK:
		if l.method == "" && !l.server.cfg.Upstream.accepts(methodNone) {
			return nil, false, l.refuse(errRequireAuth(methodNone))
		}
		if err := l.checkProof(ctx); err != nil {
			return nil, false, err
		}
		if refused := l.server.admit(l.session); refused != nil {
			return nil, false, l.refuse(refused)
		}
		return message, false, nil
	case authSASL:
		return l.sasl(ctx, message)
	case authCleartext, authMD5:
		l.proven, l.method = true, methodOf(request, message)
		return message, true, nil
	case authSASLContinue:
		l.proven = true
		return message, true, nil
	case authSASLFinal:
		l.method = methodSCRAM
		return message, false, nil
	default:
		return nil, false, l.refuse(errMethod(request))
	}
}

// The methods of authentication as libpq's require_auth names them.
const (
	methodNone  = "none"
	methodSCRAM = "scram-sha-256"
	methodOAuth = "oauth"
)

// methodOf names the method that a request begins; it is empty for others.
func methodOf(request uint32, message []byte) string {
	switch request {
	case authCleartext:
		return "password"
	case authMD5:
		return "md5"
	case authGSS:
		return "gss"
	case authSSPI:
		return "sspi"
	case authSASL:
		if slices.Contains(mechanisms(message), "OAUTHBEARER") {
			return methodOAuth
		}
		return methodSCRAM
	}
	return ""
}

// sasl decides which of the two ways an exchange goes.
func (l *login) sasl(ctx context.Context, message []byte) (out []byte, answer bool, err error) {
	offered := mechanisms(message)
	up := &l.server.cfg.Upstream
	required := up.Binding == BindingRequired
	if (l.clientTLS || required) && l.server.cfg.Verifiers != nil && slices.Contains(offered, scram.Plain) {
		secret, err := l.server.cfg.Verifiers.Secret(ctx, l.user)
		switch {
		case err == nil:
			out, err := l.terminateSCRAM(offered, &secret)
			return out, false, err
		case !errors.Is(err, verifier.ErrUnreadable):
			l.log.WarnContext(ctx, "verifier not read", slog.Any("error", err))
			return nil, false, l.refuse(errNoVerifiers)
		}
		l.log.DebugContext(ctx, "verifiers cannot be read: SCRAM is relayed", slog.Any("error", err))
	}
	if required {
		return nil, false, l.refuse(errNotBound)
	}
	if methodOf(authSASL, message) == methodOAuth {
		l.method = methodOAuth // it ends without a last word of the server
	}
	l.proven, l.deaf = true, l.clientTLS && l.place.TLS != nil && slices.Contains(offered, scram.Plus)
	return stripPlus(offered), true, nil
}

// mechanisms are those that an AuthenticationSASL offers.
func mechanisms(message []byte) []string {
	return strings.FieldsFunc(string(message[9:]), func(c rune) bool { return c == 0 })
}

// stripPlus offers the mechanisms but those that bind to a channel which ends here.
func stripPlus(offered []string) []byte {
	return encode(&pgproto3.AuthenticationSASL{AuthMechanisms: slices.DeleteFunc(offered, func(name string) bool {
		return strings.HasSuffix(name, "-PLUS")
	})})
}

// relayAnswer passes one answer of the client on.
func (l *login) relayAnswer() error {
	answer, err := l.readAnswer(maxPassword)
	if err != nil {
		return err
	}
	if l.deaf && saysItCouldBind(answer) {
		return l.refuse(errCannotBind)
	}
	l.deaf = false
	if _, err := l.upstream.Write(answer); err != nil {
		return fmt.Errorf("write to upstream: %w", err)
	}
	return nil
}

// readAnswer reads the client's next message, header and all, which has to be an answer of at most so many bytes. Another one
// is left to the upstream's judgement, which is made of the header alone.
func (l *login) readAnswer(most int) ([]byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(l.client, head[:]); err != nil {
		return nil, fmt.Errorf("read from client: %w", err)
	}
	size := binary.BigEndian.Uint32(head[1:])
	if head[0] != 'p' || size < 4 || size-4 > uint32(most) { //nolint:gosec // one of two constants
		return nil, l.fail(head[:])
	}
	answer := make([]byte, size+1)
	copy(answer, head[:])
	if _, err := io.ReadFull(l.client, answer[5:]); err != nil {
		return nil, fmt.Errorf("read from client: %w", err)
	}
	return answer, nil
}

// fail sends the upstream what it must refuse, and passes its refusal on.
func (l *login) fail(answer []byte) error {
	if _, err := l.upstream.Write(answer); err != nil {
		return fmt.Errorf("write to upstream: %w", err)
	}
	_, err := l.await(onlyRefusal)
	if err == nil {
		return errNotRefused
	}
	return err
}

// onlyRefusal is no request: an error is all that is awaited.
const onlyRefusal = ^uint32(0)

// await returns what the upstream's request of this kind holds. A refusal is passed on, and is the error.
func (l *login) await(kind uint32) ([]byte, error) {
	for {
		message, err := l.nextUpstream()
		if err != nil {
			return nil, err
		}
		switch {
		case message[0] == 'E':
			return nil, l.refused(message)
		case message[0] == 'N':
			l.greeting = append(l.greeting, message...)
		case message[0] == 'R' && len(message) >= 9 && binary.BigEndian.Uint32(message[5:]) == kind:
			return message[9:], nil
		default:
			return nil, fmt.Errorf("read from upstream: message %q in the middle of SCRAM", message[0])
		}
	}
}
