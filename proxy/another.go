package proxy

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"
)

// A name without a schema that is ohlcv's may be another relation's, by search_path or as a temporary table. It is taken for ours
// unless it is certain that it is not, at the moment at which the upstream resolves it (PLANNER 6):
//
//   - search_path has no public. What is written, whose triggers are looked up by the name, is another relation's where through none of that
//     name anything is read of ohlcv.
//   - it is a temporary table of the session's own, which nobody else can drop, and executing something on it calls nothing of a
//     user's: asked right before, with nothing outstanding. A new table does not make the upstream look again at what it
//     has parsed, as a new search_path does: nothing may have been executed since, or it has meant the same table before.
//
// Statements before it in the same Query or segment might change either, so that it must be alone there.
const (
	isOurs     = iota
	isNotRead  // to read the name is to read another relation
	isNotOurs  // and to write it
	namePublic = "public"
)

// anotherSQL returns the number of the plain temporary table that the name means.
const anotherSQL = `select c.oid from pg_catalog.pg_class c
 where c.oid = pg_catalog.to_regclass('ohlcv') and c.relnamespace = pg_catalog.pg_my_temp_schema() and c.relkind = 'r'
  and not (c.relhasrules or c.relhastriggers or c.relhassubclass or c.relispartition or c.relrowsecurity)
  and not exists (select from pg_catalog.pg_attrdef d where d.adrelid = c.oid)
  and not exists (select from pg_catalog.pg_constraint k where k.conrelid = c.oid and k.contype = 'c')
  and not exists (select from pg_catalog.pg_index i where i.indrelid = c.oid and (i.indexprs is not null or i.indpred is not null))
  and not exists (select from pg_catalog.pg_attribute a join pg_catalog.pg_type t on t.oid = a.atttypid
    where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and t.typnamespace <> 'pg_catalog'::pg_catalog.regnamespace)`

// notMade are the places of the name in which nothing is given it: what is read, what has public before it, what qualifies a column, and other
// names; in lower case.
var notMade = regexp.MustCompile(`\b(from|join|public"?\s*\.)\s*"?ohlcv\b|,\s*"?ohlcv\b|\bohlcv"?\s*\.|\w+ohlcv|ohlcv\w+`)

// shades reports whether the text may make a temporary relation of ohlcv's name. For each statement behind one the session is asked.
func shades(text string) bool {
	low := strings.ToLower(text)
	return strings.Contains(low, "ohlcv") && strings.Contains(low, "temp") && strings.Contains(notMade.ReplaceAllString(low, ""), "ohlcv")
}

// another says what the name ohlcv means in the units. The settings are known.
func (s *session) another(ctx context.Context, units []unit) (int, error) {
	r := &s.reader
	if r.inside.moves {
		return isOurs, nil
	}
	public := !r.settings.elsewhere
	if public && !r.shades {
		return isOurs, nil // as nearly always
	}
	u := &units[len(units)-1]
	apart := slices.ContainsFunc(units[:len(units)-1], func(each unit) bool { return !each.parseOnly || each.stmt != u.stmt })
	if apart || strings.Contains(strings.TrimRight(u.stmt.text, "; \t\r\n"), ";") || strings.Contains(strings.ToLower(r.settings.searchPath), "pg_catalog") {
		return isOurs, nil
	}
	sure := isOurs
	if !public {
		sure = isNotRead
		if known := s.catalog(); known != nil && known.Others != nil && !r.shades {
			sure = isNotOurs
		}
	}
	switch {
	case !r.shades, u.behind, !u.fresh && u.stmt.meant == "", strings.Contains(strings.ToLower(u.stmt.text), "execute"):
		return sure, nil
	case r.repeatable() && !r.snapshotTaken: // the question would take the snapshot
		return sure, nil
	case r.trying:
		return sure, errWouldWait
	}
	if quiet, err := s.quiesce(ctx); err != nil || !quiet || s.blockFailed() {
		return sure, err
	}
	meant, err := s.askAnother(ctx)
	if err != nil || meant == "" || !u.fresh && u.stmt.meant != meant {
		return sure, err
	}
	if !u.parseOnly { // which is asked again at its Bind
		u.stmt.meant = meant
	}
	return isNotOurs, nil
}

// askAnother returns the number of the plain temporary table that the name means, or nothing.
func (s *session) askAnother(ctx context.Context) (string, error) {
	var question []byte
	for _, message := range []pgproto3.Message{
		&pgproto3.Parse{Name: ownName, Query: anotherSQL},
		&pgproto3.Bind{DestinationPortal: ownName, PreparedStatement: ownName},
		&pgproto3.Execute{Portal: ownName},
		&pgproto3.Close{ObjectType: 'P', Name: ownName},
		&pgproto3.Close{ObjectType: 'S', Name: ownName},
	} {
		question = append(question, encode(message)...)
	}
	reply, err := s.exchange(ctx, question)
	switch {
	case err != nil:
		return "", err
	case reply.behind:
		return "", errSegmentFailed
	case reply.err != nil:
		return "", fmt.Errorf("ask which relation is meant: %w", upstreamError(reply.err))
	case len(reply.rows) != 1:
		return "", nil
	}
	return string(reply.rows[0]), nil
}
