package proxy

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unique"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgproto3"

	"barkeep/planner"
)

// settings are those of the user's session that matter here and that the upstream does not report by itself.
type settings struct {
	searchPath, isolation, role, messages, mode                string
	elsewhere                                                  bool // search_path has no public
	statementTimeout, idleTimeout, transactionTimeout, timeout time.Duration
	freshness                                                  time.Duration
	maxBars                                                    int64
	// own are barkeep's own as they are given; mode, timeout, freshness and maxBars are made of them.
	own planner.Own
	// wrong refuses each statement that reads ohlcv: PostgreSQL takes any value for a setting that it does not know, and a
	// default in its place would be silent.
	wrong *Error
}

// The isolation levels, as PostgreSQL writes them; READ UNCOMMITTED is READ COMMITTED there.
const (
	readCommitted  = "read committed"
	repeatableRead = "repeatable read"
	serializable   = "serializable"
)

// repeatable reports whether one snapshot serves the whole transaction.
func (r *reader) repeatable() bool {
	level := r.settings.isolation
	if r.level != "" {
		level = r.level
	}
	return level == repeatableRead || level == serializable
}

// lenient reports whether what cannot be seen through is read as it is stored.
func (s settings) lenient() bool { return s.mode == "stored" || s.mode == "partial" }

// notices reports whether the session wants messages of that severity.
func (s settings) notices(severity string) bool {
	switch s.messages {
	case "error", "fatal", "panic":
		return false
	case "warning":
		return severity != "NOTICE"
	}
	return true
}

var settingNames = []string{
	"search_path", "transaction_isolation", "role", "session_authorization", "client_min_messages", "statement_timeout",
	"idle_session_timeout", "idle_in_transaction_session_timeout",
	"barkeep.mode", "barkeep.timeout", "barkeep.max_bars", "barkeep.freshness", "barkeep.unbounded",
}

// ownName is the name of the proxy's own statements and portals.
const ownName = "barkeep/own"

// stale reports whether the settings may differ from those read last.
func (s *session) stale() bool { return s.reader.dirty || s.reader.reloads != s.reloads() }

// reloads counts the reloads of the server's configuration, by which settings change that nobody has set.
func (s *session) reloads() uint64 {
	if c := s.server.asked.reloads; c != nil {
		return c.Reloads()
	}
	return 0
}

// readSettings asks the user's session by SHOW, which takes no snapshot. Nothing may be outstanding.
func (s *session) readSettings(ctx context.Context) error {
	reloads := s.reloads()
	names := settingNames
	version := s.param("server_version")
	if end := strings.IndexFunc(version, notDigit); end >= 0 {
		version = version[:end]
	}
	if major, _ := strconv.Atoi(version); major >= 17 {
		names = append(slices.Clip(names), "transaction_timeout")
	}
	var out []byte
	for _, name := range names {
		for _, message := range []pgproto3.Message{
			&pgproto3.Parse{Name: ownName, Query: "show " + name},
			&pgproto3.Bind{DestinationPortal: ownName, PreparedStatement: ownName},
			&pgproto3.Execute{Portal: ownName},
			&pgproto3.Close{ObjectType: 'P', Name: ownName},
			&pgproto3.Close{ObjectType: 'S', Name: ownName},
		} {
			out = append(out, encode(message)...)
		}
	}
	reply, err := s.exchange(ctx, out)
	if err != nil {
		return err
	}
	if reply.err != nil || len(reply.rows) != len(names) {
		return fmt.Errorf("read settings of the session: %w", upstreamError(reply.err))
	}
	values := make(map[string]string, len(names))
	for i, name := range names {
		values[name] = string(reply.rows[i])
	}
	s.reader.settings = s.settingsOf(values)
	s.reader.dirty, s.reader.reloads = s.reader.changes, reloads
	return nil
}

func notDigit(r rune) bool { return r < '0' || r > '9' }

