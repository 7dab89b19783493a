-- Who may write bars, who may read them, and what applications see.

create function barkeep.guard() returns trigger language plpgsql as $$
begin
    if pg_catalog.current_setting('barkeep.maintenance', true) is not distinct from 'on'
       and pg_catalog.pg_has_role(current_user, 'barkeep_service', 'member') then
        return null;
    end if;
    raise exception using errcode = 'insufficient_privilege',
        message = pg_catalog.format('barkeep: %s on table ohlcv is refused', tg_op),
        detail = 'Bars and their coverage are written together, by barkeep alone.',
        hint = 'A member of barkeep_service may write after SET barkeep.maintenance = on; the coverage then no longer vouches for what is there.';
end
$$;

create trigger barkeep_guard before insert or update or delete on public.ohlcv
    for each statement execute function barkeep.guard();
create trigger barkeep_guard_truncate before truncate on public.ohlcv
    for each statement execute function barkeep.guard();

-- cancel_job asks for the end of a job; whoever asked for it may, and the service role. It says whether the job was still open.
create function barkeep.cancel_job(id uuid) returns boolean
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    update barkeep.job j set cancelled = true, updated_at = now()
     where j.id = cancel_job.id and j.state in ('queued', 'fetching')
       and (j.asked_by = session_user or pg_has_role(session_user, 'barkeep_service', 'member'));
    return found;
end
$$;

create view barkeep.jobs as
    select id, symbol, timeframe, range_start, range_end, source, generation, priority, asked_by, asked_at, wanted_until,
           cancelled, state, pages_done, bars_done, bars_total, error_code, error_message, started_at, ended_at, updated_at
      from barkeep.job;

create view barkeep.segments as
    select symbol, timeframe, range_start, range_end,
           (array['final', 'provisional', 'absent', 'unavailable'])[state] as state,
           source, generation, fetched_at, reason, expires_at, retry_at
      from barkeep.coverage;

create view barkeep.symbols as
    select source, symbol, source || ':' || symbol as prefixed, base, quote,
           nullif(listed_at, '-infinity') as listed_at, delisted_at
      from barkeep.instrument;

grant usage on schema barkeep to barkeep_service, barkeep_reader;
grant select, insert, update, delete, truncate on public.ohlcv to barkeep_service;
grant select, insert, update, delete, truncate on all tables in schema barkeep to barkeep_service;
grant select on public.ohlcv to barkeep_reader;
grant select on barkeep.coverage, barkeep.jobs, barkeep.segments, barkeep.symbols to barkeep_reader;
