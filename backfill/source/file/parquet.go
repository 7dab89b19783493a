package file

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/format"

	"barkeep/backfill/source/scan"
	"barkeep/internal/market"
)

// ErrParquet is what the error of a broken Parquet file wraps, beside what is wrong with it.
var ErrParquet = errors.New("unusable Parquet file")

// errNull is the error of a value that is not there: no number is ever made up.
var errNull = errors.New("it is null")

// maxGroupRows bounds what one row group may hold: it is read whole.
const maxGroupRows = 64 << 20

// table is an open Parquet file.
type table struct {
	path    string
	tf      market.Timeframe
	file    *parquet.File
	columns [len(fields)]column
}

// column is one of the file's that a bar is made of.
type column struct {
	index int
	// time and number read a value; which of them a column has is decided by its name.
	time   func(parquet.Value) (market.Instant, error)
	number func(parquet.Value) (float64, error)
	// ordered says that the order of the values is that of the times.
	ordered func(least, most parquet.Value) bool
}

// loadParquet returns the bars of a file that open inside r, in the file's order. Row groups that lie outside are not read.
func (s *Source) loadParquet(path string, tf market.Timeframe, r market.Range) (bars []market.Bar, err error) {
	err = withParquet(path, tf, func(t *table, stamp string) error {
		for i, group := range t.file.RowGroups() {
			if least, most, known := t.bounds(group); known && (most < r.Start || least >= r.End) {
				continue
			}
			all, err := s.loadGroup(t, stamp, i, group)
			if err != nil {
				return err
			}
			for _, b := range all {
				if r.Contains(b.TS) {
					bars = append(bars, b)
				}
			}
		}
		return nil
	})
	return bars, err
}

// loadGroup returns the bars of a row group. The slice is shared: callers do not change it.
func (s *Source) loadGroup(t *table, stamp string, i int, group parquet.RowGroup) ([]market.Bar, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	of := part{path: t.path, group: i, series: market.Series{Timeframe: t.tf}}
	if bars, found := s.keptLocked(of, stamp); found {
		return bars, nil
	}
	bars, err := t.read(group)
	if err != nil {
		return nil, fmt.Errorf("row group %d: %w", i, err)
	}
	s.keepLocked(of, stamp, bars)
	return bars, nil
}

// firstOfParquet returns the open of a file's first bar, market.PosInf where it has none: by the statistics where they say.
func (s *Source) firstOfParquet(path string, tf market.Timeframe) (first market.Instant, err error) {
	first = market.PosInf
	err = withParquet(path, tf, func(t *table, stamp string) error {
		for i, group := range t.file.RowGroups() {
			if least, _, known := t.bounds(group); known {
				first = min(first, least)
				continue
			}
			bars, err := s.loadGroup(t, stamp, i, group)
			if err != nil {
				return err
			}
			for j := range bars {
				first = min(first, bars[j].TS)
			}
		}
		return nil
	})
	return first, err
}

// withParquet opens a file for do. Every error names the file; one that was written meanwhile is ErrChanged.
func withParquet(path string, tf market.Timeframe, do func(t *table, stamp string) error) (err error) {
	stamp, err := stampOf([]string{path})
	if err != nil {
		return err
	}
	f, err := os.Open(filepath.Clean(path))
	if err != nil {
		return fmt.Errorf("read file: %w", err)
	}
	defer f.Close() //nolint:errcheck // it is only read
	defer func() {
		if after, gone := stampOf([]string{path}); gone != nil || after != stamp {
			err = errors.Join(ErrChanged, gone)
		}
		if err != nil {
			err = fmt.Errorf("read file %s: %w", path, err)
		}
	}()
	stat, err := f.Stat()
	if err != nil {
		return err
	}
	return guarded(func() error {
		t, err := openTable(f, stat.Size(), path, tf)
		if err != nil {
			return err
		}
		return do(t, stamp)
	})
}

// guarded turns a panic of the Parquet library, which some broken files cause, into an error: a file is input.
func guarded(do func() error) (err error) {
	defer func() {
		if reason := recover(); reason != nil {
			err = fmt.Errorf("%w: %v", ErrParquet, reason)
		}
	}()
	return do()
}

