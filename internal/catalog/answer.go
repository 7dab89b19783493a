package catalog

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"

	"barkeep/planner"
)

// settingsSQL sets what constants depend on for the implicit transaction of the round trip, which ends with it. It may
// not write.
const settingsSQL = `select set_config('search_path', 'pg_catalog', true), set_config('transaction_read_only', 'on', true),
 set_config('standard_conforming_strings', 'on', true), set_config('TimeZone', $1, true),
 set_config('DateStyle', $2, true), set_config('IntervalStyle', $3, true)`

// Answer evaluates the questions with the settings of env, in one round trip where none of them fails. A question that
// the database answers with an error gets planner.Failed. The error is for a database that cannot be asked.
func (c *Catalog) Answer(ctx context.Context, env planner.Env, questions []planner.Question) (planner.Answers, error) {
	answers := make(planner.Answers, len(questions))
	if len(questions) == 0 {
		return answers, nil
	}
	for len(questions) > 0 {
		under := questions[0].Under
		var now, later []planner.Question
		for _, q := range questions {
			if q.Under == under {
				now = append(now, q)
			} else {
				later = append(later, q)
			}
		}
		env.TimeZone, env.DateStyle, env.IntervalStyle = under.TimeZone, under.DateStyle, under.IntervalStyle
		if err := whileLost(ctx, func(ctx context.Context) error { return c.answer(ctx, env, now, answers) }); err != nil {
			return nil, err
		}
		questions = later
	}
	return answers, nil
}

func (c *Catalog) answer(ctx context.Context, env planner.Env, questions []planner.Question, answers planner.Answers) error {
	conn, err := c.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("connect to the database: %w", err)
	}
	defer conn.Release()
	// An error rolls the whole round trip back; what was asked until then is known, and the rest is asked anew.
	for rest := questions; len(rest) > 0; {
		n, err := ask(ctx, conn.Conn().PgConn(), env, rest, answers)
		if err == nil {
			break
		}
		var refused *pgconn.PgError
		if !errors.As(err, &refused) || n < 0 || transient(refused.Code) {
			return fmt.Errorf("ask the database for constants: %w", err)
		}
		answers[rest[n].Key] = planner.Failed(refused.Code)
		rest = rest[n+1:]
	}
	return nil
}

// ask returns the index of the question that failed, or -1 where the settings did.
func ask(ctx context.Context, conn *pgconn.PgConn, env planner.Env, questions []planner.Question, into planner.Answers) (failed int, err error) {
	batch := &pgconn.Batch{}
	values := [][]byte{
		[]byte(orDefault(env.TimeZone, "UTC")), []byte(orDefault(env.DateStyle, "ISO, MDY")), []byte(orDefault(env.IntervalStyle, "postgres")),
	}
	batch.ExecParams(settingsSQL, values, nil, nil, nil)
	for _, question := range questions {
		batch.ExecParams(question.SQL, nil, nil, nil, nil)
	}
	results := conn.ExecBatch(ctx, batch)
	n := -1
	for results.NextResult() {
		result := results.ResultReader().Read()
		if result.Err != nil {
			break
		}
		if n >= 0 {
			into[questions[n].Key] = value(result)
		}
		n++
	}
	return n, results.Close()
}

func value(result *pgconn.Result) *string {
	if len(result.Rows) == 0 || len(result.Rows[0]) == 0 || result.Rows[0][0] == nil {
		return nil
	}
	text := string(result.Rows[0][0])
	return &text
}

func orDefault(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

// transient reports whether an error is about the database and not about the question.
func transient(code string) bool {
	return pgerrcode.IsConnectionException(code) || pgerrcode.IsInsufficientResources(code) ||
		pgerrcode.IsOperatorIntervention(code) || pgerrcode.IsSystemError(code)
}
