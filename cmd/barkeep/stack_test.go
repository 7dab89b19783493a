package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/internal/dbtest"
)

// onlineVendors are the sources that would leave this machine.
var onlineVendors = slices.DeleteFunc(slices.Clone(sourceNames), func(name string) bool { return name == "file" || name == "sim" })

// stack is a whole barkeep in this process, on a database and a broker of its own.
type stack struct {
	app  *app
	db   *dbtest.DB
	addr string
}

// startStack starts all parts with a folder of files for the file source, and stops them with the test.
func startStack(t *testing.T, filePath string, adjust ...func(*Config)) *stack {
	t.Helper()
	log := slog.New(slog.NewTextHandler(logWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	return startStackLogging(t, log, filePath, adjust...)
}

func startStackLogging(t *testing.T, log *slog.Logger, filePath string, adjust ...func(*Config)) *stack {
	t.Helper()
	s := &stack{db: dbtest.New(t)}
	cfg := defaultConfig()
	cfg.Listen, cfg.Status.Listen = []string{"127.0.0.1:0"}, ""
	cfg.Upstream.URL = s.db.URL
	cfg.Brokers, cfg.TopicPrefix = dbtest.Broker(t), dbtest.OwnTopics(t)
	cfg.Shutdown.Grace = 5 * time.Second
	cfg.Sources["file"] = Source{Path: filePath}
	no := false
	for _, vendor := range onlineVendors {
		cfg.Sources[vendor] = Source{Enabled: &no} // tests stay on loopback
	}
	for _, f := range adjust {
		f(&cfg)
	}
	ctx, cancel := context.WithCancel(context.Background())
	life := newLifetimes(ctx, cfg.Shutdown.Grace)
	started, ended := make(chan *app, 1), make(chan error, 1)
	go func() {
		ended <- run(life, cfg, roles{proxy: true, producer: true, consumer: true}, log, func(a *app) { started <- a })
	}()
	t.Cleanup(func() {
		cancel()
		err := <-ended
		life.stop()
		require.NoError(t, err)
	})
	select {
	case s.app = <-started:
	case err := <-ended:
		ended <- err
		require.NoError(t, err, "start barkeep")
	}
	s.addr = s.app.listeners[0].Addr().String()
	return s
}

// clientURL is how a client reaches the stack.
func (s *stack) clientURL() string {
	config := s.db.Pool.Config().ConnConfig
	return "postgres://" + config.User + "@" + s.addr + "/" + config.Database + "?sslmode=disable"
}

// emptied takes all bars and all coverage away as forget does, with a new generation, and returns when this process knows it. Jobs that are
// open end first: a statement may be answered before the job that filled its gap has ended.
func (s *stack) emptied(ctx context.Context) error {
	const patience = 30 * time.Second
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New("a job does not end"))
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		var open bool
		err := s.db.Pool.QueryRow(ctx, `select exists (select from barkeep.job where ended_at is null)`).Scan(&open)
		if err == nil && !open {
			_, err = s.db.Pool.Exec(ctx, `delete from barkeep.coverage; delete from public.ohlcv; update barkeep.symbol set version = version + 1, generation = generation + 1`)
		}
		switch {
		case err != nil:
			return fmt.Errorf("empty the database: %w", err)
		case !open:
			return s.app.coverage.Refresh(ctx)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// logWriter sends the log to the test's own, as long as the test runs.
type logWriter struct{ t *testing.T }

var _ io.Writer = logWriter{}

func (w logWriter) Write(text []byte) (int, error) {
	if w.t.Context().Err() == nil {
		w.t.Logf("%s", text)
	}
	return len(text), nil
}
