package ingest_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"barkeep/backfill/coverage"
	"barkeep/backfill/ingest"
	"barkeep/backfill/topic"
	"barkeep/internal/dbtest"
	"barkeep/internal/market"
)

// A year of minutes through Commit, against one connection's binary COPY of the same rows into the same table: the ratio
// is what decoding, coverage, jobs and offset cost.
func BenchmarkCommitAgainstCopy(b *testing.B) {
	const bars, pageBars = 525_600, 1000
	db := dbtest.New(b)
	_, err := db.Pool.Exec(b.Context(), `INSERT INTO barkeep.symbol (symbol, source, vendor_id) VALUES ('sim:BTCUSD', 'sim', 'X')`)
	require.NoError(b, err)
	var values [][]byte
	var rows []market.Bar
	for from := 0; from < bars; from += pageBars {
		p := page(from, min(pageBars, bars-from), 1.5, 1e7)
		rows = append(rows, p.Bars...)
		values = append(values, topic.MarshalPage(*p))
	}
	for b.Loop() {
		wipe := func() {
			_, err := db.Pool.Exec(b.Context(), `TRUNCATE public.ohlcv, barkeep.coverage, barkeep.chunk`)
			require.NoError(b, err)
		}
		wipe()
		began := time.Now()
		require.NoError(b, plainCopy(b.Context(), db, rows))
		plain := time.Since(began)
		wipe()
		w := ingest.New(db.Pool, nil)
		batch := ingest.Batch{Partition: ingest.Partition{ClusterID: "c", TopicID: uuid.NewString()}}
		began = time.Now()
		for i, value := range values {
			decoded, err := topic.UnmarshalBars(value)
			require.NoError(b, err)
			p := decoded.Page
			batch.Records = append(batch.Records, ingest.Record{Offset: int64(i), ID: p.RecordID, Page: p})
			if len(batch.Records) == ingest.MaxRows/pageBars || i == len(values)-1 {
				_, err := w.Commit(b.Context(), batch)
				require.NoError(b, err)
				batch.From, batch.Records = batch.To(), nil
			}
		}
		ours := time.Since(began)
		b.ReportMetric(plain.Seconds()/ours.Seconds(), "of_copy")
		b.ReportMetric(bars/ours.Seconds(), "bars/s")
	}
}

func plainCopy(ctx context.Context, db *dbtest.DB, rows []market.Bar) error {
	_, err := db.Pool.CopyFrom(ctx, pgx.Identifier{"public", "ohlcv"},
		[]string{"symbol", "timeframe", "ts", "open", "high", "low", "close", "volume"},
		pgx.CopyFromSlice(len(rows), func(i int) ([]any, error) {
			r := &rows[i]
			return []any{"sim:BTCUSD", "1m", coverage.Timestamptz(r.TS), r.Open, r.High, r.Low, r.Close, r.Volume}, nil
		}))
	return err
}
