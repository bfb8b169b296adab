"""Everything on this machine, for the time of one command: PostgreSQL if none was named, scheduler, broker, workers."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from protheon_dask.broker.tls import TlsFiles
from protheon_dask.config import Effective, Settings, environment
from protheon_dask.errors import BrokerUnavailable, ConfigError, LedgerUnavailable, ProtheonError, TransientError
from protheon_dask.ledger import runs
from protheon_dask.ledger.connect import opened, place_of
from protheon_dask.ledger.embedded import EmbeddedPostgres
from protheon_dask.ledger.migrate import migrate
from protheon_dask.run import settings as rim
from protheon_dask.run.addresses import LOOPBACK
from protheon_dask.run.master import Master
from protheon_dask.run.parts import DASK_CONFIG, START_S, Places, Processes, Site, bound_port, n_workers_here, turn
from protheon_dask.run.trust.keys import make_key, read_key
from protheon_dask.run.trust.owner_files import make_home, replace_file

START_TRIES = 3
"""Starts of the local cluster until a port that another program took meanwhile is an error: each looks for free ports anew."""
POLL_S = 0.05
OTHERS_S = 0.5
"""Period of the look for runs of other commands."""
LAST_PICTURE_S = 2.0
"""How long the broker answers after the last run of another command has ended: watchers get a picture twice a second."""


@dataclass(frozen=True, slots=True)
class Database:
    """The PostgreSQL to load into, and how it was chosen. url is empty for the embedded one until it runs."""

    url: str = field(repr=False)  # may hold a password
    direct_url: str = field(repr=False)
    origin: str
    embedded_dir: Path | None = None
    notice: str = ""  # nobody named it, and this machine is of a cluster: whose runs are not in it

    @property
    def embedded(self) -> bool:
        return self.embedded_dir is not None


def embedded_server(settings: Settings, directory: Path) -> EmbeddedPostgres:
    """The embedded PostgreSQL with its data there, by the programs that the settings name, if they name any."""
    return EmbeddedPostgres(directory, Path(settings.postgres_bin) if settings.postgres_bin else None)


class LocalCluster:
    """A context manager: starts what is missing, or uses the local master that another command runs.

    Guarantee: every process is a child that ends when this one does, however it ends (run.tether), and one that ends before is
               started again: the runs go on. The data stay.
    """

    def __init__(
        self,
        effective: Effective,
        database: Database,
        *,
        workers: int | None,
        force_own: bool,
        takes_over: bool = False,
        on_event: Callable[[str], None],
    ) -> None:
        self.settings, self._database, self._on_event = effective.settings, database, on_event
        self.n_workers = workers or n_workers_here()
        self._force_own, self._takes_over = force_own, takes_over
        self._home = rim.home_of(self.settings)
        self._stack = ExitStack()
        self._processes = Processes(self.settings, on_event)
        self._ports: list[int] = []  # which our processes were told to listen on
        self._joined: Announced | None = None  # whose cluster is used
        self.client: Master
        self.is_ours = False
        self.dashboard_link = self.http_link = ""
        self.url = database.url

    def __enter__(self) -> Self:
        try:
            with self._stack:
                self._start()
                self._stack = self._stack.pop_all()
        except OSError as exc:
            raise ConfigError(f"the local cluster could not be started: {exc}") from exc
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, where: TracebackType | None) -> None:
        self._processes.leave()
        if "broker" in self._processes:
            self._processes["broker"].end()  # first: what it would hear of workers that end is no loss
        self._stack.close()

    def check(self) -> None:
        """Raise if a process of ours has ended for good: ConfigError or BrokerUnavailable, with what it said last. Nothing goes on then."""
        self._processes.check()

    def wait_others(self, say: Callable[[str], object], own: Collection[int] = ()) -> None:
        """Wait until no run of another command, which found this cluster running and uses it, is still at work here.

        own: runs that are not waited for.
        Call it before a normal end: the end cancels what still runs. A paused run waits for a person, and is not waited for.
        Raises:    what check() raises. KeyboardInterrupt: the person would rather end them.
        Guarantee: returns at once where the cluster is not ours, or nobody else uses it. While PostgreSQL is away it waits on.
        """
        told: set[int] = set()
        while self.is_ours:
            self.check()
            with suppress(LedgerUnavailable):
                others = [run_id for run_id in self._open_runs() if run_id not in own]
                if not others:
                    break
                for run_id in others:
                    if run_id not in told:
                        say(f"run {run_id}, of another command, still runs here: waiting for it; Ctrl-C ends it")
                    told.add(run_id)
            time.sleep(OTHERS_S)
        if told:
            time.sleep(LAST_PICTURE_S)

    def is_gone(self) -> bool:
        """Has the command that ran the cluster which this one joined ended, and its cluster with it? Not so a master that stands:
        its runs go on when it is started again.
        """
        return self._joined is not None and not self._joined.stands and not self._joined.lives()

    def wait_gone(self) -> None:
        """The cluster that was joined interrupts its runs: wait until it does not stand for the next command any more."""
        end_at = time.monotonic() + START_S
        while self._joined is not None and not (self._joined.stands or self.is_gone()) and time.monotonic() < end_at:
            time.sleep(POLL_S)

    def _open_runs(self) -> list[int]:
        with opened(self.url, application="protheon-cli") as conn:
            return runs.ephemeral_runs(conn)

    def worker_pids(self) -> list[tuple[str, int]]:
        """Name and process id of each worker process of ours that runs now."""
        import psutil

        if "workers" not in self._processes:
            return []
        found: list[tuple[float, int]] = []
        try:
            processes = psutil.Process(self._processes["workers"].process.pid).children(recursive=True)
        except psutil.NoSuchProcess:  # it is being started again
            return []
        for process in processes:
            try:
                if "spawn_main" in " ".join(process.cmdline()):
                    found.append((process.create_time(), process.pid))
            except psutil.Error:
                continue
        return [(f"worker {n}", pid) for n, (_, pid) in enumerate(sorted(found), start=1)]

    # --- starting -------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        started_s = time.monotonic()
        make_home(self._home)
        if self._database.embedded_dir is not None:
            postgres = embedded_server(self.settings, self._database.embedded_dir)
            self.url = postgres.start()
            self._stack.callback(postgres.stop)
            self._on_event(f"PostgreSQL is ready, its data stay in {self._database.embedded_dir}")
        direct_url = self._database.direct_url or self.url
        if self._joins_running():
            return
        with turn():
            if self._joins_running():  # another command started it while this one waited for its turn
                return
            migrate(direct_url)
            self.is_ours = True
            settings = replace(self.settings, database_url=self.url, direct_url=self._database.direct_url, tls_dir="")
            env = {**rim.environment(), **DASK_CONFIG, **environment(settings), "PROTHEON_KEY_FILE": str(make_key(self._home))}
            self._start_where_free(settings, env)
            self._processes.keep()
        self._on_event(self._told_ready(time.monotonic() - started_s))

    def _told_ready(self, seconds: float) -> str:
        workers = "1 worker" if self.n_workers == 1 else f"{self.n_workers} workers"
        return f"scheduler, broker and {workers} are ready after {seconds:.1f} s"

    def _joins_running(self) -> bool:
        """Use the local master that another command runs over this ledger, if there is one and it may be used."""
        if self._force_own or (found := find_joined(self._home, self.url, to_use=True)) is None:
            return False
        joined, master = found
        self.client = self._stack.enter_context(master)
        try:
            info = master.info()
            self.dashboard_link, self.http_link = info.dashboard_link, f"http://{info.http_address}"
        except BrokerUnavailable:  # its command ends it at this moment
            return False
        self._joined = joined
        self._on_event("using the local master that is running already")
        return True

    def _start_where_free(self, settings: Settings, env: Mapping[str, str]) -> None:
        """Start all; once more, on other ports, where another program took one between our look and the bind: our turn is our user's."""
        outer = self._stack
        for n in range(1, START_TRIES + 1):
            try:
                with ExitStack() as self._stack:
                    self._start_all(settings, env)
                    outer.push(self._stack.pop_all())
                return
            except ProtheonError as exc:
                # ours have ended: a port that is taken is another's; one that a connection had may be free by now
                if n == START_TRIES or not (isinstance(exc, BrokerUnavailable) or any(_is_taken(port) for port in self._ports)):
                    raise
            finally:
                self._stack = outer
            self._processes.forget()

    def _start_all(self, settings: Settings, env: Mapping[str, str]) -> None:
        ports = list[int]()
        for wanted in (settings.scheduler_port, settings.dashboard_port, settings.broker_port, settings.http_port):
            ports.append(free_port(wanted, but_not=ports))
        scheduler_port, dashboard_port, broker_port, http_port = ports
        places = Places(scheduler_port=scheduler_port, dashboard_port=dashboard_port, broker_port=broker_port, http_port=http_port)
        self._ports = [places.scheduler_port, places.broker_port, places.http_port]  # Dask takes another port for its dashboard by itself
        self.dashboard_link, self.http_link = places.dashboard_link, f"http://{LOOPBACK}:{places.http_port}"
        site = Site(self._home, self.settings, env, places)
        self._processes.start(site.scheduler(), self._stack)
        takes_over = self._takes_over or any(self._home.glob(ANNOUNCEMENTS))
        broker = self._processes.start(site.broker(ephemeral=True, takes_over=takes_over), self._stack)
        self._processes.start(site.workers(self.n_workers), self._stack)
        try:
            broker.first_line(START_S)
        except ProtheonError:
            self.check()  # it may have been ended because of another: that one's words tell why
            raise
        address = places.broker_address
        master = Master(address, read_key(env["PROTHEON_KEY_FILE"]), check=self.check, comes_back=lambda: True)
        self.client = self._stack.enter_context(master)
        self._stack.callback(announce(self._home, self.client.info().ledger_id, address, os.getpid()).unlink, missing_ok=True)
        self._wait_workers()

    def _wait_workers(self) -> None:
        end_at = time.monotonic() + START_S
        while self._n_threads() < self.n_workers:
            if time.monotonic() > end_at:
                raise TransientError(f"the workers did not start within {START_S:g} s: see {self._home / 'logs'}")
            time.sleep(POLL_S)

    def _n_threads(self) -> int:
        self._processes.check_each()
        return self.client.info().n_threads


