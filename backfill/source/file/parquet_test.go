package file_test

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/deprecated"
	"github.com/stretchr/testify/require"

	"barkeep/backfill/source"
	"barkeep/backfill/source/file"
	"barkeep/internal/exchange"
	"barkeep/internal/market"
)

// startSeconds is 2024-01-01 00:00 UTC.
const startSeconds = 1704067200

var start = market.Instant(startSeconds * 1e6)

// plainBar is the usual row of a Parquet file.
type plainBar struct {
	Timestamp int64   `parquet:"timestamp,timestamp(millisecond)"`
	Open      float64 `parquet:"open"`
	High      float64 `parquet:"high"`
	Low       float64 `parquet:"low"`
	Close     float64 `parquet:"close"`
	Volume    float64 `parquet:"volume"`
}

// plainBars are n minutes from the start on; the price of the i-th is i+1.
func plainBars(n int) []plainBar {
	list := make([]plainBar, n)
	for i := range list {
		p := float64(i + 1)
		list[i] = plainBar{(startSeconds + int64(i)*60) * 1e3, p, p, p, p, 0.5}
	}
	return list
}

// writeParquet writes rows into row groups of at most perGroup.
func writeParquet[T any](tb testing.TB, path string, rows []T, perGroup int, options ...parquet.WriterOption) {
	tb.Helper()
	require.NoError(tb, os.MkdirAll(filepath.Dir(path), 0o700))
	var out bytes.Buffer
	w := parquet.NewGenericWriter[T](&out, options...)
	for group := range slices.Chunk(rows, max(perGroup, 1)) {
		_, err := w.Write(group)
		require.NoError(tb, err)
		require.NoError(tb, w.Flush())
	}
	require.NoError(tb, w.Close())
	require.NoError(tb, os.WriteFile(path, out.Bytes(), 0o600))
}

func fetchFrom(t *testing.T, s *file.Source, from market.Instant, n int64) (source.Answer, error) {
	t.Helper()
	return s.Fetch(t.Context(), source.Query{
		VendorID: "BTCUSD", Series: market.Series{Timeframe: market.M1}, Range: market.Range{Start: from, End: market.M1.Add(from, n)},
	})
}

