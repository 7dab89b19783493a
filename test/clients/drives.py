"""The drivers' part: each client asks the same of barkeep on a gap, on what is covered by then, and of PostgreSQL."""

import datetime
import json
import os
import pathlib
import subprocess
import threading
import time

from harness import HERE, Missing, barkeep, call, fetched, maven_artifact, node_modules, python, say

CLIENTS = ("psql", "pgx", "pq", "psycopg2", "psycopg", "sqlalchemy", "asyncpg", "pg8000", "odbc", "pgjdbc", "pg", "postgresjs")
NODE = ("pg@8", "postgres@3")
PGJDBC_JAR = "org.postgresql:postgresql:42.7.4:jar"


class Client:
    """Client is one driver's program; its command is built once."""

    def __init__(self, name, folder):
        self.name = name
        self.environment = dict(os.environ)
        if name in ("pgx", "pq"):
            program = folder / "godrivers"
            call("go", "build", "-o", program, ".", cwd=HERE / "godrivers")
            self.command = [program, name]
        elif name == "pgjdbc":
            self.command = ["java", "-cp", "%s:%s" % (self.jar(), self.classes(folder)), "Driver"]
        elif name in ("pg", "postgresjs"):
            self.command = ["node", HERE / "node" / "driver.js", name]
            self.environment["NODE_PATH"] = str(node_modules(*NODE) / "node_modules")
        elif name == "psql":
            self.command = [python(), "-B", HERE / "drivers.py", name]
        else:
            self.command = [python(), "-B", HERE / "drivers.py", name]
            if name == "odbc":
                self.see_odbc()

    @staticmethod
    def see_odbc():
        import drivers
        if not any(pathlib.Path(d).exists() for d in drivers.ODBC_DRIVERS):
            raise Missing("PostgreSQL's ODBC driver could not be had: none of %s is there (package odbc-postgresql)" % ", ".join(drivers.ODBC_DRIVERS))

    @staticmethod
    def jar():
        return next(fetched("pgjdbc-jar", PGJDBC_JAR, lambda home: maven_artifact(PGJDBC_JAR, home)).glob("*.jar"))

    def classes(self, folder):
        call("javac", "-cp", self.jar(), "-d", folder, HERE / "jdbc" / "Driver.java")
        return folder

    def run(self, address, *arguments):
        """run returns the lines that the program prints; the url of Go's drivers says that there is no TLS."""
        url = address.url() + ("?sslmode=disable" if self.name in ("pgx", "pq") else "")
        return call(*self.command, url, *arguments, timeout=240, env=self.environment).splitlines()

    def cases(self, address, first):
        return psql_cases(address.url(), first) if self.name == "psql" else self.run(address, first)


def fetch():
    """fetch brings what the clients need."""
    python()
    Client.jar()
    node_modules(*NODE)
    call("go", "mod", "download", cwd=HERE / "godrivers")


