package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"

	"barkeep/backfill/audit"
	"barkeep/backfill/removal"
	"barkeep/backfill/source/builtin"
	"barkeep/internal/market"
)

type auditCmd struct {
	Symbol    *symbolArgument    `arg:"" optional:"" help:"One symbol; all where it is left out."`
	Timeframe *timeframeArgument `arg:"" optional:"" help:"One timeframe; all where it is left out."`
	Pages     int                `help:"Pages that are read again." default:"20"`
	Seed      uint64             `help:"Draw the same pages again; 0: others each time."`
	Repair    bool               `help:"Have the pages that differ forgotten, so that who asks gets what the source says now."`
}

// Validate implements kong.Validatable.
func (c *auditCmd) Validate() error {
	if c.Pages <= 0 {
		return fmt.Errorf("--pages: %d must be positive", c.Pages)
	}
	return nil
}

// shownDifferences bounds what is shown of a page.
const shownDifferences = 5

// Run reads a sample of final pages again.
func (c *auditCmd) Run(g *globals) error {
	t, err := g.openTool()
	if err != nil {
		return err
	}
	defer t.close()
	config := audit.Config{Pool: t.pool, Pages: c.Pages, Timeframe: c.Timeframe.only()}
	if config.Registry, err = builtin.New(sourceConfigs(t.cfg.Sources)); err != nil {
		return err
	}
	if c.Symbol != nil {
		config.Symbol = c.Symbol.Symbol
	}
	if c.Seed != 0 {
		config.Rand = rand.New(rand.NewPCG(c.Seed, 0))
	}
	var count auditCount
	err = audit.Run(t.ctx, config, func(p audit.Page) {
		count.add(p)
		writePage(t.out, p)
	})
	if err != nil {
		return err
	}
	if err := c.repair(t, count.differing); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(t.out, "%d pages with %d bars read again: %d differ, %d could not be compared\n", count.pages, count.bars, len(count.differing), count.failed)
	switch {
	case len(count.differing) > 0:
		return &exitError{code: exitFound, text: fmt.Sprintf("%d pages are not what their source says now", len(count.differing))}
	case count.failed == count.pages:
		return fmt.Errorf("none of %d pages could be compared", count.pages)
	}
	return nil
}

// auditCount sums up.
type auditCount struct {
	pages, bars, failed int
	differing           []audit.Page
}

func (n *auditCount) add(p audit.Page) {
	n.pages++
	n.bars += p.Bars
	switch {
	case p.Err != nil:
		n.failed++
	case len(p.Differences) > 0:
		n.differing = append(n.differing, p)
	}
}

// repair forgets the pages that differ, if it is to. It ends when everybody knows of those that it has forgotten, also where it fails at another.
func (c *auditCmd) repair(t *tool, pages []audit.Page) error {
	if !c.Repair || len(pages) == 0 {
		return nil
	}
	withdrawn := false
	var failure error
	for _, p := range pages {
		out, err := removal.Forget(t.ctx, t.pool, removal.Order{Symbol: p.Series.Symbol, Timeframe: p.Series.Timeframe, Range: p.Range})
		withdrawn = withdrawn || err == nil || len(out.Lenders) > 0
		if err != nil {
			failure = err
			break
		}
		_, _ = fmt.Fprintf(t.out, "%s %s: forgotten\n", p.Series, p.Range)
	}
	if !withdrawn {
		return failure
	}
	return errors.Join(failure, t.everybodyKnows())
}

// writePage shows one page.
func writePage(out io.Writer, p audit.Page) {
	if p.Err != nil {
		_, _ = fmt.Fprintf(out, "%s: not compared: %v\n", p.Series, p.Err)
		return
	}
	state := "as the source says"
	if n := len(p.Differences); n > 0 {
		state = fmt.Sprintf("%d of %d bars differ", n, p.Bars)
	}
	_, _ = fmt.Fprintf(out, "%s %s (%s): %s\n", p.Series, p.Range, p.Source, state)
	for _, d := range p.Differences[:min(len(p.Differences), shownDifferences)] {
		_, _ = fmt.Fprintf(out, "    stored %s, source %s\n", barText(d.Stored), barText(d.Source))
	}
	if more := len(p.Differences) - shownDifferences; more > 0 {
		_, _ = fmt.Fprintf(out, "    and %d more\n", more)
	}
}

func barText(b *market.Bar) string {
	if b == nil {
		return "nothing"
	}
	return fmt.Sprintf("%s %v %v %v %v %v", b.TS, b.Open, b.High, b.Low, b.Close, b.Volume)
}
