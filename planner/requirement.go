package planner

import (
	"slices"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"

	"barkeep/internal/market"
)

// reading is what one scan reads.
type reading struct {
	scan  *scan
	rows  region // may be read
	loose region // may be read, but is not certain to pass every filter
	// vague says, by the number of the column, that a constant which bounds it was not evaluated exactly enough to do so.
	vague [3]bool
	// culprit is such a constant.
	culprit [3]*pg.Node
	// unseen says that a constant that is compared with symbol was not evaluated; resolved that the symbols are those that the
	// database found among all there may be, and failure why it found none.
	unseen, resolved bool
	failure          string
	// byItem holds the readings of the whole statement.
	byItem    map[*item][]*reading
	evaluator *evaluator
	// box, times and words are where rows and its sides are made, of one box at most.
	box   [1]box
	times [1]market.Range
	words [2]string
	used  int
}

// word returns a list of one name.
func (r *reading) word(text string) []string {
	if r.used == len(r.words) {
		return []string{text}
	}
	r.words[r.used] = text
	r.used++
	return r.words[r.used-1 : r.used : r.used]
}

// scans turns the scans of a statement into needs (PLANNER 17 and 18).
func (x *binding) scans(s *statement, e *evaluator, first *reading) {
	refusal, reasons, warnings, pending := x.plan.Refusal, len(x.plan.Reasons), len(x.plan.Warnings), x.data.pending
	x.data.unasked = ""
	defer func() {
		if x.data.pending > pending { // what follows from not knowing them
			x.plan.Refusal, x.plan.Reasons, x.plan.Warnings = refusal, x.plan.Reasons[:reasons], x.plan.Warnings[:warnings]
		}
	}()
	readings := make([]*reading, 0, 4)
	for _, sc := range s.scans {
		if x.env.Hidden && sc.item.bare {
			continue
		}
		r := first
		if r == nil {
			r = new(reading)
		}
		first = nil
		x.read(r, sc, e)
		if len(r.rows) == 0 || r.nothing(e) {
			continue
		}
		readings = append(readings, r)
	}
	readings = travelled(readings, e)
	if !x.stored && x.data.pending == pending && slices.ContainsFunc(readings, func(r *reading) bool { return r.scan.asks || r.scan.names && r.rows.openSymbols() }) {
		x.resolve(s, readings, e)
		readings = travelled(readings, e)
	}
	unbounded, failure := 0, ""
	for _, r := range readings {
		if r.rows.openSymbols() {
			unbounded++
			failure = r.failure
		}
	}
	if unbounded > 0 {
		if mentions, _ := s.symbolic(); unbounded == len(readings) && !mentions {
			x.unbounded()
			return
		}
		x.noSymbol(failure)
	}
	for _, r := range readings {
		if !x.tooMany(r) {
			x.require(r, e)
		}
	}
}

// travelled returns the readings that are left when bounds have travelled between them.
func travelled(readings []*reading, e *evaluator) []*reading {
	travel(readings, e)
	return slices.DeleteFunc(readings, func(r *reading) bool { return len(r.rows) == 0 })
}

// read bounds one scan.
func (x *binding) read(r *reading, sc *scan, e *evaluator) {
	r.scan = sc
	b := &bounder{evaluator: e, scan: sc.item, reading: r}
	r.rows, r.loose = b.conditions(sc)
	r.unseen = b.unseen
}

// conditions returns the rows of the scan that may pass its conditions, and those that are not certain to, of which only a LIMIT
// needs to know.
func (b *bounder) conditions(sc *scan) (rows, loose region) {
	plain := plainBox{everyName(), everyName(), market.Always}
	var narrowed [64]bool // the others are bounded once more, which changes nothing
	for i, q := range sc.quals {
		if b.narrow(&plain, q) && i < len(narrowed) {
			narrowed[i] = true
		}
	}
	rows = plain.region(b.reading)
	for i, q := range sc.quals {
		if i < len(narrowed) && narrowed[i] {
			continue
		}
		counts := sc.limit != nil && !sc.linked(q)
		want := mayTrue
		if counts {
			want = mayAny
		}
		t := b.bound(q, want)
		rows = rows.intersect(t.t)
		if counts {
			loose = loose.union(t.f).union(t.n)
		}
	}
	return rows, loose
}

