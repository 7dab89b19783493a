package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// spent is the processor time in seconds of those who take part in a backfill, on whichever core: the machine's load moves it far less
// than the time that passes.
type spent struct{ barkeep, database, bench float64 }

// spentBy reads the processor time so far: of barkeep, of the database server's processes, and of this one, which is the exchange of a
// backfill and the client of a COPY.
func (b *bench) spentBy() (s spent, err error) {
	for _, part := range []struct {
		into *float64
		of   func() (float64, error)
	}{
		{&s.barkeep, b.barkeep.processorTime},
		{&s.database, func() (float64, error) { return serverTime(b.postmaster) }},
		{&s.bench, ownTime},
	} {
		if *part.into, err = part.of(); err != nil {
			return s, err
		}
	}
	return s, nil
}

// findPostmaster notes the process of the database server that the connection's is a child of.
func (b *bench) findPostmaster(ctx context.Context) error {
	conn, err := pgx.ConnectConfig(ctx, b.direct)
	if err != nil {
		return fmt.Errorf("connect to the database: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	b.postmaster, err = parentOf(int(conn.PgConn().PID()))
	return err
}

// costs collects what bars cost, in microseconds of processor time each.
type costs struct{ barkeep, database, bench []float64 }

// during adds what run has spent on so many bars. Where processor time is unknown it only runs.
func (c *costs) during(b *bench, bars float64, run func() error) error {
	if b.postmaster == 0 {
		return run()
	}
	before, err := b.spentBy()
	if err != nil {
		return err
	}
	if err := run(); err != nil {
		return err
	}
	after, err := b.spentBy()
	if err != nil {
		return err
	}
	c.barkeep = append(c.barkeep, (after.barkeep-before.barkeep)*1e6/bars)
	c.database = append(c.database, (after.database-before.database)*1e6/bars)
	c.bench = append(c.bench, (after.bench-before.bench)*1e6/bars)
	return nil
}

// reportSpent tells what a bar of a backfill has cost, and one by COPY.
func (b *bench) reportSpent(label string, cold, copied *costs) {
	if len(cold.database) == 0 || len(copied.database) == 0 {
		return
	}
	for _, part := range []struct {
		who    string
		values []float64
	}{
		{"barkeep", cold.barkeep},
		{"database", cold.database},
		{"the stand-in exchange", cold.bench},
		{"database, by COPY", copied.database},
		{"the client of COPY", copied.bench},
	} {
		b.report.measure(label+", processor time of a bar, "+part.who, "µs", median(part.values), 0)
	}
}
