"""The broker process: ``python -m protheon_dask.run.broker``. Leads one ledger, cuts, dispatches and streams.

Settings come from the environment. It prints one line of JSON, with its port, when it leads and listens.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import psutil

from protheon_dask import failpoints
from protheon_dask.broker.cluster_wire import reached_from
from protheon_dask.broker.http import HttpThread
from protheon_dask.broker.open_files import raise_open_files
from protheon_dask.broker.thread import BrokerThread
from protheon_dask.broker.tls import TlsFiles
from protheon_dask.config import Settings
from protheon_dask.errors import ConfigError, LeadershipLost, LedgerUnavailable, ProtheonError
from protheon_dask.ledger import leadership, reports
from protheon_dask.ledger.connect import opened
from protheon_dask.ledger.migrate import applied
from protheon_dask.run.addresses import LOOPBACK, bracketed, led_already
from protheon_dask.run.cluster_desk import AGREED, ClusterDesk
from protheon_dask.run.coordinator import Coordinator
from protheon_dask.run.desk import ChunkDesk, Place, RunDesk
from protheon_dask.run.exits import exit_code
from protheon_dask.run.guest_plugin import GuestPlugin, Terms
from protheon_dask.run.http_desk import HttpDesk
from protheon_dask.run.logs import log_to_stderr
from protheon_dask.run.machine import this_machine
from protheon_dask.run.pins import PinDesk
from protheon_dask.run.settings import environment, home_of, read_settings, workspace_of
from protheon_dask.run.taking import Taker
from protheon_dask.run.task_desk import TaskDesk
from protheon_dask.run.trust.identity import joined_master
from protheon_dask.run.trust.keys import make_key, read_key
from protheon_dask.workspace.chunkfile import OWNER_DIR, ChunkStore, default_quota_bytes
from protheon_dask.workspace.pins import PINS, PinStore

if TYPE_CHECKING:
    from protheon_dask.run.trust.authority import Authority

logger = logging.getLogger(__name__)

LEAD_S, LEAD_POLL_S = 30.0, 0.5
"""How long a broker that takes another's place waits for the server to end that one's session, which holds the lead; and how it looks."""


def make_store(settings: Settings, directory: Path) -> ChunkStore:
    """The workspace of these settings."""
    directory.mkdir(mode=OWNER_DIR, parents=True, exist_ok=True)
    quota_bytes = settings.workspace_quota_bytes or default_quota_bytes(directory)
    return ChunkStore(directory, quota_bytes, settings.parked_quota_bytes)


def make_pins(settings: Settings, store: ChunkStore, ledger_id: object) -> PinStore:
    """The chunks that are kept for others than runs, beside those of runs: adopting these leaves them alone."""
    return PinStore(workspace_of(settings) / PINS / str(ledger_id), settings.pinned_quota_bytes or store.quota_bytes // 2)


def check_one_ledger(settings: Settings) -> None:
    """Raise ConfigError if direct_url and database_url reach different ledgers: one would be led, and runs made in the other.

    The last leadership is compared too: a restored copy of a database has its ledger's id.
    """
    if not settings.direct_url or settings.direct_url == settings.database_url:
        return
    seen = []
    for url in (settings.direct_url, settings.database_url):
        with opened(url, application="protheon-broker") as conn:
            status = reports.status(conn) if applied(conn) else {}
            seen.append({name: status.get(name) for name in ("ledger_id", "epoch", "taken_at")})
    if seen[0] != seen[1]:
        raise ConfigError("direct_url and database_url are different databases: give two ways to the same one, or leave direct_url out")


def serve(
    settings: Settings,
    scheduler_address: str,
    dashboard_link: str,
    port: int,
    http_port: int,
    *,
    ephemeral: bool = False,
    goes_on: bool = False,
    takes_over: bool = False,
    owns_scheduler: bool = False,
    bind: str = LOOPBACK,
    join_port: int | None = None,
) -> None:
    """Lead, listen and work until SIGTERM or SIGINT.

    scheduler_address: as it is told to everybody; one that listens on all addresses of this host is reached here by loopback.
    bind:      of gRPC, and of joining; HTTP is on loopback always.
    join_port: where hosts join by a token; None: nowhere. It needs tls_dir.
    ephemeral: the cluster lives as long as one command: runs of an earlier one are interrupted, and this one's at a polite end.
    goes_on:   this takes the place of a broker of the same cluster that died: its runs go on, and PostgreSQL is waited for.
    takes_over: the command of the cluster before this one has ended: its broker, which may still be ending, is waited for.
    owns_scheduler: the scheduler was started with our preload: that its pages are not there is a fault.
    Raises: ConfigError: another broker leads this ledger, a port is taken, or the two URLs are of different databases.
            LeadershipLost: another took the lead. MissingSetting: tls_dir is given, and a certificate or the authority is not there.
    """
    url = settings.direct_url or settings.database_url
    broker_uuid = uuid4()
    store = make_store(settings, workspace_of(settings))
    n_splitters = settings.splitters or max(1, this_machine().whole_cores // 2)
    here = reached_from(scheduler_address, "[::1]" if ":" in bind else LOOPBACK)
    guest = None if owns_scheduler else _guest(settings, f"{bracketed(bind)}:{port}")
    coordinator = Coordinator(settings, url, here, store, broker_uuid, n_splitters, guest)
    if ephemeral:
        coordinator.owner_lives = owner_watch()
    lead(coordinator, settings, ephemeral=ephemeral, goes_on=goes_on, takes_over=takes_over)
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: coordinator.stop())
    taker = Taker(url, coordinator, store, owns_scheduler=owns_scheduler)
    tls = TlsFiles(Path(settings.tls_dir)) if settings.tls_dir else None
    authority = None if tls is None else _authority(settings)
    with taker, HttpThread(HttpDesk(taker.latest), LOOPBACK, http_port) as http:
        place = Place(scheduler_address, dashboard_link, str(broker_uuid), http.address)
        runs = RunDesk(settings, settings.database_url, coordinator, place, ephemeral=ephemeral)
        chunks = ChunkDesk(settings.database_url, store, coordinator.tell)
        tasks = TaskDesk(settings.database_url, coordinator.look_for_ready)
        pins = PinDesk(settings, make_pins(settings, store, runs.info().ledger_id), lambda: coordinator.n_threads, ephemeral=ephemeral)
        cluster = ClusterDesk(settings, coordinator, scheduler_address, authority, read_key(make_key(home_of(settings))))
        server = BrokerThread(runs, chunks, bind, port, tasks=tasks, on_sent=coordinator.count_sent, pins=pins, cluster=cluster, tls=tls)
        with pins, server, door(authority, tls, bind, join_port, server.port):
            listens = {"port": server.port, "http": http.address, "pid": os.getpid(), "broker_uuid": str(broker_uuid)}
            print(json.dumps(listens), flush=True)
            coordinator.run()


def door(
    authority: Authority | None, tls: TlsFiles | None, bind: str, join_port: int | None, broker_port: int
) -> AbstractContextManager[object]:
    """Where hosts join by a token, for the time of the block; nothing where no port is asked for, or nobody could be trusted."""
    if authority is None or tls is None or join_port is None:
        return nullcontext()
    from protheon_dask.broker.join import JoinThread
    from protheon_dask.run.trust.join_desk import JoinDesk

    return JoinThread(JoinDesk(authority, broker_port), tls, bind, join_port)


def _authority(settings: Settings) -> Authority:
    from protheon_dask.run.trust.authority import Authority  # here: without TLS nobody needs cryptography

    return Authority.open(home_of(settings))


def _guest(settings: Settings, address: str) -> GuestPlugin:
    """What makes workers of ours of those of a scheduler that is not."""
    key_file = environment().get("PROTHEON_KEY_FILE")
    agreed = {name: str(getattr(settings, name)) for name in AGREED}
    return GuestPlugin(Terms(address, agreed, read_key(key_file) if key_file else None))


def owner_watch() -> Callable[[], bool]:
    """A question: does the command that started our tether still live? It dies before the tether ends us, and the workers.

    Its children have another parent at once when it dies (POSIX; elsewhere the answer is always yes).
    """
    tether = psutil.Process(os.getppid())
    owner = tether.ppid()

    def lives() -> bool:
        try:
            return tether.ppid() == owner
        except psutil.Error:
            return False

    return lives


def lead(coordinator: Coordinator, settings: Settings, *, ephemeral: bool, goes_on: bool, takes_over: bool = False) -> None:
    """Take the lead; goes_on: as soon as PostgreSQL answers, and has noticed that the broker before this one is gone.

    takes_over: likewise, where PostgreSQL answers.

    Raises: ConfigError: another broker leads this ledger, or the two URLs are of different databases. LedgerUnavailable.
    """
    end_at, is_told = time.monotonic() + LEAD_S, False
    while True:
        try:
            check_one_ledger(settings)
            if coordinator.start_leading(ephemeral=ephemeral, goes_on=goes_on):
                return
        except LedgerUnavailable as exc:
            if not goes_on:
                raise
            if not is_told:
                logger.warning("ledger.lost", extra={"error": str(exc)})
            end_at, is_told = time.monotonic() + LEAD_S, True
        if not (goes_on or takes_over) or time.monotonic() > end_at:
            raise ConfigError(led_already(_leader(settings), joined_master(settings)))
        time.sleep(LEAD_POLL_S)


def _leader(settings: Settings) -> str:
    """Who that is, for the message; nothing where it is not known."""
    with suppress(LedgerUnavailable), opened(settings.direct_url or settings.database_url, application="protheon-broker") as conn:
        if (found := leadership.leader(conn)) is not None:
            return str(found)
    return ""


def main() -> int:
    """Parse, serve, and map what went wrong to an exit code."""
    parser = argparse.ArgumentParser(prog="protheon_dask.run.broker")
    parser.add_argument("--scheduler", required=True)
    parser.add_argument("--dashboard", default="")
    parser.add_argument("--bind", default=LOOPBACK)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--join-port", type=int)
    parser.add_argument("--http-port", type=int)
    parser.add_argument("--ephemeral", action="store_true")
    parser.add_argument("--goes-on", action="store_true")
    parser.add_argument("--takes-over", action="store_true")
    parser.add_argument("--owns-scheduler", action="store_true")
    given = parser.parse_args()
    log_to_stderr()
    raise_open_files()
    try:
        failpoints.arm_from_environment()
        settings = read_settings({}).settings
        kind = {"ephemeral": given.ephemeral, "goes_on": given.goes_on, "takes_over": given.takes_over}
        kind["owns_scheduler"] = given.owns_scheduler
        http_port = settings.http_port if given.http_port is None else given.http_port
        serve(settings, given.scheduler, given.dashboard, given.port, http_port, bind=given.bind, join_port=given.join_port, **kind)
    except LeadershipLost as exc:
        print(exc, file=sys.stderr)
        return 75
    except ProtheonError as exc:
        print(exc, file=sys.stderr)
        return exit_code(exc)
    return 0


if __name__ == "__main__":
    sys.exit(main())
