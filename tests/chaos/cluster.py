"""The campaign's cluster: real processes on one machine, each started again when it ends, with proxies where a network would be.

A *host* is a group of worker processes with a host name, a line to PostgreSQL and a line to the broker of its own. A *part* is
one command that is kept running: the scheduler, the broker, a nanny with its worker process, a client that types a submission.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Self

import psutil

from protheon_dask.config import Settings, environment
from protheon_dask.errors import ProtheonError
from protheon_dask.ledger.migrate import migrate
from protheon_dask.run.master import Master
from protheon_dask.run.parts import DASK_CONFIG, WORKER_MALLOC
from protheon_dask.run.trust.keys import make_key, read_key
from tests.chaos.looks import Ledger
from tests.chaos.note_client import make_table
from tests.chaos.proxy import Proxy
from tests.fixtures.own_postgres import MAY_MOUNT, OwnServer
from tests.fixtures.ports import kept_port
from tests.fixtures.postgres import find_test_binaries, scratch_dir
from tests.fixtures.processes import of_home

LOOPBACK = "127.0.0.1"
ROOT = str(Path(__file__).parents[2])
"""Where every process finds what the campaign brings along: clients, broken variants, functions of tasks."""
LEASE_S, RENEW_S, EXIT_GRACE_S = 10.0, 2.5, 5.0
WORKSPACE_BYTES = 24 << 20
"""Of the file system that the workspace is on: small enough to be filled."""
QUOTA_BYTES = 3 << 19
"""The splitters stay a few chunks ahead, so that cutting goes on as long as loading does."""
LINK_BYTES_PER_S = 400 << 10
"""Of chunk bytes on their way to one worker: a transfer takes long enough to be hit."""
START_S = 60.0
RESTART_S = 0.5
"""How long a part that ended stays away."""
KEEP_S = 0.1
CLOCK = "clock.so"
FREEZER = Path("/sys/fs/cgroup/freezer")


@dataclass
class Part:
    """One command that is kept running. starts: Unix times. clock_s: of its next start alone."""

    name: str
    command: Sequence[str]
    env: dict[str, str]
    log: Path
    host: str = ""
    clock_s: float = 0.0
    is_held: bool = False
    is_over: bool = False
    starts: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None
    seen: set[int] = field(default_factory=set)  # ids of all processes that it ever had

    def start(self) -> None:
        """Start it behind a tether: it ends with the campaign, however that ends."""
        env = {**self.env}
        if self.clock_s:
            env |= {"LD_PRELOAD": str(self.log.parent.with_name(CLOCK)), "CHAOS_CLOCK_S": f"{self.clock_s:.0f}"}
        tether = [sys.executable, "-m", "protheon_dask.run.tether", "--grace", "2", "--", *self.command]
        self._let_go()
        with self.log.open("ab") as log:
            log.write(f"--- started at {time.time():.3f}, clock {self.clock_s:+.0f} s\n".encode())
            self.process = subprocess.Popen(tether, env=env, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)
        self.clock_s = 0.0
        self.starts.append(time.time())

    def _let_go(self) -> None:
        """Of its tether, which ends then, or has ended."""
        if self.process is not None:
            assert self.process.stdin is not None, "Popen was given a pipe"
            self.process.stdin.close()
            self.process.wait()

    def processes(self) -> list[psutil.Process]:
        """The command itself, then all that it started; the tether is not among them."""
        if self.process is None:
            return []
        with suppress(psutil.Error):
            found = psutil.Process(self.process.pid).children(recursive=True)
            self.seen.update(process.pid for process in found)
            return found
        return []

    @property
    def main(self) -> psutil.Process | None:
        """The command's process."""
        return next(iter(self.processes()), None)

    @property
    def worker(self) -> psutil.Process | None:
        """The worker process below a nanny."""
        for process in self.processes():
            with suppress(psutil.Error):
                if "spawn_main" in " ".join(process.cmdline()):
                    return process
        return None

    def kill(self) -> list[int]:
        """Kill -9 all of it, each process by its id."""
        killed = []
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()
                killed.append(process.pid)
        return killed

    def end(self) -> None:
        """End it for good: politely, then by force."""
        self.is_over = True
        processes = self.processes()
        for process in processes:
            with suppress(psutil.Error):
                process.send_signal(signal.SIGCONT)
        self._let_go()
        for process in processes:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(processes, timeout=10)


