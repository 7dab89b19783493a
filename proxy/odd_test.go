package proxy

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/internal/market"
)

// PROTOCOL 1, 5: what comes where it is dropped, or does not belong, is answered as PostgreSQL answers it, and nothing is held for it.
func TestOddPlaces(t *testing.T) {
	t.Parallel()
	const unit = "P - READ\nB - -\nE -\n"
	for name, script := range map[string]string{
		"Query behind a failed Execute":                "P - select 1/0\nB - -\nE -\nQ READ\nS\nwait Z\nQ select 2\nwait Z",
		"Query behind one that is flushed":             "P - select 1/0\nB - -\nE -\nH\nwait E\nQ READ\nQ select 2\nS\nwait Z\nQ select 3\nwait Z",
		"Query behind a failed Bind":                   "P - select 1\nB - -\nB - - 5\nQ READ\nS\nwait Z\nQ select 2\nwait Z",
		"Query behind a failed Bind, later":            "P - select 1\nB - -\nB - - 5\nsend\nQ READ\nsend\nQ READ\nS\nwait Z\nQ select 2\nwait Z",
		"Query behind a Bind that fails in a block":    "Q begin\nwait Z\nP - select 1/0\nB - -\nE -\nQ READ\nS\nwait Z\nQ rollback\nwait Z",
		"Query behind a read that fails":               unit + "P - select 1/0\nB - -\nE -\nQ READ\nS\nwait Z\nQ select 2\nwait Z",
		"Query behind an open segment":                 "P - insert into t values (1)\nB - -\nE -\nQ READ\nwait Z\nQ select count(*) from t\nwait Z",
		"Query that fails behind an open segment":      "P - insert into t values (1)\nB - -\nE -\nQ select 1/0 from ohlcv where symbol = 'sim:BTCUSD' and timeframe = '1m' and ts = '2024-01-01Z'\nwait Z\nQ select count(*) from t\nwait Z",
		"Parse in the middle of a COPY":                "Q copy t from stdin\nwait G\nd 1\nP - select 1\nwait end",
		"what reads in the middle of a COPY":           "Q copy t from stdin\nwait G\nd 1\n" + unit + "S\nwait end",
		"what reads in the middle of a COPY, flushed":  "Q copy t from stdin\nwait G\nd 1\n" + unit + "H\nwait end",
		"what reads in the middle of a COPY, no end":   "Q copy t from stdin\nwait G\nd 1\n" + unit + "wait end",
		"what reads in the middle of an extended COPY": "P - copy t from stdin\nB - -\nE -\nH\nwait G\nd 1\n" + unit + "S\nwait end",
		"Query that reads in the middle of a COPY":     "Q copy t from stdin\nwait G\nd 1\nQ READ\nwait end",
		"FunctionCall in the middle of a COPY":         "Q copy t from stdin\nwait G\nd 1\nF 177 40 2\nwait end",
		"what reads, and is pipelined behind a COPY":   "Q copy t from stdin\nd 1\nc\n" + unit + "S\nwait Z 2",
		"a named portal that goes on behind a COPY":    "Q begin\nwait Z\nP - READ\nB p -\nE p 1\nS\nwait Z\nQ copy t from stdin\nwait G\nd 1\nc\nwait Z\nE p 1\nS\nwait Z",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t, nil)
			script = "Q create temp table t (a int)\nwait Z\n" + strings.ReplaceAll(script, "READ", read)
			through := b.shapes(t, b.url, script)
			require.NoError(t, b.fill(t.Context(), market.Series{Symbol: "sim:BTCUSD", Timeframe: market.M1}))
			require.Equal(t, b.shapes(t, b.db.URL, script), through)
		})
	}
}
