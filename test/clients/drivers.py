"""One driver's statements, run at one address: prints a JSON line for each case.

    drivers.py DRIVER URL FIRST_DAY
    drivers.py DRIVER URL hold STATEMENT
    drivers.py DRIVER URL live CHANNEL

Each case reads a day of its own, counted from FIRST_DAY, so that each meets a gap on an empty barkeep. What is printed is
the answer only: the same lines must come from barkeep on a gap, from barkeep on covered data and from PostgreSQL. With hold
the cases end a STATEMENT that does not come to an end (pyholds.py), with live they are what comes on a CHANNEL (pylive.py).
"""

import asyncio
import datetime
import io
import json
import pathlib
import select
import sys
import urllib.parse

WHERE = "symbol = 'sim:BTCUSD' and timeframe = '1m' and ts >= '{0}' and ts < '{1}'"


class Days:
    """Days hands out the first two hours of one day after the other."""

    def __init__(self, first):
        self.at = datetime.datetime.fromisoformat(first).replace(tzinfo=datetime.timezone.utc)

    def next(self):
        start = self.at
        self.at += datetime.timedelta(days=1)
        return start, start + datetime.timedelta(hours=2)

    def where(self):
        start, end = self.next()
        return WHERE.format(start.isoformat(), end.isoformat())


def tell(name, answer):
    if isinstance(answer, list):
        answer = [list(row) if isinstance(row, tuple) or hasattr(row, "_fields") else row for row in answer]
    print(json.dumps({"case": name, "answer": answer}, default=repr), flush=True)


def code_of(error):
    return getattr(error, "pgcode", None) or getattr(error, "sqlstate", None)


def failing(name, run, rollback=None):
    """failing tells the SQLSTATE that run ends with."""
    try:
        run()
        tell(name, "no error")
    except Exception as error:  # the class is the driver's own
        diag = getattr(error, "diag", None)
        tell(name, [type(error).__name__, code_of(error), diag.message_primary if diag else str(error).splitlines()[0],
                    diag.statement_position if diag else None])
    if rollback:
        rollback()


def psycopg2(url, days):
    import psycopg2
    import psycopg2.extensions
    import psycopg2.extras

    conn = psycopg2.connect(url)
    conn.autocommit = True
    cur = conn.cursor()

    cur.execute("select ts, open, high, low, close, volume from ohlcv where " + days.where() + " order by ts")
    tell("literals", cur.fetchall())
    tell("literals: columns", [[d.name, d.type_code] for d in cur.description])
    start, end = days.next()
    cur.execute("select ts, close from ohlcv where symbol = %s and timeframe = %s and ts between %s and %s order by ts",
                ("sim:BTCUSD", "1m", start, end))
    tell("arguments", cur.fetchall())
    start, end = days.next()
    cur.execute("select count(*), sum(volume) from ohlcv where symbol = any(%s) and timeframe in %s and ts >= %s and ts < %s",
                (["sim:BTCUSD", "sim:ETHUSD"], ("1m",), start, end))
    tell("arrays", cur.fetchall())
    cur.execute("select ts, close from ohlcv where symbol = 'sim:BTCUSD' and timeframe = '1m' and ts < %s "
                "order by ts desc limit 5", (days.next()[0],))
    tell("latest five", cur.fetchall())
    psycopg2.extras.execute_batch(cur, "select 1 from ohlcv where " + days.where(), [()] * 3)
    conn.autocommit = False
    cur.execute("create temp table kept on commit drop as select * from ohlcv where " + days.where())
    cur.execute("select count(*), min(ts), max(ts) from kept")
    tell("create table as in a block", cur.fetchall())
    named = conn.cursor("bars")
    named.itersize = 50
    named.execute("select ts, close from ohlcv where " + days.where() + " order by ts")
    tell("named cursor", list(named))
    named.close()
    conn.commit()
    out = io.StringIO()
    cur.copy_expert("copy (select * from ohlcv where " + days.where() + " order by ts) to stdout with csv header", out)
    tell("copy", out.getvalue())
    conn.rollback()
    conn.set_session(isolation_level="REPEATABLE READ")
    where = days.where()
    for _ in range(5):
        try:
            cur.execute("select count(*), sum(close) from ohlcv where " + where)
            tell("repeatable read", cur.fetchall())
            conn.commit()
            break
        except psycopg2.errors.SerializationFailure:
            conn.rollback()
    conn.set_session(isolation_level="DEFAULT", autocommit=True)
    failing("syntax error", lambda: cur.execute("selec 1 from ohlcv"))
    failing("unknown column", lambda: cur.execute("select nothing from ohlcv where " + days.where()))
    failing("division", lambda: cur.execute("select 1/0"))
    cur.execute("set statement_timeout = '200ms'")
    failing("statement_timeout", lambda: cur.execute("select pg_sleep(5)"))
    cur.execute("reset statement_timeout")
    conn.notices.clear()
    cur.execute("do $$ begin raise notice 'hello'; end $$")
    tell("notice", conn.notices[-1:])
    cur.execute("listen word; notify word, 'hello'")
    conn.poll()
    if not conn.notifies:
        select.select([conn], [], [], 5)
        conn.poll()
    tell("notify", [[n.channel, n.payload, n.pid == conn.info.backend_pid] for n in conn.notifies])
    conn.close()


