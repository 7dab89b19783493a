package main

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestGroupStopsInReverse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var (
			mu    sync.Mutex
			order []string
		)
		g := newGroup(t.Context(), slog.New(slog.DiscardHandler))
		for _, name := range []string{"pool", "consumer", "proxy"} {
			g.start(name, func(ctx context.Context) error {
				<-ctx.Done()
				mu.Lock()
				defer mu.Unlock()
				order = append(order, name)
				return nil
			})
		}
		intake, cancel := context.WithCancel(t.Context())
		cancel()
		g.wait(intake)
		require.NoError(t, g.stop())
		require.Equal(t, []string{"proxy", "consumer", "pool"}, order)
	})
}

func TestGroupEndsWithAPart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t.Context(), slog.New(slog.DiscardHandler))
		g.start("steady", func(ctx context.Context) error { <-ctx.Done(); return nil })
		g.start("broken", func(context.Context) error { return errors.New("boom") })
		g.wait(t.Context())
		require.EqualError(t, g.stop(), "broken: boom")
	})
}

func TestLifetimesGrace(t *testing.T) {
	t.Parallel()
	parent, cancel := context.WithCancel(t.Context())
	l := newLifetimes(parent, 20*time.Millisecond)
	defer l.stop()
	require.NoError(t, l.intake.Err())
	cancel()
	<-l.intake.Done()
	<-l.work.Done()
	require.ErrorIs(t, context.Cause(l.work), errGrace)
}
