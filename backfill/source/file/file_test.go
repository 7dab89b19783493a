package file_test

import (
	"compress/gzip"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/coverage"
	"barkeep/backfill/source"
	"barkeep/backfill/source/file"
	"barkeep/backfill/source/sourcetest"
	"barkeep/internal/exchange"
	"barkeep/internal/market"
)

func write(tb testing.TB, path, text string) {
	tb.Helper()
	require.NoError(tb, os.MkdirAll(filepath.Dir(path), 0o700))
	if strings.HasSuffix(path, ".gz") {
		f, err := os.Create(filepath.Clean(path))
		require.NoError(tb, err)
		z := gzip.NewWriter(f)
		_, err = z.Write([]byte(text))
		require.NoError(tb, err)
		require.NoError(tb, z.Close())
		require.NoError(tb, f.Close())
		return
	}
	require.NoError(tb, os.WriteFile(path, []byte(text), 0o600))
}

func open(tb testing.TB, dir string) *file.Source {
	tb.Helper()
	s, err := file.New(source.Config{Path: dir})
	require.NoError(tb, err)
	return s
}

func day(year, month int) market.Instant {
	return market.FromTime(time.Date(year, time.Month(month), 1, 0, 0, 0, 0, time.UTC))
}

func TestConformance(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, tf := range market.Timeframes() {
		for _, c := range []struct {
			base     string
			from, to market.Instant
		}{
			{"BTC", day(2015, 1), tf.Add(day(2024, 1), 300)}, {"NEW", day(2023, 6), day(2023, 7)}, {"OLD", day(2022, 5), day(2022, 6)},
		} {
			if c.base == "BTC" && tf <= market.H2 {
				c.from = max(c.from, tf.Add(day(2024, 1), -8200))
			}
			var text strings.Builder
			for _, b := range exchange.Truth(c.base, "USD", tf, market.Range{Start: c.from, End: c.to}) {
				fmt.Fprintf(&text, "%d,%v,%v,%v,%v,%v\n", int64(b.TS)/1e6, b.Open, b.High, b.Low, b.Close, b.Volume)
			}
			write(t, filepath.Join(dir, c.base+"USD", tf.String()+".csv"), text.String())
		}
	}
	sourcetest.Run(t, sourcetest.Subject{
		BTCUSD: "BTCUSD", NEWUSD: "NEWUSD", OLDUSD: "OLDUSD",
		New: func(tb testing.TB, _ source.Config) source.Source { tb.Helper(); return open(tb, dir) },
	})
}

func TestNamesAndTimes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "BTCUSD_1m_20240101_20240102.csv.gz"), "open_time,close,low,high,open,extra,volume\n2024-01-01 00:00:00+00:00,2,1,3,1.5,x,7\n")
	write(t, filepath.Join(dir, "BTCUSD_1m_20240102.csv"), "\xef\xbb\xbf\"Timestamp\",open,high,low,close,volume\r\n1704067260000,1,1,1,1,0\r\n1704067200,9,9,9,9,9\r\n")
	write(t, filepath.Join(dir, "XRP_ETH-1M.csv"), "2024-01-01T00:00:00Z,1,1,1,1,0\n")
	write(t, filepath.Join(dir, "ETHUSD", "1h.csv"), "1704067200000000,1,1,1,1,0\n")
	write(t, filepath.Join(dir, "notes.csv"), "hello\n")
	s := open(t, dir)
	list, err := s.Instruments(t.Context())
	require.NoError(t, err)
	start := market.Instant(1704067200 * 1e6)
	require.Equal(t, []source.Instrument{
		{VendorID: "BTCUSD", Symbol: "BTCUSD", Base: "BTC", Quote: "USD", Listed: start, Delisted: market.PosInf, Native: []market.Timeframe{market.M1}},
		{VendorID: "ETHUSD", Symbol: "ETHUSD", Base: "ETH", Quote: "USD", Listed: start, Delisted: market.PosInf, Native: []market.Timeframe{market.H1}},
		{VendorID: "XRPETH", Symbol: "XRPETH", Base: "XRP", Quote: "ETH", Listed: start, Delisted: market.PosInf, Native: []market.Timeframe{market.Mo1}},
	}, list)
	a, err := s.Fetch(t.Context(), source.Query{
		VendorID: "BTCUSD", Series: market.Series{Timeframe: market.M1}, Range: market.Range{Start: start, End: market.M1.Add(start, 10)},
	})
	require.NoError(t, err)
	require.Equal(t, []market.Bar{
		{TS: start, Open: 9, High: 9, Low: 9, Close: 9, Volume: 9},
		{TS: market.M1.Next(start), Open: 1, High: 1, Low: 1, Close: 1},
	}, a.Bars)
	_, err = s.Fetch(t.Context(), source.Query{
		VendorID: "XRPETH", Series: market.Series{Timeframe: market.H1}, Range: market.Range{Start: start, End: market.H1.Next(start)},
	})
	require.ErrorIs(t, err, source.ErrTimeframe)
	require.ErrorContains(t, err, "1M")
}

