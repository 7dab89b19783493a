package proxy

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"barkeep/internal/market"
)

// forget takes the coverage back, and has the next Ensure wait for the channel.
func (f *filler) forget(block chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.covered = map[market.Series]int64{}
	f.block = block
}

func (f *filler) requests() int { return len(f.requested()) }

// requested returns what Ensure was asked for: under its lock, since what passes through sockets orders nothing for the race detector.
func (f *filler) requested() []Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.asked)
}

// DESIGN §7: a cancel request during a hold ends the statement, in every mode, and fails the block that it is in; it is
// not passed on.
func TestCancelDuringHold(t *testing.T) {
	b := start(t, nil)
	b.forget(make(chan struct{}))
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec, pgx.QueryExecModeCacheStatement} {
		for _, block := range []bool{false, true} {
			conn := b.connect(t, nil)
			if block {
				_, err := conn.Exec(t.Context(), "begin", pgx.QueryExecModeSimpleProtocol)
				require.NoError(t, err)
			}
			done := make(chan error, 1)
			go func() { _, err := conn.Exec(context.Background(), read, mode); done <- err }()
			<-b.began
			began := time.Now()
			require.NoError(t, conn.PgConn().CancelRequest(t.Context()))
			err := <-done
			t.Logf("answered after %s", time.Since(began))
			require.Less(t, time.Since(began), 5*time.Second)
			require.Equal(t, "57014", code(err), mode)
			require.ErrorContains(t, err, "user request")
			require.Error(t, <-b.ended)
			if block {
				require.EqualValues(t, 'E', conn.PgConn().TxStatus(), mode)
				_, err = conn.Exec(t.Context(), "select 1", pgx.QueryExecModeSimpleProtocol)
				require.Equal(t, "25P02", code(err))
				_, err = conn.Exec(t.Context(), "rollback", pgx.QueryExecModeSimpleProtocol)
				require.NoError(t, err)
			}
			require.EqualValues(t, 'I', conn.PgConn().TxStatus(), mode)
			_, err = conn.Exec(t.Context(), "select pg_sleep(0.02)", pgx.QueryExecModeSimpleProtocol)
			require.NoError(t, err, "the cancel request was passed on")
		}
	}
}

// A cancel request in the middle of a pipeline hits the segment that is worked on: upstream, or in the hold.
func TestCancelInPipeline(t *testing.T) {
	b := start(t, nil)
	block := make(chan struct{})
	b.forget(block)
	conn := b.connect(t, nil)
	pipeline := conn.PgConn().StartPipeline(t.Context())
	for _, text := range []string{"select pg_sleep(20)", read, "select 3", read} {
		pipeline.SendQueryParams(text, nil, nil, nil, nil)
		require.NoError(t, pipeline.Sync())
	}
	// What the upstream does can be seen from elsewhere only.
	require.Eventually(t, func() bool {
		var n int
		err := b.db.Pool.QueryRow(t.Context(), "select count(*) from pg_stat_activity where query like '%pg_sleep(20)' and state = 'active'").Scan(&n)
		return err == nil && n == 1
	}, 10*time.Second, 10*time.Millisecond)
	require.NoError(t, conn.PgConn().CancelRequest(t.Context()))
	next := func() ([][][]byte, error) {
		var rows [][][]byte
		results, failure := pipeline.GetResults()
		if reader, ok := results.(*pgconn.ResultReader); ok && failure == nil {
			result := reader.Read()
			rows, failure = result.Rows, result.Err
		}
		_, err := pipeline.GetResults()
		require.NoError(t, err)
		return rows, failure
	}
	_, err := next()
	require.Equal(t, "57014", code(err))
	<-b.began
	require.NoError(t, conn.PgConn().CancelRequest(t.Context()))
	_, err = next()
	require.Equal(t, "57014", code(err))
	rows, err := next()
	require.NoError(t, err)
	require.Equal(t, "3", string(rows[0][0]))
	<-b.began
	close(block)
	rows, err = next()
	require.NoError(t, err)
	require.Equal(t, "10", string(rows[0][0]))
	require.NoError(t, pipeline.Close())
}

// A cancel request that comes while the hold ends counts, or comes too late; it never hits the next statement.
func TestCancelRacesRelease(t *testing.T) {
	b := start(t, nil)
	conn := b.connect(t, nil)
	outcomes := map[string]int{}
	for range 60 {
		block := make(chan struct{})
		b.forget(block)
		done := make(chan error, 1)
		go func() { _, err := conn.Exec(context.Background(), read, pgx.QueryExecModeExec); done <- err }()
		<-b.began
		go close(block)
		require.NoError(t, conn.PgConn().CancelRequest(t.Context()))
		err := <-done
		outcomes[code(err)]++
		if err != nil {
			require.Equal(t, "57014", code(err))
		}
		_, err = conn.Exec(t.Context(), "select pg_sleep(0.005)", pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err, "the next statement was hit")
	}
	t.Log(outcomes)
}

// lastInstant is a coordinator whose Ensure succeeds just when the statement is cancelled.
type lastInstant struct{ *filler }

func (l lastInstant) Ensure(ctx context.Context, request Request, progress func(market.Progress)) ([]string, error) {
	l.began <- struct{}{}
	<-ctx.Done()
	return l.filler.Ensure(context.WithoutCancel(ctx), request, progress)
}

