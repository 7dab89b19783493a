package main

import (
	"errors"
	"fmt"
	"time"

	"barkeep/internal/market"
)

// The arguments of the commands for people. What cannot be one is told with the command's usage.

// symbolArgument is a symbol as it is written in statements.
type symbolArgument struct{ market.Symbol }

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *symbolArgument) UnmarshalText(text []byte) (err error) {
	a.Symbol, err = market.ParseSymbol(string(text))
	return err
}

// timeframeArgument is a timeframe by its name.
type timeframeArgument struct{ market.Timeframe }

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *timeframeArgument) UnmarshalText(text []byte) (err error) {
	a.Timeframe, err = market.ParseTimeframe(string(text))
	if err != nil {
		return fmt.Errorf("%w; there are %s", err, market.TimeframeNames())
	}
	return nil
}

// only returns the timeframe, zero where none was given.
func (a *timeframeArgument) only() market.Timeframe {
	if a == nil {
		return 0
	}
	return a.Timeframe
}

// timeArgument is a point in time; without a zone it is UTC.
type timeArgument struct{ market.Instant }

var errTime = errors.New("not a time, as 2024-01-31, 2024-01-31T12:00 or 2024-01-31T12:00:00Z")

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *timeArgument) UnmarshalText(text []byte) error {
	for _, layout := range []string{time.RFC3339, time.DateOnly, "2006-01-02T15:04", "2006-01-02T15:04:05", "2006-01-02 15:04", time.DateTime} {
		if t, err := time.Parse(layout, string(text)); err == nil {
			a.Instant = market.FromTime(t)
			return nil
		}
	}
	return fmt.Errorf("%q is %w", text, errTime)
}

// stretch returns what lies between two arguments, either of which may be missing.
func stretch(from, to *timeArgument) market.Range {
	r := market.Always
	if from != nil {
		r.Start = from.Instant
	}
	if to != nil {
		r.End = to.Instant
	}
	return r
}

var errStretch = errors.New("the end must be after the start")

// validStretch is for the commands' Validate.
func validStretch(from, to *timeArgument) error {
	if stretch(from, to).Empty() {
		return errStretch
	}
	return nil
}

// exitError ends the process with a code of its own.
type exitError struct {
	code int
	text string
}

func (e *exitError) Error() string { return e.text }

// ExitCode returns the process's exit code.
func (e *exitError) ExitCode() int { return e.code }

// The exit codes besides 0, 1 for what failed, and 80 for a command line that cannot be (kong's).
const (
	exitFound       = 3
	exitInterrupted = 130
)