// nothing reports whether the scan's LIMIT is zero.
func (r *reading) nothing(e *evaluator) bool {
	if r.scan.limit == nil || r.scan.item.sampled {
		return false
	}
	n, ok := e.rowCount(r.scan.limit)
	return ok && n == 0
}

func (r region) openSymbols() bool {
	return slices.ContainsFunc(r, func(b box) bool { return b.symbols.except })
}

// openTimes reports whether the region has no first or no last instant.
func (r region) openTimes() bool {
	return slices.ContainsFunc(r, func(b box) bool {
		bounds := b.ts.Bounds()
		return bounds.Start == market.NegInf || bounds.End == market.PosInf
	})
}

func (x *binding) unbounded() {
	if strings.EqualFold(x.env.Unbounded, "error") && !x.lenient() {
		r := refuse("the statement reads ohlcv without a condition on symbol")
		r.Hint = "Name a symbol (barkeep.symbols lists them), or set barkeep.unbounded to stored."
		x.unplanned(ReasonNoSymbol, r)
		return
	}
	x.reason(ReasonNoSymbol, "no condition on symbol")
	x.warn("barkeep: no condition on symbol: the answer is from the bars that are stored; barkeep.symbols lists what there is")
}

func (x *binding) noSymbol(failure string) {
	r := refuse("cannot tell which symbols the statement reads")
	switch {
	case x.data.unasked != "":
		r.Message += ": they come from " + x.data.unasked
	case failure != "":
		r.Message += ": " + failure
	}
	r.Hint = "Compare symbol with constants (symbol = 'BTCUSD', symbol IN (…), symbol LIKE 'binance:BTC%') wherever ohlcv is read; barkeep.symbols lists them."
	x.unplanned(ReasonNoSymbol, r)
}

// require adds what a scan reads to the needs.
func (x *binding) require(r *reading, e *evaluator) {
	var open []box
	for _, b := range r.rows {
		switch {
		case b.symbols.except:
		case b.timeframes.except:
			open = append(open, b)
		default:
			x.requireBox(r, b, e)
		}
	}
	if len(open) > 0 {
		refusal := refuse("the statement names no timeframe for " + open[0].symbols.list[0])
		refusal.Hint = "Add timeframe = '…', one of " + market.TimeframeNames() + "."
		x.unplanned(ReasonNoTimeframe, refusal)
	}
	if slices.ContainsFunc(r.rows, func(b box) bool { return b.hull }) {
		x.reason(ReasonBoxes, "its conditions have more alternatives than are kept apart")
	}
	if !r.rows.openTimes() {
		return
	}
	if r.vague[columnNumber(colTS)] {
		x.reasonAt(ReasonNotConstant, "a bound of ts is not a constant that can be evaluated", r.culprit[columnNumber(colTS)])
		return
	}
	for _, q := range r.scan.quals {
		if node := q.obscure(); node != nil {
			x.reasonAt(ReasonNoTimeBound, "a condition on ts is not one that bounds it", node)
		}
	}
}

func (x *binding) requireBox(r *reading, b box, e *evaluator) {
	for _, symbol := range b.symbols.list {
		if _, err := market.ParseSymbol(symbol); err != nil {
			x.unknownValue(err.Error(), "barkeep.symbols lists the symbols.")
			continue
		}
		for _, name := range b.timeframes.list {
			tf, err := market.ParseTimeframe(name)
			if err != nil {
				x.unknownValue(err.Error(), "Timeframes are "+market.TimeframeNames()+".")
				continue
			}
			x.requireSeries(r, b, market.Series{Symbol: market.Symbol(symbol), Timeframe: tf}, e)
		}
	}
}

func (x *binding) unknownValue(message, hint string) {
	if x.plan.Refusal == nil {
		x.plan.Refusal = &Refusal{SQLState: "22023", Message: "barkeep: " + message, Hint: hint}
	}
}

func (x *binding) requireSeries(r *reading, b box, series market.Series, e *evaluator) {
	if x.stored {
		return
	}
	n := x.needs.of(series)
	ranges, counts := b.ts, []market.Count(nil)
	if r.scan.limit != nil && !r.scan.item.sampled {
		ranges, counts = r.newest(b.ts, series, e)
	}
	if len(n.ranges) == 0 {
		n.ranges = ranges
	} else {
		n.ranges = n.ranges.Union(ranges)
	}
	for _, c := range counts {
		if !slices.Contains(n.counts, c) {
			n.counts = append(n.counts, c)
		}
	}
}

