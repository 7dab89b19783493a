package proxy

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestRule4_NamesInTheClientsEncoding: a name through which ohlcv is read is found in the encoding of the client, be its bytes those of no
// name in UTF-8, or those of another.
func TestRule4_NamesInTheClientsEncoding(t *testing.T) {
	t.Parallel()
	b := start(t, nil)
	_, err := b.db.Pool.Exec(t.Context(), `create view public."häuser" as select * from public.ohlcv; create view public."Ã¤" as select * from public.ohlcv`)
	require.NoError(t, err)
	require.NoError(t, b.server.cfg.Catalog.(interface { //nolint:forcetypeassert // the tests' own
		Refresh(ctx context.Context) error
	}).Refresh(t.Context()))
	for _, name := range []string{"h\xe4user", "\xc3\xa4"} {
		conn := b.connectWith(t, "", "&client_encoding=LATIN1")
		var n int
		require.NoError(t, conn.QueryRow(t.Context(), `select count(*) from "`+name+`"`+gapOf).Scan(&n))
		require.Equal(t, 10, n, "%q", name)
	}
}
