package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/lib/pq"
)

// heard is how many notifications are waited for; quiet is the time in which none may come.
const (
	heard = 2
	quiet = 1500 * time.Millisecond
)

// runLive listens, tells what comes, and how much comes when it listens no more.
func runLive(driver, url, channel string) (err error) {
	defer recovered(&err)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	switch driver {
	case "pgx":
		return livePgx(ctx, url, channel)
	case "pq":
		return livePq(ctx, url, channel)
	}
	return fmt.Errorf("unknown driver %q", driver)
}

func livePgx(ctx context.Context, url, channel string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Close(ctx)
	tx, err := conn.Begin(ctx)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	if _, err := tx.Exec(ctx, "listen "+pgx.Identifier{channel}.Sanitize()); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	for range heard {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return fmt.Errorf("wait for a notification: %w", err)
		}
		tell("heard", []string{n.Channel, n.Payload}, nil)
	}
	if _, err := conn.Exec(ctx, "unlisten *"); err != nil {
		return fmt.Errorf("unlisten: %w", err)
	}
	for await(ctx, conn, time.Millisecond) == nil { // what came before
	}
	after := 0
	for err = await(ctx, conn, quiet); err == nil; err = await(ctx, conn, quiet) {
		after++
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("wait for no notification: %w", err)
	}
	tell("after UNLISTEN", after, nil)
	return nil
}

func await(ctx context.Context, conn *pgx.Conn, most time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	_, err := conn.WaitForNotification(ctx)
	return err
}

func livePq(ctx context.Context, url, channel string) error {
	listener := pq.NewListener(url, time.Second, time.Second, nil)
	defer listener.Close()
	if err := listener.Listen(channel); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	for range heard {
		select {
		case n := <-listener.Notify:
			tell("heard", []string{n.Channel, n.Extra}, nil)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := listener.Unlisten(channel); err != nil {
		return fmt.Errorf("unlisten: %w", err)
	}
	after := 0
	for over := time.After(quiet); ; {
		select {
		case <-listener.Notify:
			after++
		case <-over:
			tell("after UNLISTEN", after, nil)
			return nil
		}
	}
}
