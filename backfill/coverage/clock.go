package coverage

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
)

// Skew is what is known of the database's clock less this process's: it lies from Least to Most, which differ by a round
// trip. The zero value is that of a clock nobody has looked at.
type Skew struct{ Least, Most time.Duration }

// MaxSkew is the distance between two clocks beyond which neither is relied on (PIPELINE 6).
const MaxSkew = 2 * time.Second

// Doubtful reports whether the clocks are certainly further apart than MaxSkew.
func (s Skew) Doubtful() bool { return s.Least > MaxSkew || s.Most < -MaxSkew }

// Skew returns what the last poll saw.
func (s *Store) Skew() Skew { return *s.clock.Load() }

// compareClocks notes how far the database's clock is from ours.
func (s *Store) compareClocks(ctx context.Context, q querier) error {
	ctx, cancel := soon(ctx)
	defer cancel()
	sent := s.config.Now()
	rows, err := q.Query(ctx, `SELECT clock_timestamp()`)
	if err != nil {
		return fmt.Errorf("read the database's clock: %w", err)
	}
	theirs, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[time.Time])
	if err != nil {
		return fmt.Errorf("read the database's clock: %w", err)
	}
	seen := Skew{Least: theirs.Sub(s.config.Now()), Most: theirs.Sub(sent)}
	before := s.clock.Swap(&seen)
	if seen.Doubtful() != before.Doubtful() {
		s.config.Logger.LogAttrs(ctx, slog.LevelWarn, "distance between the database's clock and this machine's: beyond 2 s no page is final",
			slog.Duration("least", seen.Least), slog.Duration("most", seen.Most))
	}
	return nil
}
