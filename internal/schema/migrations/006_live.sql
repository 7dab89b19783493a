-- Which series somebody listens to, on which proxy. Proxies write and renew their rows; producers follow what is wanted of the
-- symbols whose jobs are theirs. Like the sessions it says what is now: unlogged, and empty after a crash, when nobody listens.

create unlogged table barkeep.live (
    symbol       text        not null,
    timeframe    text        not null,
    proxy        uuid        not null,
    asked_by     text        not null default '',
    asked_at     timestamptz not null default clock_timestamp(),
    wanted_until timestamptz not null,
    primary key (symbol, timeframe, proxy)
);
comment on table barkeep.live is 'live series and the proxies that want them; a row counts until wanted_until, and its proxy renews it';

grant select, insert, update, delete on barkeep.live to barkeep_service;
