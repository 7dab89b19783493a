package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"barkeep/internal/certtest"
	"barkeep/internal/market"
	"barkeep/planner"
)

// memoryConn is a connection whose peer is the test: it reads from in and writes by write.
type memoryConn struct {
	net.Conn
	in      io.Reader
	write   func([]byte)
	address net.Addr // nil is a unix socket's
}

func (c *memoryConn) Read(b []byte) (int, error)       { return c.in.Read(b) }
func (c *memoryConn) Write(b []byte) (int, error)      { c.write(b); return len(b), nil }
func (*memoryConn) Close() error                       { return nil }
func (*memoryConn) SetDeadline(time.Time) error        { return nil }
func (c *memoryConn) SetReadDeadline(time.Time) error  { return nil }
func (c *memoryConn) SetWriteDeadline(time.Time) error { return nil }

func (c *memoryConn) RemoteAddr() net.Addr {
	if c.address == nil {
		return &net.UnixAddr{}
	}
	return c.address
}

// deafReader has nothing to read, ever.
type deafReader struct{}

func (deafReader) Read([]byte) (int, error) { return 0, os.ErrDeadlineExceeded }

// allKnown is the catalog of a database where everybody may read ohlcv.
type allKnown struct{ catalog *planner.Catalog }

func (a allKnown) Current() *planner.Catalog { return a.catalog }

func (allKnown) Answer(context.Context, []planner.Question) (planner.Answers, error) {
	return planner.Answers{}, nil
}

func (allKnown) MayRead(context.Context, string, []string, string) (bool, error) { return true, nil }

// atOnce fills each gap at once.
type atOnce struct{ filled bool }

func (*atOnce) Snapshot() Version { return 1 }

func (a *atOnce) Missing(context.Context, Request) (int64, error) {
	if a.filled {
		return 0, nil
	}
	return 1, nil
}

func (a *atOnce) Ensure(context.Context, Request, func(market.Progress)) ([]string, error) {
	a.filled = true
	return nil, nil
}

// memorySession is a session between a client and an upstream in memory. The upstream ends every statement with
// ReadyForQuery and answers each SHOW of the proxy's own with "postgres" or nothing.
func memorySession(tb testing.TB) (s *session, sent, seen *bytes.Buffer) {
	tb.Helper()
	server := New(Config{Database: "d", Coordinator: &atOnce{}, Catalog: allKnown{&planner.Catalog{Version: 1}}, MaxMessage: 1 << 16})
	sent, seen = new(bytes.Buffer), new(bytes.Buffer)
	s = newSession(server, &memoryConn{in: deafReader{}, write: func(b []byte) { seen.Write(b) }})
	s.planned, s.params, s.statements = true, map[string]string{"TimeZone": "UTC", "server_version": "17"}, map[string]candidates{}
	s.cancel = func() {}
	s.upstream = &memoryConn{in: deafReader{}, write: func(b []byte) {
		sent.Write(b)
		s.mu.Lock()
		defer s.mu.Unlock()
		for s.waiting > 0 {
			var out []byte
			if e := s.head(); e.kind == kindOwn {
				out = ownAnswers(b)
			}
			out = append(out, encode(&pgproto3.ReadyForQuery{TxStatus: 'I'})...)
			if _, used, err := s.walk(out); err != nil || used != len(out) {
				tb.Errorf("answers not understood: %v", err)
				return
			}
		}
		if bytes.HasSuffix(b, encode(&pgproto3.Flush{})) {
			answerFlush(tb, s)
		}
	}}
	return s, sent, seen
}

// answerFlush answers what is outstanding of an open segment. The caller holds mu.
func answerFlush(tb testing.TB, s *session) {
	tb.Helper()
	for range len(s.entries) {
		e, answer := s.head(), byte('1')
		switch {
		case e == nil:
			return
		case e.kind == kindClose:
			answer = '3'
		case e.kind != kindParse:
			continue // it is passed by with the next
		}
		if _, _, err := s.walk([]byte{answer, 0, 0, 0, 4}); err != nil {
			tb.Errorf("answers not understood: %v", err)
		}
	}
}

