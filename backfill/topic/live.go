package topic

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"barkeep/internal/market"
)

// LiveChannel is the channel of the database that is notified when barkeep.live has a row that was not there before. The
// notification is a hint: producers poll.
const LiveChannel = "barkeep_live"

// The lease of a row of barkeep.live: LiveLease is how long one counts from when it was written or renewed, by the
// database's clock, LiveRenewal how often its proxy renews it.
const (
	LiveLease   = 30 * time.Second
	LiveRenewal = 10 * time.Second
)

// MaxLiveBytes bounds the value of a record of Names.Series; it fits PostgreSQL's limit of a notification's payload.
const MaxLiveBytes = 4 << 10

// Live is one bar of a series' own topic, Names.Series: a forming bar as it is now, or, with Final, a closed one.
//
// In the log, the final bars of a topic are ascending by TS, without one missing that its source has, and a forming bar is
// never older than the final one before it. Two producers may believe for a moment that a series is theirs, so a bar may come
// again: a reader goes by the order of the log and drops a bar whose TS is not after that of the last final one it passed on.
type Live struct {
	Deployment string
	Series     market.Series
	Bar        market.Bar
	Final      bool
	// Seq counts the records of the topic, from 1; a producer that takes a series over goes on from the last record. What a
	// reader did not see shows as a jump. After a moment with two producers a number may stand there twice, so it is no reason
	// to drop a bar. A topic that is made anew begins again.
	Seq int64
	// Due is the time of the first bar of which the log has no final one, this record included: there a producer goes on that
	// takes the series over. It stands in a header.
	Due market.Instant
}

// liveJSON is the value of a record, which any tool can read. Pointers tell what is missing from what is zero.
type liveJSON struct {
	Symbol    *market.Symbol `json:"symbol"`
	Timeframe *string        `json:"timeframe"`
	TS        *string        `json:"ts"`
	Open      *float64       `json:"open"`
	High      *float64       `json:"high"`
	Low       *float64       `json:"low"`
	Close     *float64       `json:"close"`
	Volume    *float64       `json:"volume"`
	Final     *bool          `json:"final"`
	Seq       *int64         `json:"seq"`
}

// MarshalLive returns the value of a record of Names.Series: {"symbol", "timeframe", "ts" in RFC 3339 and UTC, "open", "high",
// "low", "close", "volume", "final", "seq"}. A number that is not finite has no JSON: it is an error that wraps ErrMalformed.
func MarshalLive(l Live) ([]byte, error) {
	if l.Bar.TS.IsInf() {
		return nil, fmt.Errorf("encode live bar: %w: its time is %s", ErrMalformed, l.Bar.TS)
	}
	timeframe, ts := l.Series.Timeframe.String(), l.Bar.TS.String()
	value, err := json.Marshal(liveJSON{
		Symbol: &l.Series.Symbol, Timeframe: &timeframe, TS: &ts, Open: &l.Bar.Open, High: &l.Bar.High, Low: &l.Bar.Low,
		Close: &l.Bar.Close, Volume: &l.Bar.Volume, Final: &l.Final, Seq: &l.Seq,
	})
	if err != nil {
		return nil, fmt.Errorf("encode live bar: %w: %w", ErrMalformed, err)
	}
	if len(value) > MaxLiveBytes {
		return nil, fmt.Errorf("encode live bar: %w: %d bytes", ErrMalformed, len(value))
	}
	return value, nil
}

// UnmarshalLive reads what MarshalLive wrote; Deployment stays empty, for it stands in a header. Fields of a later writer are
// passed over. It returns an error that wraps ErrMalformed for a value that is too long or no JSON, for a field that is missing
// or cannot be, and for a time off the series' grid.
func UnmarshalLive(value []byte) (Live, error) {
	l, err := unmarshalLive(value)
	if err != nil {
		return Live{}, fmt.Errorf("decode live bar: %w", err)
	}
	return l, nil
}