ANNOUNCEMENTS = "local-master-*.json"
"""Files below home, one for each ledger that a local master of this user leads, or led when it was killed."""


STANDING: Final = "standing-master-*.json"
"""Files below home, one for each ledger of a master that stands, or stood when it was killed: the database that its user means."""


class SeveralMasters(ConfigError):
    """Nobody can tell in whose database."""


def announce(home: Path, ledger_id: str, address: str, pid: int, tls: TlsFiles | None = None, *, stands: bool = False) -> Path:
    """Write down where the local master of a ledger can be found by the next command: one file for each ledger.

    pid: of the command that runs it, and starts it again. tls: by which clients of this host speak to it.
    stands: its runs do not end with that command.
    """
    path = home / f"local-master-{ledger_id}.json"
    told = {"address": address, "pid": pid, "tls": str(tls.directory) if tls else "", "stands": stands}
    replace_file(path, json.dumps(told).encode())
    return path


def announce_database(home: Path, ledger_id: str, pid: int, database: Database) -> Path:
    """Write down the database of a master that stands, for this user alone: commands that name none load there, too.

    It outlives a master that is killed, and the clusters of commands that go on with its runs.
    """
    path = home / f"standing-master-{ledger_id}.json"
    replace_file(path, json.dumps({"pid": pid, "database_url": database.url, "direct_url": database.direct_url}).encode())
    return path


