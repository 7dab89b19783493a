package catalog

import (
	"strconv"
	"strings"
)

// taken is what a function is that may hold a relation's name in one of its arguments.
type taken struct {
	// positions are the arguments that may; see planner.Catalog.
	positions uint64
	// runs says that the function makes SQL at run time.
	runs bool
	// row says that the first argument can be a row, so that it can be called as if it were a column.
	row bool
	// job says that TimescaleDB can run it as a job.
	job bool
}

// takenSQL lists the functions of users that make SQL at run time, or have an argument that may hold a relation's name: of
// any type but numbers, times and the like. Of what is written in C nothing is known; it is not taken for such. The
// last columns say that the function looks up by itself which relations there are and reads them, or has ohlcv for a default, that its first
// argument can be a row, and that its arguments are those of a job.
const takenSQL = `
with xml as materialized (select format(':funcid %s ', oid) as call from pg_proc where proname like '%\_to\_xml%')
select 'f' || p.oid,
       coalesce(bit_or(case when e.typcategory in ('N','D','T','B','I','G','V','E') and e.oid <> 'oid'::regtype and e.typname not like 'reg%' then 0::bigint
                            when p.provariadic <> 0 and a.at = p.pronargs then -1::bigint << (least(a.at, 64) - 1)::int
                            else 1::bigint << (least(a.at, 64) - 1)::int end), 0),
       bool_or(r.runs), bool_or(r.runs and (coalesce(p.proargdefaults::text, '') ~ '` + inTree + `' or p.prosrc ~* '\m(pg_class|pg_tables|pg_stat_\w*tables|pg_inherits|information_schema)\M'
                                and p.prosrc ~* '_to_xml|execute[^;]*\m(from|copy)\M')),
       coalesce(bool_or(a.at = 1 and t.typtype in ('c', 'p')), false), p.proargtypes::text = '23 3802'
  from pg_proc p
  join pg_language l on l.oid = p.prolang
  cross join lateral (select l.lanname not in ('internal', 'c', 'sql', 'plpgsql')
                          or l.lanname in ('sql', 'plpgsql') and p.prosrc ~* '\mexecute\M|_to_xml|\mcrosstab|\mconnectby|\mdblink|\mts_stat|\mts_rewrite'
                          or p.prosqlbody is not null and exists (select from xml where strpos(p.prosqlbody::text, xml.call) > 0) as runs) r
  left join lateral unnest(p.proargtypes::oid[]) with ordinality a(type, at) on true
  left join pg_type t on t.oid = a.type
  left join pg_type e on e.oid = case when t.typcategory = 'A' then t.typelem else t.oid end
 where p.oid >= 16384 and p.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)
   and not exists (select from pg_depend x where x.classid = 'pg_proc'::regclass and x.objid = p.oid and x.deptype = 'e')
 group by p.oid`

// dynamic returns the functions that make SQL of their arguments, or hand these to such a function, with the positions.
// A function of a name that a scan for words does not find, and a view that uses such a function, are added to names: so
// that the view is looked into (to views where that can be) for what it hands over.
func (g *graph) dynamic(reached, names map[string]struct{}, views map[string]string, count map[string]int) map[string]uint64 {
	out, found, words := map[string]uint64{}, map[string]struct{}{}, map[string]struct{}{}
	for grown := true; grown; {
		grown = false
		for key, n := range g.nodes {
			_, known := reached[key]
			_, in := found[key]
			if known || in || !n.view && !n.shut && n.taken.positions == 0 ||
				!n.taken.runs && !readsAny(n.reads, found) && !readsAny(n.writes, found) && !meet(n.words, words) {
				continue
			}
			grown = true
			found[key] = struct{}{}
			switch {
			case n.shut:
				names[n.name] = struct{}{}
			case n.view:
				names[n.name] = struct{}{}
				if count[n.name] == 1 {
					views[n.name] = strings.TrimSuffix(strings.TrimSpace(n.source), ";")
				}
			case !plainName(n.name):
				names[n.name] = struct{}{}
			default:
				words[n.name] = struct{}{}
				out[n.name] |= n.taken.positions
			}
		}
	}
	return out
}

