package proxy

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/internal/dbtest"
)

// copyBegins are what begins a COPY from the client, or fails in its place: "copy guarded" before any of its data is read, the next at once.
var copyBegins = []string{
	"P - copy t from stdin/B - -/E -", "Q copy t from stdin", "P - copy guarded from stdin/B - -/E -", "Q copy guarded from stdin",
	"P - copy nowhere from stdin/B - -/E -", "Q copy nowhere from stdin",
}

// copyEnds are what is sent behind that.
var copyEnds = []string{
	"S/f no", "S/c", "S/d 1/c", "S/d x/c", "S/d 1/f no", "f no", "c", "d 1/c", "d x/c", "S/S/f no", "S/H/S/d 1/c", "S/d 1/S/c", "S/d 1/S/f no",
	"d 1/S/c", "d 1/S/f no", "S/d 1/d x/S/c", "S/d 1/S/d x/S/c", "S/d 1/S/d 1/S/c", "S/d x/S", "d x/S", "S/f no/f no", "S/c/c", "S/d x/d 1/c",
	"S/f no/S", "S/c/S", "S/d x/c/S", "d 1/S/c/S",
}

// copyTails are what comes then, before the next Sync.
var copyTails = []string{
	"Q select 1/Q " + readText, "Q " + readText, "Q select 1/0/Q " + readText, "P - select 1/B - -/E -/S/Q " + readText,
	"P - " + readText + "/B - -/E -", "P - " + readAsking + "/B - - sim:BTCUSD/E -/S/Q select 1", "Q set timezone to 'UTC'/Q " + readText,
	"P - insert into t values (70)/B - -/E -/Q select 2/Q " + readText,
}

// A COPY from the client takes each Sync that comes before its end for nothing, so that what comes behind it is in the segment that the
// COPY is in, and is dropped with it where that fails (manual, "Message Flow", "COPY Operations"): what is answered is what PostgreSQL answers.
// COPY_TAILS sets how many of the tails are tried with each beginning and end.
func TestCopyFailsInAnOpenSegment(t *testing.T) {
	p := newPipelines(t)
	n, most := 0, dbtest.Number(t, "COPY_TAILS", 1)
	for _, begin := range copyBegins {
		for _, end := range copyEnds {
			for range most {
				n++
				script := slices.Concat(parts(begin), parts(end), parts(copyTails[n%len(copyTails)]), []string{"S", "Q select 3"})
				p.reads = readers[n/len(copyTails)%len(readers)]
				if found := p.differs(script); found != "" {
					t.Errorf("bars that are %s: %s\n%s", p.reads, found, strings.Join(script, " / "))
				}
			}
		}
	}
	t.Logf("%d scripts", n)
	require.LessOrEqual(t, p.refused, n/16, "%v", p.refusals)
}

// parts are the lines of a script that is written in one.
func parts(script string) []string {
	return strings.Split(strings.ReplaceAll(script, "select 1/0", "select 1 % 0"), "/")
}

// What does not belong in a COPY ends the session, whatever waits for the answer to a Sync that the COPY takes for nothing.
func TestWhatDoesNotBelongInACopy(t *testing.T) {
	p := newPipelines(t)
	n := 0
	for _, begin := range copyBegins[:2] {
		for _, end := range []string{"S", "S/d 1", "S/S", "S/d 1/S", "H", "S/X"} {
			for _, tail := range copyTails {
				n++
				script := slices.Concat([]string{"Q create temp table t (a int primary key)", "wait Z"}, parts(begin), parts(end), parts(tail), []string{"S", "wait end"})
				straight := p.play("postgres", p.straight.db.URL, script)
				require.Equal(t, "end", straight[len(straight)-1])
				p.reads = readers[n%len(readers)]
				for name, b := range p.through {
					p.reset(b)
					through := p.play(name, b.url, script)
					require.Equal(t, "end", through[len(through)-1], "%s, bars that are %s: %q\n%q", name, p.reads, through, script)
				}
			}
		}
	}
}