@dataclass
class Host:
    """Workers that share a machine's fate."""

    name: str
    parts: list[Part]
    postgres: Proxy
    broker: Proxy


class Cluster:
    """A context manager: everything runs on entering, and nothing is left after leaving.

    hosts:    how many worker processes each host has.
    variants: modules that are preloaded into workers; the first is run in the broker's place (tests/chaos/variants.py).
    env:      what all processes see besides.
    """

    def __init__(
        self,
        directory: Path,
        hosts: Sequence[int] = (1, 1, 2),
        *,
        variants: Sequence[str] = (),
        env: Mapping[str, str] = MappingProxyType({}),
        **settings: float,
    ) -> None:
        self.directory, self._shape, self._variants, self._extra_env = directory, hosts, variants, env
        self._settings = settings
        self.lease_s = settings.get("lease_s", LEASE_S)
        self._stack = ExitStack()
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._is_closing = threading.Event()
        self._lock = threading.Lock()
        self.ground = threading.Lock()  # held while PostgreSQL is stopped: two faults cannot stop it at once
        self.ending = threading.Event()  # set when no fault is to stand any longer
        self._freezers: list[Freezer] = []
        self.parts: dict[str, Part] = {}
        self.hosts: dict[str, Host] = {}

    @property
    def workers(self) -> list[Part]:
        return [part for host in self.hosts.values() for part in host.parts]

    def __enter__(self) -> Self:
        with self._stack:
            self._start()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        logs = self.directory / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        (self.directory / "dask").mkdir(exist_ok=True)
        self.can_shift_clocks = make_clock(self.directory / CLOCK)
        self.workspace = self._stack.enter_context(small_disk(self.directory / "workspace", WORKSPACE_BYTES))
        self.server = OwnServer(
            find_test_binaries(),
            self._stack.enter_context(scratch_dir()),
            # what was committed must outlive an immediate stop; the machine itself does not fail, so nothing waits for a disk
            {"synchronous_commit": "on", "max_connections": "100"},
        )
        self.server.make()
        self.server.start()
        self._stack.callback(self.server.stop)
        self.server.execute("CREATE DATABASE campaign TEMPLATE template0")
        self.url = self.server.url("campaign")
        make_table(self.url)
        migrate(self.url)
        self.ledger = self._stack.enter_context(Ledger(self.url))
        self.key_file = make_key(self.directory)
        self.scheduler_port, self.broker_port = kept_port(), kept_port()
        self.broker_postgres = self._postgres_proxy()
        self._stack.callback(self.end_parts)
        scheduler = f"tcp://{LOOPBACK}:{self.scheduler_port}"
        self.scheduler_address, self.broker_address = scheduler, f"{LOOPBACK}:{self.broker_port}"
        dashboard = f"{LOOPBACK}:{kept_port()}"
        python = [sys.executable, "-m"]
        self._add("scheduler", [*python, *f"dask scheduler --host {LOOPBACK} --port {self.scheduler_port}".split(),
                                "--dashboard-address", dashboard, "--no-show"], self._env(self.broker_postgres))  # fmt: skip
        broker_module = self._variants[0] if self._variants else "protheon_dask.run.broker"
        self._add("broker", [*python, broker_module, "--scheduler", scheduler, "--port", str(self.broker_port)],
                  self._env(self.broker_postgres))  # fmt: skip
        for letter, n_workers in zip("abcdefgh", self._shape, strict=False):
            self._add_host(f"chaos-{letter}", n_workers)
        self._keeper.start()
        self.wait_ready()

    def _postgres_proxy(self) -> Proxy:
        return self._stack.enter_context(Proxy((LOOPBACK, self.server.port)))

    def _env(self, postgres: Proxy) -> dict[str, str]:
        """What a process of the campaign sees: its database is behind its proxy."""
        url = f"{self.server.url('campaign').replace(f':{self.server.port}/', f':{postgres.port}/')}?sslmode=disable"
        values = {
            "lease_s": LEASE_S,
            "renew_s": RENEW_S,
            "exit_grace_s": EXIT_GRACE_S,
            "workspace_quota_bytes": QUOTA_BYTES,
            "http_port": 0,
        }
        settings = Settings(
            database_url=url,
            home=str(self.directory),
            workspace=str(self.workspace),
            **{**values, **self._settings},  # type: ignore[arg-type]
        )
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PROTHEON_", "PG", "DATABASE_URL", "DASK_"))}
        return {
            **kept,
            **DASK_CONFIG,
            **environment(settings),
            "PROTHEON_KEY_FILE": str(self.key_file),
            "PYTHONPATH": ROOT,
            **self._extra_env,
        }

    def _add(self, name: str, command: Sequence[str], env: dict[str, str], host: str = "") -> Part:
        part = Part(name, command, env, self.directory / "logs" / f"{name}.log", host)
        with self._lock:
            self.parts[name] = part
        part.start()
        return part

    def _add_host(self, name: str, n_workers: int) -> None:
        postgres = self._postgres_proxy()
        broker = self._stack.enter_context(Proxy((LOOPBACK, self.broker_port), rate_bytes_per_s=LINK_BYTES_PER_S))
        env = {**WORKER_MALLOC, **self._env(postgres), "PROTHEON_BROKER": f"{LOOPBACK}:{broker.port}"}
        host = Host(name, [], postgres, broker)
        for n in range(1, n_workers + 1):
            command = [
                *as_host(name),
                *f"{sys.executable} -m dask worker {self.scheduler_address} --nworkers 1 --nthreads 1".split(),
                *f"--name {name}-{n} --host {LOOPBACK} --no-dashboard --preload protheon_dask.run.preload_worker".split(),
                *(argument for variant in self._variants for argument in ("--preload", variant)),
                *("--local-directory", str(self.directory / "dask")),
            ]
            host.parts.append(self._add(f"{name}-{n}", command, env, name))
        self.hosts[name] = host

    def wait_ready(self, timeout_s: float = START_S) -> None:
        """Wait until the broker sees every worker."""
        end_at = time.monotonic() + timeout_s
        with self.master() as master:
            while True:
                with suppress(ProtheonError):
                    if master.info().n_threads >= sum(self._shape):
                        return
                if time.monotonic() > end_at:
                    raise TimeoutError(f"the cluster is not complete after {timeout_s:g} s: see {self.directory / 'logs'}")
                time.sleep(KEEP_S)

    def master(self) -> Master:
        """A client of the broker, not through a proxy."""
        return Master(self.broker_address, read_key(self.key_file))

    def submit(self, name: str, pipeline: str, paths: Sequence[str], chunk_lines: int) -> Part:
        """Keep a client running that types this submission again and again until its run has ended well."""
        command = [sys.executable, "-m", "tests.chaos.client", self.broker_address, str(self.key_file), pipeline, str(chunk_lines), *paths]
        return self._add(name, command, self._env(self.broker_postgres))

    def submit_notes(self, name: str, expected_file: Path, first_no: int, n: int) -> Part:
        """Keep a client running that has n of the expected notes written, from first_no on, until all are."""
        given = [self.broker_address, self.key_file, expected_file, first_no, n]
        command = [sys.executable, "-m", "tests.chaos.note_client", *map(str, given)]
        return self._add(name, command, self._env(self.broker_postgres))

    def clients(self) -> list[Part]:
        with self._lock:
            return [part for name, part in self.parts.items() if name.startswith("client")]

    # --- keeping ----------------------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        while not self._is_closing.wait(KEEP_S):
            with self._lock:
                parts = list(self.parts.values())
            for part in parts:
                if part.process is None or part.process.poll() is None:
                    continue
                if len(part.ends) < len(part.starts):
                    part.ends.append(time.time())
                if part.name.startswith("client") and part.process.returncode == 0:
                    part.is_over = True
                if not (part.is_over or part.is_held) and time.time() - part.ends[-1] > RESTART_S:
                    part.start()

    def end_parts(self) -> None:
        """End every process but PostgreSQL; idempotent."""
        self.ending.set()
        self._is_closing.set()
        for freezer in self._freezers:
            freezer.thaw()
        if self._keeper.is_alive():
            self._keeper.join()
        for order in ("client", "chaos-", "broker", "scheduler"):
            threads = [threading.Thread(target=part.end) for part in self.parts.values() if part.name.startswith(order)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    def freezer(self, name: str) -> Freezer:
        """A control group of this campaign, thawed and removed at its end at the latest."""
        made = Freezer(f"{self.directory.name}-{name}")
        self._freezers.append(made)
        return made

    def left_behind(self) -> list[int]:
        """Processes of the campaign's parts that still run: none, after the end."""
        return [process.pid for process in of_home(self.directory) if process.pid != os.getpid()]


def as_host(name: str) -> list[str]:
    """What makes a command believe that it is on a host of this name; nothing where that needs rights that we lack."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("unshare") is None:
        return []
    return ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', name]


def make_clock(library: Path) -> bool:
    """Make the library that shows a process another date; False: this machine has no compiler, and no clock is shifted."""
    if sys.platform != "linux" or shutil.which("cc") is None:
        return False
    source = Path(__file__).with_name("clock.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-Wall", "-o", str(library), str(source)], check=True)
    return True


@contextmanager
def small_disk(place: Path, n_bytes: int) -> Iterator[Path]:
    """A file system of its own where we may mount one, else a plain directory, which cannot be filled."""
    place.mkdir(parents=True, exist_ok=True)
    if not MAY_MOUNT:
        yield place
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={n_bytes}", "protheon-chaos", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


class Freezer:
    """A control group whose processes stand still while frozen: as a machine that sleeps."""

    def __init__(self, name: str) -> None:
        self._group = FREEZER / name
        self._processes: Sequence[psutil.Process] = ()
        self.is_real = os.geteuid() == 0 and (FREEZER / "cgroup.procs").exists()

    def freeze(self, processes: Sequence[psutil.Process]) -> None:
        """Stop all of them at once; by SIGSTOP where there is no freezer."""
        self._processes = processes
        if not self.is_real:
            self._signal(signal.SIGSTOP)
            return
        self._group.mkdir(exist_ok=True)
        for process in processes:
            with suppress(OSError):
                (self._group / "cgroup.procs").write_text(str(process.pid))
        (self._group / "freezer.state").write_text("FROZEN")

    def thaw(self) -> None:
        """Let them go on, out of the group, which is removed. Idempotent."""
        if not self.is_real:
            self._signal(signal.SIGCONT)
            return
        wait_until(self._is_gone, 10, KEEP_S)

    def _is_gone(self) -> bool:
        """Thaw it and move its processes out, of which some may end meanwhile; then remove it."""
        with suppress(OSError):
            (self._group / "freezer.state").write_text("THAWED")
            for pid in (self._group / "cgroup.procs").read_text().split():
                with suppress(OSError):
                    (FREEZER / "cgroup.procs").write_text(pid)
            self._group.rmdir()
        return not self._group.exists()

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes:
            with suppress(psutil.Error):
                process.send_signal(number)


def wait_until(condition: Callable[[], object], timeout_s: float, period_s: float = 0.05) -> bool:
    """Wait for the condition; False: not within timeout_s."""
    end_at = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end_at:
            return False
        time.sleep(period_s)
    return True
