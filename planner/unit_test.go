package planner

import (
	"maps"
	"os"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5" //nolint:depguard // the test asks PostgreSQL itself
	"github.com/stretchr/testify/require"

	"barkeep/internal/market"
)

// TestRule14_UnitNames: each name of a unit is PostgreSQL's for the very unit, and cuts where it does.
func TestRule14_UnitNames(t *testing.T) {
	t.Parallel()
	url := os.Getenv("TEST_DATABASE_URL")
	if url == "" {
		t.Skip("TEST_DATABASE_URL is unset")
	}
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(t.Context())) }()
	names := maps.Clone(unitNames)
	for name := range units {
		names[name] = name
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		u, ok := unitNamed(name)
		require.True(t, ok, name)
		var canonical, short, at int64
		require.NoError(t, conn.QueryRow(t.Context(), `select (extract(epoch from date_trunc($1, at, 'UTC')) * 1000000)::int8, (extract(epoch from date_trunc($2, at, 'UTC')) * 1000000)::int8,
			(extract(epoch from at) * 1000000)::int8 from (values (timestamptz '2024-12-19 23:47:58.123456Z')) v(at)`, names[name], name).Scan(&canonical, &short, &at))
		require.Equal(t, canonical, short, name)
		require.Equal(t, canonical, int64(u.floor(market.Instant(at))), name)
	}
}
