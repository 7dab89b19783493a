package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"barkeep/internal/embedded"
)

// TestServe_DatabaseAndBrokerGoneAndBack: barkeep's own database is killed, then the broker goes and comes back. Readiness
// says so each time, the process lives on, and afterwards gaps are filled as before.
func TestServe_DatabaseAndBrokerGoneAndBack(t *testing.T) {
	t.Parallel()
	brokerConfig := embedded.BrokerConfig{DataDir: t.TempDir(), NoSync: true}
	broker, err := embedded.StartBroker(t.Context(), brokerConfig)
	require.NoError(t, err)
	t.Cleanup(func() { _ = broker.Stop() })
	data := childFolder(t)
	s := startStack(t, t.TempDir(), func(cfg *Config) {
		cfg.Upstream.URL, cfg.DataDir, cfg.Brokers, cfg.Status.Listen = "", data, broker.Brokers, "127.0.0.1:0"
	})
	status := "http://" + s.app.cfg.Status.Listen
	client := "postgres://postgres@" + s.addr + "/barkeep?sslmode=disable"
	requireDay(t, client, 1)
	requireReady(t, status, "ready\n", http.StatusOK)

	pid := postmasterOf(t, data)
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP)) // new connections hang
	s.app.pool.Reset()
	requireReady(t, status, "not ready: database\n", http.StatusServiceUnavailable)
	require.Equal(t, "ok\n", httpGet(t.Context(), t, status+"/healthz"))
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	requireReady(t, status, "ready\n", http.StatusOK)
	require.NotEqual(t, pid, postmasterOf(t, data))
	requireDay(t, client, 1)
	requireDay(t, client, 2)

	require.NoError(t, broker.Stop())
	requireReady(t, status, "not ready: broker\n", http.StatusServiceUnavailable)
	require.Equal(t, "ok\n", httpGet(t.Context(), t, status+"/healthz"))
	requireDay(t, client, 2) // what is stored needs no broker
	broker, err = embedded.StartBroker(t.Context(), brokerConfig)
	require.NoError(t, err)
	requireReady(t, status, "ready\n", http.StatusOK)
	requireDay(t, client, 3)
}

func requireReady(t *testing.T, status, text string, code int) {
	t.Helper()
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, status+"/readyz", http.NoBody)
		require.NoError(t, err)
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		defer func() { _ = response.Body.Close() }()
		body := make([]byte, 100)
		n, _ := response.Body.Read(body)
		return response.StatusCode == code && string(body[:n]) == text
	}, time.Minute, 20*time.Millisecond, text)
}

// requireDay asks for the first day of a month of 2024, on a connection of its own.
func requireDay(t *testing.T, address string, month int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, address)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(context.WithoutCancel(ctx))) }()
	var bars int
	statement := fmt.Sprintf(`select count(*) from ohlcv where symbol = 'sim:BTCUSD' and timeframe = '1m' and ts >= '2024-%02d-01Z' and ts < '2024-%02d-02Z'`, month, month)
	require.NoError(t, conn.QueryRow(ctx, statement).Scan(&bars))
	require.Equal(t, 1440, bars)
}

func postmasterOf(t *testing.T, data string) (pid int) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(data, "postgres", "data", "postmaster.pid"))
	require.NoError(t, err)
	_, err = fmt.Sscan(string(text), &pid)
	require.NoError(t, err)
	return pid
}
