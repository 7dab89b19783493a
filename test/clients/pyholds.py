"""What ends a hold by a Python driver: each function runs a statement that does not come to an end, and ends it as the driver can.

A line is printed for each case: the answer, which must be PostgreSQL's for a statement that runs, and how many milliseconds it came
after what ended it (a cancel, or the timeout's own time)."""

import asyncio
import json
import signal
import subprocess
import threading
import time

from drivers import code_of, odbc_connect, parts

BEFORE = 0.7  # seconds that a statement is given to be held
TIMEOUT = 0.7
ROUNDS = 5


class Case:
    """Case measures one end of a statement."""

    def __init__(self, name):
        self.name, self.ended = name, time.monotonic()

    def end(self, run):
        """end calls run after a while, from another thread, and notes when."""
        def later():
            time.sleep(BEFORE)
            self.ended = time.monotonic()
            run()
        thread = threading.Thread(target=later)
        thread.start()
        return thread

    def expect(self, seconds):
        self.ended = time.monotonic() + seconds

    def tell(self, answer):
        print(json.dumps({"case": self.name, "answer": answer, "ms": round((time.monotonic() - self.ended) * 1000, 1)}, default=repr), flush=True)


def psql(url, sql):
    for _ in range(ROUNDS):
        case = Case("cancel")
        process = subprocess.Popen(["psql", "-XAt", url], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdin.write("\\set VERBOSITY verbose\n" + sql + ";\n")
        process.stdin.flush()
        thread = case.end(lambda: process.send_signal(signal.SIGINT))
        line = next(l for l in process.stderr if "NOTICE" not in l and "barkeep:" not in l and "LOCATION" not in l)
        case.tell(line.strip())
        thread.join()
        process.communicate()
    case = Case("statement_timeout")
    process = subprocess.Popen(["psql", "-XAt", url], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdin.write("\\set VERBOSITY verbose\nset statement_timeout = 700;\nselect 'now';\n")
    process.stdin.flush()
    while process.stdout.readline().strip() != "now":
        pass
    case.expect(TIMEOUT)
    process.stdin.write(sql + ";\n")
    process.stdin.flush()
    line = next(l for l in process.stderr if "NOTICE" not in l and "barkeep:" not in l and "LOCATION" not in l)
    case.tell(line.strip())
    out, _ = process.communicate("select 'and on';\n")
    case.tell(out.strip())


def dbapi(connect, cancel, sql):
    """dbapi runs the cases of drivers with one interface; cancel may be None."""
    def run(case, cur, text=sql):
        try:
            cur.execute(text)
            cur.fetchall()
            case.tell("no error")
        except Exception as error:  # the class is the driver's own
            case.tell(answer(error))

    conn = connect()
    cur = conn.cursor()
    for _ in range(ROUNDS if cancel else 0):
        case = Case("cancel")
        thread = case.end(lambda: cancel(conn, cur))
        run(case, cur)
        thread.join()
        conn.rollback()
    if cancel:
        cur.execute("create temp table left_over (i int)")
        case = Case("cancel in a block")
        thread = case.end(lambda: cancel(conn, cur))
        run(case, cur)
        thread.join()
        run(Case("the block has failed"), cur, "select 1")
        conn.rollback()
        run(Case("the block left nothing"), cur, "select * from left_over")
        conn.rollback()
    cur.execute("set statement_timeout = %d" % (TIMEOUT * 1000))
    conn.commit()
    for _ in range(ROUNDS):
        case = Case("statement_timeout")
        case.expect(TIMEOUT)
        run(case, cur)
        conn.rollback()
    cur.execute("select 1")
    Case("and on").tell([list(r) for r in cur.fetchall()])
    conn.close()


def answer(error):
    if error.args and isinstance(error.args[0], dict):  # pg8000
        return [type(error).__name__, error.args[0].get("C"), error.args[0].get("M")]
    return [type(error).__name__, code_of(error), str(error).splitlines()[0]]


def psycopg2(url, sql):
    import psycopg2
    dbapi(lambda: psycopg2.connect(url), lambda conn, _: conn.cancel(), sql)


def psycopg(url, sql):
    import psycopg
    dbapi(lambda: psycopg.connect(url), lambda conn, _: conn.cancel(), sql)
    dbapi(lambda: psycopg.connect(url), lambda conn, _: conn.cancel_safe(), sql)


def pg8000(url, sql):
    import pg8000.dbapi
    dbapi(lambda: pg8000.dbapi.connect(**parts(url)), None, sql)


def odbc(url, sql):
    def connect():
        conn = odbc_connect(url)
        conn.autocommit = False
        return conn
    dbapi(connect, lambda _, cur: cur.cancel(), sql)


def asyncpg(url, sql):
    asyncio.run(asyncpg_cases(url, sql))


async def asyncpg_cases(url, sql):
    import asyncpg

    async def run(case, *arguments, **options):
        try:
            await conn.fetch(*arguments, **options)
            case.tell("no error")
        except (Exception, asyncio.CancelledError) as error:  # the class is the driver's own
            case.tell([type(error).__name__, getattr(error, "sqlstate", None)])

    conn = await asyncpg.connect(url)
    for _ in range(ROUNDS):
        case = Case("the driver's timeout")
        case.expect(TIMEOUT)
        await run(case, sql, timeout=TIMEOUT)
    for _ in range(ROUNDS):
        case = Case("a task that is cancelled")
        task = asyncio.create_task(run(case, sql))
        await asyncio.sleep(BEFORE)
        case.ended = time.monotonic()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    async with conn.transaction():
        case = Case("timeout in a savepoint")
        case.expect(TIMEOUT)
        try:
            async with conn.transaction():
                await conn.fetch(sql, timeout=TIMEOUT)
        except asyncio.TimeoutError:
            case.tell("timeout")
        Case("and on in the block").tell(await conn.fetchval("select 1"))
    await conn.execute("set statement_timeout = %d" % (TIMEOUT * 1000))
    for _ in range(ROUNDS):
        case = Case("statement_timeout")
        case.expect(TIMEOUT)
        await run(case, sql)
    Case("and on").tell(await conn.fetchval("select 1"))
    await conn.close()
