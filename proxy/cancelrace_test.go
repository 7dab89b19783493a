package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
)

// sendCancel sends a cancel request, and returns what is closed when its connection is.
func sendCancel(t *testing.T, address string, pid uint32, key []byte) <-chan struct{} {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
	require.NoError(t, err)
	packet := binary.BigEndian.AppendUint32(nil, uint32(12+len(key)))
	packet = binary.BigEndian.AppendUint32(packet, codeCancel)
	packet = append(binary.BigEndian.AppendUint32(packet, pid), key...)
	_, err = conn.Write(packet)
	require.NoError(t, err)
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		defer conn.Close()
		_, _ = conn.Read(make([]byte, 1))
	}()
	t.Cleanup(func() { <-closed })
	return closed
}

// PROTOCOL 4: while the upstream has a cancel request for a session, what its client sends waits: the request would end it
// instead of what it was sent for. Then it goes on, as it does when the upstream takes too long.
func TestCancelNeverHitsTheNextStatement(t *testing.T) {
	for name, each := range map[string]struct {
		change func(*Config)
		next   pgproto3.FrontendMessage
	}{
		"a statement":      {next: &pgproto3.Query{String: "select 2"}},
		"one that is held": {next: &pgproto3.Query{String: read}},
		"not planned":      {change: func(c *Config) { c.Database = "" }, next: &pgproto3.Query{String: "select 2"}},
	} {
		for _, tooLong := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				up := newFakeUpstream(t, []byte("four"))
				up.closing = make(chan struct{})
				closing := sync.OnceFunc(func() { close(up.closing) })
				t.Cleanup(closing)
				b := start(t, func(c *Config) {
					c.Upstream.Address = up.address
					if each.change != nil {
						each.change(c)
					}
				})
				if tooLong {
					b.server.patience = 300 * time.Millisecond
				}
				client := dialRaw(t, b.url, false)
				client.send(&pgproto3.Parse{}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Flush{})
				client.until('C')
				began := time.Now()
				closed := sendCancel(t, client.conn.RemoteAddr().String(), up.pid, up.key)
				<-up.canceled
				client.send(&pgproto3.Sync{}, each.next)
				if !tooLong {
					select {
					case text := <-up.queries:
						t.Fatalf("%q went upstream before the cancel request was dealt with", text)
					case <-closed:
						t.Fatal("the client was told that it was dealt with")
					case <-time.After(150 * time.Millisecond):
					}
					closing()
				}
				<-up.queries
				client.until('Z')
				client.until('Z')
				<-closed
				if tooLong {
					require.GreaterOrEqual(t, time.Since(began), 300*time.Millisecond)
				}
			})
		}
	}
}

// A cancel request for a session that does nothing is ignored, as PostgreSQL ignores it: the upstream is not bothered.
func TestCancelOfTheIdle(t *testing.T) {
	up := newFakeUpstream(t, []byte("four"))
	b := start(t, func(c *Config) { c.Upstream.Address = up.address })
	client := dialRaw(t, b.url, false)
	for _, messages := range [][]pgproto3.FrontendMessage{
		nil,
		{&pgproto3.Query{String: "select 1"}},
		{&pgproto3.Parse{}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{}},
		{&pgproto3.Query{String: read}},
	} {
		if messages != nil {
			client.send(messages...)
			client.until('Z')
		}
		cancelRaw(t, client.conn.RemoteAddr().String(), up.pid, up.key)
		require.Empty(t, up.canceled)
	}
	client.send(&pgproto3.Query{String: "select 1"})
	client.until('Z')
}

// A cancel request that comes when the statement has left its hold, and is not upstream yet, is the upstream's once it is there.
func TestCancelBehindRelease(t *testing.T) {
	up := newFakeUpstream(t, []byte("four"))
	b := start(t, func(c *Config) { c.Upstream.Address = up.address })
	client := dialRaw(t, b.url, false)
	s := b.server.find(up.pid, up.key)
	h := &hold{session: s}
	h.arm(t.Context())
	require.NoError(t, h.letGo())
	h.end()
	closed := sendCancel(t, client.conn.RemoteAddr().String(), up.pid, up.key)
	select {
	case <-up.canceled:
		t.Fatal("passed on before the statement")
	case <-closed:
		t.Fatal("lost")
	case <-time.After(100 * time.Millisecond):
	}
	client.send(&pgproto3.Query{String: "select 1"})
	<-closed
	client.until('Z')
}

