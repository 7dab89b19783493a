package planner

import (
	"bytes"
	"hash/maphash"
	"maps"
	"slices"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"

	"barkeep/internal/market"
)

// binding plans one execution of a text.
type binding struct {
	args     Args
	env      settings
	start    start
	readIn   []Locale // of the template in hand
	answers  Answers
	plan     Plan
	needs    needs
	asked    questions
	data     dataState
	prepared map[string]Candidate // by PREPARE in the text itself
	nested   int
	executes bool // a prepared statement was looked up
	// given are the constants of the template in hand.
	given map[*pg.A_Const]*pg.A_Const
	// explained says that the plan is shown to a person.
	explained bool
	own       ownState
	// strict is the first reason that was given while barkeep.mode was strict.
	strict *Reason
	// stored says that the statement in hand is answered from what is stored: its needs are nobody's.
	stored bool
	// room is where the first evaluator, reading and need are made: most texts have one of each.
	room struct {
		evaluator evaluator
		reading   reading
		need      [1]need
		taken     bool
	}
}

// take returns where an evaluator and a reading are made.
func (x *binding) take() (*evaluator, *reading) {
	if x.room.taken {
		return new(evaluator), nil
	}
	x.room.taken = true
	return &x.room.evaluator, &x.room.reading
}

// need is what is needed of a series.
type need struct {
	series market.Series
	ranges market.RangeSet
	counts []market.Count
}

// needs are what is needed of each series.
type needs struct {
	list []need
	// index is by series, once there are too many to be looked through.
	index map[market.Series]int
}

// of returns the need of a series, which is good until the next call.
func (n *needs) of(s market.Series) *need {
	const few = 8
	if n.index == nil {
		for i := range n.list {
			if n.list[i].series == s {
				return &n.list[i]
			}
		}
	} else if i, ok := n.index[s]; ok {
		return &n.list[i]
	}
	n.list = append(n.list, need{series: s})
	last := len(n.list) - 1
	switch {
	case n.index != nil:
		n.index[s] = last
	case len(n.list) > few:
		n.index = make(map[market.Series]int, 2*few)
		for i := range n.list {
			n.index[n.list[i].series] = i
		}
	}
	return &n.list[last]
}

// questions are those that have been asked, each once.
type questions struct {
	list []Question
	seen map[string]bool
}

func (q *questions) note(question Question) {
	if q.seen == nil {
		q.seen = map[string]bool{}
	}
	if !q.seen[question.Key] {
		q.seen[question.Key] = true
		q.list = append(q.list, question)
	}
}

// Bind plans one execution. While the plan has questions, its requirements are sound but wider than they need to be.
// What the plan refers to must not be changed: it may be another execution's plan too.
func (t *Template) Bind(args Args, env Env, b Bracket, ans Answers) Plan {
	if t.version != env.Catalog.version() {
		t = t.again(env)
	}
	args.Read = except(args.Read, env.Locale())
	alone := len(ans) == 0 && len(args.Read) == 0 && len(args.Data) == 0
	if alone {
		if known := t.Fixed(&args, &env); known != nil {
			return *known
		}
	}
	x := &binding{
		args: args, env: settings{Env: env, known: true, zoneKnown: true}, start: start{known: b}, answers: ans,
		own: ownState{start: env.Own, kept: env.Own, ends: env.Unsettled},
	}
	if len(args.OIDs) == 0 {
		x.args.OIDs = t.oids
	}
	x.readIn = args.Read
	x.needs.list = x.room.need[:0]
	x.template(t, nil)
	plan := x.finish()
	if x.start.ownTree {
		return t.Bind(args, env, b, ans) // the templates that need one have it by now
	}
	if len(plan.Under) == 0 {
		plan.Under = []Own{env.Own}
	}
	if alone && !x.start.used && !x.executes && len(plan.Questions) == 0 {
		t.keep(args, env, plan)
	}
	return plan
}

// Fixed returns the plan that Bind would, where it is known already and hangs neither on the time nor on answers; else nil. It must not
// be changed: it is that of other executions, too.
func (t *Template) Fixed(args *Args, env *Env) *Plan {
	known := t.fixed.Load()
	if known == nil || len(args.Read) > 0 || len(args.Data) > 0 || t.version != env.Catalog.version() || !known.of(args, env) {
		return nil
	}
	return &known.plan
}

