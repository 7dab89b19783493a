// Package dbtest gives each test a database of its own, copied from a migrated template, and a broker.
//
// It reads TEST_DATABASE_URL (a superuser's or database creator's address on a server that only tests use) and
// TEST_BROKERS; without the first a test is skipped with a message, without the second the broker lives in memory.
package dbtest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"barkeep/internal/schema"
)

// templateLock is the advisory lock of the server's maintenance database under which templates are made.
const templateLock = int64(0x6261726b65657002)

// DB is a database that belongs to one test.
type DB struct {
	// URL is the database's address, without service settings: what a user would connect to.
	URL string
	// Pool has the service settings of schema.PoolConfig; it is closed when the test ends.
	Pool *pgxpool.Pool
}

// New gives a migrated database: with a hypertable where the server has TimescaleDB. It is dropped when the test ends.
func New(tb testing.TB) *DB {
	tb.Helper()
	return fromTemplate(tb, "barkeep_test_hyper", true)
}

// NewPlain gives a migrated database without TimescaleDB: an ordinary table, and barkeep's own time_bucket.
func NewPlain(tb testing.TB) *DB {
	tb.Helper()
	return fromTemplate(tb, "barkeep_test_plain", false)
}

// Empty gives the address of a database without barkeep's schema, and without the extension.
func Empty(tb testing.TB) string {
	tb.Helper()
	admin := adminURL(tb)
	return create(tb, admin, "template0")
}

func fromTemplate(tb testing.TB, kind string, timescale bool) *DB {
	tb.Helper()
	admin := adminURL(tb)
	template, err := ensureTemplate(tb.Context(), admin, kind, timescale)
	if err != nil {
		tb.Fatalf("make template database: %v", err)
	}
	db := &DB{URL: create(tb, admin, template)}
	if err := settle(tb.Context(), db.URL); err != nil {
		tb.Fatalf("settle test database: %v", err)
	}
	config, err := schema.PoolConfig(db.URL)
	if err != nil {
		tb.Fatalf("configure pool: %v", err)
	}
	config.MaxConns = 16
	db.Pool, err = pgxpool.NewWithConfig(tb.Context(), config)
	if err != nil {
		tb.Fatalf("open pool: %v", err)
	}
	tb.Cleanup(db.Pool.Close)
	return db
}

// Keep copies the database as it is now, and returns what puts the copy in its place: the database comes back without its
// last commits. Both end all sessions first, and none can be opened until they are done.
func (d *DB) Keep(tb testing.TB) (comeBack func()) {
	tb.Helper()
	admin := adminURL(tb)
	name := d.Pool.Config().ConnConfig.Database
	kept := name + "_kept"
	run := func(statements ...string) {
		tb.Helper()
		err := onConn(tb.Context(), admin, func(conn *pgx.Conn) error {
			for _, sql := range statements {
				if _, err := conn.Exec(tb.Context(), sql); err != nil {
					return fmt.Errorf("%s: %w", sql, err)
				}
			}
			return nil
		})
		if err != nil {
			tb.Fatalf("keep a copy of a database: %v", err)
		}
		d.Pool.Reset()
	}
	refuse := []string{
		"alter database " + name + " allow_connections false",
		"select pg_terminate_backend(pid, 10000) from pg_stat_activity where datname = '" + name + "'",
	}
	run(append(refuse, "create database "+kept+" template "+name+" allow_connections false", "alter database "+name+" allow_connections true")...)
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), 30*time.Second)
		defer cancel()
		if err := execute(ctx, admin, "drop database if exists "+kept+" with (force)"); err != nil {
			tb.Errorf("drop the copy of a test database: %v", err)
		}
	})
	return func() {
		tb.Helper()
		run(append(refuse, "drop database "+name, "alter database "+kept+" rename to "+name, "alter database "+name+" allow_connections true")...)
		// A copy has not its database's settings; a server that came back has.
		if err := onConn(tb.Context(), d.URL, func(conn *pgx.Conn) error { return schema.Migrate(tb.Context(), conn) }); err != nil {
			tb.Fatalf("settle the copy of a database: %v", err)
		}
	}
}

