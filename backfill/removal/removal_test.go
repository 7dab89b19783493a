package removal_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"barkeep/backfill/coverage"
	"barkeep/backfill/removal"
	"barkeep/internal/actor"
	"barkeep/internal/dbtest"
	"barkeep/internal/market"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const btc = "BTCUSD"

func series(tf market.Timeframe) market.Series { return market.Series{Symbol: btc, Timeframe: tf} }

// day is the n-th day before the current one.
func day(n int64) market.Instant {
	return market.D1.Add(market.D1.Floor(market.FromTime(time.Now())), -n)
}

func span(from, to int64) market.Range { return market.Range{Start: day(from), End: day(to)} }

type site struct {
	*testing.T
	db *dbtest.DB
}

// newSite gives a database with a bound symbol.
func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t, dbtest.New(t)}
	s.exec(`INSERT INTO barkeep.symbol (symbol, source, vendor_id) VALUES ('BTCUSD', 'binance', 'X')`)
	return s
}

func (s *site) exec(sql string, args ...any) {
	s.Helper()
	_, err := s.db.Pool.Exec(s.Context(), sql, args...)
	require.NoError(s, err)
}

// cover enters a reading, as ingest does.
func (s *site) cover(tf market.Timeframe, r market.Range, state coverage.State, generation int64, derivedFrom market.Timeframe) {
	s.Helper()
	require.NoError(s, pgx.BeginFunc(s.Context(), s.db.Pool, func(tx pgx.Tx) error {
		return coverage.Apply(s.Context(), tx, series(tf), coverage.Segment{
			Range: r, State: state, Source: "binance", Generation: generation, FetchedAt: market.FromTime(time.Now()), DerivedFrom: derivedFrom,
		})
	}))
}

// fill stores a bar of each step of r.
func (s *site) fill(tf market.Timeframe, r market.Range) {
	s.Helper()
	s.exec(`INSERT INTO public.ohlcv SELECT 'BTCUSD', $1, t, 1, 1, 1, 1, 1 FROM generate_series($2::timestamptz, $3::timestamptz - interval '1 us', $4::interval) t`,
		tf.String(), coverage.Timestamptz(r.Start), coverage.Timestamptz(r.End), tf.Step())
}

// rows counts the bars of r.
func (s *site) rows(tf market.Timeframe, r market.Range) (n int64) {
	s.Helper()
	require.NoError(s, s.db.Pool.QueryRow(s.Context(), `SELECT count(*) FROM public.ohlcv WHERE symbol = 'BTCUSD' AND timeframe = $1 AND ts >= $2 AND ts < $3`,
		tf.String(), coverage.Timestamptz(r.Start), coverage.Timestamptz(r.End)).Scan(&n))
	return n
}

// index reads coverage as every process does.
func (s *site) index() *coverage.Index {
	s.Helper()
	store := coverage.NewStore(s.db.Pool, coverage.Config{})
	require.NoError(s, store.Load(s.Context()))
	return store.Snapshot()
}

func (s *site) covered(tf market.Timeframe, r market.Range) bool {
	s.Helper()
	return s.index().Covered(series(tf), market.RangeSet{r}, 0, market.FromTime(time.Now()))
}

// missing is what of r a statement would have fetched, and what of that is not to be had.
func (s *site) missing(tf market.Timeframe, r market.Range) (gap market.RangeSet, unavailable []coverage.Segment) {
	s.Helper()
	index, now := s.index(), market.FromTime(time.Now())
	gap = index.Missing(series(tf), market.RangeSet{r}, 0, now)
	return gap, index.Unavailable(series(tf), gap, now)
}

// age makes all notes older.
func (s *site) age(by time.Duration) {
	s.Helper()
	s.exec(`UPDATE barkeep.coverage SET fetched_at = fetched_at - $1::interval WHERE state = 4`, by)
}

func (s *site) keeper(keep map[market.Timeframe]time.Duration) *removal.Keeper {
	s.Helper()
	k, err := removal.New(removal.Config{Pool: s.db.Pool, Keep: keep})
	require.NoError(s, err)
	return k
}

