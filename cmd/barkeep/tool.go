package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kgo"

	"barkeep/backfill/coverage"
	"barkeep/internal/embedded"
	"barkeep/internal/schema"
)

// tool is what a command for people works with, on the database and the broker of a barkeep that may be running.
type tool struct {
	cfg  Config
	life lifetimes
	ctx  context.Context //nolint:containedctx // the life of a command that ends with the process
	pool *pgxpool.Pool
	log  *slog.Logger
	out  io.Writer
}

// everybodyKnows returns when no index of any barkeep vouches any more for what this command has withdrawn: what it was told of late, it may for as
// long as its lease goes on (PIPELINE 7), and a command that has ended is to hold for the next statement.
func (t *tool) everybodyKnows() error {
	select {
	case <-t.ctx.Done():
		return fmt.Errorf("forgotten, but not every barkeep knows of it before %s: %w", coverage.DefaultLease, context.Cause(t.ctx))
	case <-time.After(coverage.DefaultLease):
		return nil
	}
}

// openTool finds the database: the configured one, or that of the barkeep that runs on the data folder. The schema must be the
// newest. The caller closes it.
func (g *globals) openTool() (*tool, error) {
	cfg, err := g.load()
	if err != nil {
		return nil, err
	}
	if err := cfg.find(); err != nil {
		return nil, err
	}
	if cfg.Log.Level == "info" {
		cfg.Log.Level = "warn" // what a person reads is the command's own output
	}
	log, _, err := newLogger(cfg.Log, os.Stderr)
	if err != nil {
		return nil, err
	}
	t := &tool{cfg: cfg, log: log, out: os.Stdout}
	t.begin()
	if err := t.connect(); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

// begin listens for signals until close.
func (t *tool) begin() {
	t.life = newLifetimes(context.Background(), t.cfg.Shutdown.Grace)
	t.ctx = t.life.intake
}

// open makes the pool; it connects to nobody yet.
func (t *tool) open() error {
	config, err := schema.PoolConfig(t.cfg.Upstream.URL)
	if err != nil {
		return fmt.Errorf("upstream.url: %w", err)
	}
	if t.pool, err = pgxpool.NewWithConfig(t.ctx, config); err != nil {
		return fmt.Errorf("open the database: %w", err)
	}
	return nil
}

func (t *tool) connect() error {
	if err := t.open(); err != nil {
		return err
	}
	current, newest, err := schema.Version(t.ctx, t.pool)
	if err != nil {
		return fmt.Errorf("connect to the database: %w", err)
	}
	return schemaFits(current, newest)
}

// schemaFits returns an error where the database is not as this barkeep knows it.
func schemaFits(current, newest int) error {
	switch {
	case current < newest:
		return fmt.Errorf("the database has schema version %d, this barkeep needs %d: run barkeep migrate", current, newest)
	case current > newest:
		return fmt.Errorf("the database has schema version %d, this barkeep knows up to %d: use a newer barkeep", current, newest)
	}
	return nil
}

func (t *tool) close() {
	if t.pool != nil {
		t.pool.Close()
	}
	t.life.stop()
}

// brokers says how the brokers are reached, after a look whether the settings are right.
func (t *tool) brokers() ([]kgo.Opt, error) {
	opts, err := t.cfg.Broker.options(t.cfg.Brokers)
	if err != nil {
		return nil, err
	}
	return opts, t.cfg.Broker.check(t.ctx, opts)
}

// find fills in where the database and the broker are that a barkeep runs itself.
func (c *Config) find() error {
	if c.Upstream.URL != "" {
		return nil
	}
	url, brokers, err := embedded.Find(c.DataDir, embeddedDatabase)
	switch {
	case errors.Is(err, embedded.ErrNone):
		return fmt.Errorf("upstream.url: not set, and there is no database in data_dir %s: start barkeep serve, or say where the database is", c.DataDir)
	case err != nil:
		return err
	}
	c.Upstream.URL = url
	if len(c.Brokers) == 0 {
		c.Brokers = brokers
	}
	return nil
}
