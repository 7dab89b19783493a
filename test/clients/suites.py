"""The suites that others wrote. Each runs three times, on databases of its own: straight at PostgreSQL, through barkeep with
planning on, and through barkeep with every statement held for up to 20 ms. What each of its tests comes to must be the same.
Where the straight one is on record (records.py), it runs if another differs from the record.

The three run beside each other, each on a server of its own: suites make roles and databases, and look at who is connected."""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import threading
import time
import traceback
import xml.etree.ElementTree

import records
from harness import (Missing, barkeep, call, fetched, go_source, maven_artifact, migrate, python, python_source, say)

TRICKY = """ tricky, ' } " \\ test user """
MODES = ("through", "forced")
FORCED = {"BARKEEP_HOLDS_FORCE": "20ms"}


class Suite:
    """Suite is one of them. Its results are pass, fail or skip by test, a test is a pair of class and name."""

    name, title, module, least, owner, rights = "", "", "", 0, None, "login"
    # modes are those of a run of everything; a suite that is named runs in all of MODES. One without any runs only if it is named.
    modes = ("through", "forced")
    # unforced are tests that are left out where every statement is held, as a pattern.
    unforced = None
    # beside says that its three runs may be at one time.
    beside = True

    def called(self, word):
        """called reports whether a word is a part of one of its names."""
        return word.lower() in " ".join((type(self).__name__, self.title, self.name)).lower()

    def fetch(self):
        """fetch brings what is needed, before the clock runs."""

    def prepare(self, server, database):
        """prepare makes what the suite expects in a database."""

    def edition(self):
        """edition names what the versions of packages do not."""
        return []

    def run(self, address, folder, only, forced=False):
        """run returns results, and what tests that failed wrote; only are the tests to run, None for all. Where forced, unforced need not run.
        It may be called for several addresses at one time, each with a folder of its own."""
        raise NotImplementedError


def junit(paths, results=None, output=None):
    """junit reads reports in JUnit's form."""
    results, output = {} if results is None else results, {} if output is None else output
    for path in paths:
        for case in xml.etree.ElementTree.parse(path).iter("testcase"):
            test, result = (case.get("classname") or "", steady(case.get("name"))), "pass"
            for child in case:
                if child.tag in ("failure", "error", "skipped"):
                    result = {"skipped": "skip"}.get(child.tag, "fail")
                    output[test] = (child.get("message") or "")[:300] + "\n" + (child.text or "")[-1500:]
            results[test] = result if results.get(test, "pass") == "pass" else results[test]
    return results, output


def steady(name):
    """steady is a test's name without what differs from run to run: temporary folders, ports, addresses of objects."""
    return re.sub(r"0x[0-9a-f]{6,}|[0-9]{5,}", "N", name)


def started(command, timeout, **options):
    """started runs a suite's command, whose exit code says no more than its report."""
    return subprocess.run([str(c) for c in command], text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=timeout, **options)


# ---- Go

class GoSuite(Suite):
    arguments = []
    # patience is what its tests wait for, by file: what they say, and a time that a busy machine and a held statement meet too.
    patience = {}

    def fetch(self):
        self.home = go_source(self.module, self.patience)
        self.name = self.title + " " + self.module.rsplit("@")[-1]

    def environment(self, address):
        raise NotImplementedError

    def run(self, address, folder, only, forced=False):
        command = ["go", "test", "-count=1", "-json", "-p=2", "-timeout=900s", *self.arguments]
        if only:
            names = sorted({t[1].split("/")[0] for t in only})
            command += ["-run", "^(%s)$" % "|".join(map(re.escape, names)), *sorted({t[0] for t in only})]
        else:
            command.append("./...")
        if forced and self.unforced:
            command += ["-skip", self.unforced.pattern]
        done = subprocess.run(command, cwd=self.home, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              env=dict(self.environment(address), GOFLAGS="-mod=mod"))
        results, output = {}, {}
        for line in done.stdout.splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if not event.get("Test"):
                continue
            test = (event["Package"], steady(event["Test"]))
            if event["Action"] in ("pass", "fail", "skip"):
                results[test] = event["Action"]
            elif event["Action"] == "output":
                output[test] = output.get(test, "") + event["Output"]
        if not results:
            raise RuntimeError("the suite did not run:\n" + done.stdout[-2000:] + done.stderr[-3000:])
        return results, output


