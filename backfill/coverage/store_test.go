package coverage_test

import (
	"context"
	"net"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"barkeep/backfill/coverage"
	"barkeep/internal/dbtest"
	"barkeep/internal/market"
	"barkeep/internal/netfault"
	"barkeep/internal/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func bound(t *testing.T) *dbtest.DB {
	t.Helper()
	db := dbtest.New(t)
	_, err := db.Pool.Exec(t.Context(), `INSERT INTO barkeep.symbol (symbol, source, vendor_id) VALUES ('sim:BTCUSD', 'sim', 'X')`)
	require.NoError(t, err)
	return db
}

func apply(t *testing.T, db *dbtest.DB, segments ...coverage.Segment) {
	t.Helper()
	require.NoError(t, pgx.BeginFunc(t.Context(), db.Pool, func(tx pgx.Tx) error {
		return coverage.Apply(t.Context(), tx, btc, segments...)
	}))
}

func final(from, to int, fetched market.Instant) coverage.Segment {
	return coverage.Segment{Range: minutes(from, to), State: coverage.Final, Source: "sim", Generation: 1, FetchedAt: fetched}
}

func run(t *testing.T, s *coverage.Store) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() { cancel(); require.NoError(t, <-ended) })
}

// becomes waits until the condition holds, on the store's own channel.
func becomes(t *testing.T, s *coverage.Store, holds func(*coverage.Index) bool) {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		changed := s.Changed()
		if holds(s.Snapshot()) {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			require.Fail(t, "the index never came to that")
		}
	}
}

func TestRule7_NotificationMakesAdditionsFast(t *testing.T) {
	t.Parallel()
	db := bound(t)
	s := coverage.NewStore(db.Pool, coverage.Config{Poll: time.Hour, Lease: 2 * time.Hour})
	require.False(t, s.Valid())
	run(t, s)
	becomes(t, s, func(x *coverage.Index) bool { _, known := x.Version("sim:BTCUSD"); return known })
	require.Eventually(t, s.Valid, 5*time.Second, time.Millisecond)
	before := s.Snapshot()
	apply(t, db, final(0, 10, 1))
	becomes(t, s, func(x *coverage.Index) bool { return x.Covered(btc, market.RangeSet{minutes(0, 10)}, 0, 99*minute) })
	require.False(t, before.Covered(btc, market.RangeSet{minutes(0, 10)}, 0, 99*minute), "a version is immutable")
}

func TestRule7_PollFindsWhatNobodyNotified(t *testing.T) {
	t.Parallel()
	db := bound(t)
	s := coverage.NewStore(db.Pool, coverage.Config{Poll: 20 * time.Millisecond})
	run(t, s)
	apply(t, db, final(0, 10, 1))
	becomes(t, s, func(x *coverage.Index) bool { return x.Len() == 1 })
	// A database that went back in time counts a lower version.
	_, err := db.Pool.Exec(t.Context(), `WITH gone AS (DELETE FROM barkeep.coverage) UPDATE barkeep.symbol SET version = 0`)
	require.NoError(t, err)
	becomes(t, s, func(x *coverage.Index) bool { return x.Len() == 0 })
	_, err = db.Pool.Exec(t.Context(), `DELETE FROM barkeep.symbol`)
	require.NoError(t, err)
	becomes(t, s, func(x *coverage.Index) bool { _, known := x.Version("sim:BTCUSD"); return !known })
}

// The sequence: the database comes back without its last commit, and counts to the same version again with another page.
// Whoever compares the count alone vouches for the lost page until the symbol changes again.
func TestRule7_ADatabaseThatCameBackIsReadAnew(t *testing.T) {
	t.Parallel()
	db := bound(t)
	comeBack := db.Keep(t)
	s := coverage.NewStore(db.Pool, coverage.Config{Poll: 20 * time.Millisecond})
	apply(t, db, final(0, 10, 1))
	run(t, s)
	becomes(t, s, func(x *coverage.Index) bool { return x.Covered(btc, market.RangeSet{minutes(0, 10)}, 0, 99*minute) })
	before, _ := s.Snapshot().Version("sim:BTCUSD")
	comeBack()
	require.Eventually(t, func() bool { return db.Pool.Ping(t.Context()) == nil }, 10*time.Second, 5*time.Millisecond)
	apply(t, db, final(20, 30, 1))
	becomes(t, s, func(x *coverage.Index) bool { return x.Covered(btc, market.RangeSet{minutes(20, 30)}, 0, 99*minute) })
	require.Equal(t, market.RangeSet{minutes(0, 10)}, s.Snapshot().Missing(btc, market.RangeSet{minutes(0, 10)}, 0, 99*minute))
	after, _ := s.Snapshot().Version("sim:BTCUSD")
	require.NotEqual(t, before, after, "what was remembered under the version is not to be found again")
}

