package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgproto3"

	"barkeep/internal/market"
	"barkeep/planner"
)

const (
	// clockDrift bounds how far the upstream's clock may move against ours between two looks at it.
	clockDrift = time.Second
	// standStill is the round of planning from which on now() is not moved.
	standStill = 2
	// maxQuestions bounds the rounds of questions to the catalog.
	maxQuestions = 8
)

// refusal is the upstream's own ErrorResponse, to be given in place of the statement.
type refusal struct{ message []byte }

// Error names the kind of error.
func (*refusal) Error() string { return "statement refused by the upstream" }

// need is what the units of a segment need together.
type need struct {
	requirements []market.Requirement
	columns      []string // in any order, some perhaps twice
	all          bool     // all columns
	set          settings // those the units read under
	warnings     []string
	reasons      []planner.Reason
}

// count tells the metrics why more was asked for than was shown to be needed.
func (s *session) count(reasons []planner.Reason) {
	for _, reason := range reasons {
		s.server.cfg.Metrics.reasons.WithLabelValues(reason.Code).Inc()
	}
}

// gate returns when the units may go upstream, or with the error to be given in their place.
func (s *session) gate(ctx context.Context, units []unit) error {
	r := &s.reader
	left, err := s.leaveFailed(ctx, units)
	switch {
	case err != nil:
		return err
	case left:
		if err := s.gate(ctx, withoutRevival(units)); err != nil {
			return err
		}
		return s.failAgain(ctx)
	case s.blockFailed():
		return nil
	}
	if r.trying {
		return s.try(ctx, units)
	}
	held := &hold{session: s, units: units, forced: s.pause()}
	held.arm(ctx)
	defer held.end()
	err = held.why(s.rounds(held.armed, held)) //nolint:contextcheck // armed is ctx with the cancel requests
	switch {
	case err == nil:
		err = held.letGo()
	case held.armed.Err() != nil:
		err = context.Cause(held.armed) //nolint:contextcheck // armed is ctx with the cancel requests
	case !s.reader.checked && !errors.Is(err, errClientGone) && !errors.Is(err, errSegmentFailed) && s.blockFailed(): // by what was outstanding: the upstream has its own words
		err = held.letGo()
	}
	held.settle(err)
	return err
}

// rounds returns when nothing is missing that the hold's units need.
func (s *session) rounds(ctx context.Context, held *hold) error {
	if ready, err := s.refreshed(ctx, held.units); err != nil || !ready {
		return err
	}
	name, err := s.another(ctx, held.units)
	if err != nil {
		return err
	}
	s.reader.name = name
	defer func() { s.reader.name = isOurs }()
	for round := range s.server.cfg.MaxRounds {
		if done, err := s.round(held.within(ctx), held, round); err != nil {
			return err
		} else if done {
			return s.replan(held.within(ctx), held.units)
		}
	}
	return errUnsettled
}

// needsSettings reports whether what the unit reads depends on settings that its own segment changes before it. A definition that evaluates
// nothing reads nothing, whatever they are.
func (s *session) needsSettings(u *unit) bool {
	if !u.unsettled || u.cursor || u.stmt.executes || !u.stmt.defines {
		return u.unsettled
	}
	env := s.env()
	return s.template(u.stmt, &env).Reads()
}

// refreshed reads the settings anew where they may have changed. It reports false where the upstream's block has failed by then.
func (s *session) refreshed(ctx context.Context, units []unit) (bool, error) {
	if hasUnit(units, s.needsSettings) {
		return false, errSettingsInSegment
	}
	if !s.stale() {
		return true, nil
	}
	quiet, err := s.quiesce(ctx)
	switch {
	case err != nil:
		return false, err
	case !quiet && !hasUnit(units, func(u *unit) bool { return !u.forced }):
		return true, nil
	case !quiet:
		return false, errSettingsInSegment
	case s.blockFailed():
		return false, nil
	}
	return true, s.readSettings(ctx)
}

