package topic

import (
	"encoding/binary"
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"

	"barkeep/backfill/coverage"
	"barkeep/internal/market"
)

// version is the first byte of every value. The low versions are read too: see readable.
const version = 1

// oldest is the oldest version that is read: the one before version, once there is one.
const oldest = 1

// writer appends the fields of one message. Zero values are left out, as in proto3.
type writer struct{ b []byte }

func newWriter(size int) *writer {
	return &writer{b: append(make([]byte, 0, size), version)}
}

func (w *writer) text(field protowire.Number, s string) {
	if s != "" {
		w.b = protowire.AppendTag(w.b, field, protowire.BytesType)
		w.b = protowire.AppendString(w.b, s)
	}
}

func (w *writer) signed(field protowire.Number, v int64) {
	if v != 0 {
		w.b = protowire.AppendTag(w.b, field, protowire.VarintType)
		w.b = protowire.AppendVarint(w.b, protowire.EncodeZigZag(v))
	}
}

func (w *writer) message(field protowire.Number, body []byte) {
	w.b = protowire.AppendTag(w.b, field, protowire.BytesType)
	w.b = protowire.AppendBytes(w.b, body)
}

// instants writes a packed column of differences.
func (w *writer) instants(field protowire.Number, bars []market.Bar) {
	column := make([]byte, 0, 5*len(bars))
	var last market.Instant
	for i := range bars {
		column = protowire.AppendVarint(column, protowire.EncodeZigZag(int64(bars[i].TS-last)))
		last = bars[i].TS
	}
	w.message(field, column)
}

// doubles writes a packed column of one of the bars' numbers.
func (w *writer) doubles(field protowire.Number, bars []market.Bar, of func(*market.Bar) float64) {
	w.b = protowire.AppendTag(w.b, field, protowire.BytesType)
	w.b = protowire.AppendVarint(w.b, uint64(8*len(bars)))
	for i := range bars {
		w.b = binary.LittleEndian.AppendUint64(w.b, math.Float64bits(of(&bars[i])))
	}
}

// fields calls each for every field of a value, after its version byte.
func fields(value []byte, each func(field protowire.Number, v uint64, b []byte) error) error {
	if len(value) == 0 {
		return fmt.Errorf("%w: it is empty", ErrMalformed)
	}
	if value[0] < oldest || value[0] > version {
		return fmt.Errorf("%w %d, this reader knows %d to %d", ErrVersion, value[0], oldest, version)
	}
	return submessage(value[1:], each)
}

