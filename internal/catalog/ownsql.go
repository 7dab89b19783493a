package catalog

import (
	"strings"

	"barkeep/planner"
)

// changedSQL lists the objects of which the transaction that it is run in has written something, as the keys of nodes; n is a schema in
// which a relation named ohlcv is, s one in which there was something before, e an event trigger, l a collation.
//
// A row that is seen has been committed, or was written by the transaction itself: then its number is that of the transaction or of one of
// its subtransactions, none of which is less (AssignTransactionId: parents are numbered first), and that is in progress. A number which
// the snapshot does not reach is in progress, too; one that was frozen so long ago that it seems to come is taken for such. A transaction
// without a number has written nothing.
const changedSQL = `
select key, place from (
 select 'r' || oid as key, xmin as x, concat('c', ctid) as place from pg_class where relkind in ('r','p','v','m','f','c')
 union all
 select 'r' || attrelid, xmin, concat('A', ctid) from pg_attribute where attnum > 0
 union all
 select 'r' || ftrelid, xmin, concat('F', ctid) from pg_foreign_table
 union all
 select 'r' || ev_class, xmin, concat('r', ctid) from pg_rewrite
 union all
 select 'f' || oid, xmin, concat('f', ctid) from pg_proc
 union all
 select 'r' || tgrelid, xmin, concat('t', ctid) from pg_trigger where not tgisinternal
 union all
 select 'r' || polrelid, xmin, concat('p', ctid) from pg_policy
 union all
 select k, xmin, concat('o', o.ctid) from pg_operator o, unnest(array['o' || oid, 't' || oprleft, 't' || oprright]) k
 union all
 select 'r' || adrelid, xmin, concat('d', ctid) from pg_attrdef
 union all
 select case when contypid <> 0 then 't' || contypid else 'r' || conrelid end, xmin, concat('k', ctid) from pg_constraint
 union all
 select 'r' || confrelid, xmin, concat('k', ctid) from pg_constraint where contype = 'f'
 union all
 select 't' || oid, xmin, concat('T', ctid) from pg_type
 union all
 select k, xmin, concat('C', c.ctid) from pg_cast c, unnest(array['t' || castsource, 't' || casttarget]) k
 union all
 select 't' || opcintype, xmin, concat('O', ctid) from pg_opclass
 union all
 select 't' || amproclefttype, xmin, concat('a', ctid) from pg_amproc
 union all
 select k, xmin, concat('R', r.ctid) from pg_range r, unnest(array['t' || rngtypid, 't' || rngmultitypid]) k
 union all
 select 'r' || indrelid, xmin, concat('i', ctid) from pg_index
 union all
 select k, xmin, concat('h', i.ctid) from pg_inherits i, unnest(array['r' || inhrelid, 'r' || inhparent]) k
 union all
 select 's', n.xmin, concat('s', n.ctid) from pg_namespace n where exists (select from pg_class c where c.relnamespace = n.oid and age(c.xmin) > age(n.xmin))
 union all
 select 'e', xmin, concat('e', ctid) from pg_event_trigger
 union all
 select 'n', n.xmin, concat('n', n.ctid) from pg_namespace n where exists (select from pg_class c where c.relnamespace = n.oid and c.relname = 'ohlcv')
 union all
 select 'l', xmin, concat('l', ctid) from pg_collation) written,
 (select top::text::int8 as top, age(top::xid) as age, pg_snapshot_xmax(pg_current_snapshot())::text::int8 as next
   from (select pg_current_xact_id_if_assigned() as top offset 0) assigned where top is not null) transaction
 where age(x) <= age and case when top + age - age(x) >= next then true else pg_xact_status((top + age - age(x))::text::xid8) = 'in progress' end`

// insideSQL returns no row, or null, where the transaction has defined nothing, and else what names the state of its definitions: where
// each of their rows stands.
const insideSQL = `select convert_to(md5(string_agg(key || place, ' ' order by key, place)), 'UTF8') from (` + changedSQL + `) changed`

// definedSQL lists what the transaction has defined, a row of JSON each: the rows of the queries of a shelf that are about objects of which it
// has written something, and all of those that list no objects.
var definedSQL = `
with own as materialized (select distinct key from (` + changedSQL + `) changed),
 rows(list, key, name, txt, is1, is2, is3, is4, positions) as (
 select 'key', key, '', null, false, false, false, false, 0::bigint from own
 union all
 select 'relation', key, name, options, passing, plain, kind, root, 0 from (` + relationsSQL + `) x(key, name, options, seen, root, passing, plain, kind)
  where key in (select key from own)
 union all
 select 'routine', key, name, source, strange, false, false, false, 0 from (` + routinesSQL + `) x(key, name, source, strange) where key in (select key from own)
 union all
 select 'taken', key, '', null, runs, alls, isrow, job, positions from (` + takenSQL + `) x(key, positions, runs, alls, isrow, job)
  where key in (select key from own)
 union all
 select 'type', key, name, null, false, false, false, false, 0 from (` + typesSQL + `) x(key, name) where key in (select key from own)
 union all
 select 'edge', key, upon, null, written, false, false, false, 0 from (` + edgesSQL + `) x(key, upon, written) where key in (select key from own)
 union all
 select 'setter', key, '', null, false, false, false, false, 0 from (` + settersSQL + `) x(key) where key in (select key from own)
 union all
 select 'event', key, '', null, false, false, false, false, 0 from (` + eventsSQL + `) x(key)
 union all
 select 'overload', '', name, null, false, false, false, false, 0 from (` + overloadSQL + `) x(name)
 union all
 select 'named', '', name, null, false, false, false, false, 0 from (` + strings.Replace(overloadsSQL, "$1", `'{`+strings.Join(planner.ScalarFunctions(), ",")+`}'`, 1) + `) x(name)
 union all
 select 'folds', '', '', null, folds, false, false, false, 0 from (` + foldsSQL + `) x(folds))
select convert_to(json_build_object('List', list, 'Key', key, 'Name', name, 'Text', txt, 'Is', json_build_array(is1, is2, is3, is4), 'Positions', positions)::text, 'UTF8')
  from rows`

// ownAggregatesSQL is aggregatesSQL as a part of definedSQL.
const ownAggregatesSQL = `
select convert_to(json_build_object('List', 'edge', 'Key', key, 'Name', upon, 'Is', json_build_array(false))::text, 'UTF8') from (` + aggregatesSQL + `) x(key, upon)`
