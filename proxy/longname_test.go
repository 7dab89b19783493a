package proxy

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The names of TestLongNames: PostgreSQL keeps the first 63 bytes of what Parse and Bind call a statement or portal (NAMEDATALEN), and of an
// identifier in SQL as many whole characters as fit.
var longNames = strings.NewReplacer(
	"LONG", strings.Repeat("a", 70), "OTHER", strings.Repeat("a", 63)+"zzz", "CUT", strings.Repeat("a", 63),
	"ACUTE", strings.Repeat("a", 62)+"éx", "GRAVE", strings.Repeat("a", 62)+"èy", "WHOLE", strings.Repeat("a", 62),
	"WIDE", strings.Repeat("a", 62)+"𐍈x", "BROAD", strings.Repeat("a", 61)+"ࠀx", "READ", readText,
)

// TestLongNames: a statement and a portal are what PostgreSQL takes their names for, however long those are.
func TestLongNames(t *testing.T) {
	p := newPipelines(t)
	for name, script := range map[string]string{
		"cut":                             "P LONG READ/B - CUT/E -/S",
		"made by the cut one":             "P CUT READ/S/B - OTHER/E -/S",
		"EXECUTE":                         "P LONG READ/S/Q execute CUT/Q execute LONG/Q execute OTHER",
		"PREPARE":                         "Q prepare LONG as READ/B - OTHER/E -/S/Q execute CUT",
		"closed by another":               "P LONG select 1/S/C S OTHER/P CUT READ/B - LONG/E -/S",
		"the same, answered":              "P LONG select 1/S/wait Z/C S OTHER/S/wait Z/P CUT READ/S/wait Z/B - LONG/E -/S",
		"deallocated by another":          "P LONG select 1/S/Q deallocate OTHER/P CUT READ/S/B - LONG/E -/S",
		"taken":                           "P LONG READ/S/P OTHER select 1/S/B - OTHER/E -/S",
		"taken by what is plain":          "P LONG select 1/S/P OTHER READ/S/B - OTHER/E -/S",
		"in the middle of a character":    "P ACUTE READ/S/B - GRAVE/E -/S/Q execute ACUTE/Q execute WHOLE",
		"of four bytes":                   "P WIDE READ/S/B - WIDE/E -/S/D S WIDE/S",
		"of three bytes":                  "P BROAD READ/S/wait Z/B - BROAD/E -/S/C S BROAD/S/B - BROAD/E -/S",
		"SQL keeps whole characters":      "Q prepare ACUTE as READ/B - WHOLE/E -/S/B - ACUTE/E -/S/Q execute GRAVE",
		"arguments":                       "P LONG " + readAsking + "/S/wait Z/B - OTHER sim:ETHUSD/E -/S/wait Z/B - OTHER sim:BTCUSD/E -/S",
		"portal of an EXECUTE":            "Q prepare s as select 1/P x execute s/Q begin/B LONG x/S/Q deallocate s/Q prepare s as READ/wait Z 3/E OTHER/S",
		"portal of a PREPARE":             "P x prepare s as READ/Q begin/wait Z/B LONG x/S/wait Z/E OTHER/S/wait Z/Q execute s",
		"portal bound, closed by another": "P x READ/Q begin/B LONG x/C P OTHER/E CUT/S/Q rollback",
		"cursor":                          "Q begin/Q declare LONG cursor for READ/Q fetch 1 from OTHER/Q close CUT/Q fetch 1 from LONG/Q rollback",
		"portal, FETCH":                   "P x READ/Q begin/B LONG x/S/Q fetch 1 from OTHER/Q rollback",
	} {
		for _, p.reads = range readers {
			require.Empty(t, p.differs(parts("Q set client_min_messages to warning/"+longNames.Replace(script))), "%s, bars that are %s", name, p.reads)
		}
	}
	require.Zero(t, p.refused, "%v", p.refusals)
}
