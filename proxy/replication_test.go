package proxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"barkeep/internal/embedded"
)

// walSender is a client of a replication connection (PostgreSQL, "Streaming Replication Protocol").
type walSender struct {
	t    *testing.T
	conn *pgconn.PgConn
}

func replicate(t *testing.T, address, kind string) *walSender {
	t.Helper()
	config, err := pgconn.ParseConfig(address)
	require.NoError(t, err)
	config.RuntimeParams["replication"] = kind
	conn, err := pgconn.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return &walSender{t, conn}
}

// row returns the one row of a command.
func (w *walSender) row(command string) []string {
	w.t.Helper()
	results, err := w.conn.Exec(w.t.Context(), command).ReadAll()
	require.NoError(w.t, err, command)
	require.Len(w.t, results, 1)
	require.Len(w.t, results[0].Rows, 1)
	var texts []string
	for _, value := range results[0].Rows[0] {
		texts = append(texts, string(value))
	}
	return texts
}

// begin sends a command whose answer is CopyBoth.
func (w *walSender) begin(command string) {
	w.t.Helper()
	w.conn.Frontend().Send(&pgproto3.Query{String: command})
	w.flush()
	require.IsType(w.t, &pgproto3.CopyBothResponse{}, w.receive())
}

func (w *walSender) flush() {
	w.t.Helper()
	require.NoError(w.t, w.conn.Frontend().Flush())
}

func (w *walSender) receive() pgproto3.BackendMessage {
	w.t.Helper()
	message, err := w.conn.ReceiveMessage(w.t.Context())
	require.NoError(w.t, err)
	return message
}

// status tells what was received up to where, and has the upstream answer at once.
func (w *walSender) status(position uint64) {
	w.t.Helper()
	data := binary.BigEndian.AppendUint64([]byte{'r'}, position)
	data = binary.BigEndian.AppendUint64(data, position)
	data = binary.BigEndian.AppendUint64(data, position)
	data = append(binary.BigEndian.AppendUint64(data, 0), 1)
	w.conn.Frontend().Send(&pgproto3.CopyData{Data: data})
	w.flush()
}

// until returns the first piece of the stream that is asked for.
func (w *walSender) until(wanted func(data []byte) bool) (data []byte) {
	w.t.Helper()
	for {
		piece, ok := w.receive().(*pgproto3.CopyData)
		require.True(w.t, ok)
		if wanted(piece.Data) {
			return bytes.Clone(piece.Data)
		}
	}
}

func keepalive(data []byte) bool { return data[0] == 'k' }

// end ends CopyBoth; the upstream may have something to say yet.
func (w *walSender) end() {
	w.t.Helper()
	w.conn.Frontend().Send(&pgproto3.CopyDone{})
	w.flush()
	ended := false
	for {
		switch w.receive().(type) {
		case *pgproto3.CopyDone:
			ended = true
		case *pgproto3.ReadyForQuery:
			require.True(w.t, ended)
			return
		}
	}
}

// TestReplicationPhysical: a replication connection is PostgreSQL's own, by whatever word for yes; WAL goes one way and the word of how
// far it has come the other, for as long as both like. Afterwards it is as before. Nothing is planned in it, SELECTs neither.
func TestReplicationPhysical(t *testing.T) {
	b := start(t, nil)
	for _, kind := range []string{"true", "on", "1", "yes", "T", "database"} {
		w := replicate(t, b.url, kind)
		before := w.row("IDENTIFY_SYSTEM")
		require.Len(t, before, 4)
		w.row("CREATE_REPLICATION_SLOT barkeep_test_" + strings.ToLower(kind) + " TEMPORARY PHYSICAL RESERVE_WAL")
		w.begin("START_REPLICATION SLOT barkeep_test_" + strings.ToLower(kind) + " PHYSICAL " + before[2])
		w.status(0)
		w.until(keepalive)
		mark := "a mark for " + kind
		_, err := b.db.Pool.Exec(t.Context(), "select pg_logical_emit_message(false, 'barkeep', $1)", mark)
		require.NoError(t, err)
		_, err = b.db.Pool.Exec(t.Context(), "select pg_logical_emit_message(true, 'barkeep', 'is flushed')")
		require.NoError(t, err)
		data := w.until(func(data []byte) bool { return data[0] == 'w' && bytes.Contains(data, []byte(mark)) })
		w.status(binary.BigEndian.Uint64(data[1:]) + uint64(len(data)-25)) // XLogData: where it begins, then 16 bytes, then the log itself
		w.until(keepalive)
		w.end()
		require.Equal(t, before[0], w.row("IDENTIFY_SYSTEM")[0], "the connection goes on")
		if kind == "database" {
			require.Equal(t, []string{"0"}, w.row("select count(*) from public.ohlcv where symbol = 'sim:REPLUSD' and timeframe = '1m' and ts < '2024-01-01Z'"))
		}
		require.NoError(t, w.conn.Close(t.Context()))
	}
	require.Empty(t, b.requested())
}

