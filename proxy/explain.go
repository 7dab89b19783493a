package proxy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgproto3"

	"barkeep/internal/market"
	"barkeep/planner"
)

// Explanation says what of one requirement is there, and what fetching the rest would take.
type Explanation struct {
	Series market.Series
	// Source serves the symbol, or would; empty where that cannot be said yet.
	Source string
	// Fallback are the sources whose bars may stand in for those that it cannot have, in order.
	Fallback []string
	// Base is the timeframe that the bars are derived from where the source has not theirs, else zero; BaseMissing is what of
	// it would be fetched before.
	Base            market.Timeframe
	BaseMissing     market.RangeSet
	Needed, Missing market.RangeSet
	// Open are reads of n bars of which it is not known yet how far they reach.
	Open []market.Count
	// Pages and Took are estimates for Missing, or where there is a base for BaseMissing; Took is negative where there is none.
	Pages int64
	Took  time.Duration
	// Failure says why the bars would not come, nil where they would.
	Failure error
}

// Explainer says what Ensure would do, and does nothing.
type Explainer interface {
	Explain(ctx context.Context, request Request) ([]Explanation, error)
}

// explained is the answer to one EXPLAIN (BARKEEP). The reader fills lines before the messages that show it go upstream; from
// then on it is the pump's.
type explained struct {
	lines []string
	shown int
}

// shown is one Execute of an EXPLAIN (BARKEEP): at most limit rows, 0 for all.
type shown struct {
	*explained
	limit uint32
}

// encode returns the rows, with what ends them; nothing of what is shown to nobody.
func (x *shown) encode() []byte {
	if x.explained == nil {
		return nil
	}
	rest := x.lines[x.shown:]
	suspended := x.limit > 0 && uint32(len(rest)) >= x.limit //nolint:gosec // lines are few
	if suspended {
		rest = rest[:x.limit]
	}
	x.shown += len(rest)
	var out []byte
	for _, line := range rest {
		out = append(out, encode(&pgproto3.DataRow{Values: [][]byte{[]byte(line)}})...)
	}
	if suspended {
		return append(out, encode(&pgproto3.PortalSuspended{})...)
	}
	return append(out, encode(&pgproto3.CommandComplete{CommandTag: []byte("EXPLAIN")})...)
}

// explainColumn is the column that PostgreSQL's EXPLAIN answers with.
var explainColumn = pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{
	{Name: []byte("QUERY PLAN"), DataTypeOID: 25, DataTypeSize: -1, TypeModifier: -1},
}}

var errExplainAlone = &Error{
	Code: pgerrcode.FeatureNotSupported, Message: "EXPLAIN (BARKEEP) has to be the only statement of its query",
	HintText: "Send it by itself, after the Sync of what comes before it.",
}

// explains reports whether the statement is an EXPLAIN (BARKEEP).
func (s *session) explains(st *statement) bool {
	if !st.asks || s.server.cfg.Explainer == nil {
		return false
	}
	env := s.env()
	return s.template(st, &env).Explains()
}

// forgetExplained forgets the portals that end with the transaction, at a Sync.
func (s *session) forgetExplained() {
	if r := &s.reader; len(r.explained) > 0 && !s.inTransaction() {
		clear(r.explained)
	}
}

// replace puts a message in the place of the one of the given size at scan, and returns its size.
func (r *reader) replace(size int, message []byte) int {
	r.buf = slices.Replace(r.buf[:r.end], r.scan, r.scan+size, message...)
	r.end = len(r.buf)
	r.buf = r.buf[:cap(r.buf)]
	return len(message)
}

// explainQuery answers a simple Query, which does not go upstream.
func (s *session) explainQuery(ctx context.Context, st *statement, size int) error {
	r := &s.reader
	if r.trying {
		return errWouldWait
	}
	x := &explained{}
	err := s.explain(ctx, unit{stmt: st, explained: x})
	if err == nil {
		var quiet bool
		if quiet, err = s.quiesce(ctx); err == nil && !quiet {
			err = errExplainAlone
		}
	}
	if err != nil {
		return s.fail(ctx, err, 'Q', size)
	}
	r.scan += size
	r.start, r.segment = r.scan, r.scan
	r.leaveSegment()
	s.mu.Lock()
	tx := s.tx
	s.mu.Unlock()
	_ = s.inject(slices.Concat(encode(&explainColumn), (&shown{explained: x}).encode(), encode(&pgproto3.ReadyForQuery{TxStatus: tx})))
	return nil
}

// explainUnits fills the answers of those units that are to be shown.
func (s *session) explainUnits(ctx context.Context, units []unit) error {
	for _, u := range units {
		if u.explained == nil || s.blockFailed() {
			continue
		}
		if s.reader.trying {
			return errWouldWait
		}
		if err := s.explain(ctx, u); err != nil {
			return err
		}
	}
	return nil
}