def psycopg(url, days):
    import psycopg

    conn = psycopg.connect(url, autocommit=True)
    cur = conn.execute("select ts, open, high, low, close, volume from ohlcv where " + days.where() + " order by ts")
    tell("literals", cur.fetchall())
    text = "select ts, close, volume from ohlcv where symbol = %s and timeframe = %s and ts >= %s and ts < %s order by ts"
    for name, options in (("arguments", {}), ("binary", {"binary": True}), ("prepared", {"prepare": True})):
        start, end = days.next()
        for _ in range(3):
            cur = conn.execute(text, ("sim:BTCUSD", "1m", start, end), **options)
        tell(name, cur.fetchall())
    start, end = days.next()
    tell("prepared, another day", conn.execute(text, ("sim:BTCUSD", "1m", start, end), prepare=True).fetchall())
    start, end = days.next()
    cur = conn.execute("select symbol, count(*) from ohlcv where symbol = any(%s) and timeframe = '1m' and ts >= %s and ts < %s "
                       "group by 1 order by 1", (["sim:BTCUSD", "sim:ETHUSD"], start, end))
    tell("arrays", cur.fetchall())
    raw = psycopg.RawCursor(conn)
    raw.execute("select ts, close from ohlcv where symbol = $1 and timeframe = '1m' and ts < $2 order by ts desc limit 5",
                ["sim:BTCUSD", days.next()[0]])
    tell("latest five", raw.fetchall())
    with conn.pipeline():
        cursors = [conn.execute(text, ("sim:BTCUSD", "1m", *days.next())) for _ in range(3)]
        cursors.append(conn.execute("select 1"))
        tell("pipeline", [c.fetchall() for c in cursors])
    with conn.transaction():
        with conn.cursor("bars") as named:
            named.itersize = 50
            named.execute(text, ("sim:BTCUSD", "1m", *days.next()))
            tell("named cursor", list(named))
    with psycopg.ClientCursor(conn) as client:
        client.execute(text, ("sim:BTCUSD", "1m", *days.next()))
        tell("client cursor", client.fetchall())
    start, end = days.next()
    with conn.cursor().copy("copy (select * from ohlcv where " + WHERE.format(start.isoformat(), end.isoformat()) +
                            " order by ts) to stdout (format binary)") as copy:
        tell("copy binary", b"".join(copy).hex())
    cur = conn.cursor()
    cur.execute("create temp table words (id int primary key, word text)")
    with cur.copy("copy words from stdin") as copy:
        for row in ((1, "a"), (2, None)):
            copy.write_row(row)
    cur.executemany("insert into words values (%s, %s) returning word", [(3, "c"), (4, "d")], returning=True)
    tell("copy in", conn.execute("select * from words order by id").fetchall())
    tell("statuses", [cur.statusmessage, conn.info.transaction_status.name, conn.info.parameter_status("server_encoding")])
    failing("duplicate", lambda: conn.execute("insert into words values (1, 'x')"))
    failing("syntax error", lambda: conn.execute("selec 1 from ohlcv"))
    failing("unknown column", lambda: conn.execute("select nothing from ohlcv where ts > %s and " + days.where(), (start,)))

    def half():
        with conn.transaction():
            conn.execute("insert into words values (9, 'lost')")
            conn.execute("select 1/0")
    failing("failed block", half)
    tell("failed block: nothing stays", conn.execute("select count(*) from words where id = 9").fetchall())
    tell("stream", list(conn.cursor().stream(text, ("sim:BTCUSD", "1m", *days.next()))))
    with psycopg.connect(url) as block:
        tell("block", [block.execute("select 1").fetchone(), block.info.transaction_status.name])
    conn.close()