class Pgx(GoSuite):
    title, module, least = "pgx", "github.com/jackc/pgx/v5@v5.12.0", 2000
    modes = ("through",)  # forced it takes five minutes alone
    # HandlesTimeoutBetweenParseAndDescribe: a client that sends Parse, sleeps and sends Describe sleeps longer than statement_timeout; a
    # segment that is gated goes upstream at its Sync, and its statements begin there. BusyIsSafe: 100,000 statements one after the other
    # take a quarter of an hour.
    unforced = re.compile("HandlesTimeoutBetweenParseAndDescribe|^TestListenNotifyWhileBusyIsSafe$")

    def prepare(self, server, database):
        server.sql(database, "create extension hstore", "create extension ltree", "create domain uint64 as numeric(20,0)")
        server.role(TRICKY, "superuser login")

    def environment(self, address):
        return dict(os.environ, PGX_TEST_DATABASE=address.words())


class Pq(GoSuite):
    arguments = ["-parallel=2"]
    title, module, least, owner, rights = "lib/pq", "github.com/lib/pq@v1.12.3", 700, "pqgo", "superuser login"
    binary = "0"
    patience = {
        # A listener that is not there within its time panics, and takes all other tests with it.
        "notify_test.go": {"time.After(100 * time.Millisecond)": "time.After(time.Second)"},
        # What is canceled must have begun by then, its connection made.
        "conn_test.go": {"time.AfterFunc(time.Millisecond*10, cancel)": "time.AfterFunc(time.Millisecond*300, cancel)",
                         "WithTimeout(context.Background(), 50*time.Millisecond)": "WithTimeout(context.Background(), 500*time.Millisecond)"},
        "issues_test.go": {"ctxTimeout := time.Millisecond * 50": "ctxTimeout := time.Millisecond * 500",
                           "time.Sleep(10 * time.Millisecond)": "time.Sleep(200 * time.Millisecond)"},
    }

    def environment(self, address):
        return address.by("pqgo").environment(PQTEST_BINARY_PARAMETERS=self.binary)


class PqBinary(Pq):
    title, binary = "lib/pq, binary", "1"


# ---- Python

class PythonSuite(Suite):
    requirement, parts, folder = "", (), ""

    def fetch(self):
        self.python = python()
        self.home = python_source(self.requirement, *self.parts)
        self.name = "%s %s" % (self.title, self.requirement.partition("==")[2])

    def environment(self, address):
        return address.environment()

    def arguments(self, address):
        return [self.folder]

    def place(self, folder):
        """place is where its tests are, for a run with that folder."""
        return self.home

    def run(self, address, folder, only, forced=False):
        out = folder / "junit.xml"
        out.unlink(missing_ok=True)
        command = [self.python, "-m", "pytest", *self.arguments(address), "--junitxml", out, "-p", "no:cacheprovider", "-q", "--tb=short"]
        if only:
            command += ["-k", " or ".join(sorted({re.split(r"[\[ ]", name)[0] for _, name in only}))]
        done = started(command, 900, cwd=self.place(folder), env=self.environment(address))
        if not out.exists():
            raise RuntimeError("the suite did not run:\n" + done.stdout[-3000:])
        return junit([out])


class Asyncpg(PythonSuite):
    title, requirement, parts, folder, least = "asyncpg", "asyncpg==0.32.0", ("tests/",), "tests", 100
    modes = ("through",)  # forced it takes a quarter of an hour on a busy machine

    def arguments(self, address):
        # What is left out asks whether an error comes before 4 MiB are written, which it does not always straight either. barkeep looks
        # at what the table is that the test has just made, and sockets take as much meanwhile.
        return [self.folder, "-k", "not server_failure_during_writes"]


