package proxy

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"barkeep/internal/catalog"
)

// A text that does not parse is answered by the upstream, with its own position, in a block and outside; several
// statements in one text that the upstream alone could parse stay refused.
func TestTextThatDoesNotParse(t *testing.T) {
	b := start(t, nil)
	conn := b.connect(t, nil)
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec, pgx.QueryExecModeDescribeExec} {
		_, err := conn.Exec(t.Context(), "select 1 frmo ohlcv x", mode)
		require.Equal(t, "42601", code(err), mode)
		var refused *pgconn.PgError
		require.ErrorAs(t, err, &refused)
		require.EqualValues(t, 15, refused.Position, mode)
		require.EqualValues(t, 'I', conn.PgConn().TxStatus())

		tx, err := conn.Begin(t.Context())
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), "selec 1 from ohlcv", mode)
		require.Equal(t, "42601", code(err), mode)
		require.EqualValues(t, 'E', conn.PgConn().TxStatus())
		_, err = tx.Exec(t.Context(), "selec 1 from ohlcv", mode)
		require.Contains(t, []string{"42601", "25P02"}, code(err), mode)
		require.NoError(t, tx.Rollback(t.Context()))
	}
	require.Empty(t, b.requested())
}

// TestPrepareOfWhatMayDefine: a PREPARE of a text that has a definition's word in it, be it in a symbol, goes like any other.
func TestPrepareOfWhatMayDefine(t *testing.T) {
	conn := start(t, nil).connect(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := conn.Exec(ctx, "prepare p as select ts from ohlcv where symbol = 'sim:DOGEUSD' and timeframe = '1m'", pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	tag, err := conn.Exec(ctx, "execute p", pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	require.EqualValues(t, 10, tag.RowsAffected())
}

// TestExecuteFollowsDefinitions: what a prepared statement names may read ohlcv later than it was prepared (PLANNER 6).
func TestExecuteFollowsDefinitions(t *testing.T) {
	var names *catalog.Catalog
	b := start(t, func(cfg *Config) { names = cfg.Catalog.(*catalog.Catalog) })
	conn := b.connect(t, nil)
	exec := func(text string) pgconn.CommandTag {
		t.Helper()
		tag, err := conn.Exec(t.Context(), text, pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err)
		return tag
	}
	exec("create view late as select ''::text symbol, now() ts where false")
	exec("prepare q as select * from late")
	require.EqualValues(t, 0, exec("execute q").RowsAffected())
	require.Empty(t, b.requested())
	exec("create or replace view late as select symbol, ts from ohlcv where symbol = 'sim:LATEUSD' and timeframe = '1m'")
	require.NoError(t, names.Refresh(t.Context()))
	require.EqualValues(t, 10, exec("execute q").RowsAffected())
}
