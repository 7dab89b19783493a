package planner

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// oddStatements are written by hand against the rules, one a line: what is easily taken for a bound and is none.
const oddStatements = `
select ts from ohlcv where symbol='A' and timeframe='1h' and ts >= '2026-11-01Z' order by -extract(epoch from ts) limit 3
select ts from ohlcv where symbol='A' and timeframe='1h' order by ts desc nulls last limit 3
select -close as ts from ohlcv where symbol='A' and timeframe='1h' order by ts desc limit 3
select close as ts from ohlcv where symbol='A' and timeframe='1h' order by ts limit 3
select close ts, ts t from ohlcv where symbol='A' and timeframe='1h' order by ts, t limit 3
select * from (select close as ts, ts as x from ohlcv where symbol='A' and timeframe='1h') o where ts > 5
select * from (select ts + interval '1 day' as ts from ohlcv where symbol='A' and timeframe='1h') o where ts = '2026-11-02 05:00Z'
select * from ohlcv o(a,b,c) where a='A' and b='1h' and c='2026-11-01 05:00Z'
select * from ohlcv o(timeframe,symbol,c) where o.symbol='1h' and o.timeframe='A' and c='2026-11-01 05:00Z'
select * from ohlcv o(ts,symbol) where o.ts='A' and o.symbol='1h'
select o.* from ohlcv o join ohlcv p on o.symbol='A' and p.symbol='B' and o.timeframe='1d' and p.timeframe='1d' and o.ts > p.ts
select o.ts, p.ts from ohlcv o left join ohlcv p on p.symbol='B' and p.timeframe='1d' and o.ts = p.ts and o.symbol = 'A' where o.timeframe='1d' and o.symbol in ('A','C')
select o.ts, p.ts from ohlcv o left join ohlcv p on p.symbol='B' and p.timeframe='1d' and o.ts = p.ts where o.timeframe='1d' and o.symbol='A' and (p.ts > '2026-11-01Z') is not true
select o.ts, p.ts from ohlcv o left join ohlcv p on p.symbol='B' and p.timeframe='1d' and o.ts = p.ts where o.timeframe='1d' and o.symbol='A' and coalesce(p.ts, '2026-12-01Z') > '2026-11-01Z'
select o.ts, p.ts from ohlcv o left join ohlcv p on p.symbol='B' and p.timeframe='1d' and o.ts = p.ts and p.ts > '2026-11-01Z' where o.timeframe='1d' and o.symbol='A' and not (p.ts is not null)
select o.ts, p.ts from ohlcv o left join ohlcv p on p.symbol='B' and p.timeframe='1d' and o.ts = p.ts and p.ts > '2026-11-01Z' where o.timeframe='1d' and o.symbol='A' and p is null
select o.ts, x.n from ohlcv o left join lateral (select count(*) n from ohlcv p where p.symbol='B' and p.timeframe='1d' and p.ts <= o.ts) x on true where o.symbol='A' and o.timeframe='1d' and o.ts > '2026-11-02Z'
select o.ts, (select count(*) from ohlcv p where p.symbol=o.symbol and p.timeframe='1h' and p.ts <= o.ts) from ohlcv o where o.symbol='A' and o.timeframe='1d' and o.ts > '2026-11-02Z'
select o.ts from ohlcv o where o.symbol='A' and o.timeframe='1d' and not exists (select from ohlcv p where p.symbol='B' and p.timeframe='1d' and p.ts = o.ts + interval '1 day')
select o.ts from ohlcv o where o.symbol='A' and o.timeframe='1d' and o.ts not in (select p.ts from ohlcv p where p.symbol='B' and p.timeframe='1d' and p.ts > '2026-11-01Z')
select o.ts from ohlcv o where o.symbol='A' and o.timeframe='1d' and o.ts >= all (select p.ts from ohlcv p where p.symbol='B' and p.timeframe='1d')
select * from (select distinct on (symbol) symbol, ts, close from ohlcv where symbol in ('A','B') and timeframe='1h' order by symbol, ts desc) x where ts < '2026-11-02Z'
select * from (select symbol, ts, lag(close) over (partition by symbol order by ts) from ohlcv where symbol in ('A','B') and timeframe='1h') x where ts = '2026-11-02Z'
select * from (select symbol, ts, lag(close) over (partition by ts order by symbol) from ohlcv where symbol in ('A','B') and timeframe='1h') x where symbol = 'B' and ts = '2026-11-02Z'
select * from (select symbol, max(ts) ts from ohlcv where symbol in ('A','B') and timeframe='1h' group by symbol) x where ts < '2026-11-02Z'
select * from (select symbol, timeframe, count(*) from ohlcv where timeframe='1h' and symbol in ('A','B') group by rollup (symbol, timeframe)) x where symbol is null
select * from (select symbol, timeframe, count(*) from ohlcv where timeframe='1h' and symbol in ('A','B') group by rollup (symbol), timeframe) x where symbol = 'A' or symbol is null
select symbol, count(*) from ohlcv where timeframe='1h' and symbol in ('A','B') group by grouping sets ((symbol), ()) having symbol is null
select symbol, count(*) from ohlcv where timeframe='1h' and symbol in ('A','B') group by symbol having max(ts) > '2026-11-01Z'
select count(*) filter (where ts > '2026-11-01Z'), count(*) from ohlcv where timeframe='1h' and symbol='A'
select case when ts > '2026-11-01Z' then 'x' end c, count(*) from ohlcv where timeframe='1h' and symbol='A' group by 1
select * from (select ts, generate_series(1,2) g from ohlcv where symbol='A' and timeframe='1d') x where g = 2
select generate_series(1,3), ts from ohlcv where symbol='A' and timeframe='1d' order by ts desc limit 4
select unnest(array[]::int[]), ts from ohlcv where symbol='A' and timeframe='1d' order by ts desc limit 4
select ts from ohlcv where symbol='A' and timeframe='1d' order by ts desc offset 3
select ts from ohlcv where symbol='A' and timeframe='1d' order by ts desc limit null offset 3
select ts from ohlcv where symbol='A' and timeframe='1d' order by ts desc fetch first 2 rows with ties
select ts from ohlcv where symbol in ('A','B') and timeframe='1d' order by ts desc limit 3
select ts,symbol from ohlcv where symbol in ('A','B') and timeframe='1d' order by symbol desc, ts limit 7
select ts,symbol,timeframe from ohlcv where symbol = 'A' and timeframe in ('1d','1h') order by ts desc, timeframe limit 7
select ts from ohlcv where symbol='A' and timeframe='1d' and close > 2 order by ts desc limit 2
select ts from ohlcv where symbol='A' and timeframe='1d' and extract(dow from ts) = 5 order by ts desc limit 2
select ts from ohlcv where symbol='A' and timeframe='1d' and ts <> '2026-11-04Z' order by ts desc limit 2
select ts from ohlcv where symbol='A' and timeframe='1d' and ts not in ('2026-11-04Z','2026-11-03Z') order by ts desc limit 2
select ts from ohlcv where symbol='A' and timeframe='1d' and ts < now() - interval '1 hour' order by ts desc limit 2
select ts from ohlcv where symbol='A' and timeframe='1d' and ts >= '2026-11-01Z' or false order by ts limit 2
select ts from (select ts from ohlcv where symbol='A' and timeframe='1d' order by ts limit 3) x order by ts desc limit 1
select ts from (select ts from ohlcv where symbol='A' and timeframe='1d' order by ts desc limit 3 offset 1) x order by ts limit 1
select ts from (select ts from ohlcv where symbol='A' and timeframe='1d' union all select ts from ohlcv where symbol='B' and timeframe='1h') x order by ts desc limit 3
select ts from ohlcv where symbol='A' and timeframe='1d' union (select ts from ohlcv where symbol='B' and timeframe='1d' order by ts desc limit 2) order by ts limit 3
select ts from ohlcv where symbol='A' and timeframe='1d' except select ts from ohlcv where symbol='B' and timeframe='1h' and ts > '2026-11-01Z'
select * from (select ts, 'x' as tag from ohlcv where symbol='A' and timeframe='1d' union all select ts, 'y' from ohlcv where symbol='B' and timeframe='1d') u where tag = 'y' and ts > '2026-11-01Z'
select * from (select symbol, ts from ohlcv where timeframe='1d' union all select ts::text, ts from ohlcv where symbol='B' and timeframe='1d') u where symbol = 'A'
select * from (select symbol, ts from ohlcv where timeframe='1d' and symbol in ('A','B') intersect select 'A', ts from ohlcv where symbol='B' and timeframe='1h') u where symbol = 'A'
with recursive r as (select max(ts) ts from ohlcv where symbol='A' and timeframe='1h' union all select r.ts - interval '1 day' from r where r.ts > '2026-11-01Z') select r.ts, o.close from r left join ohlcv o on o.ts = r.ts and o.symbol='A' and o.timeframe='1h'
with ohlcv as (select * from ohlcv where symbol='A' and timeframe='1d') select count(*) from ohlcv
with ohlcv as (select 'A' symbol, now() ts), x as (select * from ohlcv) select count(*) from x where symbol = 'B'
with a as (select * from b), b as (select 1) select 1
with x as (select * from ohlcv where symbol='A' and timeframe='1d') select count(*) from x union all select count(*) from x where ts > '2026-11-01Z'
with x as materialized (select * from ohlcv where symbol='A' and timeframe='1d') select * from x where ts > '2026-11-02Z'
with x(a,b,c) as (select ts, symbol, timeframe from ohlcv) select * from x where b='A' and c='1d' and a > '2026-11-02Z'
with x(symbol,ts) as (select timeframe, ts, symbol from ohlcv) select * from x where symbol='1d' and ts > '2026-11-02Z' and ohlcv.symbol = 'A'
select ts from ohlcv where (symbol, timeframe, ts) in (('A','1d','2026-11-01Z'), ('B','1h','2026-11-02 03:00Z'))
select ts from ohlcv where row(symbol, timeframe, ts) = row('A','1d','2026-11-01Z'::timestamptz)
select ts from ohlcv where (symbol, timeframe) = ('A','1d') and (ts, close) <= ('2026-11-01Z', 3)
select ts from ohlcv where symbol='A' and timeframe='1d' and (ts, close) is distinct from ('2026-11-01Z', 1)
select ts from ohlcv where symbol='A' and timeframe='1d' and (ts, null) > ('2026-11-01Z', null)
select ts from ohlcv where symbol='A' and timeframe='1d' and not ((ts, null) > ('2026-11-01Z', null))
select ts from ohlcv where symbol='A' and timeframe='1d' and ((ts, null) > ('2026-11-01Z', 3)) is not true
select ts from ohlcv where symbol='A' and timeframe='1d' and ts between symmetric '2026-11-03Z' and '2026-11-01Z'
select ts from ohlcv where symbol='A' and timeframe='1d' and ts not between '2026-11-03Z' and null
select ts from ohlcv where symbol='A' and timeframe='1d' and (ts between null and '2026-11-03Z') is not false
select ts from ohlcv where symbol='A' and timeframe='1d' and ts not in ('2026-11-03Z', null)
select ts from ohlcv where symbol='A' and timeframe='1d' and (ts not in ('2026-11-03Z', null)) is not false
select ts from ohlcv where symbol='A' and timeframe='1d' and ts <> any (array['2026-11-03Z','2026-11-02Z']::timestamptz[])
select ts from ohlcv where symbol='A' and timeframe='1d' and ts > all (array['2026-11-01Z','2026-11-02Z']::timestamptz[])
select ts from ohlcv where symbol='A' and timeframe='1d' and ts > any (array['2026-11-01Z','2026-11-02Z']::timestamptz[])
select ts from ohlcv where symbol='A' and timeframe='1d' and ts > all ('{}'::timestamptz[])
select ts from ohlcv where symbol='A' and timeframe='1d' and (ts > all (null::timestamptz[])) is unknown
select ts from ohlcv where not (symbol <> 'A' or timeframe <> '1d' or ts < '2026-11-02Z')
select ts from ohlcv where (symbol = 'A') = true and timeframe = '1d'
select ts from ohlcv where (symbol = 'A') is true and (timeframe = '1d') is not false and (ts > '2026-11-02Z') = (close > 0)
select ts from ohlcv where symbol = 'A' and timeframe = '1d' and (ts > '2026-11-02Z') <> (close > 0)
select ts from ohlcv where case when symbol = 'A' then timeframe = '1d' else false end and symbol = 'A' and timeframe in ('1d','1h')
select ts from ohlcv where symbol = 'A' and timeframe = '1d' and case when close > 2 then ts > '2026-11-02Z' else true end
select ts from ohlcv where coalesce(symbol = 'A', true) and symbol = 'A' and timeframe = '1d'
select ts from ohlcv where nullif(symbol, 'A') is null and timeframe = '1d' and symbol in ('A','B')
select ts from ohlcv where symbol in ('A','B') and timeframe = '1d' and greatest(ts, '2026-11-03Z') = '2026-11-03Z'
select ts from ohlcv where symbol = 'A' and timeframe = '1d' and ts::date = '2026-11-02'
select ts from ohlcv where symbol = 'A' and timeframe = '1h' and ts::date > '2026-11-02'
select ts from ohlcv where symbol = 'A' and timeframe = '1h' and ts::date <> '2026-11-02'
select ts from ohlcv where symbol = 'A' and timeframe = '1h' and ts::time > '20:00'
select ts from ohlcv where symbol = 'A' and timeframe = '1h' and ts::timestamp >= '2026-11-01 01:30'
select ts from ohlcv where symbol = 'A' and timeframe = '1h' and ts::timestamp(0) = '2026-11-01 02:00'
select ts from ohlcv where symbol = 'A' and timeframe = '1h' and ts::text like '2026-11-02%'
select ts from ohlcv where symbol = 'A' and timeframe = '1h' and date_trunc('day', ts) = '2026-11-02'
select ts from ohlcv where symbol = 'A' and timeframe = '1h' and date_trunc('week', ts) < '2026-11-02'
select ts from ohlcv where symbol = 'A' and timeframe = '1h' and date_trunc('day', ts, 'Asia/Tokyo') = '2026-11-01 15:00Z'
select ts from ohlcv where symbol = 'A' and timeframe = '1h' and date_bin('1 day', ts, '2026-11-01 05:00Z') = '2026-11-01 05:00Z'
select ts from ohlcv where symbol = 'A' and timeframe = '1h' and date_bin('1 day', ts, '2027-01-01 05:00Z') < '2026-11-01 05:00Z'
select ts from ohlcv where symbol = 'A' and timeframe = '1h' and ts at time zone 'America/New_York' >= '2026-11-01 01:30'
select ts from ohlcv where symbol = 'A' and timeframe = '1h' and ts at time zone 'America/New_York' < '2026-11-01 01:30'
select ts from ohlcv where symbol = 'A' and timeframe = '1h' and (ts at time zone 'America/New_York')::date = '2026-11-01'
select ts from ohlcv where symbol = 'A' and timeframe = '1h' and (ts at time zone 'UTC') at time zone 'Asia/Tokyo' > '2026-11-02Z'
select ts from ohlcv where symbol = 'A' and timeframe = '1h' and ts - interval '1 month' < '2026-10-01Z'
select ts from ohlcv where symbol = 'A' and timeframe = '1h' and ts + interval '1 month' >= '2026-11-30Z'
select ts from ohlcv where symbol = 'A' and timeframe = '1h' and interval '1 day' + ts > '2026-11-03Z'
select ts from ohlcv where symbol = 'A' and timeframe = '1h' and ts - '2026-11-01Z'::timestamptz > '1 day'
select ts from ohlcv where symbol = 'A' and timeframe = '1h' and '2026-11-03Z'::timestamptz - ts < '1 day'
select ts from ohlcv where symbol = 'A' and timeframe = '1h' and age('2026-11-03Z', ts) < '1 day'
select ts from ohlcv where symbol = 'A' and timeframe = '1h' and extract(epoch from ts) >= 1793600000
select ts from ohlcv where symbol = 'A' and timeframe = '1h' and floor(extract(epoch from ts) / 86400) * 86400 = 1793577600
select ts from ohlcv where symbol = 'A' and timeframe = '1h' and extract(epoch from ts)::bigint % 7200 = 0
select ts from ohlcv where symbol = 'A' and timeframe = '1h' and extract(epoch from ts) / -1 < -1793600000
select ts from ohlcv where symbol = 'A' and timeframe = '1h' and -extract(epoch from ts) > -1793600000
select ts from ohlcv where symbol = 'A' and timeframe = '1h' and to_timestamp(extract(epoch from ts) + 86400) > '2026-11-03Z'
select ts from ohlcv where symbol = 'A' and timeframe = '1h' and tstzrange('2026-11-01Z','2026-11-02Z') @> ts
select ts from ohlcv where symbol = 'A' and timeframe = '1h' and ts <@ tstzrange('2026-11-01Z','2026-11-02Z','[]')
select ts from ohlcv where symbol = 'A' and timeframe = '1h' and ts <@ tstzrange('2026-11-01Z', null)
select ts from ohlcv where symbol = 'A' and timeframe = '1h' and (ts, ts + interval '1 hour') overlaps ('2026-11-01Z'::timestamptz, '2026-11-02Z'::timestamptz)
select ts from ohlcv where symbol = 'A' and timeframe = '1h' and (ts, interval '1 day') overlaps ('2026-11-02Z'::timestamptz, interval '1 hour')
select ts from ohlcv where symbol::varchar(1) = 'A' and symbol in ('A','B') and timeframe = '1d'
select ts from ohlcv where symbol::char(3) = 'A' and timeframe = '1d' and symbol in ('A','C')
select ts from ohlcv where symbol::name = 'A' and timeframe = '1d' and symbol in ('A','C')
select ts from ohlcv where lower(symbol) = 'a' and timeframe = '1d' and symbol in ('A','C')
select ts from ohlcv where symbol || '' = 'A' and timeframe = '1d' and symbol in ('A','C')
select ts from ohlcv where symbol collate "C" = 'A' and timeframe = '1d'
select ts from ohlcv where symbol between 'A' and 'B' and timeframe = '1d' and symbol in ('A','B','C')
select ts from ohlcv where symbol >= 'B' and symbol in ('A','B','C') and timeframe = '1d'
select ts from ohlcv where symbol not in ('A') and symbol in ('A','B') and timeframe = '1d'
select ts from ohlcv where symbol ~ 'A' and symbol in ('A','B') and timeframe = '1d'
select ts from ohlcv where symbol = any(string_to_array('A,B', ',')) and symbol in ('A','C') and timeframe = '1d'
select ts from ohlcv where array[symbol] && array['A','B'] and symbol in ('A','C') and timeframe = '1d'
select ts from ohlcv where symbol in (select 'A') and symbol in ('A','C') and timeframe = '1d'
select ts from ohlcv where symbol = (select min(symbol) from ohlcv where symbol in ('B','C') and timeframe='1d') and symbol in ('A','B','C') and timeframe = '1d'
select ts from ohlcv where symbol = 'A' and timeframe = '1d' and ts >= (select max(ts) from ohlcv where symbol='B' and timeframe='1h') - interval '1 day'
select ts from ohlcv where symbol = 'A' and timeframe = '1d' and ts = (select '2026-11-02Z'::timestamptz limit 0)
select ts from ohlcv where symbol = 'A' and timeframe = '1d' and ts = (select '2026-11-02Z'::timestamptz where false) is null
select ts from ohlcv where symbol = 'A' and timeframe = '1d' and ts >= (values ('2026-11-02Z'::timestamptz))
select ts from ohlcv where symbol = 'A' and timeframe = '1d' and ts >= '2026-11-01Z'::timestamptz + (random() * 0) * interval '1 day'
select ts from ohlcv where symbol = 'A' and timeframe = '1d' and ts >= make_timestamptz(2026, 11, 2, 0, 0, 0)
select ts from ohlcv where symbol = 'A' and timeframe = '1d' and ts >= make_timestamptz(2026, 11, 2, 0, 0, 0, 'Asia/Tokyo')
select ts from ohlcv where symbol = 'A' and timeframe = '1d' and ts >= to_timestamp('02.11.2026', 'DD.MM.YYYY')
select ts from ohlcv where symbol = 'A' and timeframe = '1d' and ts >= '2026-11-02 00:00 America/New_York'
select ts from ohlcv where symbol = 'A' and timeframe = '1d' and ts >= '2026-11-02 00:00 PST'
select ts from ohlcv where symbol = 'A' and timeframe = '1d' and ts >= '20261102'
select ts from ohlcv where symbol = 'A' and timeframe = '1d' and ts >= '2026-306'
select ts from ohlcv where symbol = 'A' and timeframe = '1d' and ts >= 'J2461347'
select ts from ohlcv where symbol = 'A' and timeframe = '1d' and ts >= '2 Nov 2026'
select ts from ohlcv where symbol = 'A' and timeframe = '1d' and ts >= '2026-11-02 24:00'
select ts from ohlcv where symbol = 'A' and timeframe = '1d' and ts >= '2026-11-01 23:59:60'
select ts from ohlcv where symbol = 'A' and timeframe = '1d' and ts >= '2026-11-02T00'
select ts from ohlcv where symbol = 'A' and timeframe = '1d' and ts >= '2026-11-02 00:00:00.0000005+00'
select ts from ohlcv where symbol = 'A' and timeframe = '1d' and ts > '2026-11-01 23:59:59.9999995+00'
select ts from ohlcv where symbol = 'A' and timeframe = '1d' and ts >= '2026-11-02 00:00+00:00:30'
select ts from ohlcv where symbol = 'A' and timeframe = '1d' and ts >= '2026-11-02'::timestamp(0)
select ts from ohlcv where symbol = 'A' and timeframe = '1d' and ts >= '2026-11-02 00:00:00.7Z'::timestamptz(0)
select ts from ohlcv where symbol = 'A' and timeframe = '1d' and ts >= '2026-11-01'::date + '1 day'::interval
select ts from ohlcv where symbol = 'A' and timeframe = '1d' and ts >= '2026-11-01'::date + time '12:00'
select ts from ohlcv where symbol = 'A' and timeframe = '1d' and ts >= '2026-11-03Z'::timestamptz - interval '1' day
select ts from ohlcv where symbol = 'A' and timeframe = '1d' and ts >= '2026-11-03Z'::timestamptz - interval '1 02:03' day
select ts from ohlcv where symbol = 'A' and timeframe = '1d' and ts >= '2026-11-03Z'::timestamptz - interval '36:00' hour
select ts from ohlcv where symbol = 'A' and timeframe = '1d' and ts >= '2026-11-03Z'::timestamptz - interval 'P1DT12H'
select ts from ohlcv where symbol = 'A' and timeframe = '1d' and ts >= '2026-11-03Z'::timestamptz - interval '1.5 days'
select ts from ohlcv where symbol = 'A' and timeframe = '1d' and ts >= '2026-11-03Z'::timestamptz - interval '-1 day +2:00'
select ts from ohlcv where symbol = 'A' and timeframe = '1d' and ts >= '2026-11-03Z'::timestamptz - 2 * interval '1 day'
select ts from ohlcv where symbol = 'A' and timeframe = '1d' and ts >= '2026-11-03Z'::timestamptz - interval '1 day' / 2
select ts from ohlcv where symbol = 'A' and timeframe = '1d' and ts >= '2026-11-03Z'::timestamptz - interval '1 day ago'
select ts from ohlcv where symbol = 'A' and timeframe = '1d' and ts >= '2026-11-03Z'::timestamptz - interval '0.1 month'
select ts from ohlcv where symbol = 'A' and timeframe = '1d' and ts >= '2026-11-03Z'::timestamptz - '1 day'
select ts from ohlcv where symbol = 'A' and timeframe = '1d' and ts >= timestamptz '2026-11-03Z' - make_interval(days => 1)
select ts from ohlcv tablesample bernoulli (100) where symbol = 'A' and timeframe = '1d' order by ts desc limit 2
select ts from only ohlcv where symbol = 'A' and timeframe = '1d' order by ts desc limit 2
select ts from ohlcv where symbol = 'A' and timeframe = '1d' order by ts desc limit 2 for update
select ts from ohlcv where symbol = 'A' and timeframe = '1d' order by ts using > limit 2
select ts from ohlcv where symbol = 'A' and timeframe = '1d' order by 1 desc limit 2
select 1, ts from ohlcv where symbol = 'A' and timeframe = '1d' order by 2, 1 limit 2
select distinct ts from ohlcv where symbol in ('A','B') and timeframe = '1d' order by ts desc limit 2
select ts, row_number() over () from ohlcv where symbol = 'A' and timeframe = '1d' order by ts desc limit 2
select ts, count(*) over () from ohlcv where symbol = 'A' and timeframe = '1d' order by ts desc limit 2
select count(*) from ohlcv where symbol = 'A' and timeframe = '1d' limit 1
select max(ts) from ohlcv where symbol = 'A' and timeframe = '1d' limit 1
select date_trunc('day', ts) d, max(close) from ohlcv where symbol = 'A' and timeframe = '1h' group by 1 order by 1 desc limit 2
select o.ts from ohlcv o, generate_series(1,2) g where symbol = 'A' and timeframe = '1d' order by ts desc limit 3
select o.ts from ohlcv o join (values ('A','1d')) v(s,f) on o.symbol = v.s and o.timeframe = v.f where o.symbol in ('A','B')
select o.ts from ohlcv o natural join (select 'A' symbol, '1d' timeframe) v where symbol = 'A' and timeframe = '1d'
select ts from ohlcv a full join ohlcv b using (ts) where a.symbol='A' and a.timeframe='1d' and b.symbol='B' and b.timeframe='1d' and ts > '2026-11-02Z'
select ts from (select * from ohlcv where symbol='A' and timeframe='1d') a full join (select * from ohlcv where symbol='B' and timeframe='1h') b using (ts) where ts > '2026-11-02Z'
select ts from (select * from ohlcv where symbol='A' and timeframe='1d' and ts < '2026-11-01Z') a full join (select * from ohlcv where symbol='B' and timeframe='1d') b using (ts) where a.close is null
select ts from (select * from ohlcv where symbol='A' and timeframe='1d') a left join (select ts, close c from ohlcv where symbol='B' and timeframe='1d' and ts < '2026-11-01Z') b using (ts) where c is null and ts > '2026-10-31Z'
select a.ts from (ohlcv a join ohlcv b on a.ts = b.ts) where a.symbol='A' and b.symbol='B' and a.timeframe='1d' and b.timeframe='1h'
select j.ts from (ohlcv a join (select 1 x) b on true) j where j.symbol='A' and j.timeframe='1d'
select x.ts from (select o.* from ohlcv o) x where x.symbol='A' and x.timeframe='1d' and x.ts > '2026-11-02Z'
select (x.o).ts from (select o from ohlcv o where symbol='A' and timeframe='1d') x where (x.o).ts > '2026-11-02Z'
select ts from ohlcv where ohlcv.symbol='A' and (ohlcv).timeframe='1d' and timeframe = '1d'
select ts from ohlcv where symbol='A' and timeframe='1d' and ts > '2026-11-02Z' group by ts having ts < '2026-11-03Z' or true
select ts from ohlcv where symbol='A' and timeframe='1d' and (ts > '2026-11-02Z' or exists (select 1))
select ts from ohlcv where symbol='A' and timeframe='1d' and (ts > '2026-11-02Z' or not (ts > '2026-10-31Z' and close > 10))
select ts from ohlcv where symbol='A' and timeframe='1d' and xmin is not null and tableoid > 0 and ts >= '2026-11-02Z'
select ts from ohlcv where symbol='A' and timeframe='1d' and ts operator(pg_catalog.>=) '2026-11-02Z'
select ts from ohlcv where symbol='A' and timeframe='1d' and ts >= '2026-11-02Z' collate "C"
select max(ts) - min(ts) from ohlcv where symbol='A' and timeframe='1h'
select min(ts) filter (where close > 5) from ohlcv where symbol='A' and timeframe='1h'
select (array_agg(close order by ts desc))[1] from ohlcv where symbol='A' and timeframe='1h'
select a.ts from ohlcv a where a.symbol='A' and a.timeframe='1d' and a.ts in (select b.ts from ohlcv b where b.symbol='B' and b.timeframe='1d' order by b.ts desc limit 2)
select a.ts, b.ts from ohlcv a cross join lateral (select ts from ohlcv b where b.symbol='B' and b.timeframe='1h' and b.ts < a.ts order by ts desc limit 1) b where a.symbol='A' and a.timeframe='1d' and a.ts > '2026-11-02Z'
select a.ts, b.ts from ohlcv a left join lateral (select ts from ohlcv b where b.symbol=a.symbol and b.timeframe='1h' and b.ts < a.ts - interval '5 hours' order by ts desc limit 1) b on b.ts > '2026-11-02Z' where a.symbol='A' and a.timeframe='1d'
select ts from ohlcv where symbol='A' and timeframe='1d' and ts > '2026-11-02Z' and ts > '2026-11-03Z' is not null
select ts from ohlcv where symbol='A' and timeframe='1d' and ts > '2026-11-02' and not ts is distinct from '2026-11-03Z'
select ts from ohlcv where symbol='A' and timeframe='1d' and (ts is not distinct from null or ts > '2026-11-02Z')
select ts from ohlcv where symbol='A' and timeframe='1d' and (ts, symbol) in (select b.ts, 'A' from ohlcv b where b.symbol='C' and b.timeframe='1h' and b.ts > '2026-11-01Z')
with p as (select timestamp '2026-11-01 00:00' as d) select o.ts from ohlcv o join p on o.ts >= p.d at time zone 'Asia/Tokyo' where o.symbol='A' and o.timeframe='1h'
with p as (select '2026-11-01 03:00+05' as d) select o.ts from ohlcv o join p on o.ts::date = p.d::date where o.symbol='A' and o.timeframe='1h'
with p as (select timestamp '2026-10-31 23:30' as d) select o.ts from ohlcv o join p on o.ts >= date_bin('1 day', p.d, '2001-01-01') where o.symbol='A' and o.timeframe='1h'
select g.t, o.ts from generate_series(timestamp '2026-10-31 12:00', timestamp '2026-11-01 06:00', interval '1 hour') g(t) join ohlcv o on o.ts = g.t at time zone 'America/New_York' and o.symbol='A' and o.timeframe='1h'
select ts from (select * from ohlcv where symbol='A' and timeframe='1h' order by ts) x limit 5
select count(*) from ohlcv where timeframe='1d' and symbol = any(array[['A','B'],['C','AA']]) and symbol in ('A','B','C')
select * from (select symbol, ts, count(*) over w n, lag(close) over (w order by ts) p from ohlcv where timeframe='1h' window w as (partition by symbol)) x where symbol='A' and ts > '2026-11-02Z'
select * from (select ts, symbol, count(*) over (partition by ts) n, lag(close) over (partition by symbol order by ts) p from ohlcv where timeframe='1h' and symbol in ('A','B')) x where symbol='A' and ts > '2026-11-02Z'
select * from (select b.symbol s, a.ts, count(*) over (partition by b.symbol) n from ohlcv a left join ohlcv b on b.ts=a.ts and b.symbol='B' and b.timeframe='1d' where a.timeframe='1h' and a.symbol in ('A','C')) x where s is null
select * from (select distinct on (symbol, timeframe) * from ohlcv order by symbol, timeframe, ts desc) x where symbol='A' and timeframe in ('1h','1d') and close > 4
select * from (select date_trunc('day', ts) d, max(high) from ohlcv where symbol='A' and timeframe='1h' group by 1) x where d >= '2026-11-02Z'
select * from (select date_trunc('day', ts) d, max(high) from ohlcv where symbol='A' and timeframe='1h' group by date_trunc('hour', ts), 1) x where d >= '2026-11-02Z'
select * from (select max(date_trunc('day', ts)) d from ohlcv where symbol='A' and timeframe='1h' group by date_trunc('hour', ts)) x where d >= '2026-11-02Z'
select * from (select ts::date d, count(*) over () n from ohlcv where symbol='A' and timeframe='1h') x where d = '2026-11-02'
select * from (select ts::date as ts, close from ohlcv where symbol='A' and timeframe='1h') x join ohlcv o using (ts) where ts >= '2026-11-02 05:00Z' and o.symbol='A' and o.timeframe='1h'
select * from (select ts::date as ts, close from ohlcv where symbol='A' and timeframe='1h') x natural join (select ts, high from ohlcv where symbol='A' and timeframe='1d') o where ts >= '2026-11-01 04:00Z'
select * from (select ts::date d from ohlcv where symbol='A' and timeframe='1h' union all select ts from ohlcv where symbol='B' and timeframe='1h') x where d > '2026-11-02 05:00Z'
select * from (select d from (select ts::date d from ohlcv where symbol='A' and timeframe='1h') y union all select ts from ohlcv where symbol='B' and timeframe='1h') x where d > '2026-11-02 00:00Z'
select * from (select ts::date d from ohlcv where symbol='A' and timeframe='1h') x where d::timestamptz >= '2026-11-02 05:00Z'
select * from (select d::timestamp e from (select ts::date d from ohlcv where symbol='A' and timeframe='1h') y) x where e::date = '2026-11-02'
select * from (select ts::date d from ohlcv where symbol='A' and timeframe='1h' order by ts limit 30) x where d > '2026-10-31'
select * from (select *, ts - interval '1 day' d from ohlcv where symbol='A' and timeframe='1h') x where d > '2026-11-02Z' order by ts limit 2
select * from (select ts, ts::date d from ohlcv where symbol='A' and timeframe='1h') x where d > '2026-11-01' order by d desc, ts limit 2
select * from (select ts::date d, max(close) from ohlcv where symbol='A' and timeframe='1h' group by ts::date having ts::date > '2026-11-01') x(e, c) where e < '2026-11-03'
select * from ohlcv o left join (select ts::date d, max(close) c from ohlcv where symbol='A' and timeframe='1h' group by d) x on x.d = o.ts::date where o.symbol='A' and o.timeframe='1d' and (x.d > '2026-11-01') is not true
select * from (select symbol::date d, ts from ohlcv where timeframe='1h' and symbol='A' and ts < '1900-01-01Z') x where d > '2026-11-01'
select * from (select ts::date d, ts from ohlcv where symbol='A' and timeframe='1h') x where d in ('2026-11-01', '2026-11-03') and not d = '2026-11-03'
select ts from ohlcv where symbol='A' and timeframe='1h' and ts >= greatest('2026-11-01 05:00Z'::timestamptz, null, date '2026-11-02')
select ts from ohlcv where symbol='A' and timeframe='1h' and ts < least(date '2026-11-01', timestamp '2026-10-31 20:00')
select ts from ohlcv where symbol='A' and timeframe='1h' and ts >= coalesce(date '2026-11-01', timestamptz '2026-11-03Z')
select ts from ohlcv where symbol='A' and timeframe='1h' and ts >= case symbol when 'A' then timestamptz '2026-11-01Z' else '2026-11-03Z' end
select ts from ohlcv where symbol='A' and timeframe='1h' and (ts >= case when close > 5 then timestamptz '2026-11-01Z' end) is not true
select ts from ohlcv where symbol='A' and timeframe='1h' and ts >= nullif(timestamptz '2026-11-01 05:00Z', '2026-11-01 00:00-05') is null
select ts from ohlcv where symbol='A' and timeframe='1h' and ts >= nullif(date '2026-11-01', timestamptz '2026-11-03Z')
select ts from ohlcv where symbol = coalesce(null, 'A') and timeframe='1h' and ts >= coalesce(nullif('', '')::timestamptz, '2026-11-02Z')
`

