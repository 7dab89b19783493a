package planner

import (
	"maps"
	"math/big"
	"slices"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5/pgtype" //nolint:depguard // the test encodes as a client does
	"github.com/stretchr/testify/require"

	"barkeep/internal/market"
)

// TestRule14_UnitNames: each name of a unit is PostgreSQL's for the very unit, and cuts where it does.
func TestRule14_UnitNames(t *testing.T) {
	t.Parallel()
	conn := postgresConn(t)
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

// TestRule14_Numbers: numeric and float8 parameters are read in both formats.
func TestRule14_Numbers(t *testing.T) {
	t.Parallel()
	types := pgtype.NewMap()
	for _, text := range []string{"0", "1", "-1", "10000", "1704067200", "1704067200000", "1704067200.5", "-0.0001", "0.00000001", "100000000", "1704067200000.000001"} {
		var n pgtype.Numeric
		require.NoError(t, n.Scan(text))
		f, err := strconv.ParseFloat(text, 64)
		require.NoError(t, err)
		exact, ok := decimal(text)
		require.True(t, ok)
		for oid, value := range map[uint32]any{oidNumeric: n, oidFloat8: f} {
			want := exact
			if oid == oidFloat8 {
				want = new(big.Rat).SetFloat64(f)
			}
			raw, err := types.Encode(oid, pgtype.BinaryFormatCode, value, nil)
			require.NoError(t, err)
			e := evaluator{args: Args{OIDs: []uint32{oid}, Values: [][]byte{raw}, Formats: []int16{1}}, start: &start{}}
			got, float, ok := e.numberParam(1)
			require.True(t, ok, text)
			require.Equal(t, oid == oidFloat8, float)
			require.Zero(t, want.Cmp(got), "%s: %s", text, got)
		}
	}
	for _, text := range []string{"NaN", "Infinity", "-Infinity"} {
		var n pgtype.Numeric
		require.NoError(t, n.Scan(text))
		raw, err := types.Encode(oidNumeric, pgtype.BinaryFormatCode, n, nil)
		require.NoError(t, err)
		_, ok := decodeNumeric(raw)
		require.False(t, ok, text)
	}
}
