package ingest

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// BlockChannel is where the process ids of the sessions are notified that keep ingest from a lock (PIPELINE 23).
const BlockChannel = "barkeep_block"

// blockAfter is how long a batch runs before it is asked who holds it up, well within the lock timeout.
const blockAfter = 500 * time.Millisecond

// tellBlockers names all sessions that a backend waits for, whether at once or behind others: a session that only read
// ohlcv blocks too, once somebody else waits for it with a stronger lock. A prepared transaction has no process.
const tellBlockers = `WITH RECURSIVE blocker (pid) AS (
    SELECT pg_catalog.unnest(pg_catalog.pg_blocking_pids($1))
    UNION SELECT next.pid FROM blocker b, pg_catalog.unnest(pg_catalog.pg_blocking_pids(b.pid)) next (pid) WHERE b.pid > 0)
  SELECT pg_catalog.count(pg_catalog.pg_notify('` + BlockChannel + `', pid::text)) FROM blocker WHERE pid > 0`

// watchLocks tells who blocks the transaction for as long as it runs. One of them may be a statement that is held until
// the very bars are stored that wait here: neither would ever end. The caller ends the watch with stop.
func (w *Writer) watchLocks(ctx context.Context, tx pgx.Tx) (stop func()) {
	pid := int32(tx.Conn().PgConn().PID()) //nolint:gosec // PostgreSQL's process ids are int32
	ctx, cancel := context.WithCancel(ctx) // also ends the wait for a connection, which others' batches may have all
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		tick := time.NewTicker(blockAfter)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if _, err := w.pool.Exec(ctx, tellBlockers, pid); err != nil && ctx.Err() == nil {
				w.logger.LogAttrs(ctx, slog.LevelDebug, "nobody is told who blocks ingest", slog.Any("error", err))
			}
		}
	}()
	return func() {
		cancel()
		<-finished
	}
}

// FollowBlocks calls blocked with the process id of each session that keeps some process's ingest from a lock, until ctx
// ends, and then returns nil. What is told while the connection is broken is lost: ingest tells again while it waits.
func FollowBlocks(ctx context.Context, pool *pgxpool.Pool, logger *slog.Logger, blocked func(pid uint32)) error {
	const between = time.Second
	for {
		err := followBlocks(ctx, pool, blocked)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // a stop is a cause, not a failure
		}
		logger.LogAttrs(ctx, slog.LevelWarn, "not told of what blocks ingest", slog.Any("error", err), slog.Duration("retry_in", between))
		timer := time.NewTimer(between)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

func followBlocks(ctx context.Context, pool *pgxpool.Pool, blocked func(pid uint32)) error {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	// A connection that listens must not go back to others: it is closed, which Release then notices.
	defer func() {
		_ = conn.Conn().Close(context.WithoutCancel(ctx)) // it is of no more use whatever this returns
		conn.Release()
	}()
	if _, err := conn.Exec(ctx, "LISTEN "+BlockChannel); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	for {
		notice, err := conn.Conn().WaitForNotification(ctx)
		if err != nil {
			return fmt.Errorf("wait for notification: %w", err)
		}
		if pid, err := strconv.ParseUint(notice.Payload, 10, 32); err == nil {
			blocked(uint32(pid))
		}
	}
}
