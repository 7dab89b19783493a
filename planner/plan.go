package planner

import (
	"strings"

	"barkeep/internal/market"
)

// Env is what of a session decides the meaning of a text. The zero value is a session in UTC with PostgreSQL's other
// defaults and no knowledge of the catalog.
type Env struct {
	// TimeZone, DateStyle, IntervalStyle, ClientEncoding and SearchPath are the settings of these names as SHOW gives
	// them. An empty TimeZone is UTC, an empty ClientEncoding UTF8.
	TimeZone, DateStyle, IntervalStyle, ClientEncoding, SearchPath string
	// NonStandardStrings says that standard_conforming_strings is off: nothing is planned then (PLANNER 4).
	NonStandardStrings bool
	// Hidden says that the unqualified name ohlcv is proven to mean another relation (PLANNER 6).
	Hidden bool
	// Own are barkeep's own settings.
	Own
	// BarLimit is barkeep.max_bars where Own has none; zero is no limit.
	BarLimit int64
	// Unsettled says that the session is in a block that may have set some of Own, so that its end changes them.
	Unsettled bool
	// Catalog is what the database holds around ohlcv, nil where that is not known.
	Catalog *Catalog
}

// Catalog is what the database holds that reads ohlcv under another name. It is immutable once handed out.
type Catalog struct {
	// Version differs between two catalogs that differ. What is kept of a catalog's making is told by it, and does not keep the catalog.
	Version uint64
	// Names holds, in lower case and without schema, every relation (but ohlcv itself), function, operator and type
	// through which ohlcv can be read, the tables with a trigger or policy that reads it among them. The name ohlcv stands
	// for another object than the table: a view of that name, say.
	Names map[string]struct{}
	// Others holds the schemas, but public, in which there is a table, not a temporary one, that is named ohlcv. It is nil where one of the Names
	// is ohlcv, and in a catalog with definitions of a session's own: any such name may be the table then.
	Others map[string]struct{}
	// Written holds those of the Names through which ohlcv is read only when something is written to them: by a trigger, a
	// default, a check. To read them is to read nothing of it.
	Written map[string]struct{}
	// Views holds the definition of those Names that are plain views, by name. A view that is missing here is opaque.
	Views map[string]string
	// Users holds, in lower case and without schema, the functions and operators that came neither with PostgreSQL nor with an
	// extension: an expression with one of these names is not asked of the database (PLANNER 9).
	Users map[string]struct{}
	// Dynamic holds, in lower case and without schema, the functions that make SQL of their arguments and may so read ohlcv
	// when it is named to them. The bits are the positions of arguments that may hold a name, the last one for all that follow.
	Dynamic map[string]uint64
	// Rows holds the functions of Names and Dynamic that can be called as if they were a column of a row.
	Rows map[string]struct{}
	// Calls holds the names, in lower case, of the functions through which ohlcv may be read, by oid.
	Calls map[uint32]string
	// Overload is an operator of a user's which may be taken for one of PostgreSQL's that the planner computes with; empty where
	// there is none. Every statement on ohlcv is opaque then.
	Overload string
	// Folds says that there is a collation under which texts that are not the same are equal. A column of a user's may have it, and give it
	// to a column that stands for both in a set operation or a join.
	Folds bool
	// Setters holds, in lower case and without schema, the functions that may change settings of the session, and everything by
	// which one is called: views, operators, types, tables with triggers.
	Setters map[string]struct{}
	// Definers holds, in lower case and without schema, the functions that may define, change or drop something by SQL of their own, and
	// everything by which one is called.
	Definers map[string]struct{}
	// Known reports whether everything of a name, whatever its schema, is a plain table, or came with PostgreSQL or an extension: there is no
	// definition of a user's that gives it a meaning. Nil is a catalog that knows of none.
	Known func(name string) bool
	// Events says that an event trigger reads ohlcv: every definition may.
	Events bool
	// Dependents returns the names given with those of what reads the objects of these names, as far as the catalog knows: for
	// names that the session has just given another meaning. Nil is a catalog that knows of none.
	Dependents func(names []string) []string
}

// Args are the parameters of one execution.
type Args struct {
	// OIDs are the parameter types as given by Parse or told by the upstream; a missing or zero OID means inferred from its use.
	OIDs []uint32
	// Formats are as in Bind: none (all text), one for all, or one for each; 0 is text, 1 binary.
	Formats []int16
	// Values are the raw values; nil is NULL.
	Values [][]byte
	// Read holds the settings, other than the Env's, in which the literals of the text may have been read: those of its
	// Parse, and of each execution since (PLANNER 6).
	Read []Locale
	// Data holds the answers to the plan's Data so far, by Key.
	Data map[string]Column
	// Unaskable says why nothing can be asked of the user's data for this execution; empty where it can.
	Unaskable string
	// Prepared looks up what the name that EXECUTE uses may stand for. It returns (nil, true) for a statement that is known and
	// cannot read ohlcv. A nil Prepared, and a name that is not known, make EXECUTE opaque.
	Prepared func(name string) (list []Candidate, known bool)
}

