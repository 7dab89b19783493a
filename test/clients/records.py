"""What the suites come to straight at PostgreSQL, as `run --record` wrote it down in straight.json. It does not change while server, suite and
driver stay the same, so a run through barkeep that comes to the same, test by test, needs no straight one beside it. Anything else does: another
version of anything, or another result of one test, and the suite runs straight as well; then the record has no say."""

import hashlib
import json
import platform
import threading

from harness import HERE, call, python

FILE = HERE / "straight.json"
LOCK = threading.Lock()


def digest(results):
    """digest stands for every test and its result."""
    return hashlib.sha256("\n".join(sorted("%s\t%s\t%s" % (*test, result) for test, result in results.items())).encode()).hexdigest()


def conditions(server, suite):
    """conditions are the versions of all that a result may depend on."""
    found = ["PostgreSQL " + server.sql("postgres", "show server_version"),
             "TimescaleDB " + server.sql("postgres", "select default_version from pg_available_extensions where name = 'timescaledb'")]
    if suite.module:
        return [*found, call("go", "env", "GOVERSION").strip(), suite.module]
    return [*found, "Python " + platform.python_version(), *call(python(), "-m", "pip", "freeze").split(), *suite.edition()]


def fitting(suite, under):
    """fitting returns the record of a suite under these conditions, or None."""
    if not FILE.exists():
        return None
    record = json.loads(FILE.read_text()).get(suite.name)
    return record if record and record["conditions"] == under else None


def write(suite, under, tally, results):
    """write replaces a suite's record."""
    with LOCK:
        records = json.loads(FILE.read_text()) if FILE.exists() else {}
        records[suite.name] = {"conditions": under, "tests": tally, "digest": digest(results)}
        FILE.write_text(json.dumps(records, indent=1, sort_keys=True) + "\n")
