package schema

import (
	"context"
	"fmt"
	"maps"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// ConnectConfig is PoolConfig for a single connection.
func ConnectConfig(dsn string) (*pgx.ConnConfig, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("parse the database's address: %w", err)
	}
	serviceSettings(config)
	return config, nil
}

// PoolConfig reads the address of a database and adds the settings that every service connection has, whatever the
// server, the database or the role say: names are looked up in pg_catalog only, times are UTC, and bars may be written
// (which the guard of ohlcv allows to members of the service role). A server in recovery is refused at connect.
func PoolConfig(dsn string) (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("parse the database's address: %w", err)
	}
	serviceSettings(config.ConnConfig)
	config.AfterConnect = refuseStandby
	return config, nil
}

func serviceSettings(config *pgx.ConnConfig) {
	settings := map[string]string{
		"search_path":                   "pg_catalog",
		"timezone":                      "UTC",
		"datestyle":                     "ISO, MDY",
		"intervalstyle":                 "postgres",
		"standard_conforming_strings":   "on",
		"statement_timeout":             "0",
		"synchronous_commit":            "on",
		"default_transaction_isolation": "read committed",
		"default_transaction_read_only": "off",
		"barkeep.maintenance":           "on",
	}
	maps.Copy(config.RuntimeParams, settings)
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "barkeep"
	}
}

func refuseStandby(ctx context.Context, conn *pgx.Conn) error {
	var recovery bool
	if err := conn.QueryRow(ctx, "select pg_catalog.pg_is_in_recovery()").Scan(&recovery); err != nil {
		return fmt.Errorf("ask the server whether it is a standby: %w", err)
	}
	if recovery {
		return ErrInRecovery
	}
	return nil
}
