// Package ratebucket keeps the limits of sources in the database, so that each holds over all processes that ask with one key
// (PIPELINE 18): a token bucket is one row of barkeep.rate_bucket, by the database's clock.
//
// A pause that a vendor asks for is a debt of the bucket: as many requests as would have been granted until its end. So it needs no
// column of its own, is over by the database's clock, and what follows begins without a burst.
//
// The invariant: between two points in time no more is granted than burst + rate × the time between them. A row that is lost grants a burst
// once more, as does a crash of the server, since a grant does not wait for the disk.
package ratebucket

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"barkeep/backfill/source"
)

// Bucket is the limit of one source and key. It is safe for concurrent use.
type Bucket struct {
	pool  *pgxpool.Pool
	name  string
	rate  float64
	burst int
	log   *slog.Logger
	away  atomic.Bool // the last question failed
}

// limited is a source with a rate limit.
type limited interface{ Limiter() *source.Limiter }

// Share has each of the sources that has a limit share it with all who ask the same database. It is called before they are asked.
func Share(pool *pgxpool.Pool, log *slog.Logger, sources ...source.Source) {
	for _, s := range sources {
		if l, found := s.(limited); found {
			perSecond, burst := l.Limiter().Rate()
			l.Limiter().Share(New(pool, log, l.Limiter().Name(), perSecond, burst))
		}
	}
}

// New returns the bucket of that name, of perSecond requests, above zero, and burst at once. The caller keeps and closes the pool.
func New(pool *pgxpool.Pool, log *slog.Logger, name string, perSecond float64, burst int) *Bucket {
	return &Bucket{pool: pool, name: name, rate: perSecond, burst: max(burst, 1), log: log}
}

// leaseSQL fills the bucket up to now and takes what there is of $4, whole requests. The row is locked before the clock is read, by a CTE
// that is not inlined (FOR UPDATE). A clock that was set back fills nothing, once.
const leaseSQL = `WITH quick AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true)),
  was AS (SELECT b.tokens, b.updated_at FROM barkeep.rate_bucket b, quick WHERE b.source = $1 FOR UPDATE OF b),
  filled AS (
    SELECT c.now, least($3, w.tokens + greatest(extract(epoch FROM c.now - w.updated_at), 0) * $2) AS tokens
      FROM was w, LATERAL (SELECT clock_timestamp() AS now OFFSET 0) c),
  taken AS (SELECT now, tokens, greatest(least($4, floor(tokens)), 0) AS n FROM filled)
UPDATE barkeep.rate_bucket b SET tokens = t.tokens - t.n, updated_at = t.now FROM taken t WHERE b.source = $1
RETURNING t.n::integer, greatest(1 - b.tokens, 0) / $2`

// Lease takes up to want requests out of the bucket.
func (b *Bucket) Lease(ctx context.Context, want int) (granted int, wait time.Duration, err error) {
	granted, wait, err = b.lease(ctx, want)
	b.tell(ctx, err)
	return granted, wait, err
}

// tell logs that the database cannot be reached, once.
func (b *Bucket) tell(ctx context.Context, err error) {
	if away := err != nil && ctx.Err() != context.Canceled; b.away.Swap(away) != away && away {
		b.log.LogAttrs(ctx, slog.LevelWarn, "the limit of a source cannot be shared, half of the last share is used", slog.String("source", b.name), slog.Any("error", err))
	}
}

// pauseSQL takes so much out of the bucket that its first request is there when $4 seconds have passed, and nothing where there is less in it
// already: a longer pause. The row is locked before the clock is read, as in leaseSQL.
const pauseSQL = `WITH was AS MATERIALIZED (SELECT b.tokens, b.updated_at FROM barkeep.rate_bucket b WHERE b.source = $1 FOR UPDATE OF b),
  filled AS (
    SELECT c.now, least($3, w.tokens + greatest(extract(epoch FROM c.now - w.updated_at), 0) * $2) AS tokens
      FROM was w, LATERAL (SELECT clock_timestamp() AS now OFFSET 0) c)
UPDATE barkeep.rate_bucket b SET tokens = least(f.tokens, 1 - $4 * $2), updated_at = f.now FROM filled f WHERE b.source = $1`

// Pause has the bucket grant nothing for d from now, by the database's clock; it never shortens a pause.
func (b *Bucket) Pause(ctx context.Context, d time.Duration) error {
	err := b.pause(ctx, d)
	b.tell(ctx, err)
	return err
}

func (b *Bucket) pause(ctx context.Context, d time.Duration) error {
	if err := b.begin(ctx); err != nil {
		return err
	}
	if _, err := b.pool.Exec(ctx, pauseSQL, b.name, b.rate, float64(b.burst), d.Seconds()); err != nil {
		return fmt.Errorf("pause requests of %s: %w", b.name, err)
	}
	return nil
}

// begin makes the bucket, full, where it is not there.
func (b *Bucket) begin(ctx context.Context) error {
	if _, err := b.pool.Exec(ctx, `INSERT INTO barkeep.rate_bucket (source, tokens, updated_at) VALUES ($1, $2, clock_timestamp()) ON CONFLICT DO NOTHING`, b.name, float64(b.burst)); err != nil {
		return fmt.Errorf("begin the limit of %s: %w", b.name, err)
	}
	return nil
}

func (b *Bucket) lease(ctx context.Context, want int) (granted int, wait time.Duration, err error) {
	for range 2 {
		rows, err := b.pool.Query(ctx, leaseSQL, b.name, b.rate, float64(b.burst), float64(want))
		if err != nil {
			return 0, 0, fmt.Errorf("lease requests of %s: %w", b.name, err)
		}
		var seconds float64
		found := rows.Next()
		if found {
			err = rows.Scan(&granted, &seconds)
		}
		rows.Close()
		if err == nil {
			err = rows.Err()
		}
		if err != nil {
			return 0, 0, fmt.Errorf("lease requests of %s: %w", b.name, err)
		}
		if found && granted == 0 {
			return 0, max(time.Duration(seconds*float64(time.Second)), time.Millisecond), nil
		}
		if found {
			return granted, 0, nil
		}
		if err := b.begin(ctx); err != nil {
			return 0, 0, err
		}
	}
	return 0, time.Second, nil // somebody takes rows away
}
