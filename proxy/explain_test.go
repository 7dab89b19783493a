package proxy

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
)

const bounded = "from ohlcv where symbol = 'sim:BTCUSD' and timeframe = '1m' and ts >= '2024-01-01Z' and ts < '2024-01-01 00:10Z'"

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func explainedLines(t *testing.T, conn querier, sql string, args ...any) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(), sql, args...)
	require.NoError(t, err)
	require.Equal(t, "QUERY PLAN", rows.FieldDescriptions()[0].Name)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Equal(t, "EXPLAIN", rows.CommandTag().String())
	return lines
}

func TestExplainInEveryProtocol(t *testing.T) {
	b := start(t, nil)
	conn := b.connect(t, nil)
	want := []string{
		"barkeep: 1 series, 10 bars needed, 10 missing: one page",
		"sim:BTCUSD 1m from sim",
		"  needed: 10 bars [2024-01-01T00:00:00Z, 2024-01-01T00:10:00Z)",
		"  covered: none",
		"  missing: 10 bars [2024-01-01T00:00:00Z, 2024-01-01T00:10:00Z)",
		"  fetch: one page",
	}
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeCacheStatement,
	} {
		require.Equal(t, want, explainedLines(t, conn, "explain (barkeep) select close "+bounded, mode), mode)
		require.Equal(t, want, explainedLines(t, conn, "EXPLAIN (BARKEEP TRUE) SELECT close "+strings.ReplaceAll(bounded, "'sim:BTCUSD'", "$1"), mode, "sim:BTCUSD"), mode)
		tx, err := conn.Begin(t.Context())
		require.NoError(t, err)
		require.Equal(t, want, explainedLines(t, tx, "explain (barkeep) select close "+bounded, mode), mode)
		require.EqualValues(t, 'T', conn.PgConn().TxStatus())
		require.NoError(t, tx.Commit(t.Context()))
	}
	_, err := conn.Exec(t.Context(), "prepare q(text) as select close "+strings.ReplaceAll(bounded, "'sim:BTCUSD'", "$1"))
	require.NoError(t, err)
	require.Equal(t, want, explainedLines(t, conn, "explain (barkeep) execute q('sim:BTCUSD')", pgx.QueryExecModeSimpleProtocol))
	require.Empty(t, b.requested(), "it fetches nothing")

	_, err = conn.Exec(t.Context(), "select close "+bounded)
	require.NoError(t, err)
	got := explainedLines(t, conn, "explain (barkeep) select close "+bounded)
	require.Equal(t, "barkeep: 1 series, 10 bars needed, 0 missing", got[0])
	require.Contains(t, got, "  missing: none")
	require.Equal(t, []string{"barkeep: 0 series, 0 bars needed, 0 missing"}, explainedLines(t, conn, "explain (barkeep) select 1"))
}

// A pipeline around it, rows in portions, and a portal that is asked again.
func TestExplainInAPipeline(t *testing.T) {
	b := start(t, nil)
	conn := b.connect(t, nil).PgConn()
	batch := &pgconn.Batch{}
	batch.ExecParams("select 1", nil, nil, nil, nil)
	batch.ExecParams("explain (barkeep) select close "+bounded, nil, nil, nil, []int16{1})
	batch.ExecParams("select close "+bounded, nil, nil, nil, nil)
	batch.ExecParams("select 2", nil, nil, nil, nil)
	results, err := conn.ExecBatch(t.Context(), batch).ReadAll()
	require.NoError(t, err)
	require.Len(t, results, 4)
	require.Equal(t, "1", string(results[0].Rows[0][0]))
	require.Equal(t, "barkeep: 1 series, 10 bars needed, 10 missing: one page", string(results[1].Rows[0][0]))
	require.Len(t, results[2].Rows, 10)
	require.Equal(t, "2", string(results[3].Rows[0][0]))
}