class Psycopg2(PythonSuite):
    title, requirement, parts, folder, least = "psycopg2", "psycopg2==2.9.13", ("tests/",), "tests", 500

    def environment(self, address):
        return address.environment(PSYCOPG2_TESTDB=address.database)


class Pg8000(PythonSuite):
    title, requirement, parts, folder, least = "pg8000", "pg8000==1.31.6", ("test/",), "test", 300

    def arguments(self, address):
        # What is left out changes the server's pg_hba.conf, measures time, or reads the README; the tests of a broken pipe find a
        # terminated session's FATAL or the end of its connection, whichever is there first.
        return [self.folder, "--ignore-glob=*/auth/*", "--ignore-glob=*benchmarks*", "--ignore-glob=*readme*", "-k", "not broken_pipe_read"]

    def fetch(self):
        super().fetch()
        for path in self.home.glob("test/*/conftest.py"):  # it knows of the database postgres only
            text = path.read_text()
            if "PGDATABASE" not in text:
                path.write_text(text.replace('("host", "PGHOST", str),', '("host", "PGHOST", str),\n        ("database", "PGDATABASE", str),'))

    def prepare(self, server, database):
        server.sql(database, "create extension hstore")


class SQLAlchemy(PythonSuite):
    """SQLAlchemy is its own dialect suite, by one driver."""

    least, folder = 500, "test_suite.py"

    def __init__(self, driver):
        self.driver, self.name = driver, "sqlalchemy, " + driver

    def fetch(self):
        suites = os.environ.get("BARKEEP_SUITES")
        if not suites:
            raise Missing("the dialect suite of SQLAlchemy could not be had: BARKEEP_SUITES is not set")
        self.source, self.python = pathlib.Path(suites) / "sqlalchemy", python()

    def prepare(self, server, database):
        server.sql(database, "create schema test_schema")

    def edition(self):
        files = sorted(p for p in self.source.rglob("*") if p.is_file())
        return ["suite " + hashlib.sha256(b"".join(p.read_bytes() for p in files)).hexdigest()[:16]]

    def arguments(self, address):
        return ["--dburi", address.url("postgresql+" + self.driver), "--maxfail=100000", self.folder]

    def place(self, folder):
        home = folder / "suite"
        if not home.exists():
            shutil.copytree(self.source, home)
            call("chmod", "-R", "u+w", home)
        return home


# ---- Java

PGJDBC = "42.7.4"


class Pgjdbc(Suite):
    """Pgjdbc is pgjdbc's own tests, all 8,000 of them."""

    name, least, owner = "pgjdbc " + PGJDBC, 6000, "test"
    modes = ()  # they take ten minutes each time
    beside = False  # Maven's reports are in one folder

    def fetch(self):
        self.home = pgjdbc_source()

    def prepare(self, server, database):
        server.sql(database, "create extension hstore", "create extension citext", 'grant all on schema public to "test"')

    def run(self, address, folder, only, forced=False):
        reports = self.home / "target" / "surefire-reports"
        shutil.rmtree(reports, ignore_errors=True)
        command = ["mvn", "-o", "-q", "-B", "surefire:test", "-Dmaven.test.failure.ignore=true",
                   "-Dsurefire.useFile=true", "-DtrimStackTrace=true", "-Dserver=" + address.host, "-Dport=%d" % address.port,
                   "-Ddatabase=" + address.database, "-Dusername=test", "-Dpassword=test", "-DprivilegedUser=" + address.user,
                   "-DprivilegedPassword=" + address.password]
        if only:
            command.append("-Dtest=" + ",".join(sorted({t[0].rpartition(".")[2] for t in only})))
        done = started(command, 5400, cwd=self.home)
        results, output = junit(sorted(reports.glob("TEST-*.xml")))
        if not results:
            raise RuntimeError("the suite did not run:\n" + done.stdout[-3000:])
        return results, output


