package embedded_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"barkeep/internal/embedded"
	"barkeep/internal/schema"
)

// childFolder tells this binary to be a barkeep that holds a server and a broker, to be killed.
const childFolder = "BARKEEP_EMBEDDED_TEST_CHILD"

func TestMain(m *testing.M) {
	if folder := os.Getenv(childFolder); folder != "" {
		os.Exit(hold(folder))
	}
	goleak.VerifyTestMain(m)
}

func hold(folder string) int {
	server, err := embedded.Start(context.Background(), embedded.Config{DataDir: folder})
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		return 1
	}
	_, _ = fmt.Fprintln(os.Stdout, server.URL)
	<-server.Exited() // until somebody kills us
	return 1
}

// machine skips where servers are not to be started: only `make test` promises one.
func machine(t *testing.T) {
	t.Helper()
	if os.Getenv("TEST_DATABASE_URL") == "" {
		t.Skip("TEST_DATABASE_URL is not set: no server is started here (make test does)")
	}
}

// folder can be entered by the user that root's children run as; those of t.TempDir cannot.
func folder(t *testing.T) string {
	t.Helper()
	path, err := os.MkdirTemp("", "barkeep-embedded-") //nolint:usetesting // see above
	require.NoError(t, err)
	require.NoError(t, os.Chmod(path, 0o755))
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(path)) })
	return path
}

func start(t *testing.T, config embedded.Config) *embedded.Postgres {
	t.Helper()
	server, err := embedded.Start(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Stop(context.Background()) }) // where the test has failed before its own
	return server
}

func stop(t *testing.T, server *embedded.Postgres) {
	t.Helper()
	require.NoError(t, server.Stop(context.Background()))
}

func query(t *testing.T, address, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), address)
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	var text string
	require.NoError(t, conn.QueryRow(t.Context(), sql).Scan(&text))
	return text
}

func execute(t *testing.T, address, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), address)
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	_, err = conn.Exec(t.Context(), sql)
	require.NoError(t, err)
}

func TestConfiguredServer(t *testing.T) {
	server := start(t, embedded.Config{URL: "postgres://example/db"})
	require.Equal(t, "postgres://example/db", server.URL)
	stop(t, server)
	_, err := embedded.Start(t.Context(), embedded.Config{})
	require.ErrorContains(t, err, "data folder")
}

// TestStartAgain: the data, the port and the server stay; the folder is locked meanwhile; settings are as promised.
func TestStartAgain(t *testing.T) {
	machine(t)
	config := embedded.Config{DataDir: folder(t)}
	server := start(t, config)
	execute(t, server.URL, "create table t as select 'ok'::text as v")
	require.Equal(t, "ok", query(t, server.SocketURL, "select v from t"))
	for name, want := range map[string]string{"max_locks_per_transaction": "256", "jit": "off", "TimeZone": "UTC", "max_connections": "400", "listen_addresses": "127.0.0.1", "fsync": "on"} {
		require.Equal(t, want, query(t, server.URL, "select current_setting('"+name+"')"), name)
	}
	conn, err := pgx.Connect(t.Context(), server.URL)
	require.NoError(t, err)
	require.NoError(t, schema.Migrate(t.Context(), conn))
	hyper, err := schema.Hypertable(t.Context(), conn)
	require.NoError(t, err)
	require.Equal(t, server.Timescale, hyper, server.Description)
	require.NoError(t, conn.Close(t.Context()))

	_, err = embedded.Start(t.Context(), config)
	require.ErrorContains(t, err, "in use by another barkeep")
	stop(t, server)
	select {
	case <-server.Exited():
	default:
		require.Fail(t, "the child is not over after Stop")
	}

	began := time.Now()
	again := start(t, config)
	t.Logf("second start: %s", time.Since(began))
	require.Equal(t, server.URL, again.URL)
	require.Equal(t, "ok", query(t, again.URL, "select v from t"))
	stop(t, again)
}

// TestPlain: the last rung, and a folder that keeps to it when better ones are to be had.
func TestPlain(t *testing.T) {
	machine(t)
	config := embedded.Config{DataDir: folder(t), PlainOnly: true, Throwaway: true}
	server, err := embedded.Start(t.Context(), config)
	if err != nil {
		require.ErrorContains(t, err, "Install one (") // a machine without a server of its own is told what to do
		return
	}
	description := server.Description
	stop(t, server)
	config.PlainOnly = false
	server = start(t, config)
	require.Equal(t, description, server.Description)
	stop(t, server)
}

// TestUnpackingFails: without a network the last rung is taken, and says why; where there is none the user is told what to do.
func TestUnpackingFails(t *testing.T) {
	machine(t)
	config := embedded.Config{DataDir: folder(t), CacheDir: folder(t), Mirror: "http://127.0.0.1:1/debian", Throwaway: true}
	server, err := embedded.Start(t.Context(), config)
	var text string
	if err != nil {
		text = err.Error()
		require.ErrorContains(t, err, "Install one (")
	} else {
		text = server.Description
		t.Log(text)
		stop(t, server)
		if strings.HasPrefix(text, "installed TimescaleDB") {
			return // this machine has the best there is
		}
		require.Contains(t, text, "plain PostgreSQL")
	}
	require.Contains(t, text, "no TimescaleDB is installed on this machine")
	require.Contains(t, text, "TimescaleDB cannot be unpacked from Debian's packages: ")
	require.Contains(t, text, config.Mirror, "what was tried is named")
}

