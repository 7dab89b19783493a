package directory_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"barkeep/backfill/coverage"
	"barkeep/backfill/directory"
	"barkeep/backfill/source"
	"barkeep/internal/dbtest"
	"barkeep/internal/market"
)

// fixed is a source that has only a list.
type fixed struct {
	name       string
	prefixOnly bool
	local      bool
	list       []source.Instrument
	err        error
}

func (f *fixed) Name() string { return f.name }

func (f *fixed) Info() source.Info {
	return source.Info{Native: []market.Timeframe{market.M1}, PageLimit: 10, PrefixOnly: f.prefixOnly, Local: f.local}
}

func (f *fixed) Instruments(context.Context) ([]source.Instrument, error) { return f.list, f.err }

func (f *fixed) Fetch(context.Context, source.Query) (source.Answer, error) {
	return source.Answer{}, errors.New("not asked")
}

func coin(id, symbol string, listed market.Instant) source.Instrument {
	return source.Instrument{VendorID: id, Symbol: symbol, Base: symbol[:3], Quote: symbol[3:], Listed: listed, Delisted: market.PosInf}
}

func TestBindingIsDecidedOnceByPreference(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	ctx := t.Context()
	_, bound, err := directory.Bind(ctx, db.Pool, "BTCUSD", time.Hour, 0)
	require.NoError(t, err)
	require.False(t, bound, "no producer has announced anything")

	one := &fixed{name: "zeta", err: errors.New("down")}
	two := &fixed{name: "alpha", list: []source.Instrument{coin("btc-usd", "BTCUSD", 1000000), coin("eth-usd", "ETHUSD", market.NegInf)}}
	toy := &fixed{name: "toy", prefixOnly: true, list: []source.Instrument{coin("TOYUSD", "TOYUSD", 0)}}
	require.NoError(t, directory.Announce(ctx, db.Pool, []source.Source{one, two, toy}))
	for _, s := range []source.Source{two, toy} {
		require.NoError(t, directory.Refresh(ctx, db.Pool, s, time.Hour))
	}
	_, bound, err = directory.Bind(ctx, db.Pool, "BTCUSD", time.Hour, 0)
	require.NoError(t, err)
	require.False(t, bound, "the first in preference was never read: wait")
	var wanted bool
	require.NoError(t, db.Pool.QueryRow(ctx, `SELECT wanted_at IS NOT NULL FROM barkeep.source WHERE name = 'zeta'`).Scan(&wanted))
	require.True(t, wanted)

	require.Error(t, directory.Refresh(ctx, db.Pool, one, time.Hour))
	_, _, err = directory.Bind(ctx, db.Pool, "BTCUSD", time.Hour, 0)
	list, found := errors.AsType[*directory.ListError](err)
	require.True(t, found, "%v", err)
	require.Equal(t, "zeta", list.Source)
	require.Contains(t, list.Hint(), "sources.zeta.enabled")
	list.Symbol = "zeta:BTCUSD"
	require.NotContains(t, list.Hint(), "enabled", "who named the source wants that one")

	one.err, one.list = nil, []source.Instrument{coin("XBT", "ETHUSD", market.NegInf)}
	require.NoError(t, directory.Refresh(ctx, db.Pool, one, time.Hour))
	b, bound, err := directory.Bind(ctx, db.Pool, "BTCUSD", time.Hour, 0)
	require.NoError(t, err)
	require.True(t, bound)
	require.Equal(t, "alpha", b.Source)
	require.Equal(t, market.Instant(1000000), b.Listed)
	require.Equal(t, []string{"1m"}, b.Declared.Native)

	// A source that lists it later, and comes first, does not take it over.
	one.list = append(one.list, coin("BTC", "BTCUSD", 0))
	require.NoError(t, directory.Refresh(ctx, db.Pool, one, 0))
	b, _, err = directory.Bind(ctx, db.Pool, "BTCUSD", time.Hour, 0)
	require.NoError(t, err)
	require.Equal(t, "alpha", b.Source)
	b, _, err = directory.Bind(ctx, db.Pool, "zeta:BTCUSD", time.Hour, 0)
	require.NoError(t, err)
	require.Equal(t, "zeta", b.Source)

	// sim and file serve by prefix alone.
	_, _, err = directory.Bind(ctx, db.Pool, "TOYUSD", time.Hour, 0)
	unknown, found := errors.AsType[*directory.UnknownSymbolError](err)
	require.True(t, found, "%v", err)
	require.Equal(t, []string{"zeta", "alpha"}, unknown.Asked)
	_, bound, err = directory.Bind(ctx, db.Pool, "toy:TOYUSD", time.Hour, 0)
	require.NoError(t, err)
	require.True(t, bound)
	_, _, err = directory.Bind(ctx, db.Pool, "nowhere:BTCUSD", time.Hour, 0)
	require.ErrorContains(t, err, `no source "nowhere"`)
}

