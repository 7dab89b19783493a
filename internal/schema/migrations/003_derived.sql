-- Timeframes that a source has not natively are rolled up from a base of the same symbol.

alter table barkeep.coverage add column derived_from text not null default '';
comment on column barkeep.coverage.derived_from is 'timeframe whose bars these were rolled up from; empty where the source has them';

create or replace view barkeep.segments as
    select symbol, timeframe, range_start, range_end,
           (array['final', 'provisional', 'absent', 'unavailable'])[state] as state,
           source, generation, fetched_at, reason, expires_at, retry_at, derived_from
      from barkeep.coverage;

alter table barkeep.instrument add column native text[];
comment on column barkeep.instrument.native is 'timeframes of this instrument; null where they are those that its source declares';
