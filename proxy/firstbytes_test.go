package proxy

import (
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
)

// packet is a packet of startup: a code and what follows it.
func packet(code uint32, rest string) []byte {
	out := binary.BigEndian.AppendUint32(nil, uint32(8+len(rest)))
	return append(binary.BigEndian.AppendUint32(out, code), rest...)
}

// hostOf is the address in a URL.
func hostOf(t *testing.T, address string) string {
	t.Helper()
	target, err := url.Parse(address)
	require.NoError(t, err)
	return target.Host
}

func dialTCP(t *testing.T, address string) net.Conn {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	return conn
}

// told is what a peer says until it closes the connection or is ready: each message by its type and, of errors and of
// NegotiateProtocolVersion, what is in it; first the answers to requests.
func told(t *testing.T, conn net.Conn, answers int) string {
	t.Helper()
	head := make([]byte, answers)
	n, err := io.ReadFull(conn, head)
	said := string(head[:n])
	for err == nil {
		var kind byte
		var body []byte
		if kind, body, err = readMessage(conn); err != nil {
			break
		}
		said += string(kind)
		switch kind {
		case 'E':
			var response pgproto3.ErrorResponse
			require.NoError(t, response.Decode(body))
			message, _, _ := strings.Cut(response.Message, ": server supports")
			return said + " " + response.Severity + " " + response.Code + " " + message + " " + response.Detail
		case 'v':
			said += string(body)
		case 'Z':
			return strings.ReplaceAll(said, "S", "")
		}
	}
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded, said)
	return said + "."
}

