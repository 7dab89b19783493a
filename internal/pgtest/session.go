package pgtest

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/md5" //nolint:gosec // what AuthenticationMD5Password asks for
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// The codes of the requests that stand in place of a StartupMessage (manual, "Message Formats").
const (
	codeCancel = 80877102
	codeSSL    = 80877103
	codeGSS    = 80877104
)

// maxMessage bounds what comes.
const maxMessage = 1 << 24

// Dial connects to a TCP address. It may change the connection: encrypt it, or write in other pieces.
type Dial func(ctx context.Context, address string) (net.Conn, error)

// Stream is what passed in a session behind its startup.
type Stream struct{ Sent, Came []byte }

type session struct {
	conn   net.Conn
	in     *bufio.Reader
	out    []byte // not sent yet
	key    []byte // process id and secret
	stream Stream
	ready  bool
}

func (s *session) flush() error {
	if len(s.out) == 0 {
		return nil
	}
	out := s.out
	s.out = nil
	s.stream.Sent = append(s.stream.Sent, out...)
	_, err := s.conn.Write(out)
	return err //nolint:wrapcheck // the caller says what was sent
}

func (s *session) receive() ([]byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(s.in, head[:]); err != nil {
		return nil, err //nolint:wrapcheck // the caller says what was read
	}
	size := binary.BigEndian.Uint32(head[1:])
	if size < 4 || size > maxMessage {
		return nil, fmt.Errorf("message %q of %d bytes", head[0], size)
	}
	message := append(head[:], make([]byte, size-4)...)
	if _, err := io.ReadFull(s.in, message[5:]); err != nil {
		return nil, err //nolint:wrapcheck // the caller says what was read
	}
	if s.ready {
		s.stream.Came = append(s.stream.Came, message...)
	}
	return message, nil
}

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

func (p *player) dial(ctx context.Context) (net.Conn, error) {
	dial := p.peer.Dial
	if dial == nil {
		dial = func(ctx context.Context, address string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		}
	}
	conn, err := dial(ctx, p.target.Host)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	end, ok := ctx.Deadline()
	if !ok {
		end = time.Now().Add(playTime)
	}
	if err := conn.SetDeadline(end); err != nil {
		return nil, errors.Join(fmt.Errorf("set deadline: %w", err), conn.Close())
	}
	return conn, nil
}

// start begins a session. It returns nil without an error where the session was refused.
func (p *player) start(ctx context.Context, options []string) (s *session, seen []string, err error) {
	conn, err := p.dial(ctx)
	switch {
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.ECONNREFUSED):
		return nil, []string{"end"}, nil
	case err != nil:
		return nil, nil, err
	}
	s = &session{conn: conn, in: bufio.NewReader(conn)}
	defer func() {
		if err != nil || !s.ready {
			s = nil
			_ = conn.Close()
		}
	}()
	startup := &pgproto3.StartupMessage{
		ProtocolVersion: pgproto3.ProtocolVersion30,
		Parameters:      map[string]string{"user": p.target.User.Username(), "database": p.database()},
	}
	for key, values := range p.target.Query() {
		if !slices.Contains([]string{"sslmode", "sslrootcert", "connect_timeout"}, key) { // the driver's
			startup.Parameters[key] = values[0]
		}
	}
	password := ""
	for _, option := range options {
		key, value, _ := strings.Cut(option, "=")
		switch key {
		case "ssl", "gss":
			answer, err := p.request(s, key)
			if err != nil {
				return s, seen, err
			}
			seen = append(seen, answer)
		case "protocol":
			_, minor, _ := strings.Cut(value, ".")
			n, err := strconv.ParseUint(minor, 10, 16)
			if err != nil {
				return s, seen, fmt.Errorf("parse protocol version: %w", err)
			}
			startup.ProtocolVersion = 3<<16 | uint32(n)
		case "password":
			password = strings.ReplaceAll(value, "_", " ")
		default:
			startup.Parameters[key] = value
		}
	}
	data, err := startup.Encode(nil)
	if err != nil {
		return s, seen, fmt.Errorf("encode startup message: %w", err)
	}
	p.record.Types["StartupMessage>"] = true
	// A peer that closes at once may have done so before it is written to, or after: either way it is read what it says.
	if _, err := conn.Write(data); isTimeout(err) {
		return s, seen, fmt.Errorf("send startup message: %w", err)
	}
	seen, err = p.enter(s, startup.Parameters["user"], password, seen)
	return s, seen, err
}