// Whatever the upstream does for a session ends by a cancel request: a Query, an execution, COPY either way, in a block and
// outside; the session then goes on.
func TestCancelForwarded(t *testing.T) {
	b := start(t, nil)
	require.NoError(t, simpleExec(b.connect(t, nil), "create table copied (a int)"))
	extended := func(text string) []pgproto3.FrontendMessage {
		return []pgproto3.FrontendMessage{&pgproto3.Parse{Query: text}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{}}
	}
	const out, in = "copy (select repeat('x', 1000), generate_series(1, 100000000)) to stdout", "copy copied from stdin"
	for name, each := range map[string]struct {
		send  []pgproto3.FrontendMessage
		until byte
	}{
		"simple":            {[]pgproto3.FrontendMessage{&pgproto3.Query{String: "notify x; select pg_sleep(60)"}}, 'C'},
		"extended":          {extended("select pg_sleep(60)"), '2'},
		"COPY to":           {[]pgproto3.FrontendMessage{&pgproto3.Query{String: out}}, 'd'},
		"COPY to, extended": {extended(out), 'd'},
		"COPY from":         {[]pgproto3.FrontendMessage{&pgproto3.Query{String: in}}, 'G'},
		// Its Sync is ignored: nothing is outstanding that a ReadyForQuery answers.
		"COPY from, extended": {extended(in), 'G'},
	} {
		for _, block := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				conn := b.connect(t, nil)
				hijacked, err := conn.PgConn().Hijack()
				require.NoError(t, err)
				c := &rawClient{t: t, conn: hijacked.Conn}
				require.NoError(t, c.conn.SetDeadline(time.Now().Add(30*time.Second)))
				t.Cleanup(func() { _ = c.conn.Close() })
				if block {
					c.send(&pgproto3.Query{String: "begin"})
					c.until('Z')
				}
				c.send(each.send...)
				if each.until == '2' {
					c.send(&pgproto3.Flush{})
				}
				if each.until != 'C' && each.until != '2' {
					c.until(each.until)
				} else {
					b.active(t, hijacked.PID)
				}
				<-sendCancel(t, c.conn.RemoteAddr().String(), hijacked.PID, hijacked.SecretKey)
				if each.until == 'G' { // PostgreSQL looks when there is data
					c.send(&pgproto3.CopyData{Data: []byte("1\n")})
				}
				require.Equal(t, "57014", c.until('E'))
				if each.until == 'G' {
					c.send(&pgproto3.CopyFail{})
					if name != "COPY from" {
						c.send(&pgproto3.Sync{})
					}
				}
				want := "I"
				if block {
					want = "E"
				}
				require.Equal(t, want, c.until('Z'))
				// A COPY that is ended before it has read anything answers both of its Syncs.
				c.send(&pgproto3.Query{String: "rollback"})
				require.Equal(t, "ROLLBACK\x00", c.until('C'))
				require.Equal(t, "I", c.until('Z'))
				c.send(&pgproto3.Query{String: read})
				c.until('D')
				require.Equal(t, "I", c.until('Z'))
			})
		}
	}
}

// active returns when the session with the process id works.
func (b *bar) active(t *testing.T, pid uint32) {
	t.Helper()
	require.Eventually(t, func() bool {
		var n int
		err := b.db.Pool.QueryRow(t.Context(), "select count(*) from pg_stat_activity where pid = $1 and state = 'active' and wait_event = 'PgSleep'", int64(pid)).Scan(&n)
		return err == nil && n == 1
	}, 10*time.Second, 5*time.Millisecond)
}