// ownAnswers is a row for each Execute in what was written.
func ownAnswers(written []byte) (out []byte) {
	text := ""
	for len(written) >= 5 {
		size := int(binary.BigEndian.Uint32(written[1:])) + 1
		switch written[0] {
		case 'P':
			text = string(written[5:size])
		case 'E':
			value := ""
			if strings.Contains(text, "session_authorization") {
				value = "postgres"
			}
			out = append(out, encode(&pgproto3.DataRow{Values: [][]byte{[]byte(value)}})...)
		}
		written = written[size:]
	}
	return out
}

// clientBytes are what the transcripts' clients send, as seeds.
func clientBytes(f *testing.F) {
	f.Helper()
	files, err := filepath.Glob("../testdata/pgwire/*.txt")
	require.NoError(f, err)
	require.NotEmpty(f, files)
	for _, file := range files {
		script, err := os.ReadFile(file)
		require.NoError(f, err)
		var all []byte
		for line := range strings.Lines(string(script)) {
			line = strings.TrimSpace(line)
			switch kind, rest, _ := strings.Cut(line, " "); kind {
			case "Q":
				all = append(all, encode(&pgproto3.Query{String: rest})...)
			case "P":
				_, text, _ := strings.Cut(rest, " ")
				all = append(all, encode(&pgproto3.Parse{Query: text})...)
			case "B":
				all = append(all, encode(&pgproto3.Bind{})...)
			case "E":
				all = append(all, encode(&pgproto3.Execute{})...)
			case "H":
				all = append(all, encode(&pgproto3.Flush{})...)
			case "S":
				all = append(all, encode(&pgproto3.Sync{})...)
			case "d":
				all = append(all, encode(&pgproto3.CopyData{Data: []byte(rest)})...)
			case "c":
				all = append(all, encode(&pgproto3.CopyDone{})...)
			}
		}
		f.Add(all, uint8(1))
		f.Add(all, uint8(100))
	}
	parameters := slices.Concat(encode(&pgproto3.Parse{Query: "select * from ohlcv where symbol = $1 and timeframe = '1m' and ts > $2", ParameterOIDs: []uint32{25, 1184}}),
		encode(&pgproto3.Bind{ParameterFormatCodes: []int16{0, 1}, Parameters: [][]byte{[]byte("sim:X"), make([]byte, 8)}}), encode(&pgproto3.Sync{}))
	f.Add(parameters, uint8(3))
}

// FuzzClientMessages sends anything as a client's messages, a few bytes at a time: nothing breaks, nothing waits for ever,
// and where barkeep has no word of its own to say, what goes upstream is what came, in its order.
func FuzzClientMessages(f *testing.F) {
	clientBytes(f)
	f.Fuzz(func(t *testing.T, data []byte, step uint8) {
		s, sent, seen := memorySession(t)
		r := &s.reader
		var failure error
		for rest := data; len(rest) > 0 && failure == nil; {
			r.room(nil)
			n := copy(r.buf[r.end:], rest[:min(len(rest), int(step)+1)])
			r.end, rest = r.end+n, rest[n:]
			failure = s.advance(t.Context())
			if r.start < 0 || r.start > r.segment || r.segment > r.scan || r.scan > r.end || s.waiting < 0 {
				t.Fatalf("start %d, segment %d, scan %d, end %d, waiting %d", r.start, r.segment, r.scan, r.end, s.waiting)
			}
		}
		own := bytes.Contains(sent.Bytes(), []byte(ownName)) || bytes.Contains(sent.Bytes(), []byte(failMark))
		if !own && seen.Len() == 0 && !comesFirst(sent.Bytes(), data) {
			t.Fatalf("sent %q upstream for %q", sent.Bytes(), data)
		}
	})
}

