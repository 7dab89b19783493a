package schema

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"github.com/jackc/pgx/v5"
)

//go:embed migrations/*.sql
var files embed.FS

// migration is a step of the schema. Its text is a template, and never changes again once a database may have it.
type migration struct {
	number int
	name   string
	text   string
}

// sum tells the text from any other.
func (m migration) sum() string {
	sum := sha256.Sum256([]byte(m.text))
	return hex.EncodeToString(sum[:])
}

// migrations returns those that this barkeep knows, by number.
func migrations() ([]migration, error) {
	names, err := fs.Glob(files, "migrations/*.sql")
	if err != nil {
		return nil, fmt.Errorf("read migrations: %w", err)
	}
	list := make([]migration, 0, len(names))
	for _, name := range names {
		text, err := files.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read migrations: %w", err)
		}
		name = path.Base(name)
		digits, _, _ := strings.Cut(name, "_")
		number, err := strconv.Atoi(digits)
		if err != nil || number < 1 {
			return nil, fmt.Errorf("read migrations: %s does not begin with a number", name)
		}
		list = append(list, migration{number: number, name: name, text: string(text)})
	}
	slices.SortFunc(list, func(a, b migration) int { return a.number - b.number })
	for i := 1; i < len(list); i++ {
		if list[i].number == list[i-1].number {
			return nil, fmt.Errorf("read migrations: %s and %s have one number", list[i-1].name, list[i].name)
		}
	}
	return list, nil
}

// Fingerprint tells one set of migrations from another.
func Fingerprint() string {
	list, err := migrations()
	if err != nil { // the files are part of the binary
		return err.Error()
	}
	var sums strings.Builder
	for _, m := range list {
		sums.WriteString(m.sum())
	}
	return sums.String()
}

// applied is what is written down of a migration in the database.
type applied struct{ name, sum string }

// ChangedError says that the database was not made by the migrations that this barkeep has.
type ChangedError struct {
	// Migration is the name of one that was applied with another text.
	Migration string
	// Evidence is how it is known.
	Evidence string
}

// Error says what to do, too.
func (e *ChangedError) Error() string {
	return "the migration " + e.Migration + " was applied to this database with another text (" + e.Evidence + "); nothing was changed. " +
		"Run the version of barkeep that made the database, or give this one a new database or data_dir: bars are fetched again as they are asked for"
}

// pending returns the migrations that are still to be applied. An error is a database that has one which this barkeep has not, or
// another one (ChangedError).
func pending(known []migration, have map[int]applied) ([]migration, error) {
	list := make([]migration, 0, len(known))
	there := map[int]bool{}
	for _, m := range known {
		there[m.number] = true
		found, ok := have[m.number]
		switch {
		case !ok:
			list = append(list, m)
		case found.sum != m.sum():
			return nil, &ChangedError{Migration: m.name, Evidence: fmt.Sprintf("SHA-256 %.12s…, here it is %.12s…", found.sum, m.sum())}
		}
	}
	for number, m := range have {
		if !there[number] {
			return nil, fmt.Errorf("the database has the migration %s, which this barkeep does not know: use a newer barkeep", m.name)
		}
	}
	return list, nil
}

// apply applies a migration and writes it down, in one transaction.
func (m migration) apply(ctx context.Context, conn *pgx.Conn, data map[string]any) error {
	parsed, err := template.New(m.name).Option("missingkey=error").Parse(m.text)
	if err != nil {
		return fmt.Errorf("read %s: %w", m.name, err)
	}
	var sql strings.Builder
	if err := parsed.Execute(&sql, data); err != nil {
		return fmt.Errorf("read %s: %w", m.name, err)
	}
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, sql.String()); err != nil {
			return err
		}
		return note(ctx, tx, m)
	})
	if err != nil {
		return fmt.Errorf("apply %s: %w", m.name, explain(err, "create tables in the schemas public and barkeep", "alter database … owner to current user"))
	}
	return nil
}