// lateCancels is an upstream that takes its time for cancel requests.
func lateCancels(t *testing.T, address string) string {
	t.Helper()
	return accepting(t, func(in net.Conn) {
		out, err := new(net.Dialer).DialContext(context.WithoutCancel(t.Context()), "tcp", address)
		if err != nil {
			return
		}
		defer out.Close()
		defer out.Close()
		packet, err := readStartup(in)
		if err != nil {
			return
		}
		if binary.BigEndian.Uint32(packet[4:]) == codeCancel {
			<-time.After(rand.N(15 * time.Millisecond))
		}
		if _, err := out.Write(packet); err != nil {
			return
		}
		tunnel(in, out)
	})
}

// TestRandomCancels: cancel requests at random times never end a statement that was sent after barkeep had them, though the client
// does not wait for them and the upstream is late. Those that come in time end what was sent before.
func TestRandomCancels(t *testing.T) {
	b := start(t, func(c *Config) { c.Upstream.Address = lateCancels(t, c.Upstream.Address) })
	conn := b.connect(t, nil)
	s := b.server.find(conn.PgConn().PID(), conn.PgConn().SecretKey())
	require.NotNil(t, s)
	address := conn.PgConn().Conn().RemoteAddr().String()
	modes := []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec, pgx.QueryExecModeCacheStatement}
	ended := map[string]int{}
	for n := range 300 {
		b.forget(nil) // each read has a gap
		mode := modes[n%len(modes)]
		text := "select pg_sleep($1)"
		if n%4 == 0 {
			text = read + " and pg_sleep($1) is not null"
		}
		done := make(chan error, 1)
		go func() { _, err := conn.Exec(context.Background(), text, mode, rand.Float64()*0.006); done <- err }()
		<-time.After(rand.N(8 * time.Millisecond))
		before := s.requests()
		closed := sendCancel(t, address, conn.PgConn().PID(), conn.PgConn().SecretKey())
		for taken := false; !taken; { // the request has come to barkeep
			select {
			case <-closed:
				taken = true
			case <-time.After(100 * time.Microsecond):
				taken = s.requests() > before
			}
		}
		err := <-done
		ended[code(err)]++
		if err != nil {
			require.Equal(t, "57014", code(err))
		}
		_, err = conn.Exec(t.Context(), "select pg_sleep(0.004)", mode)
		require.NoError(t, err, "the next statement was hit, round %d", n)
	}
	t.Log(ended)
	require.Positive(t, ended["57014"])
	require.Positive(t, ended[""])
}

// requests counts the cancel requests that are on their way upstream.
func (s *session) requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.canceling
}

// A cancel request in the middle of a pipeline ends one statement that was sent before it at most.
func TestRandomCancelsInPipeline(t *testing.T) {
	b := start(t, func(c *Config) { c.Upstream.Address = lateCancels(t, c.Upstream.Address) })
	conn := b.connect(t, nil)
	for range 20 {
		b.forget(nil)
		pipeline := conn.PgConn().StartPipeline(t.Context())
		for _, text := range []string{"select pg_sleep(0.003)", read, "select pg_sleep(0.003)", readOf("sim:ETHUSD"), "select pg_sleep(0.003)"} {
			pipeline.SendQueryParams(text, nil, nil, nil, nil)
			require.NoError(t, pipeline.Sync())
		}
		<-time.After(rand.N(15 * time.Millisecond))
		closed := sendCancel(t, conn.PgConn().Conn().RemoteAddr().String(), conn.PgConn().PID(), conn.PgConn().SecretKey())
		hit := 0
		for range 5 {
			results, err := pipeline.GetResults()
			if reader, ok := results.(*pgconn.ResultReader); ok && err == nil {
				err = reader.Read().Err
			}
			if failure, ok := errors.AsType[*pgconn.PgError](err); ok {
				require.Equal(t, "57014", failure.Code)
				hit++
			} else {
				require.NoError(t, err)
			}
			_, err = pipeline.GetResults()
			require.NoError(t, err)
		}
		require.LessOrEqual(t, hit, 1)
		<-closed
		require.NoError(t, pipeline.Close())
		require.NoError(t, simpleExec(conn, "select pg_sleep(0.004)"))
	}
}