// fixedPlan is the plan that every execution of a text with these parameters has in these settings: nothing in it depends on
// the clock, on answers of the database or on prepared statements (PLANNER 10).
type fixedPlan struct {
	env     Env // without the catalog, which is the template's
	oids    []uint32
	formats []int16
	values  [][]byte
	reason  string // Args.Unaskable
	plan    Plan
}

// seed is that of the hashes in Template.last.
var seed = maphash.MakeSeed()

// maxFixedBytes bounds the parameters of a plan that is kept.
const maxFixedBytes = 512

// keep keeps a plan for the next execution like this one. With parameters, which may be others each time, it does so where they come
// twice in a row.
func (t *Template) keep(args Args, env Env, plan Plan) {
	env.Catalog = nil
	next := &fixedPlan{env: env, reason: args.Unaskable, plan: plan}
	if len(args.Values) > 0 {
		var hash maphash.Hash
		hash.SetSeed(seed)
		size := 2*len(args.Formats) + 4*len(args.OIDs)
		for _, value := range args.Values {
			_, _ = hash.Write(value)
			_ = hash.WriteByte(0)
			size += len(value) + 1
		}
		if sum := hash.Sum64(); size > maxFixedBytes || t.last.Swap(sum) != sum {
			return
		}
		next.oids, next.formats = slices.Clone(args.OIDs), slices.Clone(args.Formats)
		room := make([]byte, 0, size) // together: they are looked at together
		for _, value := range args.Values {
			if value != nil {
				from := len(room)
				room = append(room, value...)
				value = room[from:len(room):len(room)]
			}
			next.values = append(next.values, value)
		}
	}
	t.fixed.Store(next)
}

// of reports whether it is the plan of such an execution.
func (f *fixedPlan) of(args *Args, env *Env) bool {
	same := func(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) } // nil is NULL
	own := *env
	own.Catalog = nil
	return len(f.values) == len(args.Values) && f.env == own && f.reason == args.Unaskable &&
		slices.EqualFunc(f.values, args.Values, same) &&
		(len(f.values) == 0 || slices.Equal(f.oids, args.OIDs) && slices.Equal(f.formats, args.Formats))
}

// start is what is known of the transaction's start, and whether the plan depends on it.
type start struct {
	known Bracket
	used  bool
	// ownTree says that the plan needs the parse tree of its very text.
	ownTree bool
	// untyped says that a parameter's value was asked for whose type neither Parse nor its uses tell.
	untyped bool
}

func (s *start) bracket() Bracket {
	s.used = true
	return s.known
}

func (x *binding) finish() Plan {
	p := x.plan
	for _, n := range x.needs.list {
		if n.ranges.Empty() && len(n.counts) == 0 {
			continue
		}
		p.Requirements = append(p.Requirements, market.Requirement{
			Series: n.series, Ranges: n.ranges.Outward(n.series.Timeframe), Counts: n.counts,
		})
	}
	slices.SortFunc(p.Requirements, func(a, b market.Requirement) int {
		if c := strings.Compare(string(a.Series.Symbol), string(b.Series.Symbol)); c != 0 {
			return c
		}
		return int(a.Series.Timeframe) - int(b.Series.Timeframe)
	})
	slices.SortFunc(x.asked.list, func(a, b Question) int { return strings.Compare(a.Key, b.Key) })
	p.Questions = x.asked.list
	p.Untyped = x.start.untyped && (len(p.Reasons) > 0 || p.Refusal != nil)
	if len(x.data.asked) > 0 {
		for _, key := range slices.Sorted(maps.Keys(x.data.asked)) {
			p.Data = append(p.Data, x.data.asked[key])
		}
	}
	if x.strict != nil && p.Refusal == nil && len(p.Questions) == 0 && len(p.Data) == 0 {
		p.Refusal = refuse(x.strict.Code + ": the statement may read more than it names, and barkeep.mode is strict (" + x.strict.Detail + ")")
		p.Refusal.Hint = "Bound symbol, timeframe and ts by constants, or set barkeep.mode to wait."
	}
	return p
}

const (
	modeWait    = "wait"
	modePartial = "partial"
	modeStored  = "stored"
	modeStrict  = "strict"
)