def sqlalchemy(url, days):
    import sqlalchemy as sa
    from sqlalchemy import orm

    for dialect in ("psycopg2", "psycopg"):
        engine = sa.create_engine(url.replace("postgresql://", "postgresql+%s://" % dialect), pool_size=2)
        bars = sa.Table("ohlcv", sa.MetaData(), autoload_with=engine)
        tell(dialect + ": reflected", [[c.name, str(c.type), c.nullable] for c in bars.columns])

        def within(query, start, end, bars=bars):
            return query.where(bars.c.symbol == "sim:BTCUSD", bars.c.timeframe == "1m", bars.c.ts >= start, bars.c.ts < end)

        with engine.connect() as conn:
            tell(dialect + ": core", conn.execute(within(sa.select(bars), *days.next()).order_by(bars.c.ts)).fetchall())
            hour = sa.func.date_trunc("hour", bars.c.ts)
            tell(dialect + ": grouped", conn.execute(
                within(sa.select(hour, sa.func.max(bars.c.high), sa.func.sum(bars.c.volume)), *days.next())
                .group_by(hour).order_by(hour)).fetchall())
            start, end = days.next()
            tell(dialect + ": text", conn.execute(
                sa.text("select ts, close from ohlcv where symbol = :s and timeframe = :t and ts >= :a and ts < :b order by ts"),
                {"s": "sim:BTCUSD", "t": "1m", "a": start, "b": end}).fetchall())
            part = within(sa.select(bars.c.ts, bars.c.close), *days.next()).subquery()
            tell(dialect + ": subquery", conn.execute(sa.select(sa.func.count(), sa.func.avg(part.c.close))).fetchall())
            tell(dialect + ": in", conn.execute(
                within(sa.select(sa.func.count()), *days.next()).where(bars.c.timeframe.in_(["1m", "5m"]))).fetchall())
        base = orm.declarative_base()

        class Bar(base):
            __tablename__ = "ohlcv"
            symbol = sa.Column(sa.Text, primary_key=True)
            timeframe = sa.Column(sa.Text, primary_key=True)
            ts = sa.Column(sa.DateTime(timezone=True), primary_key=True)
            close = sa.Column(sa.Double)

        with orm.Session(engine) as session:
            start, end = days.next()
            query = (sa.select(Bar).where(Bar.symbol == "sim:BTCUSD", Bar.timeframe == "1m", Bar.ts >= start, Bar.ts < end)
                     .order_by(Bar.ts.desc()).limit(10))
            tell(dialect + ": orm", [[b.ts, b.close] for b in session.scalars(query)])
            query = sa.select(Bar).where(Bar.symbol == "sim:BTCUSD", Bar.timeframe == "1m", Bar.ts < days.next()[0])
            tell(dialect + ": orm, latest", [[b.ts, b.close] for b in session.scalars(query.order_by(Bar.ts.desc()).limit(3))])
        with engine.connect().execution_options(stream_results=True, max_row_buffer=40) as conn:
            tell(dialect + ": streamed", conn.execute(within(sa.select(bars.c.ts), *days.next()).order_by(bars.c.ts)).fetchall())
        failing(dialect + ": error", lambda engine=engine: engine.connect().execute(sa.text("select nothing from ohlcv")))
        engine.dispose()


def asyncpg(url, days):
    asyncio.run(asyncpg_cases(url, days))