func openTable(f *os.File, size int64, path string, tf market.Timeframe) (*table, error) {
	file, err := parquet.OpenFile(f, size, parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrParquet, err)
	}
	t := &table{path: path, tf: tf, file: file}
	found := [len(fields)]bool{}
	for _, leaf := range file.Schema().Columns() {
		if len(leaf) != 1 {
			continue // a nested value is none of a bar
		}
		i := fieldOf(leaf[0])
		if i < 0 || found[i] {
			continue
		}
		found[i] = true
		of, _ := file.Schema().Lookup(leaf...)
		if of.Node.Repeated() {
			return nil, fmt.Errorf("%w: column %s is a list", ErrParquet, leaf[0])
		}
		if t.columns[i], err = columnOf(of, i == 0); err != nil {
			return nil, fmt.Errorf("%w: column %s: %w", ErrParquet, leaf[0], err)
		}
	}
	for i, there := range found {
		if !there {
			return nil, fmt.Errorf("%w: it has no column for %s", ErrParquet, fields[i])
		}
	}
	return t, nil
}

// bounds returns the earliest and the latest time of a row group by its statistics, and whether they say: they do not of
// columns without any, of old kinds whose order is not that of time, or where a row has no time.
func (t *table) bounds(group parquet.RowGroup) (least, most market.Instant, known bool) {
	c := &t.columns[0]
	chunk, ok := group.ColumnChunks()[c.index].(*parquet.FileColumnChunk)
	if !ok || c.ordered == nil {
		return 0, 0, false
	}
	lowest, highest, ok := chunk.Bounds()
	if !ok || chunk.NullCount() > 0 || !c.ordered(lowest, highest) {
		return 0, 0, false
	}
	least, err1 := c.time(lowest)
	most, err2 := c.time(highest)
	return least, most, err1 == nil && err2 == nil && least <= most
}

// read parses a row group.
func (t *table) read(group parquet.RowGroup) ([]market.Bar, error) {
	rows := group.NumRows()
	if rows < 0 || rows > maxGroupRows {
		return nil, fmt.Errorf("%w: %d rows", ErrParquet, rows)
	}
	chunks := group.ColumnChunks()
	bars := make([]market.Bar, rows)
	for i := range t.columns {
		if err := t.readColumn(chunks[t.columns[i].index], i, bars); err != nil {
			return nil, err
		}
	}
	for i := range bars {
		if !t.tf.OnGrid(bars[i].TS) {
			return nil, fmt.Errorf("row %d: %w: time: %s is off the grid of %s", i+1, ErrRow, bars[i].TS, t.tf)
		}
		if err := bars[i].Check(); err != nil {
			return nil, fmt.Errorf("row %d: %w: %w", i+1, ErrRow, err)
		}
	}
	return bars, nil
}

// readColumn sets field i of bars, which are as many as the row group says that it has rows.
func (t *table) readColumn(chunk parquet.ColumnChunk, i int, bars []market.Bar) error {
	pages := chunk.Pages()
	defer pages.Close() //nolint:errcheck // it is only read
	at := 0
	var buffer [512]parquet.Value
	for {
		page, err := pages.ReadPage()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("%w: column %s: %w", ErrParquet, fields[i], err)
		}
		for values := page.Values(); ; {
			n, err := values.ReadValues(buffer[:])
			if at+n > len(bars) {
				return fmt.Errorf("%w: column %s has more values than there are rows", ErrParquet, fields[i])
			}
			for _, v := range buffer[:n] {
				if err := t.columns[i].set(&bars[at], i, v); err != nil {
					return fmt.Errorf("row %d: %w: %s: %w", at+1, ErrRow, fields[i], err)
				}
				at++
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return fmt.Errorf("%w: column %s: %w", ErrParquet, fields[i], err)
			}
		}
		parquet.Release(page)
	}
	if at < len(bars) {
		return fmt.Errorf("%w: column %s has %d values of %d", ErrParquet, fields[i], at, len(bars))
	}
	return nil
}

// set puts a value into field i of a bar.
func (c *column) set(b *market.Bar, i int, v parquet.Value) (err error) {
	if v.IsNull() {
		return errNull
	}
	if i == 0 {
		b.TS, err = c.time(v)
		return err
	}
	into := [len(fields)]*float64{nil, &b.Open, &b.High, &b.Low, &b.Close, &b.Volume}[i]
	if *into, err = c.number(v); err == nil && (math.IsNaN(*into) || math.IsInf(*into, 0)) {
		err = fmt.Errorf("%w: %v", scan.ErrNumber, *into)
	}
	return err
}

// columnOf finds out how the values of a column are read.
func columnOf(leaf parquet.LeafColumn, isTime bool) (column, error) {
	typ := leaf.Node.Type()
	var logical any
	if l := typ.LogicalType(); l != nil {
		logical = l.Value
	}
	c := column{index: leaf.ColumnIndex}
	if isTime {
		c.time, c.ordered = timeOf(typ.Kind(), logical)
	} else {
		c.number = numberOf(typ.Kind(), logical)
	}
	if c.time == nil && c.number == nil {
		return c, fmt.Errorf("values of type %s cannot be read", typ)
	}
	return c, nil
}

