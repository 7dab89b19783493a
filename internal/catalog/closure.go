package catalog

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"barkeep/planner"
)

// node is an object that can stand in a statement by its name.
type node struct {
	name string
	// source is the text that it runs, where it has one.
	source string
	// view says that source is the definition of a plain view that the planner can see through.
	view bool
	// shut says that it is a view that a transaction has defined or changed, so that its definition is not known.
	shut bool
	// passing says that it is a temporary table.
	passing bool
	// plain says that it is a table, whose rows alone are what is read of it.
	plain bool
	taken taken
	// words are the words of source, and mentions says that ohlcv is among them or may be, in Unicode escapes.
	words    map[string]struct{}
	mentions bool
	// sets says that it may change settings of the session by itself.
	sets bool
	// defines says that it may define something by itself.
	defines bool
	// reads are the objects that it depends on, by key; writes those on which it depends only when it is written.
	reads, writes []string
}

// graph holds the objects that may read ohlcv, by a key that is unique in the database.
type graph struct {
	nodes map[string]*node
	roots []string
	// aggregates says that there are continuous aggregates.
	aggregates bool
	// events are the keys of the event triggers' functions.
	events []string
	// overload is an operator of a user's that may be taken for PostgreSQL's own.
	overload string
	// overloads are functions of users' that may be.
	overloads []string
	// folds says that there is a collation which takes different texts for the same.
	folds bool
	// calls are functions that may read ohlcv, by oid.
	calls map[uint32]string
	// others are the schemas of other tables named ohlcv.
	others []string
	// builtin are the names of what came with PostgreSQL or an extension.
	builtin map[string]struct{}
}

func wrap(operation string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", operation, err)
}

// catalog returns the names through which ohlcv can be read, and the definitions of those that are plain views. Two
// objects of one name make it opaque, since which of them is meant depends on the search_path. The name ohlcv is among them where
// something else than the table has it.
func (g *graph) catalog(version uint64) *planner.Catalog {
	reached, names := g.reach()
	views, count, users := map[string]string{}, map[string]int{}, map[string]struct{}{}
	for key, n := range g.nodes {
		if _, in := reached[key]; n.name != table && (in || !n.passing) {
			count[n.name]++
		}
		if strings.HasPrefix(key, "f") || strings.HasPrefix(key, "o") {
			users[n.name] = struct{}{}
		}
	}
	for _, name := range g.overloads {
		names[name] = struct{}{}
	}
	for key := range reached {
		n := g.nodes[key]
		if n == nil {
			continue
		}
		if n.taken.job {
			names[runJob] = struct{}{}
		}
		if _, in := names[n.name]; in && n.view && count[n.name] == 1 && n.name != table {
			views[n.name] = strings.TrimSuffix(strings.TrimSpace(n.source), ";")
		}
	}
	dynamic := g.dynamic(reached, names, views, count)
	if g.aggregates {
		dynamic["refresh_continuous_aggregate"] = 1
	}
	g.noteCalls(reached, dynamic)
	return &planner.Catalog{
		Version: version, Names: names, Others: g.otherTables(names), Written: g.written(reached, count), Views: views, Users: users, Dynamic: dynamic,
		Rows: g.rows(reached, dynamic), Calls: g.calls, Setters: g.setters(), Definers: g.definers(), Known: g.known(),
		Overload: g.overload, Folds: g.folds, Dependents: g.dependents, Events: slices.ContainsFunc(g.events, func(key string) bool { return contains(reached, key) }),
	}
}

// otherTables returns the schemas of tables named ohlcv through which, by that name, nothing is read of the one.
func (g *graph) otherTables(names map[string]struct{}) map[string]struct{} {
	if len(g.others) == 0 || contains(names, table) {
		return nil
	}
	schemas := make(map[string]struct{}, len(g.others))
	for _, schema := range g.others {
		schemas[schema] = struct{}{}
	}
	return schemas
}