async def asyncpg_cases(url, days):
    import asyncpg

    def rows(records):
        return [tuple(r.values()) for r in records]

    async def fails(name, *arguments):
        try:
            await conn.fetch(*arguments)
            tell(name, "no error")
        except asyncpg.PostgresError as error:
            tell(name, [type(error).__name__, error.sqlstate, error.message, error.position])

    conn = await asyncpg.connect(url)
    text = "select ts, close, volume from ohlcv where symbol = $1 and timeframe = $2 and ts >= $3 and ts < $4 order by ts"
    tell("literals", rows(await conn.fetch("select * from ohlcv where " + days.where() + " order by ts")))
    for name in ("arguments", "again", "once more"):
        tell(name, rows(await conn.fetch(text, "sim:BTCUSD", "1m", *days.next())))
    statement = await conn.prepare(text)
    tell("prepared", rows(await statement.fetch("sim:BTCUSD", "1m", *days.next())))
    tell("prepared: types", [[a.name, a.type.name] for a in statement.get_attributes()] + [p.name for p in statement.get_parameters()])
    tell("arrays", rows(await conn.fetch("select symbol, count(*) from ohlcv where symbol = any($1) and timeframe = '1m' and ts >= $2 and ts < $3 "
                                         "group by 1 order by 1", ["sim:BTCUSD", "sim:ETHUSD"], *days.next())))
    tell("latest five", rows(await conn.fetch("select ts, close from ohlcv where symbol = $1 and timeframe = '1m' and ts < $2 "
                                              "order by ts desc limit 5", "sim:BTCUSD", days.next()[0])))
    tell("script", await conn.execute("select 1; select count(*) from ohlcv where " + days.where() + "; select 2"))
    async with conn.transaction():
        tell("cursor", [tuple(r.values()) async for r in conn.cursor(text, "sim:BTCUSD", "1m", *days.next(), prefetch=40)])
        await conn.execute("create temp table kept on commit drop as select * from ohlcv where " + days.where())
        tell("create table as", rows(await conn.fetch("select count(*), min(ts), max(ts) from kept")))
    for _ in range(5):
        try:
            async with conn.transaction(isolation="repeatable_read", readonly=True):
                tell("repeatable read", rows(await conn.fetch("select count(*), sum(close) from ohlcv where " + days.where())))
            break
        except asyncpg.SerializationError:
            days.at -= datetime.timedelta(days=1)
    out = io.BytesIO()
    await conn.copy_from_query(text.replace(" order by ts", ""), "sim:BTCUSD", "1m", *days.next(), output=out, format="csv")
    tell("copy", sorted(out.getvalue().decode().splitlines()))
    await conn.execute("create temp table words (id int primary key, word text)")
    await conn.copy_records_to_table("words", records=[(1, "a"), (2, None)])
    await conn.executemany("insert into words values ($1, $2)", [(3, "c"), (4, "d")])
    tell("copy in", rows(await conn.fetch("select * from words order by id")))
    await fails("syntax error", "selec 1 from ohlcv")
    await fails("unknown column", "select nothing from ohlcv where ts > $1 and " + days.where(), days.next()[0])
    await fails("duplicate", "insert into words values (1, 'x')")
    heard = asyncio.get_running_loop().create_future()
    await conn.add_listener("word", lambda _, pid, channel, payload: heard.set_result([pid == conn.get_server_pid(), channel, payload]))
    await conn.execute("notify word, 'hello'")
    tell("notify", await asyncio.wait_for(heard, 5))
    await conn.close()
    async with asyncpg.create_pool(url, min_size=2, max_size=2) as pool:
        days_of_pool = [days.next() for _ in range(4)]
        tell("pool", [rows(r) for r in await asyncio.gather(*(pool.fetch(text, "sim:BTCUSD", "1m", *d) for d in days_of_pool))])


def parts(url):
    at = urllib.parse.urlsplit(url)
    return {"host": at.hostname, "port": at.port, "user": at.username, "password": at.password or "", "database": at.path[1:]}


