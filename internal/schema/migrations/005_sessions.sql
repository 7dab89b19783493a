-- The barkeeps in front of this database, their sessions, and what one of them asks of the others. These tables say what is now:
-- they are unlogged, and empty after a crash, when there are no sessions either.

create unlogged table barkeep.instance (
    id        integer     generated always as identity primary key,
    name      text        not null,
    pid       integer     not null,
    listed_at timestamptz
);
comment on table barkeep.instance is 'a barkeep is alive while the backend pid holds the advisory lock (1650553451, id); its sessions are those of listed_at';

create unlogged table barkeep.session_row (
    instance         integer     not null,
    number           bigint      not null,
    pid              integer     not null,
    username         text        not null,
    database         text        not null,
    client_address   text        not null,
    application_name text        not null,
    started_at       timestamptz not null,
    state            text        not null,
    since            timestamptz not null,
    waits_for        text,
    bars             bigint
);
create index session_row_number on barkeep.session_row (instance, number);
comment on table barkeep.session_row is 'not unique by a key: one statement replaces the rows of an instance';

-- What one barkeep asks of the others, or a user of one. It is asked by a row and not by the notification that tells of it: anybody
-- can notify, and listen.
create unlogged table barkeep.errand (
    id       bigint      generated always as identity primary key,
    asked_at timestamptz not null default clock_timestamp(),
    instance integer,
    number   bigint,
    pid      integer,
    salt     bytea,
    mac      bytea,
    claimed  boolean     not null default false,
    check (num_nonnulls(instance, number) = 2 and num_nonnulls(pid, salt, mac) = 0
        or num_nonnulls(instance, number) = 0 and num_nonnulls(pid, salt, mac) = 3)
);
comment on table barkeep.errand is 'a hold to be ended (instance, number), or a cancel request whose key another barkeep may have (pid, salt, mac)';

create view barkeep.instances as
    select i.id, i.name, i.listed_at
      from barkeep.instance i
     where exists (select from pg_catalog.pg_locks l
                    where l.locktype = 'advisory' and l.granted and l.pid = i.pid
                      and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = pg_catalog.current_database())
                      and l.classid = 1650553451 and l.objid::bigint = i.id and l.objsubid = 2);
comment on view barkeep.instances is 'barkeeps that are connected to this database';

-- Details are for whom pg_stat_activity shows them.
create view barkeep.session_listed with (security_barrier) as
    select i.id as instance, i.name, i.listed_at, s.number, s.pid, s.username, s.database, s.started_at, s.seen,
           case when s.seen then s.client_address end as client_address,
           case when s.seen then s.application_name end as application_name,
           case when s.seen then s.state end as state,
           case when s.seen then s.since end as since,
           case when s.seen then s.waits_for end as waits_for,
           case when s.seen then s.bars end as bars
      from barkeep.instances i
      join (select r.*, pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'usage')
                     or exists (select from pg_catalog.pg_roles o
                                 where o.rolname = r.username::name and pg_catalog.pg_has_role(current_user, o.oid, 'usage')) as seen
              from barkeep.session_row r) s on s.instance = i.id;

-- list_sessions has all barkeeps write down their sessions, and waits for them. They look whether somebody holds the lock
-- (1650553451, 0) shared: a notification would go out when the transaction ends, and too late. The lock is given back by an
-- exception that rolls the block back, so that nobody is asked for as long as the transaction goes on. Barkeeps that do not answer
-- are left out, with a warning.
create function barkeep.list_sessions() returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    asked timestamptz := clock_timestamp();
    late text;
begin
    if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
        raise exception using errcode = 'feature_not_supported',
            message = 'barkeep''s sessions cannot be seen in a transaction that keeps its snapshot',
            hint = 'Look at them in a transaction that is READ COMMITTED.';
    end if;
    begin
        loop
            perform pg_try_advisory_xact_lock_shared(1650553451, 0);
            select string_agg(name, ', ') into late from barkeep.instances where listed_at is null or listed_at < asked;
            exit when late is null or clock_timestamp() > asked + interval '3 s';
            perform pg_sleep(0.01);
        end loop;
        raise exception using errcode = 'BK000';
    exception when sqlstate 'BK000' then
        null;
    end;
    if late is not null then
        raise warning using message = format('no answer from barkeep %s: its sessions are as of before, or not shown', late);
    end if;
