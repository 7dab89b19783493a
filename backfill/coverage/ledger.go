package coverage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"barkeep/internal/market"
)

// Ledger is the coverage of a stretch of one series inside a transaction that has locked the symbol: read, changed in
// memory by readings in the order they come, and written back (PIPELINE 3, 4). It is for one goroutine.
type Ledger struct {
	series market.Series
	stored []Segment // as read; ascending, disjoint
	list   []Segment // as it will be
	// revised is where a reading was entered, withdrawn where what is known was removed: bars that were rolled up from there
	// are not vouched for any more (PIPELINE 9).
	revised, withdrawn market.RangeSet
}

// NextGeneration is the SQL of a generation that barkeep.symbol AS s has never had: greater than the one before, and than any of before
// where the database was brought back from a backup, since it tells the time, in milliseconds. A generation that came a second
// time would let pages in that are still in the log from its first (PIPELINE 8, 11, 24).
const NextGeneration = "greatest(s.generation + 1, (extract(epoch FROM clock_timestamp()) * 1000)::bigint)"

// LockSymbols locks the rows of the symbols in barkeep.symbol, in order, as every writer of bars does first (PIPELINE 9),
// and returns the bindings found; a symbol without a row is not bound and not in the answer.
func LockSymbols(ctx context.Context, tx pgx.Tx, symbols []market.Symbol) (map[market.Symbol]Binding, error) {
	names := make([]string, len(symbols))
	for i, s := range symbols {
		names[i] = string(s)
	}
	slices.Sort(names)
	rows, err := tx.Query(ctx, `SELECT symbol, source, generation FROM barkeep.symbol WHERE symbol = ANY ($1)
	  ORDER BY symbol COLLATE "C" FOR UPDATE`, slices.Compact(names))
	if err != nil {
		return nil, fmt.Errorf("lock symbols: %w", err)
	}
	found := make(map[market.Symbol]Binding, len(names))
	var name string
	var b Binding
	_, err = pgx.ForEachRow(rows, []any{&name, &b.Source, &b.Generation}, func() error {
		found[market.Symbol(name)] = b
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("lock symbols: %w", err)
	}
	return found, nil
}

// Binding is which source serves a symbol, and under which generation (PIPELINE 8, 10).
type Binding struct {
	Source     string
	Generation int64
}

// ReadLedger reads the segments of series that overlap or touch the stretches; the caller has locked the symbol. What the caller enters lies in
// them. Where they are far from each other, what lies between them is not read: an instrument with holes has a hundred thousand segments.
func ReadLedger(ctx context.Context, tx pgx.Tx, series market.Series, stretches ...market.Range) (*Ledger, error) {
	var stored []Segment
	var row segmentRow
	batch := &pgx.Batch{}
	set := market.NewRangeSet(stretches...)
	if set.Empty() {
		return NewLedger(series, nil), nil
	}
	for _, r := range set {
		batch.Queue(readStretch, string(series.Symbol), series.Timeframe.String(), Timestamptz(r.Start), Timestamptz(r.End)).
			Query(func(rows pgx.Rows) error {
				_, err := pgx.ForEachRow(rows, row.targets(), func() error {
					s := row.segment()
					if last := len(stored) - 1; last < 0 || stored[last].Range.Start < s.Range.Start { // else it reaches from the stretch before to this one
						stored = append(stored, s)
					}
					return nil
				})
				return err
			})
	}
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return nil, fmt.Errorf("read coverage of %s: %w", series, err)
	}
	return NewLedger(series, stored), nil
}

// readStretch begins with the last segment that begins before the stretch: segments are disjoint, so none before that reaches it.
const readStretch = `SELECT timeframe, range_start, range_end, state, source, generation, fetched_at, reason, expires_at, retry_at, derived_from
  FROM barkeep.coverage
 WHERE symbol = $1 AND timeframe = $2 AND range_end >= $3 AND range_start <= $4 AND range_start >= coalesce((
    SELECT max(range_start) FROM barkeep.coverage WHERE symbol = $1 AND timeframe = $2 AND range_start < $3), '-infinity')
 ORDER BY range_start`

// NewLedger returns the ledger of series in which stored is known: ascending, disjoint segments, which it keeps.
func NewLedger(series market.Series, stored []Segment) *Ledger {
	return &Ledger{series: series, stored: stored, list: slices.Clone(stored)}
}

// Segments returns what is known after the changes so far, with neighbours merged as they are stored. The caller must not
// change it.
func (l *Ledger) Segments() []Segment {
	l.list = merge(l.list)
	return l.list
}

