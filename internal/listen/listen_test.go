package listen

import (
	"context"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// folder is short enough for sockets in it.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bk") //nolint:usetesting // TempDir has the test's name in it
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func closeAll(t *testing.T, listeners []net.Listener) {
	t.Helper()
	for _, each := range listeners {
		require.NoError(t, each.Close())
	}
}

func TestAll(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	own := filepath.Join(dir, "own.sock")
	listeners, err := All(t.Context(), []string{dir, "127.0.0.1:0", "[::1]:0", own}, 0o770)
	require.NoError(t, err)
	require.Len(t, listeners, 4)
	named := filepath.Join(dir, ".s.PGSQL."+strconv.Itoa(listeners[1].Addr().(*net.TCPAddr).Port))
	require.Equal(t, named, listeners[0].Addr().String())
	for _, each := range listeners {
		conn, err := new(net.Dialer).DialContext(t.Context(), each.Addr().Network(), each.Addr().String())
		require.NoError(t, err)
		require.NoError(t, conn.Close())
	}
	info, err := os.Stat(named)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o770), info.Mode().Perm())
	pid, err := os.ReadFile(named + ".lock")
	require.NoError(t, err)
	require.Equal(t, strconv.Itoa(os.Getpid())+"\n", string(pid))

	_, err = All(t.Context(), []string{"127.0.0.1:0", own}, 0o777)
	require.ErrorIs(t, err, ErrInUse)
	require.FileExists(t, own, "who did not get it did not take it away")
	closeAll(t, listeners)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestDefaultPort(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	listeners, err := All(t.Context(), []string{dir}, 0o777)
	require.NoError(t, err)
	require.Equal(t, filepath.Join(dir, ".s.PGSQL.5433"), listeners[0].Addr().String())
	closeAll(t, listeners)
}

// TestDeadSocket: what a killed process left is taken over; what lives, whoever serves it, is not, nor what is no socket.
func TestDeadSocket(t *testing.T) {
	t.Parallel()
	path := filepath.Join(folder(t), "s")
	dead, err := new(net.ListenConfig).Listen(t.Context(), "unix", path)
	require.NoError(t, err)
	_, err = All(t.Context(), []string{path}, 0o777)
	require.ErrorIs(t, err, ErrInUse, "it has no lock, but answers")
	require.NoFileExists(t, path+".lock")
	require.NoError(t, os.WriteFile(path+".lock", []byte("4711\n"), 0o600)) // PostgreSQL's own
	_, err = All(t.Context(), []string{path}, 0o777)
	require.ErrorIs(t, err, ErrInUse)
	require.FileExists(t, path+".lock")
	dead.(*net.UnixListener).SetUnlinkOnClose(false)
	require.NoError(t, dead.Close())
	require.NoError(t, os.WriteFile(path+".lock", []byte("1\n"), 0o600)) // as left behind
	listeners, err := All(t.Context(), []string{path}, 0o777)
	require.NoError(t, err)
	closeAll(t, listeners)

	require.NoError(t, os.WriteFile(path, []byte("mine"), 0o600))
	_, err = All(t.Context(), []string{path}, 0o777)
	require.ErrorContains(t, err, "no socket")
	require.FileExists(t, path)
	_, err = All(t.Context(), []string{"/" + strings.Repeat("x", maxSocketPath)}, 0o777)
	require.ErrorContains(t, err, "bytes")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = All(ended, []string{"127.0.0.1:0", filepath.Join(path, "no", "folder")}, 0o777)
	require.Error(t, err)
}
