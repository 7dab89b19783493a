package catalog

import "barkeep/internal/schema"

// relationsSQL lists every relation that did not come with PostgreSQL or with an extension, and the chunk tables, which did not either:
// key, name, the options of a foreign table, whether it is a view that can be seen through, whether it is ohlcv, whether it is a
// temporary table, whether it is a table, and whether it is a view. Temporary ones are listed for their triggers, defaults and rules: a name of another session's does no harm.
const relationsSQL = `
select 'r' || c.oid, c.relname::text, case when c.relkind = 'f' then (select array_to_string(ftoptions, ' ') from pg_foreign_table where ftrelid = c.oid) end,
       c.relkind = 'v' and not coalesce('security_barrier=true' = any(c.reloptions), false)
         and n.nspname not like '\_timescaledb%',
       c.oid is not distinct from to_regclass('public.ohlcv'), c.relkind in ('r','p') and c.relpersistence = 't', c.relkind in ('r','p'), c.relkind = 'v'
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('r','p','v','m','f','c') and c.oid >= 16384 and n.nspname <> 'pg_toast'
   and c.oid not in (select objid from pg_depend where deptype = 'e' and classid = 'pg_class'::regclass)`

// othersSQL lists the schemas of tables named ohlcv that are not the one.
const othersSQL = `
select n.nspname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.relname = 'ohlcv' and c.relkind in ('r','p') and c.relpersistence <> 't' and n.nspname <> 'public' and to_regclass('public.ohlcv') is not null`

// definitionsSQL lists the definitions of the views among them, printed with search_path pg_catalog: their names are qualified.
const definitionsSQL = `
select 'r' || c.oid, pg_get_viewdef(c.oid) from pg_class c
 where c.relkind in ('v','m') and c.oid >= 16384
   and c.oid not in (select objid from pg_depend where deptype = 'e' and classid = 'pg_class'::regclass)`

// routinesSQL lists the functions and operators that did not come with PostgreSQL or with an extension: key, name, source, and whether that
// is in a language of which nothing is known. What is written in C is not taken for such.
const routinesSQL = `
select 'f' || p.oid, p.proname::text, p.prosrc, l.lanname not in ('internal', 'c', 'sql', 'plpgsql') from pg_proc p join pg_language l on l.oid = p.prolang
 where p.oid >= 16384 and p.oid not in (select objid from pg_depend where deptype = 'e' and classid = 'pg_proc'::regclass)
union all
select 'o' || o.oid, o.oprname::text, null, false from pg_operator o
 where o.oid >= 16384 and o.oid not in (select objid from pg_depend where deptype = 'e' and classid = 'pg_operator'::regclass)`

// typesSQL lists the types that did not come with PostgreSQL or with an extension, but those of the rows of relations, which read
// nothing. One that did come with them is listed where somebody's own cast makes it from another such.
const typesSQL = `
with member as materialized (select classid, objid from pg_depend where deptype = 'e'),
 own as materialized (select oid from pg_type where oid >= 16384 and oid not in (select objid from member where classid = 'pg_type'::regclass)),
 made as materialized (
  select k.castsource, k.casttarget from pg_cast k
   where k.castfunc >= 16384 and k.castfunc not in (select objid from member where classid = 'pg_proc'::regclass)
     and k.castsource not in (select oid from own) and k.casttarget not in (select oid from own))
select 't' || t.oid, t.typname::text
  from pg_type t left join pg_class c on c.oid = t.typrelid left join pg_type e on e.oid = t.typelem left join pg_class ec on ec.oid = e.typrelid
 where coalesce(c.relkind, ec.relkind, 'c') = 'c' and t.oid in (select oid from own)
    or t.oid in (select castsource from made union all select casttarget from made)`

