package main

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/lib/pq"
)

func runPq(ctx context.Context, url string, d *days) error {
	connector, err := pq.NewConnector(url)
	if err != nil {
		return fmt.Errorf("read the address: %w", err)
	}
	db := sql.OpenDB(connector)
	defer db.Close()
	db.SetMaxOpenConns(2)

	rows, err := scan(db.QueryContext(ctx, "select * from ohlcv where "+d.where()+" order by ts"))
	tell("literals", rows, err)
	start, end := d.next()
	rows, err = scan(db.QueryContext(ctx, byArguments, "sim:BTCUSD", "1m", start, end))
	tell("arguments", rows, err)
	statement, err := db.PrepareContext(ctx, byArguments)
	tell("prepare", nil, err)
	defer statement.Close()
	for range 3 {
		start, end = d.next()
		rows, err = scan(statement.QueryContext(ctx, "sim:BTCUSD", "1m", start, end))
		tell("prepared", rows, err)
	}
	start, end = d.next()
	rows, err = scan(db.QueryContext(ctx, "select symbol, count(*) from ohlcv where symbol = any($1) and timeframe = '1m' and ts >= $2 and ts < $3 group by 1 order by 1",
		pq.Array([]string{"sim:BTCUSD", "sim:ETHUSD"}), start, end))
	tell("array", rows, err)
	start, _ = d.next()
	rows, err = scan(db.QueryContext(ctx, "select ts, close from ohlcv where "+where+" and ts < $1 order by ts desc limit 5", start))
	tell("latest five", rows, err)
	pqBlocks(ctx, db, d)

	_, err = db.ExecContext(ctx, "selec 1 from ohlcv")
	tellError("syntax error", err)
	_, err = db.ExecContext(ctx, "select nothing from ohlcv where ts > $1 and "+d.where(), start)
	tellError("unknown column", err)
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	_, err = db.ExecContext(short, "select pg_sleep(5)")
	tell("a context that ends", err != nil, nil)
	pqListen(db, url)
	return nil
}

func pqBlocks(ctx context.Context, db *sql.DB, d *days) {
	tx, err := db.BeginTx(ctx, nil)
	tell("begin", nil, err)
	_, err = tx.ExecContext(ctx, "create temp table kept (id int, word text) on commit drop")
	tell("create", nil, err)
	in, err := tx.PrepareContext(ctx, pq.CopyIn("kept", "id", "word"))
	tell("copy in", nil, err)
	for i := range 3 {
		_, err = in.ExecContext(ctx, i, "w")
		tell("copy row", nil, err)
	}
	_, err = in.ExecContext(ctx)
	tell("copy sent", nil, err)
	tell("copy done", nil, in.Close())
	rows, err := scan(tx.QueryContext(ctx, "select count(k.id), count(o.ts) from kept k, ohlcv o where o."+d.where()))
	tell("join in a block", rows, err)
	tell("rollback", nil, tx.Rollback())

	text := "select count(*), sum(close) from ohlcv where " + d.where()
	for range 5 {
		tx, err = db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelSerializable})
		tell("begin serializable", nil, err)
		rows, err = scan(tx.QueryContext(ctx, text))
		if state, ok := err.(interface{ SQLState() string }); !ok || state.SQLState() != "40001" {
			break
		}
		tell("begin again", nil, tx.Rollback())
	}
	tell("serializable", rows, err)
	tell("commit", nil, tx.Commit())
}

func pqListen(db *sql.DB, url string) {
	listener := pq.NewListener(url, time.Second, time.Second, nil)
	defer listener.Close()
	tell("listen", nil, listener.Listen("word"))
	_, err := db.Exec("notify word, 'hello'")
	tell("notify", nil, err)
	select {
	case n := <-listener.Notify:
		tell("notified", []string{n.Channel, n.Extra}, nil)
	case <-time.After(5 * time.Second):
		tell("notified", "nothing", nil)
	}
}

func scan(rows *sql.Rows, err error) ([][]any, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	var all [][]any
	for rows.Next() {
		row, into := make([]any, len(columns)), make([]any, len(columns))
		for i := range row {
			into[i] = &row[i]
		}
		if err := rows.Scan(into...); err != nil {
			return nil, err
		}
		all = append(all, row)
	}
	return all, rows.Err()
}