func (s *site) version() (n int64) {
	s.Helper()
	require.NoError(s, s.db.Pool.QueryRow(s.Context(), `SELECT version FROM barkeep.symbol`).Scan(&n))
	return n
}

// The sequence: coverage is withdrawn and the rows are deleted in one step. A process whose index is a poll behind answers from
// what is left: a silent hole. Here the rows outlive every index that vouches for them, and what a page brings meanwhile stays.
func TestRule7_RowsGoInTwoSteps(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	k := s.keeper(nil)
	all := span(10, 5)
	s.fill(market.H1, all)
	s.cover(market.H1, all, coverage.Final, 1, 0)
	require.True(t, s.covered(market.H1, all))
	_, err := removal.Forget(t.Context(), s.db.Pool, removal.Order{Symbol: btc, Range: market.Always})
	require.NoError(t, err)
	gap, unavailable := s.missing(market.H1, all)
	require.Equal(t, market.RangeSet{all}, gap)
	require.Empty(t, unavailable, "it is a gap: who asks has it fetched")
	require.NoError(t, k.Sweep(t.Context()))
	require.EqualValues(t, 120, s.rows(market.H1, all), "who read the old coverage a moment ago reads the rows still")

	s.age(coverage.DefaultLease + removal.DefaultGrace - time.Minute)
	require.NoError(t, k.Sweep(t.Context()))
	require.EqualValues(t, 120, s.rows(market.H1, all), "a minute too early")

	s.cover(market.H1, span(8, 7), coverage.Final, 2, 0) // somebody asked meanwhile
	s.age(time.Minute)
	require.NoError(t, k.Sweep(t.Context()))
	require.EqualValues(t, 24, s.rows(market.H1, all))
	require.EqualValues(t, 24, s.rows(market.H1, span(8, 7)), "what is covered again stays")
	require.True(t, s.covered(market.H1, span(8, 7)))
	require.Equal(t, 1, s.index().Len(), "no note is left")
	require.EqualValues(t, 96, k.Stats().Rows)
	version := s.version()
	require.NoError(t, k.Sweep(t.Context()))
	require.Equal(t, version, s.version(), "done is done")
}

// The sequence: a day is forgotten, and the page that was being fetched for it arrives under the old generation. It must not vouch
// again (ingest's half is TestRule8_WrongGenerationIsRefused), and what was not named must stay.
func TestRule8_ForgetRaisesTheGeneration(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.cover(market.M1, span(10, 5), coverage.Final, 1, 0)
	s.cover(market.H1, span(10, 5), coverage.Final, 1, market.M1)
	s.cover(market.D1, span(10, 5), coverage.Final, 1, 0)
	_, err := removal.Forget(t.Context(), s.db.Pool, removal.Order{Symbol: "ETHUSD", Range: market.Always})
	require.ErrorIs(t, err, coverage.ErrUnbound)

	part := market.Range{Start: day(8).Shift(90 * time.Minute), End: day(8).Shift(2 * time.Hour)}
	out, err := removal.Forget(t.Context(), s.db.Pool, removal.Order{Symbol: btc, Timeframe: market.M1, Range: part})
	require.NoError(t, err)
	require.Greater(t, out.Generation, int64(1))
	require.Equal(t, []market.Series{series(market.M1), series(market.H1)}, out.Series)
	gap, _ := s.missing(market.M1, span(10, 5))
	require.Equal(t, market.RangeSet{part}, gap)
	gap, _ = s.missing(market.H1, span(10, 5))
	require.Equal(t, market.RangeSet{part.Outward(market.H1)}, gap, "what was rolled up from it goes with it")
	require.True(t, s.covered(market.D1, span(10, 5)), "older segments stay valid")

	// Whatever a producer's clock says, a page of the new generation is newer than the note.
	require.NoError(t, pgx.BeginFunc(t.Context(), s.db.Pool, func(tx pgx.Tx) error {
		return coverage.Apply(t.Context(), tx, series(market.M1), coverage.Segment{
			Range: part, State: coverage.Final, Source: "binance", Generation: out.Generation, FetchedAt: market.FromTime(time.Now().Add(-time.Minute)),
		})
	}))
	require.True(t, s.covered(market.M1, span(10, 5)))
}

