// Package file serves bars from a folder of CSV and Parquet files, the offline source. It is served only by its prefix, file:BTCUSD.
//
// A file's name says what it holds; the first of these patterns that fits counts:
//
//	<SYMBOL>/<tf>.csv                 BTCUSD/1m.csv
//	<SYMBOL>_<tf>.csv                 BTCUSD_1m.csv, XRP_ETH_5m.csv
//	<SYMBOL>-<tf>.csv                 XRP_ETH-5m.csv
//	<SYMBOL>_<tf>_<anything>.csv      BTCUSD_1m_20230301_20230321.csv
//
// each also as .csv.gz, .csv.zst or .parquet; <tf> is a timeframe as barkeep writes it (1m is the minute, 1M the month). "_", "-" and "/" are
// taken out of <SYMBOL>: XRP_ETH is listed as XRPETH. Files of one symbol and timeframe are read together, in the order of
// their names, Parquet after CSV; of rows with one time the last wins. Other files are left alone.
//
// The columns are time, open, high, low, close and volume in this order, or as a header names them: time, timestamp, date,
// ts, open_time or unix; volume or volume_base. Further columns are left alone. Time is whole seconds, milliseconds,
// microseconds or nanoseconds since the epoch (told apart by their size), or RFC 3339, whose zone may be missing and is then
// UTC. A row that does not parse, lies off the grid or cannot be a bar is an error that names file, line and field.
//
// A Parquet file has columns of these names. Its time is a timestamp of any unit (one without a zone is in UTC), a date, or
// what a CSV file may have, as a number or a text; the others are floating, whole or decimal numbers, or text. Row groups whose
// statistics say that they hold nothing of the page asked for are not read.
//
// The files are the whole truth: what they do not hold is absent. Where a file has grown, what was found absent has to be
// forgotten before its new rows are seen.
package file

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgerrcode"

	"barkeep/backfill/source"
	"barkeep/internal/market"
)

const (
	// Name is the source's name.
	Name = "file"
	// pageLimit is what a record can hold (PIPELINE 14).
	pageLimit = 8192
	// cachedBars bounds what is kept parsed, beside the series in use.
	cachedBars = 1 << 20
)

var namePattern = regexp.MustCompile(`^(.+?)[_-](\d+[mhdwM])(?:[_-].*)?\.(?:csv(?:\.gz|\.zst)?|parquet)$`) //nolint:gochecknoglobals // a constant

// innerPattern is that of a file in the folder of its symbol.
var innerPattern = regexp.MustCompile(`^(\d+[mhdwM])\.(?:csv(?:\.gz|\.zst)?|parquet)$`) //nolint:gochecknoglobals // a constant

// Source is a folder. It is safe for concurrent use.
type Source struct {
	dir  string
	info source.Info
	now  func() time.Time

	mu sync.Mutex
	// cache holds what was parsed, guarded by mu; used counts its uses.
	cache map[part]*parsed
	used  int
}

// part is what is kept at a time: all CSV files of a series, or one row group of a Parquet file.
type part struct {
	series market.Series
	path   string
	group  int
}

// parsed is a part as it was when its files had the stamp.
type parsed struct {
	stamp string
	bars  []market.Bar
	used  int
}

// New returns the source of the folder c.Path, which must exist.
func New(c source.Config) (*Source, error) {
	if stat, err := os.Stat(c.Path); err != nil {
		return nil, fmt.Errorf("path: %w", err)
	} else if !stat.IsDir() {
		return nil, fmt.Errorf("path: %s is not a folder", c.Path)
	}
	now := c.Now
	if now == nil {
		now = time.Now
	}
	return &Source{dir: c.Path, now: now, cache: map[part]*parsed{}, info: source.Info{
		Native: market.Timeframes(), PageLimit: pageLimit, PrefixOnly: true, Local: true, Earliest: 0,
		Finality: source.Lag{Default: c.FinalityLag}, Absence: source.Lag{Default: c.AbsenceLag},
	}}, nil
}

