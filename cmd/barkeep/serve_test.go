package main

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"barkeep/internal/dbtest"
)

// TestServe is a stranger's first minute: a day of minutes is asked for, fetched, stored and answered; asked again it is
// there; the page and the metrics tell of it; a signal ends it all.
func TestServe(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	flags := map[string]string{
		"listen": "127.0.0.1:0", "status.listen": "127.0.0.1:0", "upstream.url": db.URL, "data_dir": t.TempDir(), "shutdown.grace": "10s",
	}
	for _, vendor := range onlineVendors {
		flags["sources."+vendor+".enabled"] = "false" // tests stay on loopback
	}
	cfg, err := Load(Layers{Flags: flags})
	require.NoError(t, err)
	intake, stop := context.WithCancel(t.Context())
	life := newLifetimes(intake, cfg.Shutdown.Grace)
	defer life.stop()
	type addresses struct{ listen, status string }
	started, ended := make(chan addresses, 1), make(chan error, 1)
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	go func() {
		ended <- run(life, cfg, roles{proxy: true, producer: true, consumer: true}, log, func(a *app) {
			started <- addresses{a.listeners[0].Addr().String(), a.cfg.Status.Listen}
		})
	}()
	defer stop()
	var at addresses
	select {
	case at = <-started:
	case err := <-ended:
		require.NoError(t, err, "it ended before it began")
	}
	address, err := url.Parse(db.URL)
	require.NoError(t, err)
	address.Host = at.listen
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, address.String())
	require.NoError(t, err)
	const day = `select count(*) from ohlcv where symbol='sim:BTCUSD' and timeframe='1m' and ts >= '2024-01-01Z' and ts < '2024-01-02Z'`
	var bars, jobs int
	for range 2 {
		require.NoError(t, conn.QueryRow(ctx, day).Scan(&bars))
		require.Equal(t, 1440, bars)
		require.NoError(t, db.Pool.QueryRow(ctx, `select count(*) from barkeep.job`).Scan(&jobs))
		require.Equal(t, 1, jobs, "the second time nothing is fetched")
	}
	_, err = conn.Exec(ctx, `create view public.daily as select * from ohlcv where timeframe = '1d'`)
	require.NoError(t, err)
	require.NoError(t, conn.QueryRow(ctx, `select count(*) from daily where symbol='sim:BTCUSD' and ts >= '2024-01-01Z' and ts < '2024-01-08Z'`).Scan(&bars))
	require.Equal(t, 7, bars, "a view is known as soon as its statement ended")
	require.Contains(t, httpGet(ctx, t, "http://"+at.status+"/"), "sim:BTCUSD 1m")
	require.Eventually(t, func() bool { // a statement may be answered before its job's end record is read
		return db.Pool.QueryRow(ctx, `select count(*) from barkeep.job where ended_at is null`).Scan(&jobs) == nil && jobs == 0
	}, 10*time.Second, 5*time.Millisecond)
	metrics := httpGet(ctx, t, "http://"+at.status+"/metrics")
	for _, want := range []string{
		`barkeep_source_bars_total{source="sim"}`, `barkeep_jobs{state="done"} 2`, "barkeep_actor_undeclared_steps_total 0", "barkeep_consumer_lag_records 0",
	} {
		require.True(t, strings.Contains(metrics, want+"\n") || strings.Contains(metrics, want+" "), want)
	}
	require.Equal(t, "ready\n", httpGet(ctx, t, "http://"+at.status+"/readyz"))

	stop()
	require.NoError(t, <-ended)
	require.Error(t, conn.Ping(ctx), "an idle session is told to go")
}

// TestServe_PlainTable is the same on a database without TimescaleDB: an ordinary table, and a time_bucket of barkeep's own.
func TestServe_PlainTable(t *testing.T) {
	t.Parallel()
	plain := dbtest.NewPlain(t)
	s := startStack(t, t.TempDir(), func(cfg *Config) { cfg.Upstream.URL = plain.URL })
	s.db = plain
	conn := connect(t, s.clientURL())
	const hours = `select count(*), sum(n) from (select time_bucket('1 hour', ts), count(*) n from ohlcv
		where symbol='sim:BTCUSD' and timeframe='1m' and ts >= '2024-01-01Z' and ts < '2024-01-02Z' group by 1) x`
	for range 2 {
		var buckets, bars, jobs int
		require.NoError(t, conn.QueryRow(t.Context(), hours).Scan(&buckets, &bars))
		require.Equal(t, []int{24, 1440}, []int{buckets, bars})
		require.NoError(t, plain.Pool.QueryRow(t.Context(), `select count(*) from barkeep.job`).Scan(&jobs))
		require.Equal(t, 1, jobs)
	}
	var children int
	require.NoError(t, plain.Pool.QueryRow(t.Context(), `select count(*) from pg_inherits where inhparent = 'public.ohlcv'::regclass`).Scan(&children))
	require.Zero(t, children, "no hypertable")
}

func httpGet(ctx context.Context, t *testing.T, address string) string {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	require.NoError(t, err)
	response, err := client.Do(request)
	require.NoError(t, err)
	defer func() { require.NoError(t, response.Body.Close()) }()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return string(body)
}
