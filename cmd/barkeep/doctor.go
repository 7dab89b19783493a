package main

import (
	"fmt"
	"io"
	"os"

	"barkeep/backfill/doctor"
	"barkeep/backfill/source/builtin"
	"barkeep/backfill/topic"
)

type doctorCmd struct {
	Sources bool `help:"Ask the sources too." default:"true" negatable:""`
}

// Run looks at all that barkeep depends on, and says what to do.
func (c *doctorCmd) Run(g *globals) error {
	cfg, err := g.load()
	if err != nil {
		return err
	}
	report := findings{out: os.Stdout}
	t := &tool{cfg: cfg}
	defer t.close()
	deployment := c.database(t, &report)
	report.add(c.broker(t, deployment)...)
	if c.Sources {
		registry, err := builtin.New(sourceConfigs(cfg.Sources))
		if err != nil {
			return err
		}
		doctor.Sources(t.ctx, registry, func(f doctor.Finding) { report.add(f) })
	}
	if report.wrong > 0 {
		return &exitError{code: exitFound, text: fmt.Sprintf("%d things are wrong", report.wrong)}
	}
	return nil
}

// database looks at the database and returns its deployment, empty where that cannot be read.
func (c *doctorCmd) database(t *tool, report *findings) (deployment string) {
	t.begin()
	if err := t.cfg.find(); err != nil {
		report.add(doctor.NoDatabase(err))
		return ""
	}
	if err := t.open(); err != nil {
		report.add(doctor.NoDatabase(err))
		return ""
	}
	report.add(doctor.Database(t.ctx, t.pool)...)
	// A database that was never migrated has none, and that was told.
	_ = t.pool.QueryRow(t.ctx, `SELECT id::text FROM barkeep.deployment`).Scan(&deployment)
	return deployment
}

// broker looks at the broker.
func (c *doctorCmd) broker(t *tool, deployment string) []doctor.Finding {
	if len(t.cfg.Brokers) == 0 {
		return []doctor.Finding{{Subject: "broker", Level: doctor.Doubtful, Text: "none is configured, and no barkeep serve runs one here", Advice: "set brokers"}}
	}
	opts, err := t.brokers()
	if err != nil {
		return []doctor.Finding{{Subject: "broker", Level: doctor.Wrong, Text: err.Error(), Advice: "correct broker.*"}}
	}
	return doctor.Broker(t.ctx, opts, topic.Names{Prefix: t.cfg.TopicPrefix}, deployment)
}

// findings prints what is found.
type findings struct {
	out   io.Writer
	wrong int
}

func (f *findings) add(list ...doctor.Finding) {
	for _, each := range list {
		_, _ = fmt.Fprintf(f.out, "%-8s %s: %s\n", each.Level, each.Subject, each.Text)
		if each.Advice != "" && each.Level != doctor.Fine {
			_, _ = fmt.Fprintf(f.out, "%-8s do: %s\n", "", each.Advice)
		}
		if each.Level == doctor.Wrong {
			f.wrong++
		}
	}
}
