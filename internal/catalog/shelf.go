package catalog

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"github.com/jackc/pgx/v5"

	"barkeep/planner"
)

// changes says which parts of the fingerprint have changed.
type changes [parts]bool

func (c changes) any(of ...int) bool {
	for _, part := range of {
		if c[part] {
			return true
		}
	}
	return false
}

// shelf is what was read of the system catalogs, each piece of it as it was when one of the parts of the fingerprint changed on which it
// depends.
//
// What holds: a shelf that was loaded again with the changes since it was loaded is the same as one that was loaded from nothing in the
// same snapshot. For each piece that is so because its query reads nothing but rows that its parts stand for, and rows that are made
// and dropped together with such. Relations are read each time: a temporary table is in no part, it comes to matter with its default or
// trigger, which are. A definition that is none but a plain table's (CREATE TABLE without anything in it that runs, DROP TABLE) is
// in partRelation alone, and loads the relations alone.
//
// What is on a shelf is never written to: another shelf may have it too.
type shelf struct {
	relations []object
	// others are the schemas of other tables named ohlcv.
	others []string
	// aggregated are the dependencies of continuous aggregates; aggregates says that there are some.
	aggregated []edge
	aggregates bool
	// timescale says that there can be some.
	timescale bool

	// sources are the definitions of views, by key.
	sources map[string]source

	routines  []object
	taken     map[string]takes
	runners   map[uint32]string
	builtin   map[string]struct{}
	overload  string
	overloads []string
	folds     bool

	types   []object
	edges   []edge
	setters []string
	events  []string
}

// object is a row of a list of nodes.
type object struct {
	key, name           string
	source              source
	view, root, passing bool
	plain               bool // a table, of whatever persistence
}

// edge says that from depends on upon, or does only when it is written.
type edge struct {
	from, upon string
	written    bool
}

// source is a text that is run, with what is to be known of it.
type source struct {
	text           string
	words          map[string]struct{}
	mentions, sets bool
	defines        bool // see planner.Catalog.Definers; of functions only
}

// takes is a row of takenSQL.
type takes struct {
	taken
	all bool
}

// sourceOf looks into a text.
func sourceOf(text *string) source {
	if text == nil {
		return source{}
	}
	lower := strings.ToLower(*text)
	return source{
		text: *text, words: identifiers(*text), sets: planner.SetsInside(*text),
		mentions: strings.Contains(lower, table) || strings.Contains(lower, `u&"`),
	}
}

// load reads what may have changed.
func (s *shelf) load(ctx context.Context, tx pgx.Tx, changed changes) error {
	if err := s.loadRelations(ctx, tx); err != nil {
		return err
	}
	if changed.any(partRule, partViewed, partRoutine, partOperator, partType) {
		if err := s.loadSources(ctx, tx); err != nil {
			return err
		}
	}
	if changed.any(partRoutine, partOperator, partType, partCollation, partExtension) {
		if err := s.loadRoutines(ctx, tx); err != nil {
			return err
		}
	}
	if s.builtin == nil || changed.any(partExtension) {
		if err := s.loadBuiltin(ctx, tx); err != nil {
			return err
		}
	}
	if changed.any(
		partRule, partRoutine, partTrigger, partPolicy, partOperator, partDefault, partConstraint, partType, partCast, partEvent,
		partIndex, partDependency, partParent, partRoot, partExtension,
	) {
		return s.loadEdges(ctx, tx)
	}
	return nil
}

func (s *shelf) loadRelations(ctx context.Context, tx pgx.Tx) (err error) {
	s.relations, err = list(ctx, tx, relationsSQL, func(row pgx.CollectableRow) (o object, err error) {
		var options *string
		err = row.Scan(&o.key, &o.name, &options, &o.view, &o.root, &o.passing, &o.plain, new(bool))
		o.source = sourceOf(options)
		return o, err
	})
	if err != nil {
		return fmt.Errorf("read relations: %w", err)
	}
	s.others, err = list(ctx, tx, othersSQL, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("read other tables of the name: %w", err)
	}
	s.aggregated = nil
	err = tx.QueryRow(ctx, `select to_regclass('_timescaledb_catalog.continuous_agg') is not null`).Scan(&s.timescale)
	s.aggregates = false
	if err == nil && s.timescale {
		s.aggregated, err = list(ctx, tx, aggregatesSQL, func(row pgx.CollectableRow) (e edge, err error) {
			return e, row.Scan(&e.from, &e.upon)
		})
		s.aggregates = len(s.aggregated) > 0
	}
	return wrap("read continuous aggregates", err)
}

func (s *shelf) loadSources(ctx context.Context, tx pgx.Tx) error {
	rows, err := tx.Query(ctx, definitionsSQL)
	if err != nil {
		return fmt.Errorf("read definitions: %w", err)
	}
	var (
		key    string
		text   *string
		before = s.sources
	)
	s.sources = make(map[string]source, len(before))
	_, err = pgx.ForEachRow(rows, []any{&key, &text}, func() error {
		if known := before[key]; text != nil && known.text == *text {
			s.sources[key] = known
		} else {
			s.sources[key] = sourceOf(text)
		}
		return nil
	})
	return wrap("read definitions", err)
}