// try is gate in a loop's callback: it lets the units go where all is covered, and says errWouldWait in any other case.
func (s *session) try(ctx context.Context, units []unit) error {
	if s.stale() || hasUnit(units, func(u *unit) bool { return u.unsettled }) {
		return errWouldWait
	}
	name, err := s.another(ctx, units)
	if err != nil {
		return errWouldWait
	}
	s.reader.name = name
	defer func() { s.reader.name = isOurs }()
	held := tries.Get().(*hold) //nolint:errcheck,forcetypeassert // the pool has no others
	held.session, held.units, held.forced = s, units, s.pause()
	done, err := s.round(ctx, held, 0)
	*held = hold{}
	tries.Put(held)
	if err != nil || !done {
		return errWouldWait // the error is found again, where it can be told
	}
	return s.replan(ctx, units)
}

// tries are holds that come to nothing: nobody waits in a loop's callback.
var tries = sync.Pool{New: func() any { return new(hold) }}

// round plans once and waits for what is missing. It reports whether the units may go.
func (s *session) round(ctx context.Context, held *hold, round int) (bool, error) {
	if round <= standStill {
		held.bracketed = false
	}
	if err := s.goOn(held.units); err != nil {
		return false, err
	}
	if err := s.mayListen(ctx, held.units); err != nil {
		return false, err
	}
	what, err := s.planUnits(ctx, held, held.units)
	switch {
	case errors.Is(err, errPass):
		return true, nil
	case errors.Is(err, errAgain):
		return false, nil
	case err != nil:
		return false, err
	}
	request, missing, err := s.missing(ctx, held, what)
	if err != nil {
		return false, err
	}
	held.covered = missing == 0
	if held.covered && held.forced == 0 {
		s.warn(what.warnings)
		s.server.cfg.Metrics.outcome(held.outcome())
		s.count(what.reasons)
		return true, nil
	}
	if s.reader.trying {
		return false, errWouldWait
	}
	held.waitsFor(request, missing)
	return held.wait(ctx, request, what)
}

// bracket is what now() of the upstream's transaction lies in.
func (s *session) bracket() planner.Bracket {
	now := time.Now()
	began := now
	s.mu.Lock()
	inside := s.tx != 'I' || s.waiting > 0 || s.reader.open
	s.mu.Unlock()
	if inside && !s.reader.began.IsZero() {
		began = s.reader.began
	}
	least, most := s.server.cfg.Skew()
	return planner.Bracket{Lo: market.FromTime(began.Add(least - clockDrift)), Hi: market.FromTime(now.Add(most + clockDrift))}
}

func (s *session) inTransaction() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tx == 'T' || s.waiting > 0 || s.reader.open
}

// imported reports whether the units see a snapshot that was taken elsewhere, at a time that nobody here knows.
func (s *session) imported(units []unit) bool {
	r := &s.reader
	if r.imported || r.importing {
		return true
	}
	return hasUnit(units, func(u *unit) bool { return u.stmt.effects && u.stmt.imports })
}

// blockFailed reports whether the upstream is in a failed block and will refuse whatever comes.
func (s *session) blockFailed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tx == 'E' && s.waiting == 0
}

// planUnits joins what the units need.
func (s *session) planUnits(ctx context.Context, held *hold, units []unit) (need, error) {
	env := s.env()
	var out need
	var under owns
	for i := range units {
		u := &units[i]
		if u.forced {
			continue
		}
		template := s.template(u.stmt, &env)
		if u.cursor || u.doomed || u.refused != nil || template.Explains() || u.lacks(template) {
			continue
		}
		if template.Writes() && s.reader.name != isNotOurs {
			return need{}, errWrites
		}
		if u.parseOnly && (!s.reader.repeatable() || strings.Contains(u.stmt.text, "$") || !s.inTransaction()) {
			continue
		}
		if !template.Reads() {
			continue
		}
		if u.args.Read = s.readIn(u.stmt); u.stmt.executes {
			u.args.Prepared = s.prepared(env)
		}
		plan, err := s.bindPlan(ctx, held, template, u, &env)
		s.passed(plan.Passed)
		if wrong := under.add(s, plan.Under); wrong != nil {
			return need{}, wrong
		}
		if err != nil {
			return need{}, s.unplanned(ctx, u, template, plan, err)
		}
		s.keepCursors(u, env.Locale(), plan.Opened)
		out.reasons = joined(out.reasons, plan.Reasons)
		out.requirements = joined(out.requirements, plan.Requirements)
		out.warnings = joined(out.warnings, plan.Warnings)
		if names := template.Columns(); names == nil {
			out.all = true
		} else {
			out.columns = joined(out.columns, names)
		}
	}
	out.requirements = join(out.requirements)
	var err error
	out.set, err = under.settings(s)
	return out, err
}

