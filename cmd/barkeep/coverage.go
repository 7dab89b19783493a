package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

type coverageCmd struct {
	Symbol    *symbolArgument    `arg:"" optional:"" help:"One symbol; all where it is left out."`
	Timeframe *timeframeArgument `arg:"" optional:"" help:"One timeframe; all where it is left out."`
	JSON      bool               `help:"One object of JSON a line." name:"json"`
}

// segmentLine is a segment as it is shown.
type segmentLine struct {
	Symbol      string     `json:"symbol"`
	Timeframe   string     `json:"timeframe"`
	State       string     `json:"state"`
	Start       string     `json:"range_start"`
	End         string     `json:"range_end"`
	Source      string     `json:"source"`
	Generation  int64      `json:"generation"`
	FetchedAt   time.Time  `json:"fetched_at"`
	Reason      string     `json:"reason,omitempty"`
	DerivedFrom string     `json:"derived_from,omitempty"`
	RetryAt     *time.Time `json:"retry_at,omitempty"`
}

// coverageSQL reads the segments, the edges in the form of RFC 3339 or as infinities.
const coverageSQL = `SELECT symbol, timeframe, state,
    CASE WHEN isfinite(range_start) THEN to_char(range_start, 'YYYY-MM-DD"T"HH24:MI:SS"Z"') ELSE range_start::text END,
    CASE WHEN isfinite(range_end) THEN to_char(range_end, 'YYYY-MM-DD"T"HH24:MI:SS"Z"') ELSE range_end::text END,
    source, generation, fetched_at, reason, derived_from, retry_at
  FROM barkeep.segments WHERE ($1 = '' OR symbol = $1) AND ($2 = '' OR timeframe = $2) ORDER BY symbol COLLATE "C", timeframe, range_start`

// Run shows what is known of which stretches.
func (c *coverageCmd) Run(g *globals) error {
	t, err := g.openTool()
	if err != nil {
		return err
	}
	defer t.close()
	symbol, timeframe := "", ""
	if c.Symbol != nil {
		symbol = string(c.Symbol.Symbol)
	}
	if c.Timeframe != nil {
		timeframe = c.Timeframe.String()
	}
	rows, err := t.pool.Query(t.ctx, coverageSQL, symbol, timeframe)
	if err != nil {
		return fmt.Errorf("read coverage: %w", err)
	}
	lines, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (l segmentLine, err error) {
		var retry pgtype.Timestamptz
		err = row.Scan(&l.Symbol, &l.Timeframe, &l.State, &l.Start, &l.End, &l.Source, &l.Generation, &l.FetchedAt, &l.Reason, &l.DerivedFrom, &retry)
		if retry.Valid && retry.InfinityModifier == pgtype.Finite {
			l.RetryAt = &retry.Time
		}
		l.FetchedAt = l.FetchedAt.UTC()
		return l, err
	})
	if err != nil {
		return fmt.Errorf("read coverage: %w", err)
	}
	if len(lines) == 0 && symbol != "" {
		return fmt.Errorf("nothing is known of %s", strings.TrimSpace(symbol+" "+timeframe))
	}
	if c.JSON {
		return writeJSON(t.out, lines)
	}
	return writeTable(t.out, lines)
}

func writeJSON(out io.Writer, lines []segmentLine) error {
	encoder := json.NewEncoder(out)
	for _, l := range lines {
		if err := encoder.Encode(l); err != nil {
			return err
		}
	}
	return nil
}

func writeTable(out io.Writer, lines []segmentLine) error {
	table := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "SYMBOL\tTIMEFRAME\tSTATE\tFROM\tTO\tSOURCE\tREAD AT\tNOTE") // Flush tells of what failed
	for _, l := range lines {
		note := l.Reason
		if l.DerivedFrom != "" {
			note = "rolled up from " + l.DerivedFrom
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", l.Symbol, l.Timeframe, l.State, l.Start, l.End, l.Source, l.FetchedAt.Format(time.RFC3339), note)
	}
	return table.Flush()
}