def pgjdbc_source():
    """pgjdbc_source returns pgjdbc's sources with its tests, compiled."""
    def make(home):
        archive = maven_artifact("org.postgresql:postgresql:%s:tar.gz:jdbc-src" % PGJDBC, home)
        call("tar", "-xzf", archive, "--strip-components=1", "-C", home)
        call("mvn", "-q", "-B", "test-compile", cwd=home)
        # Surefire brings what it runs tests with when it runs the first.
        call("mvn", "-q", "-B", "surefire:test", "-Dtest=OSUtilTest", cwd=home)
    return fetched("pgjdbc", PGJDBC, make)


# What takes longest is first.
# The longest come first, so that none of them is left for the end.
SUITES = [SQLAlchemy("psycopg2"), SQLAlchemy("psycopg"), SQLAlchemy("asyncpg"), Pg8000(), Psycopg2(), Pgx(), Pgjdbc(), Asyncpg(), Pq(), PqBinary()]


# ---- comparison

def differing(straight, through):
    return sorted(t for t in straight.keys() | through.keys() if straight.get(t) != through.get(t))


def tally(results):
    count = {}
    for result in results.values():
        count[result] = count.get(result, 0) + 1
    return "%d passed, %d failed, %d skipped" % tuple(count.get(r, 0) for r in ("pass", "fail", "skip"))


class Slots:
    """Slots bound how many runs there are at one time."""

    def __init__(self, count):
        self.count, self.free, self.turn = count, threading.Semaphore(count), threading.Lock()

    @contextlib.contextmanager
    def taken(self, alone=False):
        """taken has a slot, or all of them: then nothing else runs."""
        count = self.count if alone else 1
        with self.turn:  # whoever waits for all is not overtaken
            for _ in range(count):
                self.free.acquire()
        try:
            yield
        finally:
            self.free.release(count)


