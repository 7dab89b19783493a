package main

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

const (
	coveredHour = `select count(*) from ohlcv where symbol='sim:BTCUSD' and timeframe='1m' and ts >= '2024-01-01Z' and ts < '2024-01-01 01:00Z'`
	missingHour = `select count(*) from ohlcv where symbol='sim:BTCUSD' and timeframe='1m' and ts >= '2024-02-01Z' and ts < '2024-02-01 01:00Z'`
)

// The sequence: a block holds a lock that ingest needs, and then waits for bars that only ingest can store. Without the
// rule the statement waits until barkeep.timeout, and with it everybody's bars.
func TestRule23_AHoldThatBlocksIngestEnds(t *testing.T) {
	t.Parallel()
	s := startStack(t, t.TempDir())
	conn := connect(t, s.clientURL())
	requireHour(t, conn, coveredHour)
	mustExec(t, conn, `begin; lock table ohlcv in share mode`)
	requireLockNotAvailable(t, conn)
	requireHour(t, conn, missingHour)
}

// The same with a block that has only read: ingest waits behind somebody who waits for it with a stronger lock.
func TestRule23_AHoldThatBlocksBehindAnotherEnds(t *testing.T) {
	t.Parallel()
	s := startStack(t, t.TempDir())
	conn := connect(t, s.clientURL())
	requireHour(t, conn, coveredHour)
	mustExec(t, conn, `begin`)
	requireHour(t, conn, coveredHour)
	other := connect(t, s.db.URL)
	locked := make(chan error, 1)
	go func() {
		_, err := other.Exec(context.WithoutCancel(t.Context()), `begin; lock table ohlcv in access exclusive mode; rollback`)
		locked <- err
	}()
	require.Eventually(t, func() bool {
		var waiting bool
		err := s.db.Pool.QueryRow(t.Context(), `select exists (select from pg_locks where pid = $1 and not granted)`,
			int64(other.PgConn().PID())).Scan(&waiting)
		return err == nil && waiting
	}, 10*time.Second, 5*time.Millisecond)
	requireLockNotAvailable(t, conn)
	require.NoError(t, <-locked)
	requireHour(t, conn, missingHour)
}

// requireHour reads an hour of minutes.
func requireHour(t *testing.T, conn *pgx.Conn, hour string) {
	t.Helper()
	var bars int
	require.NoError(t, conn.QueryRow(t.Context(), hour).Scan(&bars))
	require.Equal(t, 60, bars)
}

// requireLockNotAvailable reads what is missing within a block, which must fail soon and be good for ROLLBACK only.
func requireLockNotAvailable(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	began := time.Now()
	_, err := conn.Exec(t.Context(), missingHour)
	var pgErr *pgconn.PgError
	require.ErrorAs(t, err, &pgErr)
	require.Equal(t, pgerrcode.LockNotAvailable, pgErr.Code, pgErr.Message)
	require.NotEmpty(t, pgErr.Hint)
	require.Less(t, time.Since(began), 15*time.Second)
	_, err = conn.Exec(t.Context(), `select 1`)
	require.ErrorAs(t, err, &pgErr)
	require.Equal(t, pgerrcode.InFailedSQLTransaction, pgErr.Code)
	mustExec(t, conn, `rollback`)
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

func mustExec(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	_, err := conn.Exec(t.Context(), sql)
	require.NoError(t, err)
}