// joined returns both lists as one, in new memory where each has something: the second is a plan's, which others may have too.
func joined[T any](list, more []T) []T {
	if len(list) == 0 {
		return slices.Clip(more)
	}
	return append(list, more...)
}

// unplanned returns the error of a unit that could not be planned.
func (s *session) unplanned(ctx context.Context, u *unit, template *planner.Template, plan *planner.Plan, err error) error {
	switch {
	case errors.Is(err, errPass), errors.Is(err, errAgain):
		return err
	case s.reader.trying:
		return errWouldWait
	}
	s.count(plan.Reasons)
	if template.ParseErr != nil {
		s.log.InfoContext(ctx, "statement not understood", slog.Int("bytes", len(template.Text)))
		s.log.DebugContext(ctx, "statement not understood", slog.Any("error", template.ParseErr)) // it may quote the text
	}
	return s.upstreamsWord(ctx, *u, template, err)
}

// bindPlan plans one execution; a refusal is an error.
func (s *session) bindPlan(ctx context.Context, held *hold, template *planner.Template, u *unit, env *planner.Env) (*planner.Plan, error) {
	plan, err := s.planAnswered(ctx, held, template, u, env)
	if err == nil && plan.Refusal != nil {
		err = refusalError(plan.Refusal)
	}
	return plan, err
}

func refusalError(r *planner.Refusal) *Error {
	return &Error{Code: r.SQLState, Message: r.Message, HintText: r.Hint}
}

// planAnswered plans one execution, with the questions that only the database can answer. There is no answer yet to some of what
// is asked of the user's data where it returns an error. The plan must not be changed.
func (s *session) planAnswered(ctx context.Context, held *hold, template *planner.Template, u *unit, env *planner.Env) (*planner.Plan, error) {
	u.args.OIDs, u.args.Unaskable = s.types(u.stmt), s.unaskable(u)
	if plan := template.Fixed(&u.args, env); plan != nil && !plan.Untyped && len(plan.Questions)+len(plan.Data) == 0 {
		return plan, nil
	}
	plan, err := s.planAsked(ctx, held, template, *u, *env)
	return &plan, err
}

// planAsked is planAnswered for a plan that is not known yet.
func (s *session) planAsked(ctx context.Context, held *hold, template *planner.Template, u unit, env planner.Env) (planner.Plan, error) {
	var answers planner.Answers
	args := u.args
	plan := template.Bind(args, env, held.began(), answers)
	if more, err := s.learnTypes(ctx, u, template, plan); err != nil {
		return plan, err
	} else if more {
		template, args.OIDs = s.template(u.stmt, &env), s.types(u.stmt)
		plan = template.Bind(args, env, held.began(), answers)
	}
	for asked := 0; asked < maxQuestions && plan.Unanswered(); asked++ {
		if s.reader.trying {
			return plan, errWouldWait
		}
		if len(plan.Questions) > 0 {
			more, err := s.server.cfg.Catalog.Answer(ctx, plan.Questions)
			if err != nil {
				return plan, err
			}
			if answers == nil {
				answers = planner.Answers{}
			}
			maps.Copy(answers, more)
		} else if err := s.askData(ctx, held, u, &args, plan.Data); err != nil {
			return plan, err
		}
		plan = template.Bind(args, env, held.began(), answers)
	}
	if len(plan.Data) > 0 && plan.Refusal == nil {
		args.Unaskable = "subqueries that are nested too deeply"
		plan = template.Bind(args, env, held.began(), answers)
	}
	return plan, nil
}

