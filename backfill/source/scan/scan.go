// Package scan reads the JSON of market data: long arrays of rows of numbers, some written as strings. It allocates
// nothing for a row, where encoding/json takes most of the time of a backfill. It reads what vendors send and refuses the
// rest; it does not check that everything it skips is JSON to the letter.
package scan

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"unsafe"
)

// ErrSyntax is returned, wrapped with place and reason, for text that is not the JSON expected there.
var ErrSyntax = errors.New("unexpected JSON")

// ErrNumber is returned, wrapped with the text, for a value that is not the number expected. The value has been taken: the
// caller may go on to learn which row it stands in.
var ErrNumber = errors.New("not a number")

const maxDepth = 64

// Scanner reads one text from its beginning. It is not safe for concurrent use.
type Scanner struct {
	data []byte
	pos  int
}

// New returns a scanner of data, which must not change while it is used.
func New(data []byte) *Scanner { return &Scanner{data: data} }

func (s *Scanner) fail(want string) error {
	if s.pos >= len(s.data) {
		return fmt.Errorf("%w: the text ends where %s is expected", ErrSyntax, want)
	}
	rest := s.data[s.pos:min(s.pos+16, len(s.data))]
	return fmt.Errorf("%w: %q at byte %d where %s is expected", ErrSyntax, rest, s.pos, want)
}

func (s *Scanner) space() {
	for s.pos < len(s.data) {
		switch s.data[s.pos] {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return
		}
	}
}

// Accept takes c where it is the next byte after white space, and reports whether it was.
func (s *Scanner) Accept(c byte) bool {
	s.space()
	if s.pos < len(s.data) && s.data[s.pos] == c {
		s.pos++
		return true
	}
	return false
}

// Peek returns the next byte after white space, zero at the end.
func (s *Scanner) Peek() byte {
	s.space()
	if s.pos < len(s.data) {
		return s.data[s.pos]
	}
	return 0
}

// End returns an error unless only white space is left.
func (s *Scanner) End() error {
	s.space()
	if s.pos < len(s.data) {
		return s.fail("the end")
	}
	return nil
}

// Array calls item at each element, which item must take whole.
func (s *Scanner) Array(item func() error) error {
	if !s.Accept('[') {
		return s.fail("an array")
	}
	if s.Accept(']') {
		return nil
	}
	for {
		if err := item(); err != nil {
			return err
		}
		if s.Accept(']') {
			return nil
		}
		if !s.Accept(',') {
			return s.fail("a comma or ]")
		}
	}
}

// Object calls value at each value with its key, which is valid until value returns; value must take the value whole.
func (s *Scanner) Object(value func(key string) error) error {
	if !s.Accept('{') {
		return s.fail("an object")
	}
	if s.Accept('}') {
		return nil
	}
	for {
		key, err := s.text()
		if err != nil {
			return err
		}
		if !s.Accept(':') {
			return s.fail("a colon")
		}
		if err := value(view(key)); err != nil {
			return err
		}
		if s.Accept('}') {
			return nil
		}
		if !s.Accept(',') {
			return s.fail("a comma or }")
		}
	}
}

// text takes a string and returns its bytes as they are written, escapes and all.
func (s *Scanner) text() ([]byte, error) {
	if !s.Accept('"') {
		return nil, s.fail("a string")
	}
	start := s.pos
	if n := bytes.IndexByte(s.data[start:], '"'); n >= 0 && bytes.IndexByte(s.data[start:start+n], '\\') < 0 {
		s.pos = start + n + 1
		return s.data[start : start+n], nil
	}
	for s.pos < len(s.data) {
		switch s.data[s.pos] {
		case '"':
			s.pos++
			return s.data[start : s.pos-1], nil
		case '\\':
			s.pos++
		}
		s.pos++
	}
	s.pos = len(s.data)
	return nil, s.fail("the end of a string")
}

// Text takes a string and returns it.
func (s *Scanner) Text() (string, error) {
	start := s.pos
	raw, err := s.text()
	if err != nil {
		return "", err
	}
	if !bytes.ContainsRune(raw, '\\') {
		return string(raw), nil
	}
	var text string
	if err := json.Unmarshal([]byte(`"`+string(raw)+`"`), &text); err != nil {
		s.pos = start
		return "", s.fail("a string")
	}
	return text, nil
}