// Every way to write a time and a number comes to the same bars.
func TestParquetTypes(t *testing.T) {
	t.Parallel()
	type millis struct {
		T int64   `parquet:"open_time,timestamp(millisecond)"`
		O float32 `parquet:"Open"`
		H float32 `parquet:"HIGH"`
		L float32 `parquet:"low"`
		C float32 `parquet:"close"`
		V float32 `parquet:"volume_base"`
		X string  `parquet:"extra"`
	}
	type micros struct {
		V *float64 `parquet:"vol,optional"`
		C *float64 `parquet:"close,optional"`
		T *int64   `parquet:"Date,optional,timestamp(microsecond)"`
		O *float64 `parquet:"open,optional"`
		H *float64 `parquet:"high,optional"`
		L *float64 `parquet:"low,optional"`
	}
	type nanos struct {
		T int64 `parquet:"ts,timestamp(nanosecond)"`
		O int64 `parquet:"open,decimal(2:18)"`
		H int64 `parquet:"high,decimal(2:18)"`
		L int32 `parquet:"low,decimal(2:9)"`
		C int32 `parquet:"close,decimal(2:9)"`
		V int64 `parquet:"volume,decimal(2:18)"`
	}
	type wholeSeconds struct {
		T int64 `parquet:"unix"`
		O int64 `parquet:"open"`
		H int32 `parquet:"high"`
		L int64 `parquet:"low"`
		C int32 `parquet:"close"`
		V int64 `parquet:"volume"`
	}
	type texts struct {
		T string `parquet:"datetime"`
		O string `parquet:"open"`
		H string `parquet:"high"`
		L string `parquet:"low"`
		C string `parquet:"close"`
		V string `parquet:"volume"`
	}
	type ancient struct {
		T deprecated.Int96 `parquet:"time"`
		O float64          `parquet:"open"`
		H float64          `parquet:"high"`
		L float64          `parquet:"low"`
		C float64          `parquet:"close"`
		V float64          `parquet:"volume"`
	}
	type wide struct {
		T int64    `parquet:"time"`
		O [16]byte `parquet:"open,decimal(2:38)"`
		H [16]byte `parquet:"high,decimal(2:38)"`
		L [16]byte `parquet:"low,decimal(2:38)"`
		C [16]byte `parquet:"close,decimal(2:38)"`
		V [16]byte `parquet:"volume,decimal(2:38)"`
	}
	type days struct {
		T int32   `parquet:"date,date"`
		O float64 `parquet:"open"`
		H float64 `parquet:"high"`
		L float64 `parquet:"low"`
		C float64 `parquet:"close"`
		V float64 `parquet:"volume"`
	}
	one := func(x float64) *float64 { return &x }
	at := int64(startSeconds * 1e6)
	// A Julian day begins at noon, so that of 2024-01-01 00:00 in this count is 2460311 and no nanosecond.
	julian := deprecated.Int96{0, 0, 2460311}
	sixteen := func(n byte) [16]byte { return [16]byte{14: 0, 15: n} }
	for name, put := range map[string]func(path string){
		"milliseconds, float": func(path string) {
			writeParquet(t, path, []millis{{startSeconds * 1e3, 1.5, 2, 1, 1.25, 0.5, "x"}}, 1)
		},
		"microseconds, optional, another order": func(path string) {
			writeParquet(t, path, []micros{{one(0.5), one(1.25), &at, one(1.5), one(2), one(1)}}, 1)
		},
		"nanoseconds, decimals": func(path string) {
			writeParquet(t, path, []nanos{{startSeconds * 1e9, 150, 200, 100, 125, 50}}, 1)
		},
		"texts": func(path string) {
			writeParquet(t, path, []texts{{"2024-01-01 00:00:00", "1.5", "2", "1", "1.25", "0.5"}}, 1)
		},
		"Int96": func(path string) {
			writeParquet(t, path, []ancient{{julian, 1.5, 2, 1, 1.25, 0.5}}, 1)
		},
		"decimals in bytes": func(path string) {
			writeParquet(t, path, []wide{{startSeconds * 1e9, sixteen(150), sixteen(200), sixteen(100), sixteen(125), sixteen(50)}}, 1)
		},
		"a date": func(path string) {
			writeParquet(t, path, []days{{startSeconds / 86400, 1.5, 2, 1, 1.25, 0.5}}, 1)
		},
		"zstd pages": func(path string) {
			writeParquet(t, path, []millis{{startSeconds * 1e3, 1.5, 2, 1, 1.25, 0.5, "x"}}, 1, parquet.Compression(&parquet.Zstd))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			put(filepath.Join(dir, "BTCUSD_1m.parquet"))
			a, err := fetchFrom(t, open(t, dir), start, 10)
			require.NoError(t, err)
			require.Equal(t, []market.Bar{{TS: start, Open: 1.5, High: 2, Low: 1, Close: 1.25, Volume: 0.5}}, a.Bars)
		})
	}
	dir := t.TempDir()
	writeParquet(t, filepath.Join(dir, "BTCUSD_1m.parquet"), []wholeSeconds{{startSeconds, 2, 3, 1, 2, 7}}, 1)
	a, err := fetchFrom(t, open(t, dir), start, 10)
	require.NoError(t, err)
	require.Equal(t, []market.Bar{{TS: start, Open: 2, High: 3, Low: 1, Close: 2, Volume: 7}}, a.Bars)
}

// Row groups outside the range are not read: what is wrong in them is not seen, and is where the range reaches into them.
func TestParquetSkipsRowGroups(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	rows := plainBars(400)
	rows[250].Low = rows[250].High + 1
	writeParquet(t, filepath.Join(dir, "BTCUSD", "1m.parquet"), rows, 100)
	s := open(t, dir)
	for _, from := range []int64{0, 50, 150} {
		a, err := fetchFrom(t, s, market.M1.Add(start, from), 50)
		require.NoError(t, err)
		require.Len(t, a.Bars, 50)
		require.InDelta(t, float64(from+1), a.Bars[0].Open, 0)
	}
	a, err := fetchFrom(t, s, market.M1.Add(start, 80), 40)
	require.NoError(t, err, "over the border of two groups")
	require.Len(t, a.Bars, 40)
	_, err = fetchFrom(t, s, market.M1.Add(start, 290), 20)
	require.ErrorIs(t, err, file.ErrRow)
	require.ErrorContains(t, err, "1m.parquet: row group 2: row 51: malformed row: impossible bar")
	a, err = fetchFrom(t, s, market.M1.Add(start, 390), 50)
	require.NoError(t, err)
	require.Len(t, a.Bars, 10)

	list, err := s.Instruments(t.Context())
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Equal(t, start, list[0].Listed, "by the statistics, without a look at the broken group")
}

