#!/usr/bin/env python3
"""What the containers of compose.yaml run around ``protheon``: ``protheon-container init | master | worker .. | healthy master|worker``.

In a container everything that a person would type once has to be typed by a program that may run again: each part looks first whether
its work is done. The secrets go from one to the other by volumes that only those services have, never by arguments or the environment.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NoReturn

MASTER: Final = "master"
"""The master's name in the network of the containers, and in its certificate."""
DATABASE: Final = "postgresql://protheon:{password}@postgres:5432/protheon"
PASSWORD_FILE: Final = Path("/run/protheon/database/password")
TOKEN_FILE: Final = Path("/run/protheon/invitation/token")
JOIN_PORT, SCHEDULER_PORT = 50052, 8786
INVITE_TTL, INVITE_USES = "30d", "1000"
"""The most that there is. Each `up` makes a new one; whoever can read its volume is an administrator of all the containers anyway."""
PAGES: Final = ((18080, 8080), (18787, 8787))
"""The broker's HTTP and Dask's dashboard listen on the container's loopback alone, where no published port leads: from, to."""
MASTER_COMMAND: Final = ("protheon", "master", "--bind", "0.0.0.0", "--workers", "0")
PIECE_BYTES = 64 << 10
HEALTH_S = 8.0
ESTABLISHED: Final = "01"


def home() -> Path:
    return Path(os.environ["PROTHEON_HOME"])


def init() -> int:
    """Make what is not there yet: the database's password and the settings that name it, the authority, the master's certificate.

    And a new invitation. Guarantee: what is there stays as it is; safe to run again, also after it was killed.
    """
    from protheon_dask.run.trust.owner_files import replace_file  # here: the health checks are to be light

    if not PASSWORD_FILE.exists():
        replace_file(PASSWORD_FILE, secrets.token_urlsafe(24).encode())
    url = DATABASE.format(password=PASSWORD_FILE.read_text())
    replace_file(home() / "config.toml", f'database_url = "{url}"\n'.encode())
    subprocess.run(["protheon", "cluster", "init", "--name", MASTER, "--address", f"{MASTER}:{JOIN_PORT}"], check=True)
    invite = ["protheon", "cluster", "invite", "--ttl", INVITE_TTL, "--uses", INVITE_USES, "--json"]
    done = subprocess.run(invite, check=True, stdout=subprocess.PIPE)
    replace_file(TOKEN_FILE, json.loads(done.stdout)["token"].encode())
    print("the certificates, the database's password and an invitation are there")
    return 0


async def master(command: Sequence[str] = MASTER_COMMAND, routes: Sequence[tuple[int, int]] = PAGES) -> int:
    """Run the master, for the other containers to reach, and pass the pages on from the container's own address; returns its exit code.

    Who dies takes the other one along, and the container is started again.
    """
    process: asyncio.subprocess.Process | None = None
    is_asked = False

    def end() -> None:
        nonlocal is_asked
        is_asked = True
        if process is not None:
            with suppress(ProcessLookupError):
                process.terminate()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):  # before the master is started: until then they end Python, and with it the container
        loop.add_signal_handler(number, end)
    process = await asyncio.create_subprocess_exec(*command)
    if is_asked:
        end()
    passing, ended = asyncio.create_task(pages(routes)), asyncio.create_task(process.wait())
    await asyncio.wait((passing, ended), return_when=asyncio.FIRST_COMPLETED)
    failed = passing.exception() if passing.done() else None
    if failed is not None:
        print(f"the pages cannot be passed on: {failed}", file=sys.stderr, flush=True)
        end()
    passing.cancel()
    code = await ended
    return 1 if failed is not None else code if code >= 0 else 128 - code


def worker(arguments: Sequence[str]) -> NoReturn:
    """Join under the container's own id, unless that is done, and become a worker of the master."""
    from protheon_dask.errors import ProtheonError

    try:
        join_once()
    except ProtheonError as exc:  # the container is started again
        sys.exit(str(exc))
    os.execvp("protheon", ["protheon", "worker", *arguments])


def join_once() -> None:
    """Join by the invitation, by the library: a token among the arguments of a command could be read by every process here.

    One that was stopped for longer than its certificate lives comes back by its key (`protheon worker`), as long as the master takes it
    back; after that it joins again, under its old name. Raises ProtheonError.
    """
    from protheon_dask.run.trust.joining import join
    from protheon_dask.run.trust.membership import identity_of, tls_below
    from protheon_dask.run.trust.presence import Presence, presence

    tls = tls_below(home())
    if tls.certificate.exists() and presence(identity_of(tls).until_at, datetime.now(UTC)) is not Presence.GONE:
        return
    joined = join(TOKEN_FILE.read_text(), home())
    print(f"joined {joined.master} as {joined.host}", flush=True)


async def pages(routes: Sequence[tuple[int, int]] = PAGES) -> None:
    """Pass connections on from each port of every address to the other one on loopback. Returns never."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):  # either side has hung up: the other hears it
            while data := await reader.read(PIECE_BYTES):
                writer.write(data)
                await writer.drain()
        with suppress(OSError):
            writer.write_eof()

    async def serve(port: int, to_port: int) -> None:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                to_reader, to_writer = await asyncio.open_connection("127.0.0.1", to_port)
            except OSError:  # the master is not up yet, or is being started again
                writer.close()
                return
            try:
                await asyncio.gather(pump(reader, to_writer), pump(to_reader, writer))
            finally:
                for end in (writer, to_writer):
                    end.close()

        server = await asyncio.start_server(connected, port=port)
        await server.serve_forever()

    await asyncio.gather(*(serve(port, to_port) for port, to_port in routes))


def master_is_healthy(url: str = f"http://127.0.0.1:{PAGES[0][0]}/healthz") -> bool:
    """Does the broker say of itself that it works, by the way that others ask it?"""
    try:
        with urllib.request.urlopen(url, timeout=HEALTH_S) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def is_connected(table: str, port: int) -> bool:
    """Does the kernel's table of connections (/proc/net/tcp) have one that is up to this port of another host?"""
    rows = [line.split() for line in table.splitlines()[1:]]
    return any(row[3] == ESTABLISHED and int(row[2].rpartition(":")[2], 16) == port for row in rows)


def worker_is_healthy() -> bool:
    """Has a process of this container a connection to the scheduler? One that joins, or waits for the master, has none."""
    return any(is_connected(path.read_text(), SCHEDULER_PORT) for path in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")) if path.exists())


def main(arguments: Sequence[str]) -> int:
    match arguments:
        case ["init"]:
            return init()
        case ["master"]:
            return asyncio.run(master())
        case ["worker", *more]:
            worker(more)
        case ["healthy", "master"]:
            return 0 if master_is_healthy() else 1
        case ["healthy", "worker"]:
            return 0 if worker_is_healthy() else 1
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
