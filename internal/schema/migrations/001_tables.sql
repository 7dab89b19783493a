-- Bars, and everything that says where they came from and what is complete.
-- Times are timestamptz; ranges are half open, two columns, -infinity and infinity allowed.

create table public.ohlcv (
    symbol    text             not null,
    timeframe text             not null,
    ts        timestamptz      not null,
    open      double precision not null,
    high      double precision not null,
    low       double precision not null,
    close     double precision not null,
    volume    double precision not null,
    primary key (symbol, timeframe, ts)
);

{{if .Timescale -}}
-- One year a chunk: a read of a long history takes two locks a chunk.
select {{.TimescaleSchema}}.create_hypertable('public.ohlcv', 'ts',
    chunk_time_interval => interval '365 days', create_default_indexes => false);
{{- else if .TimeBucket -}}
-- As TimescaleDB answers: weeks and days are counted from Monday 2000-01-03, months from 2000-01-01, all in UTC.
-- A width that mixes months and days is refused by date_bin.
create function public.time_bucket(bucket_width interval, ts timestamptz) returns timestamptz
    language sql immutable strict parallel safe as $$
    select case
        when extract(year from bucket_width) * 12 + extract(month from bucket_width) > 0
             and extract(day from bucket_width) = 0
             and extract(hour from bucket_width) = 0
             and extract(minute from bucket_width) = 0
             and extract(second from bucket_width) = 0
             and isfinite(ts)
        then timezone('UTC', timestamp '2000-01-01' + make_interval(months => (
                 floor(((extract(year from timezone('UTC', ts)) - 2000) * 12 + extract(month from timezone('UTC', ts)) - 1)
                       / (extract(year from bucket_width) * 12 + extract(month from bucket_width)))
                 * (extract(year from bucket_width) * 12 + extract(month from bucket_width)))::integer))
        else date_bin(bucket_width, ts, timezone('UTC', timestamp '2000-01-03'))
    end
$$;
comment on function public.time_bucket(interval, timestamptz) is 'barkeep: stands in for TimescaleDB''s function of this name';
{{- end}}

-- Whose topics and groups these are.
create table barkeep.deployment (
    id         uuid        primary key default gen_random_uuid(),
    created_at timestamptz not null default now()
);
create unique index deployment_one on barkeep.deployment ((true));
insert into barkeep.deployment default values;

-- What a symbol is bound to; the row that every writer of its bars locks first.
create table barkeep.symbol (
    symbol      text        primary key,
    source      text        not null,
    vendor_id   text        not null,
    generation  bigint      not null default 1,
    version     bigint      not null default 0,
    listed_at   timestamptz,
    delisted_at timestamptz,
    bound_at    timestamptz not null default now()
);

-- The segments of a series are disjoint; the writer that holds the symbol's row sees to it.
create table barkeep.coverage (
    symbol      text        not null,
    timeframe   text        not null,
    range_start timestamptz not null,
    range_end   timestamptz not null,
    state       smallint    not null check (state between 1 and 4),
    source      text        not null,
    generation  bigint      not null,
    fetched_at  timestamptz not null,
    reason      text        not null default '',
    expires_at  timestamptz,
    retry_at    timestamptz,
    primary key (symbol, timeframe, range_start),
    check (range_start < range_end)
);
comment on column barkeep.coverage.state is '1 final, 2 provisional, 3 absent, 4 unavailable';

-- The chunks of ohlcv that were written to, as they were then; empty where ohlcv is a plain table. Triggers do not fire
-- where a chunk is dropped or truncated, so who polls coverage compares.
create table barkeep.chunk (
    id          bigint primary key,
    range_start bigint not null,
    range_end   bigint not null,
    file        oid    not null,
    database    oid    not null
);
comment on table barkeep.chunk is 'ranges are microseconds since 1970, as in TimescaleDB''s catalog; file is pg_class.relfilenode';

