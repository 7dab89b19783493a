package directory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"barkeep/backfill/coverage"
	"barkeep/internal/market"
)

// Channel is where a reading of a source's list is notified, as the source's name.
const Channel = "barkeep_source"

// Declared is what barkeep.source says of a source's abilities.
type Declared struct {
	// Native are the names of the native timeframes, shortest first.
	Native     []string `json:"native"`
	PageLimit  int      `json:"page_limit"`
	PrefixOnly bool     `json:"prefix_only"`
	Local      bool     `json:"local"`
	Dense      bool     `json:"dense"`
	// Earliest is in microseconds since the epoch.
	Earliest market.Instant `json:"earliest"`
	// Rank orders the sources by preference, the least first.
	Rank int `json:"rank"`
	// Disabled says that the source is not to be asked any more: it lists nothing, and what is bound to it stays so.
	Disabled bool `json:"disabled,omitempty"`
}

// Binding is what a symbol is bound to.
type Binding struct {
	Symbol           market.Symbol
	Source, VendorID string
	Generation       int64
	// Listed is market.NegInf and Delisted market.PosInf where they are not known.
	Listed, Delisted market.Instant
	// Native are the timeframes that the source has of the instrument, shortest first; empty where no producer has told.
	Native   []market.Timeframe
	Declared Declared
}

// Base returns the timeframe in which the source is asked for bars of tf: tf itself where it has that, else the longest from
// whose bars those of tf can be derived (PLANNER 20), and false where there is none. Where nobody has told what the source has
// it is tf: the producer that serves it will say.
func (b *Binding) Base(tf market.Timeframe) (base market.Timeframe, found bool) {
	if len(b.Native) == 0 || slices.Contains(b.Native, tf) {
		return tf, true
	}
	return tf.Base(b.Native)
}

// Timeframes returns those that can be had of the instrument, as they are or derived, shortest first.
func (b *Binding) Timeframes() []market.Timeframe {
	return slices.DeleteFunc(market.Timeframes(), func(tf market.Timeframe) bool {
		_, found := b.Base(tf)
		return !found
	})
}

// setNative notes the timeframes by name: those of the instrument where its list has some, else all of the source's. A name
// that a newer producer knows is left out.
func (b *Binding) setNative(names []string) {
	if len(names) == 0 {
		names = b.Declared.Native
	}
	b.Native = nil
	for _, name := range names {
		if tf, err := market.ParseTimeframe(name); err == nil {
			b.Native = append(b.Native, tf)
		}
	}
	slices.Sort(b.Native)
}

// Lookup returns the binding of a symbol, and false where it has none.
func Lookup(ctx context.Context, pool *pgxpool.Pool, symbol market.Symbol) (Binding, bool, error) {
	b := Binding{Symbol: symbol}
	var listed, delisted pgtype.Timestamptz
	var declared []byte
	var native []string
	err := pool.QueryRow(ctx, `SELECT s.source, s.vendor_id, s.generation, s.listed_at, s.delisted_at, coalesce(o.declared, '{}'),
	    (SELECT i.native FROM barkeep.instrument i WHERE i.source = s.source AND i.vendor_id = s.vendor_id ORDER BY i.listed_at DESC LIMIT 1)
	  FROM barkeep.symbol s LEFT JOIN barkeep.source o ON o.name = s.source WHERE s.symbol = $1`, string(symbol)).
		Scan(&b.Source, &b.VendorID, &b.Generation, &listed, &delisted, &declared, &native)
	if errors.Is(err, pgx.ErrNoRows) {
		return Binding{}, false, nil
	}
	if err != nil {
		return Binding{}, false, fmt.Errorf("read binding of %s: %w", symbol, err)
	}
	if err := json.Unmarshal(declared, &b.Declared); err != nil {
		return Binding{}, false, fmt.Errorf("read what source %s declares: %w", b.Source, err)
	}
	b.Listed, b.Delisted = orInstant(listed, market.NegInf), orInstant(delisted, market.PosInf)
	b.setNative(native)
	return b, true, nil
}

func orInstant(t pgtype.Timestamptz, unknown market.Instant) market.Instant {
	switch {
	case !t.Valid:
		return unknown
	case t.InfinityModifier == pgtype.Infinity:
		return market.PosInf
	case t.InfinityModifier == pgtype.NegativeInfinity:
		return market.NegInf
	}
	return market.FromTime(t.Time)
}