// Candidate is a prepared statement that a name may stand for, with the settings other than those of its execution in
// which its literals may have been read.
type Candidate struct {
	Template *Template
	Read     []Locale
}

// Bracket holds the start of the client's transaction: now() lies in [Lo, Hi], both inclusive.
type Bracket struct{ Lo, Hi market.Instant }

// Question is a constant, or a set of symbols, that only the database can evaluate. SQL selects one row of one text column; run
// it with the settings of Under, and search_path pg_catalog.
type Question struct {
	Key, SQL string
	Under    Locale
	// Immutable says that the answer is the same whenever it is asked for (PLANNER 10).
	Immutable bool
	// Listed, where not nil, says that SQL reads the symbols that there may be from a relation listed (symbol text). The caller puts
	// it before SQL, as WITH listed (symbol) AS (…).
	Listed *Listing
}

// Listing is a set of symbols (PLANNER 13): those that are bound, those that a source lists, under its prefix, and those of Named
// that a source lists and serves without a prefix. All of them begin with Prefix. Whoever puts them together sees to it that each
// source which could add one has been asked what it lists, lately.
type Listing struct {
	Prefix string
	Named  []string
}

// Answers holds the answer to each question by its Key. A nil value is NULL. A value made by Failed says that the
// database answered with an error. A missing key is a question not asked yet.
type Answers map[string]*string

// Failed returns the answer to a question that the database answered with an error.
func Failed(sqlstate string) *string {
	text := failedPrefix + sqlstate
	return &text
}

// Unlisted returns the answer to a question with a Listing that could not be put together, and why.
func Unlisted(why string) *string {
	text := failedPrefix + " " + why
	return &text
}

const failedPrefix = "!"

// HasFailed reports whether an answer is one of Failed or Unlisted, or looks like one.
func HasFailed(answer *string) bool { return answer != nil && strings.HasPrefix(*answer, failedPrefix) }

// Reason says why more is asked for than the statement may read, or why nothing could be planned.
type Reason struct {
	// Code is one of the Reason constants, of low cardinality: fit for a metric.
	Code string
	// Detail is for people.
	Detail string
	// Text is the part of the statement that caused it, as far as that is known; only an EXPLAIN (BARKEEP) has it.
	Text string
}

// The reason codes.
const (
	ReasonNoSymbol    = "no_symbol"
	ReasonManySymbols = "many_symbols"
	ReasonNoTimeframe = "no_timeframe"
	ReasonNoTimeBound = "no_time_bound"
	ReasonNotConstant = "not_constant"
	ReasonOpaque      = "opaque"
	ReasonBarrier     = "barrier"
	ReasonBoxes       = "too_many_boxes"
)

// Refusal is what barkeep answers with in place of the statement: an error with its SQLSTATE, its message and what the
// user can do.
type Refusal struct{ SQLState, Message, Hint string } //nolint:errname // an answer to the client, which happens to be an error

// Error returns the message.
func (r *Refusal) Error() string { return r.Message }

// Plan is what one execution of a text needs.
type Plan struct {
	// Requirements name each series at most once. Ranges lie on the timeframe's grid, and may be open to an infinity:
	// from the listing, to now.
	Requirements []market.Requirement
	// Questions are to be answered, and Bind called again with all answers so far. While there are any, the
	// Requirements are wider than they need to be, but sound.
	Questions []Question
	// Data is to be asked in the user's session, and Bind called again with all answers so far. While there is any, the plan is of
	// no use but for a Refusal, which stands.
	Data []Data
	// Reasons say what was widened.
	Reasons []Reason
	// Found say which symbols the database found for a condition on symbol; only an EXPLAIN (BARKEEP) has them.
	Found []string
	// Refusal, where not nil, is to be answered in place of the statement.
	Refusal *Refusal
	// Warnings are to be sent to the client as WARNINGs.
	Warnings []string
	// Opened are the settings in which the text declares cursors that read ohlcv: the plan is that of a FETCH in the same.
	Opened []Locale
	// Passed are the settings, other than the Env's, in which the text EXECUTEs a prepared statement: its literals may have
	// been read in them from then on.
	Passed []Locale
	// Under are the own settings under which the text's statements read ohlcv, in their order and each once: the session's,
	// but for what statements before in the same text set (PLANNER 8). Requirements are without those of statements whose
	// mode is stored. There is always one.
	Under []Own
	// Untyped says that the plan is wider than it need be, or refused, and may be neither once the types of all parameters
	// are known: they are what the upstream has inferred.
	Untyped bool
	// tentative says that the answers may take the Refusal away.
	tentative bool
}

// Unanswered reports whether the plan has questions whose answers matter, of either kind.
func (p *Plan) Unanswered() bool {
	return len(p.Questions)+len(p.Data) > 0 && (p.Refusal == nil || p.tentative)
}