// edgesSQL lists who depends on whom: views on relations and functions, functions with a parsed body and aggregates
// likewise, tables on the functions of their triggers, policies, defaults, constraints, indexes, partition keys and
// columns' types, on the tables that their foreign keys look into or change, operators on their functions, types on what
// checks, makes, casts, compares and sorts them, which need not be named. Parents and children depend on each other: a chunk holds what its hypertable shows, and
// what is written to a parent fires the triggers of the child. The last column says that it is only when the dependent is written that what
// it depends on is run: triggers, defaults, checks, keys and indexes, and rules but those of SELECT. An expression with the name of ohlcv in one of its
// constants, and with a function to which it may be handed, depends on textKey: it may be run as SQL. It is found in the
// tree, without the lock that printing it would wait for.
const edgesSQL = `
with target as (
 select d.classid, d.objid, case d.refclassid when 'pg_class'::regclass then 'r' when 'pg_proc'::regclass then 'f' when 'pg_operator'::regclass then 'o' else 't' end || d.refobjid as ref
   from pg_depend d
  where d.refobjid >= 16384 and d.refclassid in ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass)
    and d.deptype in ('n', 'a')
), said as (` + saidSQL + `)
select key, 'text', written from said
 where case when tree ~ '` + inTree + `' then exists (
   select from pg_proc p
    where strpos(tree, format(':funcid %s ', p.oid)) > 0 and (p.proname ~ '_to_xml|^crosstab|^connectby|^dblink|^ts_stat|^ts_rewrite'
       or p.oid >= 16384 and not exists (select from pg_depend e where e.classid = 'pg_proc'::regclass and e.objid = p.oid and e.deptype = 'e'))) end
union
select 'r' || tgrelid, 'text', true from pg_trigger where not tgisinternal and encode(tgargs, 'escape') ~* 'ohlcv'
union
select 'r' || r.ev_class, t.ref, r.ev_type <> '1' from pg_rewrite r join target t on t.classid = 'pg_rewrite'::regclass and t.objid = r.oid
union
select 'f' || t.objid, t.ref, false from target t where t.classid = 'pg_proc'::regclass
union
select 'o' || t.objid, t.ref, false from target t where t.classid = 'pg_operator'::regclass
union
select 't' || t.objid, t.ref, false from target t where t.classid = 'pg_type'::regclass
union
select 't' || side, 'o' || oid, false from pg_operator, unnest(array[oprleft, oprright]) side where oid >= 16384 and side >= 16384
union
select 't' || c.opcintype, 'f' || p.amproc::oid, false from pg_opclass c join pg_amproc p on p.amprocfamily = c.opcfamily where c.opcintype >= 16384 and p.amproc::oid >= 16384
union
select 't' || oid, 't' || typelem, false from pg_type where typelem <> 0 and oid >= 16384
union
select 't' || rngmultitypid, 't' || rngtypid, false from pg_range where rngtypid >= 16384
union
select 't' || oid, 'r' || typrelid, false from pg_type where typrelid >= 16384
union
select 't' || k.castsource, 'f' || k.castfunc, false from pg_cast k where k.castfunc >= 16384
union
select 't' || k.casttarget, 'f' || k.castfunc, false from pg_cast k where k.castfunc >= 16384
union
select 'r' || coalesce(i.indrelid, t.objid), t.ref, i.indrelid is not null
  from target t left join pg_index i on i.indexrelid = t.objid
 where t.classid = 'pg_class'::regclass and t.ref not like 'r%'
union
select 'r' || tgrelid, 'f' || tgfoid, true from pg_trigger where not tgisinternal
union
select 'r' || g.tgrelid, t.ref, true from pg_trigger g join target t on t.classid = 'pg_trigger'::regclass and t.objid = g.oid
 where not g.tgisinternal and t.ref not like 'r%'
union
select 'r' || p.polrelid, t.ref, false from pg_policy p join target t on t.classid = 'pg_policy'::regclass and t.objid = p.oid
union
select 'r' || a.adrelid, t.ref, c.attgenerated <> 'v' from pg_attrdef a join target t on t.classid = 'pg_attrdef'::regclass and t.objid = a.oid
   join pg_attribute c on c.attrelid = a.adrelid and c.attnum = a.adnum
 where t.ref not like 'r%'
union
select case when k.contypid <> 0 then 't' || k.contypid else 'r' || k.conrelid end, t.ref, k.contypid = 0
  from pg_constraint k join target t on t.classid = 'pg_constraint'::regclass and t.objid = k.oid
 where t.ref not like 'r%' and t.ref <> 't' || k.contypid
union
select 'r' || conrelid, 'r' || confrelid, true from pg_constraint where contype = 'f' and confrelid = to_regclass('public.ohlcv')
union
select 'r' || confrelid, 'r' || conrelid, true from pg_constraint where contype = 'f' and (confupdtype not in ('a', 'r') or confdeltype not in ('a', 'r'))
union
select 'r' || inhrelid, 'r' || inhparent, false from pg_inherits
union
select 'r' || inhparent, 'r' || inhrelid, false from pg_inherits`

// saidSQL lists the expressions that are kept as trees, with who has them, and whether they are evaluated only when it is written. What
// came with an extension is nobody's node, and its trees are by far the largest.
const saidSQL = `
 select 'r' || d.adrelid as key, d.adbin::text as tree, a.attgenerated <> 'v' as written
   from pg_attrdef d join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum
 union all
 select case when contypid <> 0 then 't' || contypid else 'r' || conrelid end, conbin::text, contypid = 0 from pg_constraint where conbin is not null
 union all
 select 'r' || polrelid, concat(polqual, polwithcheck), false from pg_policy
 union all
 select 'r' || indrelid, concat(indexprs, indpred), true from pg_index where coalesce(indexprs, indpred) is not null
 union all
 select 'r' || tgrelid, tgqual::text, true from pg_trigger where tgqual is not null and not tgisinternal
 union all
 select 'r' || ev_class, concat(ev_qual, ev_action), ev_type <> '1' from pg_rewrite
  where ev_class >= 16384 and ev_class not in (select objid from pg_depend where deptype = 'e' and classid = 'pg_class'::regclass)
 union all
 select 'f' || oid, concat(prosqlbody, proargdefaults), false from pg_proc
  where oid >= 16384 and (prosqlbody is not null or proargdefaults is not null)
    and oid not in (select objid from pg_depend where deptype = 'e' and classid = 'pg_proc'::regclass)
 union all
 select 't' || oid, typdefaultbin::text, false from pg_type where typdefaultbin is not null
`

// settersSQL lists who may change settings of the session unseen: what calls set_config in an expression, and functions in languages of
// which nothing is known but that they can run SQL. What is written in C is not taken for such.
const settersSQL = `
select key from (` + saidSQL + `) said
 where strpos(tree, format(':funcid %s ', to_regproc('pg_catalog.set_config')::oid)) > 0
union
select 'f' || p.oid from pg_proc p join pg_language l on l.oid = p.prolang
 where p.oid >= 16384 and l.lanname not in ('internal', 'c', 'sql', 'plpgsql')
   and not exists (select from pg_depend e where e.classid = 'pg_proc'::regclass and e.objid = p.oid and e.deptype = 'e')`

// inTree matches the name of ohlcv, in any case, in a constant of an expression's tree, where it stands as numbers.
const inTree = `(111|79) (104|72) (108|76) (99|67) (118|86)`

// textKey is what depends on the name of ohlcv in a text that may be run.
const textKey = "text"

// aggregatesSQL lists continuous aggregates; the view that a user reads depends on the materialized table only, and its
// direct view on the hypertable.
const aggregatesSQL = `
select 'r' || u.oid, 'r' || d.oid
  from _timescaledb_catalog.continuous_agg a
  join pg_class u on u.oid = to_regclass(format('%I.%I', a.user_view_schema, a.user_view_name))
  join pg_class d on d.oid = to_regclass(format('%I.%I', a.direct_view_schema, a.direct_view_name))`

// The parts of the fingerprint, in the order of fingerprintSQL.
const (
	partRelation = iota
	partRule
	partRoutine
	partTrigger
	partPolicy
	partOperator
	partDefault
	partConstraint
	partType
	partCast
	partEvent
	partCollation
	partIndex
	partDependency
	partParent
	partViewed
	partRoot
	partExtension
	parts
)

