package proxy

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"barkeep/planner"
)

// The test's process has the clients; that of barkeep and that of the upstream are children of it, made of the same binary: each
// may have so many files only, and what one process needs is measured alone.
const (
	idleRole   = "PROXY_TEST_ROLE"   // upstream, plain or tls: what a child does
	idleFolder = "PROXY_TEST_FOLDER" // where its sockets are
)

// idleAnswer is longer than what a goroutine reads into that waits.
var idleAnswer = strings.Repeat("x", 20_000)

// usage is what a process has taken so far, after a collection.
type usage struct {
	Sessions       int
	Resident, Heap uint64 // bytes
	Stack          uint64
	Peak           uint64 // of Resident, since the last measurement
	Goroutines     int
}

func measure() (usage, error) {
	debug.FreeOSMemory()
	debug.FreeOSMemory() // what a sync.Pool held is freed by the second
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	out := usage{Heap: mem.HeapInuse, Stack: mem.StackInuse, Goroutines: runtime.NumGoroutine()}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return out, err
	}
	for line := range strings.Lines(string(status)) {
		name, rest, _ := strings.Cut(line, ":")
		into := map[string]*uint64{"VmRSS": &out.Resident, "VmHWM": &out.Peak}[name]
		if into == nil {
			continue
		}
		kilobytes, err := strconv.ParseUint(strings.Fields(rest)[0], 10, 64)
		if err != nil {
			return out, err
		}
		*into = kilobytes << 10
	}
	return out, os.WriteFile("/proc/self/clear_refs", []byte("5"), 0o600) // VmHWM begins anew (proc_pid_clear_refs(5))
}

// runIdleChild is a child's main function.
func runIdleChild(role, folder string) error {
	if role == "upstream" {
		return idleUpstream(folder)
	}
	cfg := idleConfig(folder)
	if role == attackedRole {
		cfg.Limits = Limits{MaxStarting: attackedPlaces}
	}
	if overTLS(role) {
		certificate, err := idleCertificate()
		if err != nil {
			return err
		}
		cfg.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13}
	}
	network, address := idleAddress(folder, role)
	listener, err := net.Listen(network, address)
	if err != nil {
		return err
	}
	if overTLS(role) { // the clients find the port where they would find the socket
		if err := os.WriteFile(filepath.Join(folder, role), []byte(listener.Addr().String()), 0o600); err != nil {
			return err
		}
	}
	server := New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve(ctx, listener) })
	defer running.Wait()
	defer cancel()
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); { // each line asks for a measurement
		now, err := measure()
		if err != nil {
			return err
		}
		now.Sessions = server.Sessions()
		text, err := json.Marshal(now)
		if err != nil {
			return err
		}
		fmt.Println(string(text))
	}
	return nil
}

// attackedRole is the child's that is attacked, and attackedPlaces how many may be logging in there at one time.
const (
	attackedRole   = "attacked"
	attackedPlaces = 300
)

func overTLS(role string) bool { return role == "tls" || role == attackedRole }

// idleAddress is where barkeep listens: TLS is for TCP.
func idleAddress(folder, role string) (network, address string) {
	if !overTLS(role) {
		return "unix", filepath.Join(folder, role)
	}
	if chosen, err := os.ReadFile(filepath.Join(folder, role)); err == nil {
		return "tcp", string(chosen)
	}
	return "tcp", "127.0.0.1:0"
}

func idleConfig(folder string) Config {
	return Config{
		Upstream: Upstream{Place: Place{Network: "unix", Address: filepath.Join(folder, "upstream")}}, Database: "d", Limits: Limits{MaxSessions: 20_000},
		Coordinator: &atOnce{filled: true}, Catalog: allKnown{&planner.Catalog{Version: 1}},
	}
}

func idleCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// idleUpstream admits everybody and answers each Query with one long row.
func idleUpstream(folder string) error {
	listener, err := net.Listen("unix", filepath.Join(folder, "upstream"))
	if err != nil {
		return err
	}
	var running sync.WaitGroup
	running.Go(func() { acceptIdle(listener) })
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	_ = listener.Close()
	return err
}

func acceptIdle(listener net.Listener) {
	var running sync.WaitGroup
	defer running.Wait()
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		running.Go(func() {
			defer conn.Close()
			if packet, err := readStartup(conn); err == nil {
				_ = answerIdle(conn, packet)
			}
		})
	}
}

// idleParameters are those that PostgreSQL 17 reports.
var idleParameters = [][2]string{
	{"in_hot_standby", "off"},
	{"integer_datetimes", "on"},
	{"TimeZone", "Etc/UTC"},
	{"IntervalStyle", "postgres"},
	{"is_superuser", "on"},
	{"application_name", ""},
	{"default_transaction_read_only", "off"},
	{"scram_iterations", "4096"},
	{"DateStyle", "ISO, MDY"},
	{"standard_conforming_strings", "on"},
	{"session_authorization", "postgres"},
	{"client_encoding", "UTF8"},
	{"server_version", "17.12 (Debian 17.12-1.pgdg13+1)"},
	{"server_encoding", "UTF8"},
}

func answerIdle(conn net.Conn, packet []byte) error {
	out := encode(&pgproto3.AuthenticationOk{})
	for _, each := range idleParameters {
		out = append(out, encode(&pgproto3.ParameterStatus{Name: each[0], Value: each[1]})...)
	}
	out = append(out, encode(&pgproto3.BackendKeyData{ProcessID: 4711, SecretKey: packet[:4]})...)
	out = append(out, encode(&pgproto3.ReadyForQuery{TxStatus: 'I'})...)
	text := ""
	for {
		if len(out) > 0 {
			if _, err := conn.Write(out); err != nil {
				return err
			}
		}
		kind, body, err := readMessage(conn)
		if err != nil {
			return err
		}
		switch kind {
		case 'P':
			text = string(body)
		case 'Q':
			if out, err = answerQuery(conn, strings.TrimRight(string(body), "\x00")); err != nil {
				return err
			}
			continue
		}
		out = fakeReply(kind, text)
	}
}

