package ingest

import (
	"errors"
	"fmt"

	"barkeep/backfill/topic"
	"barkeep/internal/market"
)

// MaxRows and MaxBytes bound a batch (PIPELINE 19).
const (
	MaxRows  = 50_000
	MaxBytes = 16 << 20
)

// Partition names one log: a topic that is made anew under the same name has another TopicID.
type Partition struct {
	ClusterID, TopicID string
	Number             int32
}

// Position is a place in a log: the offset of the next record, and the id of the one before it ("" at the start).
type Position struct {
	Next   int64
	LastID string
}

// Batch is a run of records of one partition, in their order. From is the position that the database's row must hold:
// what this consumer last read from it or wrote to it.
type Batch struct {
	Partition Partition
	From      Position
	Records   []Record
}

// Record is one record of a batch. At most one of Page, RollUp, End and Failure is set; with none it only moves the offset (a
// record of another deployment). An order to roll up reads what is stored: it is the first record of its batch, and no page
// and no other order follows in that (Batch.Takes).
type Record struct {
	Offset int64
	// ID is the record's id, or the SHA-256 of its value where that could not be read.
	ID   string
	Page *topic.Page
	// RollUp derives bars from stored ones.
	RollUp *topic.RollUp
	End    *topic.End
	// Failure ends a job because its record could not be used.
	Failure *Failure
}

// Failure is why a record could not be used. JobID may be empty or no uuid: then no job is told.
type Failure struct{ JobID, Code, Message string }

// Takes reports whether r may be the next record of the batch as far as roll-ups are concerned.
func (b *Batch) Takes(r *Record) bool {
	if len(b.Records) == 0 || r.Page == nil && r.RollUp == nil {
		return true
	}
	return r.RollUp == nil && b.Records[0].RollUp == nil
}

// To returns the position after the batch.
func (b *Batch) To() Position {
	if len(b.Records) == 0 {
		return b.From
	}
	last := b.Records[len(b.Records)-1]
	return Position{Next: last.Offset + 1, LastID: last.ID}
}

// Result counts what a commit did.
type Result struct {
	// Rows were sent to the database; pages that were not newer than what is known have none.
	Rows int64
	// Pages and RollUps changed something; Stale ones did not.
	Pages, RollUps, Stale int
	// Superseded pages carried another generation or source than the symbol's; Ahead ones a fetched_at in the future.
	Superseded, Ahead int
	// Revised bars had been vouched for and are others now, Withdrawn ones are gone: the source has changed what it said.
	Revised, Withdrawn int64
	// Direct reports whether all rows went in without staging.
	Direct bool
}

// ErrOffsetMoved is returned, wrapped by OffsetError, where the offset row is not at Batch.From: nothing was written.
var ErrOffsetMoved = errors.New("offset row has moved")

// OffsetError says where the row is instead. It wraps ErrOffsetMoved.
type OffsetError struct {
	Partition     Partition
	Wanted, Found Position
}

// Error names both positions.
func (e *OffsetError) Error() string {
	return fmt.Sprintf("partition %d of topic %s: %s: expected %d after %q, found %d after %q", e.Partition.Number,
		e.Partition.TopicID, ErrOffsetMoved, e.Wanted.Next, e.Wanted.LastID, e.Found.Next, e.Found.LastID)
}

// Unwrap returns ErrOffsetMoved.
func (e *OffsetError) Unwrap() error { return ErrOffsetMoved }

// PageError is returned for a page that contradicts itself: its bars are not ascending, lie off the grid, or a segment is
// empty of meaning. It carries SQLSTATE 22023, so it is taken as the record's fault.
type PageError struct {
	Series  market.Series
	At      market.Instant
	Problem string
}

// Error names the series, the time and the problem.
func (e *PageError) Error() string {
	return fmt.Sprintf("page of %s: bar at %s %s", e.Series, e.At, e.Problem)
}

// SQLState returns 22023, invalid_parameter_value.
func (e *PageError) SQLState() string { return "22023" }

// check returns a PageError unless the page's bars ascend on the grid.
func check(p *topic.Page) error {
	for i := range p.Bars {
		ts := p.Bars[i].TS
		switch {
		case !p.Series.Timeframe.OnGrid(ts):
			return &PageError{Series: p.Series, At: ts, Problem: "lies off the grid"}
		case i > 0 && ts <= p.Bars[i-1].TS:
			return &PageError{Series: p.Series, At: ts, Problem: "does not follow the one before it"}
		}
	}
	return nil
}