// enter reads, and answers what is asked, until the session is ready or refused.
func (p *player) enter(s *session, user, password string, seen []string) ([]string, error) {
	auth := &prover{user: user, password: password}
	for !s.ready {
		message, err := s.receive()
		if err != nil && !isTimeout(err) {
			return append(seen, "end"), nil
		}
		if err != nil {
			return seen, fmt.Errorf("receive: %w", err)
		}
		p.record.Types["<"+typeOf(message)] = true
		seen = append(seen, summary(message))
		switch message[0] {
		case 'K':
			s.key = message[5:]
		case 'Z':
			s.ready = true
		case 'E':
			return seen, nil
		case 'R':
			kind, answer, err := auth.answer(message[5:])
			if err != nil {
				return seen, err
			}
			if answer == nil {
				continue
			}
			p.record.Types[kind+">"] = true
			if _, err := s.conn.Write(append(binary.BigEndian.AppendUint32([]byte{'p'}, uint32(4+len(answer))), answer...)); err != nil { //nolint:gosec // short
				return seen, fmt.Errorf("send proof: %w", err)
			}
		}
	}
	return seen, nil
}

// request asks for encryption and returns what was answered. The session goes on without it.
func (p *player) request(s *session, kind string) (string, error) {
	code, named := uint32(codeSSL), "SSLRequest>"
	if kind == "gss" {
		code, named = codeGSS, "GSSENCRequest>"
	}
	p.record.Types[named] = true
	if _, err := s.conn.Write(binary.BigEndian.AppendUint32([]byte{0, 0, 0, 8}, code)); err != nil {
		return "", fmt.Errorf("ask for encryption: %w", err)
	}
	answer, err := s.in.ReadByte()
	if err != nil {
		return "", fmt.Errorf("ask for encryption: %w", err)
	}
	return kind + " " + string(answer), nil
}

func (p *player) cancel(ctx context.Context, key []byte) error {
	conn, err := p.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()                                                                                          //nolint:errcheck // nothing is left to be lost
	packet := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, uint32(8+len(key))), codeCancel) //nolint:gosec // short
	if _, err := conn.Write(append(packet, key...)); err != nil {
		return fmt.Errorf("send cancel request: %w", err)
	}
	if _, err := io.Copy(io.Discard, conn); err != nil {
		return fmt.Errorf("wait for the end of the cancel request: %w", err)
	}
	return nil
}

// prover answers what a session is asked for proof (manual, "SASL Authentication").
type prover struct {
	user, password string
	first          string // client-first-message-bare
	nonce          string
}

// answer returns the kind of message that is sent, and its body, nil where none is asked for.
func (a *prover) answer(body []byte) (kind string, out []byte, err error) {
	switch binary.BigEndian.Uint32(body) {
	case 3:
		return "PasswordMessage", append([]byte(a.password), 0), nil
	case 5:
		inner := md5.Sum([]byte(a.password + a.user))                                //nolint:gosec // as asked for
		outer := md5.Sum(append([]byte(hex.EncodeToString(inner[:])), body[4:8]...)) //nolint:gosec // as asked for
		return "PasswordMessage", append([]byte("md5"+hex.EncodeToString(outer[:])), 0), nil
	case 10:
		a.nonce = fmt.Sprintf("%016x", time.Now().UnixNano())
		a.first = "n=,r=" + a.nonce
		initial := "n,," + a.first
		out = binary.BigEndian.AppendUint32([]byte("SCRAM-SHA-256\x00"), uint32(len(initial))) //nolint:gosec // short
		return "SASLInitialResponse", append(out, initial...), nil
	case 11:
		out, err := a.proof(string(body[4:]))
		return "SASLResponse", out, err
	}
	return "", nil, nil
}

// proof is the client-final-message of RFC 5802.
func (a *prover) proof(challenge string) ([]byte, error) {
	values := map[string]string{}
	for each := range strings.SplitSeq(challenge, ",") {
		key, value, _ := strings.Cut(each, "=")
		values[key] = value
	}
	salt, err := base64.StdEncoding.DecodeString(values["s"])
	if err != nil {
		return nil, fmt.Errorf("decode salt: %w", err)
	}
	iterations, err := strconv.Atoi(values["i"])
	if err != nil {
		return nil, fmt.Errorf("parse iterations: %w", err)
	}
	salted, err := pbkdf2.Key(sha256.New, a.password, salt, iterations, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	sign := func(key []byte, text string) []byte {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(text))
		return mac.Sum(nil)
	}
	clientKey := sign(salted, "Client Key")
	stored := sha256.Sum256(clientKey)
	final := "c=biws,r=" + values["r"]
	proof := sign(stored[:], a.first+","+challenge+","+final)
	for i := range proof {
		proof[i] ^= clientKey[i]
	}
	return []byte(final + ",p=" + base64.StdEncoding.EncodeToString(proof)), nil
}
