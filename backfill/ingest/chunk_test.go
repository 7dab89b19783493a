package ingest_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"barkeep/backfill/coverage"
	"barkeep/internal/dbtest"
	"barkeep/internal/market"
)

// lease is longer than a poll and shorter than the default, so that the test is quick.
const lease = 2 * time.Second

// follow runs an index as a process has it.
func follow(t *testing.T, w *world) *coverage.Store {
	t.Helper()
	store := coverage.NewStore(w.Pool, coverage.Config{Poll: 200 * time.Millisecond, Lease: lease})
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- store.Run(ctx) }()
	t.Cleanup(func() { cancel(); require.NoError(t, <-ended) })
	return store
}

// chunkOf returns the table that holds the bars of an instant.
func chunkOf(t *testing.T, w *world, at market.Instant) string {
	t.Helper()
	var name string
	require.NoError(t, w.Pool.QueryRow(t.Context(), `SELECT tableoid::regclass::text FROM public.ohlcv WHERE ts = $1`,
		coverage.Timestamptz(at)).Scan(&name))
	return name
}

// The sequence: bars are covered in every process's index; a chunk goes, no trigger fires, nothing is notified; without
// the comparison a SELECT would pass and find a silent hole.
func TestRule7_ALostChunkIsAGapWithinTheLease(t *testing.T) {
	t.Parallel()
	const year = 365 * 24 * 60
	for name, lose := range map[string]func(chunk string) string{
		"drop_chunks":    func(string) string { return `SELECT public.drop_chunks('public.ohlcv', '2023-06-01'::timestamptz)` },
		"DROP TABLE":     func(chunk string) string { return `DROP TABLE ` + chunk },
		"TRUNCATE":       func(chunk string) string { return `TRUNCATE ` + chunk },
		"made anew":      func(chunk string) string { return `DROP TABLE ` + chunk },
		"truncated anew": func(chunk string) string { return `TRUNCATE ` + chunk },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, dbtest.New(t))
			skipWithoutHypertable(t, w)
			w.commit(t, page(0, 10, 1, 9e7), page(-2*year, 10, 1, 9e7))
			var others []*coverage.Store
			for range 2 { // two processes
				others = append(others, follow(t, w))
			}
			lost := market.RangeSet{{Start: t0 - 2*year*minute, End: t0 - 2*year*minute + 10*minute}}
			kept := market.RangeSet{{Start: t0, End: t0 + 10*minute}}
			now := t0 + 1_000*minute
			for _, s := range others {
				until(t, s, func(x *coverage.Index) bool { return x.Covered(btc, lost, 0, now) && x.Covered(btc, kept, 0, now) })
			}
			_, err := w.Pool.Exec(t.Context(), lose(chunkOf(t, w, lost[0].Start)))
			require.NoError(t, err)
			if name == "made anew" || name == "truncated anew" { // a page lands before anybody has compared
				w.commit(t, page(-2*year+20, 10, 1, 9e7))
			}
			began := time.Now()
			for _, s := range others {
				until(t, s, func(x *coverage.Index) bool { return !x.Covered(btc, lost, 0, now) })
				require.Less(t, time.Since(began), lease)
				require.Equal(t, lost, s.Snapshot().Missing(btc, lost, 0, now))
				require.True(t, s.Snapshot().Covered(btc, kept, 0, now), "other chunks are not touched")
			}
			// It is filled again and holds: one loss withdraws once.
			w.commit(t, page(-2*year, 40, 2, 9e7))
			for _, s := range others {
				require.NoError(t, s.Refresh(t.Context()))
				require.NoError(t, s.Refresh(t.Context()))
				require.True(t, s.Snapshot().Covered(btc, lost, 0, now))
			}
			require.Len(t, w.closes(t, btc), 50)
		})
	}
}

// What rewrites a chunk's table loses no row.
func TestRule7_ARewrittenChunkKeepsItsCoverage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, dbtest.New(t))
	skipWithoutHypertable(t, w)
	w.commit(t, page(0, 10, 1, 9e7))
	_, err := w.Pool.Exec(t.Context(), `VACUUM FULL `+chunkOf(t, w, t0), pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	require.Len(t, w.segments(t, btc), 1)
	_, err = w.Pool.Exec(t.Context(), `TRUNCATE `+chunkOf(t, w, t0))
	require.NoError(t, err)
	require.Empty(t, w.segments(t, btc), "a later loss is still seen")
}

// A single statement's answer outside the lease compares too.
func TestRule7_OneSymbolReadAnewSeesTheLoss(t *testing.T) {
	t.Parallel()
	w := newWorld(t, dbtest.New(t))
	skipWithoutHypertable(t, w)
	w.commit(t, page(0, 10, 1, 9e7))
	store := coverage.NewStore(w.Pool, coverage.Config{})
	require.NoError(t, store.Load(t.Context()))
	require.Equal(t, 1, store.Snapshot().Len())
	_, err := w.Pool.Exec(t.Context(), `DROP TABLE `+chunkOf(t, w, t0))
	require.NoError(t, err)
	require.NoError(t, store.RefreshSymbol(t.Context(), btc.Symbol))
	require.Zero(t, store.Snapshot().Len())
}

func skipWithoutHypertable(t *testing.T, w *world) {
	t.Helper()
	var hyper bool
	require.NoError(t, w.Pool.QueryRow(t.Context(), `SELECT to_regclass('_timescaledb_catalog.chunk') IS NOT NULL`).Scan(&hyper))
	if !hyper {
		t.Skip("this server has no TimescaleDB")
	}
}

// until waits on the store's own channel until the condition holds.
func until(t *testing.T, s *coverage.Store, holds func(*coverage.Index) bool) {
	t.Helper()
	timeout := time.After(10 * time.Second)
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
