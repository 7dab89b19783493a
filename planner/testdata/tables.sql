-- What the golden statements name beside ohlcv.
create table mine (id int, ts timestamptz, symbol text, s text, f text, t timestamptz, x float8);
create table m (ts timestamptz);
create table t (x int, t text, s text, at timestamptz, f text, ts timestamptz);
create table other (t timestamptz);
create table cal (ts timestamptz, t2 timestamptz);
create table a (b timestamptz);
create table my_tables (name text);
create table trades_of_mine (ts timestamptz);
create table watchlist (symbol text primary key, note text, owner name default 'me', added timestamptz default '2024-01-02Z', id serial);
create table choices (tf varchar(5));
create table positions (symbol text, opened_at timestamptz, closed_at timestamptz, qty float8);
create table fills (id serial, symbol text, ts timestamptz, price float8, qty float8);
create table events (ts timestamptz, name text);
create table calendar (day date, open boolean);
create table marks (at int[]);
create collation folding (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
create table aliases (symbol text collate folding, ts timestamptz);
insert into aliases values ('a', '2024-01-03Z'), ('b', '2024-01-04Z');

insert into mine select n, timestamptz '2024-01-01Z' + n * interval '7 hours', 'BTCUSD', 'A', '1d', timestamptz '2024-01-03Z' + n * interval '1 hour', n from generate_series(1, 20) n;
insert into m select ts from mine;
insert into other select t from mine;
insert into cal (ts) select timestamptz '2026-11-01Z' + n * interval '1 day' from generate_series(-3, 3) n;
insert into trades_of_mine select ts from mine;
insert into watchlist values ('BTCUSD', 'crypto'), ('ETHUSD', 'crypto'), ('AAPL', 'stock'), ('A', 'x'), ('B', 'y');
insert into choices values ('1h');
insert into positions values ('BTCUSD', '2024-01-03 10:30Z', '2024-01-09 10:30Z', 1), ('ETHUSD', '2024-01-05 01:15Z', null, 2);
insert into fills (symbol, ts, price, qty) select 'BTCUSD', timestamptz '2024-01-01 00:00:30Z' + n * interval '37 minutes', n, 1 from generate_series(1, 30) n;
insert into events values ('2024-01-01 00:30:12Z', 'open'), ('2024-01-01 03:59:59Z', 'news');
insert into calendar select d, extract(isodow from d) < 6 from generate_series(timestamp '2024-01-01', '2024-01-31', '1 day') d;

-- What the golden catalog holds beside its views, as far as it can stand side by side.
create materialized view daily as select symbol, ts, close from ohlcv where timeframe = '1d';
create unique index on daily (symbol, ts);
create table trades (x int) partition by list (x);
create table trades_1 partition of trades for values in (1);
create function bars_of(s text) returns bigint language sql immutable as 'select count(*) from public.ohlcv where symbol = s';
create function bars_of(n int) returns bigint language sql immutable as 'select count(*) from public.ohlcv where n > 0';
create function bars_of(m) returns bigint language sql as 'select count(*) from public.ohlcv';
create function bars_of(mine) returns bigint language sql as 'select count(*) from public.ohlcv';
create function counts(t text, since timestamptz default null, y text default null) returns bigint language plpgsql as
  $$ declare n bigint; begin execute 'select count(*) from ' || t into n; return n; exception when undefined_table then return 0; end $$;
create function counts(t regclass, since timestamptz default null, y text default null) returns bigint language sql return 0;
create function counts(t int) returns bigint language sql return 0;
create function many(variadic t text[]) returns bigint language sql return 0;
create function many(a int, b int, variadic t text[]) returns bigint language sql return 0;
create function many(a text, x int) returns bigint language sql return 0;
create function my_function(t text) returns bigint language sql return 0;
create function unit_of_mine() returns text language sql return 'day';
create function eqeqeq(a int, b int) returns boolean language sql return a = b;
create operator === (leftarg = int, rightarg = int, function = eqeqeq);
create function crosstab(t text) returns setof record language sql as 'select t';
create schema other;
create table other.rows (a int);
create procedure refill() language plpgsql as 'begin end';
