package ingest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"barkeep/backfill/coverage"
	"barkeep/internal/market"
)

// maxAhead is how far a page's fetched_at may lie ahead of the database's clock (PIPELINE 6).
const maxAhead = 5 * time.Second

// Writer commits batches. It is safe for concurrent use.
type Writer struct {
	pool   *pgxpool.Pool
	logger *slog.Logger
	chunks chunkCache
	// unready is set once the server refuses for good to have chunks made beforehand: see prepareChunks.
	unready atomic.Bool
}

// New returns a writer that writes through pool, whose connections have the service settings (schema.PoolConfig) and which
// stays the caller's. A nil logger discards.
func New(pool *pgxpool.Pool, logger *slog.Logger) *Writer {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Writer{pool: pool, logger: logger}
}

// Commit writes a batch in one transaction (PIPELINE 19) and returns what it did. After an error nothing was written,
// unless the connection broke during the commit itself: then the offset row tells. It returns an OffsetError where the
// row is not at b.From, PageError for a page that contradicts itself, and the database's errors.
func (w *Writer) Commit(ctx context.Context, b Batch) (Result, error) {
	if len(b.Records) == 0 {
		return Result{}, nil
	}
	for i := range b.Records {
		r := &b.Records[i]
		if before := (Batch{Records: b.Records[:i]}); !before.Takes(r) {
			return Result{}, fmt.Errorf("check record %d: %w", r.Offset, errRollUp)
		}
		if r.Page == nil {
			continue
		}
		if err := check(r.Page); err != nil {
			return Result{}, fmt.Errorf("check record %d: %w", r.Offset, err)
		}
	}
	if err := w.prepareChunks(ctx, b); err != nil {
		return Result{}, err
	}
	result, err := w.commit(ctx, b, false)
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == pgerrcode.UniqueViolation {
		// Rows appeared where there were none a moment ago: somebody writes under barkeep.maintenance.
		result, err = w.commit(ctx, b, true)
	}
	return result, err
}

// Position reads the offset row of p; found is false where there is none.
func (w *Writer) Position(ctx context.Context, p Partition) (at Position, found bool, err error) {
	err = w.pool.QueryRow(ctx, `SELECT next_offset, last_record_id FROM barkeep.ingest_offset
	  WHERE cluster_id = $1 AND topic_id = $2 AND partition = $3`, p.ClusterID, p.TopicID, p.Number).Scan(&at.Next, &at.LastID)
	if errors.Is(err, pgx.ErrNoRows) {
		return Position{}, false, nil
	}
	if err != nil {
		return Position{}, false, fmt.Errorf("read offset of partition %d: %w", p.Number, err)
	}
	return at, true, nil
}

// Reset puts the offset row of p from one position to another without any record: where the log no longer holds what the
// row says (PIPELINE 20). It returns an OffsetError where the row is not at from.
func (w *Writer) Reset(ctx context.Context, p Partition, from, to Position) error {
	err := pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
		if _, err := lockOffset(ctx, tx, p, from); err != nil {
			return err
		}
		batch := &pgx.Batch{}
		queueOffset(batch, p, to)
		return tx.SendBatch(ctx, batch).Close()
	})
	if err != nil {
		return fmt.Errorf("reset offset of partition %d: %w", p.Number, err)
	}
	return nil
}

func (w *Writer) commit(ctx context.Context, b Batch, staged bool) (Result, error) {
	var result Result
	err := pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
		defer w.watchLocks(ctx, tx)()
		if _, err := tx.Exec(ctx, `SET LOCAL synchronous_commit = on; SET LOCAL lock_timeout = '2s'`,
			pgx.QueryExecModeSimpleProtocol); err != nil {
			return fmt.Errorf("set up transaction: %w", err)
		}
		bound, err := coverage.LockSymbols(ctx, tx, symbols(b.Records))
		if err != nil {
			return err
		}
		now, err := lockOffset(ctx, tx, b.Partition, b.From)
		if err != nil {
			return err
		}
		plan, err := makePlan(ctx, tx, b.Records, bound, now)
		if err != nil {
			return err
		}
		if err := plan.writeRows(ctx, tx, staged); err != nil {
			return err
		}
		result = plan.result
		return plan.finish(ctx, tx, b)
	})
	if err != nil {
		return Result{}, fmt.Errorf("commit batch of %d records from offset %d of partition %d: %w", len(b.Records),
			b.Records[0].Offset, b.Partition.Number, err)
	}
	return result, nil
}

// errRollUp is the caller's mistake: what the batch stores would not be seen by the roll-up.
var errRollUp = errors.New("a roll-up begins a batch, and no page follows in it")

func symbols(records []Record) []market.Symbol {
	var list []market.Symbol
	var last market.Symbol
	for _, r := range records {
		symbol := last
		switch {
		case r.Page != nil:
			symbol = r.Page.Series.Symbol
		case r.RollUp != nil:
			symbol = r.RollUp.Series.Symbol
			if lender := r.RollUp.Lender; lender != "" {
				list = append(list, lender)
			}
		}
		if symbol != last {
			last = symbol
			list = append(list, last)
		}
	}
	return list
}

// lockOffset locks the partition's row and compares it with want. It returns the database's clock.
func lockOffset(ctx context.Context, tx pgx.Tx, p Partition, want Position) (now market.Instant, err error) {
	if _, err := tx.Exec(ctx, `INSERT INTO barkeep.ingest_offset (cluster_id, topic_id, partition, next_offset, last_record_id)
	  VALUES ($1, $2, $3, 0, '') ON CONFLICT DO NOTHING`, p.ClusterID, p.TopicID, p.Number); err != nil {
		return 0, fmt.Errorf("make offset row: %w", err)
	}
	var found Position
	var clock time.Time
	if err := tx.QueryRow(ctx, `SELECT next_offset, last_record_id, pg_catalog.clock_timestamp() FROM barkeep.ingest_offset
	  WHERE cluster_id = $1 AND topic_id = $2 AND partition = $3 FOR UPDATE`, p.ClusterID, p.TopicID, p.Number).
		Scan(&found.Next, &found.LastID, &clock); err != nil {
		return 0, fmt.Errorf("lock offset row: %w", err)
	}
	if found != want {
		return 0, &OffsetError{Partition: p, Wanted: want, Found: found}
	}
	return market.FromTime(clock), nil
}

func queueOffset(batch *pgx.Batch, p Partition, to Position) {
	batch.Queue(`UPDATE barkeep.ingest_offset SET next_offset = $4, last_record_id = $5, updated_at = pg_catalog.now()
	  WHERE cluster_id = $1 AND topic_id = $2 AND partition = $3`, p.ClusterID, p.TopicID, p.Number, to.Next, to.LastID)
}

// finish stores coverage, jobs and offset.
func (p *plan) finish(ctx context.Context, tx pgx.Tx, b Batch) error {
	batch := &pgx.Batch{}
	for _, symbol := range p.order {
		ledgers := make([]*coverage.Ledger, len(p.series[symbol]))
		for i, s := range p.series[symbol] {
			ledgers[i] = s.ledger
		}
		if coverage.QueueLedgers(batch, ledgers...) {
			coverage.QueueVersion(batch, symbol)
		}
	}
	if r := p.span(); !r.Empty() {
		coverage.QueueChunks(batch, r)
	}
	p.jobs.queue(batch)
	queueOffset(batch, b.Partition, b.To())
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("write coverage, jobs and offset: %w", err)
	}
	return nil
}