// maxCountRanges bounds the ranges of a series that are read from an end.
const maxCountRanges = 8

// newest splits what is read under a LIMIT: bars that are certain to pass the filters count, and at most so many of
// them are read from the end that ORDER BY begins with; all others are needed (PLANNER 17).
func (r *reading) newest(ts market.RangeSet, series market.Series, e *evaluator) (market.RangeSet, []market.Count) {
	n, ok := e.rowCount(r.scan.limit)
	wanted, sorted := r.scan.limit.order(r)
	if !ok || !sorted {
		return ts, nil
	}
	ts, near, ok := r.meet(ts, wanted)
	if !ok {
		return ts, nil
	}
	certain := ts.Subtract(r.loose.times(string(series.Symbol), series.Timeframe.String())).Subtract(near)
	if len(certain) > maxCountRanges || n == 0 {
		return ts, nil
	}
	counts := make([]market.Count, 0, len(certain))
	for _, c := range certain {
		within := market.Range{Start: series.Timeframe.Ceil(c.Start), End: series.Timeframe.Ceil(c.End)}
		if within.Empty() {
			continue
		}
		if wanted.last {
			counts = append(counts, market.Count{N: n, Within: within, Newest: true})
		}
		if wanted.first {
			counts = append(counts, market.Count{N: n, Within: within})
		}
	}
	return ts.Subtract(certain), counts
}

// meet returns what of ts an asof join may read, and the part near the other side's rows, all of which is needed: of what lies
// beyond, n bars from there (PLANNER 17). It is false where a link does not agree with the LIMIT's order.
func (r *reading) meet(ts market.RangeSet, wanted ends) (reach, near market.RangeSet, ok bool) {
	for _, l := range r.scan.links {
		if !l.leads() {
			continue
		}
		from, known := r.other(l)
		if up := l.op == "<" || l.op == "<="; !known || wanted.last != up || wanted.first == up {
			return ts, nil, false
		}
		if from.ts.Empty() {
			return nil, nil, true
		}
		ts = ts.Intersect(compareRange(l.op, from.ts))
		near = near.Union(market.RangeSet{from.ts.Bounds()})
	}
	return ts, near, true
}

// linked reports whether a condition is a link that meet and travel deal with.
func (sc *scan) linked(q *pred) bool {
	return slices.ContainsFunc(sc.links, func(l link) bool { return l.by == q && (l.leads() || l.picks()) })
}

// order reports from which end of a series the LIMIT's rows come; false where that is neither.
func (l *limit) order(r *reading) (wanted ends, ok bool) {
	switch {
	case l.ends != ends{}:
		return l.ends, true
	case len(l.keys) == 0:
		return ends{last: true}, true // any bars are a right answer
	}
	for _, k := range l.keys {
		col, known := k.by.of(r.scan.item)
		switch {
		case !known || k.by.cast != 0:
			return ends{}, false
		case col == colTS:
			return ends{first: !k.desc, last: k.desc}, true
		case col == colSymbol && !l.perSeries && !r.one(func(b box) names { return b.symbols }):
			return ends{}, false
		case col == colTimeframe && !l.perSeries && !r.one(func(b box) names { return b.timeframes }):
			return ends{}, false
		case col != colSymbol && col != colTimeframe:
			return ends{}, false
		}
	}
	return ends{}, false
}

// one reports whether all rows have the same single name.
func (r *reading) one(side func(box) names) bool {
	first := side(r.rows[0])
	for _, b := range r.rows {
		if n := side(b); n.except || len(n.list) != 1 || n.list[0] != first.list[0] {
			return false
		}
	}
	return true
}

// rowCount returns LIMIT + OFFSET; false where there is no limit or it is not known.
func (e *evaluator) rowCount(l *limit) (int64, bool) {
	const most = 1 << 40
	count := e.convert(e.eval(l.count), kindInt)
	if count.kind != kindInt || count.null || count.n < 0 || count.n > most {
		return 0, false
	}
	if l.offset == nil {
		return count.n, true
	}
	offset := e.convert(e.eval(l.offset), kindInt)
	switch {
	case offset.kind != kindInt || offset.n < 0 || offset.n > most:
		return 0, false
	case offset.null || count.n == 0:
		return count.n, true
	}
	return count.n + offset.n, true
}
