package proxy

import (
	"log/slog"
	"net"
	"testing"

	"github.com/jackc/pgerrcode"
	"github.com/stretchr/testify/require"
)

// TestExchangeWithoutUpstream: where the proxy's own messages cannot be written any more, the statement that needs them is told that the
// connection was lost, not of an internal error, and the session ends.
func TestExchangeWithoutUpstream(t *testing.T) {
	t.Parallel()
	near, far := net.Pipe()
	require.NoError(t, far.Close())
	defer near.Close()
	s := &session{upstream: near}
	_, err := s.exchange(t.Context(), nil)
	require.ErrorIs(t, err, errUpstreamGone)
	public := publicError(t.Context(), slog.New(slog.DiscardHandler), err)
	require.Equal(t, pgerrcode.ConnectionFailure, public.Code)
	require.True(t, public.Fatal)
}