// TestReplicationIsNotMeant: what PostgreSQL takes for no is an ordinary session, and planned.
func TestReplicationIsNotMeant(t *testing.T) {
	b := start(t, nil)
	for i, kind := range []string{"false", "off", "of", "0", "no", "n", "F", "fal"} {
		config, err := pgx.ParseConfig(b.url)
		require.NoError(t, err)
		config.RuntimeParams["replication"] = kind
		conn, err := pgx.ConnectConfig(t.Context(), config)
		require.NoError(t, err, kind)
		_, err = conn.Exec(t.Context(), "select * from public.ohlcv where symbol = 'sim:REPL"+kind+"' and timeframe = '1m' and ts < '2024-01-01Z'")
		require.NoError(t, err, kind)
		require.NoError(t, conn.Close(t.Context()))
		require.Len(t, b.requested(), i+1, kind)
	}
}

// TestReplicationLogical is logical decoding by pgoutput, from a temporary slot.
func TestReplicationLogical(t *testing.T) {
	address := decoding(t)
	at, err := url.Parse(address)
	require.NoError(t, err)
	through := serving(t, New(Config{Upstream: Upstream{Place: Place{Network: "tcp", Address: net.JoinHostPort(at.Hostname(), at.Port())}}}))
	at.Host = strings.TrimSuffix(strings.TrimPrefix(through, "postgres://anybody@"), "/d")
	writer, err := pgx.Connect(t.Context(), address)
	require.NoError(t, err)
	defer writer.Close(context.Background())
	_, err = writer.Exec(t.Context(), "create table seen (word text); create publication all_of_it for table seen")
	require.NoError(t, err)

	w := replicate(t, at.String(), "database")
	w.row("CREATE_REPLICATION_SLOT decoded TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT")
	w.begin("START_REPLICATION SLOT decoded LOGICAL 0/0 (proto_version '1', publication_names 'all_of_it')")
	for _, word := range []string{"first", strings.Repeat("a long one ", 50_000)} {
		_, err := writer.Exec(t.Context(), "insert into seen values ($1)", word)
		require.NoError(t, err)
		w.until(func(data []byte) bool { return data[0] == 'w' && data[25] == 'I' && bytes.Contains(data, []byte(word)) })
		commit := w.until(func(data []byte) bool { return data[0] == 'w' && data[25] == 'C' })
		position := binary.BigEndian.Uint64(commit[25+10:]) // Commit: flags, where it is, where it ends
		w.status(position)
		w.until(keepalive)
		require.Eventually(t, func() (confirmed bool) { // that keepalive may have been on its way before
			err := writer.QueryRow(t.Context(), "select confirmed_flush_lsn >= '0/0'::pg_lsn + $1::bigint from pg_replication_slots where slot_name = 'decoded'",
				int64(position)).Scan(&confirmed)
			return err == nil && confirmed
		}, 30*time.Second, 10*time.Millisecond)
	}
	w.end()
	require.Len(t, w.row("IDENTIFY_SYSTEM"), 4)
}

// decoding starts a server that decodes its log.
func decoding(t *testing.T) (address string) {
	t.Helper()
	folder := serverFolder(t)
	config := embedded.Config{DataDir: folder, Database: "market", Throwaway: true}
	server, err := embedded.Start(t.Context(), config)
	require.NoError(t, err)
	conn, err := pgx.Connect(t.Context(), server.URL)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "alter system set wal_level = logical")
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
	require.NoError(t, server.Stop(t.Context()))
	server, err = embedded.Start(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop(context.WithoutCancel(t.Context()))) })
	return server.URL
}
