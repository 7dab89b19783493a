package catalog

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// loadSetters marks what changes settings of the session but not by its source.
func (g *graph) loadSetters(ctx context.Context, tx pgx.Tx) error {
	rows, err := tx.Query(ctx, settersSQL)
	if err != nil {
		return fmt.Errorf("read what changes settings: %w", err)
	}
	var key string
	_, err = pgx.ForEachRow(rows, []any{&key}, func() error {
		if n := g.nodes[key]; n != nil {
			n.sets = true
		}
		return nil
	})
	return wrap("read what changes settings", err)
}

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
