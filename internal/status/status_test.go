package status

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func get(t *testing.T, s *Server, path, token string) (code int, body string) {
	t.Helper()
	request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, http.NoBody)
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	recorder := httptest.NewRecorder()
	s.Handler().ServeHTTP(recorder, request)
	return recorder.Code, recorder.Body.String()
}

func TestPage(t *testing.T) {
	t.Parallel()
	day := time.Date(2024, 1, 2, 0, 0, 0, 0, time.UTC)
	s := New(Config{
		Title: "barkeep", Version: "v1",
		Actors:   func() []Actor { return []Actor{{Kind: "producer", ID: "2", State: "fetching"}} },
		Sessions: func() []Session { return []Session{{ID: "7", User: "<script>", State: "held"}} },
		Coverage: func(context.Context) ([]Series, error) { return nil, errors.New("secret of the database") },
		Jobs: func(context.Context) ([]Job, error) {
			return []Job{{Symbol: "sim:BTCUSD", Timeframe: "1m", State: "fetching", Start: day, Done: 1, Total: 4}}, nil
		},
	})
	code, body := get(t, s, "/", "")
	require.Equal(t, http.StatusOK, code)
	for _, want := range []string{"producer", "fetching", "held", "sim:BTCUSD 1m", "2024-01-02 00:00:00", "25 %", "coverage could not be read"} {
		require.Contains(t, body, want)
	}
	require.NotContains(t, body, "<script>")
	require.NotContains(t, body, "secret of the database")
	code, _ = get(t, s, "/nothing", "")
	require.Equal(t, http.StatusNotFound, code)
}

func TestToken(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "barkeep_up"}))
	s := New(Config{Token: "right", Metrics: registry, Ready: map[string]func(context.Context) error{
		"database": func(context.Context) error { return errors.New("password leaked") },
		"broker":   func(context.Context) error { return nil },
	}})
	for _, path := range []string{"/", "/metrics"} {
		code, body := get(t, s, path, "")
		require.Equal(t, http.StatusUnauthorized, code)
		require.NotContains(t, body, "right")
		code, _ = get(t, s, path, "wrong")
		require.Equal(t, http.StatusUnauthorized, code)
		code, _ = get(t, s, path, "right")
		require.Equal(t, http.StatusOK, code)
		code, _ = get(t, s, path+"?token=right", "")
		require.Equal(t, http.StatusOK, code)
	}
	_, body := get(t, s, "/metrics", "right")
	require.Contains(t, body, "barkeep_up 0")
	code, body := get(t, s, "/healthz", "")
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, "ok\n", body)
	code, body = get(t, s, "/readyz", "")
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Equal(t, "not ready: database\n", body)
}

// TestReady_OneThatHangs: a check that takes all the time there is does not make the others fail.
func TestReady_OneThatHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		checks := map[string]func(context.Context) error{}
		for _, name := range []string{"a", "c", "d", "e"} {
			checks[name] = func(ctx context.Context) error { return ctx.Err() }
		}
		checks["b"] = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		code, body := get(t, New(Config{Ready: checks}), "/readyz", "")
		require.Equal(t, http.StatusServiceUnavailable, code)
		require.Equal(t, "not ready: b\n", body)
	})
}

func TestServeEndsWithItsContext(t *testing.T) {
	t.Parallel()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- New(Config{}).Serve(ctx, listener) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+listener.Addr().String()+"/healthz", http.NoBody)
	require.NoError(t, err)
	response, err := client.Do(request)
	require.NoError(t, err)
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, "ok\n", string(body))
	cancel()
	require.NoError(t, <-served)
}