func (x *binding) mode() string {
	if x.env.Mode == "" {
		return modeWait
	}
	return strings.ToLower(x.env.Mode)
}

// lenient reports whether the session takes what is there where a statement cannot be planned (PLANNER 18).
func (x *binding) lenient() bool { return x.mode() == modePartial || x.mode() == modeStored }

func (x *binding) reason(code, detail string) { x.reasonAt(code, detail, nil) }

// reasonAt names the expression that is the reason, where it is to be shown.
func (x *binding) reasonAt(code, detail string, node *pg.Node) {
	r := Reason{Code: code, Detail: detail}
	if x.explained && node != nil {
		r.Text = expressionText(node)
	}
	if x.strict == nil && x.mode() == modeStrict {
		x.strict = &r
	}
	if !slices.Contains(x.plan.Reasons, r) {
		x.plan.Reasons = append(x.plan.Reasons, r)
	}
}

func refuse(message string) *Refusal {
	return &Refusal{SQLState: "0A000", Message: "barkeep: " + message}
}

// unplanned refuses a statement, or warns where the session takes what is there.
func (x *binding) unplanned(code string, r *Refusal) {
	x.reason(code, r.Message)
	if x.lenient() {
		x.warn(r.Message + "; the answer is from what is stored")
		return
	}
	if x.plan.Refusal == nil {
		x.plan.Refusal = r
		x.plan.tentative = (code == ReasonNoSymbol || code == ReasonNoTimeframe) && len(x.asked.list) > 0
	}
}

func (x *binding) warn(text string) {
	if !slices.Contains(x.plan.Warnings, text) {
		x.plan.Warnings = append(x.plan.Warnings, text)
	}
}

func (x *binding) opaque(why string) {
	r := refuse("cannot see which bars the statement reads: " + why)
	r.Hint = "Read ohlcv in plain SQL with conditions on symbol, timeframe and ts, or set barkeep.mode to partial or stored to be answered from what is stored."
	x.unplanned(ReasonOpaque, r)
}

const maxExecuteDepth = 4

// template plans each statement of a text in turn; named are the arguments of the EXECUTE that runs it.
func (x *binding) template(t *Template, named *arguments) {
	if own := t.own.Load(); own != nil {
		t = own
	}
	if t.ParseErr != nil {
		x.opaque(t.ParseErr.Error())
		return
	}
	outer := x.given
	x.given = t.given
	defer func() { x.given = outer }()
	for i, s := range t.list {
		if i > 0 {
			x.data.behind(t.list[i-1])
		}
		x.statement(s, named)
		if s.prepare != nil {
			if x.prepared == nil {
				x.prepared = map[string]Candidate{}
			}
			x.prepared[s.prepare.Name] = Candidate{
				Template: Prepare(s.prepare.Text, s.prepare.OIDs, x.env.Env), Read: []Locale{x.env.locale()},
			}
		}
		x.settle(s)
	}
	if x.start.ownTree && t.given != nil {
		t.own.Store(t.again(x.env.Env))
	}
}

// shadowed reports whether a search_path names pg_catalog after another schema; PostgreSQL looks there first otherwise.
func shadowed(path string) bool {
	first := true
	for name := range strings.SplitSeq(path, ",") {
		if strings.Trim(name, ` "'`) == "pg_catalog" {
			return !first
		}
		first = false
	}
	return false
}

