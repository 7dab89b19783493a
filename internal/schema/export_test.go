package schema

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Unsummed is how many migrations databases have of which the text was not written down.
const Unsummed = unsummed

// ErrNoVersion is the error of a database whose version was lost.
var ErrNoVersion = errNoVersion

// Made returns the lines of made.txt.
func Made() string { return made }

// MigrateTo is MigratePlain, or Migrate where hyper says so, with the first so many of the known migrations, and with others: their texts by number.
func MigrateTo(ctx context.Context, conn *pgx.Conn, first int, hyper bool, others map[int]string) error {
	known, err := migrations()
	if err != nil {
		return err
	}
	known = known[:first:first]
	for _, number := range []int{901, 902} {
		if text, ok := others[number]; ok {
			known = append(known, migration{number: number, name: fmt.Sprintf("%d_other.sql", number), text: text})
		}
	}
	if err := ensureRoles(ctx, conn); err != nil {
		return err
	}
	if err := ensureNamespace(ctx, conn); err != nil {
		return err
	}
	if hyper {
		return runThese(ctx, conn, ensureTimescale, known)
	}
	return runThese(ctx, conn, findTimescale, known)
}

// Sums returns the sums of the migrations that are written down, and of those that are known.
func Sums(ctx context.Context, conn *pgx.Conn) (have, want map[int]string, err error) {
	known, err := migrations()
	if err != nil {
		return nil, nil, err
	}
	list, err := readApplied(ctx, conn, known)
	if err != nil {
		return nil, nil, err
	}
	have, want = map[int]string{}, map[int]string{}
	for number, each := range list {
		have[number] = each.sum
	}
	for _, m := range known {
		want[m.number] = m.sum()
	}
	return have, want, nil
}

// Inventory is what a database has of what migrations make.
func Inventory(ctx context.Context, conn *pgx.Conn) (items []string, err error) {
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) (err error) {
		items, err = inventory(ctx, tx)
		return err
	})
	return items, err
}
