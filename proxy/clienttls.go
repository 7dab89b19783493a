package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
)

// alpn is what a client has to name that begins with TLS: PQ_ALPN_PROTOCOL of pqcomm.h.
const alpn = "postgresql"

// errNoALPN says that a client began with TLS and did not name the protocol. It may be one that a browser was led to send
// (the ALPACA attack); PostgreSQL closes such a connection without a word.
var errNoALPN = errors.New("client began with TLS and did not name the protocol " + alpn)

// acceptTLS shakes hands with the client. begun is what of the handshake was read already, where the client's first byte
// asked for it.
func (s *session) acceptTLS(ctx context.Context, begun []byte) error {
	if s.server.cfg.TLS == nil || !overTCP(s.client) {
		return errors.New("client began with TLS, which is not served")
	}
	raw := s.client
	if begun != nil {
		raw = &begunConn{Conn: raw, begun: begun}
	}
	conn := tls.Server(raw, noting(s.server.cfg.TLS, &s.shown))
	if err := conn.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("shake hands with client: %w", err)
	}
	state := conn.ConnectionState()
	if begun != nil && state.NegotiatedProtocol != alpn {
		return errNoALPN
	}
	s.client, s.clientTLS = conn, true
	if len(state.VerifiedChains) > 0 {
		s.peer = state.PeerCertificates[0]
	}
	return nil
}

// admit refuses a session that TLS or the client's certificate do not let in, before the upstream hears of it. The
// upstream asks for its own proof as ever: a certificate is a second factor, as with clientcert=verify-full in pg_hba.conf.
func (s *session) admit(ctx context.Context) error {
	cfg := s.server.cfg
	if !overTCP(s.client) {
		return nil
	}
	switch {
	case !s.clientTLS && (cfg.RequireTLS || cfg.RequireCertificate):
		return s.refuse(errNeedsTLS)
	case !cfg.RequireCertificate:
		return nil
	case s.peer == nil:
		return s.refuse(errNeedsCertificate)
	}
	name := s.peer.Subject.CommonName
	if name != "" && name == s.user || slices.Contains(cfg.ClientNames[name], s.user) {
		return nil
	}
	s.log.InfoContext(ctx, "client certificate is another user's", slog.String("common_name", name))
	return s.refuse(startupError("certificate authentication failed for user \"" + s.user + "\""))
}

// begunConn is a connection of which some has been read.
type begunConn struct {
	net.Conn
	begun []byte
}

// Read implements net.Conn.
func (c *begunConn) Read(b []byte) (int, error) {
	if len(c.begun) == 0 {
		return c.Conn.Read(b)
	}
	n := copy(b, c.begun)
	c.begun = c.begun[n:]
	return n, nil
}

// overTCP reports whether the connection can be listened to on its way. There is no TLS on unix sockets.
func overTCP(conn net.Conn) bool {
	_, local := conn.RemoteAddr().(*net.UnixAddr)
	return !local
}
