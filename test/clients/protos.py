"""The scripts' part: pgproto of pgpool-II sends our scripts of messages, pgproto/*.data, and prints what comes back, message by message. The
same comes from barkeep on a gap, on what is covered by then, and with every statement held, as from PostgreSQL."""

import os
import re

from harness import HERE, Missing, barkeep, call, debian_package, say

SCRIPTS = sorted(p.name.removesuffix(".data") for p in (HERE / "pgproto").glob("*.data"))


def trace(program, address, script):
    """trace returns what pgproto prints, without what is PostgreSQL's own business (which schema of temporary tables) and without progress."""
    out = call("sh", "-c", 'exec "$0" "$@" 2>&1', program, "-h", address.host, "-p", str(address.port), "-u", address.user,
                    "-d", address.database, "-f", HERE / "pgproto" / (script + ".data"), timeout=120, errors="replace")
    lines = re.sub(r"pg_temp_[0-9]+", "pg_temp_N", out).splitlines()
    return [line for line in lines if not ("NoticeResponse" in line and "barkeep:" in line)]


def fetch():
    """fetch brings pgproto's path."""
    return debian_package("pgpool2") / "usr" / "sbin" / "pgproto"


def run(server, folder, wanted):
    if wanted and "pgproto" not in wanted:
        return []
    try:
        program = fetch()
    except Missing as error:
        say("  pgproto NOT RUN: %s" % error)
        return ["pgproto: %s" % error] if os.environ.get("CI") else []
    folder = folder / "scripts"
    folder.mkdir()
    database, forced = server.create("scripts"), server.create("scripts_forced")
    traces = {}
    with barkeep(server, database, folder) as port:
        for mode in ("gap", "covered"):
            traces[mode] = [trace(program, server.address(database, port), script) for script in SCRIPTS]
    with barkeep(server, forced, folder, BARKEEP_HOLDS_FORCE="20ms") as port:
        traces["forced"] = [trace(program, server.address(forced, port), script) for script in SCRIPTS]
    straight = [trace(program, server.address(database), script) for script in SCRIPTS]
    bad = []
    for mode, through in traces.items():
        for script, got, want in zip(SCRIPTS, through, straight):
            if got != want:
                at = next((i for i, (a, b) in enumerate(zip(got, want)) if a != b), min(len(got), len(want)))
                bad.append("pgproto, %s, %s, line %d:\n      barkeep    %s\n      PostgreSQL %s" % (
                    script, mode, at + 1, got[at - 2:at + 3], want[at - 2:at + 3]))
    say("  %d scripts, %d lines × gap, covered, forced, straight: %s" % (
        len(SCRIPTS), sum(map(len, straight)), "same traces" if not bad else "%d DIFFERENCES" % len(bad)))
    return bad
