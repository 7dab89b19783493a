"""The live part: each client listens to a series that the simulator goes on with, as its driver does that, and takes its bars as they form.

PostgreSQL knows nothing of the kind, so that nothing is compared with it: what a client heard must be what docs/sql.md says of live bars, in
that order, and nothing must come once it has stopped to listen."""

import json
import time

from drives import CLIENTS, each_client
from harness import barkeep, say

CHANNEL = "ohlcv.sim:BTCUSD.1m"
HEARD = 2  # bars that each client waits for: at the next minute one is final, and another begins
FIELDS = {"symbol": str, "timeframe": str, "ts": str, "open": (int, float), "high": (int, float), "low": (int, float), "close": (int, float),
          "volume": (int, float), "final": bool, "seq": int}
# SILENT have no way to hear of notifications: SQLAlchemy leaves them to its drivers, which are there, and ODBC has none.
SILENT = ("sqlalchemy", "odbc")


def run(server, folder, wanted):
    database = server.create("live")
    folder = folder / "live"
    folder.mkdir()
    with barkeep(server, database, folder) as port:
        def do(client):
            if client.name in SILENT:
                return []
            began = time.monotonic()
            lines = [json.loads(line) for line in client.run(server.address(database, port), "live", CHANNEL)]
            bad = ["%s, live: %s\n      of %s" % (client.name, what, lines) for what in wrong(lines)]
            say("  live: %-11s %d bars as they form: %s (%.1f s)" % (client.name, len(lines) - 1, "as documented" if not bad else "%d DIFFERENCES" % len(bad), time.monotonic() - began))
            return bad
        return each_client(folder, wanted, do, beside=len(CLIENTS))


def wrong(lines):
    """wrong names what of the lines is not as documented."""
    heard = [line["answer"] for line in lines if line["case"] == "heard"]
    after = [line["answer"] for line in lines if line["case"] == "after UNLISTEN"]
    if len(heard) < HEARD:
        yield "%d bars came, not %d" % (len(heard), HEARD)
    if after != [0]:
        yield "after UNLISTEN came %s" % after
    last = 0
    for channel, payload in heard:
        bar = json.loads(payload)
        if channel != CHANNEL:
            yield "the channel is %s" % channel
        for name, kind in FIELDS.items():
            if not isinstance(bar.get(name), kind):
                yield "%s is %r" % (name, bar.get(name))
                return
        if "ohlcv.%s.%s" % (bar["symbol"], bar["timeframe"]) != CHANNEL:
            yield "the bar is of %s %s" % (bar["symbol"], bar["timeframe"])
        if not bar["low"] <= min(bar["open"], bar["close"]) <= max(bar["open"], bar["close"]) <= bar["high"]:
            yield "the bar cannot be"
        if bar["seq"] <= last:
            yield "number %d came behind %d" % (bar["seq"], last)
        last = bar["seq"]