// comesFirst reports whether data begins with what was sent, but for Closes of statements that are bound next.
func comesFirst(sent, data []byte) bool {
	for len(sent) > 0 {
		if len(sent) < 5 {
			return bytes.HasPrefix(data, sent)
		}
		size := min(1+int(binary.BigEndian.Uint32(sent[1:])), len(sent))
		if bytes.HasPrefix(data, sent[:size]) {
			sent, data = sent[size:], data[size:]
			continue
		}
		next := sent[size:]
		if sent[0] != 'C' || len(next) < 5 || next[0] != 'B' || sent[5] != 'S' {
			return false
		}
		if _, of, ok := cstring(next[5:]); !ok || !bytes.HasPrefix(of, sent[6:size]) {
			return false
		}
		sent = next
	}
	return true
}

// FuzzUpstreamMessages sends anything as the upstream's messages: what the client gets is what came, but for the answers to
// barkeep's own messages.
func FuzzUpstreamMessages(f *testing.F) {
	hello := slices.Concat(encode(&pgproto3.ParseComplete{}), encode(&pgproto3.ParameterStatus{Name: "TimeZone", Value: "UTC"}),
		encode(&pgproto3.ErrorResponse{Severity: "ERROR", Code: "26000", Message: failMark}), encode(&pgproto3.DataRow{Values: [][]byte{[]byte("x")}}),
		encode(&pgproto3.ReadyForQuery{TxStatus: 'I'}), encode(&pgproto3.CopyInResponse{}), encode(&pgproto3.ReadyForQuery{TxStatus: 'T'}))
	f.Add(hello, "QPSxCc", uint8(2))
	f.Add(hello, "xxSS", uint8(200))
	f.Add(hello, "", uint8(0))
	f.Fuzz(func(t *testing.T, data []byte, sent string, step uint8) {
		s, _, seen := memorySession(t)
		verbatim := true
		for _, kind := range []byte(sent) {
			switch kind {
			case kindOwn:
				verbatim = false
				s.push(entry{kind: kindOwn, own: &exchange{done: make(chan struct{})}})
			case kindSync:
				verbatim = false
				s.failures = append(s.failures, errCanceled.encode())
				s.push(entry{kind: kindSync, clears: true})
			case kindQuery, kindCall, kindParse, kindClose, kindCopyEnd:
				s.push(entry{kind: kind, stmt: &statement{}, bound: true})
			}
		}
		for rest := data; len(rest) > 0; {
			s.roomUpstream(nil)
			n := copy(s.upBuf[s.have:], rest[:min(len(rest), int(step)+1)])
			if n == 0 {
				t.Fatal("no room for what comes next")
			}
			s.have, rest = s.have+n, rest[n:]
			if s.pumpOnce() != nil {
				break
			}
			if s.waiting < 0 || s.owned < 0 {
				t.Fatalf("waiting %d, owned %d", s.waiting, s.owned)
			}
		}
		if verbatim && !bytes.HasPrefix(data, seen.Bytes()) {
			t.Fatalf("the client saw %q of %q", seen.Bytes(), data)
		}
	})
}