// slow is a source whose list takes until it may go on.
type slow struct {
	fixed
	reads   chan struct{}
	proceed chan struct{}
}

func (s *slow) Instruments(ctx context.Context) ([]source.Instrument, error) {
	s.reads <- struct{}{}
	<-s.proceed
	return s.fixed.Instruments(ctx)
}

// TestRule10_OneReaderPerSource: while one producer reads a list the others leave it, and afterwards it is new enough for them.
func TestRule10_OneReaderPerSource(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	ctx := t.Context()
	s := &slow{fixed: fixed{name: "alpha", list: []source.Instrument{coin("a", "BTCUSD", 0)}}, reads: make(chan struct{}, 4), proceed: make(chan struct{})}
	require.NoError(t, directory.Announce(ctx, db.Pool, []source.Source{s}))
	first := make(chan error, 1)
	go func() { first <- directory.Refresh(ctx, db.Pool, s, time.Hour) }()
	<-s.reads
	require.NoError(t, directory.Refresh(ctx, db.Pool, s, time.Hour), "another reads it")
	close(s.proceed)
	require.NoError(t, <-first)
	require.NoError(t, directory.Refresh(ctx, db.Pool, s, time.Hour), "it was just read")
	require.Empty(t, s.reads)
	_, bound, err := directory.Bind(ctx, db.Pool, "BTCUSD", time.Hour, 0)
	require.NoError(t, err)
	require.True(t, bound)
	require.NoError(t, directory.Refresh(ctx, db.Pool, s, 0), "an old one is read again")
	require.Len(t, s.reads, 1)
}

// TestRule10_AnUnknownSymbolAsksForANewList: before a symbol is called unknown a list is read that is not old: of a vendor one of
// maxAge, where nobody is asked one of this moment. One that was read while the asker waited is new enough.
func TestRule10_AnUnknownSymbolAsksForANewList(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	ctx := t.Context()
	vendor, folder := &fixed{name: "vendor"}, &fixed{name: "folder", prefixOnly: true, local: true}
	require.NoError(t, directory.Announce(ctx, db.Pool, []source.Source{vendor, folder}))
	for _, s := range []source.Source{vendor, folder} {
		require.NoError(t, directory.Refresh(ctx, db.Pool, s, time.Hour))
	}
	bind := func(symbol market.Symbol, age, waited time.Duration) (unknown *directory.UnknownSymbolError, wanted bool) {
		_, err := db.Pool.Exec(ctx, `UPDATE barkeep.source SET wanted_at = NULL, read_at = now() - make_interval(secs => $1)`, age.Seconds())
		require.NoError(t, err)
		_, bound, err := directory.Bind(ctx, db.Pool, symbol, time.Minute, waited)
		require.False(t, bound)
		if !errors.As(err, &unknown) {
			require.NoError(t, err)
		}
		require.NoError(t, db.Pool.QueryRow(ctx, `SELECT coalesce(bool_or(wanted_at > read_at), false) FROM barkeep.source`).Scan(&wanted))
		return unknown, wanted
	}
	for symbol, young := range map[market.Symbol]time.Duration{"NEWUSD": 50 * time.Second, "folder:NEWUSD": 500 * time.Millisecond} {
		unknown, wanted := bind(symbol, 2*time.Minute, 0)
		require.Nil(t, unknown, symbol)
		require.True(t, wanted, symbol)
		unknown, _ = bind(symbol, 2*time.Minute, 3*time.Minute)
		require.NotNil(t, unknown, symbol)
		unknown, _ = bind(symbol, young, 0)
		require.NotNil(t, unknown, symbol)
		require.Equal(t, symbol == "folder:NEWUSD", unknown.Local)
	}
	unknown, _ := bind("folder:NEWUSD", 5*time.Second, 0)
	require.Nil(t, unknown)
}

