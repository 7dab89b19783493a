package main

import (
	"context"
	"fmt"
	"strconv"
)

const (
	costStatements = 30_000 // run for one figure
	costClients    = 8
)

// measureCost compares the processor time that a statement costs in the process between: PgBouncer and barkeep for one
// that is passed on, and for one on ohlcv a barkeep that plans it and one that does not, since it serves another database.
func (b *bench) measureCost(ctx context.Context) (err error) {
	pgbench, err := findPgbench()
	if err != nil {
		return err
	}
	scripts, err := b.prepareRates(ctx)
	if err != nil {
		return err
	}
	other, drop, err := b.startOther(ctx)
	if err != nil {
		return err
	}
	defer drop()
	for _, mode := range []string{"simple", "prepared"} {
		costs := map[string][]float64{}
		for round := range b.rounds {
			var runs []func() error
			measured := func(name, script string, p *process) {
				runs = append(runs, func() error {
					cost, err := b.costOf(ctx, pgbench, p, scripts[script], mode)
					costs[name] = append(costs[name], cost)
					return err
				})
			}
			if b.bouncer != nil {
				measured("PgBouncer", "select 1", b.bouncer)
			}
			measured("select 1", "select 1", b.barkeep)
			measured("ohlcv", "ohlcv", b.barkeep)
			measured("relayed", "ohlcv", other)
			if err := inTurn(round, runs); err != nil {
				return err
			}
		}
		b.reportCost(costs, mode)
	}
	return nil
}

func (b *bench) reportCost(costs map[string][]float64, mode string) {
	label := fmt.Sprintf("processor time, %s, %d clients, ", mode, costClients)
	b.report.compare(label+"select 1", "µs", costs["select 1"], "PgBouncer's", costs["PgBouncer"], true, 0)
	b.report.measure(label+"ohlcv, relayed", "µs", median(costs["relayed"]), 0)
	b.report.measure(label+"ohlcv, planned", "µs", median(costs["ohlcv"]), 0)
	var more []float64
	for i := range costs["ohlcv"] {
		more = append(more, costs["ohlcv"][i]-costs["relayed"][i])
	}
	b.report.measure(label+"ohlcv, planned beyond relayed", "µs", median(more), 5)
}

// startOther starts a barkeep that serves a database of its own, so that it relays the sessions on the one that is measured.
func (b *bench) startOther(ctx context.Context) (other *process, drop func(), err error) {
	name := b.database + "_other"
	if err := b.command(ctx, "create database "+name+" template template0"); err != nil {
		return nil, nil, err
	}
	served := b.direct.Copy()
	served.Database = name
	other, err = b.startBarkeep(ctx, "other", urlOf(served))
	drop = func() {
		other.stop()
		if err := b.command(context.WithoutCancel(ctx), "drop database "+name+" with (force)"); err != nil {
			b.report.notes = append(b.report.notes, err.Error())
		}
	}
	if err != nil {
		drop()
		return nil, nil, err
	}
	return other, drop, nil
}

// costOf returns the processor time in µs that the process spent on each statement.
func (b *bench) costOf(ctx context.Context, pgbench string, p *process, script, mode string) (float64, error) {
	before, err := p.processorTime()
	if err != nil {
		return 0, err
	}
	each := costStatements / costClients
	if _, err := b.runPgbench(ctx, pgbench, p.port, script, mode, costClients, "-t", strconv.Itoa(each)); err != nil {
		return 0, err
	}
	after, err := p.processorTime()
	return (after - before) * 1e6 / costStatements, err
}