def standing_database(home: Path) -> Database | None:
    """The database of the master that stands here, else of the one that was killed and may come back; None: there is none.

    Raises SeveralMasters.
    """
    living, killed = dict[str, Database](), dict[str, Database]()
    for announced in home.glob(STANDING):
        with suppress(OSError, ValueError, KeyError):  # it ends at this moment
            told = json.loads(announced.read_text())
            url, pid = str(told["database_url"]), int(told["pid"])
            if _lives(pid):
                living[url] = Database(url, str(told["direct_url"]), f"the master that process {pid} runs")
            else:
                killed[url] = Database(url, str(told["direct_url"]), f"the master that process {pid} ran until it was killed")
    found = living or killed
    if len(found) > 1:
        places = " and ".join(sorted(f"{place_of(url)} ({one.origin})" for url, one in found.items()))
        raise SeveralMasters(f"which database is meant, of {places}? name one by --into or PROTHEON_DATABASE_URL")
    return next(iter(found.values()), None)


def find_local(home: Path, url: str) -> Master | None:
    """The local master that another command of this user runs, if it leads the ledger at url; else None."""
    found = find_joined(home, url)
    return None if found is None else found[1]


@dataclass(frozen=True, slots=True)
class Announced:
    """What another command announced of the local master that it runs."""

    path: Path
    text: str
    address: str
    pid: int
    stands: bool = False

    def lives(self) -> bool:
        """Does that command still live, and stand by its master? One that was killed leaves the file, another end takes it along."""
        try:
            return self.path.read_text() == self.text and _lives(self.pid)
        except OSError:
            return False

    def check(self) -> None:
        """Raise BrokerUnavailable if it does not: but for one that stands, nobody starts it again, and its runs are interrupted."""
        if not self.lives():
            raise BrokerUnavailable("the command that ran the cluster has ended")


