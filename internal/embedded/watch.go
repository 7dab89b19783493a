package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

const (
	firstPause   = 250 * time.Millisecond
	longestPause = 30 * time.Second
)

// Run watches the child until ctx ends, and starts it again on the same addresses when it ends by itself: it was killed, or
// the disk was full. It never gives up, as what keeps a server from starting may pass. For a configured server it only waits.
func (p *Postgres) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.Exited():
		}
		if p.isStopped() {
			return nil
		}
		logger := p.in.config.logger()
		logger.ErrorContext(ctx, "the database's process ended; it is started again", slog.Any("error", p.Err()),
			slog.String("log", p.in.path("server.log")))
		for pause := firstPause; ; pause = min(2*pause, longestPause) {
			err := p.restart(ctx)
			if err == nil {
				logger.InfoContext(ctx, "the database runs again")
				break
			}
			if ctx.Err() != nil || p.isStopped() {
				return nil //nolint:nilerr // it is not wanted any more
			}
			logger.ErrorContext(ctx, "the database cannot be started", slog.Any("error", err), slog.Duration("again_in", pause))
			poll(ctx, pause, func() bool { return ctx.Err() != nil })
		}
	}
}

func (p *Postgres) isStopped() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stopped
}

// restart starts the server of a child that has ended. Addresses were given away: it has to get its port again.
func (p *Postgres) restart(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return errors.New("it was stopped")
	}
	in := p.in
	if err := endOrphan(ctx, in.path("data"), in.config.logger()); err != nil {
		return err
	}
	if err := in.clearSocket(); err != nil {
		return err
	}
	port, err := freePort(ctx, in.record.Port)
	if err != nil {
		return err
	}
	if port != in.record.Port {
		return fmt.Errorf("its port %d is taken by somebody else", in.record.Port)
	}
	c, err := in.launch(ctx)
	if err != nil {
		return err
	}
	p.child = c
	return nil
}