def pg8000(url, days):
    import pg8000.dbapi
    import pg8000.native

    conn = pg8000.native.Connection(**parts(url))
    text = "select ts, close, volume from ohlcv where symbol = :s and timeframe = :t and ts >= :a and ts < :b order by ts"
    tell("literals", conn.run("select * from ohlcv where " + days.where() + " order by ts"))
    tell("literals: columns", [[c["name"], c["type_oid"]] for c in conn.columns])
    start, end = days.next()
    tell("arguments", conn.run(text, s="sim:BTCUSD", t="1m", a=start, b=end))
    prepared = conn.prepare(text)
    for name in ("prepared", "prepared, another day"):
        start, end = days.next()
        tell(name, prepared.run(s="sim:BTCUSD", t="1m", a=start, b=end))
    prepared.close()
    start, end = days.next()
    tell("arrays", conn.run("select symbol, count(*) from ohlcv where symbol = any(:l) and timeframe = '1m' and ts >= :a and ts < :b "
                            "group by 1 order by 1", l=["sim:BTCUSD", "sim:ETHUSD"], a=start, b=end))
    out = io.StringIO()
    conn.run("copy (select * from ohlcv where " + days.where() + " order by ts) to stdout with csv", stream=out)
    tell("copy", out.getvalue())

    def failed(name, sql):
        try:
            conn.run(sql)
            tell(name, "no error")
        except pg8000.native.DatabaseError as error:
            tell(name, [error.args[0].get(k) for k in "SCMP"])
    failed("syntax error", "selec 1 from ohlcv")
    failed("unknown column", "select nothing from ohlcv where " + days.where())
    conn.run("start transaction isolation level repeatable read")
    conn.run("rollback")
    conn.close()
    with pg8000.dbapi.connect(**parts(url)) as dbapi:
        cur = dbapi.cursor()
        for style in ("in a block", "in the same block"):
            start, end = days.next()
            cur.execute("select ts, close from ohlcv where symbol = %s and timeframe = %s and ts >= %s and ts < %s order by ts",
                        ("sim:BTCUSD", "1m", start, end))
            tell(style, cur.fetchall())
        dbapi.commit()


ODBC_DRIVERS = ("/usr/lib/x86_64-linux-gnu/odbc/psqlodbcw.so", "/usr/lib/aarch64-linux-gnu/odbc/psqlodbcw.so")


def odbc_connect(url, **options):
    import pyodbc
    driver = next(d for d in ODBC_DRIVERS if pathlib.Path(d).exists())
    at = parts(url)
    words = "Driver=%s;Server=%s;Port=%d;Database=%s;UID=%s;PWD=%s;SSLmode=disable;" % (
        driver, at["host"], at["port"], at["database"], at["user"], at["password"])
    return pyodbc.connect(words + "".join("%s=%s;" % pair for pair in options.items()), autocommit=True)


def odbc(url, days):
    import pyodbc

    for name, options in (("parse in the server", {"UseServerSidePrepare": 1}), ("no prepare", {"UseServerSidePrepare": 0}),
                          ("declare and fetch", {"UseDeclareFetch": 1, "Fetch": 40})):
        conn = odbc_connect(url, **options)
        cur = conn.cursor()
        tell(name + ": literals", [list(r) for r in cur.execute("select ts, open, close, volume from ohlcv where " + days.where() + " order by ts")])
        tell(name + ": columns", [[d[0], d[1].__name__] for d in cur.description])
        start, end = days.next()
        text = "select ts, close from ohlcv where symbol = ? and timeframe = ? and ts >= ? and ts < ? order by ts"
        for again in ("", ", again"):
            tell(name + ": arguments" + again, [list(r) for r in cur.execute(text, "sim:BTCUSD", "1m", start.isoformat(), end.isoformat())])
        conn.autocommit = False
        tell(name + ": block", [list(r) for r in cur.execute("select count(*), sum(close) from ohlcv where " + days.where())])
        conn.rollback()
        conn.autocommit = True
        for what, sql in (("syntax error", "selec 1 from ohlcv"), ("unknown column", "select nothing from ohlcv where " + days.where())):
            try:
                cur.execute(sql)
                tell(name + ": " + what, "no error")
            except pyodbc.Error as error:
                tell(name + ": " + what, list(error.args))
        tell(name + ": columns of ohlcv", [[r.column_name, r.type_name] for r in cur.columns(table="ohlcv")])
        conn.close()


if __name__ == "__main__":
    driver, url = sys.argv[1:3]
    if sys.argv[3] == "hold":
        import pyholds
        getattr(pyholds, driver)(url, sys.argv[4])
    elif sys.argv[3] == "live":
        import pylive
        getattr(pylive, driver)(url, sys.argv[4])
    else:
        {"psycopg2": psycopg2, "psycopg": psycopg, "sqlalchemy": sqlalchemy, "asyncpg": asyncpg, "pg8000": pg8000, "odbc": odbc}[driver](
            url, Days(sys.argv[3]))