func (x *binding) statement(s *statement, named *arguments) {
	if s.reads() && shadowed(x.env.SearchPath) {
		x.opaque("pg_catalog is not first in search_path: its operators may be others")
		return
	}
	if c := x.env.Catalog; c != nil && c.Overload != "" && s.reads() {
		x.opaque("there is an operator " + c.Overload + " of a user's, for types of PostgreSQL's, which may be the one that it uses")
	}
	x.explained = x.explained || s.explained
	if s.misused != nil {
		x.plan.Refusal = s.misused
		return
	}
	if s.writes && !x.hiddenAll(s) {
		x.plan.Refusal = &Refusal{
			SQLState: "42501", Message: "barkeep: ohlcv is written by barkeep only",
			Hint: "Bars come from the sources; keep your own in another table.",
		}
	}
	if len(s.opaque) > 0 || len(s.handed) > 0 || slices.ContainsFunc(s.scans, func(sc *scan) bool { return !x.env.Hidden || !sc.item.bare }) {
		x.stored = !x.ownKnown() && !x.explained
	}
	for _, why := range s.opaque {
		x.opaque(why)
	}
	if s.barrier {
		x.reason(ReasonBarrier, "a condition stands above a LIMIT, DISTINCT ON, window, aggregate or lock")
	}
	e, first := x.take()
	*e = evaluator{
		args: x.args, readIn: x.readIn, oids: s.oids, unsure: s.unsure, named: named, env: x.env, start: &x.start, given: x.given, answers: x.answers,
		asked: &x.asked, questions: s.questions, users: usersNames(x.env.Catalog, s.created), targets: s.targets,
	}
	if !x.stored {
		e.data = &x.data
	}
	if s.cursor && s.reads() {
		x.plan.Opened = append(x.plan.Opened, x.env.locale())
	}
	if s.late {
		e.env.known, e.env.zoneKnown = false, false
	}
	for _, c := range s.configs {
		if !strings.HasPrefix(c.name, ownPrefix) {
			e.env.known, e.env.zoneKnown = false, false // it may be set before a bound is evaluated
		}
	}
	for _, h := range s.handed {
		if e.handsOver(h.param) {
			x.opaque("it hands what may name ohlcv to the function " + h.function + ", which runs SQL")
		}
	}
	if s.execute != nil {
		x.execute(s.execute, e)
	}
	x.scans(s, e, first)
}

// hiddenAll reports whether what a statement writes is proven to be another relation. A qualified name never is.
func (x *binding) hiddenAll(s *statement) bool { return x.env.Hidden && !s.writesQualified }

// execute plans the statement that EXECUTE names, with EXECUTE's arguments.
func (x *binding) execute(n *pg.ExecuteStmt, e *evaluator) {
	x.executes = true
	var list []Candidate
	inner, known := x.prepared[n.GetName()]
	if known {
		list = []Candidate{inner}
	} else if x.args.Prepared != nil {
		list, known = x.args.Prepared(n.GetName())
	}
	switch {
	case !known:
		x.opaque("the prepared statement " + n.GetName() + " is not known")
	case x.nested >= maxExecuteDepth && len(list) > 0:
		x.opaque("its EXECUTEs are nested too deeply")
	default:
		if l := x.env.locale(); !x.env.known && !slices.Contains(x.plan.Passed, l) {
			x.plan.Passed = append(x.plan.Passed, l)
		}
		for _, c := range list {
			x.candidate(c, n, e)
		}
	}
}

// candidate plans one statement that EXECUTE may run.
func (x *binding) candidate(c Candidate, n *pg.ExecuteStmt, e *evaluator) {
	inner := c.Template
	if !inner.Reads() {
		return
	}
	if inner.version != x.env.Catalog.version() {
		inner = inner.again(x.env.Env)
	}
	named := &arguments{values: make(map[int32]value, len(n.GetParams())), nodes: n.GetParams(), oids: inner.oids}
	for i, param := range n.GetParams() {
		named.values[int32(i+1)] = e.argument(param, inner, i)
	}
	outer := x.readIn
	x.readIn = except(c.Read, x.env.locale())
	x.nested++
	x.template(inner, named)
	x.nested--
	x.readIn = outer
}

// argument evaluates an argument of EXECUTE as the parameter's type.
func (e *evaluator) argument(node *pg.Node, inner *Template, at int) value {
	v := e.eval(node)
	oid := uint32(0)
	if at < len(inner.oids) {
		oid = inner.oids[at]
	}
	if oid == 0 || oid == oidUnknown {
		for _, s := range inner.list {
			if at < len(s.oids) && !s.unsure[int32(at+1)] { //nolint:gosec // there are at most 65,535
				oid = s.oids[at]
			}
		}
	}
	to := kindOf(oid)
	if v.kind == kindOpaque && !v.null && to == kindTimestamptz {
		v = e.ask(node)
	}
	switch {
	case v.null:
		return nullOf(to)
	case v.kind == kindOpaque || to == kindOpaque || to == kindUnknown:
		return value{}
	}
	return e.convert(v, to)
}