// TestInstalled: a server with both halves of TimescaleDB beside it is taken before anything is unpacked, with nothing better
// to name.
func TestInstalled(t *testing.T) {
	machine(t)
	config := embedded.Config{DataDir: folder(t), Throwaway: true}
	stop(t, start(t, config))
	text, err := os.ReadFile(filepath.Join(config.DataDir, "postgres", "server.json"))
	require.NoError(t, err)
	var made struct {
		Bin       string
		Timescale bool
	}
	require.NoError(t, json.Unmarshal(text, &made))
	if !made.Timescale {
		t.Skip("there is no TimescaleDB to be had here")
	}
	prefix := folder(t)
	write := func(name, text string, mode os.FileMode) {
		path := filepath.Join(prefix, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), mode))
	}
	for _, name := range []string{"postgres", "initdb"} {
		write("bin/"+name, "#!/bin/sh\nexec "+filepath.Join(made.Bin, name)+" \"$@\"\n", 0o755)
	}
	write("lib/timescaledb.so", "", 0o644)
	for _, whole := range []bool{false, true} {
		if whole {
			write("share/extension/timescaledb.control", "", 0o644)
		}
		server := start(t, embedded.Config{DataDir: folder(t), BinDir: filepath.Join(prefix, "bin"), Throwaway: true})
		require.Equal(t, whole, server.Timescale)
		require.Equal(t, whole, strings.HasPrefix(server.Description, "installed TimescaleDB"), server.Description)
		require.Equal(t, !whole, strings.Contains(server.Description, "not a better one because"), server.Description)
		if whole {
			execute(t, server.URL, "create extension timescaledb")
		}
		stop(t, server)
	}
}

func TestNoServer(t *testing.T) {
	machine(t)
	_, err := embedded.Start(t.Context(), embedded.Config{DataDir: folder(t), BinDir: folder(t)})
	require.ErrorContains(t, err, "Install one (")
	require.ErrorContains(t, err, "no TimescaleDB is installed")
}

