package embedded

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Postgres is a server that is running: the child of this process, or the configured one.
type Postgres struct {
	// URL is the address of the database over TCP; for a child the superuser's, trusted on loopback.
	URL string
	// SocketURL is the same over a Unix socket, which is faster; equal to URL where there is none.
	SocketURL string
	// Description says which server it is and why not a better one.
	Description string
	// Timescale says whether the server has TimescaleDB, as far as is known without asking it.
	Timescale bool

	in   *installation // nil for a configured server, like child
	lock *flock.Flock

	mu      sync.Mutex // held while the child is started again; guards what follows
	child   *child
	stopped bool
}

// record is server.json: what serves this data folder for good, and where.
type record struct {
	server
	Port    int      `json:"port"`
	Reasons []string `json:"not_better_because,omitempty"`
}

// installation is a data folder on its way to a running server.
type installation struct {
	config Config
	cred   *credential
	folder string
	record record
}

// Start gives a running server, by the ladder in the package's comment. Whoever gets one calls Stop.
func Start(ctx context.Context, config Config) (*Postgres, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	if config.URL != "" {
		return &Postgres{URL: config.URL, SocketURL: config.URL, Description: "the configured PostgreSQL"}, nil
	}
	if config.Database == "" {
		config.Database = "barkeep"
	}
	folder, lock, err := lockFolder(config.DataDir, "postgres")
	if err != nil {
		return nil, err
	}
	in := &installation{config: config, folder: folder}
	p, err := in.start(ctx)
	if err != nil {
		return nil, errors.Join(err, lock.Unlock())
	}
	p.lock = lock
	return p, nil
}

// Programs is the folder of the server's programs, psql among them perhaps; empty for a configured server.
func (p *Postgres) Programs() string {
	if p.in == nil {
		return ""
	}
	return p.in.record.Bin
}

// Exited is closed when the child that runs now has ended; Run starts another. For a configured server it is nil and blocks for ever.
func (p *Postgres) Exited() <-chan struct{} {
	if c := p.current(); c != nil {
		return c.exited
	}
	return nil
}

// Err says why the child ended; it is read after Exited is closed.
func (p *Postgres) Err() error {
	if c := p.current(); c != nil {
		return c.err
	}
	return nil
}

// current is the child that runs or ran last.
func (p *Postgres) current() *child {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.child
}

// Stop ends the child with a fast shutdown and unlocks the data folder; the context bounds how long it is polite.
func (p *Postgres) Stop(ctx context.Context) error {
	if p.in == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
	return errors.Join(p.child.stop(ctx), p.lock.Unlock())
}

// lockFolder makes and locks a part of the data folder.
func lockFolder(dataDir, part string) (string, *flock.Flock, error) {
	root, err := filepath.Abs(dataDir)
	if err != nil {
		return "", nil, fmt.Errorf("find the data folder: %w", err)
	}
	folder := filepath.Join(root, part)
	if err := makeFolder(folder); err != nil {
		return "", nil, fmt.Errorf("make the data folder: %w", err)
	}
	lock := flock.New(filepath.Join(folder, "lock"))
	locked, err := lock.TryLock()
	if err != nil {
		return "", nil, fmt.Errorf("lock the data folder: %w", err)
	}
	if !locked {
		return "", nil, fmt.Errorf("the data folder %s is in use by another barkeep", root)
	}
	return folder, lock, nil
}

func (in *installation) path(name string) string { return filepath.Join(in.folder, name) }

// start is the list of steps from a locked folder to a database that answers.
func (in *installation) start(ctx context.Context) (*Postgres, error) {
	var err error
	if in.cred, err = dropRights(); err != nil {
		return nil, err
	}
	if err := in.prepareFolder(ctx); err != nil {
		return nil, err
	}
	if err := endOrphan(ctx, in.path("data"), in.config.logger()); err != nil {
		return nil, err
	}
	if err := in.clearSocket(); err != nil {
		return nil, err
	}
	if err := in.readOrChoose(ctx); err != nil {
		return nil, err
	}
	if err := in.initialize(ctx); err != nil {
		return nil, err
	}
	if err := in.configure(ctx); err != nil {
		return nil, err
	}
	return in.run(ctx)
}

func (in *installation) prepareFolder(ctx context.Context) error {
	if err := in.cred.own(in.folder); err != nil {
		return err
	}
	if err := in.cred.reach(ctx, in.folder); err != nil {
		return err
	}
	return nil
}

// clearSocket makes the socket's folder anew: its lock file names a process too, which may be a zombie or somebody else's
// by now.
func (in *installation) clearSocket() error {
	socket := in.path("socket")
	if err := os.RemoveAll(socket); err != nil {
		return fmt.Errorf("clear the socket's folder: %w", err)
	}
	if err := os.Mkdir(socket, 0o700); err != nil {
		return fmt.Errorf("make the socket's folder: %w", err)
	}
	return in.cred.own(socket)
}

