package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"barkeep/internal/exchange"
)

// TestServeKilledMidBackfill: barkeep with a database and a broker of its own is killed while it fetches. No process stays,
// the next start goes on, and nothing that was stored is fetched again.
func TestServeKilledMidBackfill(t *testing.T) {
	t.Parallel()
	s := newSite(t) // for the exchange: what it skips without, this needs as well
	s.exchange.Script(exchange.Fault{Path: "klines", Delay: 200 * time.Millisecond})
	folder := childFolder(t)
	serve := func() *process { return s.run("serve", "--listen=127.0.0.1:0", "--data-dir="+folder) }
	session := func(p *process) *pgx.Conn {
		conn, err := pgx.Connect(t.Context(), "postgres://postgres@"+p.addr+"/"+embeddedDatabase+"?sslmode=disable")
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close(context.Background()) })
		return conn
	}
	p := serve()
	conn := session(p)
	stored, r := minutes("2023-06-01T00:00:00Z", 10), minutes("2024-01-01T00:00:00Z", 60)
	s.right(stored, s.asking(conn, stored))
	got := s.asking(conn, r)
	s.until("the job is under way", func() bool { pages, _ := s.fetched(r); return pages >= 20 })
	require.NotEmpty(t, processesOf(t, folder), "its database runs")
	p.kill()
	asked, _ := s.fetched(r)
	require.Less(t, asked, 60, "it was killed too late")
	require.Error(t, (<-got).err)
	s.until("no process stays", func() bool { return len(processesOf(t, folder)) == 0 })

	p = serve()
	conn = session(p)
	s.right(r, s.asking(conn, r))
	s.right(stored, s.asking(conn, stored))
	s.once(stored)
	pages, again := s.fetched(r)
	require.Equal(t, 60, pages)
	require.LessOrEqual(t, again, asked, "pages fetched again")
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, p.cmd.Wait())
	require.Empty(t, processesOf(t, folder))
}

// processesOf returns the processes that have the folder in their command line, but for barkeep itself.
func processesOf(t *testing.T, folder string) (commands []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(line, []byte(folder)) || bytes.Contains(line, []byte("--data-dir")) {
			continue // gone, or another's
		}
		commands = append(commands, string(bytes.ReplaceAll(line, []byte{0}, []byte{' '})))
	}
	return commands
}