def find_joined(home: Path, url: str, *, to_use: bool = False) -> tuple[Announced, Master] | None:
    """As find_local, with what was announced. to_use: only while its command lives; the master's check raises once it does not."""
    if not any(home.glob(ANNOUNCEMENTS)):
        return None
    from protheon_dask.ledger import reports
    from protheon_dask.ledger.migrate import applied

    with opened(url, application="protheon-cli") as conn:
        if not applied(conn):
            return None
        ledger_id = str(reports.status(conn)["ledger_id"])
    path = home / f"local-master-{ledger_id}.json"
    try:
        text = path.read_text()
        announced = json.loads(text)
        joined = Announced(path, text, announced["address"], int(announced["pid"]), bool(announced.get("stands")))
        if to_use:
            joined.check()
        tls = TlsFiles(Path(announced["tls"])) if announced.get("tls") else None
        master = Master(
            joined.address,
            read_key(make_key(home)),
            check=joined.check if to_use and not joined.stands else lambda: None,
            comes_back=lambda: joined.stands or _lives(joined.pid),
            tls=tls,
        )
    except (OSError, ValueError, KeyError, ProtheonError):
        return None
    with suppress(ProtheonError):
        if master.info().ledger_id == ledger_id:  # else its port is another master's by now
            return joined, master
    master.close()
    return None


def _lives(pid: int) -> bool:
    """Does the process run? One that was killed, and that its parent has not asked after yet, does not."""
    import psutil

    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def free_port(wanted: int, host: str = LOOPBACK, but_not: Collection[int] = ()) -> int:
    """The wanted port of this host's address if it is free, there and on loopback, else any other; none that was given away already."""
    for port in (wanted, *(0,) * START_TRIES):
        if (found := bound_port(port, host, but_not)) is not None and (host == LOOPBACK or bound_port(found) is not None):
            return found
    raise ConfigError(f"no port is free on {host}")


def _is_taken(port: int) -> bool:
    return bound_port(port) is None