// TestOddStatements runs statements written by hand twice on PostgreSQL, as TestDifferential does with random ones.
func TestOddStatements(t *testing.T) {
	t.Parallel()
	conn := barsConn(t)
	outcomes := map[differentialOutcome]int{}
	for sql := range strings.SplitSeq(strings.TrimSpace(oddStatements), "\n") {
		for _, zone := range []string{"UTC", "America/New_York", "Asia/Tokyo"} {
			outcome, difference := trial{sql: sql, zone: zone}.run(t, conn)
			require.Empty(t, difference, sql)
			outcomes[outcome]++
		}
	}
	t.Logf("%d narrowed, %d planned, %d failed in PostgreSQL, %d refused", outcomes[outcomeNarrowed], outcomes[outcomePlanned],
		outcomes[outcomeFailed], outcomes[outcomeRefused])
	require.Greater(t, outcomes[outcomeNarrowed], 150)
}

// TestRule12_EqualsNull runs comparisons with NULL on PostgreSQL, where they are null and where they are IS NULL (transform_null_equals).
func TestRule12_EqualsNull(t *testing.T) {
	t.Parallel()
	conn := barsConn(t)
	const from = "select ts, symbol from ohlcv where timeframe in ('1h', '1d') and ts >= '2026-11-01Z' and "
	for _, sql := range []string{
		from + "symbol = null",
		from + "symbol = 'A' and timeframe = null",
		from + "symbol = 'A' and (null = ts or ts < '2026-11-02Z')",
		from + "symbol = 'A' and not (ts = null)",
		from + "symbol = 'A' and (ts = null) is not true",
		from + "symbol = 'A' and (ts = null) is not null",
		from + "symbol = 'A' and not (symbol = null and timeframe = '1h')",
		from + "symbol in ('A', 'B') and (not (symbol = null) or symbol = 'B')",
		from + "symbol = 'A' and (close = null or ts < '2026-11-02Z')",
		"select a.ts, b.ts from ohlcv a left join ohlcv b on b.ts = a.ts and b.symbol = 'B' and b.timeframe = '1d' " +
			"where a.symbol = 'A' and a.timeframe = '1h' and a.ts >= '2026-11-01Z' and b.ts = null",
		"select a.ts, b.ts from ohlcv a left join ohlcv b on b.ts = a.ts and b.symbol = 'B' and b.timeframe = '1d' " +
			"where a.symbol = 'A' and a.timeframe = '1h' and a.ts >= '2026-11-01Z' and not (b.symbol = null)",
	} {
		for _, isNull := range []uint64{0, 1} {
			outcome, difference := trial{sql: sql, zone: "UTC", others: isNull}.run(t, conn)
			require.Empty(t, difference, sql)
			require.Contains(t, []differentialOutcome{outcomeNarrowed, outcomePlanned}, outcome, sql)
		}
	}
}