// Base and quote of two markets may make one name: that of the usual quote is meant.
func TestOneNameOfTwoMarkets(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	of := func(base, quote string) source.Instrument {
		return source.Instrument{
			VendorID: base + "/" + quote, Symbol: base + quote, Base: base, Quote: quote, Listed: market.NegInf, Delisted: market.PosInf,
		}
	}
	s := &fixed{name: "alpha", list: []source.Instrument{of("BT", "CUSD"), of("BTC", "USD"), of("ETH", "USD"), of("B", "TCUSD")}}
	require.NoError(t, directory.Announce(t.Context(), db.Pool, []source.Source{s}))
	require.NoError(t, directory.Refresh(t.Context(), db.Pool, s, time.Hour))
	b, bound, err := directory.Bind(t.Context(), db.Pool, "alpha:BTCUSD", time.Hour, 0)
	require.NoError(t, err)
	require.True(t, bound)
	require.Equal(t, "BTC/USD", b.VendorID)
}

func TestAListingFoundLaterReplacesTheUnknownOne(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	ctx := t.Context()
	s := &fixed{name: "alpha", list: []source.Instrument{coin("eth-usd", "ETHUSD", market.NegInf)}}
	require.NoError(t, directory.Announce(ctx, db.Pool, []source.Source{s}))
	require.NoError(t, directory.Refresh(ctx, db.Pool, s, time.Hour))
	b, _, err := directory.Bind(ctx, db.Pool, "ETHUSD", time.Hour, 0)
	require.NoError(t, err)
	require.Equal(t, market.NegInf, b.Listed)
	s.list[0].Listed = 5000000
	require.NoError(t, directory.Refresh(ctx, db.Pool, s, 0))
	b, _, err = directory.Lookup(ctx, db.Pool, "ETHUSD")
	require.NoError(t, err)
	require.Equal(t, market.Instant(5000000), b.Listed)
	s.list = nil // a symbol once known is never unknown
	require.NoError(t, directory.Refresh(ctx, db.Pool, s, 0))
	var rows int
	require.NoError(t, db.Pool.QueryRow(ctx, `SELECT count(*) FROM barkeep.instrument`).Scan(&rows))
	require.Equal(t, 1, rows)
}