// Whole numbers whose unit is told by their size are only skipped where all of a group have one unit.
func TestParquetMixedUnits(t *testing.T) {
	t.Parallel()
	type row struct {
		T int64   `parquet:"time"`
		O float64 `parquet:"open"`
		H float64 `parquet:"high"`
		L float64 `parquet:"low"`
		C float64 `parquet:"close"`
		V float64 `parquet:"volume"`
	}
	dir := t.TempDir()
	// By their size 1 hour after the epoch in seconds and a time of 2024 in milliseconds; between them, in order of size, lies
	// 2970 in seconds.
	writeParquet(t, filepath.Join(dir, "BTCUSD_1m.parquet"), []row{
		{3600, 1, 1, 1, 1, 1}, {startSeconds * 1e3, 2, 2, 2, 2, 2}, {31557600000, 3, 3, 3, 3, 3},
	}, 10)
	a, err := fetchFrom(t, open(t, dir), start, 10)
	require.NoError(t, err)
	require.Len(t, a.Bars, 1)
	require.InDelta(t, 2, a.Bars[0].Open, 0)
	a, err = fetchFrom(t, open(t, dir), market.Instant(3600*1e6), 10)
	require.NoError(t, err)
	require.Len(t, a.Bars, 1)
}

// Files of one series are read together, CSV first, and the last row of a time wins.
func TestParquetBesideCSV(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "BTCUSD_1m_b.csv"), "1704067200,9,9,9,9,9\n1704068400,9,9,9,9,9\n")
	writeParquet(t, filepath.Join(dir, "BTCUSD_1m_a.parquet"), plainBars(5), 5)
	writeParquet(t, filepath.Join(dir, "BTCUSD_1m_c.parquet"), []plainBar{{(startSeconds + 60) * 1e3, 7, 7, 7, 7, 7}}, 5)
	a, err := fetchFrom(t, open(t, dir), start, 30)
	require.NoError(t, err)
	var opens []float64
	for _, b := range a.Bars {
		opens = append(opens, b.Open)
	}
	require.Equal(t, []float64{1, 7, 3, 4, 5, 9}, opens)
}

// What cannot be a bar is an error that names file, row and field; nothing is made up.
func TestParquetMalformed(t *testing.T) {
	t.Parallel()
	type lists struct {
		T []int64 `parquet:"time"`
		O float64 `parquet:"open"`
		H float64 `parquet:"high"`
		L float64 `parquet:"low"`
		C float64 `parquet:"close"`
		V float64 `parquet:"volume"`
	}
	type floats struct {
		T float64 `parquet:"time"`
		O float64 `parquet:"open"`
		H float64 `parquet:"high"`
		L float64 `parquet:"low"`
		C float64 `parquet:"close"`
		V float64 `parquet:"volume"`
	}
	type optional struct {
		T int64    `parquet:"time"`
		O *float64 `parquet:"open,optional"`
		H float64  `parquet:"high"`
		L float64  `parquet:"low"`
		C float64  `parquet:"close"`
		V float64  `parquet:"volume"`
	}
	type flags struct {
		T int64   `parquet:"time"`
		O float64 `parquet:"open"`
		H float64 `parquet:"high"`
		L float64 `parquet:"low"`
		C float64 `parquet:"close"`
		V bool    `parquet:"volume"`
	}
	type short struct {
		T int64   `parquet:"time"`
		O float64 `parquet:"open"`
	}
	bad := func(change func(*plainBar)) func(string) {
		return func(path string) {
			rows := plainBars(3)
			change(&rows[1])
			writeParquet(t, path, rows, 3)
		}
	}
	for name, c := range map[string]struct {
		put  func(path string)
		want string
	}{
		"not a number": {bad(func(b *plainBar) { b.Close = math.NaN() }), "row 2: malformed row: close"},
		"infinite":     {bad(func(b *plainBar) { b.Volume = math.Inf(1) }), "row 2: malformed row: volume"},
		"off the grid": {bad(func(b *plainBar) { b.Timestamp += 1000 }), "row 2: malformed row: time: 2024-01-01T00:01:01Z is off the grid of 1m"},
		"impossible":   {bad(func(b *plainBar) { b.High = 0 }), "row 2: malformed row: impossible bar"},
		"too large":    {bad(func(b *plainBar) { b.Timestamp = math.MaxInt64 }), "row 2: malformed row: time"},
		"null": {func(path string) {
			writeParquet(t, path, []optional{{startSeconds, nil, 1, 1, 1, 1}}, 1)
		}, "row 1: malformed row: open: it is null"},
		"a list":          {func(path string) { writeParquet(t, path, []lists{{}}, 1) }, "column time is a list"},
		"a floating time": {func(path string) { writeParquet(t, path, []floats{{}}, 1) }, "column time: values of type DOUBLE cannot be read"},
		"a flag":          {func(path string) { writeParquet(t, path, []flags{{}}, 1) }, "column volume: values of type BOOLEAN cannot be read"},
		"no column":       {func(path string) { writeParquet(t, path, []short{{}}, 1) }, "it has no column for high"},
		"empty":           {func(path string) { require.NoError(t, os.WriteFile(path, nil, 0o600)) }, "unusable Parquet file"},
		"text":            {func(path string) { require.NoError(t, os.WriteFile(path, []byte("1704067200,1,1,1,1,1\n"), 0o600)) }, "unusable Parquet file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			c.put(filepath.Join(dir, "BTCUSD_1m.parquet"))
			_, err := fetchFrom(t, open(t, dir), start, 10)
			require.ErrorContains(t, err, "BTCUSD_1m.parquet")
			require.ErrorContains(t, err, c.want)
			list, err := open(t, dir).Instruments(t.Context())
			require.NoError(t, err)
			require.Len(t, list, 1, "it is listed, and Fetch tells why it cannot be read")
		})
	}
}