// join names each series once.
func join(list []market.Requirement) []market.Requirement {
	if len(list) < 2 {
		return list
	}
	at := map[market.Series]int{}
	out := list[:0:0]
	for _, each := range list {
		i, ok := at[each.Series]
		if !ok {
			at[each.Series] = len(out)
			out = append(out, each)
			continue
		}
		out[i].Ranges = out[i].Ranges.Union(each.Ranges)
		out[i].Counts = append(slices.Clip(out[i].Counts), each.Counts...)
	}
	return out
}

// mayRead makes the check the executor would make.
func (s *session) mayRead(ctx context.Context, what need) error {
	var columns []string // all of them
	if !what.all {
		columns = append([]string{}, what.columns...)
		slices.Sort(columns)
		columns = slices.Compact(columns)
	}
	may, err := s.server.cfg.Catalog.MayRead(ctx, s.reader.settings.role, columns, "")
	if err != nil {
		return err
	}
	if !may {
		return errNoRight
	}
	return nil
}

// upstreamsWord returns the upstream's own error for a text that was refused because we could not parse it, if it does
// not parse there either (PLANNER 4), or for an EXECUTE of what is not there either, else the refusal. The unit is lost in either case, so that it does not matter that a
// Parse takes a snapshot.
func (s *session) upstreamsWord(ctx context.Context, u unit, template *planner.Template, refused error) error {
	name := s.unknownName(template)
	if (template.ParseErr == nil || !u.parsed || u.parseOnly) && name == "" {
		return refused
	}
	if quiet, err := s.quiesce(ctx); err != nil || !quiet || s.blockFailed() {
		return errors.Join(err, refused)
	}
	if name != "" {
		reply, err := s.exchange(ctx, encode(&pgproto3.Describe{ObjectType: 'S', Name: name}))
		switch {
		case err != nil:
			return err
		case reply.err != nil:
			s.reader.checked = true
			return &refusal{message: reply.err}
		}
		return refused // somebody has prepared it out of sight
	}
	err := s.checkParse(ctx, u)
	if word, ok := err.(*refusal); ok { //nolint:errorlint // made by checkParse itself, never wrapped
		// "cannot insert multiple commands into a prepared statement" has the code of a syntax error, and no position.
		var response pgproto3.ErrorResponse
		if response.Decode(word.message[5:]) == nil && (response.Code != pgerrcode.SyntaxError || response.Position != 0) {
			return word
		}
		return refused
	}
	if err != nil {
		return err
	}
	return refused
}

// checkParse has the upstream parse a text under a private name, so that a typo fails before the hold.
func (s *session) checkParse(ctx context.Context, u unit) error {
	return s.check(ctx, slices.Concat(ownParse(u), encode(&pgproto3.Close{ObjectType: 'S', Name: ownName})))
}

func ownParse(u unit) []byte {
	return slices.Concat(
		encode(&pgproto3.Close{ObjectType: 'S', Name: ownName}),
		encode(&pgproto3.Parse{Name: ownName, Query: u.stmt.text, ParameterOIDs: u.stmt.oids}))
}

// checkUnit is checkParse with the parameters of a Bind, of which one may be none of its type: a bound that nobody understands is
// open, and the hold would fetch an entire history for what fails.
func (s *session) checkUnit(ctx context.Context, u unit) error {
	if !u.portal || !u.counted {
		if u.parsed {
			return s.checkParse(ctx, u)
		}
		return nil
	}
	bind := pgproto3.Bind{PreparedStatement: u.name, ParameterFormatCodes: u.args.Formats, Parameters: u.args.Values}
	var parse []byte
	if u.parsed {
		parse, bind.PreparedStatement = ownParse(u), ownName
	}
	if u.into != "" { // else it is named in what the error says of parameters, and bound anew by the client
		bind.DestinationPortal = ownName
	}
	return renamed(s.check(ctx, slices.Concat(parse, encode(&bind),
		encode(&pgproto3.Close{ObjectType: 'P', Name: bind.DestinationPortal}),
		encode(&pgproto3.Close{ObjectType: 'S', Name: ownName}))), u)
}