// TestRule9_ArrayNulls has NULL in the literals of arrays, in sessions where that is null and where it is a text (array_nulls). The database is
// asked in sessions where it is null.
func TestRule9_ArrayNulls(t *testing.T) {
	t.Parallel()
	conn := barsConn(t)
	const from = "select ts, symbol from ohlcv where symbol in ('A', 'AA', 'B') and timeframe in ('1h', '1d') and ts >= '2026-11-01Z' and "
	for _, sql := range []string{
		from + "symbol <> all ('{NULL,A}')",
		from + "not symbol = any ('{A,null}')",
		from + "symbol = any ('{NULL,A}')",
		from + "symbol <> any ('{NULL}')",
		from + "symbol <> all ('{NULL,A}'::text[])",
		from + "symbol <> all ($1)",
		from + "lower(symbol) <> all ($1)",
		from + "not symbol like any ('{NULL,A%}')",
		from + "coalesce(('{NULL,A}'::text[])[1], 'B') <> symbol",
		from + `symbol || 'x' = any ('{NULL,"null",Ax}')`,
		from + "timeframe <> all ('{NULL,1d}')",
		from + "(timeframe = any ('{NULL,1d}')) is not true",
	} {
		for _, off := range []uint64{1, 7} {
			_, difference := trial{sql: sql, zone: "UTC", params: []string{"{NULL,A}"}, others: off}.renumbered().run(t, conn)
			require.Empty(t, difference, sql)
		}
	}
}

