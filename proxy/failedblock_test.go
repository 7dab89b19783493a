package proxy

import (
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
)

// What comes behind the ROLLBACK of a failed block in its own Query or segment is executed: it is held as any other statement.
func TestReadBehindRollback(t *testing.T) {
	b := start(t, nil)
	for _, ends := range []string{"rollback", "commit", "rollback and chain", "/* */ ROLLBACK", "rollback to a"} {
		for name, messages := range map[string][]pgproto3.FrontendMessage{
			"Query":           {&pgproto3.Query{String: ends + "; " + read}},
			"segment":         {&pgproto3.Parse{Query: ends}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Parse{Query: read}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{}},
			"flushed":         {&pgproto3.Parse{Query: ends}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Flush{}, &pgproto3.Parse{Query: read}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{}},
			"prepared before": {&pgproto3.Bind{PreparedStatement: "ends"}, &pgproto3.Execute{}, &pgproto3.Bind{PreparedStatement: "reads"}, &pgproto3.Execute{}, &pgproto3.Sync{}},
		} {
			t.Run(ends+", "+name, func(t *testing.T) {
				b.forget(nil)
				_, err := b.db.Pool.Exec(t.Context(), "delete from public.ohlcv")
				require.NoError(t, err)
				c := dialRaw(t, b.url, false)
				c.send(&pgproto3.Parse{Name: "ends", Query: ends}, &pgproto3.Parse{Name: "reads", Query: read}, &pgproto3.Sync{},
					&pgproto3.Query{String: "begin; savepoint a; select 1/0"})
				c.until('Z')
				require.Equal(t, "E", c.until('Z'))
				c.send(messages...)
				want := "E"                                                      // refused
				if (ends == "rollback" || ends == "commit") && name == "Query" { // in a pipeline it changes settings
					want = "10"
				}
				require.Equal(t, want, c.rowOrError())
				c.until('Z')
				c.send(&pgproto3.Query{String: "rollback"}, &pgproto3.Query{String: read})
				require.Equal(t, "10", c.rowOrError())
			})
		}
	}
}

// rowOrError returns the first column of the next row, or "E" where an error comes before it.
func (c *rawClient) rowOrError() string {
	c.t.Helper()
	for {
		kind, body, err := readMessage(c.conn)
		require.NoError(c.t, err)
		switch kind {
		case 'D':
			return string(body[6:])
		case 'E':
			return "E"
		}
	}
}
