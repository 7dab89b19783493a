package file

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"barkeep/backfill/source/scan"
	"barkeep/internal/market"
)

const (
	maxLineBytes = 64 << 10
	// Whole numbers up to these are seconds and milliseconds: the years up to 5138.
	maxSeconds, maxMilliseconds = int64(1e11), int64(1e14)
)

// fields are the columns that a row must have, in the order of a file without a header.
var fields = [...]string{"time", "open", "high", "low", "close", "volume"} //nolint:gochecknoglobals // a constant

// aliases are the names that a header may use instead.
var aliases = map[string]string{ //nolint:gochecknoglobals // a constant
	"timestamp": "time", "date": "time", "ts": "time", "open_time": "time", "opentime": "time", "unix": "time",
	"datetime": "time", "volume_base": "volume", "vol": "volume",
}

// columns[i] is the index in a row of fields[i].
type columns [len(fields)]int

// read parses one file.
func read(path string, tf market.Timeframe) ([]market.Bar, error) {
	f, err := os.Open(filepath.Clean(path))
	if err != nil {
		return nil, fmt.Errorf("read file: %w", err)
	}
	defer f.Close() //nolint:errcheck // it is only read
	var in io.Reader = f
	if strings.HasSuffix(path, ".gz") {
		z, err := gzip.NewReader(bufio.NewReader(f))
		if err != nil {
			return nil, fmt.Errorf("read file %s: %w", path, err)
		}
		in = z
	}
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 0, maxLineBytes), maxLineBytes)
	order := columns{0, 1, 2, 3, 4, 5}
	var bars []market.Bar
	var cells [][]byte
	for number := 1; lines.Scan(); number++ {
		line := bytes.TrimSpace(bytes.TrimPrefix(lines.Bytes(), []byte("\xef\xbb\xbf")))
		if len(line) == 0 {
			continue
		}
		cells = cut(cells[:0], line)
		if number == 1 && isHeader(cells) {
			if order, err = header(cells); err != nil {
				return nil, fmt.Errorf("%s:%d: %w", path, number, err)
			}
			continue
		}
		b, err := row(cells, &order, tf)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w: %w", path, number, ErrRow, err)
		}
		bars = append(bars, b)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read file %s: %w", path, err)
	}
	return bars, nil
}

// cut splits a line at its commas and takes quotes and white space off the cells.
func cut(cells [][]byte, line []byte) [][]byte {
	for {
		cell, rest, more := bytes.Cut(line, []byte{','})
		cells = append(cells, bytes.Trim(cell, " \t\""))
		if !more {
			return cells
		}
		line = rest
	}
}

// isHeader tells a header by its first cell, which no time begins like.
func isHeader(cells [][]byte) bool {
	first := cells[0]
	return len(first) == 0 || ((first[0] < '0' || first[0] > '9') && first[0] != '-')
}

func header(cells [][]byte) (columns, error) {
	order := columns{-1, -1, -1, -1, -1, -1}
	for at, cell := range cells {
		name := strings.ToLower(string(cell))
		if alias, found := aliases[name]; found {
			name = alias
		}
		for i, field := range fields {
			if name == field && order[i] < 0 {
				order[i] = at
			}
		}
	}
	for i, at := range order {
		if at < 0 {
			return order, fmt.Errorf("%w: the header has no column for %s", ErrRow, fields[i])
		}
	}
	return order, nil
}

func row(cells [][]byte, order *columns, tf market.Timeframe) (market.Bar, error) {
	var b market.Bar
	into := [len(fields)]*float64{nil, &b.Open, &b.High, &b.Low, &b.Close, &b.Volume}
	for i, at := range order {
		if at >= len(cells) {
			return b, fmt.Errorf("%s is missing", fields[i])
		}
		var err error
		if i == 0 {
			b.TS, err = instant(cells[at])
		} else {
			*into[i], err = scan.ParseFloat(cells[at])
		}
		switch {
		case err != nil && i > 0:
			return b, fmt.Errorf("%s at %s: %w", fields[i], b.TS, err)
		case err != nil:
			return b, fmt.Errorf("%s: %w", fields[i], err)
		}
	}
	if !tf.OnGrid(b.TS) {
		return b, fmt.Errorf("time: %s is off the grid of %s", b.TS, tf)
	}
	return b, b.Check()
}

var errTime = errors.New("neither a whole number nor a time as RFC 3339 writes it")

// instant reads a time.
func instant(cell []byte) (market.Instant, error) {
	if n, err := strconv.ParseInt(string(cell), 10, 64); err == nil {
		switch size := max(n, -n); {
		case size < maxSeconds:
			return market.Instant(n * 1e6), nil
		case size < maxMilliseconds:
			return market.Instant(n * 1e3), nil
		}
		return market.Instant(n), nil
	}
	for _, layout := range []string{
		time.RFC3339Nano, "2006-01-02 15:04:05Z07:00", "2006-01-02 15:04:05", "2006-01-02T15:04:05", "2006-01-02 15:04",
		time.DateOnly,
	} {
		if t, err := time.Parse(layout, string(cell)); err == nil {
			return market.FromTime(t), nil
		}
	}
	return 0, fmt.Errorf("%w: %q", errTime, cell)
}