func adminURL(tb testing.TB) string {
	tb.Helper()
	address := os.Getenv("TEST_DATABASE_URL")
	if address == "" {
		tb.Skip("TEST_DATABASE_URL is not set: no database to test with (make test provides one)")
	}
	return address
}

func create(tb testing.TB, admin, template string) string {
	tb.Helper()
	name := "barkeep_t_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	if err := copyTemplate(tb.Context(), admin, name, template); err != nil {
		tb.Fatalf("create test database: %v", err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), 30*time.Second)
		defer cancel()
		if err := execute(ctx, admin, "drop database if exists "+name+" with (force)"); err != nil {
			tb.Errorf("drop test database: %v", err)
		}
	})
	return replaceDatabase(admin, name)
}

// copyTemplate holds the lock shared: a template cannot be copied while somebody is connected to it.
func copyTemplate(ctx context.Context, admin, name, template string) error {
	return withLock(ctx, admin, "pg_advisory_lock_shared", "pg_advisory_unlock_shared", func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "create database "+name+" template "+template)
		return err
	})
}

var templates = struct {
	sync.Mutex
	made map[string]string
}{made: map[string]string{}}

// ensureTemplate makes the template once per server and version of the migrations.
func ensureTemplate(ctx context.Context, admin, kind string, timescale bool) (string, error) {
	templates.Lock()
	defer templates.Unlock()
	if name, ok := templates.made[admin+kind]; ok {
		return name, nil
	}
	name := kind + "_" + fingerprint()
	err := withLock(ctx, admin, "pg_advisory_lock", "pg_advisory_unlock", func(conn *pgx.Conn) error {
		return makeTemplate(ctx, conn, admin, name, timescale)
	})
	if err != nil {
		return "", err
	}
	templates.made[admin+kind] = name
	return name, nil
}

func makeTemplate(ctx context.Context, conn *pgx.Conn, admin, name string, timescale bool) error {
	var there bool
	if err := conn.QueryRow(ctx, "select exists (select from pg_database where datname = $1)", name).Scan(&there); err != nil || there {
		return err
	}
	building := name + "_new"
	if _, err := conn.Exec(ctx, "drop database if exists "+building+" with (force)"); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "create database "+building+" template template0"); err != nil {
		return err
	}
	address := replaceDatabase(admin, building)
	migrate := schema.Migrate
	if !timescale {
		migrate = schema.MigratePlain
	}
	if err := onConn(ctx, address, func(c *pgx.Conn) error { return migrate(ctx, c) }); err != nil {
		return err
	}
	// A template must have no sessions; TimescaleDB's scheduler is one.
	if _, err := conn.Exec(ctx, "alter database "+building+" allow_connections false"); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1", building); err != nil {
		return err
	}
	_, err := conn.Exec(ctx, "alter database "+building+" rename to "+name)
	return err
}

func fingerprint() string {
	sum := sha256.Sum256([]byte(schema.Fingerprint()))
	return hex.EncodeToString(sum[:6])
}

// settle adds what a copy has not from its template: the database's settings, and a deployment of its own.
func settle(ctx context.Context, address string) error {
	return onConn(ctx, address, func(conn *pgx.Conn) error {
		if err := schema.Migrate(ctx, conn); err != nil {
			return err
		}
		_, err := conn.Exec(ctx, "update barkeep.deployment set id = gen_random_uuid(), created_at = now()")
		return err
	})
}

func execute(ctx context.Context, address, sql string) error {
	return onConn(ctx, address, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, sql)
		return err
	})
}

func withLock(ctx context.Context, admin, lock, unlock string, work func(*pgx.Conn) error) error {
	return onConn(ctx, admin, func(conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, "select "+lock+"($1)", templateLock); err != nil {
			return fmt.Errorf("lock templates: %w", err)
		}
		defer func() { _, _ = conn.Exec(context.WithoutCancel(ctx), "select "+unlock+"($1)", templateLock) }()
		return work(conn)
	})
}

func onConn(ctx context.Context, address string, work func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, address)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	return work(conn)
}

// replaceDatabase names another database of the same server.
func replaceDatabase(address, name string) string {
	if u, err := url.Parse(address); err == nil && u.Scheme != "" {
		u.Path = "/" + name
		return u.String()
	}
	return address + " dbname=" + name
}