// whole returns a value of one of the two integer kinds.
func whole(v parquet.Value) int64 {
	if v.Kind() == parquet.Int32 {
		return int64(v.Int32())
	}
	return v.Int64()
}

// always is for columns whose values have one unit.
func always(parquet.Value, parquet.Value) bool { return true }

// timeOf returns how a time is read, nil where it cannot be, and when the order of values is that of times, nil where never.
func timeOf(kind parquet.Kind, logical any) (read func(parquet.Value) (market.Instant, error), ordered func(least, most parquet.Value) bool) {
	in := func(u unit) func(parquet.Value) (market.Instant, error) {
		return func(v parquet.Value) (market.Instant, error) { return u.instant(whole(v)) }
	}
	switch l := logical.(type) {
	case *format.TimestampType:
		if d, ok := l.Unit.Value.(interface{ Duration() time.Duration }); ok && kind == parquet.Int64 {
			return in(unit(d.Duration())), always
		}
		return nil, nil
	case *format.DateType:
		return in(day), always
	case *format.DecimalType, *format.TimeType, *format.UUIDType:
		return nil, nil
	}
	switch kind {
	case parquet.Int32, parquet.Int64:
		return func(v parquet.Value) (market.Instant, error) { return unitOf(whole(v)).instant(whole(v)) },
			// Between two of one size there are none of another.
			func(least, most parquet.Value) bool {
				return whole(least) >= 0 && unitOf(whole(least)) == unitOf(whole(most))
			}
	case parquet.Int96:
		return func(v parquet.Value) (market.Instant, error) { return julian(v.Int96()) }, nil
	case parquet.ByteArray:
		return func(v parquet.Value) (market.Instant, error) { return instant(v.ByteArray()) }, nil
	default:
		return nil, nil
	}
}

// julian reads a time as Hive, Impala and old Spark write it: nanoseconds of a day that is counted from 4713 BC.
func julian(v [3]uint32) (market.Instant, error) {
	const epoch = 2440588
	nanos := int64(v[1])<<32 | int64(v[0])
	at, err := day.instant(int64(v[2]) - epoch)
	if err != nil {
		return 0, err
	}
	of, err := nanosecond.instant(nanos)
	return at + of, err
}

// numberOf returns how a price or volume is read, nil where it cannot be.
func numberOf(kind parquet.Kind, logical any) func(parquet.Value) (float64, error) {
	switch l := logical.(type) {
	case *format.DecimalType:
		return func(v parquet.Value) (float64, error) { return decimal(v, l.Scale) }
	case *format.TimestampType, *format.DateType, *format.TimeType, *format.UUIDType:
		return nil
	}
	switch kind {
	case parquet.Double:
		return func(v parquet.Value) (float64, error) { return v.Double(), nil }
	case parquet.Float:
		return func(v parquet.Value) (float64, error) { return float64(v.Float()), nil }
	case parquet.Int32, parquet.Int64:
		return func(v parquet.Value) (float64, error) { return float64(whole(v)), nil }
	case parquet.ByteArray:
		return func(v parquet.Value) (float64, error) { return scan.ParseFloat(v.ByteArray()) }
	default:
		return nil
	}
}

// decimal returns the float64 nearest to a decimal of that many digits behind its point. In bytes it is a number in two's
// complement, the highest byte first.
func decimal(v parquet.Value, scale int32) (float64, error) {
	var digits string
	switch v.Kind() {
	case parquet.Int32, parquet.Int64:
		digits = strconv.FormatInt(whole(v), 10)
	default:
		raw := v.ByteArray()
		if len(raw) == 8 {
			digits = strconv.FormatInt(int64(binary.BigEndian.Uint64(raw)), 10) //nolint:gosec // the bits are those of a signed number
			break
		}
		n := new(big.Int).SetBytes(raw)
		if len(raw) > 0 && raw[0] >= 0x80 {
			n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(raw))))
		}
		digits = n.String()
	}
	return strconv.ParseFloat(digits+"e"+strconv.Itoa(-int(scale)), 64)
}

// fieldOf returns the index in fields of what a column's name stands for, negative where for none.
func fieldOf(name string) int {
	name = strings.ToLower(strings.TrimSpace(name))
	if alias, found := aliases[name]; found {
		name = alias
	}
	for i, field := range fields {
		if name == field {
			return i
		}
	}
	return -1
}
