package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// measureConnect compares what a connection costs that is made for one statement: a process of the database's straight and through barkeep,
// while PgBouncer has one left over from the client before.
func (b *bench) measureConnect(ctx context.Context) error {
	pgbench, err := findPgbench()
	if err != nil {
		return err
	}
	script := filepath.Join(b.folder, "connect.sql")
	if err := os.WriteFile(script, []byte("select 1;\n"), 0o600); err != nil {
		return fmt.Errorf("write a script: %w", err)
	}
	addresses, order := b.addresses()
	for _, clients := range []int{1, 8} {
		rates := rateSeries{}
		for round := range b.rounds {
			var runs []func() error
			for _, address := range order {
				runs = append(runs, func() error {
					rate, err := b.runPgbench(ctx, pgbench, addresses[address], script, "simple", clients, "-C", "-T", strconv.Itoa(b.seconds))
					rates[address] = append(rates[address], rate)
					return err
				})
			}
			if err := inTurn(round, runs); err != nil {
				return fmt.Errorf("%d clients: %w", clients, err)
			}
		}
		name := fmt.Sprintf("a connection and select 1, %d clients", clients)
		b.report.measure(name+", direct", "tps", median(rates["direct"]), 0)
		if len(rates["PgBouncer"]) > 0 {
			b.report.compare(name+", PgBouncer", "tps", rates["PgBouncer"], "direct", rates["direct"], false, 0)
		}
		b.report.compare(name, "tps", rates["barkeep"], "direct", rates["direct"], false, 0)
	}
	return nil
}
