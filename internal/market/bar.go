package market

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// ErrBar is returned by Bar.Check, wrapped with the time and the field.
var ErrBar = errors.New("impossible bar")

// Series names a run of bars: one symbol in one timeframe.
type Series struct {
	Symbol    Symbol
	Timeframe Timeframe
}

// String returns "symbol timeframe", as messages name a series.
func (s Series) String() string { return string(s.Symbol) + " " + s.Timeframe.String() }

// Bar is one open/high/low/close/volume row, named by its open time TS; Volume is in units of the base.
type Bar struct {
	TS                             Instant
	Open, High, Low, Close, Volume float64
}

// Check returns an error that wraps ErrBar unless b can be a closed bar: all fields finite, low the least and high the
// greatest of the prices, volume not negative. The bar still forming may break this (DESIGN §8) and is not checked.
func (b Bar) Check() error {
	for _, f := range [...]struct {
		name  string
		value float64
	}{{"open", b.Open}, {"high", b.High}, {"low", b.Low}, {"close", b.Close}, {"volume", b.Volume}} {
		if math.IsNaN(f.value) || math.IsInf(f.value, 0) {
			return fmt.Errorf("%w at %s: %s is %v", ErrBar, b.TS, f.name, f.value)
		}
	}
	switch {
	case b.Low > min(b.Open, b.Close):
		return fmt.Errorf("%w at %s: low %v above open %v or close %v", ErrBar, b.TS, b.Low, b.Open, b.Close)
	case b.High < max(b.Open, b.Close):
		return fmt.Errorf("%w at %s: high %v below open %v or close %v", ErrBar, b.TS, b.High, b.Open, b.Close)
	case b.Volume < 0:
		return fmt.Errorf("%w at %s: volume %v is negative", ErrBar, b.TS, b.Volume)
	}
	return nil
}

// Requirement is what a statement reads of one series: every bar that opens in Ranges, and what each of Counts names.
type Requirement struct {
	Series Series
	Ranges RangeSet
	Counts []Count
}

// Count is a read that ends after N bars: the newest N that open in Within where Newest is set, else the oldest N
// (PLANNER 17).
type Count struct {
	N      int64
	Within Range
	Newest bool
}

// Progress tells a waiting session how far the fetch of a series has come.
type Progress struct {
	Series Series
	// Done and Total count bars; Total is an estimate and may grow.
	Done, Total int64
	// Left is the estimated time to the end, negative where it is unknown.
	Left time.Duration
	// Delay says what holds the fetch back and until when, for people; empty where nothing does.
	Delay string
}
