// Package listen takes the addresses that barkeep serves clients on: TCP, IPv4 and IPv6, and unix sockets.
package listen

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/gofrs/flock"
)

// defaultPort names the socket in a folder where no TCP address has a port: barkeep's default.
const defaultPort = 5433

// maxSocketPath is what fits into sockaddr_un.sun_path of the systems there are, with its end.
const maxSocketPath = 103

// ErrInUse is returned, wrapped, for a unix socket that another process serves.
var ErrInUse = errors.New("another process serves this socket")

// IsSocket reports whether an address is a unix socket's: an absolute path.
func IsSocket(address string) bool { return strings.HasPrefix(address, "/") }

// All takes every address, or none. One that begins with / is a unix socket: the path of a folder that exists, in which the
// socket is .s.PGSQL.<port> as with PostgreSQL's unix_socket_directories, the port being that of the first TCP address; or
// the path of the socket itself. permissions are those of the sockets, as unix_socket_permissions has them. The caller closes
// the listeners, which removes the sockets.
func All(ctx context.Context, addresses []string, permissions fs.FileMode) (_ []net.Listener, err error) {
	listeners := make([]net.Listener, len(addresses))
	defer func() {
		if err != nil {
			for _, each := range listeners {
				if each != nil {
					_ = each.Close()
				}
			}
		}
	}()
	port := 0
	for i, address := range addresses {
		if IsSocket(address) {
			continue
		}
		if listeners[i], err = new(net.ListenConfig).Listen(ctx, "tcp", address); err != nil {
			return nil, err
		}
		if tcp, ok := listeners[i].Addr().(*net.TCPAddr); ok && port == 0 {
			port = tcp.Port
		}
	}
	if port == 0 {
		port = defaultPort
	}
	for i, address := range addresses {
		if !IsSocket(address) {
			continue
		}
		if info, statErr := os.Stat(address); statErr == nil && info.IsDir() {
			address = filepath.Join(address, ".s.PGSQL."+strconv.Itoa(port))
		}
		if listeners[i], err = socket(ctx, address, permissions); err != nil {
			return nil, fmt.Errorf("listen on %s: %w", address, err)
		}
	}
	return listeners, nil
}

// socketListener is a unix socket with its lock.
type socketListener struct {
	net.Listener
	unlock func()
}

// Close implements net.Listener. It removes the socket, then the lock.
func (l *socketListener) Close() error {
	err := l.Listener.Close()
	l.unlock()
	return err
}

// socket serves a path. The file beside it with .lock at its end is locked as long as the socket is served, and holds the
// process id as PostgreSQL's does, which respects it. A socket whose lock is free and that nobody answers on is a dead
// process's, and is removed.
func socket(ctx context.Context, path string, permissions fs.FileMode) (_ net.Listener, err error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("path of %d bytes, and no more than %d fit", len(path), maxSocketPath)
	}
	unlock, giveUp, err := lock(path + ".lock")
	if err != nil {
		return nil, err
	}
	if err := removeStale(ctx, path); err != nil {
		giveUp() // the file may be PostgreSQL's, which does not lock it
		return nil, err
	}
	defer func() {
		if err != nil {
			unlock()
		}
	}()
	if err := os.WriteFile(path+".lock", []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		return nil, fmt.Errorf("write lock file: %w", err)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, permissions); err != nil {
		return nil, errors.Join(fmt.Errorf("set permissions: %w", err), listener.Close())
	}
	return &socketListener{Listener: listener, unlock: unlock}, nil
}

// lock takes the file's lock. unlock removes the file and gives the lock back; giveUp leaves a file that was there before.
func lock(path string) (unlock, giveUp func(), err error) {
	for {
		file := flock.New(path, flock.SetPermissions(0o600))
		taken, err := file.TryLock()
		switch {
		case err != nil:
			return nil, nil, fmt.Errorf("lock: %w", err)
		case !taken:
			return nil, nil, ErrInUse
		}
		// Whoever had it may have removed the file between our opening and our locking it: then ours is nobody's lock.
		mine, err := file.Stat()
		there, statErr := os.Stat(path)
		if err == nil && statErr == nil && os.SameFile(mine, there) {
			unlock = sync.OnceFunc(func() {
				_ = os.Remove(path)
				_ = file.Close()
			})
			if mine.Size() > 0 {
				return unlock, func() { _ = file.Close() }, nil
			}
			return unlock, unlock, nil
		}
		_ = file.Close()
	}
}

// removeStale removes a socket that nobody answers on. Anything else at the path stays, and is an error.
func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look for a socket: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is there and is no socket", path)
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err == nil {
		_ = conn.Close()
		return ErrInUse
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%w: %w", ErrInUse, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove a dead process's socket: %w", err)
	}
	return nil
}
