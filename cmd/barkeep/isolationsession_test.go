package main

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// isolationSession is one session of a run. What a step returns is added to rows; after a failure the steps up to commit are left out,
// as their answer would be that of a failed block.
type isolationSession struct {
	conn    *pgconn.PgConn
	run     isolationRun
	piped   *pgconn.Pipeline
	rows    []string
	failure string // SQLSTATE

	pending atomic.Int64
}

// session takes an idle session, or opens one.
func (i *isolation) session(ctx context.Context, t *testing.T, r isolationRun, url string) *isolationSession {
	t.Helper()
	s := &isolationSession{run: r}
	if kept := i.kept[url]; len(kept) > 0 {
		s.conn, i.kept[url] = kept[0], kept[1:]
	} else {
		var err error
		s.conn, err = pgconn.Connect(ctx, url)
		require.NoError(t, err)
		t.Cleanup(func() { _ = s.conn.Close(context.WithoutCancel(ctx)) })
	}
	level := r.level
	if r.way != "piped" && r.way != "alone" {
		level = "read committed" // begin says which
	}
	require.NoError(t, s.conn.Exec(ctx, "set default_transaction_isolation = '"+level+"'").Close())
	return s
}

func (i *isolation) keep(t *testing.T, url string, s *isolationSession) {
	t.Helper()
	require.Nil(t, s.piped)
	require.EqualValues(t, 'I', s.conn.TxStatus(), s.run)
	i.kept[url] = append(i.kept[url], s.conn)
}

func isolationRead(symbol string) string {
	return "select ts, close from ohlcv where symbol = '" + isolationSymbols[symbol] + "' and timeframe = '1m' and ts >= '2024-01-01Z' and ts < '2024-01-01 00:10Z' order by ts"
}

// step does one step.
func (s *isolationSession) step(ctx context.Context, step string) {
	action, what, _ := strings.Cut(step, " ")
	if action == "release" || s.failure != "" && action != "commit" {
		return
	}
	var rows []string
	var err error
	switch action {
	case "begin", "commit":
		err = s.block(ctx, action)
	case "look":
		rows, err = s.execute(ctx, "select 'looked'")
	case "read":
		rows, err = s.execute(ctx, isolationRead(what))
	case "fill":
		results := s.conn.ExecParams(ctx, isolationRead(what), nil, nil, nil, nil).Read()
		rows, err = rowsOf([]*pgconn.Result{results}), results.Err
	case "declare":
		hold := ""
		if s.run.way == "alone" {
			hold = "with hold "
		}
		rows, err = s.execute(ctx, "declare c cursor "+hold+"for "+isolationRead(what))
	case "fetch":
		rows, err = s.execute(ctx, "fetch "+what+" from c")
	}
	s.rows = append(s.rows, rows...)
	if err != nil && s.failure == "" {
		s.failure = sqlState(err)
		if s.failure == "" {
			s.failure = err.Error()
		}
	}
}

func (s *isolationSession) block(ctx context.Context, action string) (err error) {
	switch {
	case s.run.way == "alone":
		return nil
	case s.run.way == "piped" && action == "begin":
		s.piped = s.conn.StartPipeline(ctx)
		return nil
	case s.run.way == "piped":
		defer func() { s.piped = nil }()
		return errors.Join(s.piped.Sync(), s.piped.Close())
	case action == "begin":
		return s.conn.Exec(ctx, "begin isolation level "+s.run.level).Close()
	}
	return s.conn.Exec(ctx, action).Close()
}

// execute runs a text in the way of the run.
func (s *isolationSession) execute(ctx context.Context, text string) ([]string, error) {
	switch s.run.way {
	case "simple":
		results, err := s.conn.Exec(ctx, text).ReadAll()
		return rowsOf(results), err
	case "piped":
		s.piped.SendQueryParams(text, nil, nil, nil, nil)
		s.piped.SendFlushRequest()
		if err := s.piped.Flush(); err != nil {
			return nil, err
		}
		return pipedRows(s.piped)
	case "pipeline":
		batch := &pgconn.Batch{}
		batch.ExecParams("select 'before'", nil, nil, nil, nil)
		batch.ExecParams(text, nil, nil, nil, nil)
		results, err := s.conn.ExecBatch(ctx, batch).ReadAll()
		return rowsOf(results), err
	}
	result := s.conn.ExecParams(ctx, text, nil, nil, nil, nil).Read()
	return rowsOf([]*pgconn.Result{result}), result.Err
}

func pipedRows(pipeline *pgconn.Pipeline) ([]string, error) {
	next, err := pipeline.GetResults()
	if err != nil {
		return nil, err
	}
	reader, ok := next.(*pgconn.ResultReader)
	if !ok {
		return nil, nil
	}
	result := reader.Read()
	return rowsOf([]*pgconn.Result{result}), result.Err
}
