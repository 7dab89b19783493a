"""What the parts of `run` share: the PostgreSQL server, barkeep in front of it, and what is fetched to be run."""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CACHE = pathlib.Path(os.environ.get("BARKEEP_CACHE") or pathlib.Path.home() / ".cache" / "barkeep-clients")
PACKAGES = ["psycopg2-binary==2.9.13", "psycopg[binary]==3.3.*", "sqlalchemy[asyncio]==2.0.*", "asyncpg==0.32.0", "pg8000==1.31.6",
            "pyodbc==5.*", "pytest==8.*", "pytest-mock", "pytz", "distro"]


class Missing(RuntimeError):
    """Missing says that a client or a suite could not be had: the run leaves it out, and fails where CI is set."""


def say(*words):
    print(*words, flush=True)


def call(*command, **options):
    """call runs a command and returns its standard output; what it wrote is in the error if it fails."""
    done = subprocess.run([str(c) for c in command], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    if done.returncode:
        raise RuntimeError("%s ended with %d:\n%s%s" % (" ".join(map(str, command[:3])), done.returncode,
                                                      done.stdout[-2000:], done.stderr[-6000:]))
    return done.stdout


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """Server is the PostgreSQL that barkeep stands in front of."""

    def __init__(self, url):
        self.parts = urllib.parse.urlsplit(url)
        self.host, self.port = self.parts.hostname, self.parts.port or 5432
        self.user, self.password = self.parts.username or "postgres", self.parts.password or ""
        self.made = []

    def address(self, database, port=None):
        """address is the server itself, or barkeep on a port."""
        return Address(self.host if port is None else "127.0.0.1", port or self.port, self.user, self.password, database)

    def sql(self, database, *statements):
        return call("psql", "-XqAt", "-v", "ON_ERROR_STOP=1", self.address(database).url(),
                    *[w for s in statements for w in ("-c", s)]).strip()

    def create(self, name, owner=None):
        name = "clients_%s_%d" % (name, os.getpid())
        self.sql("postgres", 'create database "%s" template template0 owner "%s"' % (name, owner or self.user))
        self.made.append(name)
        return name

    def role(self, name, options):
        quoted = '"%s"' % name.replace('"', '""')
        self.sql("postgres", "do $$ begin create role %s; exception when duplicate_object or unique_violation then null; end $$" % quoted,
                 "alter role %s %s" % (quoted, options))

    def drop_all(self):
        for name in self.made:
            try:
                self.sql("postgres", 'drop database if exists "%s" with (force)' % name)
            except RuntimeError as error:
                say("drop", name, error)


class Address:
    """Address is where a client connects, and as whom."""

    def __init__(self, host, port, user, password, database):
        self.host, self.port, self.user, self.password, self.database = host, port, user, password, database

    def by(self, user):
        return Address(self.host, self.port, user, self.password, self.database)

    def url(self, scheme="postgresql"):
        login = self.user + (":" + self.password if self.password else "")
        return "%s://%s@%s:%d/%s" % (scheme, login, self.host, self.port, self.database)

    def words(self):
        """words is a connection string of libpq's."""
        return "host=%s port=%d user=%s dbname=%s sslmode=disable" % (self.host, self.port, self.user, self.database) + (
            " password=" + self.password if self.password else "")

    def environment(self, **more):
        """environment is libpq's variables, and more."""
        out = dict(os.environ, PGHOST=self.host, PGPORT=str(self.port), PGUSER=self.user, PGDATABASE=self.database, PGSSLMODE="disable")
        if self.password:
            out["PGPASSWORD"] = self.password
        return dict(out, **more)


@contextlib.contextmanager
def barkeep(server, database, folder, **settings):
    """barkeep yields the port of a `barkeep serve` on an empty data folder in front of one database."""
    port, status = free_port(), free_port()
    environment = dict(os.environ, BARKEEP_LISTEN="127.0.0.1:%d" % port, BARKEEP_STATUS_LISTEN="127.0.0.1:%d" % status,
                       BARKEEP_DATA_DIR=str(folder / ("data-" + database)),
                       BARKEEP_UPSTREAM_URL=server.address(database).url("postgres") + "?sslmode=disable", **settings)
    binary = os.environ.get("BARKEEP_BIN") or ROOT / "bin" / "barkeep"
    log = folder / (database + ".log")
    with log.open("w") as out:
        process = subprocess.Popen([str(binary), "serve"], env=environment, stdout=out, stderr=subprocess.STDOUT)
    try:
        await_ready(process, status, log)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise RuntimeError("barkeep did not stop within 40 s of SIGTERM")
    if process.returncode != 0:
        raise RuntimeError("barkeep ended with %d: %s" % (process.returncode, log.read_text()[-3000:]))


def migrate(server, database, folder):
    """migrate gives a database what barkeep gives it: PostgreSQL itself says more where there are event triggers, for one."""
    environment = dict(os.environ, BARKEEP_UPSTREAM_URL=server.address(database).url("postgres") + "?sslmode=disable",
                       BARKEEP_DATA_DIR=str(folder / ("data-" + database)))
    call(os.environ.get("BARKEEP_BIN") or ROOT / "bin" / "barkeep", "migrate", env=environment)


def await_ready(process, status, log):
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError("barkeep ended with %d: %s" % (process.returncode, log.read_text()[-3000:]))
        try:
            with urllib.request.urlopen("http://127.0.0.1:%d/readyz" % status, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError("barkeep was not ready after 90 s: " + log.read_text()[-3000:])


# ---- what is fetched: each by its ordinary client, once, into CACHE

LOCK = threading.Lock()


def fetched(name, key, make):
    """fetched returns the folder of that name, which make fills where it is not there yet."""
    home = CACHE / ("%s-%s" % (name, hashlib.sha256(key.encode()).hexdigest()[:12]))
    with LOCK:
        if not (home / "ready").exists():
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir(parents=True)
            try:
                make(home)
            except (RuntimeError, OSError) as error:
                raise Missing("%s could not be had: %s" % (name, error)) from error
            (home / "ready").touch()
    return home


def python():
    """python returns the interpreter of a virtual environment that has the drivers."""
    def make(home):
        call(sys.executable, "-m", "venv", home)
        call(home / "bin" / "python", "-m", "pip", "install", "-q", *PACKAGES)
    return fetched("venv", " ".join(PACKAGES + [sys.version]), make) / "bin" / "python"


def python_source(requirement, *parts):
    """python_source returns a folder with those parts of a package's source archive."""
    def make(home):
        call(python_tool, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", requirement.partition("==")[0], "-d", home, requirement)  # what builds it may come built
        (archive,) = home.glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            for member in tar.getmembers():
                inner = member.name.partition("/")[2]
                if inner.startswith(parts):
                    member.name = inner
                    tar.extract(member, home, filter="data")
        if not any((home / part).exists() for part in parts):
            raise RuntimeError("its source archive carries no " + ", ".join(parts))
    python_tool = python()
    return fetched(requirement.partition("==")[0] + "-source", requirement + " ".join(parts), make)


def go_source(module, changes):
    """go_source returns a writable copy of a module with its tests; changes are texts and what is put in their place, by file."""
    def make(home):
        found = json.loads(call("go", "mod", "download", "-json", module, cwd="/"))
        call("cp", "-rT", found["Dir"], home)
        call("chmod", "-R", "u+w", home)
        for name, texts in changes.items():
            text = (home / name).read_text()
            for old, new in texts.items():
                if old not in text:
                    raise RuntimeError("its %s has no %s" % (name, old))
                text = text.replace(old, new)
            (home / name).write_text(text)
        # Its tests are compiled once, not by several runs at one time.
        call("go", "test", "-exec", "true", "-p=2", "./...", cwd=home, env=dict(os.environ, GOFLAGS="-mod=mod"))
    return fetched(module.partition("@")[0].replace("github.com/", "").replace("/", "-"), module + repr(changes), make)


def node_modules(*packages):
    """node_modules returns a folder with packages of npm's."""
    def make(home):
        (home / "package.json").write_text('{"private": true}')
        call("npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", home, *packages)
    return fetched("node", " ".join(packages), make)


def maven_artifact(artifact, into):
    """maven_artifact copies one file of Maven Central's into a folder and returns its path."""
    call("mvn", "-q", "-B", "dependency:copy", "-Dartifact=" + artifact, "-DoutputDirectory=" + str(into), "-Dmdep.overWriteReleases=true")
    (path,) = [p for p in pathlib.Path(into).iterdir() if p.name.startswith(artifact.split(":")[1] + "-")]
    return path


def debian_package(name):
    """debian_package returns a folder with a package's files, which is not installed: pgpool2 would start a server."""
    def make(home):
        try:
            call("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", name, cwd=home)
        except RuntimeError:  # the lists are old
            call("apt-get", "-qq", "update")
            call("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", name, cwd=home)
        (archive,) = home.glob("*.deb")
        call("dpkg-deb", "-x", archive, home)
    return fetched(name, name, make)