end
$$;

create function barkeep.sessions() returns table (
        instance text, pid integer, username text, database text, client_address text, application_name text, started_at timestamptz,
        state text, since timestamptz, waits_for text, bars bigint, as_of timestamptz)
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    perform barkeep.list_sessions();
    return query select s.name, s.pid, s.username, s.database, s.client_address, s.application_name, s.started_at, s.state, s.since,
                        s.waits_for, s.bars, s.listed_at
                   from barkeep.session_listed s;
end
$$;

create view barkeep.session as select * from barkeep.sessions();
comment on view barkeep.session is 'client sessions of all barkeeps in front of this database, now';

-- Who may end a hold is who may call pg_cancel_backend; the view's check sees to it, whoever inserts.
create view barkeep.hold_end with (security_barrier) as
    select e.id, e.instance, e.number from barkeep.errand e
     where exists (select from barkeep.session_row r join pg_catalog.pg_roles o on o.rolname = r.username::name
                    where r.instance = e.instance and r.number = e.number
                      and (not o.rolsuper or (select me.rolsuper from pg_catalog.pg_roles me where me.rolname = current_user))
                      and (pg_catalog.pg_has_role(current_user, o.oid, 'usage')
                           or pg_catalog.pg_has_role(current_user, 'pg_signal_backend', 'usage')))
    with local check option;

create function barkeep.cancel(pid integer) returns boolean
    language plpgsql strict set search_path = pg_catalog, pg_temp as $$
declare
    target record;
    errand bigint;
begin
    perform barkeep.list_sessions();
    select s.instance, s.number, s.username, s.held, o.oid, coalesce(o.rolsuper, true) as rolsuper into target
      from barkeep.session_held s left join pg_roles o on o.rolname = s.username::name
     where s.pid = cancel.pid;
    if not found then
        raise warning using message = format('PID %s is not a session of barkeep', pid);
        return false;
    end if;
    if target.rolsuper and not (select me.rolsuper from pg_roles me where me.rolname = current_user) then
        raise exception using errcode = 'insufficient_privilege', message = 'permission denied to cancel query',
            detail = 'Only roles with the SUPERUSER attribute may cancel queries of roles with the SUPERUSER attribute.';
    end if;
    if not pg_has_role(current_user, target.oid, 'usage') and not pg_has_role(current_user, 'pg_signal_backend', 'usage') then
        raise exception using errcode = 'insufficient_privilege', message = 'permission denied to cancel query',
            detail = 'Only roles with privileges of the role whose query is being canceled or with privileges of the "pg_signal_backend" role may cancel this query.';
    end if;
    if not target.held then
        return false;
    end if;
    insert into barkeep.hold_end (instance, number) values (target.instance, target.number) returning id into errand;
    perform pg_notify('barkeep_errand', errand::text);
    return true;
end
$$;
comment on function barkeep.cancel(integer) is 'barkeep: ends the wait for bars of the session whose database process this is, on whichever barkeep it is';

-- Whether a session is held is for whom the right to end it is checked.
create view barkeep.session_held with (security_barrier) as
    select i.id as instance, r.number, r.pid, r.username, r.state = 'held' as held
      from barkeep.session_row r join barkeep.instances i on i.id = r.instance;

grant usage on schema barkeep to public;
grant select on barkeep.session, barkeep.session_listed, barkeep.session_held, barkeep.instances to public;
grant select (id), insert (instance, number) on barkeep.hold_end to public;
grant select, insert, update, delete on barkeep.instance, barkeep.session_row, barkeep.errand to barkeep_service;