// Untouched reports whether nothing was known of any part of r when the ledger was read.
func (l *Ledger) Untouched(r market.Range) bool {
	k := first(l.stored, r.Start)
	return k == len(l.stored) || l.stored[k].Range.Start >= r.End
}

// Vouched returns where of r it was known for good which rows there are when the ledger was read, or until that was forgotten: what differs there
// is a revision. Provisional bars are expected to change.
func (l *Ledger) Vouched(r market.Range) market.RangeSet {
	var ranges []market.Range
	for _, s := range overlapping(l.stored, r) {
		if s.State.Settled() || s.Pending() {
			ranges = append(ranges, s.Range.Intersect(r))
		}
	}
	return market.NewRangeSet(ranges...)
}

// overlapping returns the segments of the list that overlap r.
func overlapping(list []Segment, r market.Range) []Segment {
	from := first(list, r.Start)
	to := from
	for to < len(list) && list[to].Range.Start < r.End {
		to++
	}
	return list[from:to]
}

// ReplaceAll enters the segments of a page as Replace does, in their order, and returns where each holds. A page of a source that tells each hole has hundreds,
// and there may be a hundred thousand before: only those that the page meets are looked at for each.
func (l *Ledger) ReplaceAll(segments []Segment) []market.RangeSet {
	if len(segments) == 0 {
		return nil
	}
	bounds := segments[0].Range
	for _, s := range segments {
		bounds = market.Range{Start: min(bounds.Start, s.Range.Start), End: max(bounds.End, s.Range.End)}
	}
	from, met := first(l.list, bounds.Start), overlapping(l.list, bounds)
	part := Ledger{series: l.series, list: slices.Clone(met)}
	holds := make([]market.RangeSet, len(segments))
	for i, s := range segments {
		holds[i] = part.Replace(s)
	}
	l.list = slices.Replace(l.list, from, from+len(met), part.list...)
	l.revised = l.revised.Union(part.revised)
	return holds
}

// Replace enters a reading and returns where it holds: its range, rounded inward, less what is known by the same or a
// newer reading (PIPELINE 4). Rows in the returned ranges are to be made those of the reading, but for an unavailable
// one, which tells nothing of rows and does not displace what is final or absent, in whatever order the two come: what is lent it renews
// (see the package comment).
func (l *Ledger) Replace(s Segment) market.RangeSet {
	s.Range = s.Range.Inward(l.series.Timeframe)
	if s.Range.Empty() {
		return nil
	}
	from := first(l.list, s.Range.Start)
	to := from
	var kept []Segment
	var stays []market.Range
	var renewed market.RangeSet
	for ; to < len(l.list) && l.list[to].Range.Start < s.Range.End; to++ {
		old := l.list[to]
		if old.outlasts(&s) {
			parts, again := old.renew(&s)
			kept = append(kept, parts...)
			stays = append(stays, old.Range)
			renewed = renewed.Union(again)
			continue
		}
		if left := old; left.Range.Start < s.Range.Start {
			left.Range.End = s.Range.Start
			kept = append(kept, left)
		}
		if right := old; right.Range.End > s.Range.End {
			right.Range.Start = s.Range.End
			kept = append(kept, right)
		}
	}
	applied := market.RangeSet{s.Range}.Subtract(market.NewRangeSet(stays...))
	if applied.Empty() && renewed.Empty() {
		return nil
	}
	displaced := l.list[from:to]
	for _, r := range applied {
		part := s
		part.Range = r
		if s.State == Unavailable {
			kept = append(kept, buried(part, displaced)...)
			continue
		}
		kept = append(kept, part)
	}
	sortSegments(kept)
	l.list = slices.Replace(l.list, from, to, kept...)
	if s.State != Unavailable {
		l.revised = l.revised.Union(applied)
	}
	return applied.Union(renewed)
}

// Withdraw removes what is known of r and reports whether there was anything: the bars become a gap (PIPELINE 7, 8). The
// parts outside r stay.
func (l *Ledger) Withdraw(r market.Range) bool {
	withdrawn := l.cut(r)
	l.withdrawn = l.withdrawn.Add(r)
	return withdrawn
}

// merge joins neighbours that say the same for good, retired ones whose rows are gone among them, keeping the newer fetched_at (PIPELINE 3).
func merge(list []Segment) []Segment {
	merged := list[:0]
	for _, s := range list {
		if last := len(merged) - 1; last >= 0 && mergeable(&merged[last], &s) {
			merged[last].Range.End = s.Range.End
			merged[last].FetchedAt = max(merged[last].FetchedAt, s.FetchedAt)
			continue
		}
		merged = append(merged, s)
	}
	return merged
}