// scalar takes a number, bare or in a string, or what stands in its place up to the next separator, and returns its text.
func (s *Scanner) scalar() ([]byte, error) {
	if s.Peek() == '"' {
		return s.text()
	}
	start := s.pos
	for s.pos < len(s.data) && !separator(s.data[s.pos]) {
		s.pos++
	}
	if s.pos == start {
		return nil, s.fail("a number")
	}
	return s.data[start:s.pos], nil
}

func separator(c byte) bool {
	switch c {
	case ',', ':', '[', ']', '{', '}', '"', ' ', '\t', '\n', '\r':
		return true
	}
	return false
}

func numeric(c byte) bool {
	return c >= '0' && c <= '9' || c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E'
}

// Float takes a number, bare or in a string. It refuses NaN, infinities and what float64 cannot hold.
func (s *Scanner) Float() (float64, error) {
	if f, ok := s.decimal(); ok {
		return f, nil
	}
	raw, err := s.scalar()
	if err != nil {
		return 0, err
	}
	return ParseFloat(raw)
}

// Int takes a whole number, bare or in a string.
func (s *Scanner) Int() (int64, error) {
	raw, err := s.scalar()
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(view(raw), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: %q", ErrNumber, raw)
	}
	return n, nil
}

// The powers of ten that a float64 holds exactly.
var powers = [...]float64{1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22}

// decimal takes a number as vendors write it: digits, perhaps with a point among them, bare or in a string. Digits that are below 2^53 as a
// whole and the power of ten are both exact, so that their quotient is the float64 nearest to the number (Clinger, "How to Read Floating
// Point Numbers Accurately"). It takes nothing where the text is another, or longer.
func (s *Scanner) decimal() (float64, bool) {
	const mostDigits, exact = 19, 1 << 53 // so many digits do not overflow
	s.space()
	at := s.pos
	quoted := at < len(s.data) && s.data[at] == '"'
	if quoted {
		at++
	}
	start, point := at, -1
	var whole uint64
	for ; at < len(s.data); at++ {
		c := s.data[at]
		if digit := c - '0'; digit <= 9 {
			whole = 10*whole + uint64(digit)
		} else if c == '.' && point < 0 {
			point = at
		} else {
			break
		}
	}
	digits, behind := at-start, 0
	if point >= 0 {
		digits, behind = digits-1, at-point-1
		if point == start || behind == 0 {
			return 0, false
		}
	}
	if digits == 0 || digits > mostDigits || whole >= exact || at == len(s.data) {
		return 0, false
	}
	switch c := s.data[at]; {
	case quoted && c == '"':
		at++
	case quoted || !separator(c):
		return 0, false
	}
	s.pos = at
	return float64(whole) / powers[behind], true
}

// ParseFloat parses a decimal number as Float does.
func ParseFloat(raw []byte) (float64, error) {
	for _, c := range raw {
		if !numeric(c) {
			return 0, fmt.Errorf("%w: %q", ErrNumber, raw)
		}
	}
	f, err := strconv.ParseFloat(view(raw), 64)
	if err != nil {
		return 0, fmt.Errorf("%w: %q", ErrNumber, raw)
	}
	return f, nil
}

// view returns raw as a string that shares its memory: it is not kept.
func view(raw []byte) string {
	return unsafe.String(unsafe.SliceData(raw), len(raw)) //nolint:gosec // read at once, never kept
}

// Skip takes the next value, whatever it is.
func (s *Scanner) Skip() error { return s.skip(0) }

func (s *Scanner) skip(depth int) error {
	if depth > maxDepth {
		return s.fail("less nesting")
	}
	switch c := s.Peek(); {
	case c == '"':
		_, err := s.text()
		return err
	case c == '[':
		return s.Array(func() error { return s.skip(depth + 1) })
	case c == '{':
		return s.Object(func(string) error { return s.skip(depth + 1) })
	case c >= 'a' && c <= 'z':
		for s.pos < len(s.data) && s.data[s.pos] >= 'a' && s.data[s.pos] <= 'z' {
			s.pos++
		}
		return nil
	}
	_, err := s.scalar()
	return err
}