// The sequence: a name passes to another coin (LUNAUSDT did). Under the old generation the absence after the delisting
// would hide the new coin's bars, and a page of the old one could still be stored.
func TestRule11_ANameThatPassesToAnotherInstrument(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	ctx := t.Context()
	const day = market.Instant(86_400_000_000)
	s := &fixed{name: "alpha", list: []source.Instrument{coin("old", "LUNUSD", day)}}
	require.NoError(t, directory.Announce(ctx, db.Pool, []source.Source{s}))
	require.NoError(t, directory.Refresh(ctx, db.Pool, s, time.Hour))
	for _, symbol := range []market.Symbol{"LUNUSD", "alpha:LUNUSD"} {
		_, bound, err := directory.Bind(ctx, db.Pool, symbol, time.Hour, 0)
		require.NoError(t, err)
		require.True(t, bound)
	}
	series := market.Series{Symbol: "LUNUSD", Timeframe: market.M1}
	require.NoError(t, pgx.BeginFunc(ctx, db.Pool, func(tx pgx.Tx) error {
		return coverage.Apply(ctx, tx, series,
			coverage.Segment{Range: market.Range{Start: day, End: 10 * day}, State: coverage.Final, Source: "alpha", Generation: 1, FetchedAt: 1},
			coverage.Segment{Range: market.Range{Start: 10 * day, End: 40 * day}, State: coverage.Absent, Source: "alpha", Generation: 1, FetchedAt: 1})
	}))
	// The delisting alone changes nothing but the end.
	s.list[0].Delisted = 10 * day
	require.NoError(t, directory.Refresh(ctx, db.Pool, s, 0))
	b, _, err := directory.Lookup(ctx, db.Pool, "LUNUSD")
	require.NoError(t, err)
	require.Equal(t, []any{"old", int64(1), 10 * day}, []any{b.VendorID, b.Generation, b.Delisted})

	s.list = []source.Instrument{coin("new", "LUNUSD", 20*day)}
	var generations []int64
	for range 2 { // again: the same list opens nothing
		require.NoError(t, directory.Refresh(ctx, db.Pool, s, 0))
		for _, symbol := range []market.Symbol{"LUNUSD", "alpha:LUNUSD"} {
			b, known, err := directory.Lookup(ctx, db.Pool, symbol)
			require.NoError(t, err)
			require.True(t, known)
			require.Equal(t, []any{"new", 20 * day, market.PosInf}, []any{b.VendorID, b.Listed, b.Delisted})
			require.Greater(t, b.Generation, int64(1))
			generations = append(generations, b.Generation)
		}
	}
	require.Equal(t, generations[:2], generations[2:])
	store := coverage.NewStore(db.Pool, coverage.Config{})
	require.NoError(t, store.Load(ctx))
	segments := store.Snapshot().Segments(series)
	require.Len(t, segments, 1, "what was said of the time after the delisting is gone")
	require.Equal(t, market.Range{Start: day, End: 10 * day}, segments[0].Range)
	formers, err := directory.Formers(ctx, db.Pool, "alpha:LUNUSD")
	require.NoError(t, err)
	require.Equal(t, []directory.Former{{VendorID: "old", Life: market.Range{Start: day, End: 10 * day}}}, formers)
}

// The sequence: the same id is listed again, and of its first listing only the end was known. The new listing is not the
// listing of the old instrument, whose life is not forgotten.
func TestRule11_AnIdThatIsListedAgain(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	ctx := t.Context()
	const day = market.Instant(86_400_000_000)
	s := &fixed{name: "alpha", list: []source.Instrument{coin("luna", "LUNUSD", market.NegInf)}}
	require.NoError(t, directory.Announce(ctx, db.Pool, []source.Source{s}))
	require.NoError(t, directory.Refresh(ctx, db.Pool, s, time.Hour))
	_, _, err := directory.Bind(ctx, db.Pool, "LUNUSD", time.Hour, 0)
	require.NoError(t, err)
	s.list[0].Delisted = 10*day + 1
	require.NoError(t, directory.Refresh(ctx, db.Pool, s, 0))
	series := market.Series{Symbol: "LUNUSD", Timeframe: market.D1}
	require.NoError(t, pgx.BeginFunc(ctx, db.Pool, func(tx pgx.Tx) error {
		return coverage.Apply(ctx, tx, series,
			coverage.Segment{Range: market.Range{Start: day, End: 11 * day}, State: coverage.Final, Source: "alpha", Generation: 1, FetchedAt: 1})
	}))
	s.list = []source.Instrument{coin("luna", "LUNUSD", 20*day)}
	require.NoError(t, directory.Refresh(ctx, db.Pool, s, 0))
	b, _, err := directory.Lookup(ctx, db.Pool, "LUNUSD")
	require.NoError(t, err)
	require.Equal(t, []any{20 * day, market.PosInf}, []any{b.Listed, b.Delisted})
	require.Greater(t, b.Generation, int64(1))
	formers, err := directory.Formers(ctx, db.Pool, "LUNUSD")
	require.NoError(t, err)
	require.Equal(t, []directory.Former{{VendorID: "luna", Life: market.Range{Start: market.NegInf, End: 10*day + 1}}}, formers)
	store := coverage.NewStore(db.Pool, coverage.Config{})
	require.NoError(t, store.Load(ctx))
	segments := store.Snapshot().Segments(series)
	require.Len(t, segments, 1)
	require.Equal(t, 11*day, segments[0].Range.End, "the day that it was delisted in is its own")
}

