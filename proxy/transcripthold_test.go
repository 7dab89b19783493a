package proxy

import (
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/internal/pgtest"
)

// TestHoldTranscripts pins what is sent when the proxy itself fails a segment.
func TestHoldTranscripts(t *testing.T) {
	for name, each := range map[string]struct {
		script string
		want   []string
	}{
		"skipped until Sync": {
			script: "Q set barkeep.timeout = '40ms'\nwait Z\nP - " + read + "\nB - -\nE -\nP - select 2\nB - -\nE -\nS\nP - select 3\nB - -\nE -\nS\nwait Z 2",
			want:   []string{"C SET", "Z I", "E ERROR 57014 " + errHoldTimeout.Message, "Z I", "1 ", "2 ", "D 3", "C SELECT 1", "Z I"},
		},
		"one failure after the other": {
			script: "Q select pg_sleep(0.2)\nP - insert into ohlcv values (1)\nB - -\nE -\nS\nP - select from ohlcv where symbol = 'sim:BTCUSD' and timeframe = '7m'\nB - -\nE -\nS\n" +
				"P - insert into ohlcv values (2)\nB - -\nE -\nH\nS\nQ select 4\nwait Z 5",
			want: []string{
				"T", "D ", "C SELECT 1", "Z I", "E ERROR 42501 " + errWrites.Message, "Z I", "E ERROR 22023 barkeep: unknown timeframe \"7m\"", "Z I",
				"E ERROR 42501 " + errWrites.Message, "Z I", "T", "D 4", "C SELECT 1", "Z I",
			},
		},
		"one failure after the other in a block": {
			script: "Q begin\nwait Z\nP - insert into ohlcv values (1)\nB - -\nE -\nS\nP - insert into ohlcv values (1)\nB - -\nE -\nS\nwait Z 2\nQ insert into ohlcv values (2)\nwait Z",
			want: []string{
				"C BEGIN", "Z T", "E ERROR 42501 " + errWrites.Message, "Z E", "E ERROR 25P02 " + errBlockFailed.Message, "Z E",
				"E ERROR 25P02 " + errBlockFailed.Message, "Z E",
			},
		},
		"behind an error without a Sync": {
			script: "P - nonsense\nH\nwait E\nP - " + read + "\nB - -\nE -\nS\nwait Z\nQ select 1\nwait Z",
			want:   []string{"E ERROR 42601 syntax error at or near \"nonsense\"", "Z I", "T", "D 1", "C SELECT 1", "Z I"},
		},
		"behind an error that was executed, and a Query": {
			script: "Q set statement_timeout = '10s'\nwait Z\nP - select 1/0\nB - -\nE -\nH\nwait E\nQ " + read + "\nP - " + read + "\nB - -\nE -\nH\nS\nwait Z\nQ select 1\nwait Z",
			want:   []string{"C SET", "Z I", "1 ", "E ERROR 22012 division by zero", "Z I", "T", "D 1", "C SELECT 1", "Z I"},
		},
		"flush then Sync": {
			script: "Q set barkeep.timeout = '40ms'\nwait Z\nP - " + read + "\nB - -\nE -\nH\nwait E\nQ select 1\nS\nwait Z",
			want:   []string{"C SET", "Z I", "E ERROR 57014 " + errHoldTimeout.Message, "Z I"},
		},
		"the open segment fails too": {
			script: "Q set barkeep.timeout = '40ms'; create table half (a int)\nwait Z\nP - insert into half values (1)\nB - -\nE -\nH\nwait C\nP - " + read +
				"\nB - -\nE -\nS\nwait Z\nQ select count(*) from half\nwait Z",
			want: []string{"C SET", "C CREATE TABLE", "Z I", "1 ", "2 ", "C INSERT 0 1", "E ERROR 57014 " + errHoldTimeout.Message, "Z I", "T", "D 0", "C SELECT 1", "Z I"},
		},
		"the open segment fails too, all at once": {
			script: "Q set barkeep.timeout = '40ms'; create table half (a int)\nwait Z\nP - insert into half values (1)\nB - -\nE -\nH\nP - " + read +
				"\nB - -\nE -\nS\nwait Z\nQ select count(*) from half\nwait Z",
			want: []string{"C SET", "C CREATE TABLE", "Z I", "1 ", "2 ", "C INSERT 0 1", "E ERROR 57014 " + errHoldTimeout.Message, "Z I", "T", "D 0", "C SELECT 1", "Z I"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t, nil)
			b.block = make(chan struct{})
			got, err := pgtest.Seen(t.Context(), b.url, each.script)
			require.NoError(t, err, got)
			for i := range got {
				if got[i][0] == 'T' {
					got[i] = "T"
				}
			}
			require.Equal(t, each.want, got)
		})
	}
}