func (s *session) settingsOf(values map[string]string) settings {
	out := settings{
		searchPath: unique.Make(values["search_path"]).Value(), isolation: values["transaction_isolation"], role: values["role"],
		messages:           values["client_min_messages"],
		statementTimeout:   duration(values["statement_timeout"]),
		transactionTimeout: duration(values["transaction_timeout"]),
		idleTimeout:        duration(values["idle_session_timeout"]),
	}
	path := strings.ToLower(out.searchPath)
	out.elsewhere = path != "" && !strings.Contains(path, namePublic) // PostgreSQL shows a path of nothing as ""
	if inBlock := duration(values["idle_in_transaction_session_timeout"]); inBlock > 0 && (out.idleTimeout == 0 || inBlock < out.idleTimeout) {
		out.idleTimeout = inBlock
	}
	if out.role == "" || out.role == "none" {
		out.role = values["session_authorization"]
	}
	return s.withOwn(out, planner.Own{
		Mode: values["barkeep.mode"], Unbounded: values["barkeep.unbounded"], Timeout: values["barkeep.timeout"],
		MaxBars: values["barkeep.max_bars"], Freshness: values["barkeep.freshness"],
	})
}

// withOwn returns the settings with barkeep's own as given.
func (s *session) withOwn(out settings, own planner.Own) settings {
	limits := s.server.limits()
	out.own, out.mode = own, strings.ToLower(own.Mode)
	out.timeout, out.freshness = duration(own.Timeout), duration(own.Freshness)
	if out.timeout <= 0 {
		out.timeout = limits.Timeout
	}
	if own.Freshness == "" {
		out.freshness = limits.Freshness
	}
	var err error
	if out.maxBars, err = strconv.ParseInt(own.MaxBars, 10, 64); err != nil || out.maxBars <= 0 {
		out.maxBars = limits.MaxBars
	}
	out.wrong = wrongSetting(own)
	return out
}

// under returns the settings under which ohlcv is read: the session's, but for those of barkeep that statements of the same
// Query set before (PLANNER 8). A value that a setting cannot have is an error, as are statements that would have to be held
// under settings that differ.
func (s *session) under(plans []planner.Own) (settings, error) {
	set := s.reader.settings
	if len(plans) == 1 && plans[0] == set.own && set.wrong == nil { // as nearly always
		return set, nil
	}
	var held settings
	count := 0
	for _, own := range plans {
		each := set
		if own != set.own {
			each = s.withOwn(set, own)
		}
		if each.wrong != nil {
			return set, each.wrong
		}
		if each.mode != "stored" {
			held = each
			count++
		}
	}
	switch {
	case count > 1:
		return set, errSettingsDiffer
	case count == 1:
		return held, nil
	case len(plans) > 0:
		return s.withOwn(set, plans[0]), nil
	}
	return set, nil
}

// owns are the settings of barkeep's under which units read ohlcv, each once: nearly always those of the session.
type owns struct {
	session bool // those of the session alone, so far
	list    []planner.Own
}

// add notes those of one more unit, and returns the error of a value that a setting cannot have.
func (o *owns) add(s *session, plan []planner.Own) error {
	set := &s.reader.settings
	if len(o.list) == 0 && len(plan) == 1 && set.wrong == nil && plan[0] == set.own {
		o.session = true
		return nil
	}
	if o.session && len(o.list) == 0 {
		o.list = append(o.list, set.own)
	}
	for _, own := range plan {
		if !slices.Contains(o.list, own) {
			o.list = append(o.list, own)
		}
	}
	_, wrong := s.under(plan)
	return wrong
}

// settings returns those under which all that was noted is read.
func (o *owns) settings(s *session) (settings, error) { return s.under(o.list) }

// ownSetting is one of barkeep's, with what it may be and whether a text is that.
type ownSetting struct {
	name    string
	value   func(planner.Own) string
	allowed string
	valid   func(string) bool
}

// The empty text is the default.
var ownSettings = []ownSetting{
	{"barkeep.mode", func(o planner.Own) string { return o.Mode }, "Available values: wait, partial, stored, strict.", oneOf("wait", "partial", "stored", "strict")},
	{"barkeep.unbounded", func(o planner.Own) string { return o.Unbounded }, "Available values: stored, error.", oneOf("stored", "error")},
	{"barkeep.timeout", func(o planner.Own) string { return o.Timeout }, `A duration, such as "10min"; valid units are "us", "ms", "s", "min", "h", and "d".`, isDuration},
	{"barkeep.freshness", func(o planner.Own) string { return o.Freshness }, `A duration, such as "15s"; valid units are "us", "ms", "s", "min", "h", and "d".`, isDuration},
	{"barkeep.max_bars", func(o planner.Own) string { return o.MaxBars }, "A whole number above 0.", func(text string) bool {
		n, err := strconv.ParseInt(text, 10, 64)
		return err == nil && n > 0
	}},
}

