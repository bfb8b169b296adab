"""The processes of a cluster on this host, described once for the embedded cluster, a standing master and its workers."""

from __future__ import annotations

import random
import socket
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from protheon_dask.broker.cluster_wire import EVERYWHERE
from protheon_dask.broker.peers import is_loopback
from protheon_dask.broker.tls import TlsFiles
from protheon_dask.config import Settings
from protheon_dask.run import settings as rim
from protheon_dask.run.addresses import LOOPBACK, address_for_all, bracketed
from protheon_dask.run.machine import Machine, this_machine
from protheon_dask.run.sizing import AROUND_BYTES, MASTER_BYTES, POSTGRES_BYTES, choose
from protheon_dask.run.supervise import Part, Supervised, http_probe, port_probe
from protheon_dask.workspace.chunkfile import OWNER_DIR

WORKER_MALLOC: Final = {
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_ARENA_MAX": "1",
}
"""glibc's; other systems take no notice. Each batch's megabytes are given back and asked for again, unless it may keep them: reading
a chunk then takes a third more CPU (Dask sets a trim threshold of 64 KiB where none is given). With an arena for each thread a
worker grew from 170 MB to 220 MB over 400,000 lines, with one it stays."""
DASK_CONFIG: Final = {
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_SATURATION": "1.0",
    "DASK_DISTRIBUTED__SCHEDULER__WORK_STEALING": "False",
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "30s",
    "DASK_DISTRIBUTED__SCHEDULER__EVENTS_CLEANUP_DELAY": "10m",
    "DASK_DISTRIBUTED__SCHEDULER__DASHBOARD__TASKS__TASK_STREAM_LENGTH": "10000",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "10s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "20s",
    "DASK_DISTRIBUTED__WORKER__MEMORY__TARGET": "False",
    "DASK_DISTRIBUTED__WORKER__MEMORY__SPILL": "False",
    "DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE": "0.85",
    "DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE": "0.95",
    # Dask's looking at itself, less often: each look takes the interpreter from the thread that loads
    "DASK_DISTRIBUTED__WORKER__MEMORY__MONITOR_INTERVAL": "500ms",
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
    "DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL": "500ms",
    "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__INTERVAL": "2s",
    # the scheduler keeps that many messages of each worker's stream, with the tasks in them
    "DASK_DISTRIBUTED__ADMIN__LOW_LEVEL_LOG_LENGTH": "100",
}
"""Dask's settings on every node (DESIGN, Defaults; PITFALLS, Config to ship)."""
START_S: Final = 60.0
"""How long a process may take to start on a busy machine before that is an error; and how long another's turn to start is waited for."""
SERVER_PORTS: Final = 20_000, 32_000
"""Below those that systems give to connections (Linux from 32,768 on, others from 49,152 on)."""
PORT_TRIES: Final = 20
WORKERS_END_S: Final = 5.0
"""How long the processes around a worker may take to end, after the worker itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where a cluster's processes listen on this host. HTTP and the dashboard always listen on loopback."""

    bind: str = LOOPBACK  # of gRPC, the scheduler and joining
    broker_port: int
    scheduler_port: int
    dashboard_port: int
    http_port: int
    join_port: int | None = None  # None: no host can join here
    tls: TlsFiles | None = None  # of gRPC and Dask; None: plaintext
    scheduler: str | None = None  # the address of somebody else's; None: ours

    @property
    def here(self) -> str:
        """The host by which processes of this host reach the others."""
        if self.bind in EVERYWHERE:
            return "[::1]" if ":" in self.bind else LOOPBACK
        return self.bind

    @property
    def broker_address(self) -> str:
        """Of gRPC, for processes of this host: by loopback, where the broker listens too, whatever else was asked for."""
        return f"{bracketed(self.here if is_loopback(self.here.strip('[]')) else LOOPBACK)}:{self.broker_port}"

    def scheduler_address(self, host: str | None = None) -> str:
        """As it is told to everybody, or by this host."""
        if self.scheduler is not None:
            return self.scheduler
        return f"{'tls' if self.tls else 'tcp'}://{bracketed(self.bind if host is None else host)}:{self.scheduler_port}"

    @property
    def dashboard_link(self) -> str:
        return f"http://{LOOPBACK}:{self.dashboard_port}/status"


