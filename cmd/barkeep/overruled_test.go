package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/internal/schema"
)

// TestOverruled: what the migration gives a database overrules each setting of statement that is not its default, and nothing else does.
func TestOverruled(t *testing.T) {
	t.Parallel()
	var migrated []string
	for _, d := range schema.Defaults() {
		migrated = append(migrated, d.Name+"="+d.Value)
	}
	cfg := defaultConfig()
	require.Empty(t, overruled(&cfg, "market", migrated))
	cfg.Statement = StatementConfig{Timeout: 90 * time.Second, MaxBars: 1000, Freshness: time.Second}
	require.Equal(t, []overrule{
		{"statement.timeout", "barkeep.timeout", "10min", `ALTER DATABASE "market" SET barkeep.timeout = '90000ms'`},
		{"statement.max_bars", "barkeep.max_bars", "20000000", `ALTER DATABASE "market" SET barkeep.max_bars = '1000'`},
		{"statement.freshness", "barkeep.freshness", "15s", `ALTER DATABASE "market" SET barkeep.freshness = '1000ms'`},
	}, overruled(&cfg, "market", migrated))
	require.Empty(t, overruled(&cfg, "market", []string{"barkeep.mode=wait", "work_mem=1MB"}))
}
