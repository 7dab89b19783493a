package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/source"
	"barkeep/backfill/source/builtin"
	"barkeep/internal/market"
)

var update = flag.Bool("update", false, "rewrite the table of settings in README.md")

// TestReadmeSettings keeps the README's table of settings equal to the code's; -update rewrites it.
func TestReadmeSettings(t *testing.T) { //nolint:paralleltest // it writes the same file
	requireInReadme(t, "settings", settingsTable())
}

// TestReadmeSources does the same for what the sources are by themselves.
func TestReadmeSources(t *testing.T) { //nolint:paralleltest // it writes the same file
	requireInReadme(t, "sources", sourcesTable(t))
}

func requireInReadme(t *testing.T, mark, table string) {
	t.Helper()
	from, to := "<!-- "+mark+" -->\n", "<!-- /"+mark+" -->"
	path := filepath.Join("..", "..", "README.md")
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	head, rest, ok := strings.Cut(string(content), from)
	require.True(t, ok)
	_, tail, ok := strings.Cut(rest, to)
	require.True(t, ok)
	want := head + from + table + to + tail
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(want), 0o600))
		return
	}
	require.Equal(t, want, string(content), "run go test ./cmd/barkeep -run Readme -update")
}

func settingsTable() string {
	var table strings.Builder
	table.WriteString("| key | default | |\n|---|---|---|\n")
	for _, s := range settings() {
		name, ours := strings.CutPrefix(s.key, "sources.sim.")
		switch {
		case ours:
			s.key = "sources.<name>." + name
		case strings.HasPrefix(s.key, "sources."):
			continue
		}
		if s.key == "data_dir" {
			s.value = "~/.local/share/barkeep"
		}
		if s.value != "" {
			s.value = "`" + s.value + "`"
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s |\n", s.key, s.value, s.doc)
	}
	return table.String()
}

func sourcesTable(t *testing.T) string {
	t.Helper()
	registry, err := builtin.New(map[string]source.Config{"coindesk": {Key: "k"}, "cryptocompare": {Key: "k"}, "file": {Path: t.TempDir()}})
	require.NoError(t, err)
	var table strings.Builder
	table.WriteString("| source | timeframes | rate, burst | final after | absent after | |\n|---|---|---|---|---|---|\n")
	for _, s := range registry.All() {
		info, rate := s.Info(), "none"
		if limited, ok := s.(interface{ Limiter() *source.Limiter }); ok {
			perSecond, burst := limited.Limiter().Rate()
			rate = fmt.Sprintf("%g/s, %d", perSecond, burst)
		}
		notes := depthNotes(&info)
		if info.PrefixOnly {
			notes = append(notes, "by its prefix only")
		}
		names := info.NativeNames()
		fmt.Fprintf(&table, "| %s | %s | %s | %s | %s | %s |\n", s.Name(), names, rate, lagText(info.Finality), lagText(info.Absence), strings.Join(notes, "; "))
	}
	return table.String()
}

// depthNotes tell how far back a source reaches, in one where that is the same number of bars for all timeframes.
func depthNotes(info *source.Info) (notes []string) {
	bars := map[int64]bool{}
	for _, tf := range info.Native {
		depth := info.Depth[tf]
		bars[int64(depth/tf.Step())] = true
		if depth > 0 {
			notes = append(notes, fmt.Sprintf("%s: the last %d days only", tf, int(depth.Hours()/24)))
		}
	}
	if len(notes) == len(info.Native) && len(bars) == 1 {
		return []string{fmt.Sprintf("the newest %d bars of each only", int64(info.Depth[market.M1]/market.M1.Step()))}
	}
	return notes
}

// lagText writes a lag as 1h (1m: 90s).
func lagText(lag source.Lag) string {
	parts := []string{shortText(lag.Default)}
	for tf, d := range lag.ByTimeframe {
		parts = append(parts, fmt.Sprintf("(%s: %s)", tf, shortText(d)))
	}
	return strings.Join(parts, " ")
}

// shortText leaves out the zeros of 1h0m0s.
func shortText(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
