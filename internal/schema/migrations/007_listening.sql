-- What sessions listen to is shown beside what they wait for.

alter table barkeep.session_row add column live text[];
comment on column barkeep.session_row.live is 'channels of live bars that the session gets';

create or replace view barkeep.session_listed with (security_barrier) as
    select i.id as instance, i.name, i.listed_at, s.number, s.pid, s.username, s.database, s.started_at, s.seen,
           case when s.seen then s.client_address end as client_address,
           case when s.seen then s.application_name end as application_name,
           case when s.seen then s.state end as state,
           case when s.seen then s.since end as since,
           case when s.seen then s.waits_for end as waits_for,
           case when s.seen then s.bars end as bars,
           case when s.seen then s.live end as live
      from barkeep.instances i
      join (select r.*, pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'usage')
                     or exists (select from pg_catalog.pg_roles o
                                 where o.rolname = r.username::name and pg_catalog.pg_has_role(current_user, o.oid, 'usage')) as seen
              from barkeep.session_row r) s on s.instance = i.id;

drop view barkeep.session;
drop function barkeep.sessions();

create function barkeep.sessions() returns table (
        instance text, pid integer, username text, database text, client_address text, application_name text, started_at timestamptz,
        state text, since timestamptz, waits_for text, bars bigint, as_of timestamptz, live text[])
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    perform barkeep.list_sessions();
    return query select s.name, s.pid, s.username, s.database, s.client_address, s.application_name, s.started_at, s.state, s.since,
                        s.waits_for, s.bars, s.listed_at, s.live
                   from barkeep.session_listed s;
end
$$;

create view barkeep.session as select * from barkeep.sessions();
comment on view barkeep.session is 'client sessions of all barkeeps in front of this database, now';
grant select on barkeep.session to public;
