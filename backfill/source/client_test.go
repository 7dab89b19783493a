package source

import (
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestRule18_WhatUnreachableIs: only where no connection came about is a source given up within seconds.
func TestRule18_WhatUnreachableIs(t *testing.T) {
	t.Parallel()
	const key = "https://vendor/?api_key=secret"
	for name, c := range map[string]struct {
		err  error
		away bool
	}{
		"no such host":       {&net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "vendor"}}, true},
		"resolver":           {&net.DNSError{Err: "server misbehaving", Name: "vendor"}, true},
		"refused":            {&net.OpError{Op: "dial", Err: errors.New("connection refused")}, true},
		"proxy":              {&net.OpError{Op: "proxyconnect", Err: errors.New("connection refused")}, true},
		"reset while read":   {&net.OpError{Op: "read", Err: errors.New("connection reset")}, false},
		"cut before headers": {io.ErrUnexpectedEOF, false},
	} {
		err := plain(t.Context(), &url.Error{Op: "Get", URL: key, Err: c.err})
		require.Equal(t, c.away, errors.Is(err, ErrUnreachable), name)
		require.ErrorIs(t, err, c.err, name)
		require.NotContains(t, err.Error(), "secret", name)
	}
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(errTimeout)
	require.Equal(t, errTimeout, plain(ended, &net.OpError{Op: "dial"}))
}
