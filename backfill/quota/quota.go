// Package quota keeps roles to their limits, which an administrator writes to barkeep.quota.
//
// The limits of a role are of its own row; without one, of the rows of the roles that it is a member of, the largest of each; without
// any, of the row named public (barkeep.quota_of). What it has used is counted by itself, not with the other members: the fetches that are
// open and those of the last hour are rows of barkeep.job, so that they count over all processes and outlive each.
//
// The role is the session's current one, which DESIGN §9's limits of a session are set by: who may SET ROLE to another has that one's limits.
package quota

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"barkeep/internal/market"
)

// Limits are what a role may. A nil limit does not apply; the zero value is no limits.
type Limits struct {
	// Role is whose they are, and Named the rows of barkeep.quota that they are from.
	Role, Named string
	// MaxBars bounds the bars that a statement needs, BarsPerHour those of the fetches that were begun within an hour, Jobs the fetches at
	// one time, LiveSeries the series that are followed at one time.
	MaxBars, BarsPerHour, Jobs, LiveSeries *int64
}

// Querier is a pool, a connection or a transaction.
type Querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Of reads the limits of a role as they are now. A role that is not there has those of public.
func Of(ctx context.Context, q Querier, role string) (Limits, error) {
	l := Limits{Role: role}
	var named *string
	err := q.QueryRow(ctx, "SELECT named, max_bars, bars_per_hour, jobs, live_series FROM barkeep.quota_of($1)", role).
		Scan(&named, &l.MaxBars, &l.BarsPerHour, &l.Jobs, &l.LiveSeries)
	if err != nil {
		return Limits{}, fmt.Errorf("read the quota of a role: %w", err)
	}
	if named != nil {
		l.Named = *named
	}
	return l, nil
}

// Error says which limit is in the way, and how it is raised. Its text is fit for a user.
type Error struct{ code, message, advice string }

// Error names the limit and the role.
func (e *Error) Error() string { return e.message }

// SQLState is program_limit_exceeded (54000) for what will never be allowed, and insufficient_resources (53000) for what may be later.
func (e *Error) SQLState() string { return e.code }

// Hint says what the user can do, and what an administrator can.
func (e *Error) Hint() string { return e.advice }

// raise is how an administrator raises a limit.
func (l Limits) raise(column string, to int64) string {
	first, _, _ := strings.Cut(l.Named, ", ")
	return fmt.Sprintf("UPDATE barkeep.quota SET %s = %d WHERE role = '%s'", column, to, strings.ReplaceAll(first, "'", "''"))
}

func (l Limits) refuse(code, what, column string, limit, to int64, first string) *Error {
	return &Error{
		code:    code,
		message: fmt.Sprintf("%s, more than the quota of role %s allows: %s = %d (barkeep.quota, row %s)", what, l.Role, column, limit, l.Named),
		advice:  first + ", or have an administrator raise the limit: " + l.raise(column, to) + ".",
	}
}

// CheckBars returns an Error where a statement needs too many bars; series is one of those that it needs.
func (l Limits) CheckBars(series market.Series, bars int64) error {
	if l.MaxBars == nil || bars <= *l.MaxBars {
		return nil
	}
	return l.refuse(pgerrcode.ProgramLimitExceeded, fmt.Sprintf("the statement needs about %d bars (%s among them)", bars, series),
		"max_bars", *l.MaxBars, bars, "Narrow the statement by symbol, timeframe or ts")
}

// CheckLive returns an Error where so many series are more than the role may follow at one time.
func (l Limits) CheckLive(series int64) error {
	if l.LiveSeries == nil || series <= *l.LiveSeries {
		return nil
	}
	return l.refuse(pgerrcode.InsufficientResources, fmt.Sprintf("%d series would be live", series), "live_series", *l.LiveSeries, series, "UNLISTEN one")
}

