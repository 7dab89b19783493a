package coverage_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"barkeep/backfill/coverage"
	"barkeep/internal/market"
)

// TestRule3_ALedgerOfStretches: a ledger holds each segment that overlaps or touches one of its stretches, once, and no other.
func TestRule3_ALedgerOfStretches(t *testing.T) {
	t.Parallel()
	db := bound(t)
	const size = 40
	rapid.Check(t, func(r *rapid.T) {
		_, err := db.Pool.Exec(t.Context(), `DELETE FROM barkeep.coverage`)
		require.NoError(r, err)
		var stored []coverage.Segment
		at := 0
		for k := range rapid.IntRange(0, 8).Draw(r, "segments") {
			at += rapid.IntRange(0, 4).Draw(r, "gap")
			end := at + rapid.IntRange(1, 6).Draw(r, "length")
			s := final(at, end, 1e6)
			if k%2 == 1 { // so that they do not merge
				s.State = coverage.Absent
			}
			if k == 0 && rapid.Bool().Draw(r, "since ever") {
				s.Range.Start = market.NegInf
			}
			stored, at = append(stored, s), end
		}
		apply(t, db, stored...)
		var stretches []market.Range
		for range rapid.IntRange(1, 4).Draw(r, "stretches") {
			from := rapid.IntRange(0, size).Draw(r, "from")
			stretches = append(stretches, minutes(from, from+rapid.IntRange(1, 5).Draw(r, "length")))
		}
		if rapid.IntRange(0, 5).Draw(r, "without end") == 0 {
			stretches[0].End = market.PosInf
		}
		var want []coverage.Segment
		for _, s := range stored {
			for _, stretch := range stretches {
				if s.Range.End >= stretch.Start && s.Range.Start <= stretch.End {
					want = append(want, s)
					break
				}
			}
		}
		require.NoError(r, pgx.BeginFunc(t.Context(), db.Pool, func(tx pgx.Tx) error {
			ledger, err := coverage.ReadLedger(t.Context(), tx, btc, stretches...)
			require.NoError(r, err)
			require.ElementsMatch(r, want, ledger.Segments())
			return nil
		}))
	})
}