// entry is a row of barkeep.source.
type entry struct {
	name     string
	declared Declared
	read     bool
	age      time.Duration
	failure  string
	// wanted is for how long a reading is awaited that was asked for; zero where none is.
	wanted time.Duration
}

// Bind binds the symbol where that can be decided now. It returns false where it has to wait for a list that was never
// read, or is older than maxAge and does not have the symbol: it has then asked for that reading (barkeep.source.wanted_at)
// and the caller tries again after a notification on Channel, or a while, with what it has waited: a list that was read
// meanwhile is new enough. Local lists are believed for localAge. It returns *UnknownSymbolError, or *ListError where the list
// cannot be read.
func Bind(ctx context.Context, pool *pgxpool.Pool, symbol market.Symbol, maxAge, waited time.Duration) (Binding, bool, error) {
	if b, bound, err := Lookup(ctx, pool, symbol); err != nil || bound {
		return b, bound, err
	}
	all, err := readSources(ctx, pool)
	if err != nil {
		return Binding{}, false, err
	}
	if len(all) == 0 {
		return Binding{}, false, nil // no producer has started yet
	}
	asked, ready := serving(all, symbol)
	_, name := symbol.Split()
	var stale []string
	for _, e := range asked[:ready] {
		bound, err := insert(ctx, pool, symbol, e.name, name)
		if err != nil {
			return Binding{}, false, err
		}
		if bound {
			return Lookup(ctx, pool, symbol)
		}
		limit := maxAge
		if e.declared.Local {
			limit = min(limit, localAge)
		}
		if e.age > max(limit, waited) && e.failure == "" {
			stale = append(stale, e.name)
		}
	}
	switch {
	case ready < len(asked) && asked[ready].failure != "":
		return Binding{}, false, &ListError{Source: asked[ready].name, Reason: asked[ready].failure, Symbol: symbol}
	case ready < len(asked):
		return Binding{}, false, want(ctx, pool, []string{asked[ready].name})
	case len(stale) > 0:
		return Binding{}, false, want(ctx, pool, stale)
	}
	return Binding{}, false, unknown(symbol, asked, all)
}

// localAge is for how long a list that costs no request is believed not to have a symbol.
const localAge = time.Second

// Find returns what Bind would bind the symbol to, and changes nothing. It returns false where that cannot be said yet, or
// *UnknownSymbolError.
func Find(ctx context.Context, pool *pgxpool.Pool, symbol market.Symbol) (Binding, bool, error) {
	if b, bound, err := Lookup(ctx, pool, symbol); err != nil || bound {
		return b, bound, err
	}
	all, err := readSources(ctx, pool)
	if err != nil {
		return Binding{}, false, err
	}
	asked, ready := serving(all, symbol)
	_, name := symbol.Split()
	for _, e := range asked[:ready] {
		b := Binding{Symbol: symbol, Source: e.name, Generation: 1, Declared: e.declared}
		var listed, delisted pgtype.Timestamptz
		var native []string
		err := pool.QueryRow(ctx, findSQL, e.name, name).Scan(&b.VendorID, &listed, &delisted, &native)
		if errors.Is(err, pgx.ErrNoRows) {
			continue
		}
		if err != nil {
			return Binding{}, false, fmt.Errorf("look for %s: %w", symbol, err)
		}
		b.Listed, b.Delisted = orInstant(listed, market.NegInf), orInstant(delisted, market.PosInf)
		b.setNative(native)
		return b, true, nil
	}
	if len(all) == 0 || ready < len(asked) {
		return Binding{}, false, nil
	}
	return Binding{}, false, unknown(symbol, asked, all)
}

// serving returns the sources that may serve the symbol, in order of preference, and how many of them can be asked before
// one whose list was never read.
func serving(all []entry, symbol market.Symbol) (asked []entry, ready int) {
	venue, _ := symbol.Split()
	for _, e := range all {
		if venue == "" && !e.declared.PrefixOnly || venue == e.name {
			asked = append(asked, e)
		}
	}
	for ready < len(asked) && asked[ready].read {
		ready++
	}
	return asked, ready
}

func unknown(symbol market.Symbol, asked, all []entry) *UnknownSymbolError {
	local := len(asked) > 0 && !slices.ContainsFunc(asked, func(e entry) bool { return !e.declared.Local })
	names := func(list []entry) (out []string) {
		for _, e := range list {
			out = append(out, e.name)
		}
		return out
	}
	return &UnknownSymbolError{Symbol: symbol, Asked: names(asked), Sources: names(all), Local: local}
}

