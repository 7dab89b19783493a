package verifier

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"barkeep/internal/look"
)

// Database reads verifiers by barkeep.verifier, the function of the schema that may. It is safe for concurrent use.
type Database struct {
	pool  *pgxpool.Pool
	rules look.Shared[rules]
}

// NewDatabase returns the reader on a pool of service connections.
func NewDatabase(pool *pgxpool.Pool) *Database { return &Database{pool: pool} }

// readTimeout bounds a read, and the wait for a connection to read by.
const readTimeout = 5 * time.Second

// remedy makes an ErrUnreadable go away.
const remedy = `as a superuser: alter function barkeep.verifier(text) owner to ‹a superuser›; or set auth.users_file`

// Secret returns the user's, as of now. Its error is ErrUnreadable where the function does not answer us at all.
func (d *Database) Secret(ctx context.Context, user string) (Secret, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, readTimeout, errSlow)
	defer cancel()
	if !utf8.ValidString(user) {
		user = "" // no role's, as what is asked for here is not
	}
	var text *string
	var expired, mayLogin bool
	// The clock is the database's, as for the database's own logins (CVE-2025-2291 is what comes of forgetting the date).
	err := d.pool.QueryRow(ctx, `select secret, coalesce(valid_until < pg_catalog.now(), false), may_login from barkeep.verifier($1)`, user).
		Scan(&text, &expired, &mayLogin)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return Secret{Refusal: refusedUnknown}, nil
	case unreadable(err):
		return Secret{}, fmt.Errorf("%w: %w (%s)", ErrUnreadable, err, remedy)
	case err != nil:
		return Secret{}, fmt.Errorf("read the verifier of a user: %w", err)
	}
	secret := Secret{Refusal: refusedNone}
	switch {
	case expired:
		secret.Refusal = refusedExpired
	case text != nil:
		secret = secretOf(*text)
	}
	secret.MayNotLogin = !mayLogin
	return secret, nil
}

var errSlow = errors.New("the database did not answer in time")

func unreadable(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && slices.Contains([]string{
		pgerrcode.InsufficientPrivilege, pgerrcode.UndefinedFunction, pgerrcode.InvalidSchemaName,
	}, pgErr.Code)
}