// Name returns "file".
func (*Source) Name() string { return Name }

// Info declares all timeframes; which of them a symbol has, its files decide (source.Instrument).
func (s *Source) Info() source.Info { return s.info }

// scan returns the files of each series, by vendor id, which is the symbol without separators.
func (s *Source) scan() (map[market.Series][]string, map[string]string, error) {
	files, written := map[market.Series][]string{}, map[string]string{}
	add := func(name, timeframe, path string) {
		tf, err := market.ParseTimeframe(timeframe)
		symbol := strings.NewReplacer("_", "", "-", "", "/", "").Replace(name)
		if _, bad := market.ParseSymbol(symbol); err != nil || bad != nil {
			return
		}
		key := market.Series{Symbol: market.Symbol(symbol), Timeframe: tf}
		files[key] = append(files[key], path)
		if old, found := written[symbol]; !found || len(name) > len(old) {
			written[symbol] = name
		}
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, nil, fmt.Errorf("read folder: %w", err)
	}
	for _, entry := range entries {
		path := filepath.Join(s.dir, entry.Name())
		if !entry.IsDir() {
			if m := namePattern.FindStringSubmatch(entry.Name()); m != nil {
				add(m[1], m[2], path)
			}
			continue
		}
		inner, err := os.ReadDir(path)
		if err != nil {
			return nil, nil, fmt.Errorf("read folder: %w", err)
		}
		for _, file := range inner {
			if m := innerPattern.FindStringSubmatch(file.Name()); m != nil && !file.IsDir() {
				add(entry.Name(), m[1], filepath.Join(path, file.Name()))
			}
		}
	}
	return files, written, nil
}

// Instruments lists the symbols that have a file, each listed at its first bar. A file that cannot be read leaves the
// listing unknown: Fetch tells why.
func (s *Source) Instruments(ctx context.Context) ([]source.Instrument, error) {
	files, written, err := s.scan()
	if err != nil {
		return nil, &source.Error{Source: Name, Op: "list instruments", Err: err, Again: true}
	}
	listed := map[market.Symbol]market.Instant{}
	for _, tf := range slices.Backward(market.Timeframes()) {
		for series, paths := range files {
			if series.Timeframe != tf {
				continue
			}
			if err := ctx.Err(); err != nil {
				return nil, &source.Error{Source: Name, Op: "list instruments", Err: err}
			}
			if _, found := listed[series.Symbol]; !found {
				listed[series.Symbol] = market.PosInf
			}
			first, err := s.first(series, paths)
			if err != nil || first.IsInf() {
				listed[series.Symbol] = market.NegInf
				continue
			}
			// A finer first bar inside the coarser one is the nearer answer.
			if known := listed[series.Symbol]; first < known || first < coarser(files, series).Next(known) {
				listed[series.Symbol] = first
			}
		}
	}
	list := make([]source.Instrument, 0, len(listed))
	for symbol, first := range listed {
		base, quote := split(written[string(symbol)], string(symbol))
		native := timeframesOf(files, symbol)
		if len(native) == len(s.info.Native) {
			native = nil
		}
		list = append(list, source.Instrument{
			VendorID: string(symbol), Symbol: string(symbol), Base: base, Quote: quote, Listed: first, Delisted: market.PosInf,
			Native: native,
		})
	}
	slices.SortFunc(list, func(a, b source.Instrument) int { return strings.Compare(a.Symbol, b.Symbol) })
	return list, nil
}

// coarser returns the next longer timeframe that a symbol has, or its own.
func coarser(files map[market.Series][]string, series market.Series) market.Timeframe {
	for tf := series.Timeframe + 1; tf.Valid(); tf++ {
		if len(files[market.Series{Symbol: series.Symbol, Timeframe: tf}]) > 0 {
			return tf
		}
	}
	return series.Timeframe
}