func mergeable(a, b *Segment) bool {
	return a.Range.End == b.Range.Start && a.State == b.State && (a.State.Settled() || a.retired()) && a.Source == b.Source &&
		a.Generation == b.Generation && a.Reason == b.Reason && a.ExpiresAt == b.ExpiresAt && a.RetryAt == b.RetryAt &&
		a.DerivedFrom == b.DerivedFrom
}

// QueueLedgers adds the statements that store the changes of the ledgers to batch and reports whether there are any. The
// caller hands over all ledgers of a symbol at once, sends the batch in its transaction and announces the symbol with
// QueueVersion.
//
// What was rolled up from a stretch that a ledger changed is withdrawn with it, settled coverage where a newer reading was
// entered, all where coverage was removed; rolled up bars that are provisional say as of when they are, and stay so until
// that is too long ago. These statements come after those of all ledgers, since one of them may be that of the very series.
func QueueLedgers(batch *pgx.Batch, ledgers ...*Ledger) bool {
	changed := false
	for _, l := range ledgers {
		changed = l.queue(batch) || changed
	}
	for _, l := range ledgers {
		changed = l.queueDerived(batch, l.revised, Final, Absent) || changed
		changed = l.queueDerived(batch, l.withdrawn, Final, Absent, Provisional, Unavailable) || changed
	}
	return changed
}

// queueDerived withdraws what is known in the given states of bars that were rolled up from those of the ranges. It reports
// whether there could be any.
func (l *Ledger) queueDerived(batch *pgx.Batch, ranges market.RangeSet, states ...State) bool {
	queued := false
	for _, r := range ranges {
		var names []string
		var lows, highs []pgtype.Timestamptz
		for _, tf := range market.Timeframes() {
			if l.series.Timeframe.Divides(tf) {
				cut := r.Outward(tf)
				names, lows, highs = append(names, tf.String()), append(lows, Timestamptz(cut.Start)), append(highs, Timestamptz(cut.End))
			}
		}
		if len(names) == 0 {
			return false
		}
		batch.Queue(withdrawDerived, string(l.series.Symbol), l.series.Timeframe.String(), names, lows, highs, states)
		queued = true
	}
	return queued
}

// withdrawDerived cuts the stretches of $3 to $5, one of each timeframe, out of the segments that were derived from $2.
const withdrawDerived = `WITH gone AS (DELETE FROM barkeep.coverage c
    USING ROWS FROM (pg_catalog.unnest($3::text[]), pg_catalog.unnest($4::timestamptz[]), pg_catalog.unnest($5::timestamptz[]))
      AS cut (timeframe, low, high)
    WHERE c.symbol = $1 AND c.timeframe = cut.timeframe AND c.derived_from = $2 AND c.state = ANY ($6::int2[])
      AND c.range_start < cut.high AND c.range_end > cut.low
    RETURNING c.*, cut.low, cut.high)
  INSERT INTO barkeep.coverage (symbol, timeframe, range_start, range_end, state, source, generation, fetched_at, reason,
      expires_at, retry_at, derived_from)
  SELECT g.symbol, g.timeframe, rest.low, rest.high, g.state, g.source, g.generation, g.fetched_at, g.reason, g.expires_at,
      g.retry_at, g.derived_from
    FROM gone g CROSS JOIN LATERAL (VALUES (g.range_start, g.low), (g.high, g.range_end)) AS rest (low, high)
   WHERE rest.low < rest.high`

// queue adds the statements that store the changes of the series' own coverage. Neighbours merge only here: merged, they take
// the newer time of reading, and another reading of the same batch would be measured against that.
func (l *Ledger) queue(batch *pgx.Batch) bool {
	was := make(map[Segment]struct{}, len(l.stored))
	for _, s := range l.stored {
		was[s] = struct{}{}
	}
	var added []Segment
	for _, s := range l.Segments() {
		if _, same := was[s]; same {
			delete(was, s)
			continue
		}
		added = append(added, s)
	}
	if len(was) == 0 && len(added) == 0 {
		return false
	}
	symbol, timeframe := string(l.series.Symbol), l.series.Timeframe.String()
	if len(was) > 0 {
		starts := make([]pgtype.Timestamptz, 0, len(was))
		for s := range was {
			starts = append(starts, Timestamptz(s.Range.Start))
		}
		batch.Queue(`DELETE FROM barkeep.coverage WHERE symbol = $1 AND timeframe = $2 AND range_start = ANY ($3)`,
			symbol, timeframe, starts)
	}
	if len(added) > 0 {
		queueSegments(batch, symbol, timeframe, added)
	}
	return true
}

