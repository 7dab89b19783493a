// Package schema makes and migrates barkeep's tables.
//
// Migrations are embedded and versioned; they run under advisory locks, so several processes may start at once. Where the
// server offers TimescaleDB, public.ohlcv is a hypertable; elsewhere it is an ordinary table of the same name, and
// time_bucket(interval, timestamptz) is provided, so that queries port both ways. The choice is made by the first
// migration and stays.
//
// A superuser can migrate any database. Anyone else needs to own it, and the roles barkeep_service and barkeep_reader
// must exist, or the right to create them; the defaults of the database (Defaults) are set by a superuser, once. A
// RightsError names what is missing and the statement that gives it.
package schema

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/tern/v2/migrate"
)

//go:embed migrations/*.sql
var migrations embed.FS

// migrateLock is the advisory lock of a database under which its schema is made; tern takes its own inside it.
const migrateLock = int64(0x6261726b65657001)

// Names of the roles that a migration makes: the service that writes, and whoever may read bars, jobs and coverage.
const (
	ServiceRole = "barkeep_service"
	ReaderRole  = "barkeep_reader"
)

// Migrate brings the database of conn to the newest schema; where it is there already, nothing is written. It keeps conn's
// session settings out of its way and resets them at the end.
func Migrate(ctx context.Context, conn *pgx.Conn) error { return run(ctx, conn, ensureTimescale) }

// MigratePlain is Migrate without TimescaleDB, whether the server has it or not.
func MigratePlain(ctx context.Context, conn *pgx.Conn) error { return run(ctx, conn, findTimescale) }

// Fingerprint tells one set of migrations from another.
func Fingerprint() string {
	var text strings.Builder
	names, err := fs.Glob(migrations, "migrations/*.sql")
	for _, name := range names {
		body, readErr := migrations.ReadFile(name)
		err = errors.Join(err, readErr)
		text.Write(body)
	}
	if err != nil { // the files are part of the binary
		return err.Error()
	}
	return text.String()
}

type offerFunc func(context.Context, *pgx.Conn) (timescale, error)

func run(ctx context.Context, conn *pgx.Conn, offered offerFunc) (err error) {
	if _, err := conn.Exec(ctx, "select pg_advisory_lock($1)", migrateLock); err != nil {
		return fmt.Errorf("lock the schema: %w", err)
	}
	defer func() {
		_, unlockErr := conn.Exec(context.WithoutCancel(ctx), "select pg_advisory_unlock($1)", migrateLock)
		if err == nil && unlockErr != nil {
			err = fmt.Errorf("unlock the schema: %w", unlockErr)
		}
	}()
	if err := checkServer(ctx, conn); err != nil {
		return err
	}
	if err := ensureRoles(ctx, conn); err != nil {
		return err
	}
	if err := ensureNamespace(ctx, conn); err != nil {
		return err
	}
	if err := runMigrations(ctx, conn, offered); err != nil {
		return err
	}
	return ensureDefaults(ctx, conn)
}

func checkServer(ctx context.Context, conn *pgx.Conn) error {
	var version int
	var recovery bool
	err := conn.QueryRow(ctx, "select current_setting('server_version_num')::int, pg_is_in_recovery()").Scan(&version, &recovery)
	switch {
	case err != nil:
		return fmt.Errorf("ask the server for its version: %w", err)
	case version < 140000:
		return fmt.Errorf("migrate: the server is PostgreSQL %d, 14 or newer is needed", version/10000)
	case recovery:
		return ErrInRecovery
	}
	return nil
}

func runMigrations(ctx context.Context, conn *pgx.Conn, offered offerFunc) error {
	migrator, err := migrate.NewMigrator(ctx, conn, "barkeep.schema_version")
	if err != nil {
		return fmt.Errorf("read the schema's version: %w", explain(err, "own the schema barkeep", ""))
	}
	current, err := migrator.GetCurrentVersion(ctx)
	if err != nil {
		return fmt.Errorf("read the schema's version: %w", err)
	}
	if err := load(ctx, conn, migrator, current, offered); err != nil {
		return err
	}
	newest := len(migrator.Migrations)
	if int(current) == newest {
		return findTable(ctx, conn)
	}
	if int(current) > newest {
		return fmt.Errorf("migrate: the database has schema version %d, this barkeep knows up to %d: use a newer barkeep", current, newest)
	}
	if err := migrator.Migrate(ctx); err != nil {
		return fmt.Errorf("migrate: %w", explain(err, "create tables in the schemas public and barkeep", "alter database … owner to current user"))
	}
	return nil
}

// findTable returns an error where a migrated database has lost what all of it is about: it would answer every statement
// with an error that sounds like the user's own.
func findTable(ctx context.Context, conn *pgx.Conn) error {
	var there bool
	if err := conn.QueryRow(ctx, "select to_regclass('public.ohlcv') is not null").Scan(&there); err != nil {
		return fmt.Errorf("look for the table ohlcv: %w", err)
	}
	if !there {
		return errors.New("migrate: the table public.ohlcv was dropped: restore the database, or give barkeep a new one")
	}
	return nil
}

// load evaluates the migrations; what the server offers is asked (and the extension created) before the first one only.
func load(ctx context.Context, conn *pgx.Conn, migrator *migrate.Migrator, current int32, offered offerFunc) error {
	migrator.Data = map[string]any{"Timescale": false, "TimescaleSchema": "public", "TimeBucket": true}
	if current == 0 {
		offer, err := offered(ctx, conn)
		if err != nil {
			return err
		}
		migrator.Data["Timescale"] = offer.created
		migrator.Data["TimescaleSchema"] = pgx.Identifier{offer.schema}.Sanitize()
		migrator.Data["TimeBucket"] = !offer.timeBucket
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	if err := migrator.LoadMigrations(files); err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	return nil
}

// Hypertable says whether ohlcv of the database is a TimescaleDB hypertable. It is meant for logs and diagnosis.
func Hypertable(ctx context.Context, conn *pgx.Conn) (bool, error) {
	var there bool
	if err := conn.QueryRow(ctx, "select to_regclass('timescaledb_information.hypertables') is not null").Scan(&there); err != nil {
		return false, fmt.Errorf("ask for hypertables: %w", err)
	}
	if !there {
		return false, nil
	}
	err := conn.QueryRow(ctx, `select exists (select from timescaledb_information.hypertables
		where hypertable_schema = 'public' and hypertable_name = 'ohlcv')`).Scan(&there)
	if err != nil {
		return false, fmt.Errorf("ask for hypertables: %w", err)
	}
	return there, nil
}

// ErrInRecovery is returned for a server that is a standby: bars cannot be written there.
var ErrInRecovery = errors.New("the server is in recovery (a standby); connect to its primary")