// The sequence: what is forgotten cannot be had any more. The source's answer must not keep the old rows for ever, under no coverage.
func TestRule8_RowsThatTheSourceHasNoMoreGo(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	k := s.keeper(nil)
	s.fill(market.H1, span(10, 5))
	s.cover(market.H1, span(10, 5), coverage.Final, 1, 0)
	out, err := removal.Forget(t.Context(), s.db.Pool, removal.Order{Symbol: btc, Range: market.Always})
	require.NoError(t, err)
	unavailable := func(reason string) {
		require.NoError(t, pgx.BeginFunc(t.Context(), s.db.Pool, func(tx pgx.Tx) error {
			return coverage.Apply(t.Context(), tx, series(market.H1), coverage.Segment{
				Range: span(10, 7), State: coverage.Unavailable, Source: "binance", Generation: out.Generation, FetchedAt: market.FromTime(time.Now()), Reason: reason,
			})
		}))
	}
	unavailable("kept for a week")
	_, told := s.missing(market.H1, span(10, 7))
	require.Len(t, told, 1)
	require.Equal(t, "forgotten: kept for a week", told[0].Reason)
	s.age(coverage.DefaultLease + removal.DefaultGrace)
	unavailable("kept for a week") // who asks again puts nothing off
	require.NoError(t, k.Sweep(t.Context()))
	require.Zero(t, s.rows(market.H1, span(10, 5)))
	_, told = s.missing(market.H1, span(10, 7))
	require.Len(t, told, 1)
	require.Equal(t, "kept for a week", told[0].Reason)
}

// The sequence: a symbol is forgotten, pages of the new generation are in the log, and the database comes back from a backup of before.
// It is forgotten once more, perhaps for another instrument: the pages must not be of its generation.
func TestRule8_AGenerationIsNotUsedASecondTime(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	forget := func() int64 {
		out, err := removal.Forget(t.Context(), s.db.Pool, removal.Order{Symbol: btc, Range: market.Always})
		require.NoError(t, err)
		return out.Generation
	}
	lost := forget()
	_, err := s.db.Pool.Exec(t.Context(), `UPDATE barkeep.symbol SET generation = 1 WHERE symbol = $1`, string(btc))
	require.NoError(t, err)
	require.Greater(t, forget(), lost)
	_, err = s.db.Pool.Exec(t.Context(), `UPDATE barkeep.symbol SET generation = 9000000000000000 WHERE symbol = $1`, string(btc))
	require.NoError(t, err)
	require.EqualValues(t, 9000000000000001, forget(), "and never falls, whatever the clock says")
}

// Changing the source needs forget, and forgets all (PIPELINE 10).
func TestRule10_ForgetBindsToAnotherSource(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.exec(`INSERT INTO barkeep.source (name, declared) VALUES ('coinbase', '{}'), ('sim', '{"prefix_only": true}')`)
	s.exec(`INSERT INTO barkeep.instrument (source, vendor_id, symbol, listed_at) VALUES ('coinbase', 'BTC-USD', 'BTCUSD', '2015-01-01Z'), ('sim', 'B', 'BTCUSD', '-infinity')`)
	s.cover(market.M1, span(10, 5), coverage.Final, 1, 0)
	forget := func(o removal.Order) (removal.Outcome, error) { return removal.Forget(t.Context(), s.db.Pool, o) }
	_, err := forget(removal.Order{Symbol: btc, Timeframe: market.M1, Range: market.Always, Source: "coinbase"})
	require.ErrorIs(t, err, removal.ErrPart)
	for _, none := range []string{"kraken", "sim"} {
		_, err = forget(removal.Order{Symbol: btc, Range: market.Always, Source: none})
		require.ErrorIs(t, err, removal.ErrSource, none)
	}
	require.True(t, s.covered(market.M1, span(10, 5)), "a refusal changes nothing")
	out, err := forget(removal.Order{Symbol: btc, Range: market.Always, Source: "coinbase"})
	require.NoError(t, err)
	require.Equal(t, "coinbase", out.Source)
	var vendorID string
	var listed time.Time
	require.NoError(t, s.db.Pool.QueryRow(t.Context(), `SELECT vendor_id, listed_at FROM barkeep.symbol`).Scan(&vendorID, &listed))
	require.Equal(t, "BTC-USD", vendorID)
	require.Equal(t, 2015, listed.UTC().Year())
	require.False(t, s.covered(market.M1, span(10, 5)))
}

