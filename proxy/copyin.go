package proxy

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgproto3"
)

// A COPY from the client ignores each Sync and Flush that it reads (CopyGetData). Whether it has read one is told by how it ends: it has read all
// that came before CopyDone or CopyFail where it has come to that. Where it has failed before, the rest is not its own any more: of a
// COPY by Execute it is dropped up to the first Sync that was not read, with every Query in it.

// copyFailure says how far a COPY from the client had come when it failed: the line it was at, which is 0 where none of its data was read.
type copyFailure struct{ line int }

// failureOfCopy returns that of an ErrorResponse. Where its data was read, the error or its context says that it is COPY's
// (CopyFromErrorCallback, ReceiveCopyBinaryHeader), in each language. What is found out by an index, or behind the last row, has a line as well:
// most often all was read by then.
func failureOfCopy(message []byte) copyFailure {
	var response pgproto3.ErrorResponse
	if response.Decode(message[5:]) != nil {
		return copyFailure{}
	}
	_, context, known := strings.Cut(response.Where, "COPY")
	late := pgerrcode.IsIntegrityConstraintViolation(response.Code) && !slices.Contains(earlyViolations, response.Code)
	switch ended := strings.Contains(response.Message, "COPY"); {
	case ended && response.Code == pgerrcode.QueryCanceled, known && late:
		return copyFailure{math.MaxInt}
	case !known && !ended:
		return copyFailure{}
	}
	context, _, _ = strings.Cut(context, "\n")
	_, context, _ = strings.Cut(context, ", ")
	number := strings.TrimLeftFunc(context, func(r rune) bool { return !unicode.IsDigit(r) })
	if end := strings.IndexFunc(number, func(r rune) bool { return !unicode.IsDigit(r) }); end >= 0 {
		number = number[:end]
	}
	line, _ := strconv.Atoi(number) // none is said where it is the first, or before it
	return copyFailure{max(line, 1)}
}

// earlyViolations are those that are found before a row is put by for others (CopyFrom).
var earlyViolations = []string{pgerrcode.NotNullViolation, pgerrcode.CheckViolation}

// behind reports whether that is behind a Sync that comes after so many CopyData, of which each is a line.
func (f copyFailure) behind(rows int) bool { return rows < f.line }

// countRow counts a CopyData.
func (r *reader) countRow() {
	if r.rowsOf != r.runs {
		r.rowsOf, r.rows = r.runs, 0
	}
	r.rows++
}

// syncEntry returns the entry of a Sync.
func (r *reader) syncEntry() entry {
	e := entry{kind: kindSync, run: r.runs}
	if r.rowsOf == r.runs {
		e.rows = r.rows
	}
	return e
}
