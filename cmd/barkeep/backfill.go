package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"

	"barkeep/backfill/coordinator"
	"barkeep/backfill/coverage"
	"barkeep/backfill/topic"
	"barkeep/internal/market"
)

type backfillCmd struct {
	Symbol    symbolArgument    `arg:"" help:"The symbol, as it is written in statements."`
	Timeframe timeframeArgument `arg:"" help:"The timeframe."`
	From      timeArgument      `arg:"" help:"Start of the stretch, UTC: 2024-01-31 or 2024-01-31T12:00."`
	To        *timeArgument     `arg:"" optional:"" help:"Its end, which is not part of it; now where it is left out."`
}

// Validate implements kong.Validatable.
func (c *backfillCmd) Validate() error { return validStretch(&c.From, c.To) }

// Run has bars fetched ahead of the statements that will need them, behind all for which somebody waits.
func (c *backfillCmd) Run(g *globals) error {
	t, err := g.openTool()
	if err != nil {
		return err
	}
	defer t.close()
	if len(t.cfg.Brokers) == 0 {
		return errors.New("brokers: barkeep backfill needs the broker that the producers work for")
	}
	group := newGroup(t.life.work, t.log)
	err = c.fill(t, group)
	return errors.Join(err, group.stop())
}

func (c *backfillCmd) fill(t *tool, group *group) error {
	names := topic.Names{Prefix: t.cfg.TopicPrefix}
	var deployment string
	if err := t.pool.QueryRow(t.ctx, `SELECT id::text FROM barkeep.deployment`).Scan(&deployment); err != nil {
		return fmt.Errorf("read the deployment's id: %w", err)
	}
	brokers, err := t.brokers()
	if err != nil {
		return err
	}
	if err := topic.Ensure(t.ctx, brokers, names, deployment); err != nil {
		return fmt.Errorf("prepare topics: %w", t.cfg.Broker.closed(err))
	}
	store := coverage.NewStore(t.pool, coverage.Config{Logger: t.log})
	if err := store.Load(t.ctx); err != nil {
		return fmt.Errorf("read coverage: %w", err)
	}
	coord, err := coordinator.New(coordinator.Config{
		Options: brokers, Pool: t.pool, Names: names, Deployment: deployment, Coverage: store, Logger: t.log, MaxBars: math.MaxInt64,
		Fallback: t.cfg.fallbacks(),
	})
	if err != nil {
		return fmt.Errorf("make the coordinator: %w", err)
	}
	if err := coord.Mix(t.ctx); err != nil {
		coord.Close()
		return err
	}
	group.start("coverage", store.Run)
	group.start("coordinator", func(ctx context.Context) error {
		defer coord.Close()
		return coord.Run(ctx)
	})
	r := stretch(&c.From, c.To)
	r.End = min(r.End, market.FromTime(time.Now()))
	series := market.Series{Symbol: c.Symbol.Symbol, Timeframe: c.Timeframe.Timeframe}
	bar := newBar(os.Stderr)
	warnings, err := coord.Ensure(t.ctx, coordinator.Request{
		Requirements: []market.Requirement{{Series: series, Ranges: market.NewRangeSet(r)}},
		Bulk:         true, AskedBy: t.pool.Config().ConnConfig.User,
	}, bar.show)
	bar.end()
	for _, warning := range warnings {
		_, _ = fmt.Fprintln(os.Stderr, "barkeep: warning:", warning)
	}
	if err != nil {
		return c.told(t, err)
	}
	_, err = fmt.Fprintf(t.out, "%s %s is there\n", series, r.Outward(series.Timeframe))
	return err
}

// told adds to an error what to do.
func (c *backfillCmd) told(t *tool, err error) error {
	if t.ctx.Err() != nil {
		return &exitError{code: exitInterrupted, text: "interrupted; what was ordered goes on: the view barkeep.jobs shows it, barkeep.cancel_job(id) ends it"}
	}
	var advised interface{ Hint() string }
	if errors.As(err, &advised) && advised.Hint() != "" {
		return fmt.Errorf("%w. %s", err, advised.Hint())
	}
	return err
}

// progressBar draws how far a fetch is: over and over on a terminal, else a line for each tenth.
type progressBar struct {
	out      io.Writer
	terminal bool
	tenth    int64
	drawn    bool
}

func newBar(out *os.File) *progressBar {
	info, err := out.Stat()
	return &progressBar{out: out, terminal: err == nil && info.Mode()&os.ModeCharDevice != 0, tenth: -1}
}

const barWidth = 30

// show draws p.
func (b *progressBar) show(p market.Progress) {
	if p.Total <= 0 {
		return
	}
	full := int(p.Done * barWidth / p.Total)
	line := fmt.Sprintf("%s [%s%s] %3d%% %d of %d bars", p.Series, strings.Repeat("#", full), strings.Repeat(".", barWidth-full), p.Done*100/p.Total, p.Done, p.Total)
	if p.Left >= 0 {
		line += ", " + p.Left.Round(time.Second).String() + " left"
	}
	if p.Delay != "" {
		line += ", " + p.Delay
	}
	switch tenth := p.Done * 10 / p.Total; {
	case b.terminal:
		_, _ = fmt.Fprint(b.out, "\r\x1b[K", line) // a bar that cannot be drawn is no failure
		b.drawn = true
	case tenth != b.tenth:
		b.tenth = tenth
		_, _ = fmt.Fprintln(b.out, line)
	}
}

// end leaves the bar as it is and begins a new line.
func (b *progressBar) end() {
	if b.drawn {
		_, _ = fmt.Fprintln(b.out)
	}
}