// TestNestedConditions runs conditions in conditions that the database is asked about: they are asked as they stand, whatever parentheses
// that takes.
func TestNestedConditions(t *testing.T) {
	t.Parallel()
	conn := barsConn(t)
	const from, null = "select ts, symbol from ohlcv where symbol in ('A', 'AA', 'B') and timeframe = '1h' and ts >= '2026-11-01Z' and ", "\x00"
	for _, sql := range []string{
		from + "(not symbol like 'A%') is not null",
		from + "(not symbol like null) is null",
		from + "(symbol like 'A%' and symbol like '%z') is not null",
		from + "(symbol like 'A%' or null) is null",
		from + "not (not symbol like 'A%') is null",
		from + "(symbol ~~ 'A%' is true) is not null",
		from + "(symbol like 'x%' is null) is not null",
		from + "coalesce((not symbol like 'A%') is not null, false)",
		from + "case when (symbol like 'A%' and symbol like '%z') is not null then symbol > 'A' else false end",
		from + "(not symbol like 'A%') = any (array[true])",
		from + "(symbol like 'A%' and symbol like '%z') <> all (array[true])",
		from + "((not lower(symbol) = 'a') is not null) is not distinct from true",
		from + "(not (symbol = $1)) is null",
		from + "lower(symbol) = (array['b', $2])[1]",
		from + "lower(symbol) = lower(($3::text[])[2])",
		from + "symbol = case when (not $1 like 'A') is null then 'B' else 'A' end",
	} {
		outcome, difference := trial{sql: sql, zone: "UTC", params: []string{null, "a", "{A,B}"}, others: 1}.renumbered().run(t, conn)
		require.Empty(t, difference, sql)
		require.Equal(t, outcomeNarrowed, outcome, sql)
	}
}
