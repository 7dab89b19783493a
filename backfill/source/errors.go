package source

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgerrcode"
)

// The causes that an Error wraps, beside those of the network.
var (
	// ErrUnknownSource: no source of that name is configured.
	ErrUnknownSource = errors.New("unknown source")
	// ErrUnknownInstrument: the source does not know the vendor id. Never retryable.
	ErrUnknownInstrument = errors.New("unknown instrument")
	// ErrTimeframe: the source has not the timeframe natively. Never retryable.
	ErrTimeframe = errors.New("timeframe is not native")
	// ErrRateLimited: the source asked to be left alone for Error.RetryAfter (429, 418, CC7's type 99).
	ErrRateLimited = errors.New("rate limited")
	// ErrRefused: the source refuses this request for good: a key that is missing or wrong, a request it calls bad.
	ErrRefused = errors.New("refused")
	// ErrAnswer: the answer cannot be used: cut, unparsable, off the grid, impossible, or all outside the range.
	ErrAnswer = errors.New("unusable answer")
	// ErrServer: the source failed by its own account, HTTP 5xx.
	ErrServer = errors.New("source failed")
	// ErrUnreachable: no connection came about, as without a network (its name not resolved, refused, no answer).
	ErrUnreachable = errors.New("cannot be reached")
)

// Error is what every method of a Source returns. Its text names the source and is fit for a user: it holds no key.
type Error struct {
	// Source is the source's name, Op the operation in the imperative: "fetch BTCUSDT 1m".
	Source, Op string
	// Code is the SQLSTATE; empty means 58000 (system_error).
	Code string
	// Again means that the same request may succeed later.
	Again bool
	// RetryAfter is how long the source wants to be left alone, zero where it did not say.
	RetryAfter time.Duration
	Err        error
}

// Error returns "source: operation: cause".
func (e *Error) Error() string {
	if e.Op == "" {
		return fmt.Sprintf("%s: %s", e.Source, e.Err)
	}
	return fmt.Sprintf("%s: %s: %s", e.Source, e.Op, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// SQLState returns the SQLSTATE that a client is to see.
func (e *Error) SQLState() string {
	if e.Code == "" {
		return pgerrcode.SystemError
	}
	return e.Code
}

// Retryable reports whether the same request may succeed later.
func (e *Error) Retryable() bool { return e.Again }

// Hint tells the user what to do, empty where there is nothing to tell.
func (e *Error) Hint() string {
	switch {
	case errors.Is(e.Err, ErrRateLimited) && e.RetryAfter > 0:
		return fmt.Sprintf("The source accepts requests again in %s.", e.RetryAfter.Round(time.Second))
	case errors.Is(e.Err, ErrUnknownInstrument):
		return "barkeep.symbols lists what the sources have."
	}
	return ""
}

// Retryable reports whether err says that the same request may succeed later, and after how long at the earliest.
func Retryable(err error) (bool, time.Duration) {
	if e, found := errors.AsType[*Error](err); found {
		return e.Again, e.RetryAfter
	}
	return false, 0
}

// maxVendorText bounds what of a vendor's message stands in an error, in bytes.
const maxVendorText = 300

// VendorText returns a vendor's message as it may stand in an error: one short line, without the secrets that the vendor was sent.
func VendorText(text string, secrets ...string) string {
	for _, secret := range secrets {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "***")
		}
	}
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsPrint(r) || r == utf8.RuneError
	}), " ")
	if len(text) <= maxVendorText {
		return text
	}
	return strings.ToValidUTF8(text[:maxVendorText], "") + " …"
}

// UnknownInstrument returns the error for a vendor id that the source does not know.
func UnknownInstrument(source, vendorID string) *Error {
	return &Error{
		Source: source, Op: "fetch " + vendorID, Code: pgerrcode.InvalidParameterValue,
		Err: fmt.Errorf("%w %q", ErrUnknownInstrument, vendorID),
	}
}

// Check returns an error unless q is one that a source with this Info can be asked: a native timeframe (else 0A000, naming
// those that are), a range on the grid that is not empty and holds at most PageLimit bars.
func (i *Info) Check(source string, q *Query) error {
	op := "fetch " + q.VendorID + " " + q.Series.Timeframe.String()
	if !i.HasNative(q.Series.Timeframe) {
		return &Error{
			Source: source, Op: op, Code: pgerrcode.FeatureNotSupported,
			Err: fmt.Errorf("%w: it has %s", ErrTimeframe, i.NativeNames()),
		}
	}
	tf := q.Series.Timeframe
	if !tf.OnGrid(q.Range.Start) || !tf.OnGrid(q.Range.End) || q.Range.Empty() || tf.Count(q.Range) > int64(i.PageLimit) {
		return &Error{
			Source: source, Op: op, Code: pgerrcode.InternalError,
			Err: fmt.Errorf("ask for %s: not a page of at most %d bars on the grid", q.Range, i.PageLimit),
		}
	}
	return nil
}
