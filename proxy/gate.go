package proxy

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

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

// refusal is the upstream's own ErrorResponse, to be given in place of the statement: of its Parse, of its execution, or else of its Bind, at
// that point.
type refusal struct {
	message            []byte
	parsing, executing bool
	at                 point
}

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
	// Behind the end of a block that has failed meanwhile, by a question of the proxy's own, they would be executed: that must not be.
	failed := s.blockFailed()
	lost := failed && hasUnit(units, func(u *unit) bool { return u.revived })
	switch {
	case err == nil && lost:
		err = errBlockFailed
	case err == nil:
		err = held.letGo()
	case held.armed.Err() != nil:
		err = context.Cause(held.armed) //nolint:contextcheck // armed is ctx with the cancel requests
	case !errors.Is(err, errClientGone) && !errors.Is(err, errSegmentFailed) && failed && !lost: // by what was outstanding: the upstream has its own words
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
	if err := s.notOvertaken(ctx, held.units); err != nil {
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
	if s.stale() || hasUnit(units, func(u *unit) bool { return u.unsettled || u.overtaken != nil }) {
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
	inside := s.tx != 'I' || s.waiting > 0 || s.reader.open || s.unended
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
	return s.tx == 'T' || s.waiting > 0 || s.reader.open || s.unended
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
		if u.cursor || u.overtaken != nil || u.doomed || u.refused != nil || template.Explains() || u.lacks(template) {
			continue
		}
		if template.Writes() && s.reader.name != isNotOurs {
			return need{}, errWrites
		}
		if u.parseOnly && (!s.reader.repeatable() || strings.Contains(u.stmt.text, "$") || !s.inTransaction()) {
			continue
		}
		if !template.Reads() || u.later(template) {
			continue
		}
		if u.args.Read = s.readIn(u.stmt); u.stmt.executes {
			u.args.Prepared = s.prepared(env)
		}
		if alone, err := s.goesOnAlone(ctx, u, template); err != nil {
			return need{}, err
		} else if alone {
			continue
		}
		plan, err := s.bindPlan(ctx, held, template, u, &env)
		s.passed(plan.Passed)
		if wrong := under.add(s, plan.Under); wrong != nil {
			return need{}, wrong
		}
		if err != nil {
			return need{}, held.placed(s.unplanned(ctx, u, template, plan, err), u)
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

// warn tells the client, if its session wants to know.
func (s *session) warn(warnings []string) {
	if !s.reader.settings.notices("WARNING") {
		return
	}
	for _, text := range warnings {
		_ = s.inject(notice("WARNING", text))
	}
}