// FuzzStartup sends anything as a client's first bytes, in the clear and inside of TLS that it asked for by its first byte: a
// StartupMessage comes out as it came in, within its bound, or not at all; nothing comes out of what was sent with a request.
func FuzzStartup(f *testing.F) {
	plain := packet(3<<16, "user\x00u\x00database\x00d\x00options\x00-c a=b\x00\x00")
	ssl, gss := packet(codeSSL, ""), packet(codeGSS, "")
	hello := clientHello(f)
	for _, seed := range [][]byte{
		plain, slices.Concat(ssl, plain), slices.Concat(gss, ssl, packet(3<<16|2, "replication\x00true\x00user\x00\x00_pq_.x\x00\x00\x00")),
		packet(codeCancel, "\x00\x00\x00\x01keykeykey"),
		packet(2<<16, ""),
		hello,
		slices.Concat(ssl, hello),
		slices.Concat(hello[:40], hello),
		{recordHandshake},
	} {
		f.Add(seed, uint8(0))
		f.Add(seed, uint8(7))
	}
	pair := certtest.NewAuthority(f).Pair(f, "barkeep")
	config := &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{alpn}}
	up := Upstream{Place: Place{Network: "unix", Address: "/nowhere"}}
	bare, served := New(Config{Database: "d", Upstream: up}), New(Config{Database: "d", Upstream: up, TLS: config})
	f.Fuzz(func(t *testing.T, data []byte, step uint8) {
		var answer bytes.Buffer
		s := newSession(bare, &memoryConn{in: stepReader{bytes.NewReader(data), int(step)}, write: func(b []byte) { answer.Write(b) }})
		got, err := s.startup(t.Context())
		checkStartup(t, s, data, got, err, answer.String())
		if got != nil && step == 0 && answer.Len() > 0 {
			t.Fatalf("%q came with a request, and %q was taken", data, got)
		}

		answer.Reset()
		s = newSession(served, &memoryConn{in: stepReader{bytes.NewReader(data), int(step)}, address: &net.TCPAddr{}, write: func(b []byte) { answer.Write(b) }})
		if got, _ = s.startup(t.Context()); got != nil {
			checkStartup(t, s, data, got, nil, answer.String())
		}
		checkInsideTLS(t, served, data)
	})
}

// checkStartup says what a StartupMessage that came out must be.
func checkStartup(t *testing.T, s *session, data, got []byte, err error, answer string) {
	t.Helper()
	if got == nil {
		return
	}
	code := binary.BigEndian.Uint32(got[4:])
	if err != nil || len(got) < minStartup || len(got) > maxStartup || !bytes.Contains(data, got) || code>>16 != 3 && code != codeCancel {
		t.Fatalf("%q came out of %q: %v", got, data, err)
	}
	if strings.Trim(answer, "N") != "" || len(answer) > 2 {
		t.Fatalf("answered with %q", answer)
	}
	s.describe(got)
	if s.planned {
		t.Fatal("planned without a coordinator")
	}
}

// checkInsideTLS sends the same within TLS: it is read as the first bytes in the clear are, and encryption is not granted again.
func checkInsideTLS(t *testing.T, server *Server, data []byte) {
	t.Helper()
	near, far := net.Pipe()
	var running sync.WaitGroup
	defer running.Wait()
	defer near.Close()
	running.Go(func() {
		client := tls.Client(near, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{alpn}})
		if client.HandshakeContext(t.Context()) != nil {
			return
		}
		running.Go(func() {
			_, _ = client.Write(data)
			_ = client.CloseWrite()
		})
		answers, _ := io.ReadAll(client)
		if bytes.HasPrefix(bytes.TrimLeft(answers, "N"), []byte("S")) {
			t.Errorf("granted TLS within TLS for %q", data)
		}
	})
	s := newSession(server, tcpConn{far})
	got, err := s.startup(t.Context())
	_ = far.Close()
	if got != nil && (!s.clientTLS || err != nil || !bytes.Contains(data, got)) {
		t.Fatalf("%q came out of %q inside of TLS: %v", got, data, err)
	}
}

// tcpConn passes for a connection over TCP.
type tcpConn struct{ net.Conn }

func (tcpConn) RemoteAddr() net.Addr { return &net.TCPAddr{} }

// stepReader reads at most so many bytes at a time; 0 is all.
type stepReader struct {
	io.Reader
	step int
}

func (r stepReader) Read(b []byte) (int, error) {
	if r.step > 0 && len(b) > r.step {
		b = b[:r.step]
	}
	return r.Reader.Read(b)
}

// clientHello is how a TLS client begins.
func clientHello(tb testing.TB) []byte {
	tb.Helper()
	var sent bytes.Buffer
	client := tls.Client(&memoryConn{in: deafReader{}, write: func(b []byte) { sent.Write(b) }}, &tls.Config{ServerName: "localhost", NextProtos: []string{alpn}})
	require.Error(tb, client.HandshakeContext(tb.Context()))
	require.EqualValues(tb, recordHandshake, sent.Bytes()[0])
	return sent.Bytes()
}
