package main

import (
	"context"
	"fmt"
	"os"

	"github.com/jackc/pgx/v5"

	"barkeep/internal/schema"
)

type migrateCmd struct{}

// Run brings the database to the newest schema.
func (migrateCmd) Run(g *globals) error {
	cfg, err := g.load()
	if err != nil {
		return err
	}
	if err := cfg.needServers("migrate"); err != nil {
		return err
	}
	life := newLifetimes(context.Background(), cfg.Shutdown.Grace)
	defer life.stop()
	if err := migrate(life.intake, cfg.Upstream.URL); err != nil {
		return err
	}
	_, err = fmt.Fprintln(os.Stdout, "the schema is the newest")
	return err
}

func migrate(ctx context.Context, dsn string) error {
	connConfig, err := schema.ConnectConfig(dsn)
	if err != nil {
		return fmt.Errorf("upstream.url: %w", err)
	}
	conn, err := pgx.ConnectConfig(ctx, connConfig)
	if err != nil {
		return fmt.Errorf("connect to the database: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // the session ends with the process at the latest
	if err := schema.Migrate(ctx, conn); err != nil {
		return fmt.Errorf("migrate the database: %w", err)
	}
	return nil
}
