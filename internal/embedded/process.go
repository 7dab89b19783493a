package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// credential is the user that children run as; nil means the user of this process.
type credential struct {
	name     string
	uid, gid uint32
}

// dropRights chooses the user for children of root: PostgreSQL refuses to run as root.
func dropRights() (*credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil //nolint:nilnil // no other user is needed
	}
	for _, name := range []string{"postgres", "nobody"} {
		found, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.ParseUint(found.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(found.Gid, 10, 32)
		if err := errors.Join(uidErr, gidErr); err != nil {
			return nil, fmt.Errorf("read ids of user %s: %w", name, err)
		}
		return &credential{name: name, uid: uint32(uid), gid: uint32(gid)}, nil
	}
	return nil, errors.New("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody to run it as")
}

// own gives a file or folder to the child's user.
func (c *credential) own(path string) error {
	if c == nil {
		return nil
	}
	if err := os.Chown(path, int(c.uid), int(c.gid)); err != nil {
		return fmt.Errorf("give to user %s: %w", c.name, err)
	}
	return nil
}

// reach checks, as the child's user, that a folder can be entered and written.
func (c *credential) reach(ctx context.Context, folder string) error {
	if c == nil {
		return nil
	}
	if _, err := output(ctx, c, "/", "/bin/sh", "-c", `cd "$0" && test -w .`, folder); err != nil {
		return fmt.Errorf("barkeep runs as root, PostgreSQL then as user %s, who cannot reach %s: choose another data_dir, for instance /var/lib/barkeep", c.name, folder)
	}
	return nil
}

// environment is all that children get: nothing of PG*, no locale of the user's.
func environment(home string) []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "LC_ALL=" + locale(), "TZ=UTC"}
}

// output runs a short command to its end; a failure carries what it printed.
func output(ctx context.Context, cred *credential, folder, name string, args ...string) (string, error) {
	runtime.LockOSThread() // the signal on our death follows the thread
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, name, args...) //nolint:gosec // the programs of a server that was found
	cmd.Dir, cmd.Env = folder, environment(folder)
	cmd.SysProcAttr = attributes(cred, syscall.SIGKILL)
	cmd.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("run %s: %w: %s", filepath.Base(name), err, tail(stdout.String()+stderr.String()))
	}
	return stdout.String(), nil
}

// tail keeps the last lines of a program's complaint.
func tail(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if len(lines) > 12 {
		lines = lines[len(lines)-12:]
	}
	return strings.Join(lines, "\n")
}

// child is a running server process.
type child struct {
	pid    int
	exited chan struct{}
	err    error // why it ended; read after exited is closed
}

// spawn starts a server and keeps its thread until it has ended.
func spawn(cred *credential, folder, logFile, name string, args ...string) (*child, error) {
	log, err := openFile(logFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND)
	if err != nil {
		return nil, fmt.Errorf("open the server's log: %w", err)
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(name, args...) //nolint:gosec,noctx // a server that was found; ends by Stop, which is given time to write its checkpoint
	cmd.Dir, cmd.Env = folder, environment(folder)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = attributes(cred, syscall.SIGINT) // a fast shutdown of PostgreSQL

	c := &child{exited: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(c.exited)
		err := cmd.Start()
		if err == nil {
			c.pid = cmd.Process.Pid
		}
		started <- err
		if err != nil {
			return
		}
		if c.err = cmd.Wait(); c.err == nil {
			c.err = errors.New("it was shut down")
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return c, nil
}

// stop ends the child: politely, then not.
func (c *child) stop(ctx context.Context) error {
	select {
	case <-c.exited:
		return nil
	default:
	}
	return end(ctx, c.pid, func(ctx context.Context, wait time.Duration) bool {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-c.exited:
			return true
		case <-ctx.Done():
			return false
		case <-timer.C:
			return false
		}
	})
}

// end sends a fast shutdown, an immediate one, and then kills; gone waits and says whether the process has ended. The
// context bounds the first step only: an immediate shutdown is short, and tidies up what a kill would leave.
func end(ctx context.Context, pid int, gone func(context.Context, time.Duration) bool) error {
	try := func(ctx context.Context, signal syscall.Signal, wait time.Duration) (bool, error) {
		if err := syscall.Kill(pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return false, fmt.Errorf("signal the server (process %d): %w", pid, err)
		}
		return gone(ctx, wait), nil
	}
	if ended, err := try(ctx, syscall.SIGINT, 20*time.Second); ended || err != nil {
		return err
	}
	for _, signal := range []syscall.Signal{syscall.SIGQUIT, syscall.SIGKILL} {
		if ended, err := try(context.WithoutCancel(ctx), signal, 5*time.Second); ended || err != nil {
			return err
		}
	}
	return fmt.Errorf("the server (process %d) does not end", pid)
}

// endOrphan ends a server that an earlier barkeep left in this data folder, and removes its pid file if it is stale.
func endOrphan(ctx context.Context, data string, logger *slog.Logger) error {
	pidFile := filepath.Join(data, "postmaster.pid")
	text, err := readFile(pidFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for a server left behind: %w", err)
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err == nil && pid > 1 && runsIn(pid, data) {
		logger.WarnContext(ctx, "ending a server that an earlier process left behind", slog.Int("pid", pid), slog.String("data", data))
		err := end(ctx, pid, func(ctx context.Context, wait time.Duration) bool {
			return poll(ctx, wait, func() bool { return !runsIn(pid, data) })
		})
		if err != nil {
			return err
		}
	}
	if err := endSessions(ctx, data, logger); err != nil {
		return err
	}
	// Nobody runs here: we hold the folder's lock. The number may be another process's by now, which PostgreSQL would
	// take for a server.
	if err := os.Remove(pidFile); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the pid file of a server that died: %w", err)
	}
	return nil
}

// endSessions ends sessions whose server was killed under them: busy ones do not notice, and keep the shared memory.
func endSessions(ctx context.Context, data string, logger *slog.Logger) error {
	if poll(ctx, 200*time.Millisecond, func() bool { return len(sessionsIn(data)) == 0 }) {
		return nil
	}
	for _, pid := range sessionsIn(data) {
		logger.WarnContext(ctx, "ending a session of a server that died", slog.Int("pid", pid), slog.String("data", data))
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("end a session of a server that died (process %d): %w", pid, err)
		}
	}
	if !poll(ctx, 5*time.Second, func() bool { return len(sessionsIn(data)) == 0 }) {
		return errors.New("sessions of a server that died do not end")
	}
	return nil
}

// poll asks every 10 ms, for at most so long.
func poll(ctx context.Context, most time.Duration, done func() bool) bool {
	deadline := time.NewTimer(most)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if done() {
			return true
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// locale is one that the server's machine surely has.
func locale() string {
	if runtime.GOOS == "linux" {
		return "C.UTF-8"
	}
	return "C"
}
