package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"barkeep/internal/market"
)

// failing is a coordinator whose fetches fail.
type failing struct {
	Coordinator
	reason atomic.Value // an error
}

func (c *failing) Ensure(context.Context, Request, func(market.Progress)) ([]string, error) {
	return nil, c.reason.Load().(error)
}

// lockedBuffer takes what is logged.
type lockedBuffer struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// stated is an error of another package with a SQLSTATE.
type stated struct{ state, hint string }

func (s stated) Error() string    { return "the fetch failed" }
func (s stated) SQLState() string { return s.state }
func (s stated) Hint() string     { return s.hint }

// STYLE §5: what the coordinator says of a fetch reaches the client with its code and hint, in either protocol, and the
// session goes on; an error that nobody vouches for is an id, which the log has with its cause.
func TestErrorsOfFetches(t *testing.T) {
	var logged lockedBuffer
	fails := &failing{}
	b := start(t, func(c *Config) {
		fails.Coordinator, c.Coordinator = c.Coordinator, fails
		c.Logger = slog.New(slog.NewTextHandler(&logged, nil))
	})
	conn := b.connect(t, nil)
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec} {
		for _, state := range []string{"58000", "58030", "53000", "54000", "55P03", "22023", "40001", "0A000"} {
			fails.reason.Store(fmt.Errorf("ensure: %w", stated{state, "do this"}))
			_, err := conn.Exec(t.Context(), read, mode)
			require.Equal(t, state, code(err))
			require.ErrorContains(t, err, "the fetch failed")
			require.EqualValues(t, 'I', conn.PgConn().TxStatus())
		}
		fails.reason.Store(fmt.Errorf("connect: %w", errors.New("password=secret")))
		_, err := conn.Exec(t.Context(), read, mode)
		require.Equal(t, "XX000", code(err))
		require.NotContains(t, err.Error(), "secret")
		id := strings.Fields(strings.SplitAfter(err.Error(), "internal error ")[1])[0]
		require.Contains(t, logged.String(), id)
		require.Contains(t, logged.String(), "password=secret")
		require.NoError(t, simpleExec(conn, "select 1"))
	}
}

// STYLE §5: a message that cannot be is 08P01 and ends the session.
func TestMessagesThatCannotBe(t *testing.T) {
	b := start(t, func(c *Config) { c.MaxMessage = 1 << 20 })
	for name, sent := range map[string][]byte{
		"length below four":   {'Q', 0, 0, 0, 3},
		"longer than allowed": {'Q', 0, 0x10, 0, 1},
		"negative length":     {'P', 0xff, 0xff, 0xff, 0xff},
	} {
		t.Run(name, func(t *testing.T) {
			client := dialRaw(t, b.url, false)
			_, err := client.conn.Write(sent)
			require.NoError(t, err)
			require.Equal(t, "08P01", client.until('E'))
			_, _, err = readMessage(client.conn)
			require.Error(t, err, "the session goes on")
		})
	}
	client := dialRaw(t, b.url, false)
	client.send(&pgproto3.Query{String: "select '" + strings.Repeat("x", 1<<19) + "'"})
	client.until('Z')
	// The Bind of what cannot read ohlcv is not looked at, however long it is.
	long := bytes.Repeat([]byte("x"), 3<<20)
	for range 2 {
		client.send(&pgproto3.Parse{Query: "select length($1)"}, &pgproto3.Bind{Parameters: [][]byte{long}}, &pgproto3.Execute{}, &pgproto3.Sync{})
		require.Equal(t, "SELECT 1\x00", client.until('C'))
		require.Equal(t, "I", client.until('Z'))
	}
	// The session ends at its header: the rest of it may find the connection closed, as with PostgreSQL.
	client.send(&pgproto3.Parse{Query: read + " and symbol <> $1"})
	_, _ = client.conn.Write(encode(&pgproto3.Bind{Parameters: [][]byte{long}}))
	require.Equal(t, "08P01", client.until('E'))
}

// STYLE §5: 57P03 where the upstream cannot be reached at startup.
func TestUnreachableUpstream(t *testing.T) {
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	b := start(t, func(c *Config) { c.Upstream.Address = listener.Addr().String() })
	_, err = pgx.Connect(t.Context(), b.url)
	require.Equal(t, "57P03", code(err))
}

// STYLE §5: 57P01 for whoever waits when barkeep stops, and for the idle.
func TestShutdownIsTold(t *testing.T) {
	b := start(t, func(c *Config) { c.Grace = 1 })
	b.forget(make(chan struct{}))
	idle, held := dialRaw(t, b.url, false), dialRaw(t, b.url, false)
	held.send(&pgproto3.Query{String: read})
	<-b.began
	b.stop()
	require.Equal(t, "57P01", idle.until('E'))
	require.Equal(t, "57P01", held.until('E'))
	require.Error(t, <-b.ended)
}

// DESIGN §7: the rights are those of the role of the moment, and who has none causes no fetch, in any mode.
func TestRightsOfTheMoment(t *testing.T) {
	b := start(t, nil)
	with, without := b.newRole(t, true), b.newRole(t, false)
	_, err := b.db.Pool.Exec(t.Context(), "revoke select on public.ohlcv from public")
	require.NoError(t, err)
	conn := b.connect(t, nil)
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec} {
		for _, set := range []string{
			"set role " + without, "set session authorization " + without, "begin; set local role " + without,
			"select set_config('role', '" + without + "', false)",
		} {
			require.NoError(t, simpleExec(conn, set))
			_, err := conn.Exec(t.Context(), read, mode)
			require.Equal(t, "42501", code(err), set)
			if strings.HasPrefix(set, "begin") {
				require.NoError(t, simpleExec(conn, "rollback"))
			}
			require.NoError(t, simpleExec(conn, "reset session authorization"))
			require.NoError(t, simpleExec(conn, "reset role"))
		}
		direct := b.connectWith(t, without, "")
		_, err := direct.Exec(t.Context(), read, mode)
		require.Equal(t, "42501", code(err))
	}
	require.Zero(t, b.requests())
	require.NoError(t, simpleExec(conn, "set role "+with))
	require.NoError(t, simpleExec(conn, read))
	require.Equal(t, with, b.requested()[0].AskedBy)
}