// readOrChoose takes the server that the folder names; a folder without one goes down the ladder.
func (in *installation) readOrChoose(ctx context.Context) error {
	text, err := readFile(in.path("server.json"))
	if errors.Is(err, os.ErrNotExist) {
		chosen, reasons, err := choose(ctx, in.config, in.cred)
		if err != nil {
			return err
		}
		in.record = record{server: chosen, Reasons: reasons}
		return nil // written once the data folder is there
	}
	if err != nil {
		return fmt.Errorf("read which server serves the data folder: %w", err)
	}
	if err := json.Unmarshal(text, &in.record); err != nil {
		return fmt.Errorf("read %s: %w", in.path("server.json"), err)
	}
	if _, err := os.Stat(filepath.Join(in.record.Bin, "postgres")); err != nil {
		return in.replaceServer(ctx)
	}
	in.offerBetter(ctx)
	return nil
}

// replaceServer looks for programs that can serve the data, where those that made it are gone: the same major version,
// and TimescaleDB if it has been used.
func (in *installation) replaceServer(ctx context.Context) error {
	gone := in.record.server
	if gone.Kind == kindUnpacked {
		again, err := unpack(ctx, in.config, in.cred)
		if err != nil {
			return fmt.Errorf("the data folder belongs to %s, which is gone, and it cannot be unpacked again: %w", gone.describe(), err)
		}
		in.record.server = again
		return nil
	}
	for _, s := range installedServers(ctx, in.config.BinDir, in.cred) {
		if s.Major == gone.Major && (s.Timescale || !gone.Timescale) {
			in.config.logger().WarnContext(ctx, "the server of the data folder has moved", slog.String("was", gone.Bin), slog.String("is", s.Bin))
			s.Kind, s.Timescale = gone.Kind, gone.Timescale
			in.record.server = s
			return nil
		}
	}
	return fmt.Errorf("the data folder belongs to %s, which is gone; install PostgreSQL %d again, or choose another data_dir", gone.describe(), gone.Major)
}

// offerBetter logs that the machine has TimescaleDB by now; the data stay with their server.
func (in *installation) offerBetter(ctx context.Context) {
	if in.record.Timescale || in.config.BinDir != "" {
		return
	}
	if found, err := filepath.Glob("/usr/lib/postgresql/*/lib/timescaledb.so"); err == nil && len(found) > 0 {
		in.config.logger().InfoContext(ctx, "TimescaleDB is installed by now, and not used: the data folder stays with its server; a new data_dir would use it",
			slog.String("found", found[0]), slog.String("server", in.record.describe()))
	}
}

// initialize makes the data folder; one that was interrupted is begun anew.
func (in *installation) initialize(ctx context.Context) error {
	data := in.path("data")
	if _, err := os.Stat(filepath.Join(data, "PG_VERSION")); err == nil {
		return nil
	}
	making := in.path("data.new")
	if err := os.RemoveAll(making); err != nil {
		return fmt.Errorf("clear an unfinished data folder: %w", err)
	}
	args := []string{"-D", making, "-U", "postgres", "-E", "UTF8", "--auth=trust", "--data-checksums", "--locale=" + locale()}
	if in.config.Throwaway {
		args = append(args, "--no-sync")
	}
	if _, err := output(ctx, in.cred, in.folder, filepath.Join(in.record.Bin, "initdb"), args...); err != nil {
		return fmt.Errorf("make a database cluster with %s: %w", in.record.describe(), err)
	}
	conf, err := openFile(filepath.Join(making, "postgresql.conf"), os.O_APPEND|os.O_WRONLY)
	if err != nil {
		return fmt.Errorf("configure the server: %w", err)
	}
	_, writeErr := conf.WriteString("\n# Written anew at each start; settings of your own go below, or through ALTER SYSTEM.\ninclude '../barkeep.conf'\n")
	if err := errors.Join(writeErr, conf.Close()); err != nil {
		return fmt.Errorf("configure the server: %w", err)
	}
	if err := os.Rename(making, data); err != nil {
		return fmt.Errorf("take over the data folder: %w", err)
	}
	return nil
}

// configure chooses the port if it has none that is free, and writes barkeep.conf and server.json.
func (in *installation) configure(ctx context.Context) error {
	port, err := freePort(ctx, in.record.Port)
	if err != nil {
		return err
	}
	if in.record.Port != 0 && port != in.record.Port {
		in.config.logger().WarnContext(ctx, "the server's port is taken by somebody else; it gets another", slog.Int("was", in.record.Port), slog.Int("is", port))
	}
	in.record.Port = port
	if err := writeFile(in.path("barkeep.conf"), []byte(in.settings())); err != nil {
		return err
	}
	if err := in.cred.own(in.path("barkeep.conf")); err != nil {
		return err
	}
	text, err := json.MarshalIndent(in.record, "", "  ")
	if err != nil {
		return fmt.Errorf("write which server serves the data folder: %w", err)
	}
	return writeFile(in.path("server.json"), append(text, '\n'))
}

