package topic

import (
	"strconv"

	"github.com/twmb/franz-go/pkg/kgo"

	"barkeep/internal/market"
)

// The keys of record headers.
const (
	headerRecord     = "barkeep-record"
	headerDeployment = "barkeep-deployment"
	headerJob        = "barkeep-job"
	headerSymbol     = "barkeep-symbol"
	headerTimeframe  = "barkeep-timeframe"
	headerStart      = "barkeep-start"
	headerEnd        = "barkeep-end"
)

// Headers is what stands beside a record's value, readable where the value is not (PIPELINE 12). What was not there, or
// does not parse, is the zero value.
type Headers struct {
	RecordID, Deployment, JobID string
	Symbol, Timeframe           string
	Range                       market.Range
}

// ReadHeaders returns a record's headers.
func ReadHeaders(r *kgo.Record) Headers {
	var h Headers
	for _, each := range r.Headers {
		value := string(each.Value)
		switch each.Key {
		case headerRecord:
			h.RecordID = value
		case headerDeployment:
			h.Deployment = value
		case headerJob:
			h.JobID = value
		case headerSymbol:
			h.Symbol = value
		case headerTimeframe:
			h.Timeframe = value
		case headerStart:
			h.Range.Start = parseInstant(value)
		case headerEnd:
			h.Range.End = parseInstant(value)
		}
	}
	return h
}

func parseInstant(text string) market.Instant {
	us, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0
	}
	return market.Instant(us)
}

func headers(id, deployment, job string, s market.Series, r market.Range) []kgo.RecordHeader {
	return []kgo.RecordHeader{
		{Key: headerRecord, Value: []byte(id)},
		{Key: headerDeployment, Value: []byte(deployment)},
		{Key: headerJob, Value: []byte(job)},
		{Key: headerSymbol, Value: []byte(s.Symbol)},
		{Key: headerTimeframe, Value: []byte(s.Timeframe.String())},
		{Key: headerStart, Value: strconv.AppendInt(nil, int64(r.Start), 10)},
		{Key: headerEnd, Value: strconv.AppendInt(nil, int64(r.End), 10)},
	}
}

// JobRecord returns the record that publishes j.
func (n Names) JobRecord(j Job) *kgo.Record {
	return &kgo.Record{
		Topic: n.Jobs(), Key: []byte(j.Series.Symbol), Value: MarshalJob(j),
		Headers: headers(j.ID, j.Deployment, j.ID, j.Series, j.Range),
	}
}

// PageRecord returns the record that publishes p.
func (n Names) PageRecord(p Page) *kgo.Record {
	return &kgo.Record{
		Topic: n.Bars(), Key: []byte(p.Series.Symbol), Value: MarshalPage(p),
		Headers: headers(p.RecordID, p.Deployment, p.JobID, p.Series, p.Asked),
	}
}

// EndRecord returns the record that publishes e, to the same partition as the pages of its series.
func (n Names) EndRecord(e End) *kgo.Record {
	return &kgo.Record{
		Topic: n.Bars(), Key: []byte(e.Series.Symbol), Value: MarshalEnd(e),
		Headers: headers(e.RecordID, e.Deployment, e.JobID, e.Series, market.Range{}),
	}
}

// RollUpRecord returns the record that publishes r, to the same partition as the pages of its symbol.
func (n Names) RollUpRecord(r RollUp) *kgo.Record {
	return &kgo.Record{
		Topic: n.Bars(), Key: []byte(r.Series.Symbol), Value: MarshalRollUp(r),
		Headers: headers(r.RecordID, r.Deployment, r.JobID, r.Series, r.Range),
	}
}

// EventRecord returns the record that publishes e.
func (n Names) EventRecord(e Event) *kgo.Record {
	return &kgo.Record{
		Topic: n.Events(), Key: []byte(e.JobID), Value: MarshalEvent(e),
		Headers: headers(e.RecordID, e.Deployment, e.JobID, e.Series, market.Range{}),
	}
}
