package main

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/internal/market"
)

// randomMarket writes a folder for the file source and returns what it holds. Prices and volumes are dyadic fractions,
// so that a sum does not depend on the order of its terms (DESIGN §13). GAP has holes.
func randomMarket(tb testing.TB, seed uint64) (dir string, bars map[market.Series][]market.Bar) {
	tb.Helper()
	dir = tb.TempDir()
	bars = map[market.Series][]market.Bar{}
	r := rand.New(rand.NewPCG(seed, 7))
	for i, name := range []string{"AAA", "BBB", "GAP"} {
		for _, span := range []struct {
			tf   market.Timeframe
			bars int64
		}{{market.M1, 36 * 60}, {market.H1, 30 * 24}, {market.D1, 200}} {
			series := market.Series{Symbol: market.Symbol("file:" + name), Timeframe: span.tf}
			start := market.FromTime(grammarStart)
			if span.tf != market.M1 {
				start = span.tf.Add(start, -span.bars/2)
			}
			price := float64(64 * (i + 1))
			for n := range span.bars {
				if name == "GAP" && r.IntN(10) < 4 {
					continue
				}
				b := market.Bar{TS: span.tf.Add(start, n), Open: price, Volume: float64(r.IntN(1024)) / 64}
				price += float64(r.IntN(65)-32) / 32
				b.Close = price
				b.High, b.Low = max(b.Open, b.Close)+float64(r.IntN(8))/32, min(b.Open, b.Close)-float64(r.IntN(8))/32
				bars[series] = append(bars[series], b)
			}
			writeBars(tb, filepath.Join(dir, name+"_"+span.tf.String()+".csv.gz"), bars[series])
		}
	}
	return dir, bars
}

func writeBars(tb testing.TB, path string, bars []market.Bar) {
	tb.Helper()
	file, err := os.Create(path)
	require.NoError(tb, err)
	zipped := gzip.NewWriter(file)
	_, err = io.WriteString(zipped, "ts,open,high,low,close,volume\n")
	require.NoError(tb, err)
	for _, b := range bars {
		_, err = fmt.Fprintf(zipped, "%s,%v,%v,%v,%v,%v\n", b.TS.Time().Format(time.RFC3339), b.Open, b.High, b.Low, b.Close, b.Volume)
		require.NoError(tb, err)
	}
	require.NoError(tb, zipped.Close())
	require.NoError(tb, file.Close())
}

// recordedRows is how much of a recording is compared: a day and a half of minutes.
const recordedRows = 36 * 60

// copyRecording copies the first rows of a recording, as they are, and returns them as bars.
func copyRecording(tb testing.TB, from, to string) []market.Bar {
	tb.Helper()
	in, err := os.Open(from)
	require.NoError(tb, err)
	defer in.Close()
	unzipped, err := gzip.NewReader(in)
	require.NoError(tb, err)
	out, err := os.Create(to)
	require.NoError(tb, err)
	zipped := gzip.NewWriter(out)
	var bars []market.Bar
	lines := bufio.NewScanner(unzipped)
	for n := 0; n <= recordedRows && lines.Scan(); n++ {
		_, err = io.WriteString(zipped, lines.Text()+"\n")
		require.NoError(tb, err)
		if n > 0 { // a header
			bars = append(bars, recordedBar(tb, strings.Split(lines.Text(), ",")))
		}
	}
	require.NoError(tb, lines.Err())
	require.NoError(tb, zipped.Close())
	require.NoError(tb, out.Close())
	require.NotEmpty(tb, bars)
	return bars
}

func recordedBar(tb testing.TB, cells []string) market.Bar {
	tb.Helper()
	var numbers [5]float64
	for i := range numbers {
		var err error
		numbers[i], err = strconv.ParseFloat(cells[i+1], 64)
		require.NoError(tb, err)
	}
	at, err := time.Parse("2006-01-02 15:04:05Z07:00", cells[0])
	if count, notNumber := strconv.ParseInt(cells[0], 10, 64); notNumber == nil {
		at, err = time.UnixMilli(count), nil
		if len(cells[0]) == len("1672531200") {
			at = time.Unix(count, 0)
		}
	}
	require.NoError(tb, err)
	return market.Bar{
		TS: market.FromTime(at), Open: numbers[0], High: numbers[1], Low: numbers[2], Close: numbers[3], Volume: numbers[4],
	}
}
