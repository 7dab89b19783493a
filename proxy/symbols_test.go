package proxy

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/planner"
)

// growing is a catalog in which one symbol more is bound whenever a pattern is asked about, up to three.
type growing struct {
	Catalog
	calls atomic.Int64
}

func (g *growing) Answer(_ context.Context, questions []planner.Question) (planner.Answers, error) {
	answers, names := planner.Answers{}, []string{`"S1"`, `"S2"`, `"S3"`}
	there := names[:min(g.calls.Add(1), 3)]
	for _, q := range questions {
		text := `{"t":[` + strings.Join(there, ",") + `]}`
		answers[q.Key] = &text
	}
	return answers, nil
}

// TestRule13_SymbolsThatAreBoundDuringAHold: the statement is planned again after it, and asks again which symbols there are.
func TestRule13_SymbolsThatAreBoundDuringAHold(t *testing.T) {
	t.Parallel()
	g := &growing{}
	b := start(t, func(cfg *Config) { g.Catalog = cfg.Catalog; cfg.Catalog = g })
	conn := b.connect(t, nil)
	var bars int
	err := conn.QueryRow(t.Context(), `select count(*) from public.ohlcv where symbol like 'S%' and timeframe = '1m' and ts < '2024-01-02Z'`).Scan(&bars)
	require.NoError(t, err)
	require.Equal(t, 30, bars)
	require.EqualValues(t, 4, g.calls.Load(), "once for each plan: with one symbol, two, three, and three again")
}
