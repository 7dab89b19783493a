package catalog

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// node is an object that can stand in a statement by its name.
type node struct {
	name string
	// source is the text that it runs, where it has one.
	source string
	// view says that source is the definition of a plain view that the planner can see through.
	view bool
	// reads are the objects that it depends on, by key.
	reads []string
}

// graph holds the objects that may read ohlcv, by a key that is unique in the database.
type graph struct {
	nodes map[string]*node
	roots []string
}

// nodesSQL lists every relation, function and operator that did not come with PostgreSQL or with an extension, and the
// chunk tables, which did not either. A view's definition is printed with search_path pg_catalog: its names are qualified.
const nodesSQL = `
with extension as (
 select classid, objid from pg_depend where deptype = 'e'
)
select 'r' || c.oid, c.relname::text,
       case when c.relkind in ('v','m') then pg_get_viewdef(c.oid) end,
       c.relkind = 'v' and not coalesce('security_barrier=true' = any(c.reloptions), false)
         and n.nspname not like '\_timescaledb%',
       c.oid = to_regclass('public.ohlcv')
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('r','p','v','m','f') and c.oid >= 16384 and (c.relkind = 'v' or c.relpersistence <> 't') and n.nspname <> 'pg_toast'
   and not exists (select from extension e where e.classid = 'pg_class'::regclass and e.objid = c.oid)
union all
select 'f' || p.oid, p.proname::text, p.prosrc, false, null
  from pg_proc p
 where p.oid >= 16384 and not exists (select from extension e where e.classid = 'pg_proc'::regclass and e.objid = p.oid)
union all
select 'o' || o.oid, o.oprname::text, null, false, null
  from pg_operator o
 where o.oid >= 16384 and not exists (select from extension e where e.classid = 'pg_operator'::regclass and e.objid = o.oid)
union all
select 't' || t.oid, t.typname::text, null, false, null
  from pg_type t
 where t.oid >= 16384 and t.typtype = 'd'`

// edgesSQL lists who depends on whom: views on relations and functions, functions with a parsed body likewise, tables on
// the functions of their triggers, policies, defaults and constraints, operators on their functions, and children on
// their parents, since a chunk holds what its hypertable shows.
const edgesSQL = `
with target as (
 select d.classid, d.objid, case d.refclassid when 'pg_class'::regclass then 'r' when 'pg_proc'::regclass then 'f' when 'pg_operator'::regclass then 'o' else 't' end || d.refobjid as ref
   from pg_depend d
  where d.refobjid >= 16384 and d.refclassid in ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass)
    and d.deptype in ('n', 'a')
)
select 'r' || r.ev_class, t.ref from pg_rewrite r join target t on t.classid = 'pg_rewrite'::regclass and t.objid = r.oid
union
select 'f' || t.objid, t.ref from target t where t.classid = 'pg_proc'::regclass
union
select 'o' || oid, 'f' || oprcode::oid from pg_operator where oid >= 16384
union
select 'r' || tgrelid, 'f' || tgfoid from pg_trigger where not tgisinternal
union
select 'r' || p.polrelid, t.ref from pg_policy p join target t on t.classid = 'pg_policy'::regclass and t.objid = p.oid
union
select 'r' || a.adrelid, t.ref from pg_attrdef a join target t on t.classid = 'pg_attrdef'::regclass and t.objid = a.oid
 where t.ref like 'f%' or t.ref like 'o%'
union
select case when k.contypid <> 0 then 't' || k.contypid else 'r' || k.conrelid end, t.ref
  from pg_constraint k join target t on t.classid = 'pg_constraint'::regclass and t.objid = k.oid
 where k.contype = 'c' and (t.ref like 'f%' or t.ref like 'o%')
union
select 'r' || inhrelid, 'r' || inhparent from pg_inherits`

// aggregatesSQL lists continuous aggregates; the view that a user reads depends on the materialized table only, and its
// direct view on the hypertable.
const aggregatesSQL = `
select 'r' || u.oid, 'r' || d.oid
  from _timescaledb_catalog.continuous_agg a
  join pg_class u on u.oid = to_regclass(format('%I.%I', a.user_view_schema, a.user_view_name))
  join pg_class d on d.oid = to_regclass(format('%I.%I', a.direct_view_schema, a.direct_view_name))`