// queueSegments adds the statement that inserts the segments: one, since a batch of pages with holes has thousands.
func queueSegments(batch *pgx.Batch, symbol, timeframe string, segments []Segment) {
	n := len(segments)
	starts, ends, fetched := make([]pgtype.Timestamptz, n), make([]pgtype.Timestamptz, n), make([]pgtype.Timestamptz, n)
	expires, retries := make([]pgtype.Timestamptz, n), make([]pgtype.Timestamptz, n)
	states, generations := make([]int16, n), make([]int64, n)
	sources, reasons, bases := make([]string, n), make([]string, n), make([]string, n)
	for i := range segments {
		s := &segments[i]
		starts[i], ends[i], fetched[i] = Timestamptz(s.Range.Start), Timestamptz(s.Range.End), Timestamptz(s.FetchedAt)
		expires[i], retries[i] = optional(s.ExpiresAt), optional(s.RetryAt)
		states[i], generations[i] = int16(s.State), s.Generation
		sources[i], reasons[i], bases[i] = s.Source, s.Reason, derivedFrom(s.DerivedFrom)
	}
	batch.Queue(`INSERT INTO barkeep.coverage (symbol, timeframe, range_start, range_end, state, source, generation,
	    fetched_at, reason, expires_at, retry_at, derived_from)
	  SELECT $1, $2, n.* FROM ROWS FROM (pg_catalog.unnest($3::timestamptz[]), pg_catalog.unnest($4::timestamptz[]),
	    pg_catalog.unnest($5::int2[]), pg_catalog.unnest($6::text[]), pg_catalog.unnest($7::int8[]), pg_catalog.unnest($8::timestamptz[]),
	    pg_catalog.unnest($9::text[]), pg_catalog.unnest($10::timestamptz[]), pg_catalog.unnest($11::timestamptz[]),
	    pg_catalog.unnest($12::text[])) AS n`,
		symbol, timeframe, starts, ends, states, sources, generations, fetched, reasons, expires, retries, bases)
}

// derivedFrom is how the base is stored: by its name, or nothing.
func derivedFrom(base market.Timeframe) string {
	if !base.Valid() {
		return ""
	}
	return base.String()
}

// QueueVersion adds to batch the statement that counts a change of the symbol's coverage and announces it; the
// notification is delivered with the commit.
func QueueVersion(batch *pgx.Batch, symbol market.Symbol) {
	batch.Queue(`WITH bumped AS (UPDATE barkeep.symbol SET version = version + 1 WHERE symbol = $1 RETURNING symbol, version)
	  SELECT pg_catalog.pg_notify(`+quoted(Channel)+`, symbol || ' ' || version) FROM bumped`, string(symbol))
}

func quoted(text string) string { return "'" + text + "'" }

// Apply enters segments into the coverage of series inside the caller's transaction: it locks the symbol, replaces (see
// Ledger.Replace) and announces. It writes no bars. It returns ErrUnbound, wrapped, where the symbol has no row.
func Apply(ctx context.Context, tx pgx.Tx, series market.Series, segments ...Segment) error {
	return change(ctx, tx, series, func(l *Ledger) {
		for _, s := range segments {
			l.Replace(s)
		}
	})
}

// Withdraw removes what is known of the ranges of series inside the caller's transaction, and announces it. Rows are left:
// they may be deleted when no index can still vouch for them, after lease and removal grace (PIPELINE 7).
func Withdraw(ctx context.Context, tx pgx.Tx, series market.Series, ranges market.RangeSet) error {
	return change(ctx, tx, series, func(l *Ledger) {
		for _, r := range ranges {
			l.Withdraw(r)
		}
	})
}

func change(ctx context.Context, tx pgx.Tx, series market.Series, with func(*Ledger)) error {
	bound, err := LockSymbols(ctx, tx, []market.Symbol{series.Symbol})
	if err != nil {
		return err
	}
	if _, found := bound[series.Symbol]; !found {
		return fmt.Errorf("%w: %s", ErrUnbound, strconv.Quote(string(series.Symbol)))
	}
	ledger, err := ReadLedger(ctx, tx, series, market.Always)
	if err != nil {
		return err
	}
	with(ledger)
	batch := &pgx.Batch{}
	if !QueueLedgers(batch, ledger) {
		return nil
	}
	QueueVersion(batch, series.Symbol)
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("write coverage of %s: %w", series, err)
	}
	return nil
}

// ErrUnbound is returned, wrapped, for a symbol without a row in barkeep.symbol.
var ErrUnbound = errors.New("symbol is not bound to a source")