// answerQuery returns the answer, or the end of it.
func answerQuery(conn net.Conn, text string) ([]byte, error) {
	rest, large := strings.CutPrefix(text, "select repeat('x', ")
	switch {
	case large:
		size, err := strconv.ParseInt(strings.TrimSuffix(rest, ")"), 10, 32)
		if err != nil {
			return nil, err
		}
		if _, err := conn.Write(binary.BigEndian.AppendUint32([]byte{'D'}, uint32(4+size))); err != nil {
			return nil, err
		}
		if _, err := io.CopyN(conn, zeros{}, size); err != nil {
			return nil, err
		}
	case text == "copy c from stdin":
		if _, err := conn.Write(encode(&pgproto3.CopyInResponse{})); err != nil {
			return nil, err
		}
		for head := [5]byte{}; head[0] != 'c'; {
			if _, err := io.ReadFull(conn, head[:]); err != nil {
				return nil, err
			}
			if _, err := io.CopyN(io.Discard, conn, int64(binary.BigEndian.Uint32(head[1:]))-4); err != nil {
				return nil, err
			}
		}
	case text == "select 1":
	default:
		return append(encode(&pgproto3.DataRow{Values: [][]byte{[]byte(idleAnswer)}}), fakeReply('Q', "")...), nil
	}
	return fakeReply('Q', ""), nil
}

// child starts a child; ask asks it for a measurement.
func child(t *testing.T, role, folder string) (ask func() usage) {
	t.Helper()
	command := exec.CommandContext(context.WithoutCancel(t.Context()), os.Args[0])
	command.Env = append(os.Environ(), idleRole+"="+role, idleFolder+"="+folder)
	command.Stderr = os.Stderr
	in, err := command.StdinPipe()
	require.NoError(t, err)
	out, err := command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	t.Cleanup(func() { _, _ = in.Close(), command.Wait() })
	lines := bufio.NewScanner(out)
	require.True(t, lines.Scan())
	require.Equal(t, "ready", lines.Text())
	return func() usage {
		_, err := in.Write([]byte("measure\n"))
		require.NoError(t, err)
		require.True(t, lines.Scan())
		var now usage
		require.NoError(t, json.Unmarshal(lines.Bytes(), &now))
		return now
	}
}

// idleClient starts a session, has two answers and stays.
func idleClient(ctx context.Context, folder, role string) (net.Conn, error) {
	network, address := idleAddress(folder, role)
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if role == "tls" {
		if _, err := conn.Write(binary.BigEndian.AppendUint32([]byte{0, 0, 0, 8}, codeSSL)); err != nil {
			return conn, err
		}
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			return conn, err
		}
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, ServerName: "localhost"})
	}
	packet := encode(&pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersion30, Parameters: map[string]string{"user": "postgres", "database": "d"}})
	script := [][]byte{
		packet, encode(&pgproto3.Query{String: read}), encode(&pgproto3.Query{String: "select '" + idleAnswer + "'"}),
		append(encode(&pgproto3.Parse{Name: "s", Query: read}), encode(&pgproto3.Sync{})...),
	}
	for _, sent := range script {
		if _, err := conn.Write(sent); err != nil {
			return conn, err
		}
		for kind := byte(0); kind != 'Z'; {
			if kind, _, err = readMessage(conn); err != nil {
				return conn, err
			}
		}
	}
	return conn, nil
}

// TestIdleSessions: a session that has been busy and waits for its client costs at most so much memory, buffers and stacks of
// goroutines included, on plaintext and with TLS.
func TestIdleSessions(t *testing.T) {
	for role, most := range map[string]uint64{"plain": 25_000, "tls": 50_000} {
		t.Run(role, func(t *testing.T) {
			const first = 50
			n := idleSessions(t)
			folder := t.TempDir()
			child(t, "upstream", folder)
			ask := child(t, role, folder)
			conns := make([]net.Conn, n)
			defer func() {
				for _, conn := range conns {
					if conn != nil {
						_ = conn.Close()
					}
				}
			}()
			open := func(from, to int) {
				var all errgroup.Group
				all.SetLimit(32)
				for i := range conns[from:to] {
					all.Go(func() (err error) {
						conns[from+i], err = idleClient(t.Context(), folder, role)
						return err
					})
				}
				require.NoError(t, all.Wait())
			}
			open(0, first)
			before := ask()
			require.Equal(t, first, before.Sessions)
			open(first, n)
			after := ask()
			require.Equal(t, n, after.Sessions)
			each := func(after, before uint64) uint64 { return (after - min(after, before)) / uint64(n-first) }
			t.Logf("%d sessions, each %d B resident: heap %d B, stacks %d B; %d goroutines", n, each(after.Resident, before.Resident),
				each(after.Heap, before.Heap), each(after.Stack, before.Stack), after.Goroutines)
			if !raceEnabled {
				require.LessOrEqual(t, each(after.Resident, before.Resident), most)
				require.LessOrEqual(t, each(after.Heap, before.Heap)+each(after.Stack, before.Stack), most)
			}
		})
	}
}

// idleSessions is ten thousand, or as many as the processes may have files for.
func idleSessions(t *testing.T) int {
	t.Helper()
	if raceEnabled { // what is measured then is the detector
		return 300
	}
	var limit syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit)) // the runtime has raised it as far as it may
	const spare = 200
	return min(10_000, int(limit.Max-spare)/2)
}
