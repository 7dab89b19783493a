package directory

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"barkeep/backfill/coverage"
	"barkeep/backfill/source"
	"barkeep/internal/market"
)

// WantedChannel is where a wish for a reading is notified, as the source's name.
const WantedChannel = "barkeep_source_wanted"

// Announce makes the rows of the sources, in order of preference, all at once: who finds any row finds all of this
// producer's. Those that are disabled are noted as such where they were announced before; of producers that differ the one that started last
// is heard.
func Announce(ctx context.Context, pool *pgxpool.Pool, sources []source.Source, disabled ...string) error {
	names := make([]string, len(sources))
	declared := make([]string, len(sources))
	for rank, s := range sources {
		info := s.Info()
		d := Declared{
			Native: namesOf(info.Native), PageLimit: info.PageLimit, PrefixOnly: info.PrefixOnly, Local: info.Local, Dense: info.Dense,
			Earliest: info.Earliest, Rank: rank,
		}
		text, err := json.Marshal(d)
		if err != nil {
			return fmt.Errorf("describe source %s: %w", s.Name(), err)
		}
		names[rank], declared[rank] = s.Name(), string(text)
	}
	_, err := pool.Exec(ctx, `WITH disabled AS (
	    UPDATE barkeep.source o SET declared = declared || '{"disabled": true}' WHERE name = ANY ($3) AND `+enabled+`
	  ) INSERT INTO barkeep.source (name, declared)
	  SELECT n, d::jsonb FROM unnest($1::text[], $2::text[]) AS u (n, d) ORDER BY n
	  ON CONFLICT (name) DO UPDATE SET declared = excluded.declared WHERE source.declared <> excluded.declared`, names, declared, disabled)
	if err != nil {
		return fmt.Errorf("announce sources: %w", err)
	}
	return nil
}

func namesOf(list []market.Timeframe) (names []string) {
	for _, tf := range list {
		names = append(names, tf.String())
	}
	return names
}

// Refresh reads the list of s and stores it, where it was never read, is older than maxAge, or is wanted. One process at a
// time does so per source, by an advisory lock; where another does, it returns nil. A failure is stored too, for those who
// wait, and returned.
func Refresh(ctx context.Context, pool *pgxpool.Pool, s source.Source, maxAge time.Duration) error {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Release()
	var locked bool
	key := "barkeep.source." + s.Name()
	if err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock(hashtextextended($1, 0))`, key).Scan(&locked); err != nil {
		return fmt.Errorf("lock the list of %s: %w", s.Name(), err)
	}
	if !locked {
		return nil
	}
	defer func() {
		// A connection that is gone has no locks.
		_, _ = conn.Exec(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock(hashtextextended($1, 0))`, key)
	}()
	var due bool
	err = conn.QueryRow(ctx, `SELECT read_at IS NULL OR read_at < now() - make_interval(secs => $2) OR coalesce(wanted_at > read_at, false)
	  FROM barkeep.source WHERE name = $1`, s.Name(), maxAge.Seconds()).Scan(&due)
	if err != nil {
		return fmt.Errorf("read state of source %s: %w", s.Name(), err)
	}
	if !due {
		return nil
	}
	list, err := s.Instruments(ctx)
	if err == nil {
		err = store(ctx, conn.Conn(), s.Name(), list)
	}
	if err != nil {
		_, _ = conn.Exec(context.WithoutCancel(ctx), `WITH failed AS (UPDATE barkeep.source SET error = $2 WHERE name = $1 RETURNING name)
		  SELECT pg_notify('`+Channel+`', name) FROM failed`, s.Name(), err.Error()) // the reading's error is the one to return
		return fmt.Errorf("read instruments of %s: %w", s.Name(), err)
	}
	return nil
}

// store replaces nothing that a list no longer has: a symbol once known is never unknown (PIPELINE 11).
func store(ctx context.Context, conn *pgx.Conn, name string, list []source.Instrument) error {
	ids, symbols, bases, quotes := make([]string, len(list)), make([]string, len(list)), make([]string, len(list)), make([]string, len(list))
	natives := make([]string, len(list))
	listed, delisted := make([]pgtype.Timestamptz, len(list)), make([]pgtype.Timestamptz, len(list))
	for i, e := range list {
		ids[i], symbols[i], bases[i], quotes[i] = e.VendorID, e.Symbol, e.Base, e.Quote
		natives[i] = strings.Join(namesOf(e.Native), ",")
		listed[i] = coverage.Timestamptz(e.Listed)
		if e.Delisted != market.PosInf {
			delisted[i] = coverage.Timestamptz(e.Delisted)
		}
	}
	const incoming = `WITH n AS (SELECT DISTINCT ON (vendor_id, listed_at) * FROM
	    unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::timestamptz[], $8::text[])
	    AS u (vendor_id, symbol, base, quote, listed_at, delisted_at, native)) `
	args := []any{name, ids, symbols, bases, quotes, listed, delisted, natives}
	batch := &pgx.Batch{}
	batch.Queue(incoming+`, unused AS (SELECT count(*) FROM n)
	  DELETE FROM barkeep.instrument i USING n WHERE i.source = $1 AND i.vendor_id = n.vendor_id
	    AND i.listed_at = '-infinity' AND n.listed_at <> '-infinity' AND (i.delisted_at IS NULL OR n.listed_at < i.delisted_at)`, args...)
	batch.Queue(incoming+`INSERT INTO barkeep.instrument (source, vendor_id, symbol, base, quote, listed_at, delisted_at, native)
	  SELECT $1, vendor_id, symbol, base, quote, listed_at, delisted_at, string_to_array(nullif(native, ''), ',') FROM n
	   WHERE listed_at <> '-infinity' OR NOT EXISTS (SELECT FROM barkeep.instrument i
	           WHERE i.source = $1 AND i.vendor_id = n.vendor_id AND i.listed_at <> '-infinity')
	  ON CONFLICT (source, vendor_id, listed_at) DO UPDATE SET symbol = excluded.symbol, base = excluded.base,
	    quote = excluded.quote, delisted_at = excluded.delisted_at, native = excluded.native, read_at = now()`, args...)
	batch.Queue(`UPDATE barkeep.symbol s SET listed_at = coalesce(s.listed_at, nullif(i.listed_at, '-infinity')),
	    delisted_at = coalesce(s.delisted_at, nullif(i.delisted_at, 'infinity'))
	  FROM barkeep.instrument i WHERE s.source = $1 AND i.source = s.source AND i.vendor_id = s.vendor_id
	    AND (s.listed_at IS NULL AND (s.delisted_at IS NULL OR i.listed_at < s.delisted_at) OR s.listed_at = i.listed_at)
	    AND (s.listed_at IS NULL AND i.listed_at <> '-infinity' OR s.delisted_at IS NULL AND i.delisted_at < 'infinity')`, name)
	batch.Queue(`WITH done AS (UPDATE barkeep.source SET read_at = clock_timestamp(), error = '' WHERE name = $1 RETURNING name)
	  SELECT pg_notify('`+Channel+`', name) FROM done`, name)
	tx, err := conn.Begin(ctx)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // after a commit it does nothing
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("store instruments: %w", err)
	}
	if err := relist(ctx, tx, name); err != nil {
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("store instruments: %w", err)
	}
	return nil
}
