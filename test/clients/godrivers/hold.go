package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/lib/pq"
)

// before is how long a statement is given to be held; timeout is that of the session.
const (
	before  = 700 * time.Millisecond
	timeout = 700 * time.Millisecond
	rounds  = 5
)

// ended prints how a case ended, and how long after the time.
func ended(name string, at time.Time, err error) {
	answer := fmt.Sprint(err)
	var coded interface{ SQLState() string }
	if errors.As(err, &coded) {
		answer = coded.SQLState() + " " + answer
	}
	line, jsonErr := json.Marshal(map[string]any{"case": name, "answer": answer, "ms": float64(time.Since(at).Microseconds()) / 1000})
	if jsonErr != nil {
		panic(failed{jsonErr})
	}
	fmt.Fprintln(os.Stdout, string(line))
}

func runHold(driver, url, text string) (err error) {
	defer recovered(&err)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	switch driver {
	case "pgx":
		return holdPgx(ctx, url, text)
	case "pq":
		return holdPq(ctx, url, text)
	}
	return fmt.Errorf("unknown driver %q", driver)
}

func holdPgx(ctx context.Context, url, text string) error {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return fmt.Errorf("read the address: %w", err)
	}
	// A context that ends sends a CancelRequest, and the connection lives on.
	config.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: 10 * time.Second}
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Close(ctx)
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec, pgx.QueryExecModeCacheStatement} {
		for range rounds {
			at := time.Now().Add(before)
			short, cancel := context.WithDeadline(ctx, at)
			_, err = conn.Exec(short, text, mode)
			cancel()
			var answer *pgconn.PgError
			if !errors.As(err, &answer) {
				err = fmt.Errorf("not the server's: %w", err)
			} else {
				err = answer
			}
			ended("cancel, "+mode.String(), at, err)
		}
	}
	_, err = conn.Exec(ctx, fmt.Sprintf("set statement_timeout = %d", timeout.Milliseconds()))
	tell("set", nil, err)
	for range rounds {
		at := time.Now().Add(timeout)
		_, err = conn.Exec(ctx, text)
		ended("statement_timeout", at, err)
	}
	var one int
	tell("and on", one, conn.QueryRow(ctx, "select 1").Scan(&one))
	return nil
}

func holdPq(ctx context.Context, url, text string) error {
	connector, err := pq.NewConnector(url)
	if err != nil {
		return fmt.Errorf("read the address: %w", err)
	}
	db := sql.OpenDB(connector) // gives up a connection whose statement was cancelled
	defer db.Close()
	for _, arguments := range [][]any{nil, {1}} {
		sent := text
		if arguments != nil {
			sent = "select 1 from (" + text + ") t where 1 = $1"
		}
		for range rounds {
			at := time.Now().Add(before)
			short, cancel := context.WithDeadline(ctx, at)
			_, err = db.ExecContext(short, sent, arguments...)
			cancel()
			ended(fmt.Sprintf("cancel, %d arguments", len(arguments)), at, err)
		}
	}
	tx, err := db.BeginTx(ctx, nil)
	tell("begin", nil, err)
	at := time.Now().Add(before)
	short, cancel := context.WithDeadline(ctx, at)
	_, err = tx.ExecContext(short, text)
	cancel()
	ended("cancel in a block", at, err)
	_, err = tx.ExecContext(ctx, "select 1")
	tellError("the block has failed", err)
	_ = tx.Rollback() // the connection has been given up
	conn, err := db.Conn(ctx)
	tell("connect", nil, err)
	defer conn.Close()
	_, err = conn.ExecContext(ctx, fmt.Sprintf("set statement_timeout = %d", timeout.Milliseconds()))
	tell("set", nil, err)
	for range rounds {
		at := time.Now().Add(timeout)
		_, err = conn.ExecContext(ctx, text)
		ended("statement_timeout", at, err)
	}
	var one int
	tell("and on", one, conn.QueryRowContext(ctx, "select 1").Scan(&one))
	return nil
}