// The sequence: retention deletes rows and leaves a gap. The next who asks has them fetched again, and retention deletes them again, for
// ever. And: it deletes what a daily bar was rolled up from, and the daily bar goes too.
func TestRule3_RetentionIsUnavailableNotAGap(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	k := s.keeper(map[market.Timeframe]time.Duration{market.M1: 8 * 24 * time.Hour})
	s.fill(market.M1, span(9, 5))
	s.fill(market.D1, span(9, 5))
	s.cover(market.M1, market.Range{Start: market.NegInf, End: day(9)}, coverage.Absent, 1, 0)
	s.cover(market.M1, span(9, 5), coverage.Final, 1, 0)
	s.cover(market.D1, span(9, 5), coverage.Final, 1, market.M1)
	require.NoError(t, k.Retire(t.Context()))
	gap, unavailable := s.missing(market.M1, span(20, 5))
	require.Equal(t, market.RangeSet{span(9, 8)}, gap, "absent stays absent")
	require.Len(t, unavailable, 1)
	require.Equal(t, coverage.Retention, unavailable[0].Reason)
	require.True(t, s.covered(market.D1, span(9, 5)), "days are kept for as long as days are")
	version := s.version()
	require.NoError(t, k.Retire(t.Context()))
	require.Equal(t, version, s.version(), "nothing is retired twice")

	require.NoError(t, k.Sweep(t.Context()))
	require.EqualValues(t, 4*1440, s.rows(market.M1, span(9, 5)), "the second step comes later")
	s.age(coverage.DefaultLease + removal.DefaultGrace)
	require.NoError(t, k.Sweep(t.Context()))
	require.Zero(t, s.rows(market.M1, span(9, 8)))
	require.EqualValues(t, 3*1440, s.rows(market.M1, span(8, 5)))
	require.EqualValues(t, 4, s.rows(market.D1, span(9, 5)))
	gap, unavailable = s.missing(market.M1, span(20, 5))
	require.Equal(t, market.RangeSet{span(9, 8)}, gap)
	require.Len(t, unavailable, 1, "it stays known")

	// A day later the edge has moved: what is retired is one segment again.
	later := s.keeper(map[market.Timeframe]time.Duration{market.M1: 7 * 24 * time.Hour})
	require.NoError(t, later.Retire(t.Context()))
	s.age(coverage.DefaultLease + removal.DefaultGrace)
	require.NoError(t, later.Sweep(t.Context()))
	require.Zero(t, s.rows(market.M1, span(9, 7)))
	_, unavailable = s.missing(market.M1, span(20, 5))
	require.Len(t, unavailable, 1)
	require.Equal(t, span(9, 7), unavailable[0].Range)

	// Who wants them after all has them forgotten: then they are a gap.
	_, err := removal.Forget(t.Context(), s.db.Pool, removal.Order{Symbol: btc, Timeframe: market.M1, Range: market.Always})
	require.NoError(t, err)
	_, unavailable = s.missing(market.M1, span(20, 5))
	require.Empty(t, unavailable)
}