const table = "ohlcv"

// runJob is a procedure of TimescaleDB's that calls what a number stands for.
const runJob = "run_job"

// reach follows dependencies and mentions from ohlcv until nothing is added.
func (g *graph) reach() (reached, names map[string]struct{}) {
	reached, names = map[string]struct{}{}, map[string]struct{}{}
	for _, key := range append(g.roots, textKey) {
		reached[key] = struct{}{}
	}
	for key, n := range g.nodes {
		if _, in := reached[key]; !in && n.mentions {
			reached[key], names[n.name] = struct{}{}, struct{}{}
		}
	}
	g.grow(reached, names)
	return reached, names
}

// grow adds what depends on or mentions what is there, until there is nothing more.
func (g *graph) grow(reached, names map[string]struct{}) {
	for grown := true; grown; {
		grown = false
		for key, n := range g.nodes {
			if _, in := reached[key]; in {
				continue
			}
			if readsAny(n.reads, reached) || readsAny(n.writes, reached) || meet(n.words, names) {
				reached[key], names[n.name] = struct{}{}, struct{}{}
				grown = true
			}
		}
	}
}

// written returns those of the names through which ohlcv is read only when something is written to them. A function that is in reach
// may write, whoever calls it. Where two objects have a name, it is none of them.
func (g *graph) written(reached map[string]struct{}, count map[string]int) map[string]struct{} {
	read, readNames := map[string]struct{}{}, map[string]struct{}{}
	for _, key := range append(g.roots, textKey) {
		read[key] = struct{}{}
	}
	for key := range reached {
		if n := g.nodes[key]; n != nil && (n.mentions || !strings.HasPrefix(key, "r")) {
			read[key], readNames[n.name] = struct{}{}, struct{}{}
		}
	}
	for grown := true; grown; {
		grown = false
		for key := range reached {
			n := g.nodes[key]
			if _, in := read[key]; in || n == nil {
				continue
			}
			if readsAny(n.reads, read) || meet(n.words, readNames) {
				read[key], readNames[n.name] = struct{}{}, struct{}{}
				grown = true
			}
		}
	}
	only := map[string]struct{}{}
	for key := range reached {
		if n := g.nodes[key]; n != nil && count[n.name] == 1 && n.name != table && !contains(readNames, n.name) {
			only[n.name] = struct{}{}
		}
	}
	return only
}

// dependents returns the names through which the objects of the given names are read, with these.
func (g *graph) dependents(given []string) []string {
	reached, names := map[string]struct{}{}, map[string]struct{}{}
	for _, name := range given {
		names[strings.ToLower(name)] = struct{}{}
	}
	_, other := names[table] // what reads the table is known
	delete(names, table)
	for key, n := range g.nodes {
		if _, in := names[n.name]; in {
			reached[key] = struct{}{}
		}
	}
	g.grow(reached, names)
	if other {
		names[table] = struct{}{}
	}
	return slices.Sorted(maps.Keys(names))
}

func readsAny(keys []string, reached map[string]struct{}) bool {
	for _, key := range keys {
		if _, in := reached[key]; in {
			return true
		}
	}
	return false
}

func contains(set map[string]struct{}, key string) bool {
	_, in := set[key]
	return in
}

// meet reports whether two sets have a word in common.
func meet(small, large map[string]struct{}) bool {
	if len(small) > len(large) {
		small, large = large, small
	}
	for word := range small {
		if _, in := large[word]; in {
			return true
		}
	}
	return false
}

// identifiers returns the words of a text in lower case: what could be a name, quoted or not.
func identifiers(text string) map[string]struct{} {
	words := map[string]struct{}{}
	for _, word := range strings.FieldsFunc(strings.ToLower(text), func(r rune) bool {
		return r != '_' && r != '$' && r < 0x80 && (r < '0' || r > '9') && (r < 'a' || r > 'z')
	}) {
		words[word] = struct{}{}
	}
	return words
}