func submessage(rest []byte, each func(field protowire.Number, v uint64, b []byte) error) error {
	for len(rest) > 0 {
		field, kind, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return fmt.Errorf("%w: %w", ErrMalformed, protowire.ParseError(n))
		}
		rest = rest[n:]
		var v uint64
		var b []byte
		switch kind {
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(rest)
		case protowire.BytesType:
			b, n = protowire.ConsumeBytes(rest)
		default:
			n = protowire.ConsumeFieldValue(field, kind, rest)
		}
		if n < 0 {
			return fmt.Errorf("%w: field %d: %w", ErrMalformed, field, protowire.ParseError(n))
		}
		if err := each(field, v, b); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

func signed(v uint64) int64 { return protowire.DecodeZigZag(v) }

func instant(v uint64) market.Instant { return market.Instant(signed(v)) }

func parseSeries(symbol, timeframe string) (market.Series, error) {
	s, err := market.ParseSymbol(symbol)
	if err != nil {
		return market.Series{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	tf, err := market.ParseTimeframe(timeframe)
	if err != nil {
		return market.Series{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return market.Series{Symbol: s, Timeframe: tf}, nil
}

// MarshalJob returns the value of a record of Names.Jobs.
func MarshalJob(j Job) []byte {
	w := newWriter(256)
	w.text(1, j.ID)
	w.text(2, j.Deployment)
	w.text(3, string(j.Series.Symbol))
	w.text(4, j.Series.Timeframe.String())
	w.signed(5, int64(j.Range.Start))
	w.signed(6, int64(j.Range.End))
	w.signed(7, int64(j.Priority))
	w.text(8, j.Source)
	w.text(9, j.VendorID)
	w.signed(10, j.Generation)
	w.signed(11, int64(j.AskedAt))
	if j.Mixed {
		w.signed(12, 1)
	}
	if j.NewestFirst {
		w.signed(13, 1)
	}
	return w.b
}

// UnmarshalJob reads what MarshalJob wrote. It returns errors that wrap ErrVersion or ErrMalformed.
func UnmarshalJob(value []byte) (Job, error) {
	var j Job
	var symbol, timeframe string
	err := fields(value, func(field protowire.Number, v uint64, b []byte) error {
		switch field {
		case 1:
			j.ID = string(b)
		case 2:
			j.Deployment = string(b)
		case 3:
			symbol = string(b)
		case 4:
			timeframe = string(b)
		case 5:
			j.Range.Start = instant(v)
		case 6:
			j.Range.End = instant(v)
		case 7:
			j.Priority = int(signed(v))
		case 8:
			j.Source = string(b)
		case 9:
			j.VendorID = string(b)
		case 10:
			j.Generation = signed(v)
		case 11:
			j.AskedAt = instant(v)
		case 12:
			j.Mixed = signed(v) != 0
		case 13:
			j.NewestFirst = signed(v) != 0
		default: // of a later writer
		}
		return nil
	})
	if err != nil {
		return Job{}, fmt.Errorf("decode job: %w", err)
	}
	if j.Series, err = parseSeries(symbol, timeframe); err != nil {
		return Job{}, fmt.Errorf("decode job: %w", err)
	}
	return j, nil
}

func marshalSegment(s Segment) []byte {
	w := &writer{}
	w.signed(1, int64(s.Range.Start))
	w.signed(2, int64(s.Range.End))
	w.signed(3, int64(s.State))
	w.text(4, s.Reason)
	w.signed(5, int64(s.RetryAt))
	w.signed(6, int64(s.ExpiresAt))
	return w.b
}

func unmarshalSegment(body []byte) (Segment, error) {
	var s Segment
	err := submessage(body, func(field protowire.Number, v uint64, b []byte) error {
		switch field {
		case 1:
			s.Range.Start = instant(v)
		case 2:
			s.Range.End = instant(v)
		case 3:
			if state := signed(v); state >= int64(coverage.Final) && state <= int64(coverage.Unavailable) {
				s.State = coverage.State(state)
			}
		case 4:
			s.Reason = string(b)
		case 5:
			s.RetryAt = instant(v)
		case 6:
			s.ExpiresAt = instant(v)
		default: // of a later writer
		}
		return nil
	})
	if err == nil && !s.State.Valid() {
		err = fmt.Errorf("%w: a segment has no known state", ErrMalformed)
	}
	return s, err
}

// MarshalPage returns the value of a page, a record of Names.Bars.
func MarshalPage(p Page) []byte {
	w := newWriter(512 + 46*len(p.Bars))
	w.signed(1, kindPage)
	w.text(2, p.RecordID)
	w.text(3, p.Deployment)
	w.text(4, p.JobID)
	w.text(5, string(p.Series.Symbol))
	w.text(6, p.Series.Timeframe.String())
	w.signed(7, int64(p.Asked.Start))
	w.signed(8, int64(p.Asked.End))
	w.text(9, p.Source)
	w.signed(10, p.Generation)
	w.signed(11, int64(p.FetchedAt))
	for _, s := range p.Segments {
		w.message(12, marshalSegment(s))
	}
	if len(p.Bars) > 0 {
		w.instants(13, p.Bars)
		w.doubles(14, p.Bars, func(b *market.Bar) float64 { return b.Open })
		w.doubles(15, p.Bars, func(b *market.Bar) float64 { return b.High })
		w.doubles(16, p.Bars, func(b *market.Bar) float64 { return b.Low })
		w.doubles(17, p.Bars, func(b *market.Bar) float64 { return b.Close })
		w.doubles(18, p.Bars, func(b *market.Bar) float64 { return b.Volume })
	}
	return w.b
}

// The kinds of records on Names.Bars, in field 1.
const (
	kindPage   = 1
	kindEnd    = 2
	kindRollUp = 3
)

// MarshalEnd returns the value of an end record, a record of Names.Bars.
func MarshalEnd(e End) []byte {
	w := newWriter(256)
	w.signed(1, kindEnd)
	w.text(2, e.RecordID)
	w.text(3, e.Deployment)
	w.text(4, e.JobID)
	w.text(5, string(e.Series.Symbol))
	w.text(6, e.Series.Timeframe.String())
	w.text(19, string(e.State))
	w.text(20, e.Code)
	w.text(21, e.Message)
	return w.b
}

// MarshalRollUp returns the value of an order to roll up, a record of Names.Bars.
func MarshalRollUp(r RollUp) []byte {
	w := newWriter(256)
	w.signed(1, kindRollUp)
	w.text(2, r.RecordID)
	w.text(3, r.Deployment)
	w.text(4, r.JobID)
	w.text(5, string(r.Series.Symbol))
	w.text(6, r.Series.Timeframe.String())
	w.signed(7, int64(r.Range.Start))
	w.signed(8, int64(r.Range.End))
	w.text(9, r.Source)
	w.signed(10, r.Generation)
	w.signed(11, int64(r.AskedAt))
	w.text(22, r.Base.String())
	w.text(23, string(r.Lender))
	return w.b
}

// decoded collects the fields of a record of Names.Bars.
type decoded struct {
	kind              int64
	page              Page
	end               End
	symbol, timeframe string
	base, lender      string
	columns           [6][]byte
}

func (d *decoded) field(field protowire.Number, v uint64, b []byte) error {
	switch field {
	case 1:
		d.kind = signed(v)
	case 2:
		d.page.RecordID = string(b)
	case 3:
		d.page.Deployment = string(b)
	case 4:
		d.page.JobID = string(b)
	case 5:
		d.symbol = string(b)
	case 6:
		d.timeframe = string(b)
	case 7:
		d.page.Asked.Start = instant(v)
	case 8:
		d.page.Asked.End = instant(v)
	case 9:
		d.page.Source = string(b)
	case 10:
		d.page.Generation = signed(v)
	case 11:
		d.page.FetchedAt = instant(v)
	case 12:
		s, err := unmarshalSegment(b)
		if err != nil {
			return err
		}
		d.page.Segments = append(d.page.Segments, s)
	case 13, 14, 15, 16, 17, 18:
		d.columns[field-13] = b
	case 19:
		d.end.State = EndState(b)
	case 20:
		d.end.Code = string(b)
	case 21:
		d.end.Message = string(b)
	case 22:
		d.base = string(b)
	case 23:
		d.lender = string(b)
	default: // of a later writer
	}
	return nil
}

// UnmarshalBars reads a record of Names.Bars. It returns errors that wrap ErrVersion or ErrMalformed. Nothing returned shares
// memory with value.
func UnmarshalBars(value []byte) (BarsValue, error) {
	var d decoded
	if err := fields(value, d.field); err != nil {
		return BarsValue{}, fmt.Errorf("decode page: %w", err)
	}
	series, err := parseSeries(d.symbol, d.timeframe)
	if err != nil {
		return BarsValue{}, fmt.Errorf("decode page: %w", err)
	}
	d.page.Series = series
	switch d.kind {
	case kindPage:
		if d.page.Bars, err = bars(d.columns); err != nil {
			return BarsValue{}, fmt.Errorf("decode page: %w", err)
		}
		return BarsValue{Page: &d.page}, nil
	case kindEnd:
		d.end.RecordID, d.end.Deployment, d.end.JobID, d.end.Series = d.page.RecordID, d.page.Deployment, d.page.JobID, series
		switch d.end.State {
		case Done, Failed, Superseded, Cancelled:
			return BarsValue{End: &d.end}, nil
		}
		return BarsValue{}, fmt.Errorf("decode end: %w: state %q", ErrMalformed, d.end.State)
	case kindRollUp:
		return d.rollUp(series)
	}
	return BarsValue{}, fmt.Errorf("decode page: %w: kind %d", ErrMalformed, d.kind)
}

// rollUp returns an order to roll up, or to lend, of the series.
func (d *decoded) rollUp(series market.Series) (BarsValue, error) {
	base, err := market.ParseTimeframe(d.base)
	if err != nil {
		return BarsValue{}, fmt.Errorf("decode roll-up: %w: %w", ErrMalformed, err)
	}
	lender := market.Symbol(d.lender)
	switch {
	case lender == "" && !base.Divides(series.Timeframe), lender != "" && base != series.Timeframe:
		return BarsValue{}, fmt.Errorf("decode roll-up: %w: %s bars do not make %s bars", ErrMalformed, base, series.Timeframe)
	case lender == series.Symbol:
		return BarsValue{}, fmt.Errorf("decode roll-up: %w: %s lends to itself", ErrMalformed, lender)
	case lender != "":
		if _, err := market.ParseSymbol(d.lender); err != nil {
			return BarsValue{}, fmt.Errorf("decode roll-up: %w: %w", ErrMalformed, err)
		}
	}
	p := &d.page
	return BarsValue{RollUp: &RollUp{
		RecordID: p.RecordID, Deployment: p.Deployment, JobID: p.JobID, Series: series, Base: base, Lender: lender, Range: p.Asked,
		AskedAt: p.FetchedAt, Source: p.Source, Generation: p.Generation,
	}}, nil
}

// bars makes rows of the six columns, which must be of one length.
func bars(columns [6][]byte) ([]market.Bar, error) {
	n := len(columns[1]) / 8
	for _, c := range columns[1:] {
		if len(c) != 8*n {
			return nil, fmt.Errorf("%w: columns of unequal length", ErrMalformed)
		}
	}
	if len(columns[0]) < n {
		return nil, fmt.Errorf("%w: columns of unequal length", ErrMalformed)
	}
	if n == 0 && len(columns[0]) == 0 {
		return nil, nil
	}
	rows := make([]market.Bar, n)
	times := columns[0]
	var ts int64
	for i := range rows {
		v, size := protowire.ConsumeVarint(times)
		if size < 0 {
			return nil, fmt.Errorf("%w: times: %w", ErrMalformed, protowire.ParseError(size))
		}
		times = times[size:]
		ts += signed(v)
		at := 8 * i
		rows[i] = market.Bar{
			TS: market.Instant(ts), Open: double(columns[1], at), High: double(columns[2], at), Low: double(columns[3], at),
			Close: double(columns[4], at), Volume: double(columns[5], at),
		}
	}
	if len(times) > 0 {
		return nil, fmt.Errorf("%w: columns of unequal length", ErrMalformed)
	}
	return rows, nil
}

func double(column []byte, at int) float64 {
	return math.Float64frombits(binary.LittleEndian.Uint64(column[at:]))
}

// MarshalEvent returns the value of a record of Names.Events.
func MarshalEvent(e Event) []byte {
	w := newWriter(256)
	w.text(1, e.RecordID)
	w.text(2, e.Deployment)
	w.text(3, e.JobID)
	w.text(4, string(e.Series.Symbol))
	w.text(5, e.Series.Timeframe.String())
	w.text(6, string(e.Kind))
	w.signed(7, e.PagesDone)
	w.signed(8, e.BarsDone)
	w.signed(9, e.BarsTotal)
	w.text(10, e.Message)
	w.signed(11, int64(e.At))
	w.signed(12, int64(e.StartAt))
	return w.b
}

// UnmarshalEvent reads what MarshalEvent wrote. It returns errors that wrap ErrVersion or ErrMalformed.
func UnmarshalEvent(value []byte) (Event, error) {
	var e Event
	var symbol, timeframe string
	err := fields(value, func(field protowire.Number, v uint64, b []byte) error {
		switch field {
		case 1:
			e.RecordID = string(b)
		case 2:
			e.Deployment = string(b)
		case 3:
			e.JobID = string(b)
		case 4:
			symbol = string(b)
		case 5:
			timeframe = string(b)
		case 6:
			e.Kind = EventKind(b)
		case 7:
			e.PagesDone = signed(v)
		case 8:
			e.BarsDone = signed(v)
		case 9:
			e.BarsTotal = signed(v)
		case 10:
			e.Message = string(b)
		case 11:
			e.At = instant(v)
		case 12:
			e.StartAt = instant(v)
		default: // of a later writer
		}
		return nil
	})
	if err != nil {
		return Event{}, fmt.Errorf("decode event: %w", err)
	}
	if e.Series, err = parseSeries(symbol, timeframe); err != nil {
		return Event{}, fmt.Errorf("decode event: %w", err)
	}
	return e, nil
}