// A malformed row names file, line and field.
func TestMalformed(t *testing.T) {
	t.Parallel()
	start := market.Instant(1704067200 * 1e6)
	for text, want := range map[string]string{
		"1704067200,1,1,1,1,0\n1704067260,1,1,x,1,0\n":                     "BTCUSD_1m.csv:2: malformed row: low at 2024-01-01T00:01:00Z",
		"1704067201,1,1,1,1,0\n":                                           "BTCUSD_1m.csv:1: malformed row: time",
		"ts,open,high,low,close,volume\n1704067200,1,1,2,1,0\n":            "BTCUSD_1m.csv:2: malformed row: impossible bar",
		"ts,open,high,low,close\n":                                         "no column for volume",
		"1704067200,1,1\n":                                                 "low is missing",
		"ts,open,high,low,close,volume\n1704067200,1,1,1,1,0\nyes,1,1,1,1": "BTCUSD_1m.csv:3: malformed row: time",
		"1704067200,NaN,1,1,1,0\n":                                         "open",
	} {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "BTCUSD_1m.csv"), text)
		_, err := open(t, dir).Fetch(t.Context(), source.Query{
			VendorID: "BTCUSD", Series: market.Series{Timeframe: market.M1}, Range: market.Range{Start: start, End: market.M1.Next(start)},
		})
		require.ErrorIs(t, err, file.ErrRow)
		require.ErrorContains(t, err, want)
	}
}

func TestRecordings(t *testing.T) {
	t.Parallel()
	data := sourcetest.Recordings(t)
	for _, c := range []struct {
		folder, id string
		tf         market.Timeframe
		first      int64
		rows       int
	}{
		{"binanceus", "BTCUSDC", market.M1, 1677628800, 1440},
		{"kraken_archive", "BTCUSDC", market.M1, 1672531200, 0},
		{"freqtrade", "XRPETH", market.M5, 1570752000, 0},
		{"freqtrade", "ETHBTC", market.M5, 1515560100, 1440},
	} {
		s := open(t, filepath.Join(data, c.folder))
		list, err := s.Instruments(t.Context())
		require.NoError(t, err)
		for _, i := range list {
			require.False(t, i.Listed.IsInf(), i.Symbol)
		}
		start := market.Instant(c.first * 1e6)
		q := source.Query{
			VendorID: c.id, Series: market.Series{Symbol: "file:X", Timeframe: c.tf},
			Range: market.Range{Start: start, End: c.tf.Add(start, 1440)},
		}
		a, err := s.Fetch(t.Context(), q)
		require.NoError(t, err)
		require.Equal(t, start, a.Bars[0].TS)
		if c.rows > 0 {
			require.Len(t, a.Bars, c.rows)
		}
		for _, s := range source.Judge(s.Info(), q, a, &a).Segments {
			require.True(t, s.State == coverage.Final || s.State == coverage.Absent)
		}
	}
}

func fetchMinutes(t *testing.T, s *file.Source, n int64) (source.Answer, error) {
	t.Helper()
	start := market.Instant(1704067200 * 1e6)
	return s.Fetch(t.Context(), source.Query{
		VendorID: "BTCUSD", Series: market.Series{Timeframe: market.M1}, Range: market.Range{Start: start, End: market.M1.Add(start, n)},
	})
}