// Which timeframes there are is the instrument's where its list says so, else the source's; it follows the list.
func TestRule20_TheInstrumentsTimeframes(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	ctx := t.Context()
	folder := &fixed{name: "alpha", list: []source.Instrument{coin("a", "BTCUSD", 0), coin("b", "ETHUSD", 0)}}
	folder.list[1].Native = []market.Timeframe{market.M15, market.D1}
	require.NoError(t, directory.Announce(ctx, db.Pool, []source.Source{folder}))
	require.NoError(t, directory.Refresh(ctx, db.Pool, folder, time.Hour))
	expect := func(symbol market.Symbol, native ...market.Timeframe) {
		found, there, err := directory.Find(ctx, db.Pool, symbol)
		require.NoError(t, err)
		require.True(t, there)
		require.Equal(t, native, found.Native)
		bound, there, err := directory.Bind(ctx, db.Pool, symbol, time.Hour, 0)
		require.NoError(t, err)
		require.True(t, there)
		require.Equal(t, native, bound.Native)
	}
	expect("BTCUSD", market.M1)
	expect("ETHUSD", market.M15, market.D1)
	b, _, err := directory.Lookup(ctx, db.Pool, "ETHUSD")
	require.NoError(t, err)
	for tf, want := range map[market.Timeframe]market.Timeframe{market.M15: market.M15, market.H4: market.M15, market.W1: market.D1} {
		base, can := b.Base(tf)
		require.True(t, can)
		require.Equal(t, want, base)
	}
	_, can := b.Base(market.M1)
	require.False(t, can)
	require.Equal(t, market.M15, b.Timeframes()[0])
	require.Equal(t, market.Mo1, b.Timeframes()[len(b.Timeframes())-1])

	folder.list[1].Native = []market.Timeframe{market.M15}
	require.NoError(t, directory.Refresh(ctx, db.Pool, folder, 0))
	expect("ETHUSD", market.M15)
	folder.list[1].Native = nil
	require.NoError(t, directory.Refresh(ctx, db.Pool, folder, 0))
	expect("ETHUSD", market.M1)
	base, can := (&directory.Binding{}).Base(market.W1)
	require.True(t, can)
	require.Equal(t, market.W1, base, "nobody has told what there is: the producer will")
}

// TestRule11_ASymbolOnceKnownStaysKnown: a list that has it no more, because it was cut or the market is gone, unbinds nothing and makes
// nothing unknown.
func TestRule11_ASymbolOnceKnownStaysKnown(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	ctx := t.Context()
	s := &fixed{name: "alpha", list: []source.Instrument{coin("btc-usd", "BTCUSD", market.NegInf), coin("eth-usd", "ETHUSD", market.NegInf)}}
	require.NoError(t, directory.Announce(ctx, db.Pool, []source.Source{s}))
	require.NoError(t, directory.Refresh(ctx, db.Pool, s, time.Hour))
	before, bound, err := directory.Bind(ctx, db.Pool, "BTCUSD", time.Hour, 0)
	require.NoError(t, err)
	require.True(t, bound)
	s.list = nil
	require.NoError(t, directory.Refresh(ctx, db.Pool, s, 0))
	after, bound, err := directory.Bind(ctx, db.Pool, "BTCUSD", time.Hour, 0)
	require.NoError(t, err)
	require.True(t, bound)
	require.Equal(t, before, after)
	_, bound, err = directory.Bind(ctx, db.Pool, "ETHUSD", time.Hour, 0)
	require.NoError(t, err, "one that nobody had asked for yet is known too")
	require.True(t, bound)
}