// The sequence: the database comes back without its last commit, and nobody has told the index yet: it is within its lease. A
// session that was opened after must not be answered from it.
func TestRule19_AnIndexOfAnotherLifeIsNotReliedOn(t *testing.T) {
	t.Parallel()
	db := bound(t)
	comeBack := db.Keep(t)
	s := coverage.NewStore(db.Pool, coverage.Config{Poll: time.Hour, Lease: time.Hour})
	apply(t, db, final(0, 10, 1))
	require.NoError(t, s.Load(t.Context()))
	need := market.RangeSet{minutes(0, 10)}
	require.True(t, s.Snapshot().OfLife(lifeOf(t, db)))
	comeBack()
	session := lifeOf(t, db)
	require.True(t, s.Valid() && s.Snapshot().Covered(btc, need, 0, 99*minute), "it has not heard")
	require.False(t, s.Snapshot().OfLife(session))
	require.NoError(t, s.RefreshSymbol(t.Context(), "sim:ETHUSD"))
	require.False(t, s.Snapshot().OfLife(session), "of the others it has not heard")
	require.NoError(t, s.Refresh(t.Context()))
	require.True(t, s.Snapshot().OfLife(session))
	require.False(t, s.Snapshot().Covered(btc, need, 0, 99*minute))
}

// lifeOf asks in a session whose settings are not the service's.
func lifeOf(t *testing.T, db *dbtest.DB) (life string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), db.URL)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "set timezone = 'Asia/Kathmandu'; set datestyle = 'SQL, DMY'; set extra_float_digits = -15; set search_path = ''")
	require.NoError(t, err)
	require.NoError(t, conn.QueryRow(t.Context(), "select "+schema.Life).Scan(&life))
	require.NoError(t, conn.Close(t.Context()))
	return life
}

// The sequence: the other end of the connection is gone without a word, as after a failover. The reading that waits for it
// must not keep every other one waiting for as long as TCP does.
func TestRule7_AConnectionWithoutAnAnswerIsGivenUp(t *testing.T) {
	t.Parallel()
	db := bound(t)
	config := db.Pool.Config()
	link := netfault.New(t, net.JoinHostPort(config.ConnConfig.Host, strconv.Itoa(int(config.ConnConfig.Port))))
	host, port, err := net.SplitHostPort(link.Addr())
	require.NoError(t, err)
	number, err := strconv.ParseUint(port, 10, 16)
	require.NoError(t, err)
	config.ConnConfig.Host, config.ConnConfig.Port = host, uint16(number)
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	s := coverage.NewStore(pool, coverage.Config{Poll: 20 * time.Millisecond})
	run(t, s)
	require.Eventually(t, s.Valid, 5*time.Second, time.Millisecond)
	link.Strand()
	defer link.Up() // pgx waits for what it closes
	apply(t, db, final(0, 10, 1))
	becomes(t, s, func(x *coverage.Index) bool { return x.Covered(btc, market.RangeSet{minutes(0, 10)}, 0, 99*minute) })
	require.Eventually(t, s.Valid, 5*time.Second, time.Millisecond)
}

