package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kgo"

	"barkeep/backfill/coverage"
	"barkeep/backfill/source"
	"barkeep/backfill/topic"
	"barkeep/internal/market"
	"barkeep/internal/schema"
)

// Level is how bad a finding is.
type Level int

// The levels.
const (
	// Fine needs nothing.
	Fine Level = iota
	// Doubtful works, and could be better.
	Doubtful
	// Wrong does not work, or not as promised.
	Wrong
)

// String returns the level as it is shown.
func (l Level) String() string { return [...]string{"ok", "warning", "WRONG"}[l] }

// Finding is the outcome of one check.
type Finding struct {
	// Subject is what was looked at: database, broker, a source.
	Subject string
	Level   Level
	Text    string
	// Advice says what to do, empty where there is nothing to do.
	Advice string
}

// patience bounds each question to a server or a vendor.
const patience = 20 * time.Second

// leastLocks is what a read of a long history needs of max_locks_per_transaction (PIPELINE 23).
const leastLocks = 256

// leastChunk is the chunk interval below which a read of a long history takes too many locks.
const leastChunk = 180 * 24 * time.Hour

// wrong returns the finding for a check that failed itself.
func wrong(subject string, err error, advice string) Finding {
	return Finding{Subject: subject, Level: Wrong, Text: err.Error(), Advice: advice}
}

// NoDatabase is the finding where none can be connected to.
func NoDatabase(err error) Finding {
	if errors.Is(err, schema.ErrInRecovery) {
		return wrong("database", err, "give upstream.url the primary's address, or several hosts: it is found among them")
	}
	return wrong("database", err, "start the database, and see that upstream.url names it and its password; barkeep serve without upstream.url runs its own")
}

// Database looks at the database.
func Database(ctx context.Context, pool *pgxpool.Pool) (list []Finding) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	add := func(level Level, text, advice string) {
		list = append(list, Finding{Subject: "database", Level: level, Text: text, Advice: advice})
	}
	current, newest, err := schema.Version(ctx, pool)
	if err != nil {
		return []Finding{NoDatabase(err)}
	}
	switch {
	case current < newest:
		add(Wrong, fmt.Sprintf("the schema has version %d, this barkeep needs %d", current, newest), "run barkeep migrate")
		return list
	case current > newest:
		add(Wrong, fmt.Sprintf("the schema has version %d, this barkeep knows up to %d", current, newest), "use a newer barkeep")
		return list
	}
	var server string
	var locks, chunkSeconds int64
	var hyper, member bool
	var disabled int
	err = pool.QueryRow(ctx, `SELECT current_setting('server_version'), current_setting('max_locks_per_transaction')::bigint,
	    to_regclass('_timescaledb_catalog.hypertable') IS NOT NULL, pg_has_role(current_user, 'barkeep_service', 'member'),
	    (SELECT count(*) FROM pg_trigger WHERE tgrelid = 'public.ohlcv'::regclass AND tgname LIKE 'barkeep\_guard%' AND tgenabled = 'D')`).
		Scan(&server, &locks, &hyper, &member, &disabled)
	if err != nil {
		return append(list, NoDatabase(err))
	}
	kind := "without TimescaleDB: ohlcv is a plain table"
	if hyper {
		kind = "with TimescaleDB"
		if err := pool.QueryRow(ctx, `SELECT coalesce(max(d.interval_length), 0) / 1000000 FROM _timescaledb_catalog.dimension d
		  JOIN _timescaledb_catalog.hypertable h ON h.id = d.hypertable_id WHERE h.schema_name = 'public' AND h.table_name = 'ohlcv'`).Scan(&chunkSeconds); err != nil {
			return append(list, wrong("database", err, ""))
		}
	}
	add(Fine, "PostgreSQL "+server+" "+kind, "")
	if hyper && locks < leastLocks {
		add(Wrong, fmt.Sprintf("max_locks_per_transaction is %d, and reads of long histories need %d: with several at once the server runs out of shared memory", locks, leastLocks),
			fmt.Sprintf("ALTER SYSTEM SET max_locks_per_transaction = %d, and restart the server", leastLocks))
	}
	if chunk := time.Duration(chunkSeconds) * time.Second; hyper && chunk > 0 && chunk < leastChunk {
		add(Doubtful, fmt.Sprintf("chunks of ohlcv are of %s: a read takes two locks for each", chunk), "SELECT set_chunk_time_interval('public.ohlcv', INTERVAL '365 days'), for those to come")
	}
	if !member {
		add(Wrong, "barkeep's user is no member of barkeep_service, so it may not write bars", "GRANT barkeep_service TO it")
	}
	if disabled > 0 {
		add(Wrong, "triggers that guard ohlcv are disabled: rows can be changed without anybody knowing", "ALTER TABLE public.ohlcv ENABLE TRIGGER ALL, then barkeep audit")
	}
	return append(list, databaseClock(ctx, pool))
}

