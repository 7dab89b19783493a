package catalog

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"barkeep/planner"
)

// channel is that on which a process tells the others that it has found other names by which ohlcv is read.
const channel = "barkeep_catalog"

// hearAgain is how long it takes to listen anew after a connection was lost.
const hearAgain = time.Second

// tell has the other processes look at once. It is a hint: their poll is the promise.
func (c *Catalog) tell(ctx context.Context) {
	if _, err := c.pool.Exec(ctx, "select pg_notify($1, $2)", channel, c.id); err != nil {
		c.log.WarnContext(ctx, "others are not told of a definition; they find it by their poll", slog.Any("error", err))
	}
}

// sameNames reports whether two catalogs know ohlcv by the same names, by the same views, the same functions that define such,
// and the same other tables of its name.
func sameNames(a, b *planner.Catalog) bool {
	return a != nil && maps.Equal(a.Names, b.Names) && maps.Equal(a.Views, b.Views) && maps.Equal(a.Definers, b.Definers) && maps.Equal(a.Others, b.Others)
}

// hear wakes Run when another process tells of something, until ctx ends. Without a connection there is the poll.
func (c *Catalog) hear(ctx context.Context) {
	for ctx.Err() == nil {
		if err := c.follow(ctx); ctx.Err() == nil {
			c.log.DebugContext(ctx, "does not hear of definitions", slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
		case <-time.After(hearAgain):
		}
	}
}

// follow listens on one connection until something fails.
func (c *Catalog) follow(ctx context.Context) error {
	conn, err := c.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	// One that listens must not go back to others: it is closed, which Release then notices.
	defer func() {
		_ = conn.Conn().Close(context.WithoutCancel(ctx)) // it is of no more use whatever this returns
		conn.Release()
	}()
	if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	c.hears()
	for {
		notice, err := conn.Conn().WaitForNotification(ctx)
		if err != nil {
			return fmt.Errorf("wait for notification: %w", err)
		}
		if notice.Payload != c.id {
			c.hears()
		}
	}
}

// hears has Run look because of another process.
func (c *Catalog) hears() {
	c.heard.Store(true)
	c.wakeUp()
}
