package producer

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"barkeep/backfill/directory"
	"barkeep/backfill/source"
	"barkeep/backfill/topic"
)

// startAge is how old a list may be at the start of a producer: several that start together read it once.
const startAge = time.Minute

// keepLists announces the sources and keeps their lists fresh: at start, hourly, and when somebody wants one (PIPELINE 10).
func (p *Producer) keepLists(ctx context.Context) {
	sources := p.config.Registry.All()
	for backoff := p.config.Backoff; ; backoff = min(2*backoff, p.config.BackoffLimit) {
		err := directory.Announce(ctx, p.config.Pool, sources, p.config.Registry.Disabled()...)
		if err == nil {
			break
		}
		p.config.Logger.LogAttrs(ctx, slog.LevelWarn, "cannot announce sources, try again", slog.Any("error", err))
		if !pause(ctx, backoff) {
			return
		}
	}
	var group sync.WaitGroup
	defer group.Wait()
	wanted := make(map[string]chan struct{}, len(sources))
	for _, s := range sources {
		wake := make(chan struct{}, 1)
		wanted[s.Name()] = wake
		group.Go(func() { p.keepList(ctx, s, wake) })
	}
	p.hearWanted(ctx, wanted)
}

// keepList reads the list of a source whenever that is due. One that was read before this producer started may not have what
// was added since, so it is read once whatever its age.
func (p *Producer) keepList(ctx context.Context, s source.Source, wanted <-chan struct{}) {
	const longest = 5 * time.Minute
	began, wait := p.config.Now(), p.config.ListPoll
	for {
		age := p.config.Now().Sub(began)
		if !s.Info().Local {
			age += startAge
		}
		if err := directory.Refresh(ctx, p.config.Pool, s, min(age, p.config.ListAge)); err == nil {
			wait = p.config.ListPoll
		} else if ctx.Err() == nil {
			p.config.Logger.LogAttrs(ctx, slog.LevelWarn, "cannot refresh the list of a source", slog.String("source", s.Name()), slog.Any("error", err))
			wait = min(2*wait, longest)
		}
		timer := time.NewTimer(time.Duration(float64(wait) * (0.75 + 0.5*rand.Float64())))
		select {
		case <-ctx.Done():
		case <-wanted:
		case <-timer.C:
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// hearWanted wakes the keepers of the lists that somebody wants, and who follows live series, until ctx ends. What it misses the polls find.
func (p *Producer) hearWanted(ctx context.Context, wanted map[string]chan struct{}) {
	for {
		err := p.listenWanted(ctx, wanted)
		if ctx.Err() != nil {
			return
		}
		p.config.Logger.LogAttrs(ctx, slog.LevelWarn, "producer lost its connection", slog.Any("error", err))
		if !pause(ctx, p.config.ListPoll) {
			return
		}
	}
}

func (p *Producer) listenWanted(ctx context.Context, wanted map[string]chan struct{}) error {
	conn, err := p.config.Pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer func() {
		_ = conn.Conn().Close(context.WithoutCancel(ctx)) // a connection that listens is of no use to others
		conn.Release()
	}()
	for _, channel := range []string{directory.WantedChannel, topic.LiveChannel} {
		if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
			return fmt.Errorf("listen: %w", err)
		}
	}
	for {
		notice, err := conn.Conn().WaitForNotification(ctx)
		if err != nil {
			return fmt.Errorf("wait for notification: %w", err)
		}
		wake := wanted[notice.Payload]
		if notice.Channel == topic.LiveChannel {
			wake = p.live.wanted
		}
		select {
		case wake <- struct{}{}:
		default: // another producer's source, or it is awake already
		}
	}
}
