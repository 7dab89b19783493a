package proxy

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
)

const (
	// minStartup is a length and a code; maxStartup is MAX_STARTUP_PACKET_LENGTH of pqcomm.h, which does not count the length.
	minStartup, maxStartup = 8, 10_000 + 4

	codeCancel = 80877102
	codeSSL    = 80877103
	codeGSS    = 80877104

	// recordHandshake is the first byte of a TLS connection: TLSPlaintext.type, RFC 8446 section 5.1.
	recordHandshake = 0x16
)

// startup reads what comes before the first message proper. It returns the StartupMessage as it came, or a CancelRequest.
//
// The order is PostgreSQL's (ProcessSSLStartup, ProcessStartupPacket): TLS may be asked for once, by the connection's first
// byte or by SSLRequest; GSS encryption once, and not where SSLRequest was granted; a cancel request at any point. What is none of these
// is a StartupMessage of major version 3: which minor version and which _pq_ options hold is between client and upstream.
func (s *session) startup(ctx context.Context) ([]byte, error) {
	seenTLS, seenGSS := false, false
	packet, err := s.firstPacket(ctx)
	for ; err == nil; packet, err = readStartup(s.client) {
		switch code := binary.BigEndian.Uint32(packet[4:]); {
		case code == codeSSL && !seenTLS:
			plain := !s.clientTLS
			err = s.answerSSLRequest(ctx, packet)
			seenTLS, seenGSS = true, seenGSS || plain && s.clientTLS
		case code == codeGSS && !seenGSS:
			seenGSS = true
			err = s.declineRequest(packet, errBehindGSSRequest)
		case code == codeCancel:
			return packet, nil
		case code>>16 == 3:
			return packet[:binary.BigEndian.Uint32(packet)], nil
		default:
			return nil, s.refuseVersion(code)
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, err
}

// firstPacket is readStartup for a connection that may begin with a TLS handshake.
func (s *session) firstPacket(ctx context.Context) ([]byte, error) {
	head, err := readHead(s.client)
	if err != nil {
		return nil, err
	}
	if head[0] != recordHandshake {
		return readBody(s.client, head)
	}
	if err := s.acceptTLS(ctx, head); err != nil {
		return nil, err
	}
	return readStartup(s.client)
}

// readStartup returns one packet. A request of 8 bytes has in its ninth what came with it, if anything did.
func readStartup(r io.Reader) ([]byte, error) {
	head, err := readHead(r)
	if err != nil {
		return nil, err
	}
	return readBody(r, head)
}

// readHead returns the first 4 to 9 bytes of a packet. No packet but a request of 8 bytes is shorter than 9, so that
// nothing is read that belongs to what follows a StartupMessage.
func readHead(r io.Reader) ([]byte, error) {
	head := make([]byte, minStartup+1)
	n, err := io.ReadAtLeast(r, head, 4)
	if err != nil {
		return nil, fmt.Errorf("read startup packet: %w", err)
	}
	return head[:n], nil
}

func readBody(r io.Reader, head []byte) ([]byte, error) {
	size := int64(binary.BigEndian.Uint32(head))
	if size < minStartup || size > maxStartup {
		return nil, fmt.Errorf("read startup packet: length %d", size)
	}
	if size == minStartup {
		n, err := io.ReadAtLeast(r, head[len(head):minStartup+1], max(0, minStartup-len(head)))
		if err != nil {
			return nil, fmt.Errorf("read startup packet: %w", err)
		}
		return head[:len(head)+n], nil
	}
	packet := make([]byte, size)
	if _, err := io.ReadFull(r, packet[copy(packet, head):]); err != nil {
		return nil, fmt.Errorf("read startup packet: %w", err)
	}
	return packet, nil
}

// answerSSLRequest answers SSLRequest: with a handshake where there is a certificate and no TLS yet.
func (s *session) answerSSLRequest(ctx context.Context, packet []byte) error {
	if s.server.cfg.TLS == nil || s.clientTLS || !overTCP(s.client) {
		return s.declineRequest(packet, errBehindSSLRequest)
	}
	if len(packet) > minStartup {
		return s.refuse(errBehindSSLRequest)
	}
	if _, err := s.client.Write([]byte{'S'}); err != nil {
		return fmt.Errorf("accept TLS: %w", err)
	}
	return s.acceptTLS(ctx, nil)
}

// declineRequest answers a request for encryption with no. What came with it was not meant for the answer, and ends the
// connection as at PostgreSQL: it may be another's (CVE-2021-23214).
func (s *session) declineRequest(packet []byte, behind *Error) error {
	if _, err := s.client.Write([]byte{'N'}); err != nil {
		return fmt.Errorf("decline encryption: %w", err)
	}
	if len(packet) > minStartup {
		return s.refuse(behind)
	}
	return nil
}

// refuse tells the client why its session ends, and returns that as an error.
func (s *session) refuse(err *Error) error {
	if _, writeErr := s.client.Write(err.encode()); writeErr != nil {
		return fmt.Errorf("write to client: %w", writeErr)
	}
	return err
}

// refuseVersion refuses a major version of the protocol, in the form of an error that the client reads.
func (s *session) refuseVersion(code uint32) error {
	err := errVersion(code)
	if code>>16 >= 3 {
		return s.refuse(err)
	}
	if _, writeErr := s.client.Write(err.encodeOldest()); writeErr != nil {
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
	cfg := s.server.cfg
	s.mu.Lock()
	s.info = SessionInfo{Number: s.number, User: s.user, Database: database, Client: clientName(s.client.RemoteAddr()), Since: time.Now()}
	s.mu.Unlock()
	s.log = s.log.With(slog.Uint64("session_id", s.number), slog.String("user", s.user), slog.String("client", s.info.Client),
		slog.String("application_name", values["application_name"]))
	s.planned = !replicates(values["replication"]) && cfg.Coordinator != nil && cfg.Catalog != nil && cfg.Database != "" && named(database, cfg.Database)
}

// replicates reports whether a StartupMessage asks for a replication connection, in which nothing is planned: by "database", or by a
// word for yes. The words for no are those of parse_bool, which takes any beginning of them that is no other's; all else the upstream refuses.
func replicates(value string) bool {
	switch strings.ToLower(value) {
	case "", "false", "fals", "fal", "fa", "f", "no", "n", "off", "of", "0":
		return false
	}
	return true
}

// named reports whether a StartupMessage's database is the one of this name. Before PostgreSQL 17 what does not fit into a name
// (NAMEDATALEN) is cut off.
func named(database, name string) bool {
	return database == name || len(database) > len(name) && len(name) == maxName && strings.HasPrefix(database, name)
}

// maxName is NAMEDATALEN of pg_config_manual.h, without the end.
const maxName = 63

// clientName is a client's address, [local] for a unix socket as in PostgreSQL's log.
func clientName(address net.Addr) string {
	if _, local := address.(*net.UnixAddr); local {
		return "[local]"
	}
	return address.String()
}

func unreachable() *Error {
	return &Error{Code: pgerrcode.CannotConnectNow, Message: "the database cannot be reached by barkeep", Fatal: true}
}
