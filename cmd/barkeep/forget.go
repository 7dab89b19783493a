package main

import (
	"errors"
	"fmt"
	"strings"

	"barkeep/backfill/coverage"
	"barkeep/backfill/removal"
	"barkeep/internal/market"
)

type forgetCmd struct {
	Symbol    symbolArgument     `arg:"" help:"The symbol, as it is written in statements."`
	Timeframe *timeframeArgument `arg:"" optional:"" help:"One timeframe, and what was rolled up from it; all where it is left out."`
	From      *timeArgument      `arg:"" optional:"" help:"Start of the stretch, UTC: 2024-01-31 or 2024-01-31T12:00; it is widened to whole bars."`
	To        *timeArgument      `arg:"" optional:"" help:"Its end, which is not part of it."`
	Source    string             `help:"Have this source serve the symbol from now on; all of the symbol is forgotten." placeholder:"NAME"`
}

// Validate implements kong.Validatable.
func (c *forgetCmd) Validate() error {
	switch {
	case c.From != nil && c.To == nil:
		return errors.New("a stretch has an end too")
	case c.Source != "" && c.Timeframe != nil:
		return removal.ErrPart
	}
	return validStretch(c.From, c.To)
}

// Run has barkeep forget bars: who asks for them has them fetched again.
func (c *forgetCmd) Run(g *globals) error {
	t, err := g.openTool()
	if err != nil {
		return err
	}
	defer t.close()
	out, err := removal.Forget(t.ctx, t.pool, removal.Order{
		Symbol: c.Symbol.Symbol, Timeframe: c.Timeframe.only(), Range: stretch(c.From, c.To), Source: c.Source,
	})
	if errors.Is(err, coverage.ErrUnbound) {
		return fmt.Errorf("nothing is known of %q: nobody has asked for it yet", string(c.Symbol.Symbol))
	}
	if len(out.Series) > 0 || len(out.Lenders) > 0 {
		err = errors.Join(err, t.everybodyKnows())
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(t.out, forgotten(c.Symbol.Symbol, stretch(c.From, c.To), out, t.cfg.Removal.Grace.String()))
	return err
}

func forgotten(symbol market.Symbol, r market.Range, out removal.Outcome, grace string) string {
	where := ""
	if r != market.Always {
		where = " in " + r.String()
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%s is in generation %d, served by %s\n", symbol, out.Generation, out.Source)
	for _, s := range out.Series {
		fmt.Fprintf(&text, "  %s: forgotten%s\n", s.Timeframe, where)
	}
	for _, lender := range out.Lenders {
		fmt.Fprintf(&text, "  what %s had lent is forgotten there too\n", lender)
	}
	if len(out.Series) == 0 {
		text.WriteString("  there was nothing to forget\n")
	} else {
		text.WriteString("who asks has them fetched again; rows that nobody asks for are deleted after " + grace + "\n")
	}
	return text.String()
}
