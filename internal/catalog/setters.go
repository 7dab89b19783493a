package catalog

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
	_, names := g.callers(func(n *node) bool { return n.defines })
	return names
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