// AdmitLive returns an Error where the role may not follow these series too. It counts the rows of barkeep.live that are the role's, over all proxies and
// each series once; one that is followed for somebody else by the same proxy is not the role's, and need not be asked for. It holds off others of the role
// until the transaction ends, in which the caller inserts the rows, if it does.
func (l Limits) AdmitLive(ctx context.Context, tx pgx.Tx, series ...market.Series) error {
	if l.LiveSeries == nil {
		return nil
	}
	if err := l.lock(ctx, tx); err != nil {
		return err
	}
	symbols, timeframes := make([]string, len(series)), make([]string, len(series))
	for i, each := range series {
		symbols[i], timeframes[i] = string(each.Symbol), each.Timeframe.String()
	}
	var count int64
	err := tx.QueryRow(ctx, `SELECT count(*) FROM (SELECT symbol, timeframe FROM barkeep.live WHERE asked_by = $1 AND wanted_until > clock_timestamp()
	  UNION SELECT * FROM unnest($2::text[], $3::text[])) s`, l.Role, symbols, timeframes).Scan(&count)
	if err != nil {
		return fmt.Errorf("count the series that a role follows: %w", err)
	}
	return l.CheckLive(count)
}

// lock holds off others of the role, on all processes, until the transaction ends.
func (l Limits) lock(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1, hashtext($2))", lockClass, l.Role); err != nil {
		return fmt.Errorf("lock the quota of a role: %w", err)
	}
	return nil
}

// lockClass is the first key of the advisory locks under which roles submit fetches.
const lockClass = 1650553452

// usageSQL counts the open fetches of a role, and the bars of those begun within an hour: what they were to bring while they are open, what
// they have brought afterwards. An open one that nobody wants and nobody works on is not counted: its record may be gone. The last column is when
// the oldest that counts was begun.
const usageSQL = `SELECT count(*) FILTER (WHERE state IN ('queued', 'fetching') AND (wanted_until > now() OR updated_at > now() - interval '1 minute')),
  least(coalesce(sum(CASE WHEN state IN ('queued', 'fetching') THEN costs ELSE least(costs, bars_done) END) FILTER (WHERE asked_at > now() - interval '1 hour'), 0), 9e18)::bigint,
  min(asked_at) FILTER (WHERE asked_at > now() - interval '1 hour')
 FROM barkeep.job WHERE asked_by = $1 AND costs > 0 AND (asked_at > now() - interval '1 hour' OR state IN ('queued', 'fetching'))`

// Counts reports whether fetches of the role are counted, so that Admit has to be asked before they are begun.
func (l Limits) Counts() bool { return l.BarsPerHour != nil || l.Jobs != nil }

// Admit returns an Error where the role may not begin so many fetches of so many bars together. It holds off others of the role, on all processes,
// until the transaction ends, in which the caller inserts their rows.
func (l Limits) Admit(ctx context.Context, tx pgx.Tx, jobs, bars int64) error {
	if !l.Counts() || jobs == 0 {
		return nil
	}
	if err := l.lock(ctx, tx); err != nil {
		return err
	}
	var open, used int64
	var oldest *time.Time
	if err := tx.QueryRow(ctx, usageSQL, l.Role).Scan(&open, &used, &oldest); err != nil {
		return fmt.Errorf("count what a role uses: %w", err)
	}
	if l.Jobs != nil && open+jobs > *l.Jobs {
		first := "Try again when some have ended, which the view barkeep.jobs shows"
		if open == 0 {
			first = "Narrow the statement"
		}
		return l.refuse(pgerrcode.InsufficientResources, strconv.FormatInt(open+jobs, 10)+" fetches would be under way", "jobs", *l.Jobs, open+jobs, first)
	}
	if l.BarsPerHour == nil || bars <= *l.BarsPerHour-used {
		return nil
	}
	what := fmt.Sprintf("%d bars are to be fetched, %d were within the hour", bars, used)
	if bars > *l.BarsPerHour || oldest == nil {
		return l.refuse(pgerrcode.ProgramLimitExceeded, what, "bars_per_hour", *l.BarsPerHour, bars+used, "Narrow the statement by symbol, timeframe or ts")
	}
	return l.refuse(pgerrcode.InsufficientResources, what, "bars_per_hour", *l.BarsPerHour, bars+used,
		"Try again after "+oldest.Add(time.Hour).UTC().Format(time.RFC3339)+", when the oldest of them no longer count")
}
