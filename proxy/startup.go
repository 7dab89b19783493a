package proxy

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
)

const (
	minStartup, maxStartup = 8, 10_000

	codeCancel = 80877102
	codeSSL    = 80877103
	codeGSS    = 80877104
)

// startup reads what comes before the first message proper. It returns the StartupMessage as it came, or nil where the
// connection has served its purpose.
func (s *session) startup(ctx context.Context) ([]byte, error) {
	seenTLS, seenGSS := false, false
	for {
		packet, err := readStartup(s.client)
		if err != nil {
			return nil, err
		}
		switch code := binary.BigEndian.Uint32(packet[4:]); {
		case code == codeSSL && !seenTLS && len(packet) == minStartup:
			seenTLS = true
			if err := s.offerTLS(ctx); err != nil {
				return nil, err
			}
		case code == codeGSS && !seenGSS && len(packet) == minStartup:
			seenGSS = true
			if _, err := s.client.Write([]byte{'N'}); err != nil {
				return nil, fmt.Errorf("decline GSS encryption: %w", err)
			}
		case code == codeCancel:
			return nil, s.server.cancel(ctx, packet)
		case code>>16 == 3:
			return packet, nil
		default:
			return nil, s.refuse(protocolError(fmt.Sprintf("unsupported frontend protocol %d.%d: barkeep speaks 3", code>>16, code&0xffff)))
		}
	}
}

func readStartup(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, fmt.Errorf("read startup packet: %w", err)
	}
	size := binary.BigEndian.Uint32(head[:])
	if size < minStartup || size > maxStartup {
		return nil, fmt.Errorf("read startup packet: length %d", size)
	}
	packet := make([]byte, size)
	copy(packet, head[:])
	if _, err := io.ReadFull(r, packet[4:]); err != nil {
		return nil, fmt.Errorf("read startup packet: %w", err)
	}
	return packet, nil
}

// offerTLS answers SSLRequest. Nothing was read beyond the request, so nothing sent in the clear can pass for encrypted:
// the handshake would not parse it.
func (s *session) offerTLS(ctx context.Context) error {
	if s.server.cfg.TLS == nil || s.clientTLS {
		if _, err := s.client.Write([]byte{'N'}); err != nil {
			return fmt.Errorf("decline TLS: %w", err)
		}
		return nil
	}
	if _, err := s.client.Write([]byte{'S'}); err != nil {
		return fmt.Errorf("accept TLS: %w", err)
	}
	conn := tls.Server(s.client, s.server.cfg.TLS)
	if err := conn.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("shake hands with client: %w", err)
	}
	s.client, s.clientTLS = conn, true
	return nil
}

// refuse tells the client why its session ends, and returns that as an error.
func (s *session) refuse(err *Error) error {
	if _, writeErr := s.client.Write(err.encode()); writeErr != nil {
		return fmt.Errorf("write to client: %w", writeErr)
	}
	return err
}

// parameters reads the names and values of a StartupMessage.
func parameters(packet []byte) map[string]string {
	list := strings.Split(string(packet[8:]), "\x00")
	values := map[string]string{}
	for i := 0; i+1 < len(list) && list[i] != ""; i += 2 {
		values[list[i]] = list[i+1]
	}
	return values
}

// describe notes what the StartupMessage says of the session.
func (s *session) describe(packet []byte) {
	values := parameters(packet)
	s.user = values["user"]
	database := values["database"]
	if database == "" {
		database = s.user
	}
	replication := true
	switch strings.ToLower(values["replication"]) {
	case "", "false", "off", "no", "0", "f", "n":
		replication = false
	}
	cfg := s.server.cfg
	s.mu.Lock()
	s.info = SessionInfo{User: s.user, Database: database, Client: s.client.RemoteAddr().String(), Since: time.Now()}
	s.mu.Unlock()
	s.planned = !replication && cfg.Coordinator != nil && cfg.Catalog != nil && cfg.Database != "" && database == cfg.Database
}

// dial connects to the upstream.
func (s *Server) dial(ctx context.Context) (net.Conn, error) {
	up := s.cfg.Upstream
	dialer := net.Dialer{Timeout: s.cfg.StartupTimeout}
	conn, err := dialer.DialContext(ctx, up.Network, up.Address)
	if err != nil {
		return nil, fmt.Errorf("connect to upstream: %w", err)
	}
	if up.TLS == nil {
		return conn, nil
	}
	secured, err := secure(ctx, conn, up.TLS, s.cfg.StartupTimeout)
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("connect to upstream: %w", err)
	}
	return secured, nil
}

func secure(ctx context.Context, conn net.Conn, config *tls.Config, timeout time.Duration) (net.Conn, error) {
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return nil, fmt.Errorf("set deadline: %w", err)
	}
	request := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, 8), codeSSL)
	if _, err := conn.Write(request); err != nil {
		return nil, fmt.Errorf("ask for TLS: %w", err)
	}
	var answer [1]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return nil, fmt.Errorf("ask for TLS: %w", err)
	}
	if answer[0] != 'S' {
		return nil, errors.New("the server does not offer TLS")
	}
	secured := tls.Client(conn, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("shake hands: %w", err)
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("clear deadline: %w", err)
	}
	return secured, nil
}

// cancel ends the hold of the session that the key names, or passes the request on. It returns when the upstream has
// dealt with it, so that the client's connection closes no earlier.
func (s *Server) cancel(ctx context.Context, packet []byte) error {
	const keyAt = 12
	if len(packet) < keyAt+4 || len(packet) > keyAt+256 {
		return fmt.Errorf("cancel request of %d bytes", len(packet))
	}
	if target := s.find(binary.BigEndian.Uint32(packet[8:]), packet[keyAt:]); target != nil && target.cancelStatement() {
		return nil
	}
	return s.passCancel(ctx, packet)
}

// passCancel hands a cancel request to the upstream, and returns when that has dealt with it.
func (s *Server) passCancel(ctx context.Context, packet []byte) error {
	conn, err := s.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // nothing is left to be lost
	if err := conn.SetDeadline(time.Now().Add(s.cfg.StartupTimeout)); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	if _, err := conn.Write(packet); err != nil {
		return fmt.Errorf("pass cancel request on: %w", err)
	}
	_, _ = conn.Read(make([]byte, 1)) // the server closes when it is done
	return nil
}

func (s *Server) find(pid uint32, secret []byte) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, each := range s.keys[pid] {
		if subtle.ConstantTimeCompare(each.secret, secret) == 1 {
			return each
		}
	}
	return nil
}

// EndBlockingHold ends the hold of the session whose upstream has this process id with 55P03, where it has one: its locks
// keep the bars from being stored that it waits for (PIPELINE 23).
func (s *Server) EndBlockingHold(pid uint32) {
	s.mu.Lock()
	sessions := slices.Clone(s.keys[pid])
	s.mu.Unlock()
	for _, each := range sessions {
		if each.endHold(errBlocksIngest) {
			s.cfg.Logger.Warn("hold ended: its session blocks ingest", slog.Int64("pid", int64(pid)))
		}
	}
}

// onLoopback reports whether the client cannot be on another machine.
func onLoopback(address net.Addr) bool {
	tcp, ok := address.(*net.TCPAddr)
	return !ok || tcp.IP.IsLoopback()
}

func unreachable() *Error {
	return &Error{Code: pgerrcode.CannotConnectNow, Message: "the database cannot be reached by barkeep", Fatal: true}
}
