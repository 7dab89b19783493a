package proxy

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"barkeep/internal/dbtest"
	"barkeep/internal/schema"
)

// TestRule19_ASessionKnowsItsLife: what is asked for a session names the life of the database that it is connected to,
// whatever the settings of its start, and also where it may not ask which server that is.
func TestRule19_ASessionKnowsItsLife(t *testing.T) {
	server, err := pgx.Connect(t.Context(), dbtest.New(t).URL)
	require.NoError(t, err)
	id, err := schema.Identify(t.Context(), server)
	require.NoError(t, err)
	require.NoError(t, server.Close(t.Context()))
	for name, identify := range map[string]string{
		"identified": schema.IdentifyQuery, "not allowed": "select * from pg_catalog.pg_authid_of_nobody",
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t, func(cfg *Config) {
				cfg.Upstream.LifeQuery, cfg.Upstream.IdentifyQuery = "select "+schema.Life, identify
				cfg.Upstream.SystemIdentifier = id
			})
			var life string
			require.NoError(t, b.db.Pool.QueryRow(t.Context(), "select "+schema.Life).Scan(&life))
			conn, err := pgx.Connect(t.Context(), b.url+"&timezone=Asia/Kathmandu&extra_float_digits=-15&search_path=pg_temp")
			require.NoError(t, err)
			_, err = conn.Exec(t.Context(), "select * from public.ohlcv where symbol = 'sim:LIFEUSD' and timeframe = '1m' and ts < '2024-01-01'")
			require.NoError(t, err)
			require.NoError(t, conn.Close(t.Context()))
			require.NotEmpty(t, b.requested())
			for _, request := range b.requested() {
				require.Equal(t, life, request.Life)
			}
		})
	}
}
