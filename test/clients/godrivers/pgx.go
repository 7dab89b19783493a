package main

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const byArguments = "select ts, close, volume from ohlcv where symbol = $1 and timeframe = $2 and ts >= $3 and ts < $4 order by ts"

func runPgx(ctx context.Context, url string, d *days) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Close(ctx)

	rows, err := collect(conn.Query(ctx, "select * from ohlcv where "+d.where()+" order by ts"))
	tell("literals", rows, err)
	modes := []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec,
		pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
	}
	for _, mode := range modes {
		start, end := d.next()
		for range 2 {
			rows, err = collect(conn.Query(ctx, byArguments, mode, "sim:BTCUSD", "1m", start, end))
			tell(mode.String(), rows, err)
		}
	}
	start, end := d.next()
	rows, err = collect(conn.Query(ctx, byArguments, "sim:BTCUSD", "1m", start, end))
	tell("cached statement, another day", rows, err)
	start, end = d.next()
	rows, err = collect(conn.Query(ctx, "select symbol, count(*) from ohlcv where symbol = any($1) and timeframe = '1m' and ts between $2 and $3 group by 1 order by 1",
		[]string{"sim:BTCUSD", "sim:ETHUSD"}, start, end))
	tell("array", rows, err)
	start, _ = d.next()
	rows, err = collect(conn.Query(ctx, "select ts, close from ohlcv where "+where+" and ts < $1 order by ts desc limit $2", start, 5))
	tell("latest five", rows, err)

	pgxBatch(ctx, conn, d)
	pgxBlocks(ctx, conn, d)
	var out bytes.Buffer
	_, err = conn.PgConn().CopyTo(ctx, &out, "copy (select * from ohlcv where "+d.where()+" order by ts) to stdout (format binary)")
	tell("copy", out.Bytes(), err)
	pgxErrors(ctx, conn, d)
	return nil
}

func pgxBatch(ctx context.Context, conn *pgx.Conn, d *days) {
	var batch pgx.Batch
	for range 3 {
		start, end := d.next()
		batch.Queue(byArguments, "sim:BTCUSD", "1m", start, end)
	}
	batch.Queue("select 1")
	results := conn.SendBatch(ctx, &batch)
	for i := range 4 {
		rows, err := collect(results.Query())
		tell(fmt.Sprintf("batch %d", i), rows, err)
	}
	tell("batch", "closed", results.Close())
	pipeline := conn.PgConn().StartPipeline(ctx)
	for range 2 {
		pipeline.SendQueryParams("select ts, close from ohlcv where "+d.where()+" order by ts", nil, nil, nil, nil)
		err := pipeline.Sync()
		tell("pipeline sent", nil, err)
	}
	for {
		result, err := pipeline.GetResults()
		if err != nil || result == nil {
			tell("pipeline", "over", err)
			break
		}
		if reader, ok := result.(*pgconn.ResultReader); ok {
			read := reader.Read()
			tell("pipeline", read.Rows, read.Err)
		}
	}
	tell("pipeline", "closed", pipeline.Close())
}

func pgxBlocks(ctx context.Context, conn *pgx.Conn, d *days) {
	tx, err := conn.Begin(ctx)
	tell("begin", nil, err)
	_, err = tx.Exec(ctx, "declare bars cursor for select ts, close from ohlcv where "+d.where()+" order by ts")
	tell("declare", nil, err)
	rows, err := collect(tx.Query(ctx, "fetch 7 from bars"))
	tell("fetch", rows, err)
	inner, err := tx.Begin(ctx)
	tell("savepoint", nil, err)
	_, err = inner.Exec(ctx, "select nothing from ohlcv")
	tellError("error in a savepoint", err)
	tell("rollback to", nil, inner.Rollback(ctx))
	rows, err = collect(tx.Query(ctx, "select count(*) from ohlcv where "+d.where()))
	tell("count after rollback to", rows, err)
	tell("commit", nil, tx.Commit(ctx))

	text := "select count(*), sum(close) from ohlcv where " + d.where()
	for range 5 {
		err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
			var inner error
			rows, inner = collect(tx.Query(ctx, text))
			return inner
		})
		if state, ok := err.(interface{ SQLState() string }); !ok || state.SQLState() != "40001" {
			break
		}
	}
	tell("repeatable read", rows, err)
}

func pgxErrors(ctx context.Context, conn *pgx.Conn, d *days) {
	_, err := conn.Exec(ctx, "selec 1 from ohlcv")
	tellError("syntax error", err)
	_, err = conn.Exec(ctx, "select nothing from ohlcv where "+d.where())
	tellError("unknown column", err)
	_, err = conn.Exec(ctx, "select 1/$1::int", 0)
	tellError("division", err)
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	_, err = conn.Exec(short, "select pg_sleep(5)")
	tell("a context that ends closes the connection", []any{err != nil, conn.IsClosed()}, nil)
}

func collect(rows pgx.Rows, err error) ([][]any, error) {
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) ([]any, error) { return row.Values() })
}
