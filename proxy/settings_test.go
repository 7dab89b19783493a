package proxy

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// TestWrongSettings: a value that a setting of barkeep cannot have is never taken for its default in silence.
func TestWrongSettings(t *testing.T) {
	b := start(t, nil)
	conn := b.connect(t, nil)
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec} {
		for setting, values := range map[string][2]string{
			"barkeep.mode":      {"sotred", "Partial"},
			"barkeep.unbounded": {"eror", "error"},
			"barkeep.timeout":   {"soon", "1.5 min"},
			"barkeep.freshness": {"-5", "0"},
			"barkeep.max_bars":  {"1e3", "1000"},
		} {
			_, err := conn.Exec(t.Context(), "set "+setting+" = '"+values[0]+"'")
			require.NoError(t, err)
			_, err = conn.Exec(t.Context(), read, mode)
			var refused *pgconn.PgError
			require.ErrorAs(t, err, &refused, setting)
			require.Equal(t, "22023", refused.Code)
			require.Contains(t, refused.Message, setting)
			require.NotEmpty(t, refused.Hint)
			_, err = conn.Exec(t.Context(), "select 1", mode)
			require.NoError(t, err, "what does not read ohlcv goes")
			_, err = conn.Exec(t.Context(), "set "+setting+" = '"+values[1]+"'")
			require.NoError(t, err)
			_, err = conn.Exec(t.Context(), read, mode)
			require.NoError(t, err, setting)
			_, err = conn.Exec(t.Context(), "reset "+setting)
			require.NoError(t, err)
		}
	}
	// SET LOCAL, taken back by the block's end.
	_, err := conn.Exec(t.Context(), "begin; set local barkeep.mode = 'x'")
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), read)
	require.Equal(t, "22023", code(err))
	require.EqualValues(t, 'E', conn.PgConn().TxStatus())
	_, err = conn.Exec(t.Context(), "rollback")
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), read)
	require.NoError(t, err)
	// Options of the connection.
	other, err := pgx.Connect(t.Context(), b.url+"&options=-c%20barkeep.max_bars%3Dmany")
	require.NoError(t, err)
	defer other.Close(t.Context())
	_, err = other.Exec(t.Context(), read)
	require.Equal(t, "22023", code(err))
	// ALTER ROLE.
	_, err = b.db.Pool.Exec(t.Context(), `do $$ begin
		execute format('alter role %I in database %I set barkeep.timeout = ''never''', current_user, current_database());
	end $$`)
	require.NoError(t, err)
	_, err = b.connect(t, nil).Exec(t.Context(), read)
	require.Equal(t, "22023", code(err))
}
