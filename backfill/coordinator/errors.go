package coordinator

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"

	"barkeep/backfill/coverage"
	"barkeep/backfill/directory"
	"barkeep/internal/market"
)

// Error is what Ensure returns where it can say more to the user than that a part failed. Its text is fit for a user.
type Error struct {
	Code, Message, Advice string
	Err                   error
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause, which may be nil.
func (e *Error) Unwrap() error { return e.Err }

// SQLState returns the SQLSTATE that a client is to see.
func (e *Error) SQLState() string { return e.Code }

// Hint tells the user what to do; it may be empty.
func (e *Error) Hint() string { return e.Advice }

func tooMany(series market.Series, bars, limit int64) *Error {
	return &Error{
		Code:    pgerrcode.ProgramLimitExceeded,
		Message: fmt.Sprintf("the statement needs about %d bars (%s among them), more than barkeep.max_bars = %d", bars, series, limit),
		Advice:  "Narrow the statement by symbol, timeframe or ts, or raise the limit: SET barkeep.max_bars = " + strconv.FormatInt(bars, 10) + ".",
	}
}

// noTimeframe is for bars that the source has not and that cannot be derived from longer ones.
func noTimeframe(series market.Series, b *directory.Binding) *Error {
	return &Error{
		Code: pgerrcode.InvalidParameterValue,
		Message: fmt.Sprintf("source %s has no %s bars of %s, and none that they could be derived from", b.Source, series.Timeframe,
			series.Symbol),
		Advice: "There are " + listed(b.Timeframes()) + ".",
		Err:    errNoTimeframe,
	}
}

var errNoTimeframe = errors.New("the source has no bars that those could be derived from")

// notLive is for a series to listen to whose bars the source has not.
func notLive(series market.Series, b *directory.Binding) *Error {
	return &Error{
		Code:    pgerrcode.InvalidParameterValue,
		Message: fmt.Sprintf("source %s has no %s bars of %s, and what is derived from others cannot be listened to", b.Source, series.Timeframe, series.Symbol),
		Advice:  "Listen to one of " + listed(b.Native) + ".",
	}
}

func listed(timeframes []market.Timeframe) string {
	names := make([]string, len(timeframes))
	for i, tf := range timeframes {
		names[i] = tf.String()
	}
	return strings.Join(names, ", ")
}

var errOtherLife = &Error{
	Code:    pgerrcode.ObjectNotInPrerequisiteState,
	Message: "the session is connected to another database than the one in which bars are kept now",
	Advice:  "Connect again.",
}

func snapshotTooOld(series market.Series) *Error {
	return &Error{
		Code:    pgerrcode.SerializationFailure,
		Message: "bars of " + series.String() + " were stored after this transaction's snapshot was taken",
		Advice:  "Retry the transaction; the bars are there now.",
	}
}

func jobFailed(series market.Series, r market.Range, code, message string) *Error {
	if code == "" {
		code = pgerrcode.SystemError
	}
	e := &Error{Code: code, Message: fmt.Sprintf("fetch %s %s: %s", series, r, message)}
	if code == pgerrcode.SystemError {
		e.Advice = "The source may answer later. SET barkeep.mode = 'partial' or 'stored' answers with the bars that are stored."
	}
	return e
}

func cancelled(series market.Series, r market.Range) *Error {
	return &Error{
		Code: pgerrcode.QueryCanceled, Message: fmt.Sprintf("the fetch of %s %s was cancelled", series, r),
		Advice: "Somebody called barkeep.cancel_job. The statement may be sent again.",
	}
}

// unavailable is for bars that the source cannot give. from is where those begin that it can, zero where there are none after; others are
// the symbols under which other sources list the instrument.
func unavailable(series market.Series, s *coverage.Segment, r market.Range, from market.Instant, others []string) *Error {
	e := &Error{Code: pgerrcode.SystemError, Message: fmt.Sprintf("bars of %s in %s are not available: %s", series, r, s.Reason)}
	if from != 0 {
		e.Message += "; there are bars from " + from.String() + " on"
	}
	var advice []string
	if s.Reason == coverage.Retention {
		advice = append(advice, "They are older than barkeep keeps them (the setting retention).")
	}
	if s.RetryAt != 0 && !s.RetryAt.IsInf() {
		advice = append(advice, "They are asked for again after "+s.RetryAt.Time().Format(time.RFC3339)+".")
	}
	if len(others) > 0 && s.Reason != coverage.Retention { // theirs are kept no longer
		advice = append(advice, "Other sources may have them: "+strings.Join(others, ", ")+".")
	}
	advice = append(advice, "SET barkeep.mode = 'partial' or 'stored' answers with the bars that there are.")
	e.Advice = strings.Join(advice, " ")
	return e
}

func tooLate(series market.Series, r market.Range, h hints) *Error {
	at := h.startAt.UTC().Format(time.RFC3339)
	return &Error{
		Code:    pgerrcode.SystemError,
		Message: fmt.Sprintf("fetch %s %s: not before %s, after this statement's deadline: %s", series, r, at, h.cause),
		Advice: "Try again after " + at + ", or raise barkeep.timeout. SET barkeep.mode = 'partial' or 'stored' answers with the " +
			"bars that are stored.",
	}
}

func brokerDown(err error) *Error {
	return &Error{
		Code: pgerrcode.IOError, Message: "the broker cannot be reached, so bars cannot be fetched",
		Advice: "Statements whose bars are stored are answered; SET barkeep.mode = 'stored' does so for all.", Err: err,
	}
}

func unfilled(series market.Series, gap market.RangeSet) *Error {
	return &Error{
		Code:    pgerrcode.SystemError,
		Message: fmt.Sprintf("jobs for %s ended, but nothing vouches for %s", series, gap.Bounds()),
		Advice:  "Try again; if it stays, the log of the consumers says what was refused.",
	}
}

// errQueueFull is the cause where too many jobs are awaited.
var errQueueFull = errors.New("too many jobs are awaited")

func queueFull(limit int) *Error {
	return &Error{
		Code: pgerrcode.InsufficientResources, Message: fmt.Sprintf("%d fetches are under way, no more are taken", limit),
		Advice: "Try again when they have ended; the view barkeep.jobs shows them.", Err: errQueueFull,
	}
}

// tooManyFetches is queueFull for a statement that needs more than all of them.
func tooManyFetches(needed, limit int) *Error {
	return &Error{
		Code: pgerrcode.InsufficientResources, Message: fmt.Sprintf("the statement needs %d fetches at one time, more than holds.max_jobs = %d", needed, limit),
		Advice: "Ask for fewer symbols, timeframes or stretches of time in one statement, or raise holds.max_jobs.", Err: errQueueFull,
	}
}