// readSources returns the sources that are enabled, by preference.
func readSources(ctx context.Context, pool *pgxpool.Pool) ([]entry, error) {
	rows, err := pool.Query(ctx, `SELECT name, declared, read_at IS NOT NULL,
	    coalesce(extract(epoch FROM now() - read_at), 0)::float8, error,
    CASE WHEN wanted_at > coalesce(read_at, '-infinity') THEN extract(epoch FROM now() - wanted_at) ELSE 0 END::float8
    FROM barkeep.source o WHERE `+enabled+` ORDER BY name`)
	if err != nil {
		return nil, fmt.Errorf("read sources: %w", err)
	}
	var all []entry
	var e entry
	var age, wanted float64
	var declared []byte
	_, err = pgx.ForEachRow(rows, []any{&e.name, &declared, &e.read, &age, &e.failure, &wanted}, func() error {
		e.declared = Declared{}
		if err := json.Unmarshal(declared, &e.declared); err != nil {
			return fmt.Errorf("source %s: %w", e.name, err)
		}
		e.age, e.wanted = time.Duration(age*float64(time.Second)), time.Duration(wanted*float64(time.Second))
		all = append(all, e)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read sources: %w", err)
	}
	slices.SortStableFunc(all, func(a, b entry) int { return a.declared.Rank - b.declared.Rank })
	return all, nil
}

// want asks producers to read the lists anew.
func want(ctx context.Context, pool *pgxpool.Pool, names []string) error {
	_, err := pool.Exec(ctx, `WITH asked AS (UPDATE barkeep.source SET wanted_at = now()
	    WHERE name = ANY ($1) AND (wanted_at IS NULL OR wanted_at <= coalesce(read_at, '-infinity')) RETURNING name)
	  SELECT pg_notify('`+WantedChannel+`', name) FROM asked`, names)
	if err != nil {
		return fmt.Errorf("ask for the lists of sources: %w", err)
	}
	return nil
}

// findSQL reads the instrument of name $2 in the list of source $1: the one alive, else the one listed last. Where base and
// quote of several make the same name (BTC/USD, BT/CUSD), it is the one whose quote most markets have.
const findSQL = `SELECT vendor_id, nullif(listed_at, '-infinity') AS listed_at, nullif(delisted_at, 'infinity') AS delisted_at, native
	  FROM barkeep.instrument i WHERE source = $1 AND symbol = $2
	 ORDER BY coalesce(delisted_at, 'infinity') DESC,
	   (SELECT count(*) FROM barkeep.instrument o WHERE o.source = i.source AND o.quote = i.quote) DESC, listed_at DESC, vendor_id LIMIT 1`

// insert binds symbol to the instrument of that name in the list of source, if there is one.
func insert(ctx context.Context, pool *pgxpool.Pool, symbol market.Symbol, source, name string) (bool, error) {
	var there bool
	err := pool.QueryRow(ctx, `WITH found AS (`+findSQL+`), added AS (
	    INSERT INTO barkeep.symbol (symbol, source, vendor_id, listed_at, delisted_at)
	    SELECT $3, $1, vendor_id, listed_at, delisted_at FROM found ON CONFLICT (symbol) DO NOTHING
	  ) SELECT EXISTS (SELECT FROM found)`, source, name, string(symbol)).Scan(&there)
	if err != nil {
		return false, fmt.Errorf("bind %s: %w", symbol, err)
	}
	return there, nil
}

// SetListed stores when a bound symbol was listed, where that was not known.
func SetListed(ctx context.Context, pool *pgxpool.Pool, symbol market.Symbol, generation int64, listed market.Instant) error {
	_, err := pool.Exec(ctx, `UPDATE barkeep.symbol SET listed_at = $3 WHERE symbol = $1 AND generation = $2 AND listed_at IS NULL`,
		string(symbol), generation, coverage.Timestamptz(listed))
	if err != nil {
		return fmt.Errorf("store the listing of %s: %w", symbol, err)
	}
	return nil
}

// Life returns the time in which the instrument can have bars up to now, on no grid: from its listing, or the source's
// earliest instant while that is unknown, to its delisting.
func (b *Binding) Life(now market.Instant) market.RangeSet {
	start := b.Listed
	if start == market.NegInf {
		start = b.Declared.Earliest
	}
	return market.NewRangeSet(market.Range{Start: start, End: min(now, b.Delisted)})
}
