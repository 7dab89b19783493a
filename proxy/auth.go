package proxy

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"
)

// The requests inside an Authentication message.
const (
	authOK           = 0
	authCleartext    = 3
	authMD5          = 5
	authSASL         = 10
	authSASLContinue = 11
	authSASLFinal    = 12
)

// maxAuth bounds a message of the authentication exchange.
const maxAuth = 64 << 10

// authenticate relays the upstream's own exchange until its first ReadyForQuery.
func (s *session) authenticate() error {
	proven := false
	for {
		message, err := s.nextUpstream()
		if err != nil {
			return err
		}
		answer := false
		switch message[0] {
		case 'R':
			var out []byte
			out, answer, err = s.authRequest(message, proven)
			if err != nil {
				return err
			}
			proven = proven || answer
			message = out
		case 'K':
			if len(message) > 9 {
				s.pid, s.secret = binary.BigEndian.Uint32(message[5:]), bytes.Clone(message[9:])
				s.server.register(s)
			}
		case 'S':
			s.parameterStatus(message[5:])
		case 'Z':
			s.tx = message[5]
		}
		last := message[0]
		if last == 'Z' {
			if err := s.identify(); err != nil {
				return err
			}
			message = encode(&pgproto3.ReadyForQuery{TxStatus: s.tx})
		}
		s.greeting = append(s.greeting, message...)
		// What needs no answer goes out with what follows.
		if answer || last == 'Z' || last == 'E' || s.have == s.from {
			if _, err := s.client.Write(s.greeting); err != nil {
				return fmt.Errorf("write to client: %w", err)
			}
			s.greeting = s.greeting[:0]
		}
		switch {
		case last == 'Z':
			s.greeting = nil
			return nil
		case last == 'E':
			return fmt.Errorf("upstream refused the session: %w", io.EOF)
		case answer:
			if err := s.relayAnswer(); err != nil {
				return err
			}
		}
	}
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
		if s.from > 0 {
			s.have = copy(s.upBuf, s.upBuf[s.from:s.have])
			s.from = 0
		}
		n, err := s.upstream.Read(s.upBuf[s.have:])
		s.have += n
		if n == 0 && err != nil {
			return nil, fmt.Errorf("read from upstream: %w", err)
		}
	}
}

// authRequest returns what of an authentication request the client gets, and whether it has to answer.
func (s *session) authRequest(message []byte, proven bool) (out []byte, answer bool, err error) {
	if len(message) < 9 {
		return nil, false, fmt.Errorf("authentication request of %d bytes", len(message))
	}
	switch request := binary.BigEndian.Uint32(message[5:]); request {
	case authOK:
		if !proven && !s.server.cfg.AllowTrust && !onLoopback(s.client.RemoteAddr()) {
			return nil, false, s.refuse(startupError("the database asked for no proof of who you are; barkeep lets only clients on its own machine in like that"))
		}
		return message, false, nil
	case authCleartext, authMD5, authSASLContinue:
		return message, true, nil
	case authSASL:
		if s.clientTLS != (s.server.cfg.Upstream.TLS != nil) || s.clientTLS {
			return stripPlus(message), true, nil
		}
		return message, true, nil
	case authSASLFinal:
		return message, false, nil
	default:
		return nil, false, s.refuse(startupError(fmt.Sprintf("the database asks for authentication %d, which barkeep cannot relay", request)))
	}
}

// stripPlus leaves the mechanisms out that bind to a channel which ends here.
func stripPlus(message []byte) []byte {
	out := append([]byte{'R', 0, 0, 0, 0}, message[5:9]...)
	for name := range strings.SplitSeq(strings.TrimRight(string(message[9:]), "\x00"), "\x00") {
		if !strings.HasSuffix(name, "-PLUS") {
			out = append(append(out, name...), 0)
		}
	}
	out = append(out, 0)
	binary.BigEndian.PutUint32(out[1:], uint32(len(out)-1)) //nolint:gosec // bounded by maxAuth
	return out
}

// relayAnswer passes one answer of the client on.
func (s *session) relayAnswer() error {
	var head [5]byte
	if _, err := io.ReadFull(s.client, head[:]); err != nil {
		return fmt.Errorf("read from client: %w", err)
	}
	size := int(binary.BigEndian.Uint32(head[1:]))
	if head[0] != 'p' || size < 4 || size > maxAuth {
		return s.refuse(protocolError("expected an answer to the authentication request"))
	}
	answer := make([]byte, size+1)
	copy(answer, head[:])
	if _, err := io.ReadFull(s.client, answer[5:]); err != nil {
		return fmt.Errorf("read from client: %w", err)
	}
	if _, err := s.upstream.Write(answer); err != nil {
		return fmt.Errorf("write to upstream: %w", err)
	}
	return nil
}
