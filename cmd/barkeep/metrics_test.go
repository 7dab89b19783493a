package main

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"barkeep/internal/exchange"
	"barkeep/internal/netfault"
)

// sharedBuffer is a log that is read while it is written.
type sharedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (b *sharedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *sharedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// metricsOf reads what a page of metrics says, by name and labels.
func metricsOf(t *testing.T, page string) map[string]float64 {
	t.Helper()
	values := map[string]float64{}
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		at := strings.LastIndexByte(strings.TrimSpace(line), ' ')
		require.Positive(t, at, line)
		value, err := strconv.ParseFloat(strings.TrimSpace(line[at:]), 64)
		require.NoError(t, err, line)
		values[line[:at]] = value
	}
	return values
}

// requireDocumented compares the names of metrics with those in docs/operations.md.
func requireDocumented(t *testing.T, values map[string]float64) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "operations.md"))
	require.NoError(t, err)
	documented, there := map[string]bool{}, map[string]bool{}
	for _, name := range regexp.MustCompile("`(barkeep_[a-z_]+)`").FindAllStringSubmatch(string(text), -1) {
		documented[name[1]] = true
	}
	delete(documented, "barkeep_service") // the roles
	delete(documented, "barkeep_reader")
	delete(documented, "barkeep_owner")
	delete(documented, "barkeep_parts")
	histogram := regexp.MustCompile("_(bucket|sum|count)$")
	for name := range values {
		name, _, _ = strings.Cut(name, "{")
		if strings.HasPrefix(name, "barkeep_") {
			there[histogram.ReplaceAllString(name, "")] = true
		}
	}
	require.Equal(t, documented, there)
}