// split finds base and quote: at the separator that the file's name has, else before a usual quote currency.
func split(written, symbol string) (base, quote string) {
	if i := strings.LastIndexAny(written, "_-/"); i > 0 && i < len(written)-1 {
		return written[:i], written[i+1:]
	}
	for _, quote := range []string{"USDT", "USDC", "USD", "EUR", "GBP", "JPY", "BTC", "ETH"} {
		if base, found := strings.CutSuffix(symbol, quote); found && base != "" {
			return base, quote
		}
	}
	return symbol, ""
}

// Fetch reads the series' files, or what is kept of them while they have not changed, and cuts the page out.
func (s *Source) Fetch(ctx context.Context, q source.Query) (source.Answer, error) {
	if err := s.info.Check(Name, &q); err != nil {
		return source.Answer{}, err
	}
	op := "fetch " + q.VendorID + " " + q.Series.Timeframe.String()
	fail := func(err error) (source.Answer, error) {
		return source.Answer{}, &source.Error{Source: Name, Op: op, Err: err, Again: errors.Is(err, ErrChanged)}
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	sent := market.FromTime(s.now())
	files, _, err := s.scan()
	if err != nil {
		return fail(err)
	}
	series := market.Series{Symbol: market.Symbol(q.VendorID), Timeframe: q.Series.Timeframe}
	paths := files[series]
	if len(paths) == 0 {
		return source.Answer{}, s.notThere(op, series, files)
	}
	bars, err := s.read(series, paths, market.Range{Start: q.Range.Start, End: max(min(q.Range.End, sent), q.Range.Start)})
	if err != nil {
		return fail(err)
	}
	return source.Answer{Sent: sent, Bars: bars}, nil
}

// read returns the bars of a series that open inside r, ascending and distinct; the caller owns them.
func (s *Source) read(series market.Series, paths []string, r market.Range) ([]market.Bar, error) {
	csv, parquet := byFormat(paths)
	all, err := s.load(series, csv)
	if err != nil {
		return nil, err
	}
	bars := slices.Clone(within(all, r))
	for _, path := range parquet {
		more, err := s.loadParquet(path, series.Timeframe, r)
		if err != nil {
			return nil, err
		}
		bars = append(bars, more...)
	}
	return distinct(bars), nil
}

// first returns the open of a series' first bar, market.PosInf where it has none.
func (s *Source) first(series market.Series, paths []string) (market.Instant, error) {
	csv, parquet := byFormat(paths)
	all, err := s.load(series, csv)
	if err != nil {
		return market.PosInf, err
	}
	first := market.PosInf
	if len(all) > 0 {
		first = all[0].TS
	}
	for _, path := range parquet {
		begins, err := s.firstOfParquet(path, series.Timeframe)
		if err != nil {
			return market.PosInf, err
		}
		first = min(first, begins)
	}
	return first, nil
}

// byFormat parts the CSV files from the Parquet files.
func byFormat(paths []string) (csv, parquet []string) {
	for _, path := range paths {
		if filepath.Ext(path) == ".parquet" {
			parquet = append(parquet, path)
		} else {
			csv = append(csv, path)
		}
	}
	return csv, parquet
}

// within returns those of ascending bars that open inside r.
func within(bars []market.Bar, r market.Range) []market.Bar {
	from := search(bars, r.Start)
	return bars[from:max(from, search(bars, r.End))]
}

// search returns the index of the first bar at or after at.
func search(bars []market.Bar, at market.Instant) int {
	i, _ := slices.BinarySearchFunc(bars, at, func(b market.Bar, at market.Instant) int {
		switch {
		case b.TS < at:
			return -1
		case b.TS > at:
			return 1
		}
		return 0
	})
	return i
}

// notThere tells an unknown symbol from one that has other timeframes.
func (s *Source) notThere(op string, series market.Series, files map[market.Series][]string) error {
	has := timeframesOf(files, series.Symbol)
	if len(has) == 0 {
		return source.UnknownInstrument(Name, string(series.Symbol))
	}
	return &source.Error{
		Source: Name, Op: op, Code: pgerrcode.FeatureNotSupported,
		Err: fmt.Errorf("%w: it has %s", source.ErrTimeframe, (&source.Info{Native: has}).NativeNames()),
	}
}

// timeframesOf returns those of which the symbol has files, shortest first.
func timeframesOf(files map[market.Series][]string, symbol market.Symbol) (has []market.Timeframe) {
	for _, tf := range market.Timeframes() {
		if len(files[market.Series{Symbol: symbol, Timeframe: tf}]) > 0 {
			has = append(has, tf)
		}
	}
	return has
}

// load returns the bars of a series' CSV files, ascending and distinct. The slice is shared: callers do not change it.
func (s *Source) load(series market.Series, paths []string) ([]market.Bar, error) {
	if len(paths) == 0 {
		return nil, nil
	}
	stamp, err := stampOf(paths)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if bars, found := s.keptLocked(part{series: series}, stamp); found {
		return bars, nil
	}
	var all []market.Bar
	for _, path := range paths {
		bars, err := readCSV(path, series.Timeframe)
		// A file that is written meanwhile may have been read half: a number that is cut is a number too.
		if after, gone := stampOf(paths); gone != nil || after != stamp {
			return nil, fmt.Errorf("read file %s: %w", path, errors.Join(ErrChanged, gone))
		}
		if err != nil {
			return nil, err
		}
		all = append(all, bars...)
	}
	all = distinct(all)
	s.keepLocked(part{series: series}, stamp, all)
	return all, nil
}

// keptLocked returns what is kept of a part, where it is as its files are now; s.mu is held.
func (s *Source) keptLocked(of part, stamp string) (bars []market.Bar, found bool) {
	s.used++
	p := s.cache[of]
	if p == nil || p.stamp != stamp {
		return nil, false
	}
	p.used = s.used
	return p.bars, true
}

// keepLocked keeps a part, in the place of others where there are too many; s.mu is held.
func (s *Source) keepLocked(of part, stamp string, bars []market.Bar) {
	s.cache[of] = &parsed{stamp: stamp, bars: bars, used: s.used}
	s.evict()
}

// stampOf says of what size and age files are.
func stampOf(paths []string) (string, error) {
	var stamp strings.Builder
	for _, path := range paths {
		stat, err := os.Stat(path)
		if err != nil {
			return "", fmt.Errorf("read file: %w", err)
		}
		fmt.Fprintf(&stamp, "%s %d %d\n", path, stat.Size(), stat.ModTime().UnixNano())
	}
	return stamp.String(), nil
}

// evict drops the parts that were not used for longest, all but the newest.
func (s *Source) evict() {
	for len(s.cache) > 1 {
		total := 0
		var oldest part
		least := s.used + 1
		for of, p := range s.cache {
			total += len(p.bars)
			if p.used < least {
				oldest, least = of, p.used
			}
		}
		if total <= cachedBars {
			return
		}
		delete(s.cache, oldest)
	}
}

// distinct sorts bars; of those with one time the last wins.
func distinct(bars []market.Bar) []market.Bar {
	byTime := func(a, b market.Bar) int {
		switch {
		case a.TS < b.TS:
			return -1
		case a.TS > b.TS:
			return 1
		}
		return 0
	}
	if !slices.IsSortedFunc(bars, byTime) {
		slices.SortStableFunc(bars, byTime)
	}
	kept := bars[:0]
	for _, b := range bars {
		if n := len(kept); n > 0 && kept[n-1].TS == b.TS {
			kept[n-1] = b
			continue
		}
		kept = append(kept, b)
	}
	return kept
}

// ErrChanged is the error of a file that was written while it was read. It may be well the next time.
var ErrChanged = errors.New("changed while it was read")

// ErrRow is what a malformed row's error wraps, beside what is wrong with it.
var ErrRow = errors.New("malformed row")
