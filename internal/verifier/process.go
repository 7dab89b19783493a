package verifier

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

// The methods of pg_hba.conf by which the user that a client's process runs as is proof of its role: over a unix socket the
// kernel names it, over TCP the client's machine is asked (RFC 1413). An ident of a local line is shown as peer.
var processMethods = []string{"peer", "ident"}

// rules are what pg_hba.conf says of the user that a client's process runs as: whether there is a rule that goes by it.
type rules struct{ overSocket, overTCP bool }

// JudgesProcess reports whether the database may let somebody in, over a unix socket or over TCP, because of the user that the
// process runs as which connects. It reads pg_hba.conf as it is after the call, once for all who ask at the same time: the login that is
// judged has been, and rules read before it could be others. Where it may not read the file, or where there are errors in it, so
// that another is in force, the answer is yes.
func (d *Database) JudgesProcess(ctx context.Context, overSocket bool) (bool, error) {
	found, err := d.rules.Fresh(ctx, d.readRules)
	if overSocket {
		return found.overSocket, err
	}
	return found.overTCP, err
}

func (d *Database) readRules(ctx context.Context) (rules, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, readTimeout, errSlow)
	defer cancel()
	var found rules
	rows, err := d.pool.Query(ctx, `select error is null and type operator(pg_catalog.<>) 'local', error is null and type operator(pg_catalog.=) 'local',
		coalesce(auth_method, 'peer') from pg_catalog.pg_hba_file_rules`)
	if err == nil {
		var onlyTCP, onlySocket bool
		var method string
		_, err = pgx.ForEachRow(rows, []any{&onlyTCP, &onlySocket, &method}, func() error {
			judges := slices.Contains(processMethods, method)
			found.overSocket = found.overSocket || judges && !onlyTCP
			found.overTCP = found.overTCP || judges && !onlySocket
			return nil
		})
	}
	switch {
	case unreadable(err):
		return rules{overSocket: true, overTCP: true}, nil
	case err != nil:
		return rules{}, fmt.Errorf("read the rules of authentication: %w", err)
	}
	return found, nil
}
