package proxy

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"barkeep/internal/certtest"
	"barkeep/internal/embedded"
	"barkeep/internal/schema"
	"barkeep/internal/verifier"
)

// authUpstream is a PostgreSQL of its own, with a pg_hba.conf that asks each user for something else.
type authUpstream struct {
	ca              *certtest.Authority
	address, socket string // of TCP, and of the socket
	database        string
	pool            *pgxpool.Pool // the service's connections
	major           int
}

// authUsers are the users by what they are asked for; the password of each is "pencil of " and its name.
const authUsers = `
	create role trusted login;
	set password_encryption = 'scram-sha-256';
	create role cleared login password 'pencil of cleared';
	create role scrammed login password 'pencil of scrammed';
	create role expired login password 'pencil of expired' valid until '2020-01-01Z';
	create role barred nologin password 'pencil of barred';
	create role bare login;
	create role changing login;
	create role peered login;
	create role certified login;
	create role gsser login;
	create role pässe login password 'pencil of pässe';
	set password_encryption = 'md5';
	create role hashed login password 'pencil of hashed';
	create role stale login password 'pencil of stale'`

const authHBA = `
local all postgres trust
host  all postgres 127.0.0.1/32 trust
local all trusted trust
host  all trusted 127.0.0.1/32 trust
local all cleared password
host  all cleared 127.0.0.1/32 password
local all hashed md5
host  all hashed 127.0.0.1/32 md5
local all peered peer map=us
hostssl all certified 127.0.0.1/32 cert
host  all gsser 127.0.0.1/32 gss
local all all scram-sha-256
host  all all 127.0.0.1/32 scram-sha-256
`

// serverFolder is for a server of the test's own.
func serverFolder(t *testing.T) string {
	t.Helper()
	if os.Getenv("TEST_DATABASE_URL") == "" {
		t.Skip("TEST_DATABASE_URL is not set: no database to test with (make test provides one)")
	}
	folder, err := os.MkdirTemp("", "barkeep-server-") //nolint:usetesting // its folders are for this user alone, and the server may run as another
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(folder)) })
	require.NoError(t, os.Chmod(folder, 0o755))
	return folder
}

func startAuthUpstream(t *testing.T) *authUpstream {
	t.Helper()
	server, err := embedded.Start(t.Context(), embedded.Config{DataDir: serverFolder(t), Database: "market", Throwaway: true})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
		defer cancel()
		require.NoError(t, server.Stop(ctx))
	})
	u := &authUpstream{ca: certtest.NewAuthority(t), database: "market"}
	u.configure(t, server)
	config, err := schema.PoolConfig(server.SocketURL)
	require.NoError(t, err)
	u.pool, err = pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(u.pool.Close)
	_, err = u.pool.Exec(t.Context(), authUsers)
	require.NoError(t, err)
	return u
}