@dataclass(frozen=True, slots=True)
class Site:
    """What the descriptions of a cluster's processes have in common. env: of all of them, secrets included."""

    home: Path
    settings: Settings
    env: Mapping[str, str] = field(repr=False)
    places: Places

    def scheduler(self) -> Part:
        places = self.places
        arguments = [
            *f"-m dask scheduler --host {places.bind} --port {places.scheduler_port}".split(),
            *f"--dashboard-address {LOOPBACK}:{places.dashboard_port} --no-show --preload protheon_dask.run.preload_scheduler".split(),
        ]
        return self._part("scheduler", arguments, probe=http_probe(LOOPBACK, places.dashboard_port))

    def broker(self, *, ephemeral: bool, takes_over: bool) -> Part:
        places = self.places
        arguments = [
            *("-m", "protheon_dask.run.broker", "--scheduler", places.scheduler_address()),
            *("--bind", places.bind, "--port", str(places.broker_port), "--http-port", str(places.http_port)),
            *(["--owns-scheduler", "--dashboard", places.dashboard_link] if places.scheduler is None else []),
            *(["--join-port", str(places.join_port)] if places.join_port is not None else []),
            *(["--ephemeral"] if ephemeral else []),
            *(["--takes-over"] if takes_over else []),
        ]
        return self._part("broker", arguments, more_again=["--goes-on"])

    def workers(self, n_workers: int, *, grace_s: float | None = None) -> Part:
        """``dask worker`` with so many processes of one thread, on this host."""
        places = self.places
        local_directory = self.home / "dask"
        local_directory.mkdir(mode=OWNER_DIR, exist_ok=True)
        limit = memory_option(this_machine(), n_workers)

        def arguments() -> Sequence[str]:
            # other hosts' Dask must reach them
            host, is_tls = address_for_all() if places.bind in EVERYWHERE else places.bind, places.tls is not None
            address = places.scheduler_address(host)
            worker = dask_worker(address, n_workers, name="local", host=host, local_directory=local_directory, is_tls=is_tls)
            return [*worker, *limit]

        env = {**WORKER_MALLOC, "PROTHEON_BROKER": places.broker_address}
        # else one of them that gives up on the scheduler would end all others with itself
        needs = port_probe(places.here.strip("[]"), places.scheduler_port)
        return self._part("workers", arguments, env, needs=needs, grace_s=grace_s)

    def _part(
        self,
        name: str,
        arguments: Sequence[str] | Callable[[], Sequence[str]],
        env: Mapping[str, str] | None = None,
        *,
        more_again: Sequence[str] = (),
        probe: Callable[[], object] | None = None,
        needs: Callable[[], object] | None = None,
        grace_s: float | None = None,
    ) -> Part:
        log = self.home / "logs" / f"{name}.log"
        log.parent.mkdir(mode=OWNER_DIR, exist_ok=True)
        grace_s = self.settings.exit_grace_s / 2 if grace_s is None else grace_s
        return Part(name, arguments, {**self.env, **(env or {})}, log, grace_s, more_again, probe, needs)