func (in *installation) settings() string {
	lines := []string{
		"listen_addresses = '127.0.0.1'",
		fmt.Sprintf("port = %d", in.record.Port),
		"unix_socket_directories = " + confQuote(in.socketFolder()),
		"shared_buffers = '256MB'",
		"max_wal_size = '4GB'",
		"max_connections = 400",
		"max_locks_per_transaction = 256",
		"jit = off",
		"timezone = 'UTC'",
		"log_timezone = 'UTC'",
		"log_line_prefix = '%m [%p] %q%u@%d '",
	}
	if in.record.Timescale {
		lines = append(lines, "shared_preload_libraries = 'timescaledb'", "timescaledb.telemetry_level = off", "max_worker_processes = 32")
	}
	if in.config.Throwaway {
		lines = append(lines, "fsync = off", "full_page_writes = off", "synchronous_commit = off")
	}
	return strings.Join(lines, "\n") + "\n"
}

// socketFolder is empty where its path is longer than the address of a socket may be.
func (in *installation) socketFolder() string {
	if folder := in.path("socket"); len(folder) < 85 {
		return folder
	}
	return ""
}

// launch starts the server and returns once its database answers.
func (in *installation) launch(ctx context.Context) (*child, error) {
	logFile := in.path("server.log")
	if info, err := os.Stat(logFile); err == nil && info.Size() > 10<<20 {
		if err := os.Rename(logFile, logFile+".old"); err != nil {
			return nil, fmt.Errorf("turn the server's log: %w", err)
		}
	}
	c, err := spawn(in.cred, in.folder, logFile, filepath.Join(in.record.Bin, "postgres"), "-D", in.path("data"))
	if err != nil {
		return nil, err
	}
	if err := in.ready(ctx, c); err != nil {
		stopErr := c.stop(context.WithoutCancel(ctx))
		return nil, errors.Join(fmt.Errorf("start %s: %w", in.record.describe(), err), stopErr)
	}
	return c, nil
}

// run starts the server and says where it is.
func (in *installation) run(ctx context.Context) (*Postgres, error) {
	c, err := in.launch(ctx)
	if err != nil {
		return nil, err
	}
	p := &Postgres{
		URL:         childURL(in.record.Port, in.config.Database),
		Description: in.record.describe(), Timescale: in.record.Timescale, in: in, child: c,
	}
	p.SocketURL = p.URL
	if folder := in.socketFolder(); folder != "" {
		p.SocketURL = fmt.Sprintf("postgres://postgres@/%s?host=%s&port=%d&sslmode=disable", in.config.Database, strings.ReplaceAll(folder, " ", "%20"), in.record.Port)
	}
	if len(in.record.Reasons) > 0 {
		p.Description += "; not a better one because " + strings.Join(in.record.Reasons, "; ")
	}
	return p, nil
}

// ready waits until the server takes connections, and makes the database.
func (in *installation) ready(ctx context.Context, c *child) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*time.Minute, errors.New("the server does not get ready; see "+in.path("server.log")))
	defer cancel()
	address := fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable&connect_timeout=5", in.record.Port)
	var last error
	connected := poll(ctx, 2*time.Minute, func() bool {
		select {
		case <-c.exited:
			last = fmt.Errorf("it ended at once: %s", lastLines(in.path("server.log")))
			return true
		default:
		}
		last = in.makeDatabase(ctx, address)
		return last == nil || !unready(last)
	})
	if !connected {
		return fmt.Errorf("wait for it: %w: %w", context.Cause(ctx), last)
	}
	return last
}

// unready says whether a server that is still starting would fail like this.
func unready(err error) bool {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgErr.Code == pgerrcode.CannotConnectNow
	}
	_, ok := errors.AsType[*pgconn.ConnectError](err)
	return ok
}

func (in *installation) makeDatabase(ctx context.Context, address string) error {
	conn, err := pgx.Connect(ctx, address)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	var folder string
	var there bool
	err = conn.QueryRow(ctx, "select current_setting('data_directory'), exists (select from pg_database where datname = $1)", in.config.Database).Scan(&folder, &there)
	if err != nil {
		return fmt.Errorf("ask for the database: %w", err)
	}
	if folder != in.path("data") {
		return fmt.Errorf("the server on port %d is another one (%s)", in.record.Port, folder)
	}
	if there {
		return nil
	}
	if _, err := conn.Exec(ctx, "create database "+pgx.Identifier{in.config.Database}.Sanitize()); err != nil {
		return fmt.Errorf("create the database: %w", err)
	}
	return nil
}

// freePort gives the wanted port of the loopback if it is free, else one that the system finds.
func freePort(ctx context.Context, wanted int) (int, error) {
	var listen net.ListenConfig
	for _, port := range []int{wanted, 0} {
		listener, err := listen.Listen(ctx, "tcp4", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		found, ok := listener.Addr().(*net.TCPAddr)
		if err := listener.Close(); err != nil || !ok {
			continue
		}
		return found.Port, nil
	}
	return 0, errors.New("find a free port on the loopback")
}

// lastLines reads the end of a log.
func lastLines(path string) string {
	file, err := openFile(path, os.O_RDONLY)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = file.Close() }()
	if info, err := file.Stat(); err == nil && info.Size() > 4<<10 {
		if _, err := file.Seek(-(4 << 10), io.SeekEnd); err != nil {
			return err.Error()
		}
	}
	text, err := io.ReadAll(file)
	if err != nil {
		return err.Error()
	}
	return tail(string(text))
}

func confQuote(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }
