package proxy

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/internal/pgtest"
)

// TestNamesThatStay: whatever the session tried to do to a prepared statement, the one that is executed is planned.
func TestNamesThatStay(t *testing.T) {
	const of = "select count(*) from ohlcv where symbol = 'sim:NAMEUSD' and timeframe = '1m'"
	none := "select count(*) from ohlcv where symbol = 'sim:NAMEUSD' and timeframe = '1m' and ts < '1999-01-01Z' and ts > '1999-01-01Z'"
	prepared := "Q prepare s as " + of + "\nwait Z\n"
	parsed := "P s " + of + "\nS\nwait Z\n"
	wrong := "Q prepare s as " + none + "\nwait Z\n"
	execute, bind := "Q execute s\nwait Z\n", "B - s\nE -\nS\nwait Z\n"
	for name, script := range map[string]string{
		"DISCARD ALL in a block":           prepared + "Q begin; discard all\nwait Z\nQ rollback\nwait Z\n" + wrong + execute,
		"DISCARD ALL in a block, Bind":     prepared + "Q begin; discard all\nwait Z\nQ rollback\nwait Z\n" + wrong + bind,
		"DISCARD PLANS":                    prepared + "Q discard plans\nwait Z\n" + wrong + execute,
		"DEALLOCATE of another":            prepared + "Q prepare o as select 1\nwait Z\nQ deallocate o\nwait Z\n" + wrong + execute,
		"DEALLOCATE in a failed block":     prepared + "Q begin\nQ select 1/0\nQ deallocate s\nQ rollback\nwait Z 4\n" + wrong + execute,
		"DEALLOCATE after a failure":       prepared + "Q select 1/0; deallocate s\nwait Z\n" + wrong + execute,
		"extended DEALLOCATE, skipped":     prepared + "P - select 1/0\nB - -\nE -\nP - deallocate s\nB - -\nE -\nS\nwait Z\n" + wrong + execute,
		"extended DEALLOCATE, not run":     prepared + "P - deallocate s\nB - -\nS\nwait Z\n" + wrong + execute,
		"Close, skipped":                   prepared + "P - select 1/0\nB - -\nE -\nC S s\nS\nwait Z\n" + wrong + execute,
		"Close of a portal":                prepared + "C P s\nS\nwait Z\n" + wrong + execute,
		"Parse of a name that exists":      parsed + "P s " + none + "\nS\n" + bind + "wait Z\n",
		"the same in a block":              parsed + "Q begin\nwait Z\nP s " + none + "\nS\nwait Z\nQ rollback\nwait Z\n" + bind,
		"Parse that is skipped":            parsed + "P - select 1/0\nB - -\nE -\nP s " + none + "\nS\n" + bind + "wait Z\n",
		"unnamed Parse that is skipped":    "P - " + of + "\nS\nwait Z\nB - nobody\nP - " + none + "\nS\nB - -\nE -\nS\nwait Z 2\n",
		"PREPARE of a parsed name":         parsed + wrong + execute,
		"PREPARE by Execute, pipelined":    prepared + "P - prepare s as " + none + "\nB - -\nE -\nS\n" + execute + "wait Z\n",
		"PREPARE by Query, pipelined":      prepared + "Q prepare s as " + none + "\nB - s\nE -\nS\nwait Z 2\n",
		"gone, then another":               wrong + "Q deallocate s\nwait Z\n" + prepared + execute,
		"gone and another at once":         wrong + "P - deallocate s\nB - -\nE -\nP s " + of + "\nS\nwait Z\n" + bind,
		"gone and another, pipelined":      wrong + "P - deallocate s\nB - -\nE -\nP s " + of + "\nS\n" + bind + "wait Z\n",
		"gone in a Query, pipelined":       wrong + "Q discard all\n" + parsed + bind + "wait Z\n",
		"by a portal of an older Sync":     "Q begin\nwait Z\nP - prepare s as " + of + "\nB p -\nS\nwait Z\nQ prepare s as " + none + "; deallocate s\nwait Z\nE p\nS\nQ commit\nwait Z 2\n" + execute,
		"DEALLOCATE ALL, unnamed stays":    "P - " + of + "\nS\nwait Z\nP k select 1\nB - k\nE -\nS\nwait Z\nP m deallocate all\nB - m\nE -\nS\nwait Z\nB - -\nE -\nS\nwait Z\n",
		"PREPARE that comes out different": prepared + "Q prepare \"S\" as " + none + "\nwait Z\nQ deallocate \"S\"\nwait Z\n" + wrong + execute,
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t, nil)
			got, err := pgtest.Seen(t.Context(), b.url, strings.TrimSuffix(script, "\n"))
			require.NoError(t, err, got)
			require.Contains(t, got, "D 10", "%s", strings.Join(got, "\n"))
		})
	}
}

// TestNamesThatAreGone: a statement that is gone for certain costs no bars any more.
func TestNamesThatAreGone(t *testing.T) {
	const of = "select count(*) from ohlcv where symbol = 'sim:NAMEUSD' and timeframe = '1m'"
	for name, script := range map[string]string{
		"DEALLOCATE":       "Q deallocate s\nwait Z",
		"DEALLOCATE ALL":   "Q deallocate all\nwait Z",
		"DISCARD ALL":      "Q discard all\nwait Z",
		"extended":         "P - deallocate s\nB - -\nE -\nS\nwait Z",
		"in one Query":     "Q select 1; deallocate s\nwait Z",
		"Close":            "C S s\nS\nwait Z",
		"in a rolled back": "Q begin; deallocate s; rollback\nwait Z",
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t, nil)
			got, err := pgtest.Seen(t.Context(), b.url, "Q prepare s as "+of+"\nwait Z\n"+script+"\nQ prepare s as select 7\nwait Z\nQ execute s\nwait Z")
			require.NoError(t, err, got)
			require.Contains(t, got, "D 7")
			require.Empty(t, b.requested())
		})
	}
}

// TestNamesOutOfSight: what is bound is known, or is not there: the answer is PostgreSQL's, without a word of ours in between.
func TestNamesOutOfSight(t *testing.T) {
	b := start(t, nil)
	for name, script := range map[string]string{
		"unknown":                "B - nothing\nD P -\nE -\nS\nwait Z\nQ select 1\nwait Z",
		"unknown, unnamed":       "B - -\nE -\nS\nwait Z",
		"behind a failure":       "P - select 1/0\nB - -\nE -\nB - nothing\nE -\nS\nwait Z\nC S nothing\nS\nwait Z",
		"behind an open one":     "P a select 1\nB - a\nE -\nB - nothing\nE -\nB - a\nE -\nS\nwait Z\nB - a\nE -\nS\nwait Z",
		"in a failed block":      "Q begin; select 1/0\nwait Z\nB - nothing\nE -\nS\nwait Z\nQ rollback\nwait Z",
		"closed and deallocated": "P a select 1\nC S a\nB - a\nE -\nS\nwait Z",
	} {
		t.Run(name, func(t *testing.T) {
			b.seesAlike(t, script)
		})
	}
	got, err := pgtest.Seen(t.Context(), b.url, "Q do $$ begin execute 'pre' || 'pare hidden as select 7'; end $$\nwait Z\nB - hidden\nE -\nS\nwait Z")
	require.NoError(t, err, got)
	require.NotContains(t, got, "D 7")
	require.Contains(t, strings.Join(got, "\n"), "26000")
}

// TestQueriesInFailedSegments: what the upstream drops with a segment that has failed is not waited for.
func TestQueriesInFailedSegments(t *testing.T) {
	b := start(t, nil)
	for name, script := range map[string]string{
		"Parse fails":          "P - nonsense\nQ select 1\nS\nwait Z",
		"two Queries":          "P - nonsense\nQ select 1\nQ select 2\nS\nwait Z",
		"Execute fails":        "P - select 1/0\nB - -\nE -\nQ select 1\nS\nwait Z",
		"after the error":      "P - nonsense\nH\nwait E\nQ select 1\nS\nwait Z",
		"the Query fails":      "P - select 1\nQ select 1/0\nS\nwait Z 2",
		"nothing fails":        "P - select 1\nB - -\nE -\nQ select 2\nS\nwait Z 2",
		"a Query before fails": "Q select 1/0\nP - select 1\nQ select 2\nS\nwait Z 3",
		"the second fails":     "P - select 1\nQ select 1\nP - nonsense\nQ select 2\nS\nwait Z 2",
	} {
		t.Run(name, func(t *testing.T) {
			script += "\nQ select 3\nwait Z"
			want, err := pgtest.Seen(t.Context(), b.db.URL, script)
			require.NoError(t, err, want)
			script += "\nQ select count(*) from ohlcv where symbol = 'sim:SEGUSD' and timeframe = '1m'\nwait Z"
			got, err := pgtest.Seen(t.Context(), b.url, script)
			require.NoError(t, err, got)
			require.Equal(t, want, got[:min(len(want), len(got))])
			require.Contains(t, got[len(want):], "D 10")
		})
	}
}