// note writes down that a migration is applied. schema_version is for barkeeps of before, which leave a database alone that has
// more than they know.
func note(ctx context.Context, tx pgx.Tx, m migration) error {
	if _, err := tx.Exec(ctx, "insert into barkeep.migration (number, name, sum) values ($1, $2, $3)", m.number, m.name, m.sum()); err != nil {
		return fmt.Errorf("write down a migration: %w", err)
	}
	if _, err := tx.Exec(ctx, "update barkeep.schema_version set version = $1 where version < $1", m.number); err != nil {
		return fmt.Errorf("write down the schema's version: %w", err)
	}
	return nil
}

// readApplied returns what is written down in a database, in which it makes the place for that. A database of before there was one is
// taken for what it says to be where it has all that this takes.
func readApplied(ctx context.Context, conn *pgx.Conn, known []migration) (map[int]applied, error) {
	var there, versioned bool
	err := conn.QueryRow(ctx, "select to_regclass('barkeep.migration') is not null, to_regclass('barkeep.schema_version') is not null").Scan(&there, &versioned)
	if err != nil {
		return nil, fmt.Errorf("look for the migrations that were applied: %w", err)
	}
	if !there {
		if err := makePlace(ctx, conn, known, versioned); err != nil {
			return nil, explain(err, "own the schema barkeep and what is in it", "")
		}
	}
	rows, err := conn.Query(ctx, "select number, name, sum from barkeep.migration")
	if err != nil {
		return nil, fmt.Errorf("read the migrations that were applied: %w", err)
	}
	have := map[int]applied{}
	var number int
	var each applied
	_, err = pgx.ForEachRow(rows, []any{&number, &each.name, &each.sum}, func() error {
		have[number] = each
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the migrations that were applied: %w", explain(err, "read barkeep.migration", "grant "+ServiceRole+" to ‹this role›"))
	}
	return have, nil
}

// makePlace makes the tables in which migrations are written down, and writes down those of a database that has a version only.
func makePlace(ctx context.Context, conn *pgx.Conn, known []migration, versioned bool) error {
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `create table barkeep.migration (
			number integer primary key, name text not null, sum text not null, applied_at timestamptz not null default now());
			comment on table barkeep.migration is 'migrations that were applied; sum is the SHA-256 of the text';
			grant select on barkeep.migration to `+ServiceRole); err != nil {
			return fmt.Errorf("make the table of migrations: %w", err)
		}
		if !versioned {
			if _, err := tx.Exec(ctx, "create table barkeep.schema_version (version int4 not null); insert into barkeep.schema_version values (0)"); err != nil {
				return fmt.Errorf("make the schema's version: %w", err)
			}
			return nil
		}
		return adopt(ctx, tx, known)
	})
	return err
}

var errNoVersion = errors.New("barkeep.schema_version is empty: restore the database, or give barkeep a new one")

// adopt writes down the migrations of a database that has none written down, as they are now, if it has what they make.
func adopt(ctx context.Context, tx pgx.Tx, known []migration) error {
	var version *int
	if err := tx.QueryRow(ctx, "select max(version) from barkeep.schema_version").Scan(&version); err != nil {
		return fmt.Errorf("read the schema's version: %w", err)
	}
	if version == nil {
		return errNoVersion
	}
	if *version > unsummed {
		return fmt.Errorf("the database has schema version %d and no record of its migrations: use a newer barkeep", *version)
	}
	have, err := inventory(ctx, tx)
	if err != nil {
		return err
	}
	for _, m := range known {
		if m.number > *version {
			break
		}
		for _, item := range makes(m.number) {
			if !slices.Contains(have, item) {
				return &ChangedError{Migration: m.name, Evidence: "it lacks: " + item}
			}
		}
		if err := note(ctx, tx, m); err != nil {
			return err
		}
	}
	return nil
}
