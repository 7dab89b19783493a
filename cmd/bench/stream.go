package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// long is a way to move a year of minutes; it returns how many bytes it moved, as the client sees them, 0 where it does not
// know.
type long struct {
	name string
	move func(ctx context.Context, conn *pgconn.PgConn) (int64, error)
}

// measureStream compares a SELECT of a year of minutes, all columns, straight and through barkeep: as text by the simple
// protocol, in binary by the extended one; and COPY of as much, both ways. The rows are read, not decoded.
func (b *bench) measureStream(ctx context.Context) error {
	return b.withConns(ctx, func(direct, through *pgx.Conn) error {
		if _, _, err := b.cold(ctx, through, symbols[0]); err != nil {
			return err
		}
		if _, err := direct.Exec(ctx, "create unlogged table if not exists bars_in (like public.ohlcv)"); err != nil {
			return fmt.Errorf("create bars_in: %w", err)
		}
		text := "select * from ohlcv where " + fmt.Sprintf(yearOf, symbols[0]) + " order by ts"
		var copied bytes.Buffer
		if _, err := direct.PgConn().CopyTo(ctx, &copied, "copy ("+text+") to stdout"); err != nil {
			return fmt.Errorf("copy a year: %w", err)
		}
		for _, each := range b.longs(text, copied.Bytes()) {
			if err := b.measureLong(ctx, each, direct.PgConn(), through.PgConn()); err != nil {
				return fmt.Errorf("%s: %w", each.name, err)
			}
		}
		return nil
	})
}

func (b *bench) longs(text string, copied []byte) []long {
	return []long{
		{"select of 525,600 rows, text", func(ctx context.Context, conn *pgconn.PgConn) (int64, error) {
			return 0, readText(ctx, conn, text)
		}},
		{"select of 525,600 rows, binary", func(ctx context.Context, conn *pgconn.PgConn) (int64, error) {
			return 0, readBinary(ctx, conn, text)
		}},
		{"copy of 525,600 rows to stdout", func(ctx context.Context, conn *pgconn.PgConn) (int64, error) {
			var size counter
			tag, err := conn.CopyTo(ctx, &size, "copy ("+text+") to stdout")
			return int64(size), checkCount(int(tag.RowsAffected()), err)
		}},
		{"copy of 525,600 rows from stdin", func(ctx context.Context, conn *pgconn.PgConn) (int64, error) {
			tag, err := conn.CopyFrom(ctx, bytes.NewReader(copied), "copy bars_in from stdin")
			return int64(len(copied)), checkCount(int(tag.RowsAffected()), err)
		}},
	}
}

// measureLong times it in turn straight and through barkeep. The first round of each counts for nothing.
func (b *bench) measureLong(ctx context.Context, each long, direct, through *pgconn.PgConn) error {
	var straight, proxied []float64
	size := int64(0)
	timed := func(conn *pgconn.PgConn, into *[]float64) func() error {
		return func() error {
			if _, err := direct.Exec(ctx, "truncate bars_in").ReadAll(); err != nil {
				return fmt.Errorf("empty bars_in: %w", err)
			}
			began := time.Now()
			moved, err := each.move(ctx, conn)
			*into = append(*into, millis(time.Since(began)))
			size = moved
			return err
		}
	}
	for round := range 1 + 2*b.rounds {
		if err := inTurn(round, []func() error{timed(direct, &straight), timed(through, &proxied)}); err != nil {
			return err
		}
	}
	b.report.compare(each.name, "ms", proxied[1:], "direct", straight[1:], true, 0.95)
	if size > 0 {
		b.report.measure(each.name+", rate", "MB/s", float64(size)/1e3/median(proxied[1:]), 0)
	}
	return nil
}

// counter counts what is written to it.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

var _ io.Writer = (*counter)(nil)

func readText(ctx context.Context, conn *pgconn.PgConn, text string) error {
	rows := conn.Exec(ctx, text)
	count := 0
	for rows.NextResult() {
		for result := rows.ResultReader(); result.NextRow(); {
			count++
		}
	}
	return checkCount(count, rows.Close())
}

func readBinary(ctx context.Context, conn *pgconn.PgConn, text string) error {
	rows := conn.ExecParams(ctx, text, nil, nil, nil, []int16{1})
	count := 0
	for rows.NextRow() {
		count++
	}
	_, err := rows.Close()
	return checkCount(count, err)
}

func checkCount(count int, err error) error {
	if err == nil && count != barCount {
		err = fmt.Errorf("%d rows, want %d", count, barCount)
	}
	return err
}
