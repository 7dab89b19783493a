package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
)

// figure is one line of the table and one entry of bench.json.
type figure struct {
	name string
	// Value is the median of the rounds, in Unit.
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	// Ratio is the median of the rounds' ratios to what Against names; nil where nothing is compared.
	Ratio   *float64 `json:"ratio,omitempty"`
	Against string   `json:"against,omitempty"`
	// Target is the least ratio, or where there is no ratio the highest value; nil where none is set.
	Target *float64 `json:"target,omitempty"`
	Met    *bool    `json:"met,omitempty"`
}

// report collects figures in the order they were measured.
type report struct {
	figures []figure
	notes   []string
}

// compare adds a figure whose rounds are compared one by one with the rounds of another; target 0 is none. Where less is
// better (a time), the ratio is turned, so that more is always better.
func (r *report) compare(name, unit string, values []float64, against string, others []float64, lessIsBetter bool, target float64) {
	ratios := make([]float64, 0, len(values))
	for i := range min(len(values), len(others)) {
		if lessIsBetter {
			ratios = append(ratios, others[i]/values[i])
		} else {
			ratios = append(ratios, values[i]/others[i])
		}
	}
	f := figure{name: name, Value: median(values), Unit: unit, Ratio: new(median(ratios)), Against: against}
	if target > 0 {
		f.Target, f.Met = new(target), new(*f.Ratio >= target)
	}
	r.figures = append(r.figures, f)
}

// measure adds a figure that stands alone, with the most it may be; 0 is no bound.
func (r *report) measure(name, unit string, value, most float64) {
	f := figure{name: name, Value: value, Unit: unit}
	if most > 0 {
		f.Target, f.Met = new(most), new(value <= most)
	}
	r.figures = append(r.figures, f)
}

func (r *report) print(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "what\tvalue\tunit\tratio\tagainst\ttarget\t")
	missed := 0
	for _, f := range r.figures {
		ratio, target, met := "", "", ""
		if f.Ratio != nil {
			ratio = fmt.Sprintf("%.2f", *f.Ratio)
		}
		if f.Target != nil {
			sign := "≥"
			if f.Ratio == nil {
				sign = "≤"
			}
			target, met = fmt.Sprintf("%s %.4g", sign, *f.Target), "met"
			if !*f.Met {
				met = "MISSED"
				missed++
			}
		}
		_, _ = fmt.Fprintf(w, "%s\t%.6g\t%s\t%s\t%s\t%s\t%s\n", f.name, f.Value, f.Unit, ratio, f.Against, target, met)
	}
	_ = w.Flush()
	for _, note := range r.notes {
		_, _ = fmt.Fprintln(out, "note:", note)
	}
	_, _ = fmt.Fprintf(out, "%d targets missed\n", missed)
}

func (r *report) write(path string) error {
	all := make(map[string]figure, len(r.figures))
	for _, f := range r.figures {
		all[f.name] = f
	}
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the figures: %w", err)
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("write the figures: %w", err)
	}
	return nil
}

func median[T cmp.Ordered](values []T) T {
	var zero T
	if len(values) == 0 {
		return zero
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