// fails has the upstream look at a unit before its hold. It reports whether that fails there for certain, as it is and before anything is
// executed, so that all may go; or it returns the upstream's word on it. A unit that comes behind others, and fails for certain itself, is marked. Nothing is outstanding.
func (s *session) fails(ctx context.Context, u *unit) (bool, error) {
	gone, err := s.vanished(ctx, *u)
	if err != nil {
		return false, err
	}
	if !gone {
		taken, err := s.taken(ctx, *u)
		if err != nil {
			return false, err
		}
		gone = taken
	}
	if !gone {
		miscounted, err := s.miscounted(ctx, *u)
		if err != nil {
			return false, err
		}
		gone = miscounted
	}
	if gone {
		u.doomed = u.behind
		return !u.behind, nil
	}
	u.planned = u.planned || u.portal && !u.parsed
	return false, s.checkUnit(ctx, *u)
}

// miscounted reports whether a Bind has not as many parameters as its statement: their number is that of the statement's text.
func (s *session) miscounted(ctx context.Context, u unit) (bool, error) {
	if !u.portal || !u.counted {
		return false, nil
	}
	s.mu.Lock()
	types := u.stmt.described
	s.mu.Unlock()
	if types == nil {
		var err error
		if types, err = s.askTypes(ctx, u); err != nil {
			return false, err
		}
	}
	return len(types) != len(u.args.Values), nil
}

// known reports whether a statement of that name is known to be upstream.
func (s *session) known(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.statements[name]) > 0
}

// vanished reports whether the statement of a Bind, which was on its way when that came, is not upstream after all.
func (s *session) vanished(ctx context.Context, u unit) (bool, error) {
	if !u.alone || s.known(u.name) {
		return false, nil
	}
	if u.name == "" {
		return true, nil
	}
	there, err := s.prepares(ctx, u.name)
	return !there, err
}

// takenSQL finds a prepared statement by its name.
const takenSQL = `select true from pg_catalog.pg_prepared_statements where name operator(pg_catalog.=) $1`

// taken reports whether the unit's Parse fails for certain, since the session has a statement of that name and nothing in the segment
// frees it: then it may go as it is, and nothing behind it is executed. Nothing is outstanding.
func (s *session) taken(ctx context.Context, u unit) (bool, error) {
	frees := func(e entry) bool { return e.kind == kindClose && e.stmt != nil && e.name == u.name }
	if u.name == "" || !s.known(u.name) || !u.portal || !u.parsed || u.behind || slices.ContainsFunc(s.reader.pending, frees) {
		return false, nil
	}
	return s.prepares(ctx, u.name)
}

// prepares asks the upstream whether the session has a prepared statement of that name.
func (s *session) prepares(ctx context.Context, name string) (bool, error) {
	reply, err := s.exchange(ctx, ownMessages(takenSQL, [][]byte{[]byte(name)}, planner.Args{}, 0))
	if err != nil {
		return false, err
	}
	if reply.err != nil {
		return false, fmt.Errorf("ask for a prepared statement: %w", upstreamError(reply.err))
	}
	return len(reply.rows) > 0, nil
}

// renamed returns the upstream's word on a unit that was looked at under the proxy's own names, with the client's.
func renamed(err error, u unit) error {
	word, ok := err.(*refusal) //nolint:errorlint // made by check itself, never wrapped
	if !ok || !bytes.Contains(word.message, []byte(ownName)) {
		return err
	}
	var response pgproto3.ErrorResponse
	if response.Decode(word.message[5:]) != nil {
		return err
	}
	response.Message = strings.ReplaceAll(response.Message, ownName, u.name)
	response.Where = strings.ReplaceAll(response.Where, ownName, u.into)
	return &refusal{message: encode(&response)}
}

// check has the upstream look at messages that execute nothing.
func (s *session) check(ctx context.Context, messages []byte) error {
	reply, err := s.exchange(ctx, messages)
	if err != nil {
		return err
	}
	s.reader.checked = reply.err != nil
	if reply.err != nil && upstreamError(reply.err).Code != pgerrcode.FeatureNotSupported {
		return &refusal{message: reply.err}
	}
	return nil
}

// warn tells the client, if its session wants to know.
func (s *session) warn(warnings []string) {
	if !s.reader.settings.notices("WARNING") {
		return
	}
	for _, text := range warnings {
		_ = s.inject(notice("WARNING", text))
	}
}
