package schema

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// RightsError says that the migrating role lacks a right, and which statement of an administrator gives it.
type RightsError struct {
	// Needs is the right, in words.
	Needs string
	// Remedy is SQL for an administrator; empty where there is no single statement.
	Remedy string
	// Cause is what the server said.
	Cause error
}

// Error names the right and its remedy.
func (e *RightsError) Error() string {
	text := "the role that migrates must be able to " + e.Needs
	if e.Remedy != "" {
		text += " (as an administrator: " + e.Remedy + ")"
	}
	if e.Cause != nil {
		text += ": " + e.Cause.Error()
	}
	return text
}

// Unwrap gives the server's own error.
func (e *RightsError) Unwrap() error { return e.Cause }

// SQLState is insufficient_privilege.
func (e *RightsError) SQLState() string { return pgerrcode.InsufficientPrivilege }

// explain turns insufficient_privilege into a RightsError and leaves every other error as it is.
func explain(err error, needs, remedy string) error {
	if state(err) != pgerrcode.InsufficientPrivilege {
		return err
	}
	return &RightsError{Needs: needs, Remedy: remedy, Cause: err}
}

func state(err error) string {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgErr.Code
	}
	return ""
}

// ensureRoles makes the two roles, which belong to the whole server: another database may be migrated at the same moment.
func ensureRoles(ctx context.Context, conn *pgx.Conn) error {
	for _, role := range []string{ServiceRole, ReaderRole} {
		var there bool
		if err := conn.QueryRow(ctx, "select exists (select from pg_catalog.pg_roles where rolname = $1)", role).Scan(&there); err != nil {
			return fmt.Errorf("look for role %s: %w", role, err)
		}
		if there {
			continue
		}
		_, err := conn.Exec(ctx, "create role "+role+" nologin")
		switch state(err) {
		case pgerrcode.DuplicateObject, pgerrcode.UniqueViolation:
			continue
		}
		if err != nil {
			return fmt.Errorf("create role %s: %w", role,
				explain(err, "create roles", "create role "+ServiceRole+" nologin; create role "+ReaderRole+" nologin; grant "+ServiceRole+" to ‹this role›"))
		}
	}
	return ensureMembership(ctx, conn)
}

// ensureMembership: who migrates also serves, and writes bars as a member of the service role.
func ensureMembership(ctx context.Context, conn *pgx.Conn) error {
	var member bool
	var user string
	err := conn.QueryRow(ctx, "select pg_catalog.pg_has_role(current_user, $1, 'member'), current_user", ServiceRole).Scan(&member, &user)
	if err != nil {
		return fmt.Errorf("look for membership of %s: %w", ServiceRole, err)
	}
	if member {
		return nil
	}
	grant := "grant " + ServiceRole + " to " + pgx.Identifier{user}.Sanitize()
	if _, err := conn.Exec(ctx, grant); err != nil {
		return fmt.Errorf("join %s: %w", ServiceRole, explain(err, "write as a member of "+ServiceRole, grant))
	}
	return nil
}

func ensureNamespace(ctx context.Context, conn *pgx.Conn) error {
	var there bool
	if err := conn.QueryRow(ctx, "select exists (select from pg_catalog.pg_namespace where nspname = 'barkeep')").Scan(&there); err != nil {
		return fmt.Errorf("look for schema barkeep: %w", err)
	}
	if there {
		return nil
	}
	if _, err := conn.Exec(ctx, "create schema barkeep"); err != nil {
		return fmt.Errorf("create schema barkeep: %w",
			explain(err, "create schemas and tables in this database", "alter database "+pgx.Identifier{conn.Config().Database}.Sanitize()+" owner to "+pgx.Identifier{conn.Config().User}.Sanitize()))
	}
	return nil
}

// timescale says what the server offers.
type timescale struct {
	created    bool   // the extension is in this database
	schema     string // where its functions are
	timeBucket bool   // a time_bucket(interval, timestamptz) is there already
}

// ensureTimescale creates the extension where the server has it loaded and lets us. Creating it where it is not
// preloaded would end the connection, so that is asked first, by a setting that the library defines.
func ensureTimescale(ctx context.Context, conn *pgx.Conn) (timescale, error) {
	var available, preloaded bool
	err := conn.QueryRow(ctx, `select
		exists (select from pg_catalog.pg_available_extensions where name = 'timescaledb'),
		exists (select from pg_catalog.pg_settings where name like 'timescaledb.%')`).Scan(&available, &preloaded)
	if err != nil {
		return timescale{}, fmt.Errorf("ask for TimescaleDB: %w", err)
	}
	if !available || !preloaded {
		return findTimescale(ctx, conn)
	}
	_, err = conn.Exec(ctx, "set client_min_messages = error; create extension if not exists timescaledb with schema public; reset client_min_messages")
	if err != nil && state(err) != pgerrcode.InsufficientPrivilege {
		return timescale{}, fmt.Errorf("create extension timescaledb: %w", err)
	}
	return findTimescale(ctx, conn)
}

// findTimescale looks whether the extension is in this database.
func findTimescale(ctx context.Context, conn *pgx.Conn) (timescale, error) {
	var offer timescale
	err := conn.QueryRow(ctx, `select
		coalesce((select nspname from pg_catalog.pg_extension e join pg_catalog.pg_namespace n on n.oid = e.extnamespace
		           where e.extname = 'timescaledb'), ''),
		to_regprocedure('public.time_bucket(interval, timestamptz)') is not null`).Scan(&offer.schema, &offer.timeBucket)
	if err != nil {
		return timescale{}, fmt.Errorf("ask for TimescaleDB: %w", err)
	}
	offer.created = offer.schema != ""
	return offer, nil
}

// Default is a setting of the database that sessions of users begin with.
type Default struct {
	// Name and Value are as SHOW gives them.
	Name, Value string
}

// Defaults are what a new database says of a session's settings; an administrator may say otherwise, and is left alone.
func Defaults() []Default {
	return []Default{
		{"barkeep.mode", "wait"},
		{"barkeep.timeout", "10min"},
		{"barkeep.max_bars", "20000000"},
		{"barkeep.freshness", "15s"},
		{"barkeep.unbounded", "stored"},
	}
}

// ensureDefaults sets what is missing. It is not a migration: the settings of a database are not part of its dumps, nor
// of copies made from it as a template.
func ensureDefaults(ctx context.Context, conn *pgx.Conn) error {
	var database string
	var have []string
	err := conn.QueryRow(ctx, `select current_database(), coalesce((select s.setconfig from pg_catalog.pg_db_role_setting s
		join pg_catalog.pg_database d on d.oid = s.setdatabase
		where d.datname = current_database() and s.setrole = 0), '{}')`).Scan(&database, &have)
	if err != nil {
		return fmt.Errorf("read the settings of the database: %w", err)
	}
	var missing []string
	for _, d := range Defaults() {
		if !hasSetting(have, d.Name) {
			missing = append(missing, fmt.Sprintf("alter database %s set %s = '%s'", pgx.Identifier{database}.Sanitize(), d.Name, d.Value))
		}
	}
	for _, alter := range missing {
		if _, err := conn.Exec(ctx, alter); err != nil {
			return fmt.Errorf("set a default of the database: %w",
				explain(err, "set parameters of barkeep for this database, which PostgreSQL reserves to superusers", strings.Join(missing, "; ")))
		}
	}
	return nil
}

func hasSetting(have []string, name string) bool {
	for _, setting := range have {
		if key, _, _ := strings.Cut(setting, "="); key == name {
			return true
		}
	}
	return false
}