func TestRule7_NotValidBeyondTheLease(t *testing.T) {
	t.Parallel()
	db := bound(t)
	var now atomic.Int64
	now.Store(time.Now().UnixNano())
	s := coverage.NewStore(db.Pool, coverage.Config{Now: func() time.Time { return time.Unix(0, now.Load()) }})
	require.NoError(t, s.Refresh(t.Context()))
	require.True(t, s.Valid())
	now.Add(int64(5*time.Second - 1))
	require.True(t, s.Valid())
	now.Add(1)
	require.False(t, s.Valid())
	apply(t, db, final(0, 10, 1))
	require.NoError(t, pgx.BeginFunc(t.Context(), db.Pool, func(tx pgx.Tx) error {
		return coverage.Withdraw(t.Context(), tx, btc, market.RangeSet{minutes(5, 6)})
	}))
	require.NoError(t, s.Refresh(t.Context()))
	require.True(t, s.Valid())
	require.Equal(t, market.RangeSet{minutes(5, 6)}, s.Snapshot().Missing(btc, market.RangeSet{minutes(0, 10)}, 0, 99*minute))
}

func TestRule7_NotValidOnceTheConnectionBroke(t *testing.T) {
	t.Parallel()
	db := bound(t)
	s := coverage.NewStore(db.Pool, coverage.Config{Poll: time.Hour, Lease: 2 * time.Hour})
	run(t, s)
	require.Eventually(t, s.Valid, 5*time.Second, time.Millisecond)
	lost := make(chan struct{})
	go func() { // the moment without validity may be short
		defer close(lost)
		for s.Valid() {
			runtime.Gosched()
		}
	}()
	_, err := db.Pool.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
	  WHERE datname = current_database() AND query ILIKE 'LISTEN%' OR query ILIKE '%FROM barkeep.symbol%' AND pid <> pg_backend_pid()
	    AND datname = current_database()`)
	require.NoError(t, err)
	<-lost
	require.Eventually(t, s.Valid, 5*time.Second, time.Millisecond, "it comes back")
}

func TestApplyNeedsABinding(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	err := pgx.BeginFunc(t.Context(), db.Pool, func(tx pgx.Tx) error {
		return coverage.Apply(t.Context(), tx, btc, final(0, 1, 1))
	})
	require.ErrorIs(t, err, coverage.ErrUnbound)
}

// The stored segments against a model of minutes: disjoint, merged where they must be, and each minute as its newest
// reading says (but for readings that are older than a merged neighbour's).
func TestRule3And4_SegmentsAgainstModel(t *testing.T) {
	t.Parallel()
	db := bound(t)
	const size = 32
	rapid.Check(t, func(r *rapid.T) {
		_, err := db.Pool.Exec(t.Context(), `DELETE FROM barkeep.coverage`)
		require.NoError(r, err)
		var model [size]coverage.State
		for k := range rapid.IntRange(1, 8).Draw(r, "readings") {
			a, b := rapid.IntRange(0, size).Draw(r, "a"), rapid.IntRange(0, size).Draw(r, "b")
			s := final(min(a, b), max(a, b), market.Instant(k+1)*1_000_000)
			s.State = coverage.State(rapid.Int16Range(1, 4).Draw(r, "state"))
			stale := rapid.IntRange(0, 3).Draw(r, "stale") == 0
			if stale {
				s.FetchedAt = 0 // older than everything
			}
			if s.Range.Empty() {
				continue
			}
			apply(t, db, s)
			for i := min(a, b); i < max(a, b); i++ {
				if (stale && model[i] != 0) || (s.State == coverage.Unavailable && model[i].Settled()) {
					continue
				}
				model[i] = s.State
			}
		}
		store := coverage.NewStore(db.Pool, coverage.Config{})
		require.NoError(r, store.Load(t.Context()))
		list := store.Snapshot().Segments(btc)
		var got [size]coverage.State
		for k, s := range list {
			for i := s.Range.Start / minute; i < s.Range.End/minute; i++ {
				require.Zero(r, got[i], "segments overlap")
				got[i] = s.State
			}
			if k > 0 && list[k-1].Range.End == s.Range.Start && s.State.Settled() {
				require.NotEqual(r, list[k-1].State, s.State, "settled neighbours merge")
			}
		}
		require.Equal(r, model, got)
	})
}

func TestRule6_TheDatabasesClockIsCompared(t *testing.T) {
	t.Parallel()
	db := bound(t)
	for _, off := range []time.Duration{0, 5 * time.Minute, -5 * time.Minute} {
		s := coverage.NewStore(db.Pool, coverage.Config{Now: func() time.Time { return time.Now().Add(-off) }})
		require.Equal(t, coverage.Skew{}, s.Skew())
		require.NoError(t, s.Refresh(t.Context()))
		skew := s.Skew()
		require.LessOrEqual(t, skew.Least, off)
		require.GreaterOrEqual(t, skew.Most, off)
		require.Equal(t, off != 0, skew.Doubtful(), off)
	}
	require.False(t, coverage.Skew{Least: -time.Minute, Most: time.Minute}.Doubtful(), "a slow answer says nothing")
}

// PIPELINE 7: a load of many symbols, which is planned for all of them, has each with its own version and segments, ascending
// whatever the order they are stored in; what is of no symbol is not read, and a symbol without segments is known.
func TestLoadOfManySymbols(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	ctx := t.Context()
	for _, statement := range []string{
		`INSERT INTO barkeep.symbol (symbol, source, vendor_id, version) SELECT format('sim:S%sUSD', n), 'sim', n::text, n FROM generate_series(1, 300) n`,
		`INSERT INTO barkeep.coverage (symbol, timeframe, range_start, range_end, state, source, generation, fetched_at, reason, expires_at, retry_at, derived_from)
		 SELECT format('sim:S%sUSD', n), tf, to_timestamp(k * 600), to_timestamp(k * 600 + 300), CASE WHEN k = 2 THEN 4 ELSE 1 END, 'sim', n, to_timestamp(n),
		        CASE WHEN k = 2 THEN 'since ' || n ELSE '' END, CASE WHEN k = 2 THEN to_timestamp(n + 1) END, CASE WHEN k = 2 THEN 'infinity'::timestamptz END,
		        CASE WHEN tf = '5m' THEN '1m' ELSE '' END
		   FROM generate_series(5, 1, -1) k, generate_series(2, 301) n, unnest(array['5m', '1m']) tf`,
	} {
		_, err := db.Pool.Exec(ctx, statement)
		require.NoError(t, err)
	}
	s := coverage.NewStore(db.Pool, coverage.Config{})
	require.NoError(t, s.Load(ctx))
	index := s.Snapshot()
	require.Equal(t, 299*2*5, index.Len())
	_, known := index.Version("sim:S301USD")
	require.False(t, known)
	_, known = index.Version("sim:S1USD")
	require.True(t, known)
	require.Empty(t, index.Segments(market.Series{Symbol: "sim:S1USD", Timeframe: market.M1}))
	const second = market.Instant(1_000_000)
	for _, n := range []market.Instant{2, 77, 300} {
		symbol := market.Symbol("sim:S" + strconv.Itoa(int(n)) + "USD")
		for tf, from := range map[market.Timeframe]market.Timeframe{market.M1: 0, market.M5: market.M1} {
			var want []coverage.Segment
			for k := market.Instant(1); k <= 5; k++ {
				g := coverage.Segment{
					Range: market.Range{Start: k * 600 * second, End: (k*600 + 300) * second}, State: coverage.Final, Source: "sim",
					Generation: int64(n), FetchedAt: n * second, DerivedFrom: from,
				}
				if k == 2 {
					g.State, g.Reason, g.ExpiresAt, g.RetryAt = coverage.Unavailable, "since "+strconv.Itoa(int(n)), (n+1)*second, market.PosInf
				}
				want = append(want, g)
			}
			require.Equal(t, want, index.Segments(market.Series{Symbol: symbol, Timeframe: tf}))
		}
	}
	require.NoError(t, s.RefreshSymbol(ctx, "sim:S77USD"))
	after := s.Snapshot()
	require.Equal(t, index.Segments(market.Series{Symbol: "sim:S77USD", Timeframe: market.M5}), after.Segments(market.Series{Symbol: "sim:S77USD", Timeframe: market.M5}))
	before, _ := index.Version("sim:S77USD")
	version, _ := after.Version("sim:S77USD")
	require.Equal(t, before, version)
	require.Equal(t, index.Len(), after.Len())
}