// rows returns the names of the functions in the closure, and of those that make SQL of their arguments, that can be called as
// if they were a column.
func (g *graph) rows(reached map[string]struct{}, dynamic map[string]uint64) map[string]struct{} {
	out := map[string]struct{}{}
	for key, n := range g.nodes {
		_, in := reached[key]
		if _, makes := dynamic[n.name]; n.taken.row && (in || makes) {
			out[n.name] = struct{}{}
		}
	}
	return out
}

// runnersSQL lists the functions of PostgreSQL and extensions that run SQL or read relations which their arguments name.
const runnersSQL = `
select oid, proname::text from pg_proc
 where proname ~ '_to_xml(schema|_and_xmlschema)?$|^crosstab|^connectby|^dblink|^ts_stat|^ts_rewrite|^refresh_continuous_aggregate$'`

// builtinSQL lists the names of the functions, operators, types and relations that came with PostgreSQL or an extension.
const builtinSQL = `
with member as materialized (select classid, objid from pg_depend where deptype = 'e')
select proname::text from pg_proc where oid < 16384 or oid in (select objid from member where classid = 'pg_proc'::regclass)
union
select oprname::text from pg_operator where oid < 16384 or oid in (select objid from member where classid = 'pg_operator'::regclass)
union
select typname::text from pg_type where oid < 16384 or oid in (select objid from member where classid = 'pg_type'::regclass)
union
select relname::text from pg_class where relkind in ('r','p','v','m','f')
   and (oid < 16384 or oid in (select objid from member where classid = 'pg_class'::regclass))`

// eventsSQL lists the functions of the event triggers that are fired by definitions.
const eventsSQL = `select 'f' || evtfoid from pg_event_trigger where evtenabled <> 'D' and evtevent <> 'login'`

// overloadSQL is an operator of a user's with a name that the planner computes with, for types that are PostgreSQL's: where its types fit
// exactly it is taken before PostgreSQL's own, whatever the search_path.
const overloadSQL = `
select o.oprname::text from pg_operator o
 where o.oid >= 16384 and o.oprleft < 16384 and o.oprright < 16384
   and o.oprname = any ('{=,<>,<,<=,>,>=,~~,!~~,~~*,!~~*,~,!~,~*,!~*,^@,+,-,*,/,%,||,<@,@>,&&}')
   and not exists (select from pg_depend e where e.classid = 'pg_operator'::regclass and e.objid = o.oid and e.deptype = 'e')
 order by 1 limit 1`

// overloadsSQL lists the functions of users' with names that the planner computes with, but for the time_bucket that stands in for
// TimescaleDB's, and the aggregates and set-returning functions with names that it knows for those of others. Where their arguments fit
// better, nothing is known of a call.
const overloadsSQL = `
select distinct lower(p.proname) from pg_proc p
 where p.oid >= 16384 and p.oid is distinct from to_regprocedure('public.time_bucket(interval, timestamptz)')
   and (p.proname = any ('{date_trunc,date_bin,timezone,extract,date_part,to_timestamp,floor,generate_series,make_date,make_timestamp,make_timestamptz,
     make_interval,to_date,justify_days,justify_hours,justify_interval,date,now,min,max,first,last,transaction_timestamp,statement_timestamp,
     clock_timestamp,time_bucket}') or p.proname = any ($1) and (p.prokind <> 'f' or p.proretset))
   and not exists (select from pg_depend e where e.classid = 'pg_proc'::regclass and e.objid = p.oid and e.deptype = 'e')`

// foldsSQL says that there is a collation which takes different texts for the same.
const foldsSQL = `select exists (select from pg_collation where not collisdeterministic)`

// noteCalls adds the functions in the closure, and those that make SQL of their arguments.
func (g *graph) noteCalls(reached map[string]struct{}, dynamic map[string]uint64) {
	for key, n := range g.nodes {
		_, in := reached[key]
		_, makes := dynamic[n.name]
		if oid, is := strings.CutPrefix(key, "f"); is && (in || makes) {
			if number, err := strconv.ParseUint(oid, 10, 32); err == nil {
				g.calls[uint32(number)] = n.name
			}
		}
	}
}

// plainName reports whether a name is one word to identifiers.
func plainName(name string) bool {
	_, one := identifiers(name)[name]
	return one
}