// configure migrates the server, and gives it the certificate and the file of who may come in.
func (u *authUpstream) configure(t *testing.T, server *embedded.Postgres) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), server.URL)
	require.NoError(t, err)
	defer conn.Close(context.Background())
	require.NoError(t, schema.MigratePlain(t.Context(), conn))
	var hba, data, sockets string
	require.NoError(t, conn.QueryRow(t.Context(), "select current_setting('hba_file'), current_setting('data_directory'), current_setting('unix_socket_directories'), current_setting('server_version_num')::int / 10000").
		Scan(&hba, &data, &sockets, &u.major))
	owner, err := os.Stat(hba)
	require.NoError(t, err)
	certFile, keyFile := u.ca.Issue(t, "localhost")
	require.NoError(t, os.WriteFile(hba, []byte(authHBA), 0o600))
	us, err := user.Current()
	require.NoError(t, err)
	identities := filepath.Join(filepath.Dir(hba), "pg_ident.conf")
	require.NoError(t, os.WriteFile(identities, []byte("us "+us.Username+" peered\n"), 0o600))
	giveTo(t, identities, owner)
	for name, from := range map[string]string{"server.crt": certFile, "server.key": keyFile, "ca.crt": u.ca.File} {
		text, err := os.ReadFile(from)
		require.NoError(t, err)
		name = filepath.Join(data, name)
		require.NoError(t, os.WriteFile(name, text, 0o600))
		giveTo(t, name, owner)
	}
	for _, statement := range []string{"alter system set ssl = on", "alter system set ssl_ca_file = 'ca.crt'", "select pg_reload_conf()"} {
		_, err := conn.Exec(t.Context(), statement)
		require.NoError(t, err)
	}
	port := strconv.Itoa(int(conn.Config().Port))
	u.address, u.socket = net.JoinHostPort("127.0.0.1", port), filepath.Join(sockets, ".s.PGSQL."+port)
	// The reload is done when TLS is spoken.
	require.Eventually(t, func() bool {
		conn, err := pgx.Connect(t.Context(), u.url(u.address, "postgres", "sslmode=verify-full"))
		if err != nil {
			return false
		}
		return conn.Close(t.Context()) == nil
	}, 20*time.Second, 20*time.Millisecond)
}

// url is the connection string of a user at an address of TCP.
func (u *authUpstream) url(address, user string, settings ...string) string {
	host, port, _ := net.SplitHostPort(address)
	values := url.Values{"sslrootcert": {u.ca.File}, "connect_timeout": {"20"}}
	for _, setting := range settings {
		name, value, _ := strings.Cut(setting, "=")
		values.Set(name, value)
	}
	return (&url.URL{
		Scheme: "postgres", User: url.UserPassword(user, "pencil of "+user), Host: net.JoinHostPort(host, port), Path: "/" + u.database,
		RawQuery: values.Encode(),
	}).String()
}

// leg is a way from barkeep to the upstream: "unix", "plaintext" or "TLS".
func (u *authUpstream) leg(name string) Upstream {
	switch name {
	case "unix":
		return Upstream{Place: Place{Network: "unix", Address: u.socket}}
	case "plaintext":
		return Upstream{Place: Place{Network: "tcp", Address: u.address}}
	}
	return Upstream{Place: Place{Network: "tcp", Address: u.address, TLS: &tls.Config{RootCAs: u.ca.Pool(), ServerName: "localhost", MinVersion: tls.VersionTLS12}}}
}

// logs is what a barkeep has logged.
type logs struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logs) Write(data []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(data)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// door is a barkeep that plans nothing, in front of an upstream.
type door struct {
	address string
	logs    *logs
}

// open starts a barkeep; wrap, where not nil, changes what it accepts.
func (u *authUpstream) open(t *testing.T, up Upstream, change func(*Config), wrap func(net.Listener) net.Listener) *door {
	t.Helper()
	d := &door{logs: &logs{}}
	cfg := Config{
		Upstream: up, Limits: Limits{Grace: time.Second}, Verifiers: verifier.NewDatabase(u.pool),
		TLS:    &tls.Config{Certificates: []tls.Certificate{u.ca.Pair(t, "barkeep")}, MinVersion: tls.VersionTLS12, NextProtos: []string{alpn}},
		Logger: slog.New(slog.NewTextHandler(d.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&cfg)
	}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	d.address = listener.Addr().String()
	if wrap != nil {
		listener = wrap(listener)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	running.Go(func() { _ = New(cfg).Serve(ctx, listener) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return d
}

// enter connects by pgx and asks who it is.
func enter(ctx context.Context, address string) (user string, err error) {
	conn, err := pgx.Connect(ctx, address)
	if err != nil {
		return "", err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	err = conn.QueryRow(ctx, "select current_user").Scan(&user)
	return user, err
}

func giveTo(t *testing.T, path string, owner os.FileInfo) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	uid, gid, ok := ownerOf(owner)
	require.True(t, ok)
	require.NoError(t, os.Chown(path, uid, gid))
}
