package catalog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"

	"barkeep/planner"
)

// settingsSQL sets what constants depend on for the implicit transaction of the round trip, which ends with it. It may
// not write, and nothing in it may take long: a pattern can be costly.
const settingsSQL = `select set_config('search_path', 'pg_catalog', true), set_config('transaction_read_only', 'on', true),
 set_config('standard_conforming_strings', 'on', true), set_config('statement_timeout', '3s', true), set_config('TimeZone', $1, true),
 set_config('DateStyle', $2, true), set_config('IntervalStyle', $3, true)`

// constantsKept bounds the cache of IMMUTABLE results, and constantBytes each of its entries.
const constantsKept, constantBytes = 4096, 4 << 10

// Answer evaluates the questions, in one round trip where none of them fails; those whose answers cannot change are asked once
// (PLANNER 9, 10). A question that the database answers with an error gets planner.Failed. The error is for a database that cannot
// be asked.
func (c *Catalog) Answer(ctx context.Context, questions []planner.Question) (planner.Answers, error) {
	answers := make(planner.Answers, len(questions))
	var rest []planner.Question
	for _, q := range questions {
		if known, ok := c.constants.Get(q.Key); ok && q.Immutable {
			answers[q.Key] = known
		} else {
			rest = append(rest, q)
		}
	}
	if len(rest) == 0 {
		return answers, nil
	}
	// Those of the same settings side by side.
	slices.SortStableFunc(rest, func(a, b planner.Question) int { return strings.Compare(localeKey(a.Under), localeKey(b.Under)) })
	if err := whileLost(ctx, func(ctx context.Context) error { return c.answer(ctx, rest, answers) }); err != nil {
		return nil, err
	}
	for _, q := range rest {
		if text := answers[q.Key]; q.Immutable && len(q.Key) <= constantBytes && (text == nil || len(*text) <= constantBytes && !planner.HasFailed(text)) {
			c.constants.Add(q.Key, text)
		}
	}
	return answers, nil
}

func localeKey(l planner.Locale) string {
	return l.TimeZone + "|" + l.DateStyle + "|" + l.IntervalStyle
}

func (c *Catalog) answer(ctx context.Context, questions []planner.Question, answers planner.Answers) error {
	conn, err := c.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("connect to the database: %w", err)
	}
	defer conn.Release()
	// An error rolls the whole round trip back; what was asked until then is known, and the rest is asked anew.
	for rest := questions; len(rest) > 0; {
		n, err := c.ask(ctx, conn.Conn().PgConn(), rest, answers)
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

// ask returns the index of the question that failed, or -1 where settings did.
func (c *Catalog) ask(ctx context.Context, conn *pgconn.PgConn, questions []planner.Question, into planner.Answers) (failed int, err error) {
	batch := &pgconn.Batch{}
	var steps []int // a question, or -1 for settings
	for i, q := range questions {
		if i == 0 || localeKey(q.Under) != localeKey(questions[i-1].Under) {
			batch.ExecParams(settingsSQL, [][]byte{
				[]byte(orDefault(q.Under.TimeZone, "UTC")), []byte(orDefault(q.Under.DateStyle, "ISO, MDY")), []byte(orDefault(q.Under.IntervalStyle, "postgres")),
			}, nil, nil, nil)
			steps = append(steps, -1)
		}
		if q.Listed == nil {
			batch.ExecParams(q.SQL, nil, nil, nil, nil)
		} else {
			batch.ExecParams("with listed (symbol) as ("+c.listing+") "+q.SQL, [][]byte{[]byte(q.Listed.Prefix), textArray(q.Listed.Named)}, nil, nil, nil)
		}
		steps = append(steps, i)
	}
	results := conn.ExecBatch(ctx, batch)
	at := 0
	for results.NextResult() {
		result := results.ResultReader().Read()
		if result.Err != nil {
			break
		}
		if i := steps[at]; i >= 0 {
			into[questions[i].Key] = value(result)
		}
		at++
	}
	err = results.Close()
	if at >= len(steps) {
		return -1, err
	}
	return steps[at], err
}

// textArray writes an array of texts as PostgreSQL reads it.
func textArray(list []string) []byte {
	out := []byte{'{'}
	for i, each := range list {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, '"')
		out = append(out, strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(each)...)
		out = append(out, '"')
	}
	return append(out, '}')
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
	return code != pgerrcode.QueryCanceled && (pgerrcode.IsConnectionException(code) || pgerrcode.IsInsufficientResources(code) ||
		pgerrcode.IsOperatorIntervention(code) || pgerrcode.IsSystemError(code))
}
