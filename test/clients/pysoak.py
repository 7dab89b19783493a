"""Sessions of one Python driver that do what `make soak` orders (soakprogram_test.go of cmd/barkeep):

    pysoak.py DRIVER

An order is a line of fields with tabs between them, and is answered by one line of JSON:

    SESSION connect HOST PORT USER DATABASE APPLICATION_NAME
    SESSION ask AFTER SQL ARGUMENT...     AFTER is how many milliseconds later it is canceled, 0 for never
    SESSION close

The answer has the session and its rows, or else the code, which is empty where the server gave none, and the message. The fourth and fifth
arguments are times.
"""

import asyncio
import datetime
import json
import queue
import re
import sys
import threading

from drivers import ODBC_DRIVERS, code_of

LOCK = threading.Lock()


def reply(session, **answer):
    with LOCK:
        print(json.dumps(dict(answer, session=int(session))), flush=True)


def typed(arguments):
    return [datetime.datetime.fromisoformat(a.replace("Z", "+00:00")) if at in (3, 4) else a for at, a in enumerate(arguments)]


class Sync:
    """Sync is a session of a driver that blocks: a thread, which takes its orders from a queue."""

    def __init__(self, driver, session):
        self.driver, self.session, self.orders, self.conn = driver, session, queue.SimpleQueue(), None
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            what, *fields = self.orders.get()
            try:
                reply(self.session, rows=getattr(self, what)(*fields))
            except Exception as error:  # the class is the driver's own
                reply(self.session, code=told(error), message=str(error))

    def connect(self, host, port, user, database, name):
        self.conn = CONNECTS[self.driver](int(self.session), host, port, user, database, name)
        return []

    def ask(self, after, sql, *arguments):
        cur = self.conn.cursor()
        style = "?" if self.driver == "odbc" else "%s"
        given = ([re.sub(r"\$\d", style, sql)] + ([tuple(arguments if self.driver == "odbc" else typed(arguments))] if arguments else []))
        timer = None
        if int(after) and self.driver != "pg8000":  # it cannot cancel
            timer = threading.Timer(int(after) / 1000, self.cancel, [cur])
            timer.start()
        try:
            cur.execute(*given)
            return [list(row) for row in cur.fetchall()] if cur.description else []
        finally:
            if timer:
                timer.cancel()
                timer.join()

    def cancel(self, cur):
        try:
            {"psycopg": lambda: self.conn.cancel_safe(timeout=60), "psycopg2": self.conn.cancel if self.driver == "psycopg2" else None,
             "odbc": lambda: cur.cancel()}[self.driver]()
        except Exception:  # its network may be down
            pass

    def close(self):
        if self.conn is not None:
            self.conn.close()
        return []


def told(error):
    """told is the SQLSTATE where the server gave one."""
    if error.args and isinstance(error.args[0], dict):  # pg8000
        return error.args[0].get("C") or ""
    if type(error).__module__ == "pyodbc":  # what is the driver's own begins with one of these; a connection that ends may be 00000
        return "" if error.args[0][:2] in ("00", "01", "08", "HY", "IM") else error.args[0]
    return code_of(error) or ""


def libpq(host, port, user, database, name):
    return "host=%s port=%s user=%s dbname=%s application_name=%s sslmode=disable connect_timeout=100" % (host, port, user, database, name)


def psycopg(session, *where):
    import psycopg
    conn = psycopg.connect(libpq(*where), autocommit=True, prepare_threshold=(0, 1, 5, None)[session // 10 % 4])
    conn.cursor_factory = (psycopg.Cursor, psycopg.ClientCursor)[session // 10 % 2]
    return conn


def psycopg2(session, *where):
    import psycopg2
    conn = psycopg2.connect(libpq(*where))
    conn.autocommit = True
    return conn


def pg8000(session, host, port, user, database, name):
    import pg8000.dbapi
    conn = pg8000.dbapi.connect(host=host, port=int(port), user=user, database=database, application_name=name, timeout=100)
    conn.autocommit = True
    return conn


def odbc(session, host, port, user, database, name):
    import pathlib

    import pyodbc
    pyodbc.pooling = False
    driver = next(d for d in ODBC_DRIVERS if pathlib.Path(d).exists())
    words = "Driver=%s;Server=%s;Port=%s;Database=%s;UID=%s;SSLmode=disable;UseServerSidePrepare=%d;pqopt={application_name=%s}" % (
        driver, host, port, database, user, session // 10 % 2, name)
    return pyodbc.connect(words, autocommit=True)


CONNECTS = {"psycopg": psycopg, "psycopg2": psycopg2, "pg8000": pg8000, "odbc": odbc}


class Asyncpg:
    """Asyncpg is a session of asyncpg, a task."""

    def __init__(self, session):
        self.session, self.orders, self.conn = session, asyncio.Queue(), None
        self.task = asyncio.create_task(self.run())

    async def run(self):
        import asyncpg
        while True:
            what, *fields = await self.orders.get()
            try:
                reply(self.session, rows=await getattr(self, what)(*fields))
            except asyncio.TimeoutError:
                reply(self.session, code="57014", message="canceling statement due to user request")
            except Exception as error:
                server = isinstance(error, asyncpg.PostgresError) and getattr(error, "severity", None)
                reply(self.session, code=error.sqlstate if server else "", message="%s: %s" % (type(error).__name__, error))

    async def connect(self, host, port, user, database, name):
        import asyncpg
        self.conn = await asyncpg.connect(host=host, port=int(port), user=user, database=database, ssl=False, timeout=100,
                                          server_settings={"application_name": name})
        return []

    async def ask(self, after, sql, *arguments):
        return [list(row.values()) for row in await self.conn.fetch(sql, *typed(arguments), timeout=int(after) / 1000 or None)]

    async def close(self):
        if self.conn is not None:
            await self.conn.close(timeout=10)
        return []


async def asyncpg_sessions():
    sessions, loop = {}, asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        session, *order = line.rstrip("\n").split("\t")
        if session not in sessions:
            sessions[session] = Asyncpg(session)
        sessions[session].orders.put_nowait(order)


def main(driver):
    if driver == "asyncpg":
        asyncio.run(asyncpg_sessions())
        return
    sessions = {}
    for line in sys.stdin:
        session, *order = line.rstrip("\n").split("\t")
        if session not in sessions:
            sessions[session] = Sync(driver, session)
        sessions[session].orders.put(order)


if __name__ == "__main__":
    main(sys.argv[1])