func TestExplainErrors(t *testing.T) {
	b := start(t, nil)
	conn := b.connect(t, nil)
	for sql, want := range map[string]string{
		"explain (barkeep, analyze) select close " + bounded:   "22023",
		"explain (costs off, barkeep) select close " + bounded: "22023",
		"explain (barkeep off) select close " + bounded:        "22023",
		"explain (barkeep) selec close from ohlcv":             "42601",
		"explain (barkeep) insert into ohlcv select 1":         "42501",
		"explain (nonsense) select 1 /* barkeep */":            "42601",
	} {
		for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec} {
			_, err := conn.Exec(t.Context(), sql, mode)
			require.Equal(t, want, code(err), "%s %s", sql, mode)
			require.EqualValues(t, 'I', conn.PgConn().TxStatus())
		}
	}
	_, err := conn.Exec(t.Context(), "select 1; explain (barkeep) select close "+bounded, pgx.QueryExecModeSimpleProtocol)
	require.Equal(t, "0A000", code(err))
	got := explainedLines(t, conn, "explain (barkeep) select * from ohlcv where symbol like 'B%' and timeframe = '1m'", pgx.QueryExecModeSimpleProtocol)
	require.Contains(t, strings.Join(got, "\n"), "refused: 0A000")
	got = explainedLines(t, conn, "explain (barkeep) select close "+bounded+" and ts > localtimestamp(0)::text::timestamptz", pgx.QueryExecModeSimpleProtocol)
	t.Log(strings.Join(got, "\n"))

	// In a failed block the upstream has the word.
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "explain (barkeep, verbose) select close "+bounded)
	require.Equal(t, "22023", code(err))
	require.EqualValues(t, 'E', conn.PgConn().TxStatus())
	_, err = tx.Exec(t.Context(), "explain (barkeep) select close "+bounded, pgx.QueryExecModeSimpleProtocol)
	require.Equal(t, "25P02", code(err))
	require.NoError(t, tx.Rollback(t.Context()))

	_, err = conn.Exec(t.Context(), "create role nobody_reads; grant usage on schema public to nobody_reads; set role nobody_reads", pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "explain (barkeep) select close "+bounded, pgx.QueryExecModeSimpleProtocol)
	require.Equal(t, "42501", code(err))
	_, err = conn.Exec(t.Context(), "reset role; drop owned by nobody_reads; drop role nobody_reads", pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
}

func TestExplainInPortions(t *testing.T) {
	b := start(t, nil)
	hijacked, err := b.connect(t, nil).PgConn().Hijack()
	require.NoError(t, err)
	defer hijacked.Conn.Close()
	client := hijacked.Frontend
	client.Send(&pgproto3.Parse{Name: "s", Query: "explain (barkeep) select close " + bounded})
	client.Send(&pgproto3.Describe{ObjectType: 'S', Name: "s"})
	client.Send(&pgproto3.Bind{DestinationPortal: "p", PreparedStatement: "s"})
	client.Send(&pgproto3.Execute{Portal: "p", MaxRows: 4})
	client.Send(&pgproto3.Flush{})
	client.Send(&pgproto3.Execute{Portal: "p", MaxRows: 4})
	client.Send(&pgproto3.Execute{Portal: "p"})
	client.Send(&pgproto3.Close{ObjectType: 'P', Name: "p"})
	client.Send(&pgproto3.Execute{Portal: "p"})
	client.Send(&pgproto3.Sync{})
	require.NoError(t, client.Flush())
	var kinds string
	for !strings.HasSuffix(kinds, "Z") {
		message, err := client.Receive()
		require.NoError(t, err)
		switch m := message.(type) {
		case *pgproto3.ParseComplete:
			kinds += "1"
		case *pgproto3.BindComplete:
			kinds += "2"
		case *pgproto3.CloseComplete:
			kinds += "3"
		case *pgproto3.ParameterDescription:
			kinds += "t"
		case *pgproto3.RowDescription:
			kinds += "T"
		case *pgproto3.DataRow:
			kinds += "D"
		case *pgproto3.PortalSuspended:
			kinds += "s"
		case *pgproto3.CommandComplete:
			kinds += "C"
		case *pgproto3.ErrorResponse:
			kinds += "E" + m.Code
		case *pgproto3.ReadyForQuery:
			kinds += "Z"
		}
	}
	require.Equal(t, "1tT2DDDDsDDCC3E34000Z", kinds)
}
