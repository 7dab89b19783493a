package topic

import (
	"barkeep/backfill/coverage"
	"barkeep/internal/market"
)

// MaxPageBars and MaxPageBytes bound a page (PIPELINE 14): sources cut what is larger.
const (
	MaxPageBars  = 8192
	MaxPageBytes = 512 << 10
)

// Job is the order to fill one gap, published on Names.Jobs.
type Job struct {
	// ID is the uuid of the row in barkeep.job; the record's id is the same.
	ID string
	// Deployment is the uuid of the database that asked (PIPELINE 13).
	Deployment string
	Series     market.Series
	Range      market.Range
	// Priority is 1 where a user waits, 0 for bulk.
	Priority int
	// Source, VendorID and Generation are the symbol's binding when the job was made (PIPELINE 8, 10).
	Source, VendorID string
	Generation       int64
	AskedAt          market.Instant
	// Mixed says that another source may stand in for this one: what lies before the listing here is unavailable then, and not absent.
	Mixed bool
	// NewestFirst says that who waits may go on with a part, and would rather have the newest.
	NewestFirst bool
}

// Segment is what a page vouches for in one stretch of its series. Instants of zero mean none.
type Segment struct {
	Range              market.Range
	State              coverage.State
	Reason             string
	RetryAt, ExpiresAt market.Instant
}

// Page is one answer of a source, self-contained: it replaces the range of its segments (PIPELINE 4). Bars are ascending by
// TS without a repetition and lie inside the segments; Segments are ascending and disjoint.
type Page struct {
	// RecordID is a uuid of this record alone: a consumer knows its place in the log by it (PIPELINE 19).
	RecordID   string
	Deployment string
	Series     market.Series
	Asked      market.Range
	Segments   []Segment
	Source     string
	Generation int64
	FetchedAt  market.Instant
	JobID      string
	Bars       []market.Bar
}

// RollUp is the order to derive the bars of a series from those of another timeframe of its symbol, or to take those of another symbol, as
// they are stored when the order is ingested (PIPELINE 9, 10). It has no bars: pages of the base may still be revised between its
// publication and then.
type RollUp struct {
	RecordID   string
	Deployment string
	JobID      string
	Series     market.Series
	// Base is the timeframe that is rolled up; it divides the series'. Where there is a Lender it is the series' own.
	Base market.Timeframe
	// Lender is the symbol, of another source, whose bars stand in for those that the series' own source cannot have (coverage.Ledger.Lend);
	// empty in a roll-up.
	Lender market.Symbol
	// Range lies on the grid of the series. AskedAt is the asker's now: the bucket that forms then is rolled up too.
	Range      market.Range
	AskedAt    market.Instant
	Source     string
	Generation int64
}

// BarsValue is the value of a record of Names.Bars: exactly one of its fields is set.
type BarsValue struct {
	Page   *Page
	End    *End
	RollUp *RollUp
}

// EndState is how a job ended, as it is stored in barkeep.job.
type EndState string

// The ends that a producer or, of a roll-up, a coordinator can announce.
const (
	Done       EndState = "done"
	Failed     EndState = "failed"
	Superseded EndState = "superseded"
	Cancelled  EndState = "cancelled"
)

// End ends a job (PIPELINE 17). Code is a SQLSTATE and Message is for the user; both are empty unless it failed.
type End struct {
	RecordID, Deployment, JobID string
	Series                      market.Series
	State                       EndState
	Code, Message               string
}

// EventKind says what an event tells.
type EventKind string

// The kinds of events.
const (
	Started  EventKind = "started"
	Advanced EventKind = "progress"
	Warned   EventKind = "warning"
)

// Event is a hint on a job's progress, published on Names.Events; it may be lost without harm (PIPELINE 17).
type Event struct {
	RecordID, Deployment, JobID string
	Series                      market.Series
	Kind                        EventKind
	// PagesDone, BarsDone and BarsTotal count what was published; BarsTotal is an estimate.
	PagesDone, BarsDone, BarsTotal int64
	// Message is why the job is held back, for the user, and StartAt the earliest instant at which its next request can
	// start; both are zero unless the event is a warning (PIPELINE 18).
	Message string
	StartAt market.Instant
	At      market.Instant
}
