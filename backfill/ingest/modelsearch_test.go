package ingest_test

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/internal/dbtest"
)

// visited is a state of a search, with how it was come to.
type visited struct {
	state  *model
	before int
	what   string
}

// search looks at every state that can be come to, nearest first, and returns how many there are, and the way to the first in which
// something does not hold.
func search(start *model) (states int, found string) {
	seen := map[string]struct{}{start.key(): {}}
	list := []visited{{state: start, before: -1}}
	for at := 0; at < len(list); at++ {
		m := list[at].state
		wrong := m.check()
		if wrong == "" {
			wrong = m.settled()
		}
		if wrong != "" {
			return len(list), trace(list, at) + wrong
		}
		m.successors(func(what string, next *model) {
			key := next.key()
			if _, known := seen[key]; known {
				return
			}
			seen[key] = struct{}{}
			list = append(list, visited{state: next, before: at, what: what})
		})
		list[at].state = nil
	}
	return len(list), ""
}

func trace(list []visited, at int) string {
	var way []string
	for ; list[at].before >= 0; at = list[at].before {
		way = append(way, list[at].what)
	}
	slices.Reverse(way)
	return strings.Join(way, "\n") + "\n=> "
}

// The worlds that are searched whole: each fault alone and two together. raceEvents is taken from what is published where the race
// detector makes everything ten times slower.
const (
	goesBack     = "the database goes back"
	losesEnd     = "the log loses its end"
	becomesFinal = "the bars become final, consumers die"
	forgotten    = "forget, with pages on their way"
	bothLose     = "the log and the database lose their end"
	lends        = "the vendor cannot say, another venue lends"
)

var small = map[string]budget{
	goesBack:     {reads: 2, publishes: 3, restores: 1},
	losesEnd:     {reads: 2, publishes: 3, truncations: 1},
	becomesFinal: {reads: 2, publishes: 3, phases: 1, crashes: 1},
	forgotten:    {reads: 2, publishes: 3, forgets: 1},
	bothLose:     {reads: 1, publishes: 3, restores: 1, truncations: 1},
	lends:        {reads: 1, publishes: 2, phases: 1, denials: 1, loans: 1},
}

// plantedBugs names the world in which the search finds each.
var plantedBugs = map[bug]string{
	offsetUnchecked:  goesBack,
	offsetBelow:      goesBack,
	idUnchecked:      losesEnd,
	offsetApart:      becomesFinal,
	coverageApart:    becomesFinal,
	anyReading:       goesBack,
	anyGeneration:    forgotten,
	rowsStay:         becomesFinal,
	truncationUnseen: losesEnd,
	endsApart:        goesBack,
	lentOver:         lends,
	lentStays:        lends,
}

func smallModel(name string, planted bug, fewer int8) *model {
	left := small[name]
	left.publishes -= fewer
	return newModel(2, [][2]int8{{0, 2}, {1, 2}}, planted, left)
}

// PIPELINE 4, 8, 19, 20: every interleaving of few events, and many of more.
func TestModel(t *testing.T) {
	t.Parallel()
	for name := range small {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			states, found := search(smallModel(name, none, raceEvents))
			require.Empty(t, found)
			t.Logf("%d states", states)
		})
	}
	t.Run("at random", func(t *testing.T) {
		t.Parallel()
		seed := dbtest.Number(t, "BARKEEP_TEST_SEED", 1)
		t.Logf("BARKEEP_TEST_SEED=%d", seed)
		require.Empty(t, wander(none, uint64(seed), dbtest.Number(t, "MODEL_WALKS", modelWalks)))
	})
}

// wander takes random ways through larger worlds and returns the first at the end of which something does not hold.
func wander(planted bug, seed uint64, walks int) string {
	random := rand.New(rand.NewPCG(seed, 0))
	var ranges [][2]int8
	for from := range int8(maxSlots) {
		for to := from + 1; to <= maxSlots; to++ {
			ranges = append(ranges, [2]int8{from, to})
		}
	}
	for range walks {
		m := newModel(maxSlots, ranges, planted, budget{
			reads: 8, publishes: 14, phases: 1, forgets: 1, restores: 1, truncations: 1, crashes: 2, denials: 2, loans: 2,
		})
		var way []string
		for range 40 {
			var steps []visited
			m.successors(func(what string, next *model) { steps = append(steps, visited{state: next, what: what}) })
			if len(steps) == 0 {
				break
			}
			step := steps[random.IntN(len(steps))]
			if strings.HasPrefix(step.what, "read") || strings.HasPrefix(step.what, "cannot say") { // the many ranges must not outnumber what else happens
				step = steps[random.IntN(len(steps))]
			}
			m, way = step.state, append(way, step.what)
			wrong := m.check()
			if wrong == "" {
				wrong = m.settled()
			}
			if wrong != "" {
				return strings.Join(way, "\n") + "\n=> " + wrong
			}
		}
	}
	return ""
}

// The model finds each of the bugs that are planted in it, by the search and by random ways.
func TestModelFindsPlantedBugs(t *testing.T) {
	t.Parallel()
	for planted, where := range plantedBugs {
		t.Run(string(planted), func(t *testing.T) {
			t.Parallel()
			_, found := search(smallModel(where, planted, 0))
			require.NotEmpty(t, found, "the search does not notice it")
			t.Logf("%s:\n%s", where, found)
			require.NotEmpty(t, wander(planted, 1, 20_000), "random ways do not notice it")
		})
	}
}
