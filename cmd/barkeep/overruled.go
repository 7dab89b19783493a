package main

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// overrule is a setting of a part that the database overrules: every session begins with a value of the database's for Name.
type overrule struct {
	Key, Name, Value, Remedy string
}

// overruled returns the settings of statement that are not the default's and that no session goes by, given what the database sets for its sessions
// as name=value.
func overruled(cfg *Config, database string, sets []string) (out []overrule) {
	usual := defaultConfig().Statement
	for _, each := range []struct {
		key, name, value string
		differs          bool
	}{
		{"statement.timeout", "barkeep.timeout", fmt.Sprintf("%dms", cfg.Statement.Timeout.Milliseconds()), cfg.Statement.Timeout != usual.Timeout},
		{"statement.max_bars", "barkeep.max_bars", strconv.FormatInt(cfg.Statement.MaxBars, 10), cfg.Statement.MaxBars != usual.MaxBars},
		{"statement.freshness", "barkeep.freshness", fmt.Sprintf("%dms", cfg.Statement.Freshness.Milliseconds()), cfg.Statement.Freshness != usual.Freshness},
	} {
		for _, set := range sets {
			if name, value, _ := strings.Cut(set, "="); each.differs && name == each.name {
				out = append(out, overrule{
					Key: each.key, Name: name, Value: value,
					Remedy: fmt.Sprintf("ALTER DATABASE %s SET %s = '%s'", pgx.Identifier{database}.Sanitize(), name, each.value),
				})
			}
		}
	}
	return out
}

// tellOverruled logs what of the settings the database overrules, where this process is a proxy. Where the database cannot be asked, nothing is
// said.
func (a *app) tellOverruled(ctx context.Context, cfg *Config) {
	if a.server == nil {
		return
	}
	var sets []string
	err := a.pool.QueryRow(ctx, `SELECT coalesce((SELECT s.setconfig FROM pg_catalog.pg_db_role_setting s JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
	  WHERE d.datname = current_database() AND s.setrole = 0), '{}')`).Scan(&sets)
	if err != nil {
		return
	}
	for _, o := range overruled(cfg, a.pool.Config().ConnConfig.Database, sets) {
		a.log.WarnContext(ctx, "a setting has no effect: the database has a value for every session", slog.String("key", o.Key),
			slog.String("setting", o.Name), slog.String("value", o.Value), slog.String("remedy", o.Remedy))
	}
}
