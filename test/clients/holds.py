"""The holds' part: each client ends a statement that waits for its bars. The source answers nothing but its list, so that the wait
does not end by itself; PostgreSQL's answer to the same is that of a statement that sleeps."""

import concurrent.futures
import contextlib
import http.server
import json
import statistics
import threading

from drives import each_client
from harness import barkeep, say

# PROMISED is what the median of a client's cases may take, in ms, by what ends the statement; the drivers of the first are those that the
# promise names.
PROMISED = {"cancel": (100, ("psql", "pq", "psycopg2", "psycopg", "pgjdbc")), "statement_timeout": (50, ())}
WAITS = "select count(*) from ohlcv where symbol = 'binance:BTCUSDT' and timeframe = '1m' and ts >= '2021-01-01Z' and ts < '2021-01-02Z'"
SLEEPS = "select count(*) from pg_sleep(30)"


@contextlib.contextmanager
def silent_exchange():
    """silent_exchange yields the address of a Binance that lists its instruments, and keeps who asks for bars waiting."""
    over = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = b"[]"
            if self.path.startswith("/api/v3/exchangeInfo"):
                body = json.dumps({"timezone": "UTC", "rateLimits": [], "symbols": [
                    {"symbol": "BTCUSDT", "status": "TRADING", "baseAsset": "BTC", "quoteAsset": "USDT"}]}).encode()
            else:
                over.wait()
            with contextlib.suppress(OSError):  # whoever asked may have gone
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield "http://127.0.0.1:%d" % server.server_address[1]
    finally:
        over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def run(server, folder, wanted):
    database = server.create("holds")
    folder = folder / "holds"
    folder.mkdir()
    with silent_exchange() as exchange, barkeep(server, database, folder, BARKEEP_SOURCES_BINANCE_URL=exchange) as port:
        slow = []

        def do(client):
            bad, late = measured(client)
            if late:
                slow.append(client)
            return bad

        def measured(client):
            """measured returns what is answered otherwise, and what comes too late."""
            if client.name == "sqlalchemy":  # its drivers are there
                return [], []
            with concurrent.futures.ThreadPoolExecutor() as beside:  # both do little but wait
                waiting = beside.submit(client.run, server.address(database, port), "hold", WAITS)
                sleeping = beside.submit(client.run, server.address(database), "hold", SLEEPS)
                through, straight = ([json.loads(line) for line in lines.result()] for lines in (waiting, sleeping))
            bad = differing(client.name, through, straight)
            said, late = [], []
            for case in dict.fromkeys(each["case"] for each in through if "ms" in each):
                took = {which: [each["ms"] for each in lines if each["case"] == case] for which, lines in (("through", through), ("straight", straight))}
                said.append("%s %.0f ms (%.0f)" % (case, statistics.median(took["through"]), statistics.median(took["straight"])))
                late += too_slow(client.name, case, took)
            say("  %-11s %3d cases: %s%s; median, and straight: %s" % (
                client.name, len(through), "same answers" if not bad else "%d DIFFERENCES" % len(bad), ", %d TOO LATE" % len(late) if late else "", ", ".join(said)))
            return bad, late
        failures = each_client(folder, wanted, do)
        for client in slow:  # measured again with nothing beside it; what is too late each time counts
            for _ in range(3):
                bad, late = measured(client)
                failures += bad
                if bad or not late:
                    break
            failures += late
        return failures


def differing(name, through, straight):
    bad = []
    for got, want in zip(through, straight):
        if (got["case"], got["answer"]) != (want["case"], want["answer"]):
            bad.append("%s, held: %s\n      barkeep    %s\n      PostgreSQL %s" % (name, want["case"], got, want))
    if len(through) != len(straight):
        bad.append("%s, held: %d cases, straight %d" % (name, len(through), len(straight)))
    return bad


def too_slow(name, case, took):
    """too_slow compares the medians with what is promised. Where PostgreSQL itself is slower than half of that, the client or the machine is, and its
    time is allowed for."""
    for what, (most, clients) in PROMISED.items():
        if case.startswith(what) and (not clients or name in clients):
            through, straight = statistics.median(took["through"]), statistics.median(took["straight"])
            if through > max(most, most / 2 + straight):
                return ["%s: %s took %.0f ms, at most %d are promised; PostgreSQL took %.0f" % (name, case, through, most, straight)]
    return []