// fingerprintSQL changes when a view, function, trigger, policy, default, constraint, operator, type, cast, collation or table is made,
// altered, renamed or dropped; of temporary tables, when they come to have such. A row's xmin changes with each of these;
// VACUUM and ANALYZE write in place and do not change it. It is an array of the parts above, each of which says that about one system
// catalog; partViewed about the names with which the definitions of views are printed: those of relations that views read, of their columns,
// and of schemas; partRoot is which table is ohlcv, and partExtension what came with an extension. Numbering, and foreign keys of which
// edgesSQL says nothing, are in none.
const fingerprintSQL = `
select array[
 concat_ws('/', (select concat(count(*), ':', sum(hashtext(concat_ws(',', oid, xmin))::int8)) from pg_class
   where oid >= 16384 and relkind in ('r','p','v','m','f') and (relkind = 'v' or relpersistence <> 't')),
  (select sum(hashtext(concat_ws(',', ftrelid, xmin))::int8) from pg_foreign_table)),
 (select concat(count(*), ':', sum(hashtext(concat_ws(',', oid, xmin))::int8)) from pg_rewrite where oid >= 16384),
 (select concat(count(*), ':', sum(hashtext(concat_ws(',', oid, xmin))::int8)) from pg_proc where oid >= 16384),
 (select concat(count(*), ':', sum(hashtext(concat_ws(',', oid, xmin))::int8)) from pg_trigger where not tgisinternal),
 (select concat(count(*), ':', sum(hashtext(concat_ws(',', oid, xmin))::int8)) from pg_policy),
 (select concat(count(*), ':', sum(hashtext(concat_ws(',', oid, xmin))::int8)) from pg_operator where oid >= 16384),
 (select concat(count(*), ':', sum(hashtext(concat_ws(',', oid, xmin))::int8)) from pg_attrdef where adbin::text !~ '` + numbering + `'),
 (select concat(count(*), ':', sum(hashtext(concat_ws(',', oid, xmin))::int8)) from pg_constraint
   where contype in ('c', 'x') or contype = 'f' and (confrelid = to_regclass('public.ohlcv') or confupdtype not in ('a', 'r') or confdeltype not in ('a', 'r'))),
 concat_ws('/', (select concat(count(*), ':', sum(hashtext(concat_ws(',', oid, xmin))::int8)) from pg_type where oid >= 16384 and typtype <> 'c' and typelem = 0),
  (select concat(count(*), ':', sum(hashtext(concat_ws(',', oid, xmin))::int8)) from pg_class where oid >= 16384 and relkind = 'c')),
 (select concat(count(*), ':', sum(hashtext(concat_ws(',', oid, xmin))::int8)) from pg_cast where oid >= 16384),
 (select concat(count(*), ':', sum(hashtext(concat_ws(',', oid, xmin))::int8)) from pg_event_trigger),
 (select count(*)::text from pg_collation where oid >= 16384 and not collisdeterministic),
 (select concat(count(*), ':', sum(hashtext(concat_ws(',', indexrelid, xmin))::int8)) from pg_index
   where indexrelid >= 16384 and coalesce(indexprs, indpred) is not null),
 (select concat(count(*), ':', sum(hashtext(concat_ws(',', classid, objid, refobjid))::int8)) from pg_depend
   where refclassid in ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass) and refobjid >= 16384 and deptype in ('n', 'a')),
 (select concat(count(*), ':', sum(hashtext(concat_ws(',', inhrelid, inhparent, xmin))::int8)) from pg_inherits),
 (with viewed as materialized (
   select distinct refobjid as oid from pg_depend
    where classid = 'pg_rewrite'::regclass and objid >= 16384 and refclassid = 'pg_class'::regclass and refobjid >= 16384)
  select concat_ws('/',
   (select sum(hashtext(concat_ws(',', c.oid, c.xmin))::int8) from pg_class c where c.oid in (select oid from viewed)),
   (select sum(hashtext(concat_ws(',', a.attrelid, a.attnum, a.xmin))::int8) from viewed v join pg_attribute a on a.attrelid = v.oid and a.attnum > 0),
   (select sum(hashtext(concat_ws(',', n.oid, n.xmin))::int8) from pg_namespace n where n.nspname not like 'pg\_%'))),
 concat_ws('/', to_regclass('public.ohlcv')::oid, to_regclass('_timescaledb_catalog.continuous_agg')::oid),
 (select concat(count(*), ':', sum(hashtext(concat_ws(',', classid, objid))::int8)) from pg_depend where deptype = 'e')]`

// numbering matches the default of a serial column, which runs nothing: nextval (1574) of a constant, as bigint, integer (480) or smallint (714).
const numbering = `^(\{FUNCEXPR :funcid (480|714) [^{}]*:args \()?\{FUNCEXPR :funcid 1574 [^{}]*:args \(\{CONST [^{}]*\}\) [^{}]*\}(\) [^{}]*\})?$`

// lookSQL returns what the visible state of the database is called, when the connection last took up the server's configuration files, and
// the fingerprint; null where the state is still the one called $1.
//
// The name is that of the snapshot, which is server-wide: every row that a fingerprint could see is decided by which transactions have
// committed, and pg_current_snapshot says which have, in numbers that do not wrap. Two looks with one name see the same rows. The number of a
// transaction can come twice only where a crash lost its commit (synchronous_commit = off); a server comes back from that with another
// checkpoint. The fingerprint is a subquery that is run when its value is wanted.
const lookSQL = `
select seen.name, pg_conf_load_time(), case when seen.name is distinct from $1 then (` + fingerprintSQL + `) end
  from (select concat_ws(' ', pg_current_snapshot(), (select checkpoint_lsn from pg_control_checkpoint()), ` + schema.Life + `) as name offset 0) seen`
