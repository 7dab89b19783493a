// Package schema makes and migrates barkeep's tables.
//
// Migrations are embedded and numbered; they run under an advisory lock, so several processes may start at once. The text of each is written
// down with it (barkeep.migration): a database that one was applied to with another text is refused. Where the
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
	"errors"
	"fmt"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
)

// migrateLock is the advisory lock of a database under which its schema is made.
const migrateLock = int64(0x6261726b65657001)

// Names of the roles that a migration makes: the service that writes, and whoever may read bars, jobs and coverage.
const (
	ServiceRole = "barkeep_service"
	ReaderRole  = "barkeep_reader"
)

// Migrate brings the database of conn to the newest schema; where it is there already, nothing is written, and a member of ServiceRole may
// call it. Its error is a RightsError, a ChangedError, or the database's.
func Migrate(ctx context.Context, conn *pgx.Conn) error { return run(ctx, conn, ensureTimescale) }

// MigratePlain is Migrate without TimescaleDB, whether the server has it or not.
func MigratePlain(ctx context.Context, conn *pgx.Conn) error { return run(ctx, conn, findTimescale) }

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
	known, err := migrations()
	if err != nil {
		return err
	}
	return runThese(ctx, conn, offered, known)
}

// runThese applies those of the migrations that are not there. A lower number than the newest that is there is as good as any: two were
// written at the same time.
func runThese(ctx context.Context, conn *pgx.Conn, offered offerFunc, known []migration) error {
	have, err := readApplied(ctx, conn, known)
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	missing, err := pending(known, have)
	switch {
	case err != nil:
		return fmt.Errorf("migrate: %w", err)
	case len(missing) == 0:
		return findTable(ctx, conn)
	}
	data, err := templateData(ctx, conn, len(have) == 0, offered)
	if err != nil {
		return err
	}
	for _, each := range missing {
		if err := each.apply(ctx, conn, data); err != nil {
			return fmt.Errorf("migrate: %w", err)
		}
	}
	return nil
}

// rowQuerier is a connection or a pool.
type rowQuerier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Version returns the version of the database's schema, 0 where there is none, and the one that this barkeep makes.
func Version(ctx context.Context, q rowQuerier) (current, newest int, err error) {
	known, err := migrations()
	if err != nil {
		return 0, 0, err
	}
	newest = known[len(known)-1].number
	err = q.QueryRow(ctx, "select version from barkeep.schema_version").Scan(&current)
	if state(err) == pgerrcode.UndefinedTable || state(err) == pgerrcode.InvalidSchemaName {
		return 0, newest, nil
	}
	if err != nil {
		return 0, newest, fmt.Errorf("read the schema's version: %w", err)
	}
	return current, newest, nil
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

// templateData is what migrations are evaluated with; what the server offers is asked (and the extension created) before the first one only.
func templateData(ctx context.Context, conn *pgx.Conn, first bool, offered offerFunc) (map[string]any, error) {
	data := map[string]any{"Timescale": false, "TimescaleSchema": "public", "TimeBucket": true}
	if first {
		offer, err := offered(ctx, conn)
		if err != nil {
			return nil, err
		}
		data["Timescale"] = offer.created
		data["TimescaleSchema"] = pgx.Identifier{offer.schema}.Sanitize()
		data["TimeBucket"] = !offer.timeBucket
	}
	return data, nil
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