class Processes:
    """The supervised processes of a cluster, by name. One that ends for good ends the broker: whoever watches a run notices.

    Guarantee: leave() before they are closed, in any order: none is started again then because another has ended.
    """

    def __init__(self, settings: Settings, on_event: Callable[[str], object]) -> None:
        self._settings, self._on_event = settings, on_event
        self._running: dict[str, Supervised] = {}
        self._ended: Supervised | None = None  # the first of them that ended for good
        self._is_closing = False

    def __contains__(self, name: str) -> bool:
        return name in self._running

    def __getitem__(self, name: str) -> Supervised:
        return self._running[name]

    def values(self) -> Collection[Supervised]:
        return self._running.values()

    def start(self, part: Part, stack: ExitStack) -> Supervised:
        """Start it, once; it is closed with the stack. Raises OSError."""
        on_again = self._end_old_workers if part.name == "scheduler" else lambda _: None
        supervised = Supervised(part, on_event=self._on_event, on_end=self._note_end, on_again=on_again)
        self._running[part.name] = stack.enter_context(supervised)
        return supervised

    def keep(self) -> None:
        """From now on start again what ends."""
        for process in self._running.values():
            process.keep()

    def check(self) -> None:
        """Raise if one has ended for good: ConfigError or BrokerUnavailable, with what it said last. Nothing goes on then."""
        if self._ended is not None:
            self._ended.check()

    def check_each(self) -> None:
        """Raise if one has ended, for good or, before keep(), at all."""
        for process in self._running.values():
            process.check()

    def leave(self) -> None:
        """Start none of them again: one of which another's end is the end would be."""
        self._is_closing = True
        for process in self._running.values():
            process.leave()

    def forget(self) -> None:
        """All of them were closed; others are started."""
        self._running.clear()
        self._ended = None

    def _note_end(self, process: Supervised) -> None:
        if not self._is_closing and self._ended is None:
            self._ended = process
            if "broker" in self._running:
                self._running["broker"].end()

    def _end_old_workers(self, ended_s: float) -> None:
        """The scheduler is a new one: workers of the one before end by themselves, unless one of them is frozen and keeps all others.

        ended_s: when the one before ended. Workers that were started later can only have joined this one.
        """
        if "workers" not in self._running:
            return
        workers = self._running["workers"]
        timer = threading.Timer(self._settings.exit_grace_s + WORKERS_END_S, workers.kill_older, [ended_s])
        timer.daemon = True
        timer.start()


@contextmanager
def turn() -> Iterator[None]:
    """Start alone: else another cluster may take a port between our look and our bind, and our workers join its scheduler."""
    lock = FileLock(rim.start_lock_path())
    with suppress(Timeout):
        lock.acquire(timeout=START_S)
    try:
        yield
    finally:
        lock.release()


def dask_worker(scheduler: str, n_workers: int, *, name: str, host: str, local_directory: Path, is_tls: bool) -> list[str]:
    """Arguments of ``dask worker`` with so many processes of one thread, which run attempts. host: where they listen."""
    return [
        *("-m", "dask", "worker", scheduler, "--nworkers", str(n_workers), "--nthreads", "1", "--name", name, "--host", host),
        # without pages it has a web server none the less, which listens everywhere unless it is told where
        *("--no-dashboard", "--dashboard-address", f"{LOOPBACK}:0"),
        *("--preload", "protheon_dask.run.preload_worker", "--local-directory", str(local_directory)),
        *(("--preload-nanny", "protheon_dask.run.preload_nanny") if is_tls else ()),
    ]


def n_workers_here() -> int:
    """Workers of a cluster on this host, its master's, where nobody said how many: by the cores and the memory that are ours."""
    return choose(this_machine(), beside_bytes=AROUND_BYTES + MASTER_BYTES).n_workers


def memory_option(machine: Machine, n_workers: int) -> list[str]:
    """Of ``dask worker``: what each of so many workers beside their master may have, so that all together stay within the machine's memory.

    None where there is not enough for so many: Dask's own is the part of one core.
    """
    sizing = choose(machine, n_workers, beside_bytes=AROUND_BYTES + MASTER_BYTES + POSTGRES_BYTES)
    return [] if sizing.warning else ["--memory-limit", str(sizing.memory_limit_bytes)]


def bound_port(wanted: int, host: str = LOOPBACK, but_not: Collection[int] = ()) -> int | None:
    """The port that a socket gets on this host for the moment of the look; None: it is taken, or the address is not this host's.

    wanted: 0 is any, if it can be had one that no connection gets before a server of ours has it. but_not: given to other servers of ours.
    """
    tries = [wanted] if wanted else [*(random.randint(*SERVER_PORTS) for _ in range(PORT_TRIES)), 0]
    return next((port for port in (_bound(one, host) for one in tries) if port is not None and port not in but_not), None)


def _bound(wanted: int, host: str) -> int | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            if sys.platform != "win32":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host.strip("[]"), wanted))
            return int(probe.getsockname()[1])
    except OSError:
        return None
