package proxy

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
)

// PLANNER 5: a chain of operators that the parser would not survive is refused, counted and logged, in both protocols, and the session
// goes on.
func TestRule5_ALongChainOfOperators(t *testing.T) {
	var log lockedBuffer
	registry := prometheus.NewRegistry()
	metrics := NewMetrics(registry)
	b := start(t, func(c *Config) {
		c.Metrics, c.Logger = metrics, slog.New(slog.NewTextHandler(&log, nil))
	})
	conn := b.connect(t, nil)
	text := "select 1" + strings.Repeat("+1", 100_000) + " from ohlcv where symbol = 'sim:BTCUSD' and timeframe = '1d'"
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec} {
		_, err := conn.Exec(t.Context(), text, mode)
		require.Error(t, err)
		require.Contains(t, []string{"0A000", "54001"}, code(err), "barkeep's word, or PostgreSQL's own of its stack depth")
		require.NoError(t, conn.Ping(t.Context()))
	}
	families, err := registry.Gather()
	require.NoError(t, err)
	opaque := 0.0
	for _, family := range families {
		if family.GetName() == "barkeep_planner_reasons_total" {
			for _, m := range family.GetMetric() {
				if m.GetLabel()[0].GetValue() == "opaque" {
					opaque += m.GetCounter().GetValue()
				}
			}
		}
	}
	require.InDelta(t, 2, opaque, 0.1)
	require.Contains(t, log.String(), "statement not understood")
	require.NotContains(t, log.String(), "1+1+1", "texts are the user's own")
}