// TestNotAServer: what calls itself postgres may be anything.
func TestNotAServer(t *testing.T) {
	machine(t)
	bin := folder(t)
	for _, name := range []string{"postgres", "initdb"} {
		require.NoError(t, os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\necho hello\n"), 0o755))
	}
	_, err := embedded.Start(t.Context(), embedded.Config{DataDir: folder(t), BinDir: bin})
	require.ErrorContains(t, err, "Install one (")
}

func TestFolderOutOfReach(t *testing.T) {
	machine(t)
	if os.Geteuid() != 0 {
		return // only root's child is another user
	}
	closed := folder(t)
	require.NoError(t, os.Chmod(closed, 0o700))
	_, err := embedded.Start(t.Context(), embedded.Config{DataDir: filepath.Join(closed, "data")})
	require.ErrorContains(t, err, "cannot reach")
}

// TestPortTaken: the port is somebody else's at the next start.
func TestPortTaken(t *testing.T) {
	machine(t)
	config := embedded.Config{DataDir: folder(t), Throwaway: true}
	server := start(t, config)
	stop(t, server)
	parsed, err := pgx.ParseConfig(server.URL)
	require.NoError(t, err)
	release := occupy(t, parsed.Port)
	again := start(t, config)
	release()
	require.NotEqual(t, server.URL, again.URL)
	require.Equal(t, "1", query(t, again.URL, "select '1'"))
	stop(t, again)
}

// TestKilledParent: after kill -9 of the parent no server is left, and the next start goes on with the data.
func TestKilledParent(t *testing.T) {
	machine(t)
	data := folder(t)
	parent, address := holdElsewhere(t, data)
	execute(t, address, "create table t as select 'kept'::text as v")
	pid := postmaster(t, data)
	require.NoError(t, parent.Process.Kill())
	_ = parent.Wait()

	began := time.Now()
	server := start(t, embedded.Config{DataDir: data})
	t.Logf("start after kill -9: %s", time.Since(began))
	require.NotEqual(t, pid, postmaster(t, data))
	require.Equal(t, "kept", query(t, server.URL, "select v from t"))
	stop(t, server)
	require.True(t, gone(pid))
}

// TestKilledPostmaster: its sessions, which outlive it for as long as they are busy, do not keep the data folder.
func TestKilledPostmaster(t *testing.T) {
	machine(t)
	data := folder(t)
	parent, address := holdElsewhere(t, data)
	conn, err := pgx.Connect(t.Context(), address)
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	busy := make(chan error, 1)
	go func() {
		_, err := conn.Exec(context.Background(), "do $$ begin loop perform 1; end loop; end $$")
		busy <- err
	}()
	require.Eventually(t, func() bool {
		return query(t, address, "select count(*)::text from pg_stat_activity where query like 'do %' and state = 'active'") == "1"
	}, 10*time.Second, 20*time.Millisecond)
	require.NoError(t, syscall.Kill(postmaster(t, data), syscall.SIGKILL))
	_ = parent.Process.Kill()
	_ = parent.Wait()
	server := start(t, embedded.Config{DataDir: data})
	require.Error(t, <-busy)
	stop(t, server)
}

// TestRun_StartsAgain: a server that is killed under busy sessions is there again at the same addresses, as often as it is
// killed; once it was stopped it stays so.
func TestRun_StartsAgain(t *testing.T) {
	machine(t)
	config := embedded.Config{DataDir: folder(t)}
	server := start(t, config)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	execute(t, server.URL, "create table t as select 'kept'::text as v")
	for range 2 {
		conn, err := pgx.Connect(t.Context(), server.SocketURL)
		require.NoError(t, err)
		busy := make(chan error, 1)
		go func() {
			_, err := conn.Exec(context.Background(), "do $$ begin loop perform 1; end loop; end $$")
			busy <- err
		}()
		pid := postmaster(t, config.DataDir)
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		require.Error(t, <-busy)
		require.NoError(t, conn.Close(t.Context()))
		require.Eventually(t, func() bool {
			conn, err := pgx.Connect(t.Context(), server.SocketURL)
			return err == nil && conn.Close(t.Context()) == nil
		}, 30*time.Second, 20*time.Millisecond)
		require.NotEqual(t, pid, postmaster(t, config.DataDir))
		require.Equal(t, "kept", query(t, server.URL, "select v from t"))
	}
	stop(t, server)
	require.NoError(t, <-ended)
	require.NoFileExists(t, filepath.Join(config.DataDir, "postgres", "data", "postmaster.pid"))
}

// TestNoOrphan: the kernel ends the child without any later start.
func TestNoOrphan(t *testing.T) {
	machine(t)
	data := folder(t)
	parent, _ := holdElsewhere(t, data)
	pid := postmaster(t, data)
	require.NoError(t, parent.Process.Kill())
	_ = parent.Wait()
	require.Eventually(t, func() bool { return gone(pid) }, 10*time.Second, 20*time.Millisecond)
}

// TestStalePidFile: the number in it belongs to another process by now, which must live.
func TestStalePidFile(t *testing.T) {
	machine(t)
	config := embedded.Config{DataDir: folder(t), Throwaway: true}
	stop(t, start(t, config))
	file := filepath.Join(config.DataDir, "postgres", "data", "postmaster.pid")
	text := fmt.Sprintf("%d\n%s\n", os.Getppid(), filepath.Join(config.DataDir, "postgres", "data"))
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	stop(t, start(t, config))
	require.NoError(t, syscall.Kill(os.Getppid(), 0))
}

// TestServerIsGone: programs that vanish are looked for again, and named when they cannot be found.
func TestServerIsGone(t *testing.T) {
	machine(t)
	config := embedded.Config{DataDir: folder(t), Throwaway: true}
	stop(t, start(t, config))
	file := filepath.Join(config.DataDir, "postgres", "server.json")
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	record := map[string]any{}
	require.NoError(t, json.Unmarshal(text, &record))
	record["bin"], record["kind"], record["major"] = "/nonexistent", "plain PostgreSQL", 9
	text, err = json.Marshal(record)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, text, 0o644))
	_, err = embedded.Start(t.Context(), config)
	require.ErrorContains(t, err, "install PostgreSQL 9 again")
}

func holdElsewhere(t *testing.T, data string) (*exec.Cmd, string) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	parent := exec.CommandContext(t.Context(), self)
	parent.Env = append(os.Environ(), childFolder+"="+data)
	parent.Stderr = os.Stderr
	out, err := parent.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, parent.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		require.ErrorIs(t, err, io.EOF)
	}
	address := strings.TrimSpace(line)
	require.NotEmpty(t, address)
	return parent, address
}

func postmaster(t *testing.T, data string) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(data, "postgres", "data", "postmaster.pid"))
	require.NoError(t, err)
	var pid int
	_, err = fmt.Sscan(string(text), &pid)
	require.NoError(t, err)
	return pid
}

// gone takes a zombie, which only init can reap, for gone.
func gone(pid int) bool {
	if err := syscall.Kill(pid, 0); err != nil {
		return true
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(status), ") Z ")
}

// TestStopInHaste: without time for politeness the child still ends, and the data are there again.
func TestStopInHaste(t *testing.T) {
	machine(t)
	config := embedded.Config{DataDir: folder(t)}
	server := start(t, config)
	execute(t, server.URL, "create table t as select 'kept'::text as v")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, server.Stop(ctx))
	<-server.Exited()
	require.Error(t, server.Err())
	again := start(t, config)
	require.Equal(t, "kept", query(t, again.URL, "select v from t"))
	stop(t, again)
}
