package catalog

import (
	"strings"
	"sync"

	"barkeep/planner"
)

// setters returns the names by which settings of the session may be changed (planner.Catalog.Setters). A session whose search_path
// or level of isolation changes unseen would be planned in settings that it has no more.
func (g *graph) setters() map[string]struct{} {
	reached, names := g.callers(func(n *node) bool { return n.sets })
	for _, key := range g.events {
		if contains(reached, key) { // fired by each definition; the other words for one are known to change the session
			for _, word := range []string{"comment", "grant", "revoke", "refresh", "security", "import", "reindex", "into", "reassign"} {
				names[word] = struct{}{}
			}
		}
	}
	return names
}

// definers returns the names by which something may be defined out of sight (planner.Catalog.Definers).
func (g *graph) definers() map[string]struct{} {
	reached, names := g.callers(func(n *node) bool { return n.defines })
	for _, key := range g.events {
		if contains(reached, key) {
			for _, word := range planner.DefiningWords() {
				names[word] = struct{}{}
			}
		}
	}
	for key := range reached {
		if n := g.nodes[key]; n != nil && n.taken.job {
			names[runJob] = struct{}{}
		}
	}
	return names
}

// known returns planner.Catalog.Known. It looks at the names when it is asked for the first time: that is seldom.
func (g *graph) known() func(name string) bool {
	user := sync.OnceValue(func() map[string]bool { // whether all of the name are tables
		plain := make(map[string]bool, len(g.nodes))
		for _, n := range g.nodes {
			before, in := plain[n.name]
			plain[n.name] = n.plain && (before || !in)
		}
		return plain
	})
	return func(name string) bool {
		plain, in := user()[strings.ToLower(name)]
		if in {
			return plain
		}
		return contains(g.builtin, name)
	}
}

// callers returns the objects that are such, and all by which one of them is called; nothing where there are none.
func (g *graph) callers(such func(*node) bool) (reached, names map[string]struct{}) {
	reached, names = map[string]struct{}{}, map[string]struct{}{}
	for key, n := range g.nodes {
		if such(n) {
			reached[key], names[n.name] = struct{}{}, struct{}{}
		}
	}
	if len(reached) == 0 {
		return nil, nil
	}
	g.grow(reached, names)
	return reached, names
}