def psql_cases(url, first):
    """psql_cases returns what psql answers, case by case; each case reads a day of its own."""
    day = [datetime.date.fromisoformat(first)]

    def where():
        at = day[0]
        day[0] += datetime.timedelta(days=1)
        return "symbol='sim:BTCUSD' and timeframe='1m' and ts >= '%sZ' and ts < '%s 02:00Z'" % (at, at)

    def psql(name, *arguments, **options):
        done = subprocess.run(["psql", "-X", url, *arguments], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              timeout=120, **options)
        errors = "\n".join(l for l in done.stderr.splitlines() if "barkeep:" not in l)  # progress of a hold
        return json.dumps({"case": name, "answer": [done.returncode, done.stdout, errors]})

    w = where
    return [
        psql("select", "-c", "select * from ohlcv where %s order by ts" % w()),
        psql("count", "-Atc", "select count(*), min(ts), max(ts), sum(volume) from ohlcv where " + w()),
        psql("several statements", "-Atc", "select 1; select count(*) from ohlcv where %s; select count(*) from ohlcv where %s" % (w(), w())),
        psql("time zone", "-Atc", "set timezone='Asia/Tokyo'; select ts, close from ohlcv where %s order by ts limit 3" % w()),
        psql("prepare", "-At", input="prepare p(timestamptz) as select count(*), sum(close) from ohlcv where symbol='sim:BTCUSD' and "
             "timeframe='1m' and ts >= $1 and ts < $1 + interval '1 hour';\nexecute p('%sZ');\nexecute p('%s 01:00Z');\n" % (day[0], day[0])),
        psql("cursor", "-At", "-v", "FETCH_COUNT=7", "-c", "select ts, close from ohlcv where %s order by ts" % w()),
        psql("\\copy", "-c", "\\copy (select ts, close from ohlcv where %s order by ts) to stdout csv" % w()),
        psql("block", "-At", input="begin;\nselect count(*) from ohlcv where %s;\nsavepoint a;\nselect 1/0;\nrollback to a;\n"
             "select count(*) from ohlcv where %s;\ncommit;\n" % (w(), w())),
        psql("\\gset", "-At", input="select count(*) as n from ohlcv where %s \\gset\n\\echo :n\n" % w()),
        psql("explain", "-Atc", "explain (costs off, timing off) select 1 where false"),
        psql("\\d", "-c", "\\d barkeep.coverage"),
        psql("error", "-c", "select nothing from ohlcv where " + w()),
        psql("syntax error", "-c", "selec * from ohlcv"),
        psql("large", "-Atc", "select count(*), sum(close) from ohlcv where symbol='sim:ETHUSD' and timeframe='1m' and ts >= '2017-03-01Z' and ts < '2017-04-01Z'"),
    ]


def each_client(folder, wanted, do, beside=2):
    """each_client calls do with each client, so many beside each other, and returns its failures; one that cannot be had is one in CI."""
    failures, lock = [], threading.Lock()
    left = iter([name for name in CLIENTS if not wanted or name in wanted])

    def work():
        while True:
            with lock:
                name = next(left, None)
            if name is None:
                return
            where = folder / name
            try:
                where.mkdir()
                with lock:  # programs are built one after the other
                    client = Client(name, where)
                bad = do(client)
            except Missing as error:
                say("  %-11s NOT RUN: %s" % (name, error))
                bad = ["%s: %s" % (name, error)] if os.environ.get("CI") else []
            except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
                bad = ["%s: %s" % (name, error)]
            with lock:
                failures.extend(bad)

    workers = [threading.Thread(target=work) for _ in range(beside)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return failures


def run(server, folder, wanted):
    database = server.create("drivers")
    folder = folder / "drivers"
    folder.mkdir()
    with barkeep(server, database, folder) as port:
        def do(client):
            at = CLIENTS.index(client.name)
            first = "%d-%s-05" % (2018 + at // 2, "06" if at % 2 else "01")
            began = time.monotonic()
            held = "select count(*) from ohlcv where ts >= '%s' and ts < '%s'::date + 100" % (first, first)
            if server.sql(database, held) != "0":
                raise RuntimeError("the database holds bars before the gap is read")
            answers = {
                "gap": client.cases(server.address(database, port), first),
                "covered": client.cases(server.address(database, port), first),
                "straight": client.cases(server.address(database), first),
            }
            bad = compare_cases(client.name, answers)
            if int(server.sql(database, held)) <= 500:
                bad.append("%s: barkeep stored next to nothing" % client.name)
            say("  %-11s %3d cases × gap, covered, straight: %s (%.1f s)" % (
                client.name, len(answers["gap"]), "same answers" if not bad else "%d DIFFERENCES" % len(bad), time.monotonic() - began))
            return bad
        return each_client(folder, wanted, do)


def compare_cases(name, answers):
    """compare_cases returns a line for each case that is not answered alike three times."""
    bad = []
    for which in ("gap", "covered"):
        if len(answers[which]) != len(answers["straight"]):
            bad.append("%s, %s: %d answers, straight %d" % (name, which, len(answers[which]), len(answers["straight"])))
        for got, want in zip(answers[which], answers["straight"]):
            if got != want:
                at = next((i for i, (a, b) in enumerate(zip(got, want)) if a != b), min(len(got), len(want)))
                bad.append("%s, %s, %s:\n      barkeep    …%s\n      PostgreSQL …%s"
                           % (name, which, json.loads(want).get("case"), got[max(0, at - 60):at + 300], want[max(0, at - 60):at + 300]))
    return bad
