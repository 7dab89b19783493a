package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"barkeep/internal/status"
	"barkeep/proxy"
)

// statusRows bounds each table of the status page.
const statusRows = 100

const statusJobsSQL = `
select id::text, symbol, timeframe, state, source, error_message, range_start, range_end, asked_at, bars_done, bars_total
  from barkeep.job
 order by state in ('queued', 'fetching') desc, updated_at desc
 limit $1`

func statusJobs(pool *pgxpool.Pool) func(context.Context) ([]status.Job, error) {
	return func(ctx context.Context) ([]status.Job, error) {
		rows, err := pool.Query(ctx, statusJobsSQL, statusRows)
		if err != nil {
			return nil, fmt.Errorf("read jobs: %w", err)
		}
		jobs, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (status.Job, error) {
			var (
				j                 status.Job
				start, end, asked pgtype.Timestamptz
			)
			err := row.Scan(&j.ID, &j.Symbol, &j.Timeframe, &j.State, &j.Source, &j.Error, &start, &end, &asked, &j.Done, &j.Total)
			j.Start, j.End, j.Asked = finite(start), finite(end), finite(asked)
			return j, err
		})
		if err != nil {
			return nil, fmt.Errorf("read jobs: %w", err)
		}
		return jobs, nil
	}
}

const statusCoverageSQL = `
select symbol, timeframe, source, (array['final', 'provisional', 'absent', 'unavailable'])[state],
       min(range_start), max(range_end), count(*)
  from barkeep.coverage
 group by 1, 2, 3, 4
 order by 1, 2, 3, 4
 limit $1`

func statusCoverage(pool *pgxpool.Pool) func(context.Context) ([]status.Series, error) {
	return func(ctx context.Context) ([]status.Series, error) {
		rows, err := pool.Query(ctx, statusCoverageSQL, statusRows)
		if err != nil {
			return nil, fmt.Errorf("read coverage: %w", err)
		}
		series, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (status.Series, error) {
			var (
				s          status.Series
				start, end pgtype.Timestamptz
			)
			err := row.Scan(&s.Symbol, &s.Timeframe, &s.Source, &s.State, &start, &end, &s.Segments)
			s.Start, s.End = finite(start), finite(end)
			return s, err
		})
		if err != nil {
			return nil, fmt.Errorf("read coverage: %w", err)
		}
		return series, nil
	}
}

// sessionRows turns the proxy's sessions into rows of the status page, oldest first.
func sessionRows(list []proxy.SessionInfo) []status.Session {
	slices.SortFunc(list, func(a, b proxy.SessionInfo) int { return a.Since.Compare(b.Since) })
	rows := make([]status.Session, min(len(list), statusRows))
	for i := range rows {
		s := &list[i]
		rows[i] = status.Session{
			ID: strconv.FormatUint(uint64(s.PID), 10), User: s.User, Database: s.Database, Client: s.Client, State: s.State, Since: s.Since,
			Live: liveText(s.Live),
		}
	}
	return rows
}

// liveText names the first channels.
func liveText(channels []string) string {
	const most = 5
	if more := len(channels) - most; more > 0 {
		return strings.Join(channels[:most], ", ") + " and " + strconv.Itoa(more) + " more"
	}
	return strings.Join(channels, ", ")
}

// finite returns the zero time for an infinity, which the page leaves empty.
func finite(t pgtype.Timestamptz) time.Time {
	if t.InfinityModifier != pgtype.Finite {
		return time.Time{}
	}
	return t.Time
}
