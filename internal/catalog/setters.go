package catalog

// setters returns the names by which settings of the session may be changed (planner.Catalog.Setters). A session whose search_path
// or level of isolation changes unseen would be planned in settings that it has no more.
func (g *graph) setters() map[string]struct{} {
	reached, names := map[string]struct{}{}, map[string]struct{}{}
	for key, n := range g.nodes {
		if n.sets {
			reached[key], names[n.name] = struct{}{}, struct{}{}
		}
	}
	if len(reached) == 0 {
		return nil
	}
	g.grow(reached, names)
	for _, key := range g.events {
		if contains(reached, key) { // fired by each definition; the other words for one are known to change the session
			for _, word := range []string{"comment", "grant", "revoke", "refresh", "security", "import", "reindex", "into", "reassign"} {
				names[word] = struct{}{}
			}
		}
	}
	return names
}
