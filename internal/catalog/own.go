package catalog

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"barkeep/planner"
)

// Own is what an open transaction has defined and only it sees, as far as it matters to what reads ohlcv. It is immutable.
//
// What holds: every object through which the transaction can read ohlcv, and every one by which it can define something out of sight, is
// such in a catalog that includes what it was found to have. Nothing is taken away: what the transaction has dropped or given another
// meaning is still there as others see it.
type Own struct {
	// state is the same as long as the transaction defines nothing more.
	state string
	// keys are the objects that it has made or changed, and those to which it has given something. Some are others' that were committed
	// since it began.
	keys map[string]struct{}

	relations, routines, types []object
	edges                      []edge
	taken                      map[string]takes
	setters, events            []string
	overload                   string
	overloads                  []string
	folds                      bool
}

// Asker runs a query in a session's own transaction, with search_path pg_catalog, and returns the first column of its rows, which is of
// type bytea.
type Asker func(ctx context.Context, sql string) ([][]byte, error)

// Inside returns what the transaction that ask runs in has defined, or nil where that is nothing. Known is what it was found to have
// before, which is returned where it has defined nothing since; it may be nil.
func (c *Catalog) Inside(ctx context.Context, ask Asker, known *Own) (*Own, error) {
	rows, err := ask(ctx, insideSQL)
	if err != nil {
		return nil, fmt.Errorf("look for definitions of the transaction: %w", err)
	}
	switch {
	case len(rows) == 0 || len(rows[0]) == 0:
		return nil, nil
	case known != nil && known.state == string(rows[0]):
		return known, nil
	}
	out := &Own{state: string(rows[0]), keys: map[string]struct{}{}, taken: map[string]takes{}}
	queries := []string{definedSQL}
	if loaded := c.loaded.Load(); loaded != nil && loaded.shelf.timescale {
		queries = append(queries, ownAggregatesSQL)
	}
	for _, sql := range queries {
		if rows, err = ask(ctx, sql); err != nil {
			return nil, fmt.Errorf("read definitions of the transaction: %w", err)
		}
		for _, row := range rows {
			if err := out.add(row); err != nil {
				return nil, fmt.Errorf("read definitions of the transaction: %w", err)
			}
		}
	}
	return out, nil
}

// defined is a row of definedSQL.
type defined struct {
	List, Key, Name string
	Text            *string
	Is              []bool
	Positions       int64
}

func (o *Own) add(row []byte) error {
	var d defined
	if err := json.Unmarshal(row, &d); err != nil {
		return err
	}
	made := object{key: d.Key, name: d.Name, source: sourceOf(d.Text)}
	switch d.List {
	case "key":
		o.keys[d.Key] = struct{}{}
	case "relation":
		made.passing, made.plain, made.view, made.root = d.Is[0], d.Is[1], d.Is[2], d.Is[3]
		o.relations = append(o.relations, made)
	case "routine":
		made.source.defines = d.Is[0] || planner.DefinesInside(made.source.text)
		o.routines = append(o.routines, made)
	case "taken":
		o.taken[d.Key] = takes{
			taken: taken{positions: uint64(d.Positions), runs: d.Is[0], row: d.Is[2], job: d.Is[3]}, all: d.Is[1], //nolint:gosec // bits
		}
	case "type":
		o.types = append(o.types, made)
	case "edge":
		o.edges = append(o.edges, edge{from: d.Key, upon: d.Name, written: d.Is[0]})
	case "setter":
		o.setters = append(o.setters, d.Key)
	case "event":
		o.events = append(o.events, d.Key)
	case "overload":
		o.overload = d.Name
	case "named":
		o.overloads = append(o.overloads, d.Name)
	case "folds":
		o.folds = d.Is[0]
	default:
		return fmt.Errorf("row %q is not known", d.List)
	}
	return nil
}

// Moves reports whether the transaction has given ohlcv itself another name or schema.
func (c *Catalog) Moves(own *Own) bool {
	loaded := c.loaded.Load()
	if own == nil || loaded == nil {
		return false
	}
	_, renamed := own.keys["n"]
	return renamed || slices.ContainsFunc(loaded.shelf.relations, func(o object) bool {
		_, in := own.keys[o.key]
		return o.root && in
	})
}

// Including returns the newest catalog with what a transaction has defined; views among that are opaque. The version must differ from that
// of every other catalog.
func (c *Catalog) Including(own *Own, version uint64) *planner.Catalog {
	loaded := c.loaded.Load()
	if loaded == nil {
		return nil
	}
	g := loaded.shelf.graph()
	g.others = nil // they may have other names by now
	g.include(own)
	return g.catalog(version)
}

// ownSuffix ends the key of a node that an object is inside of a transaction, beside the one that others see.
const ownSuffix = "/own"

// include adds what a transaction has defined.
func (g *graph) include(own *Own) {
	for _, list := range [][]object{own.relations, own.routines, own.types} {
		for _, o := range list {
			g.double(o)
		}
	}
	_, schemas := own.keys["s"]
	for key, n := range g.nodes {
		if n.view && (schemas || contains(own.keys, key) || readsAny(n.reads, own.keys)) { // it may be printed in other words now
			n.view, n.shut = false, true
		}
	}
	g.relate(own.edges, own.taken, own.setters)
	g.events = append(slices.Clip(g.events), own.events...)
	g.overloads = append(slices.Clip(g.overloads), own.overloads...)
	if g.overload == "" {
		g.overload = own.overload
	}
	g.folds = g.folds || own.folds
}

// double adds an object as a transaction sees it. Where others see it too, it is two that depend on each other: what reaches the one
// reaches the other, by both their names.
func (g *graph) double(o object) {
	inside, outside := nodeOf(o, o.source), g.nodes[o.key]
	inside.shut, inside.view = o.view, false
	if o.root && !slices.Contains(g.roots, o.key) {
		g.roots = append(g.roots, o.key)
	}
	switch {
	case outside == nil:
		g.nodes[o.key] = inside
		return
	case outside.name == inside.name && slices.Contains(g.roots, o.key):
		return // ohlcv itself is known by its name
	}
	inside.reads = append(inside.reads, o.key)
	inside.plain = inside.plain && outside.plain
	outside.reads = append(slices.Clip(outside.reads), o.key+ownSuffix)
	outside.view, outside.shut, outside.plain = false, outside.shut || outside.view, inside.plain
	g.nodes[o.key+ownSuffix] = inside
}