func (g *graph) load(ctx context.Context, tx pgx.Tx) error {
	g.nodes = map[string]*node{}
	rows, err := tx.Query(ctx, nodesSQL)
	if err != nil {
		return fmt.Errorf("read objects: %w", err)
	}
	var (
		key, name  string
		source     *string
		view       bool
		root       *bool
		from, upon string
	)
	_, err = pgx.ForEachRow(rows, []any{&key, &name, &source, &view, &root}, func() error {
		n := &node{name: strings.ToLower(name), view: view}
		if source != nil {
			n.source = *source
		}
		g.nodes[key] = n
		if root != nil && *root {
			g.roots = append(g.roots, key)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read objects: %w", err)
	}
	edge := func(opaque bool) func() error {
		return func() error {
			if n := g.nodes[from]; n != nil && from != upon {
				n.reads = append(n.reads, upon)
				n.view = n.view && !opaque
			}
			return nil
		}
	}
	rows, err = tx.Query(ctx, edgesSQL)
	if err != nil {
		return fmt.Errorf("read dependencies: %w", err)
	}
	if _, err = pgx.ForEachRow(rows, []any{&from, &upon}, edge(false)); err != nil {
		return fmt.Errorf("read dependencies: %w", err)
	}
	var aggregates bool
	err = tx.QueryRow(ctx, `select to_regclass('_timescaledb_catalog.continuous_agg') is not null`).Scan(&aggregates)
	if err != nil || !aggregates {
		return wrap("look for continuous aggregates", err)
	}
	rows, err = tx.Query(ctx, aggregatesSQL)
	if err != nil {
		return fmt.Errorf("read continuous aggregates: %w", err)
	}
	_, err = pgx.ForEachRow(rows, []any{&from, &upon}, edge(true))
	return wrap("read continuous aggregates", err)
}

func wrap(operation string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", operation, err)
}

// closure returns the names through which ohlcv can be read, and the definitions of those that are plain views. Two
// objects of one name make it opaque, since which of them is meant depends on the search_path. The name ohlcv is among them where
// something else than the table has it.
func (g *graph) closure() (names map[string]struct{}, views map[string]string) {
	reached, names := g.reach()
	views, count := map[string]string{}, map[string]int{}
	for _, n := range g.nodes {
		if n.name != table {
			count[n.name]++
		}
	}
	for key := range reached {
		n := g.nodes[key]
		if _, in := names[n.name]; in && n.view && count[n.name] == 1 && n.name != table {
			views[n.name] = strings.TrimSuffix(strings.TrimSpace(n.source), ";")
		}
	}
	return names, views
}

const table = "ohlcv"

// reach follows dependencies and mentions from ohlcv until nothing is added.
func (g *graph) reach() (reached, names map[string]struct{}) {
	reached, names = map[string]struct{}{}, map[string]struct{}{}
	for _, key := range g.roots {
		reached[key] = struct{}{}
	}
	mentions := make(map[string]map[string]struct{}, len(g.nodes))
	for key, n := range g.nodes {
		if n.source != "" {
			mentions[key] = identifiers(n.source)
		}
	}
	for grown := true; grown; {
		grown = false
		for key, n := range g.nodes {
			if _, in := reached[key]; in {
				continue
			}
			if g.readsAny(n, reached) || mentionsAny(n, mentions[key], names) {
				reached[key], names[n.name] = struct{}{}, struct{}{}
				grown = true
			}
		}
	}
	return reached, names
}

func (*graph) readsAny(n *node, reached map[string]struct{}) bool {
	for _, key := range n.reads {
		if _, in := reached[key]; in {
			return true
		}
	}
	return false
}

func mentionsAny(n *node, words, names map[string]struct{}) bool {
	if n.source == "" {
		return false
	}
	if strings.Contains(strings.ToLower(n.source), table) {
		return true
	}
	small, large := words, names
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