func unmarshalLive(value []byte) (Live, error) {
	if len(value) > MaxLiveBytes {
		return Live{}, fmt.Errorf("%w: %d bytes", ErrMalformed, len(value))
	}
	var j liveJSON
	if err := json.Unmarshal(value, &j); err != nil {
		return Live{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	for _, f := range []struct {
		name    string
		missing bool
	}{
		{"symbol", j.Symbol == nil},
		{"timeframe", j.Timeframe == nil},
		{"ts", j.TS == nil},
		{"open", j.Open == nil},
		{"high", j.High == nil},
		{"low", j.Low == nil},
		{"close", j.Close == nil},
		{"volume", j.Volume == nil},
		{"final", j.Final == nil},
		{"seq", j.Seq == nil},
	} {
		if f.missing {
			return Live{}, fmt.Errorf("%w: no %s", ErrMalformed, f.name)
		}
	}
	series, err := parseSeries(string(*j.Symbol), *j.Timeframe)
	if err != nil {
		return Live{}, err
	}
	at, err := time.Parse(time.RFC3339, *j.TS)
	if err != nil {
		return Live{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	l := Live{
		Series: series, Final: *j.Final, Seq: *j.Seq,
		Bar: market.Bar{TS: market.FromTime(at), Open: *j.Open, High: *j.High, Low: *j.Low, Close: *j.Close, Volume: *j.Volume},
	}
	switch {
	case !series.Timeframe.OnGrid(l.Bar.TS):
		return Live{}, fmt.Errorf("%w: ts %s is off the grid of %s", ErrMalformed, *j.TS, series.Timeframe)
	case l.Seq < 1:
		return Live{}, fmt.Errorf("%w: seq %d", ErrMalformed, l.Seq)
	}
	if l.Final {
		if err := l.Bar.Check(); err != nil {
			return Live{}, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
	}
	return l, nil
}

// LiveRecord returns the record that publishes l, or MarshalLive's error. Its key is the bar's time as it stands in the value,
// so that a compacted topic keeps the last word on each bar.
func (n Names) LiveRecord(l Live) (*kgo.Record, error) {
	value, err := MarshalLive(l)
	if err != nil {
		return nil, err
	}
	return &kgo.Record{
		Topic: n.Series(l.Series), Key: []byte(l.Bar.TS.String()), Value: value,
		Headers: []kgo.RecordHeader{
			{Key: headerVersion, Value: []byte(liveVersion)},
			{Key: headerDeployment, Value: []byte(l.Deployment)},
			{Key: headerSymbol, Value: []byte(l.Series.Symbol)},
			{Key: headerTimeframe, Value: []byte(l.Series.Timeframe.String())},
			{Key: headerDue, Value: strconv.AppendInt(nil, int64(l.Due), 10)},
		},
	}, nil
}

const headerDue = "barkeep-due"

// headerVersion says the version of a value that is JSON, as the first byte does of others.
const (
	headerVersion = "barkeep-version"
	liveVersion   = "1"
)

// ReadLive reads a record that LiveRecord made. It returns an error that wraps ErrVersion, ErrMalformed, or ErrDeployment where
// the record is not of deployment (PIPELINE 13): such records are counted and dropped.
func ReadLive(r *kgo.Record, deployment string) (Live, error) {
	var version string
	var due market.Instant
	for _, h := range r.Headers {
		switch h.Key {
		case headerVersion:
			version = string(h.Value)
		case headerDue:
			due = parseInstant(string(h.Value))
		}
	}
	h := ReadHeaders(r)
	if h.Deployment != deployment {
		return Live{}, fmt.Errorf("decode live bar: %w: %q", ErrDeployment, h.Deployment)
	}
	if version != liveVersion {
		return Live{}, fmt.Errorf("decode live bar: %w %q, this reader knows %s", ErrVersion, version, liveVersion)
	}
	l, err := UnmarshalLive(r.Value)
	if err == nil && string(r.Key) != l.Bar.TS.String() {
		err = fmt.Errorf("decode live bar: %w: key %q of the bar at %s", ErrMalformed, r.Key, l.Bar.TS)
	}
	if err != nil {
		return Live{}, err
	}
	l.Deployment, l.Due = deployment, due
	return l, nil
}