// A cancel request that was taken is not forgotten when the bars come at the same instant: the client has closed its
// cancel connection and waits for the error.
func TestCancelAtTheLastInstant(t *testing.T) {
	b := start(t, nil)
	b.server.cfg.Coordinator = lastInstant{b.filler}
	conn := b.connect(t, nil)
	done := make(chan error, 1)
	go func() { _, err := conn.Exec(context.Background(), read, pgx.QueryExecModeExec); done <- err }()
	<-b.began
	require.NoError(t, conn.PgConn().CancelRequest(t.Context()))
	require.Equal(t, "57014", code(<-done))
}

// slowCatalog takes its time for the privilege check.
type slowCatalog struct {
	Catalog
	asked chan struct{}
}

func (c slowCatalog) MayRead(ctx context.Context, _ string, _ []string, _ string) (bool, error) {
	close(c.asked)
	<-ctx.Done()
	return false, ctx.Err()
}

// A cancel request before the wait proper, while barkeep looks at the statement, counts too.
func TestCancelBeforeHold(t *testing.T) {
	asked := make(chan struct{})
	b := start(t, func(c *Config) { c.Catalog = slowCatalog{c.Catalog, asked} })
	conn := b.connect(t, nil)
	done := make(chan error, 1)
	go func() { _, err := conn.Exec(context.Background(), read); done <- err }()
	<-asked
	require.NoError(t, conn.PgConn().CancelRequest(t.Context()))
	require.Equal(t, "57014", code(<-done))
	require.Zero(t, b.requests())
}

// Cancel keys of 4 bytes (3.0) and of up to 256 (3.2) find the hold; a key that is not the session's does not.
func TestCancelKeys(t *testing.T) {
	for name, length := range map[string]int{"3.0": 4, "3.2": 32, "longest": 256} {
		t.Run(name, func(t *testing.T) {
			key := []byte(strings.Repeat("k", length))
			up := newFakeUpstream(t, key)
			b := start(t, func(c *Config) { c.Upstream.Address = up.address })
			b.forget(make(chan struct{}))
			client := dialRaw(t, b.url, length > 4)
			client.send(&pgproto3.Query{String: read})
			<-b.began
			address := client.conn.RemoteAddr().String()
			wrong := append([]byte(nil), key...)
			wrong[length-1] = 'x'
			cancelRaw(t, address, up.pid, wrong)
			require.Equal(t, wrong, (<-up.canceled)[12:], "passed on, as it came")
			require.Empty(t, b.ended)
			cancelRaw(t, address, up.pid, key)
			require.Equal(t, "57014", client.until('E'))
			require.Empty(t, up.canceled, "not passed on")
		})
	}
}

func cancelRaw(t *testing.T, address string, pid uint32, key []byte) {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
	require.NoError(t, err)
	defer conn.Close()
	packet := binary.BigEndian.AppendUint32(nil, uint32(12+len(key)))
	packet = binary.BigEndian.AppendUint32(packet, codeCancel)
	packet = append(binary.BigEndian.AppendUint32(packet, pid), key...)
	_, err = conn.Write(packet)
	require.NoError(t, err)
	_, err = conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
}

// Terminate and the client's death end the hold: whoever waits is released and the upstream's session ends; the fetch is
// the coordinator's own affair.
func TestDeathDuringHold(t *testing.T) {
	for name, end := range map[string]func(*rawClient){
		"terminate":         func(c *rawClient) { c.send(&pgproto3.Terminate{}) },
		"end of stream":     func(c *rawClient) { _ = c.conn.Close() },
		"reset":             func(c *rawClient) { _ = c.conn.(*net.TCPConn).SetLinger(0); _ = c.conn.Close() },
		"more than is read": func(c *rawClient) { _, _ = c.conn.Write(make([]byte, 2*readAhead)); _ = c.conn.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t, func(c *Config) { c.NoticeAfter, c.NoticeEvery = 30*time.Millisecond, 30*time.Millisecond })
			b.forget(make(chan struct{}))
			client := dialRaw(t, b.url, false)
			client.send(&pgproto3.Query{String: "set application_name = 'mortal'"})
			client.until('Z')
			client.send(&pgproto3.Query{String: read})
			<-b.began
			end(client)
			select {
			case err := <-b.ended:
				require.Error(t, err)
			case <-time.After(10 * time.Second):
				t.Fatal("the hold goes on without its client")
			}
			require.Eventually(t, func() bool {
				var n int
				err := b.db.Pool.QueryRow(t.Context(), "select count(*) from pg_stat_activity where application_name = 'mortal' and datname = current_database()").Scan(&n)
				return err == nil && n == 0
			}, 10*time.Second, 10*time.Millisecond)
			require.Eventually(t, func() bool { return b.server.Sessions() == 0 }, 10*time.Second, 10*time.Millisecond)
			require.Zero(t, b.server.Holds())
		})
	}
}

// The death of a client whose held message is longer than what is read ahead is seen as well.
func TestDeathBehindLongStatement(t *testing.T) {
	b := start(t, nil)
	b.forget(make(chan struct{}))
	client := dialRaw(t, b.url, false)
	client.send(&pgproto3.Query{String: read + " -- " + strings.Repeat("x", 2*readAhead)})
	<-b.began
	require.NoError(t, client.conn.Close())
	select {
	case err := <-b.ended:
		require.Error(t, err)
	case <-time.After(400 * time.Millisecond): // before the first NOTICE
		t.Fatal("the hold goes on without its client")
	}
}