// TestMetricsAfterTraffic asks for something of every kind and expects each metric that is promised, with what was seen.
func TestMetricsAfterTraffic(t *testing.T) {
	t.Parallel()
	vendor := exchange.New(exchange.Config{})
	server := httptest.NewServer(vendor)
	t.Cleanup(server.Close)
	s := startStack(t, t.TempDir(), func(c *Config) {
		c.Status.Listen = "127.0.0.1:0"
		c.Sources["binance"] = Source{URL: server.URL, Rate: 20, Burst: 1}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.clientURL())
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	const gap = `select count(*) from ohlcv where symbol = 'binance:BTCUSD' and timeframe = '1m' and ts >= '2024-01-01Z' and ts < '2024-01-05Z'`
	for range 2 {
		var bars int
		require.NoError(t, conn.QueryRow(ctx, gap).Scan(&bars))
		require.Equal(t, 4*1440, bars)
	}
	_, err = conn.Exec(ctx, `select * from ohlcv where symbol = 'binance:BTCUSD'`)
	require.ErrorContains(t, err, "timeframe")
	_, err = conn.Exec(ctx, `select * from ohlcv limit 1`)
	require.NoError(t, err)

	status := "http://" + s.app.cfg.Status.Listen
	page := httpGet(ctx, t, status+"/")
	require.Contains(t, page, s.db.Pool.Config().ConnConfig.Database, "the session is on the page")
	var got map[string]float64
	var text string
	require.Eventually(t, func() bool { // a job ends after the statement that it was made for, and is counted after that
		text = httpGet(ctx, t, status+"/metrics")
		got = metricsOf(t, text)
		return got[`barkeep_jobs{state="done"}`] == 1 && got["barkeep_consumer_lag_records"] == 0 && got["barkeep_consumer_pages_total"] > 0
	}, 10*time.Second, 20*time.Millisecond)
	for _, want := range []string{
		"barkeep_proxy_sessions", `barkeep_proxy_statements_total{outcome="held"}`, `barkeep_proxy_statements_total{outcome="covered"}`,
		`barkeep_proxy_statements_total{outcome="failed"}`, "barkeep_proxy_hold_seconds_sum", "barkeep_proxy_hold_seconds_count",
		`barkeep_planner_reasons_total{code="no_symbol"}`, `barkeep_planner_reasons_total{code="no_timeframe"}`,
		"barkeep_coordinator_gaps_total", "barkeep_coordinator_gap_bars_total",
		"barkeep_consumer_pages_total", "barkeep_consumer_bars_total", `barkeep_consumer_records_total{outcome="committed"}`,
		`barkeep_source_request_seconds_count{outcome="ok",source="binance"}`, `barkeep_source_request_seconds_sum{outcome="ok",source="binance"}`,
		`barkeep_source_bars_total{source="binance"}`,
		`barkeep_source_rate_limit_wait_seconds_count{source="binance"}`, `barkeep_source_rate_limit_wait_seconds_sum{source="binance"}`,
		"barkeep_coverage_segments", "barkeep_index_valid", `barkeep_actors{kind="consumer_fixed",state="idle"}`,
		`barkeep_service_connections{use="idle"}`,
	} {
		require.Positive(t, got[want], want)
	}
	for _, want := range []string{
		"barkeep_proxy_holds", "barkeep_coordinator_jobs_awaited", `barkeep_jobs{state="queued"}`, `barkeep_jobs{state="failed"}`,
		`barkeep_source_breaker_state{source="binance"}`, `barkeep_source_breaker_trips_total{source="binance"}`,
		`barkeep_actors{kind="breaker",state="open"}`, `barkeep_source_clock_skew_seconds{source="binance"}`, "barkeep_consumer_replays_total", "barkeep_actor_undeclared_steps_total",
		`barkeep_actors{kind="producer",state="fetching"}`, `barkeep_actors{kind="coordinator",state="processing_request"}`,
		`barkeep_actors{kind="datastore",state="waiting_for_data"}`,
	} {
		value, there := got[want]
		require.True(t, there, want)
		require.Zero(t, value, want)
	}
	for _, want := range []string{"barkeep_index_age_seconds", "barkeep_database_clock_skew_seconds"} {
		value, there := got[want]
		require.True(t, there, want)
		require.InDelta(t, 0, value, 10, want)
	}
	requireDocumented(t, got)
	for _, family := range regexp.MustCompile(`(?m)^# TYPE (barkeep_\w+) `).FindAllStringSubmatch(text, -1) {
		require.Regexp(t, `(?m)^# HELP `+family[1]+` \w.*\.$`, text)
	}
	// Six pages at 20 a second, one at once: the last waits a quarter of a second.
	require.GreaterOrEqual(t, got[`barkeep_source_rate_limit_wait_seconds_sum{source="binance"}`], 0.1)
	require.InDelta(t, 1, got["barkeep_coordinator_gaps_total"], 0)
	require.InDelta(t, 4*1440, got["barkeep_coordinator_gap_bars_total"], 0)
}

// TestSecretsStaySecret: neither a key nor a token nor a password stands in an error, the log, the metrics or the status page, not even
// where the vendor sends the key back.
func TestSecretsStaySecret(t *testing.T) {
	t.Parallel()
	vendor := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := r.Header.Get("Authorization")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(`{"Data":{},"Err":{"type":2,"message":"no such key: ` + key + `","http_status_code":401}}`))
	}))
	t.Cleanup(vendor.Close)
	var log sharedBuffer
	var link *netfault.Link
	logger := slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s := startStackLogging(t, logger, t.TempDir(), func(c *Config) {
		c.Status.Listen, c.Status.Token = "127.0.0.1:0", "hush-token"
		c.Sources["cryptocompare"] = Source{URL: vendor.URL, Key: "hush-key"}
		c.Sources["coinbase"] = Source{URL: "http://someone:hush-password@127.0.0.1:1"}
		at, err := url.Parse(c.Upstream.URL)
		require.NoError(t, err)
		at.User = url.UserPassword(at.User.Username(), "hush-dsn")
		link = netfault.New(t, at.Host)
		at.Host = link.Addr()
		c.Upstream.URL = at.String()
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.clientURL())
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	seen := []string{}
	for _, symbol := range []string{"cryptocompare:BTCUSD", "coinbase:BTCUSD"} {
		_, err = conn.Exec(ctx, `select * from ohlcv where symbol = '`+symbol+`' and timeframe = '1h' limit 1`)
		require.Error(t, err)
		seen = append(seen, err.Error())
	}
	require.Contains(t, seen[0], "no such key")
	for _, path := range []string{"/?token=hush-token", "/metrics?token=hush-token", "/?token=wrong", "/readyz"} {
		seen = append(seen, httpGet(ctx, t, "http://"+s.app.cfg.Status.Listen+path))
	}
	require.Contains(t, log.String(), "cannot refresh the list of a source")
	link.Down() // whoever complains now knows the database's address
	require.Equal(t, "not ready: database\n", httpGet(ctx, t, "http://"+s.app.cfg.Status.Listen+"/readyz"))
	_, err = pgx.Connect(ctx, s.clientURL())
	require.Error(t, err)
	seen = append(seen, err.Error())
	require.Eventually(t, func() bool { return strings.Contains(log.String(), "coverage index lost its connection") }, 10*time.Second, 10*time.Millisecond)
	link.Up()
	seen = append(seen, log.String())
	for _, text := range seen {
		require.NotContains(t, text, "hush")
	}
}