// TestFirstBytes sends what may come before a session, in one piece as injected bytes would, to PostgreSQL and to barkeep: the
// same is answered. PostgreSQL may have been built to grant GSSENCRequest, which barkeep never does.
func TestFirstBytes(t *testing.T) {
	t.Parallel()
	b := start(t, nil)
	target, err := url.Parse(b.url)
	require.NoError(t, err)
	login := "user\x00" + target.User.Username() + "\x00database\x00" + strings.TrimPrefix(target.Path, "/") + "\x00"
	hello, ssl, gss := packet(3<<16, login+"\x00"), packet(codeSSL, ""), packet(codeGSS, "")
	for name, each := range map[string]struct {
		sent    [][]byte // each after the answer of a byte to the one before
		answers int
		want    string
		own     bool // PostgreSQL is not asked
	}{
		"too short":                    {sent: [][]byte{{0, 0, 0, 7}}, want: "."},
		"a length of 2 GB":             {sent: [][]byte{{0x7f, 0xff, 0xff, 0xff}}, want: "."},
		"10,005 bytes":                 {sent: [][]byte{packet(3<<16, login+"x\x00"+strings.Repeat("y", 10_005-8-len(login)-4)+"\x00\x00")}, want: "."},
		"10,004 bytes":                 {sent: [][]byte{packet(3<<16, login+"application_name\x00"+strings.Repeat("y", 10_004-8-len(login)-17-2)+"\x00\x00")}},
		"3.0":                          {sent: [][]byte{hello}},
		"3.2":                          {sent: [][]byte{packet(3<<16|2, login+"\x00")}},
		"3.9999 with _pq_":             {sent: [][]byte{packet(3<<16|9999, login+"_pq_.x\x00y\x00_pq_.test_protocol_negotiation\x00\x00\x00")}},
		"3.0 with _pq_":                {sent: [][]byte{packet(3<<16, login+"_pq_.x\x00y\x00\x00")}},
		"2.0":                          {sent: [][]byte{packet(2<<16, "\x00")}},
		"4.0":                          {sent: [][]byte{packet(4<<16, login+"\x00")}, want: "E FATAL 0A000 unsupported frontend protocol 4.0 "},
		"8 bytes of 3.0":               {sent: [][]byte{packet(3<<16, "")}},
		"no terminator":                {sent: [][]byte{packet(3<<16, login)}},
		"no user":                      {sent: [][]byte{packet(3<<16, "database\x00x\x00\x00")}},
		"no such database":             {sent: [][]byte{packet(3<<16, "user\x00"+target.User.Username()+"\x00database\x00none\x00\x00")}},
		"SSLRequest":                   {sent: [][]byte{ssl, hello}, answers: 1},
		"GSSENCRequest":                {sent: [][]byte{gss, hello}, answers: 1, own: true, want: "NRKZ"},
		"GSS, then SSL":                {sent: [][]byte{gss, ssl, hello}, answers: 2, own: true, want: "NNRKZ"},
		"SSL, then GSS":                {sent: [][]byte{ssl, gss, hello}, answers: 2, own: true, want: "NNRKZ"},
		"SSLRequest twice":             {sent: [][]byte{ssl, ssl}, answers: 1, want: "NE FATAL 0A000 unsupported frontend protocol 1234.5679 "},
		"GSSENCRequest twice":          {sent: [][]byte{gss, gss}, answers: 1, want: "NE FATAL 0A000 unsupported frontend protocol 1234.5680 ", own: true},
		"SSLRequest with more":         {sent: [][]byte{append(packet(codeSSL, ""), hello...)}, answers: 1, want: "NE FATAL 08P01 received unencrypted data after SSL request This could be either a client-software bug or evidence of an attempted man-in-the-middle attack."},
		"SSLRequest with a byte more":  {sent: [][]byte{append(packet(codeSSL, ""), 0)}, answers: 1},
		"GSSENCRequest with more":      {sent: [][]byte{append(packet(codeGSS, ""), ssl...)}, answers: 1, want: "NE FATAL 08P01 received unencrypted data after GSSAPI encryption request This could be either a client-software bug or evidence of an attempted man-in-the-middle attack.", own: true},
		"TLS where there is none":      {sent: [][]byte{{recordHandshake, 3, 1, 0, 200, 1}}, want: "."},
		"cancel without a key":         {sent: [][]byte{packet(codeCancel, "")}, want: "."},
		"cancel of nobody":             {sent: [][]byte{packet(codeCancel, "\x00\x00\x00\x01key!")}, want: "."},
		"cancel after a no to SSL":     {sent: [][]byte{ssl, packet(codeCancel, "\x00\x00\x00\x01key!")}, answers: 1, want: "N."},
		"cancel with a key too long":   {sent: [][]byte{packet(codeCancel, "\x00\x00\x00\x01"+strings.Repeat("k", 257))}, want: "."},
		"SSLRequest of nine bytes":     {sent: [][]byte{packet(codeSSL, "\x00")}, answers: 1, own: true},
		"HTTP":                         {sent: [][]byte{[]byte("GET / HTTP/1.1\r\n\r\n")}, want: "."},
		"nothing":                      {sent: nil, want: "."},
		"a byte":                       {sent: [][]byte{{0}}, want: "."},
		"a length":                     {sent: [][]byte{{0, 0, 0, 8}}, want: "."},
		"a StartupMessage without end": {sent: [][]byte{hello[:20]}, want: "."},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var said [2]string
			for i, address := range []string{hostOf(t, b.db.URL), hostOf(t, b.url)} {
				if i == 0 && each.own {
					continue
				}
				conn := dialTCP(t, address)
				answer := make([]byte, 1)
				for j, sent := range each.sent {
					_, err := conn.Write(sent)
					require.NoError(t, err)
					if j+1 < len(each.sent) {
						_, err = io.ReadFull(conn, answer)
						require.NoError(t, err)
						said[i] += string(answer)
					}
				}
				if each.want == "." || strings.HasSuffix(each.want, "N.") {
					_ = conn.(*net.TCPConn).CloseWrite() // the peer may have gone already
				}
				said[i] += told(t, conn, each.answers-len(said[i]))
			}
			if !each.own {
				require.Equal(t, said[0], said[1])
			}
			if each.want != "" {
				require.Equal(t, each.want, said[1])
			}
		})
	}
}
