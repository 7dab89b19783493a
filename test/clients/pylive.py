"""How the Python drivers listen: each function subscribes to a channel in a block, tells what it hears once that is committed, and what it hears
after UNLISTEN."""

import asyncio
import json
import select
import subprocess
import time

from drivers import parts
from live import HEARD

QUIET = 1.5  # seconds in which nothing may come


def tell(case, answer):
    print(json.dumps({"case": case, "answer": answer}), flush=True)


def psql(url, channel):
    """psql shows what has come after each command."""
    process = subprocess.Popen(["psql", "-XAtq", url], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def command(text):
        """command yields the notifications before the end of what it answers."""
        process.stdin.write(text + "\n\\echo done\n")
        process.stdin.flush()
        for line in iter(process.stdout.readline, "done\n"):
            if not line:
                raise RuntimeError("psql ended")
            if line.startswith("Asynchronous notification "):
                name, _, rest = line.removeprefix('Asynchronous notification "').partition('" with payload "')
                yield [name, rest.rpartition('" received from ')[0]]

    list(command('begin; listen "%s"; commit;' % channel))
    heard = 0
    while heard < HEARD:
        time.sleep(0.1)
        for each in command("select 1 where false;"):
            tell("heard", each)
            heard += 1
    list(command("unlisten *;"))
    time.sleep(QUIET)
    tell("after UNLISTEN", len(list(command("select 1 where false;"))))
    process.communicate()


def psycopg2(url, channel):
    import psycopg2
    conn = psycopg2.connect(url)
    cur = conn.cursor()
    cur.execute('listen "%s"' % channel)
    conn.commit()

    def take(seconds):
        select.select([conn], [], [], seconds)
        conn.poll()
        taken, conn.notifies[:] = list(conn.notifies), []
        return taken

    heard = 0
    while heard < HEARD:
        for each in take(30):
            tell("heard", [each.channel, each.payload])
            heard += 1
    cur.execute("unlisten *")
    conn.commit()
    take(0)
    tell("after UNLISTEN", len(take(QUIET)))
    conn.close()


def psycopg(url, channel):
    import psycopg
    with psycopg.connect(url) as conn:
        conn.execute('listen "%s"' % channel)
        conn.commit()
        conn.autocommit = True
        for each in conn.notifies(timeout=60, stop_after=HEARD):
            tell("heard", [each.channel, each.payload])
        conn.execute("unlisten *")
        list(conn.notifies(timeout=0))
        tell("after UNLISTEN", len(list(conn.notifies(timeout=QUIET))))


def pg8000(url, channel):
    import pg8000.native
    conn = pg8000.native.Connection(**parts(url))
    conn.run("begin")
    conn.run('listen "%s"' % channel)
    conn.run("commit")
    heard = 0
    while heard < HEARD:
        time.sleep(0.1)
        conn.run("select 1")  # it reads when it asks
        while conn.notifications:
            _, name, payload = conn.notifications.popleft()
            tell("heard", [name, payload])
            heard += 1
    conn.run("unlisten *")
    conn.notifications.clear()
    time.sleep(QUIET)
    conn.run("select 1")
    tell("after UNLISTEN", len(conn.notifications))
    conn.close()


def asyncpg(url, channel):
    asyncio.run(asyncpg_hears(url, channel))


async def asyncpg_hears(url, channel):
    import asyncpg
    conn = await asyncpg.connect(url)
    came = asyncio.Queue()

    def hear(_conn, _pid, name, payload):
        came.put_nowait([name, payload])

    async with conn.transaction():
        await conn.add_listener(channel, hear)
    for _ in range(HEARD):
        tell("heard", await asyncio.wait_for(came.get(), 60))
    await conn.remove_listener(channel, hear)
    while not came.empty():
        came.get_nowait()
    await asyncio.sleep(QUIET)  # the driver says nothing of a channel without a listener: the server is asked
    tell("after UNLISTEN", came.qsize() + await conn.fetchval("select count(*) from pg_listening_channels()"))
    await conn.close()