func oneOf(list ...string) func(string) bool {
	return func(text string) bool { return slices.Contains(list, strings.ToLower(text)) }
}

func isDuration(text string) bool {
	_, ok := parseDuration(text)
	return ok
}

// wrongSet returns the error of a text that sets one of barkeep's settings to a value it cannot have: PostgreSQL takes any.
func (s *session) wrongSet(st *statement) *Error {
	if !st.effects || !strings.Contains(strings.ToLower(st.text), "barkeep.") {
		return nil
	}
	env := s.env()
	for _, set := range s.template(st, &env).SetsOwn() {
		at := slices.IndexFunc(ownSettings, func(own ownSetting) bool { return own.name == set.Name })
		if at < 0 {
			names := make([]string, len(ownSettings))
			for i, own := range ownSettings {
				names[i] = own.name
			}
			return &Error{
				Code: pgerrcode.UndefinedObject, Message: fmt.Sprintf("unrecognized configuration parameter %q", set.Name),
				HintText: "barkeep has " + strings.Join(names, ", ") + ".",
			}
		}
		if own := &ownSettings[at]; set.Value != "" && !own.valid(set.Value) {
			return own.refuse(set.Value)
		}
	}
	return nil
}

func (o *ownSetting) refuse(value string) *Error {
	return &Error{
		Code: pgerrcode.InvalidParameterValue, Message: fmt.Sprintf("invalid value for parameter %q: %q", o.name, value), HintText: o.allowed,
	}
}

// wrongSetting returns the error for the first of barkeep's settings that has a value it cannot have, or nil.
func wrongSetting(own planner.Own) *Error {
	for _, each := range ownSettings {
		if text := each.value(own); text != "" && !each.valid(text) {
			return each.refuse(text)
		}
	}
	return nil
}

var durationUnits = map[string]time.Duration{
	"us": time.Microsecond, "": time.Millisecond, "ms": time.Millisecond, "s": time.Second, "min": time.Minute, "h": time.Hour,
	"d": 24 * time.Hour,
}

// duration reads a setting as PostgreSQL writes it; 0 is none, as is what cannot be read.
func duration(text string) time.Duration {
	d, _ := parseDuration(text)
	return d
}

func parseDuration(text string) (d time.Duration, ok bool) {
	text = strings.TrimSpace(text)
	number := strings.TrimRight(text, "abcdefghijklmnopqrstuvwxyz ")
	unit, ok := durationUnits[strings.TrimSpace(text[len(number):])]
	value, err := strconv.ParseFloat(number, 64)
	if nanoseconds := value * float64(unit); err == nil && ok && nanoseconds >= 0 && nanoseconds < math.MaxInt64 {
		return time.Duration(nanoseconds), true
	}
	return 0, false
}

// param returns a setting that the upstream reports.
func (s *session) param(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.params[name]
}

// env is the session as the planner sees it.
func (s *session) env() planner.Env {
	r := &s.reader
	env := *s.reported()
	env.SearchPath, env.Own, env.BarLimit = r.settings.searchPath, r.settings.own, s.server.limits().MaxBars
	env.Hidden, env.Unsettled, env.Catalog = r.name != isOurs, r.blockEffects && s.inTransaction(), s.catalog()
	return env
}

// reported returns the part of the environment that the upstream reports.
func (s *session) reported() *planner.Env {
	r := &s.reader
	if r.reportedAt != s.paramsSeen.Load()+1 {
		s.mu.Lock()
		params, seen := s.params, s.paramsSeen.Load() // never changed, only replaced
		s.mu.Unlock()
		r.reportedAt = seen + 1
		text := func(name string) string { return unique.Make(params[name]).Value() } // many sessions have the same, which are compared at once
		r.reported = planner.Env{
			TimeZone: text("TimeZone"), DateStyle: text("DateStyle"), IntervalStyle: text("IntervalStyle"),
			ClientEncoding: text("client_encoding"), NonStandardStrings: params["standard_conforming_strings"] == "off",
		}
		r.plainText = planner.IsUTF8(r.reported.ClientEncoding)
	}
	return &r.reported
}

// upstreamError is an ErrorResponse as an error.
func upstreamError(message []byte) *Error {
	var response pgproto3.ErrorResponse
	if len(message) < 5 || response.Decode(message[5:]) != nil {
		return errUpstreamGone
	}
	return &Error{Code: response.Code, Message: response.Message, Detail: response.Detail, HintText: response.Hint}
}
