package proxy

import (
	"bytes"
	"strings"

	"barkeep/planner"
)

// textArray writes a text[].
func textArray(list []string) []byte {
	var b strings.Builder
	b.WriteByte('{')
	for i, text := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('"')
		b.WriteString(strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text))
		b.WriteByte('"')
	}
	b.WriteByte('}')
	return []byte(b.String())
}

// lookSQL looks behind the names of a question ($1 relations, $2 functions, $3 what may be a function in a column's place, $4
// operators, $5 relations that the statement writes, $6 whether it is part of a view). Each row is a letter with what follows: d the definition of a view or policy that the question passes through, e a policy's
// expression, and n what keeps it from being asked: a relation that is none of the known kinds, a user's function or operator, or an
// extension's that is volatile, a rule of a relation that is written, row security below a view. Casts are called where nothing names them: a user's function among them keeps every question from it. It is executed with the user's search_path, which decides what the names mean.
const lookSQL = `with recursive rel(oid) as (
 select pg_catalog.to_regclass(n)::pg_catalog.oid from pg_catalog.unnest($1::pg_catalog.text[]) n
 union
 select e.ref from rel, lateral (
  select d.refobjid as ref from pg_catalog.pg_rewrite r join pg_catalog.pg_class v on v.oid = r.ev_class and v.relkind = 'v'
    join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass and d.objid = r.oid
   where r.ev_class = rel.oid and d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
  union all
  select d.refobjid from pg_catalog.pg_policy p join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass and d.objid = p.oid
   where p.polrelid = rel.oid and d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass) e
), target(oid) as (
 select pg_catalog.to_regclass(n)::pg_catalog.oid from pg_catalog.unnest($5::pg_catalog.text[]) n
 union
 select d.refobjid from target join pg_catalog.pg_class v on v.oid = target.oid and v.relkind = 'v' join pg_catalog.pg_rewrite r on r.ev_class = v.oid
   join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass and d.objid = r.oid and d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
), rule(class, oid) as (
 select 'pg_catalog.pg_rewrite'::pg_catalog.regclass, r.oid from rel join pg_catalog.pg_class v on v.oid = rel.oid and v.relkind = 'v' join pg_catalog.pg_rewrite r on r.ev_class = rel.oid
 union all
 select 'pg_catalog.pg_policy'::pg_catalog.regclass, p.oid from rel join pg_catalog.pg_policy p on p.polrelid = rel.oid
), used(proc) as (
 select d.refobjid from rule join pg_catalog.pg_depend d on d.classid = rule.class and d.objid = rule.oid and d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
 union all
 select o.oprcode::pg_catalog.oid from rule join pg_catalog.pg_depend d on d.classid = rule.class and d.objid = rule.oid and d.refclassid = 'pg_catalog.pg_operator'::pg_catalog.regclass
   join pg_catalog.pg_operator o on o.oid = d.refobjid
 union all
 select p.oid from pg_catalog.pg_proc p where p.proname = any($2::pg_catalog.text[]) and p.pronamespace <> 'pg_catalog'::pg_catalog.regnamespace
 union all
 select p.oid from pg_catalog.pg_proc p join pg_catalog.pg_type t on t.oid = p.proargtypes[0]
  where p.proname = any($3::pg_catalog.text[]) and p.pronargs = 1 and p.pronamespace <> 'pg_catalog'::pg_catalog.regnamespace and t.typtype in ('c', 'p')
 union all
 select k.castfunc from pg_catalog.pg_cast k where k.castfunc <> 0
 union all
 select o.oprcode::pg_catalog.oid from pg_catalog.pg_operator o where o.oprname = any($4::pg_catalog.text[]) and o.oprnamespace <> 'pg_catalog'::pg_catalog.regnamespace
)
select 'd' || pg_catalog.pg_get_viewdef(c.oid) from rel join pg_catalog.pg_class c on c.oid = rel.oid where c.relkind = 'v'
union all
select 'e' || pg_catalog.pg_get_expr(p.polqual, p.polrelid) from rel join pg_catalog.pg_class c on c.oid = rel.oid join pg_catalog.pg_policy p on p.polrelid = c.oid
 where c.relrowsecurity and p.polqual is not null and p.polcmd in ('r', '*')
union all
select 'nit reads ' || c.relname from rel join pg_catalog.pg_class c on c.oid = rel.oid where c.relkind not in ('r', 'p', 'm', 'v')
union all
select 'nthe statement writes ' || c.relname || ', which has a rule' from target join pg_catalog.pg_class c on c.oid = target.oid join pg_catalog.pg_rewrite r on r.ev_class = c.oid where r.ev_type <> '1'
union all
select 'nit is part of a view and reads ' || c.relname || ', which has row security' from rel join pg_catalog.pg_class c on c.oid = rel.oid where $6::pg_catalog.bool and c.relrowsecurity
union all
select distinct 'nit calls ' || p.proname from used join pg_catalog.pg_proc p on p.oid = used.proc
 where ` + ofUsersSQL