// explain plans as round does, and writes down what came of it.
func (s *session) explain(ctx context.Context, u unit) error {
	if ready, err := s.refreshed(ctx, []unit{u}); err != nil || !ready {
		return err
	}
	env := s.env()
	template := s.template(u.stmt, &env)
	if template.Statements != 1 {
		return errExplainAlone
	}
	if wrong := s.reader.settings.wrong; wrong != nil {
		return wrong
	}
	u.args.Prepared = s.prepared(env)
	held := &hold{session: s, units: []unit{u}, explains: true}
	held.arm(ctx)
	defer held.end()
	plan, err := s.planAnswered(held.armed, held, template, &u, &env) //nolint:contextcheck // armed is ctx with the cancel requests
	if stage, ok := errors.AsType[*stageError](err); ok {
		plan, err = explainStage(stage.what), nil
	}
	switch {
	case errors.Is(err, errPass):
		return nil
	case held.armed.Err() != nil:
		return context.Cause(held.armed) //nolint:contextcheck // armed is ctx with the cancel requests
	case err != nil:
		return err
	}
	if refused := plan.Refusal; refused != nil && len(plan.Requirements) == 0 && len(plan.Reasons) == 0 {
		return refusalError(refused)
	}
	if columns := template.Columns(); len(plan.Requirements) > 0 {
		if err := s.mayRead(ctx, need{columns: columns, all: columns == nil}); err != nil {
			return err
		}
	}
	set := &s.reader.settings
	list, err := s.server.cfg.Explainer.Explain(ctx, Request{
		Requirements: join(plan.Requirements), Mode: set.mode, Freshness: set.freshness, MaxBars: set.maxBars, AskedBy: set.role,
		Life: s.life,
	})
	if err != nil {
		return err
	}
	u.explained.lines = explainLines(plan, list, set.mode)
	return nil
}

// explainLines writes what EXPLAIN (BARKEEP) shows.
func explainLines(plan *planner.Plan, list []Explanation, mode string) []string {
	var lines []string
	var needed, missing, pages int64
	took, known := time.Duration(0), true
	for _, e := range list {
		lines = append(lines, e.lines()...)
		needed += e.Needed.Count(e.Series.Timeframe)
		missing += e.Missing.Count(e.Series.Timeframe)
		pages += e.Pages
		took += e.Took
		known = known && (e.Took >= 0 || e.Pages == 0)
	}
	if !known {
		took = -1
	}
	head := fmt.Sprintf("barkeep: %d series, %s bars needed, %s missing", len(list), grouped(needed), grouped(missing))
	if pages > 0 {
		head += ": " + fetchText(pages, took)
	}
	if mode == "stored" && missing > 0 {
		head += "; not fetched, since barkeep.mode is stored"
	}
	lines = slices.Insert(lines, 0, head)
	for _, text := range plan.Found {
		lines = append(lines, "symbols: "+text)
	}
	for _, reason := range plan.Reasons {
		line := "widened: " + reason.Code + ": " + strings.TrimPrefix(reason.Detail, "barkeep: ")
		if reason.Text != "" {
			line += ": " + reason.Text
		}
		lines = append(lines, line)
	}
	for _, warning := range plan.Warnings {
		lines = append(lines, "warning: "+strings.TrimPrefix(warning, "barkeep: "))
	}
	if refused := plan.Refusal; refused != nil {
		lines = append(lines, "refused: "+refused.SQLState+": "+strings.TrimPrefix(refused.Message, "barkeep: "))
	}
	return lines
}

// lines shows one series.
func (e *Explanation) lines() []string {
	tf := e.Series.Timeframe
	from := " from " + strings.Join(append([]string{e.Source}, e.Fallback...), ", else ")
	if e.Source == "" && e.Failure == nil {
		from = ", from a source that is not known yet"
	} else if e.Source == "" {
		from = ""
	}
	lines := []string{
		fmt.Sprintf("%s %s%s", e.Series.Symbol, tf, from),
		"  needed: " + rangesText(e.Needed, tf),
		"  covered: " + rangesText(e.Needed.Subtract(e.Missing), tf),
		"  missing: " + rangesText(e.Missing, tf),
	}
	if e.Base.Valid() && !e.Missing.Empty() {
		lines = append(lines, fmt.Sprintf("  derived from %s: missing: %s", e.Base, rangesText(e.BaseMissing, e.Base)))
	} else if e.Base.Valid() {
		lines = append(lines, fmt.Sprintf("  derived from %s", e.Base))
	}
	for _, n := range e.Open {
		end := "newest"
		if !n.Newest {
			end = "oldest"
		}
		lines = append(lines, fmt.Sprintf("  of which the %s %s bars of %s: how far they reach is known once they are there", end, grouped(n.N), n.Within))
	}
	if e.Pages > 0 {
		lines = append(lines, "  fetch: "+fetchText(e.Pages, e.Took))
	}
	if e.Failure != nil {
		code := pgerrcode.SystemError
		if coded, ok := errors.AsType[interface {
			error
			SQLState() string
		}](e.Failure); ok {
			code = coded.SQLState()
		}
		lines = append(lines, "  would fail: "+code+": "+e.Failure.Error())
	}
	return lines
}

// maxShownRanges bounds the ranges that are written out.
const maxShownRanges = 8

func rangesText(ranges market.RangeSet, tf market.Timeframe) string {
	if ranges.Empty() {
		return "none"
	}
	text := grouped(ranges.Count(tf)) + " bars"
	for i, r := range ranges {
		if i == maxShownRanges {
			return text + fmt.Sprintf(" and %d more ranges", len(ranges)-i)
		}
		text += " " + r.String()
	}
	return text
}

func fetchText(pages int64, took time.Duration) string {
	text := "one page"
	if pages > 1 {
		text = fmt.Sprintf("about %s pages", grouped(pages))
	}
	switch {
	case took < 0:
	case took < time.Second:
		text += ", less than 1 s"
	default:
		text += fmt.Sprintf(", about %s s", grouped(int64(took.Seconds()+0.5)))
	}
	return text
}