// Many rows go in several transactions, by however many keepers.
func TestSweepIsCutIntoPieces(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	all := span(80, 5)
	s.fill(market.M1, all)
	s.cover(market.M1, all, coverage.Final, 1, 0)
	_, err := removal.Forget(t.Context(), s.db.Pool, removal.Order{Symbol: btc, Timeframe: market.M1, Range: all})
	require.NoError(t, err)
	s.age(coverage.DefaultLease + removal.DefaultGrace)
	before := s.version()
	keepers := []*removal.Keeper{s.keeper(nil), s.keeper(nil)}
	var group sync.WaitGroup
	for _, k := range keepers {
		group.Go(func() {
			if err := k.Sweep(t.Context()); err != nil {
				t.Errorf("sweep: %v", err)
			}
		})
	}
	group.Wait()
	require.Zero(t, s.rows(market.M1, all))
	require.EqualValues(t, 75*1440, keepers[0].Stats().Rows+keepers[1].Stats().Rows)
	require.EqualValues(t, 3, s.version()-before, "transactions of at most 50,000 rows")
}

// Run does both steps, and shows where it is.
func TestKeeperRuns(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.fill(market.H1, span(40, 5))
	s.cover(market.H1, span(40, 5), coverage.Final, 1, 0)
	var actors actor.Registry
	k, err := removal.New(removal.Config{
		Pool: s.db.Pool, Lease: time.Millisecond, Grace: time.Millisecond, Every: 20 * time.Millisecond, Actors: &actors,
		Keep: map[market.Timeframe]time.Duration{market.H1: 30 * 24 * time.Hour},
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- k.Run(ctx) }()
	require.Eventually(t, func() bool { return s.rows(market.H1, span(40, 5)) == 25*24 }, 30*time.Second, 10*time.Millisecond)
	require.Eventually(t, func() bool { return k.Stats().Rows == 10*24 }, 30*time.Second, time.Millisecond, "they are counted once that is committed")
	require.Len(t, actors.Machines(), 1)
	cancel()
	require.NoError(t, <-ended)
	require.Zero(t, actors.Undeclared())
	require.EqualValues(t, 10*24, k.Stats().Rows)
	require.EqualValues(t, 1, k.Stats().Retired)
	_, err = removal.New(removal.Config{})
	require.Error(t, err)
}

// The sequence: some of what is forgotten was lent. Were it not forgotten where it was lent from, the very bars would be lent again; what that
// symbol has besides, and what was lent elsewhere, stays.
func TestRule8_WhatWasLentIsForgottenAtTheLender(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.exec(`INSERT INTO barkeep.symbol (symbol, source, vendor_id) VALUES ('alt:BTCUSD', 'alt', 'Y')`)
	known := func(symbol market.Symbol, r market.Range, source string, retry any) {
		s.exec(`INSERT INTO barkeep.coverage (symbol, timeframe, range_start, range_end, state, source, generation, fetched_at, retry_at)
		  VALUES ($1, '1h', $2, $3, 1, $4, 1, '2024-01-01', $5)`, string(symbol), coverage.Timestamptz(r.Start), coverage.Timestamptz(r.End), source, retry)
	}
	known(btc, span(40, 30), "alt", time.Now().Add(time.Hour))
	known(btc, span(30, 20), "binance", nil)
	known("alt:BTCUSD", span(50, 10), "alt", nil)
	out, err := removal.Forget(t.Context(), s.db.Pool, removal.Order{Symbol: btc, Timeframe: market.H1, Range: span(35, 25)})
	require.NoError(t, err)
	require.Equal(t, []market.Symbol{"alt:BTCUSD"}, out.Lenders)
	now := market.FromTime(time.Now())
	for symbol, gone := range map[market.Symbol]market.Range{btc: span(35, 25), "alt:BTCUSD": span(35, 30)} {
		whole := market.RangeSet{span(40, 20)}
		require.Equal(t, market.RangeSet{gone}, s.index().Missing(market.Series{Symbol: symbol, Timeframe: market.H1}, whole, 0, now), "%s", symbol)
	}
	out, err = removal.Forget(t.Context(), s.db.Pool, removal.Order{Symbol: btc, Range: span(30, 20)})
	require.NoError(t, err)
	require.Empty(t, out.Lenders)
}
