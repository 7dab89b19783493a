package proxy

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"barkeep/internal/look"
)

// Place is where a PostgreSQL server listens, and how it is spoken to.
type Place struct {
	// Network is "tcp" or "unix", Address what net.Dial takes.
	Network, Address string
	// TLS, where not nil, is required. It is asked for with SSLRequest, or begun with the first byte (sslnegotiation=direct), for
	// which it must name PostgreSQL's protocol.
	TLS    *tls.Config
	Direct bool
}

// Upstream is the PostgreSQL server.
type Upstream struct {
	// Place is where it was found when we started.
	Place
	// Find looks for it anew. It is called where it was not reached at the place known last, or that has another server or
	// a standby now. nil: it is at no other place.
	Find func(ctx context.Context) (Place, error)
	// ConnectTimeout bounds the making of a connection; zero: only the time for the login does.
	ConnectTimeout time.Duration
	// Binding is about logins that barkeep makes by a user's key; what is relayed is bound to nothing.
	Binding ChannelBinding
	// RequireAuth names the methods that the server may ask for, as libpq's require_auth, which somebody has checked; empty: all.
	RequireAuth string
	// JudgesProcess reports whether the server may have let a session in, over a unix socket or over TCP, because of the user that
	// barkeep's own process runs as. nil: it never does.
	JudgesProcess func(ctx context.Context, overSocket bool) (bool, error)
	// SystemIdentifier is the server's, as the service's own connections found it; another one is refused. Empty checks
	// nothing. LifeQuery returns one row of one text, the life of the database; IdentifyQuery one row of two texts: "true" in
	// recovery, else "false", and the system identifier.
	SystemIdentifier, LifeQuery, IdentifyQuery string
}

// accepts reports whether RequireAuth lets the server use this method; "none" is that of not asking at all.
func (u *Upstream) accepts(method string) bool {
	if u.RequireAuth == "" {
		return true
	}
	names := strings.Split(u.RequireAuth, ",")
	for i := range names {
		names[i] = strings.TrimSpace(names[i])
	}
	if strings.HasPrefix(names[0], "!") {
		return !slices.Contains(names, "!"+method)
	}
	return slices.Contains(names, method)
}

// whereabouts are where the upstream was found last.
type whereabouts struct {
	place    atomic.Pointer[Place]
	searches look.Shared[*Place]
}

// lookAgain returns where the upstream is when before is its place no longer. A search that is under way is as good as one of our own:
// what it finds is no proof (each session asks the server who it is), and who is led to the old place once more comes again.
func (s *Server) lookAgain(ctx context.Context, before *Place) (*Place, error) {
	w := &s.whereabouts
	if place := w.place.Load(); place != before {
		return place, nil
	}
	return w.searches.Latest(ctx, func(ctx context.Context) (*Place, error) {
		if place := w.place.Load(); place != before {
			return place, nil // found by one that has just ended
		}
		place, err := s.cfg.Upstream.Find(ctx)
		if err != nil {
			return nil, err
		}
		w.place.Store(&place)
		s.cfg.Logger.InfoContext(ctx, "database found", slog.String("before", before.Address), slog.String("address", place.Address))
		return &place, nil
	})
}

// dial connects to the upstream, and says where that was.
func (s *Server) dial(ctx context.Context) (net.Conn, *Place, error) {
	place := s.whereabouts.place.Load()
	conn, err := s.dialAt(ctx, place)
	if err == nil || s.cfg.Upstream.Find == nil || ctx.Err() != nil {
		return conn, place, err
	}
	place, lookErr := s.lookAgain(ctx, place)
	if lookErr != nil {
		return nil, nil, errors.Join(err, lookErr)
	}
	conn, err = s.dialAt(ctx, place)
	return conn, place, err
}

// dialAt connects to a server.
func (s *Server) dialAt(ctx context.Context, place *Place) (net.Conn, error) {
	timeout := s.limits().StartupTimeout
	if own := s.cfg.Upstream.ConnectTimeout; own > 0 {
		timeout = min(timeout, own)
	}
	dialer := net.Dialer{Timeout: timeout}
	conn, err := dialer.DialContext(ctx, place.Network, place.Address)
	if err != nil {
		return nil, fmt.Errorf("connect to upstream: %w", err)
	}
	if place.TLS == nil {
		return conn, nil
	}
	secured, err := secure(ctx, conn, place, timeout)
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("connect to upstream: %w", err)
	}
	return secured, nil
}

func secure(ctx context.Context, conn net.Conn, place *Place, timeout time.Duration) (net.Conn, error) {
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return nil, fmt.Errorf("set deadline: %w", err)
	}
	if !place.Direct {
		if err := askForTLS(conn); err != nil {
			return nil, err
		}
	}
	secured := tls.Client(conn, place.TLS)
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("shake hands: %w", err)
	}
	// As libpq: with the first byte, only ALPN says that it is PostgreSQL that answers.
	if place.Direct && secured.ConnectionState().NegotiatedProtocol != alpn {
		return nil, errors.New("the server does not know TLS from the first byte: it did not name the protocol " + alpn)
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("clear deadline: %w", err)
	}
	return secured, nil
}

func askForTLS(conn net.Conn) error {
	request := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, minStartup), codeSSL)
	if _, err := conn.Write(request); err != nil {
		return fmt.Errorf("ask for TLS: %w", err)
	}
	var answer [1]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return fmt.Errorf("ask for TLS: %w", err)
	}
	if answer[0] != 'S' {
		return errors.New("the server does not offer TLS")
	}
	return nil
}
