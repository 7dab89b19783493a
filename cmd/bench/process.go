package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// process is a child that is measured.
type process struct {
	command *exec.Cmd
	ended   chan struct{}
	log     string
	port    uint16
	status  uint16 // of a barkeep
}

func startProcess(ctx context.Context, log string, env []string, name string, args ...string) (*process, error) {
	out, err := os.Create(log) //nolint:gosec // a path of this program's own.
	if err != nil {
		return nil, fmt.Errorf("make a log: %w", err)
	}
	defer func() { _ = out.Close() }()
	command := exec.CommandContext(ctx, name, args...) //nolint:gosec // the programs that are measured.
	p := &process{command: command, ended: make(chan struct{}), log: log}
	p.command.Env = append(os.Environ(), env...)
	p.command.Stdout, p.command.Stderr = out, out
	p.command.Cancel = func() error { return p.command.Process.Signal(syscall.SIGTERM) }
	p.command.WaitDelay = 40 * time.Second
	if err := p.command.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		defer close(p.ended)
		_ = p.command.Wait()
	}()
	return p, nil
}

// stop ends the process and waits for it.
func (p *process) stop() {
	if p == nil {
		return
	}
	_ = p.command.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(40 * time.Second):
		_ = p.command.Process.Kill()
		<-p.ended
	}
}

// await calls ready every 50 ms until it is so, the process has ended or a minute has passed.
func (p *process) await(ctx context.Context, ready func() bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("not ready after a minute"))
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if ready() {
			return nil
		}
		select {
		case <-p.ended:
			text, _ := os.ReadFile(p.log)
			return fmt.Errorf("%s ended:\n%s", p.command.Path, text)
		case <-ctx.Done():
			text, _ := os.ReadFile(p.log)
			return fmt.Errorf("%s: %w:\n%s", p.command.Path, context.Cause(ctx), text)
		case <-tick.C:
		}
	}
}

// resident returns the resident memory in MB.
func (p *process) resident() (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.command.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("read the resident memory: %w", err)
	}
	for line := range bytes.Lines(text) {
		if after, ok := strings.CutPrefix(string(line), "VmRSS:"); ok {
			kb, err := strconv.ParseFloat(strings.Fields(after)[0], 64)
			return kb * 1024 / 1e6, err
		}
	}
	return 0, errors.New("read the resident memory: no VmRSS")
}

// start brings up the stand-in for the exchange, barkeep and PgBouncer.
func (b *bench) start(ctx context.Context) (err error) {
	if b.exchange, err = startExchange(ctx); err != nil {
		return err
	}
	if b.barkeep, err = b.startBarkeep(ctx, "barkeep", urlOf(b.direct)); err != nil {
		return err
	}
	if err := b.findPostmaster(ctx); err != nil {
		b.report.notes = append(b.report.notes, "processor time of backfills is not told: "+err.Error())
	}
	b.through = b.direct.Copy()
	b.through.Host, b.through.Port, b.through.Fallbacks = "127.0.0.1", b.barkeep.port, nil
	return b.startBouncer(ctx)
}

// startBarkeep starts a barkeep that serves the database of the URL; name is that of its folder and log.
func (b *bench) startBarkeep(ctx context.Context, name, url string) (*process, error) {
	port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	status, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	p, err := startProcess(ctx, filepath.Join(b.folder, name+".log"), []string{
		fmt.Sprintf("BARKEEP_LISTEN=127.0.0.1:%d", port),
		fmt.Sprintf("BARKEEP_STATUS_LISTEN=127.0.0.1:%d", status),
		"BARKEEP_DATA_DIR=" + filepath.Join(b.folder, name),
		"BARKEEP_UPSTREAM_URL=" + url,
		"BARKEEP_SOURCES_BINANCE_URL=" + b.exchange.url,
		"BARKEEP_SOURCES_BINANCE_STREAM_URL=ws" + strings.TrimPrefix(b.exchange.url, "http") + "/stream",
		"BARKEEP_SOURCES_BINANCE_RATE=1000000",
		"BARKEEP_SOURCES_BINANCE_BURST=1000000",
	}, b.binary, "serve")
	if err != nil {
		return nil, err
	}
	p.port, p.status = port, status
	client := &http.Client{Timeout: time.Second}
	err = p.await(ctx, func() bool {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/readyz", status), http.NoBody)
		if err != nil {
			return false
		}
		answer, err := client.Do(request)
		if err != nil {
			return false
		}
		_ = answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
	return p, err
}

// startBouncer starts PgBouncer in session mode; where it is not installed a note says so.
func (b *bench) startBouncer(ctx context.Context) error {
	binary := find("pgbouncer", "/usr/sbin/pgbouncer")
	if binary == "" {
		b.report.notes = append(b.report.notes, "PgBouncer is not installed (Debian: apt-get install pgbouncer): not measured")
		return nil
	}
	port, err := freePort(ctx)
	if err != nil {
		return err
	}
	password := ""
	if b.direct.Password != "" {
		password = fmt.Sprintf(" password='%s'", b.direct.Password)
	}
	settings := fmt.Sprintf(`[databases]
%s = host=%s port=%d user=%s%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = session
max_client_conn = 200
default_pool_size = 100
log_connections = 0
log_disconnections = 0
`, b.database, b.direct.Host, b.direct.Port, b.direct.User, password, port)
	file := filepath.Join(b.folder, "pgbouncer.ini")
	if err := os.WriteFile(file, []byte(settings), 0o600); err != nil {
		return fmt.Errorf("write PgBouncer's settings: %w", err)
	}
	args := []string{file}
	if os.Getuid() == 0 { // it refuses to run as root
		who, err := user.Lookup("nobody")
		if err != nil {
			return fmt.Errorf("find a user for PgBouncer: %w", err)
		}
		uid, err := strconv.Atoi(who.Uid)
		if err != nil {
			return fmt.Errorf("find a user for PgBouncer: %w", err)
		}
		if err := errors.Join(os.Chown(file, uid, -1), os.Chmod(b.folder, 0o711)); err != nil { //nolint:gosec // the child must reach its settings.
			return fmt.Errorf("give PgBouncer its settings: %w", err)
		}
		args = []string{"-u", "nobody", file}
	}
	if b.bouncer, err = startProcess(ctx, filepath.Join(b.folder, "pgbouncer.log"), nil, binary, args...); err != nil {
		return err
	}
	b.bouncer.port = port
	return b.bouncer.await(ctx, func() bool {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return false
		}
		_ = conn.Close()
		return true
	})
}

func (b *bench) stop() {
	b.bouncer.stop()
	b.barkeep.stop()
	if b.exchange != nil {
		b.exchange.stop()
	}
}

func urlOf(c *pgx.ConnConfig) string {
	login := c.User
	if c.Password != "" {
		login += ":" + c.Password
	}
	return fmt.Sprintf("postgres://%s@%s/%s?sslmode=disable", login, net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))), c.Database)
}

func freePort(ctx context.Context) (uint16, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer func() { _ = l.Close() }()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return uint16(n), err
}

// find returns the path of a program: the PATH first, then the patterns; empty if there is none.
func find(name string, patterns ...string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, pattern := range patterns {
		if paths, err := filepath.Glob(pattern); err == nil && len(paths) > 0 {
			return paths[len(paths)-1]
		}
	}
	return ""
}
