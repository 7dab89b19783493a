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
	"time"

	"github.com/klauspost/compress/zstd"

	"barkeep/backfill/source/scan"
	"barkeep/internal/market"
)

const (
	maxLineBytes = 64 << 10
	// maxWindowBytes bounds what unpacking zstd keeps in memory: as much as zstd --ultra -22 wants, and its --long.
	maxWindowBytes = 128 << 20
	// Whole numbers up to these are seconds, milliseconds and microseconds, those beyond are nanoseconds: the years up to 5138.
	maxSeconds, maxMilliseconds, maxMicroseconds = int64(1e11), int64(1e14), int64(1e17)
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

// readCSV parses one file.
func readCSV(path string, tf market.Timeframe) ([]market.Bar, error) {
	f, err := os.Open(filepath.Clean(path))
	if err != nil {
		return nil, fmt.Errorf("read file: %w", err)
	}
	defer f.Close() //nolint:errcheck // it is only read
	in, err := plain(f, path)
	if err != nil {
		return nil, fmt.Errorf("read file %s: %w", path, err)
	}
	defer in.Close() //nolint:errcheck // it is only read
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

// plain returns what f holds, unpacked as the end of its name says.
func plain(f *os.File, path string) (io.ReadCloser, error) {
	switch filepath.Ext(path) {
	case ".gz":
		return gzip.NewReader(bufio.NewReader(f))
	case ".zst":
		in := bufio.NewReader(f)
		if _, err := in.Peek(1); err != nil {
			return nil, fmt.Errorf("%w: no frame of zstd in it", io.ErrUnexpectedEOF) // of none the decoder makes an empty text
		}
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindowBytes))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(f), nil
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
		if i := fieldOf(string(cell)); i >= 0 && order[i] < 0 {
			order[i] = at
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

// unit is how many nanoseconds one of a whole number stands for.
type unit int64

// unitOf tells the unit of a time by its size.
func unitOf(n int64) unit {
	switch size := max(n, -n); {
	case size < 0: // the least of all has no counterpart
		return nanosecond
	case size < maxSeconds:
		return second
	case size < maxMilliseconds:
		return millisecond
	case size < maxMicroseconds:
		return microsecond
	}
	return nanosecond
}

// The units of time.
const (
	nanosecond  = unit(time.Nanosecond)
	microsecond = unit(time.Microsecond)
	millisecond = unit(time.Millisecond)
	second      = unit(time.Second)
	day         = unit(24 * time.Hour)
)

// instant returns what n of u since the epoch are, or an error where that is no microsecond or lies beyond what there can be.
func (u unit) instant(n int64) (market.Instant, error) {
	if u < microsecond {
		if per := int64(microsecond / u); n%per == 0 {
			return market.Instant(n / per), nil
		}
		return 0, fmt.Errorf("%w: %d ns is no whole microsecond", errTime, n)
	}
	per := int64(u / microsecond)
	if most := int64(market.PosInf) / per; n >= most || n <= -most {
		return 0, fmt.Errorf("%w: %d is too large", errTime, n)
	}
	return market.Instant(n * per), nil
}

var errTime = errors.New("neither a whole number nor a time as RFC 3339 writes it")

// instant reads a time.
func instant(cell []byte) (market.Instant, error) {
	if n, err := strconv.ParseInt(string(cell), 10, 64); err == nil {
		return unitOf(n).instant(n)
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