func (s *shelf) loadRoutines(ctx context.Context, tx pgx.Tx) (err error) {
	s.routines, err = list(ctx, tx, routinesSQL, func(row pgx.CollectableRow) (o object, err error) {
		var text *string
		var strange bool
		err = row.Scan(&o.key, &o.name, &text, &strange)
		o.source = sourceOf(text)
		o.source.defines = strange || planner.DefinesInside(o.source.text)
		return o, err
	})
	if err != nil {
		return fmt.Errorf("read functions and operators: %w", err)
	}
	rows, err := tx.Query(ctx, takenSQL)
	if err != nil {
		return fmt.Errorf("read functions: %w", err)
	}
	var (
		key       string
		positions int64
		t         takes
	)
	s.taken = map[string]takes{}
	_, err = pgx.ForEachRow(rows, []any{&key, &positions, &t.runs, &t.all, &t.row, &t.job}, func() error {
		t.positions = uint64(positions) //nolint:gosec // bits
		s.taken[key] = t
		return nil
	})
	if err != nil {
		return fmt.Errorf("read functions: %w", err)
	}
	rows, err = tx.Query(ctx, runnersSQL)
	if err != nil {
		return fmt.Errorf("read functions that run SQL: %w", err)
	}
	var (
		oid  uint32
		name string
	)
	s.runners = map[uint32]string{}
	_, err = pgx.ForEachRow(rows, []any{&oid, &name}, func() error {
		s.runners[oid] = name
		return nil
	})
	if err != nil {
		return fmt.Errorf("read functions that run SQL: %w", err)
	}
	return s.loadOverloads(ctx, tx)
}

func (s *shelf) loadBuiltin(ctx context.Context, tx pgx.Tx) error {
	names, err := list(ctx, tx, builtinSQL, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("read names: %w", err)
	}
	s.builtin = make(map[string]struct{}, len(names))
	for _, name := range names {
		s.builtin[name] = struct{}{}
	}
	return nil
}

func (s *shelf) loadOverloads(ctx context.Context, tx pgx.Tx) error {
	operators, err := list(ctx, tx, overloadSQL, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("read operators: %w", err)
	}
	s.overload = strings.Join(operators, "")
	if s.overloads, err = list(ctx, tx, overloadsSQL, pgx.RowTo[string], planner.ScalarFunctions()); err != nil {
		return fmt.Errorf("read functions of users: %w", err)
	}
	return wrap("read collations", tx.QueryRow(ctx, foldsSQL).Scan(&s.folds))
}

func (s *shelf) loadEdges(ctx context.Context, tx pgx.Tx) (err error) {
	s.types, err = list(ctx, tx, typesSQL, func(row pgx.CollectableRow) (o object, err error) {
		return o, row.Scan(&o.key, &o.name)
	})
	if err != nil {
		return fmt.Errorf("read types: %w", err)
	}
	s.edges, err = list(ctx, tx, edgesSQL, func(row pgx.CollectableRow) (e edge, err error) {
		return e, row.Scan(&e.from, &e.upon, &e.written)
	})
	if err != nil {
		return fmt.Errorf("read dependencies: %w", err)
	}
	if s.setters, err = list(ctx, tx, settersSQL, pgx.RowTo[string]); err != nil {
		return fmt.Errorf("read what changes settings: %w", err)
	}
	s.events, err = list(ctx, tx, eventsSQL, pgx.RowTo[string])
	return wrap("read event triggers", err)
}

// list reads the rows of a query.
func list[T any](ctx context.Context, tx pgx.Tx, sql string, one pgx.RowToFunc[T], args ...any) ([]T, error) {
	rows, err := tx.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, one)
}

// graph puts together what is on the shelf.
func (s *shelf) graph() *graph {
	g := &graph{
		nodes: make(map[string]*node, len(s.relations)+len(s.routines)+len(s.types)), aggregates: s.aggregates, events: s.events,
		overload: s.overload, overloads: s.overloads, folds: s.folds, calls: maps.Clone(s.runners), builtin: s.builtin,
		others: s.others,
	}
	for _, part := range [][]object{s.relations, s.routines, s.types} {
		for _, o := range part {
			from := o.source
			if printed, in := s.sources[o.key]; in {
				from = printed
			}
			g.nodes[o.key] = nodeOf(o, from)
			if o.root {
				g.roots = append(g.roots, o.key)
			}
		}
	}
	g.relate(s.edges, s.taken, s.setters)
	for _, e := range s.aggregated {
		g.depends(e, true)
	}
	return g
}

// nodeOf returns the node of an object that runs that source.
func nodeOf(o object, from source) *node {
	return &node{
		name: strings.ToLower(o.name), view: o.view, passing: o.passing, plain: o.plain,
		source: from.text, words: from.words, mentions: from.mentions, sets: from.sets, defines: from.defines,
	}
}

// relate notes what the nodes depend on, what functions take, and which of them change settings.
func (g *graph) relate(edges []edge, taken map[string]takes, setters []string) {
	for _, e := range edges {
		g.depends(e, false)
	}
	for key, t := range taken {
		g.take(key, t)
	}
	for _, key := range setters {
		if n := g.nodes[key]; n != nil {
			n.sets = true
		}
	}
}

// take notes what a function takes.
func (g *graph) take(key string, t takes) {
	n := g.nodes[key]
	if n == nil {
		return
	}
	n.taken = t.taken
	if t.all {
		n.reads = append(n.reads, textKey)
	}
}

// depends takes up an edge; opaque says that a view on which it ends cannot be seen through.
func (g *graph) depends(e edge, opaque bool) {
	n := g.nodes[e.from]
	switch {
	case n == nil || e.from == e.upon:
	case e.written:
		n.writes = append(n.writes, e.upon)
	default:
		n.reads = append(n.reads, e.upon)
		n.view = n.view && !opaque
	}
}