// A file that is cut, or has a stretch of zeros as after a crash, is an error that names it; never a panic, never fewer bars.
func TestParquetBroken(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "BTCUSD_1m.parquet")
	writeParquet(t, path, plainBars(300), 100)
	want, err := fetchFrom(t, open(t, dir), start, 300)
	require.NoError(t, err)
	require.Len(t, want.Bars, 300)
	whole, err := os.ReadFile(filepath.Clean(path))
	require.NoError(t, err)
	broken := func(content []byte, what string) {
		require.NoError(t, os.WriteFile(path, content, 0o600))
		_, err := fetchFrom(t, open(t, dir), start, 300)
		require.ErrorContains(t, err, "BTCUSD_1m.parquet", what)
	}
	for _, size := range []int{0, 3, 12, len(whole) / 2, len(whole) - 9, len(whole) - 1} {
		broken(whole[:size], fmt.Sprintf("%d bytes", size))
	}
	for _, size := range []int{100, len(whole) / 2} {
		broken(slices.Concat(whole[:size], make([]byte, len(whole)/4), whole[size+len(whole)/4:]), fmt.Sprintf("a hole at %d", size))
	}
}

// A CSV file packed by zstd is read as any other; one that is cut or broken is an error that names it, not a shorter history.
func TestZstd(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "BTCUSD", "1m.csv.zst")
	var text strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&text, "%d,%d,%d,%d,%d,1\n", startSeconds+i*60, i*7919%997+1, i*7919%997+1, i*7919%997+1, i*7919%997+1)
	}
	z, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	whole := z.EncodeAll([]byte(text.String()), nil)
	require.NoError(t, z.Close())
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(t, os.WriteFile(path, whole, 0o600))
	s := open(t, dir)
	a, err := fetchFrom(t, s, start, 5000)
	require.NoError(t, err)
	require.Len(t, a.Bars, 5000)
	list, err := s.Instruments(t.Context())
	require.NoError(t, err)
	require.Equal(t, start, list[0].Listed)
	flipped := slices.Clone(whole)
	flipped[len(flipped)/2] ^= 0x55
	for name, content := range map[string][]byte{
		"nothing": nil, "five bytes": whole[:5], "half": whole[:len(whole)/2], "without its sum": whole[:len(whole)-4], "a byte": flipped,
		"no zstd": []byte("1704067200,1,1,1,1,1\n"),
	} {
		require.NoError(t, os.WriteFile(path, content, 0o600))
		_, err = fetchFrom(t, open(t, dir), start, 10)
		require.ErrorContains(t, err, "1m.csv.zst", name)
	}
}

// The computed market written to Parquet comes back bar for bar, page for page, in more row groups than are kept.
func TestParquetWholeHistory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	end := market.M1.Add(start, 60000)
	truth := exchange.Truth("GAP", "USD", market.M1, market.Range{Start: start, End: end})
	rows := make([]plainBar, len(truth))
	for i, b := range truth {
		rows[i] = plainBar{int64(b.TS) / 1000, b.Open, b.High, b.Low, b.Close, b.Volume}
	}
	writeParquet(t, filepath.Join(dir, "BTCUSD_1m.parquet"), rows, 5000)
	s := open(t, dir)
	var got []market.Bar
	for from := start; from < end; from = market.M1.Add(from, 8000) {
		a, err := fetchFrom(t, s, from, 8000)
		require.NoError(t, err)
		got = append(got, a.Bars...)
	}
	require.Equal(t, truth, got)
}
