package schema

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// TestLost: a connection that has gone is told from what the database answers.
func TestLost(t *testing.T) {
	t.Parallel()
	for _, err := range []error{
		io.ErrUnexpectedEOF, context.DeadlineExceeded, &pgconn.PgError{Code: "57P01"}, &pgconn.PgError{Code: "08006"},
		pgconn.ErrConnClosed, // of one that was lost by whoever had it before, which pgx finds when it looks after its statements
	} {
		require.True(t, Lost(fmt.Errorf("read: %w", err)), err)
	}
	for _, err := range []error{nil, errors.New("of another kind"), &pgconn.PgError{Code: "42P01"}} {
		require.False(t, Lost(err), err)
	}
}
