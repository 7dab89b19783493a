package main

import (
	"bytes"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestReachable(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"[::]:5433": "127.0.0.1:5433", "0.0.0.0:5433": "127.0.0.1:5433", "127.0.0.1:5433": "127.0.0.1:5433", "[fd00::1]:1": "[fd00::1]:1",
	} {
		require.Equal(t, want, reachable(address))
	}
}

func TestLogsHaveUnits(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"text", "json"} {
		var out bytes.Buffer
		log, _, err := newLogger(LogConfig{Level: "info", Format: format}, &out)
		require.NoError(t, err)
		log.Info("x", slog.Duration("grace", 30*time.Second))
		require.Contains(t, out.String(), "30s")
	}
}