-- note_chunks writes down the chunks that overlap a range. Functions, not views: nothing here depends on tables that an
-- update of the extension replaces.
create function barkeep.note_chunks(low bigint, high bigint) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if to_regclass('_timescaledb_catalog.chunk') is null then
        return;
    end if;
    insert into barkeep.chunk (id, range_start, range_end, file, database)
    select c.id, s.range_start, s.range_end, r.relfilenode, (select d.oid from pg_database d where d.datname = current_database())
      from _timescaledb_catalog.hypertable h
      join _timescaledb_catalog.chunk c on c.hypertable_id = h.id and not c.dropped
      join _timescaledb_catalog.chunk_constraint cc on cc.chunk_id = c.id
      join _timescaledb_catalog.dimension_slice s on s.id = cc.dimension_slice_id
      join pg_namespace n on n.nspname = c.schema_name
      join pg_class r on r.relnamespace = n.oid and r.relname = c.table_name
     where h.schema_name = 'public' and h.table_name = 'ohlcv' and s.range_start < high and s.range_end > low
    on conflict do nothing;
end
$$;

-- lost_chunks returns the chunks whose rows are gone: dropped (file is null), or truncated since (file is the new one). A
-- table that was rewritten by VACUUM FULL, CLUSTER or compression has another file too, but knows its number of rows. In
-- a copy of the database all files are others.
create function barkeep.lost_chunks() returns table (id bigint, range_start bigint, range_end bigint, file oid)
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    if to_regclass('_timescaledb_catalog.chunk') is null then
        return query select k.id, k.range_start, k.range_end, null::oid from barkeep.chunk k;
        return;
    end if;
    return query select k.id, k.range_start, k.range_end, r.relfilenode
      from barkeep.chunk k
      left join _timescaledb_catalog.chunk c on c.id = k.id and not c.dropped
      left join pg_namespace n on n.nspname = c.schema_name
      left join pg_class r on r.relnamespace = n.oid and r.relname = c.table_name
     where r.oid is null
        or r.relfilenode <> k.file and r.reltuples <= 0 and c.compressed_chunk_id is null
           and k.database = (select d.oid from pg_database d where d.datname = current_database());
end
$$;

-- The truth about what was ingested; the broker's own offset is a hint.
create table barkeep.ingest_offset (
    cluster_id     text        not null,
    topic_id       text        not null,
    partition      integer     not null,
    next_offset    bigint      not null,
    last_record_id text        not null default '',
    updated_at     timestamptz not null default now(),
    primary key (cluster_id, topic_id, partition)
);

create table barkeep.job (
    id            uuid        primary key,
    symbol        text        not null,
    timeframe     text        not null,
    range_start   timestamptz not null,
    range_end     timestamptz not null,
    source        text        not null,
    generation    bigint      not null,
    priority      smallint    not null default 1,
    asked_by      text        not null default '',
    asked_at      timestamptz not null default now(),
    wanted_until  timestamptz,
    cancelled     boolean     not null default false,
    state         text        not null default 'queued'
        check (state in ('queued', 'fetching', 'done', 'failed', 'superseded', 'cancelled')),
    pages_done    integer     not null default 0,
    bars_done     bigint      not null default 0,
    bars_total    bigint      not null default 0,
    error_code    text        not null default '',
    error_message text        not null default '',
    started_at    timestamptz,
    ended_at      timestamptz,
    updated_at    timestamptz not null default now()
);
comment on column barkeep.job.priority is '0 bulk, 1 a user waits';
create index job_open on barkeep.job (state, updated_at) where state in ('queued', 'fetching');
create index job_series on barkeep.job (symbol, timeframe, asked_at);

create table barkeep.source (
    name      text        primary key,
    declared  jsonb       not null default '{}',
    wanted_at timestamptz,
    read_at   timestamptz,
    error     text        not null default ''
);

-- What a source lists. An id that is listed again is another instrument.
create table barkeep.instrument (
    source      text        not null,
    vendor_id   text        not null,
    symbol      text        not null,
    base        text        not null default '',
    quote       text        not null default '',
    listed_at   timestamptz not null default '-infinity',
    delisted_at timestamptz,
    read_at     timestamptz not null default now(),
    primary key (source, vendor_id, listed_at)
);
create index instrument_symbol on barkeep.instrument (symbol);

create table barkeep.rate_bucket (
    source     text             primary key,
    tokens     double precision not null default 0,
    updated_at timestamptz      not null default now()
);

-- A limit that is null does not apply.
create table barkeep.quota (
    role          text    primary key,
    max_bars      bigint,
    bars_per_hour bigint,
    jobs          integer,
    live_series   integer
);
