-- What a role may cost: how many bars a statement may need, how many it may have fetched in an hour, how many fetches and live series it
-- may have at one time.

comment on table barkeep.quota is 'limits of a role, or of all that have none (role public); a limit that is null does not apply';
alter table barkeep.quota
    add check (max_bars >= 0), add check (bars_per_hour >= 0), add check (jobs >= 0), add check (live_series >= 0);

-- Who sets limits is the owner of the database, and whoever is granted to write this table: not the service that keeps to them.
revoke insert, update, delete, truncate on barkeep.quota from barkeep_service;

alter table barkeep.job add column costs bigint not null default 0;
comment on column barkeep.job.costs is 'bars that count against bars_per_hour of asked_by, until bars_done says how many there were; 0 for a roll-up';
create index job_asker on barkeep.job (asked_by, asked_at);

-- quota_of returns the limits of a role, and whose they are: its own row, whatever else it is a member of; else of the rows of the roles that it is
-- a member of, directly or through others, the largest of each limit (no limit being larger than any); else those of public. Superusers are
-- members only of what was granted to them.
create function barkeep.quota_of(of_role text) returns table (
        named text, max_bars bigint, bars_per_hour bigint, jobs bigint, live_series bigint)
    language sql stable rows 1 set search_path = pg_catalog, pg_temp as $$
    with recursive up (oid, depth) as (
        select r.oid, 0 from pg_roles r where r.rolname = of_role::name
        union
        select m.roleid, 1 from pg_auth_members m join up on up.oid = m.member
    ), holding as (
        select q.*, case when q.role = of_role then 0 when q.role = 'public' then 2 else 1 end as rank
          from barkeep.quota q
         where q.role in (of_role, 'public') or exists (select from up join pg_roles r on r.oid = up.oid where r.rolname = q.role::name)
    )
    select string_agg(h.role, ', ' order by h.role),
           case when bool_and(h.max_bars is not null) then max(h.max_bars) end,
           case when bool_and(h.bars_per_hour is not null) then max(h.bars_per_hour) end,
           case when bool_and(h.jobs is not null) then max(h.jobs)::bigint end,
           case when bool_and(h.live_series is not null) then max(h.live_series)::bigint end
      from holding h
     where h.rank = (select min(o.rank) from holding o)
$$;
comment on function barkeep.quota_of(text) is 'barkeep: the limits that hold for a role, and the rows of barkeep.quota that they are from';
revoke all on function barkeep.quota_of(text) from public;
grant execute on function barkeep.quota_of(text) to barkeep_service;
