package proxy

import (
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
)

// fakeUpstream is a server for what PostgreSQL does too seldom or not at all: it admits everybody, answers SHOW with
// the empty text (but for session_authorization) and every other statement with CommandComplete.
type fakeUpstream struct {
	address  string
	pid      uint32
	key      []byte
	canceled chan []byte // each CancelRequest as it came
	sessions chan net.Conn
	queries  chan string   // each Query's text
	identity []string      // where not nil, the row that the first Query of a session is answered with
	closing  chan struct{} // where not nil, the connection of a CancelRequest is closed after it
}

func newFakeUpstream(t *testing.T, key []byte) *fakeUpstream {
	t.Helper()
	up := &fakeUpstream{pid: 4711, key: key, canceled: make(chan []byte, 10), sessions: make(chan net.Conn, 10), queries: make(chan string, 100)}
	up.address = accepting(t, up.serve)
	return up
}

// accepting serves each connection to a port of loopback, and closes it then. The test ends when all are served.
func accepting(t *testing.T, serve func(net.Conn)) (address string) {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var running sync.WaitGroup
	t.Cleanup(func() { _ = listener.Close(); running.Wait() })
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer conn.Close()
				serve(conn)
			})
		}
	})
	return listener.Addr().String()
}

// tunnel copies both ways until one side ends, and closes far.
func tunnel(near, far net.Conn) {
	var back sync.WaitGroup
	back.Go(func() { _, _ = io.Copy(near, far); _ = near.Close() })
	_, _ = io.Copy(far, near)
	_ = far.Close()
	back.Wait()
}

func (up *fakeUpstream) serve(conn net.Conn) {
	packet, err := readStartup(conn)
	if err != nil {
		return
	}
	if binary.BigEndian.Uint32(packet[4:]) == codeCancel {
		up.canceled <- packet
		if up.closing != nil {
			<-up.closing
		}
		return
	}
	up.sessions <- conn
	var out []byte
	text := ""
	key := append(binary.BigEndian.AppendUint32(nil, up.pid), up.key...)
	out = append(out, encode(&pgproto3.AuthenticationOk{})...)
	out = append(binary.BigEndian.AppendUint32(append(out, 'K'), uint32(4+len(key))), key...)
	out = append(out, encode(&pgproto3.ParameterStatus{Name: "server_version", Value: "15.0"})...)
	out = append(out, encode(&pgproto3.ParameterStatus{Name: "TimeZone", Value: "UTC"})...)
	out = append(out, encode(&pgproto3.ReadyForQuery{TxStatus: 'I'})...)
	for {
		if _, err := conn.Write(out); err != nil {
			return
		}
		kind, body, err := readMessage(conn)
		if err != nil {
			return
		}
		switch kind {
		case 'P':
			text = string(body)
		case 'Q':
			up.queries <- string(body)
		}
		out = fakeReply(kind, text)
		if kind == 'Q' && up.identity != nil {
			out = append(identityRow(up.identity), out...)
		}
	}
}

func identityRow(texts []string) []byte {
	values := make([][]byte, len(texts))
	for i, text := range texts {
		values[i] = []byte(text)
	}
	return encode(&pgproto3.DataRow{Values: values})
}

func fakeReply(kind byte, parsed string) (out []byte) {
	switch kind {
	case 'P':
		return encode(&pgproto3.ParseComplete{})
	case 'B':
		return encode(&pgproto3.BindComplete{})
	case 'E':
		value := ""
		switch {
		case strings.Contains(parsed, "session_authorization"):
			value = "postgres"
		case strings.Contains(parsed, "search_path"):
			value = `"$user", public`
		}
		out = encode(&pgproto3.DataRow{Values: [][]byte{[]byte(value)}})
	case 'C':
		return encode(&pgproto3.CloseComplete{})
	case 'S':
		return encode(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	}
	out = append(out, encode(&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")})...)
	if kind == 'Q' {
		out = append(out, encode(&pgproto3.ReadyForQuery{TxStatus: 'I'})...)
	}
	return out
}

func readMessage(r io.Reader) (kind byte, body []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	body = make([]byte, binary.BigEndian.Uint32(head[1:])-4)
	_, err = io.ReadFull(r, body)
	return head[0], body, err
}

// rawClient sends and reads messages one by one.
type rawClient struct {
	t    *testing.T
	conn net.Conn
}

// dialRaw starts a session without TLS and password, by protocol 3.0 or 3.2.
func dialRaw(t *testing.T, address string, newer bool, params ...string) *rawClient {
	t.Helper()
	c := askRaw(t, address, newer, params...)
	c.until('Z')
	return c
}

// askRaw is dialRaw up to the answer.
func askRaw(t *testing.T, address string, newer bool, params ...string) *rawClient {
	t.Helper()
	target, err := url.Parse(address)
	require.NoError(t, err)
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", target.Host)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return askRawOn(t, conn, target, newer, params...)
}

// askRawOn is askRaw on a connection.
func askRawOn(t *testing.T, conn net.Conn, target *url.URL, newer bool, params ...string) *rawClient {
	t.Helper()
	require.NoError(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
	c := &rawClient{t: t, conn: conn}
	version := uint32(pgproto3.ProtocolVersion30)
	if newer {
		version = pgproto3.ProtocolVersion32
	}
	list := append([]string{"user", target.User.Username(), "database", strings.TrimPrefix(target.Path, "/")}, params...)
	packet := append(binary.BigEndian.AppendUint32(make([]byte, 4), version), strings.Join(list, "\x00")+"\x00\x00"...)
	binary.BigEndian.PutUint32(packet, uint32(len(packet)))
	_, err := conn.Write(packet)
	require.NoError(t, err)
	return c
}

func (c *rawClient) send(messages ...pgproto3.FrontendMessage) {
	c.t.Helper()
	var out []byte
	for _, message := range messages {
		out = append(out, encode(message)...)
	}
	_, err := c.conn.Write(out)
	require.NoError(c.t, err)
}

// until reads up to a message of the kind and returns its text: an error's code, a notice's message, else the body.
func (c *rawClient) until(kind byte) string {
	c.t.Helper()
	for {
		got, body, err := readMessage(c.conn)
		require.NoError(c.t, err)
		if got != kind {
			continue
		}
		var response pgproto3.ErrorResponse
		if kind == 'E' || kind == 'N' {
			require.NoError(c.t, response.Decode(body))
		}
		switch kind {
		case 'E':
			return response.Code
		case 'N':
			return response.Message
		}
		return string(body)
	}
}