// A file that is cut short is an error that names it, not a shorter history.
func TestCutShort(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "BTCUSD_1m.csv.gz")
	var text strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&text, "%d,%d,%d,%d,%d,1\n", 1704067200+i*60, i*7919%997+1, i*7919%997+1, i*7919%997+1, i*7919%997+1)
	}
	write(t, path, text.String())
	_, err := fetchMinutes(t, open(t, dir), 10)
	require.NoError(t, err)
	whole, err := os.ReadFile(filepath.Clean(path))
	require.NoError(t, err)
	for _, size := range []int{0, 5, len(whole) / 2, len(whole) - 4} {
		require.NoError(t, os.WriteFile(path, whole[:size], 0o600))
		_, err = fetchMinutes(t, open(t, dir), 10)
		require.ErrorContains(t, err, "BTCUSD_1m.csv.gz", "%d bytes", size)
	}
	require.NoError(t, os.WriteFile(path, append(slices.Clone(whole[:len(whole)-8]), 0, 0, 0, 0, 0, 0, 0, 0), 0o600))
	_, err = fetchMinutes(t, open(t, dir), 10)
	require.ErrorIs(t, err, gzip.ErrChecksum)
}

// A file that changes is read anew; one that changes while it is read is an error that may be well the next time.
func TestChanged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "BTCUSD_1m.csv")
	write(t, path, "1704067200,1,1,1,1,0\n")
	s := open(t, dir)
	a, err := fetchMinutes(t, s, 10)
	require.NoError(t, err)
	require.Len(t, a.Bars, 1)
	write(t, path, "1704067200,1,1,1,1,0\n1704067260,1,1,1,1,0\n")
	a, err = fetchMinutes(t, s, 10)
	require.NoError(t, err)
	require.Len(t, a.Bars, 2)

	// A pipe's size is unknown, its reader waits for the writer: so a change falls into the reading.
	require.NoError(t, os.Remove(path))
	require.NoError(t, syscall.Mkfifo(path, 0o600))
	written := make(chan error, 1)
	go func() {
		pipe, err := os.OpenFile(filepath.Clean(path), os.O_WRONLY, 0)
		if err == nil {
			_, err = pipe.WriteString("1704067200,1,1,1,1,0\n1704067260,1,1,1,1,")
		}
		if err == nil {
			err = errors.Join(os.Chtimes(path, day(2020, 1).Time(), day(2020, 1).Time()), pipe.Close())
		}
		written <- err
	}()
	_, err = fetchMinutes(t, s, 10)
	require.NoError(t, <-written)
	require.ErrorIs(t, err, file.ErrChanged)
	again, _ := source.Retryable(err)
	require.True(t, again)
}

// The same weeks of one market at two exchanges: a dense one whose flat rows have no volume, and a sparse one.
func TestDenseAndSparse(t *testing.T) {
	t.Parallel()
	data := sourcetest.Recordings(t)
	read := func(folder string) map[market.Instant]market.Bar {
		s := open(t, filepath.Join(data, folder))
		first := market.FromTime(time.Date(2023, 3, 1, 0, 0, 0, 0, time.UTC))
		all := map[market.Instant]market.Bar{}
		for n := range int64(21) {
			a, err := s.Fetch(t.Context(), source.Query{
				VendorID: "BTCUSDC", Series: market.Series{Timeframe: market.M1},
				Range: market.Range{Start: market.D1.Add(first, n), End: market.D1.Add(first, n+1)},
			})
			require.NoError(t, err)
			for _, b := range a.Bars {
				all[b.TS] = b
			}
		}
		return all
	}
	dense, sparse := read("binanceus"), read("kraken_archive")
	require.Len(t, dense, 30240)
	require.Less(t, len(sparse), 30240)
	flat := 0
	for _, b := range dense {
		if b.Volume == 0 {
			flat++
			require.InDelta(t, b.Open, b.Close, 0)
		}
	}
	require.Equal(t, 12971, flat)
	for _, b := range sparse {
		require.Positive(t, b.Volume)
	}
}