// plainSQL reports whether there is nothing behind the names of a question ($1 to $5 as for lookSQL, which returns no row then): its
// relations are tables without row security, those that are written have no rule, and no function or operator of its names, nor any cast, is a user's. Nearly every
// question is such, and PostgreSQL takes 2 ms to plan lookSQL, a fifth for this one: it joins as little as can be. It is executed with the user's search_path as well.
const plainSQL = `select not exists (select from pg_catalog.unnest($1::pg_catalog.text[]) n join pg_catalog.pg_class c on c.oid = pg_catalog.to_regclass(n)::pg_catalog.oid
  where c.relkind not in ('r', 'p', 'm') or c.relrowsecurity)
 and not exists (select from pg_catalog.unnest($5::pg_catalog.text[]) n join pg_catalog.pg_class c on c.oid = pg_catalog.to_regclass(n)::pg_catalog.oid
  where c.relkind not in ('r', 'p') or c.relhasrules)
 and not exists (select from pg_catalog.pg_proc p where p.proname = any($2::pg_catalog.text[] || $3::pg_catalog.text[]) and p.pronamespace <> 'pg_catalog'::pg_catalog.regnamespace)
 and not exists (select from pg_catalog.pg_operator o where o.oprname = any($4::pg_catalog.text[]) and o.oprnamespace <> 'pg_catalog'::pg_catalog.regnamespace)
 and not exists (select from pg_catalog.pg_cast k where k.castfunc >= 16384 and (select ` + ofUsersSQL + ` from pg_catalog.pg_proc p where p.oid = k.castfunc))`

// ofUsersSQL says that the function p is a user's, or an extension's that is volatile: PostgreSQL's own have the OIDs below
// FirstNormalObjectId (access/transam.h).
const ofUsersSQL = `p.oid >= 16384 and (p.provolatile = 'v' or not exists (select from pg_catalog.pg_depend e where e.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass and e.objid = p.oid and e.deptype = 'e'))`

// isPlainLook reports whether plainSQL has said so.
func isPlainLook(reply *exchange) bool {
	return len(reply.rows) == 1 && bytes.Equal(reply.rows[0], []byte{1})
}

// seenThrough says what keeps a question from being asked, by the rows of lookSQL; empty where nothing does. Set is the question's.
func seenThrough(reply *exchange, set bool) string {
	if reply.overflow {
		return "a subquery over too many views"
	}
	for _, row := range reply.rows {
		if len(row) == 0 {
			continue // a policy or view that is gone by now: the question will tell
		}
		text := string(row[1:])
		var why string
		switch row[0] {
		case 'd':
			why = planner.Askable(text, set)
		case 'e':
			why = planner.Askable("SELECT "+text, set)
		default:
			why = text
		}
		if why != "" {
			return "a subquery that cannot be asked beforehand: " + why
		}
	}
	return ""
}