func databaseClock(ctx context.Context, pool *pgxpool.Pool) Finding {
	store := coverage.NewStore(pool, coverage.Config{})
	if err := store.Refresh(ctx); err != nil {
		return wrong("database", err, "")
	}
	skew := store.Skew()
	off := ((skew.Least + skew.Most) / 2).Round(time.Millisecond)
	if skew.Doubtful() {
		return Finding{
			Subject: "clock", Level: Wrong, Text: fmt.Sprintf("the database's clock is %s from this machine's: beyond %s no page becomes final", off, coverage.MaxSkew),
			Advice: "synchronize both clocks, by NTP",
		}
	}
	return Finding{Subject: "clock", Text: fmt.Sprintf("the database's is %s from this machine's", off)}
}

// Broker looks at the broker and barkeep's topics there. deployment is the database's, empty where that is not known.
func Broker(ctx context.Context, opts []kgo.Opt, names topic.Names, deployment string) (list []Finding) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	add := func(level Level, text, advice string) {
		list = append(list, Finding{Subject: "broker", Level: level, Text: text, Advice: advice})
	}
	found, err := topic.Inspect(ctx, opts, names)
	if err != nil {
		return []Finding{wrong("broker", err, "start the broker, and see that brokers and broker.* are right; barkeep serve without brokers runs its own")}
	}
	add(Fine, fmt.Sprintf("%d brokers, %d of barkeep's topics", found.Brokers, found.Topics), "")
	if len(found.Missing) > 0 {
		add(Doubtful, "topics are missing: "+strings.Join(found.Missing, ", "), "they are made when a barkeep starts; if one runs, topic_prefix is another here")
	}
	if len(found.Misshapen) > 0 {
		add(Wrong, "topics have another number of partitions than barkeep made: "+strings.Join(found.Misshapen, ", "), "set another topic_prefix: partition counts never change in place")
	}
	if len(found.Thin) > 0 {
		add(Doubtful, "topics have fewer copies than there are brokers for: "+strings.Join(found.Thin, ", "), "raise their replication factor, or set another topic_prefix: new topics have up to three copies")
	}
	if found.Owner != "" && deployment != "" && found.Owner != deployment {
		add(Wrong, "the topics belong to another deployment, "+found.Owner, "set topic_prefix, or name the right brokers or database")
	}
	return list
}

// Sources looks at each source: whether its list can be read, and how its clock stands.
func Sources(ctx context.Context, registry *source.Registry, report func(Finding)) {
	for _, s := range registry.All() {
		report(lookAt(ctx, s))
	}
}

func lookAt(ctx context.Context, s source.Source) Finding {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	subject := "source " + s.Name()
	advice := "see that this machine may connect to it and that its key is right, or set sources." + s.Name() + ".enabled to false"
	list, err := s.Instruments(ctx)
	if err != nil {
		return wrong(subject, err, advice)
	}
	if len(list) == 0 {
		return Finding{Subject: subject, Level: Doubtful, Text: "it lists nothing", Advice: advice}
	}
	text := fmt.Sprintf("%d instruments", len(list))
	info := s.Info()
	if info.Local || len(info.Native) == 0 {
		return Finding{Subject: subject, Text: text}
	}
	tf := info.Native[0]
	now := tf.Floor(market.FromTime(time.Now()))
	answer, err := s.Fetch(ctx, source.Query{
		VendorID: alive(list, now), Series: market.Series{Symbol: market.Symbol(s.Name()), Timeframe: tf},
		Range: market.Range{Start: tf.Add(now, -5), End: now},
	})
	switch {
	case err != nil:
		return wrong(subject, err, advice)
	case answer.Skew.Abs() > source.MaxSkew:
		return Finding{
			Subject: subject, Level: Wrong, Text: fmt.Sprintf("%s; its clock is at least %s from this machine's: beyond %s none of its pages becomes final", text, answer.Skew.Abs().Round(time.Second), source.MaxSkew),
			Advice: "synchronize this machine's clock, by NTP",
		}
	}
	return Finding{Subject: subject, Text: text + ", and bars"}
}

// alive returns an instrument that is traded now, else any.
func alive(list []source.Instrument, now market.Instant) string {
	for _, i := range list {
		if i.Delisted > now {
			return i.VendorID
		}
	}
	return list[0].VendorID
}