class Runs:
    """Runs is one suite's three runs, and those again of what differed."""

    def __init__(self, servers, suite, folder, modes, slots, recording):
        self.servers = {mode: servers[i % len(servers)] for i, mode in enumerate(("straight", *MODES))}
        self.suite, self.folder, self.modes, self.slots, self.recording = suite, folder, modes, slots, recording
        self.beside = suite.beside and len(servers) > 1
        self.folder.mkdir()
        self.databases, self.results, self.failures, self.said = {}, {}, {}, {}
        self.straight_run, self.straight_lock = None, threading.Lock()

    def go(self):
        """go returns what differs, a line for each test."""
        suite, began = self.suite, time.monotonic()
        suite.fetch()
        self.prepare()
        under = records.conditions(self.servers["straight"], suite)
        self.record = None if self.recording else records.fitting(suite, under)
        if not self.record:
            self.begin_straight()
        runs = [threading.Thread(target=self.through, args=(mode,)) for mode in self.modes]
        for run in runs:
            if not self.beside and self.straight_run:
                self.straight_run.join()
            run.start()
            if not self.beside:
                run.join()
        for run in runs:
            run.join()
        if self.straight_run:
            self.straight_run.join()
        failures = [f for mode in ("straight", *self.modes) for f in self.failures.get(mode, [])]
        if all(mode in self.said for mode in self.modes):
            said = [self.said.get("straight") or "straight, on record: " + self.record["tests"], *(self.said[mode] for mode in self.modes)]
            say("  %-20s %s (%.0f s)" % (suite.name, "; ".join(said), time.monotonic() - began))
        if self.recording and not failures:
            records.write(suite, under, tally(self.results), self.results)
        return failures

    def begin_straight(self):
        """begin_straight begins the straight run, once."""
        with self.straight_lock:
            if not self.straight_run:
                self.straight_run = threading.Thread(target=self.straight)
                self.straight_run.start()

    def prepare(self):
        suite, short = self.suite, re.sub(r"\W+", "_", self.suite.name)
        for mode in ("straight", *self.modes):
            server = self.servers[mode]
            (self.folder / mode).mkdir()
            if suite.owner:
                server.role(suite.owner, suite.rights)
            self.databases[mode] = server.create("%s_%s" % (short, mode), suite.owner)
            suite.prepare(server, self.databases[mode])
        migrate(self.servers["straight"], self.databases["straight"], self.folder)

    def address(self, mode, port=None):
        return self.servers[mode].address(self.databases[mode], port)

    def failed(self, mode, error):
        self.failures[mode] = ["%s, %s: %s" % (self.suite.name, mode, error)]
        if not isinstance(error, (RuntimeError, OSError, subprocess.TimeoutExpired)):
            self.failures[mode][0] += "\n" + traceback.format_exc()

    def straight(self):
        try:
            for _ in range(3):  # a test that panics by its own clock takes all others with it
                with self.slots.taken():
                    straight, _ = self.suite.run(self.address("straight"), self.folder / "straight", None)
                enough = list(straight.values()).count("pass") >= self.suite.least
                if enough:
                    break
            self.said["straight"] = "straight " + tally(straight)
            if not enough:
                raise RuntimeError("too few tests passed: " + tally(straight))
            self.results = straight
        except Exception as error:  # a thread's end is told by what it leaves
            self.failed("straight", error)

    def through(self, mode):
        try:
            with barkeep(self.servers[mode], self.databases[mode], self.folder, **(FORCED if mode == "forced" else {})) as port:
                bad, through = self.compare(self.address(mode, port), mode)
            self.said[mode] = "%s %s%s" % (mode, tally(through), "" if not bad else ", %d DIFFERENCES" % len(bad))
            self.failures[mode] = bad
        except Exception as error:  # as above
            self.failed(mode, error)

    def compare(self, other, mode):
        suite, forced, folder, address = self.suite, mode == "forced", self.folder / mode, self.address("straight")
        with self.slots.taken():
            through, output = suite.run(other, folder, None, forced)
        if self.record and self.record["digest"] == records.digest(through):
            return [], through
        self.begin_straight()
        self.straight_run.join()
        straight = self.results
        if not straight:
            return [], through  # the reason is told there
        if forced and suite.unforced:
            straight = {t: r for t, r in straight.items() if not suite.unforced.search(t[1])}
            through = {t: r for t, r in through.items() if not suite.unforced.search(t[1])}
        still = differing(straight, through)
        for attempt in range(4):  # what differs runs again, on both sides, in the end alone, and counts if it differs each time
            if not still:
                break
            with self.slots.taken(alone=attempt > 0):
                if len(still) > 200:  # a test that panics takes all others with it
                    through, output = suite.run(other, folder, None, forced)
                    still = differing(straight, through)
                    continue
                say("  %s, %s: run again: %s" % (suite.name, mode, ", ".join(" ".join(t) for t in still[:10])))
                again, _ = suite.run(address, folder, still)
                retried, fresh = suite.run(other, folder, still)
            output.update(fresh)
            still = [t for t in still if again.get(t) != retried.get(t)]
        return ["%s, %s: %s: straight %s, through barkeep %s\n%s" % (
            suite.name, mode, " ".join(t), straight.get(t), through.get(t), output.get(t, "")[-2500:]) for t in still], through


def fetch():
    """fetch brings what the suites of a run of everything need."""
    for suite in SUITES:
        if suite.modes:
            suite.fetch()


def run(servers, folder, wanted, recording=False):
    """run runs suites, three at a time, and at most four of their runs: most of them wait most of the time."""
    chosen = [s for s in SUITES if not wanted and s.modes or any(s.called(w) for w in wanted)]
    failures, left, lock, slots = [], iter(chosen), threading.Lock(), Slots(4)

    def work():
        while True:
            with lock:
                suite = next(left, None)
            if suite is None:
                return
            where = folder / re.sub(r"\W+", "_", type(suite).__name__ + "_" + suite.name)
            label = suite.name or suite.title
            try:
                bad = Runs(servers, suite, where, MODES if wanted else suite.modes, slots, recording).go()
            except Missing as error:
                say("  %s: NOT RUN: %s" % (label, error))
                bad = ["%s: %s" % (label, error)] if os.environ.get("CI") else []
            except (RuntimeError, OSError, ValueError, subprocess.TimeoutExpired) as error:
                bad = ["%s: %s" % (label, error)]
            with lock:
                failures.extend(bad)

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return failures
