package coverage

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"barkeep/internal/market"
	"barkeep/internal/schema"
)

// querier is what reads: a pool, a connection or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// Instant returns a timestamptz as an instant, zero for NULL.
func Instant(t pgtype.Timestamptz) market.Instant {
	switch {
	case !t.Valid:
		return 0
	case t.InfinityModifier == pgtype.Infinity:
		return market.PosInf
	case t.InfinityModifier == pgtype.NegativeInfinity:
		return market.NegInf
	}
	return market.FromTime(t.Time)
}

// Timestamptz returns i as a parameter for PostgreSQL, infinities included.
func Timestamptz(i market.Instant) pgtype.Timestamptz {
	switch i {
	case market.PosInf:
		return pgtype.Timestamptz{Valid: true, InfinityModifier: pgtype.Infinity}
	case market.NegInf:
		return pgtype.Timestamptz{Valid: true, InfinityModifier: pgtype.NegativeInfinity}
	}
	return pgtype.Timestamptz{Valid: true, Time: i.Time()}
}

// optional returns i as Timestamptz does, NULL for zero.
func optional(i market.Instant) pgtype.Timestamptz {
	if i == 0 {
		return pgtype.Timestamptz{}
	}
	return Timestamptz(i)
}

// life is an expression that names one life of the database and the file that holds barkeep.symbol. One that comes back
// without its last commits, by a failover, from a backup or as a copy, may count to a version again that it had before,
// with other segments; but not in the same life.
const life = `(SELECT concat_ws(' ', ` + schema.Life + `, pg_relation_filenode('barkeep.symbol')))`

// readVersions returns the version of every symbol, and the life of the database as sessions know it.
func readVersions(ctx context.Context, q querier) (versions map[market.Symbol]Version, now string, err error) {
	rows, err := q.Query(ctx, `SELECT s.symbol, s.version, l.life, `+schema.Life+`
	  FROM `+life+` l (life) LEFT JOIN barkeep.symbol s ON true`)
	if err != nil {
		return nil, "", fmt.Errorf("read versions: %w", err)
	}
	versions = make(map[market.Symbol]Version)
	var symbol pgtype.Text // NULL where there is none at all
	var count pgtype.Int8
	var version Version
	_, err = pgx.ForEachRow(rows, []any{&symbol, &count, &version.life, &now}, func() error {
		if version.count = count.Int64; symbol.Valid {
			versions[market.Symbol(symbol.String)] = version
		}
		return nil
	})
	if err != nil {
		return nil, "", fmt.Errorf("read versions: %w", err)
	}
	return versions, now, nil
}

// manySymbols is from when on a reading is planned for what it reads: what suits a symbol, its part of an index, would read
// the table in the order of the index for all of them.
const manySymbols = 100

// readSymbols returns version and segments of the symbols, each pair of one snapshot, since one statement reads both. It does
// not join or sort, which would be most of the time of a load. Symbols that do not exist are nil in the answer.
func readSymbols(ctx context.Context, q querier, symbols []string) (map[market.Symbol]*symbolCoverage, error) {
	args := []any{symbols}
	if len(symbols) >= manySymbols {
		args = []any{pgx.QueryExecModeDescribeExec, symbols}
	}
	rows, err := q.Query(ctx, `SELECT s.symbol, s.version, l.life, NULL::text, NULL::timestamptz, NULL::timestamptz, NULL::smallint,
	       NULL::text, NULL::bigint, NULL::timestamptz, NULL::text, NULL::timestamptz, NULL::timestamptz, NULL::text
	  FROM barkeep.symbol s CROSS JOIN `+life+` l (life) WHERE s.symbol = ANY ($1)
	 UNION ALL
	SELECT c.symbol, NULL, NULL, c.timeframe, c.range_start, c.range_end, c.state, c.source,
	       c.generation, c.fetched_at, c.reason, c.expires_at, c.retry_at, c.derived_from
	  FROM barkeep.coverage c WHERE c.symbol = ANY ($1)`, args...)
	if err != nil {
		return nil, fmt.Errorf("read coverage: %w", err)
	}
	found := make(map[market.Symbol]*symbolCoverage, len(symbols))
	for _, s := range symbols {
		found[market.Symbol(s)] = &symbolCoverage{}
	}
	bound := make(map[market.Symbol]Version, len(symbols))
	var symbol, life word
	var count pgtype.Int8
	var row segmentRow
	_, err = pgx.ForEachRow(rows, append([]any{&symbol, &count, &life}, row.targets()...), func() error {
		if count.Valid {
			bound[market.Symbol(symbol.text)] = Version{life: life.text, count: count.Int64}
			return nil
		}
		tf, err := market.ParseTimeframe(row.timeframe.text)
		if err != nil {
			return fmt.Errorf("symbol %s: %w", symbol.text, err)
		}
		c := found[market.Symbol(symbol.text)]
		c.series[tf] = append(c.series[tf], row.segment())
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read coverage: %w", err)
	}
	for symbol, c := range found {
		version, is := bound[symbol]
		if !is {
			found[symbol] = nil
			continue
		}
		c.version = version
		c.seal()
	}
	return found, nil
}

// segmentRow is a row of barkeep.coverage whose columns may all be NULL, as beside those of a symbol.
type segmentRow struct {
	timeframe           word
	start, end, fetched pgtype.Timestamptz
	state               pgtype.Int2
	source, reason      word
	generation          pgtype.Int8
	expires, retry      pgtype.Timestamptz
	derivedFrom         word
}

func (r *segmentRow) targets() []any {
	return []any{
		&r.timeframe, &r.start, &r.end, &r.state, &r.source, &r.generation, &r.fetched, &r.reason, &r.expires, &r.retry,
		&r.derivedFrom,
	}
}

func (r *segmentRow) segment() Segment {
	from, err := market.ParseTimeframe(r.derivedFrom.text)
	if err != nil {
		from = 0
	}
	return Segment{
		Range: market.Range{Start: Instant(r.start), End: Instant(r.end)}, State: State(r.state.Int16),
		Source: r.source.text, Generation: r.generation.Int64, FetchedAt: Instant(r.fetched),
		Reason: r.reason.text, ExpiresAt: Instant(r.expires), RetryAt: Instant(r.retry),
		DerivedFrom: from,
	}
}

// word reads a column that holds few texts again and again, each of which is kept once: text is the last one read, empty for
// NULL.
type word struct {
	text string
	kept map[string]string
}

// ScanBytes takes the column of the next row, of which it keeps nothing.
func (w *word) ScanBytes(column []byte) error {
	if string(column) == w.text {
		return nil
	}
	text, is := w.kept[string(column)]
	if !is {
		if w.kept == nil {
			w.kept = make(map[string]string)
		}
		text = string(column)
		w.kept[text] = text
	}
	w.text = text
	return nil
}
