"""A master that stands: scheduler, broker and, if wanted, workers of this host, until it is told to end. Runs outlive it."""

from __future__ import annotations

import os
import shlex
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from protheon_dask.broker.cluster_wire import EVERYWHERE
from protheon_dask.broker.peers import is_loopback
from protheon_dask.broker.tls import TlsFiles
from protheon_dask.config import Effective, Settings, environment, mask
from protheon_dask.errors import ConfigError, MissingSetting, ProtheonError, TransientError
from protheon_dask.ledger import leadership
from protheon_dask.ledger.connect import opened, place_of, spelled_out
from protheon_dask.ledger.migrate import applied, migrate
from protheon_dask.run import settings as rim
from protheon_dask.run.addresses import LOOPBACK, bracketed, is_near, led_already, own_addresses
from protheon_dask.run.local import ANNOUNCEMENTS, POLL_S, Database, announce, announce_database, embedded_server, find_joined
from protheon_dask.run.master import Master
from protheon_dask.run.parts import (
    DASK_CONFIG,
    START_S,
    WORKERS_END_S,
    Places,
    Processes,
    Site,
    bound_port,
    n_workers_here,
    turn,
)
from protheon_dask.run.roll import Roll
from protheon_dask.run.trust.identity import HOST_VARIABLE, dask_environment, joined_master, own_name, tls_of
from protheon_dask.run.trust.keys import make_key, read_key
from protheon_dask.run.trust.owner_files import make_home

if TYPE_CHECKING:
    from protheon_dask.run.trust.authority import Authority

APPLICATION: Final = "protheon-master"
CHECK_S: Final = 0.5
"""Period of the look whether a part has ended for good."""
HOSTS_LOOK_S: Final = 2.0
"""Period of the look which hosts are here: one call, which the broker answers from what it knows already."""
RENEW_LOOK_S: Final = 300.0
"""Period of the look whether the master's own certificate is due: hours are left then."""
TOLD_LATE_S: Final = 4.0
"""What a worker takes after its grace to say what it gives back, to the ledger and to the scheduler (preload_worker, SAY_S and polls)."""
DRAIN_FILE: Final = "drain"
"""Below home/dask: once it is there, the workers of this master take no more (preload_worker)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterWish:
    """What a person asked of a standing master."""

    bind: str = LOOPBACK
    workers: int | None = None  # of this host; None: by cores and memory on loopback, none beyond: `protheon worker` brings some
    is_insecure: bool = False

    @property
    def is_open(self) -> bool:
        """Can other hosts reach it?"""
        return not is_loopback(self.bind)

    @property
    def n_workers(self) -> int:
        if self.workers is not None:
            return self.workers
        return 0 if self.is_open else n_workers_here()


class StandingMaster:
    """A context manager: starts all, or raises and leaves nothing. Then wait(), until that raises.

    Guarantee: what dies is started again, with a pause that grows. Its end is bounded: the workers of this host take no more, finish
               or give back within exit_grace_s what they have, then broker and scheduler end. Runs and tasks stay as they are in the
               ledger, and go on at the next start. Should this process be killed, its children end too (run.tether).
    """

    def __init__(self, effective: Effective, database: Database, wish: MasterWish, *, on_event: Callable[[str], object]) -> None:
        """Raises ConfigError: what was asked for is not safe, or would serve nobody; the message names the option to give."""
        if not database.embedded:
            database = replace(database, url=spelled_out(database.url))
        wish = replace(wish, workers=wish.n_workers)  # once: a quota may change while it stands
        self.settings, self._database, self.wish, self._on_event = effective.settings, database, wish, on_event
        self.home = rim.home_of(self.settings)
        self.tls, self._authority = _identity(effective, wish)
        check_reachable(wish, database)
        self._drain_file = self.home / "dask" / DRAIN_FILE
        self._processes = Processes(self.settings, on_event)
        self._stack, self._closing = ExitStack(), threading.Event()
        self.url = database.url
        self.places: Places
        self.client: Master

    def __enter__(self) -> Self:
        try:
            with self._stack:
                self._start()
                self._stack = self._stack.pop_all()
        except OSError as exc:
            raise ConfigError(f"the master could not be started: {exc}") from exc
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, where: TracebackType | None) -> None:
        self._closing.set()
        self._processes.leave()
        with self._stack:  # it ends what is left, also where a person has no patience
            self._tell("ending: runs go on when the master is started again")
            if self.wish.n_workers:
                self._drain()
            self._processes["broker"].end()

    def wait(self) -> None:
        """Wait until a part cannot be started again: ConfigError or BrokerUnavailable, with its last words."""
        while True:
            self._processes.check()
            time.sleep(CHECK_S)

    def invite_line(self) -> str:
        """A line to paste on another host, good once within an hour. Raises MissingSetting: there is no authority here."""
        from protheon_dask.run.trust.founding import invite

        return invite(replace(self.settings, join_port=self.places.join_port or self.settings.join_port), 3600.0, 1).line

    def whereabouts(self) -> list[tuple[str, str]]:
        """Where everything is, in the order of use, without a secret."""
        places, is_tls = self.places, self.tls is not None
        kind = "mutual TLS" if is_tls else "plaintext"
        told = [
            ("gRPC", f"{bracketed(places.bind)}:{places.broker_port} ({kind})"),
            ("Dask's scheduler", places.scheduler_address()),
            *([("joining", f"https://{bracketed(places.bind)}:{places.join_port}")] if places.join_port is not None else []),
            ("dashboard", f"{places.dashboard_link} (this host alone: ssh -L {places.dashboard_port}:{LOOPBACK}:{places.dashboard_port})"),
            ("HTTP", f"http://{LOOPBACK}:{places.http_port}/metrics (this host alone)"),
            ("database", mask(self.url)),
            ("home", str(self.home)),
            ("workers here", str(self.wish.n_workers)),
        ]
        if is_tls and self.wish.is_open:
            told.append(("another host", "`protheon cluster invite` prints the line to paste there"))
        elif self.wish.is_open:
            host = next(iter(own_addresses()), socket.gethostname()) if places.bind in EVERYWHERE else places.bind
            master = f"{bracketed(host)}:{places.broker_port}"
            url = mask(self.url) if "://" in self.url else "URL"
            told.append(("another host", f"PROTHEON_KEY_FILE=FILE protheon worker {master} --insecure --into {shlex.quote(url)}"))
            told.append(("FILE there", f"a copy of {make_key(self.home)}, for this user alone: pipelines that travel by value are signed"))
        return told

    # --- starting -------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        make_home(self.home)
        if self._database.embedded_dir is not None:
            postgres = embedded_server(self.settings, self._database.embedded_dir)
            self.url = postgres.start()
            self._stack.callback(postgres.stop)
        with turn():
            self._refuse_second()
            migrate(self._database.direct_url or self.url)
            self._renew()
            self.places = self._free_places()
            self._start_all()
        self._processes.keep()
        if self.wish.is_open or self.tls is not None:
            threading.Thread(target=self._keep_roll, name="keep-roll", daemon=True).start()
        if self.tls is not None:
            threading.Thread(target=self._keep_renewed, name="renew-certificate", daemon=True).start()

    def _refuse_second(self) -> None:
        """Raise ConfigError if this ledger is led: at once, and by name, where that can be told before anything is started."""
        found = find_joined(self.home, self.url, to_use=True)
        if found is not None:
            joined, master = found
            master.close()
            raise ConfigError(
                f"a master leads this ledger already: process {joined.pid} of this host, at {joined.address}; "
                "use that one (`protheon load` finds it), or stop it first"
            )
        if self._is_restart():  # what was killed a moment ago may still hold the lead: the broker waits for that
            return
        with opened(self._database.direct_url or self.url, application=APPLICATION) as conn:
            if applied(conn) and (leader := leadership.leader(conn)) is not None:
                raise ConfigError(led_already(str(leader), joined_master(self.settings)))

    def _is_restart(self) -> bool:
        return any(self.home.glob(ANNOUNCEMENTS))

    def _free_places(self) -> Places:
        """Every port that was asked for, or a free one where that is 0. Raises ConfigError, with all that are taken."""
        settings, bind = self.settings, self.wish.bind
        if bound_port(0, bind) is None:
            raise ConfigError(f"--bind {bind}: this is no address of this machine; 0.0.0.0 is all of them")
        wanted = {
            "broker_port": ("gRPC", settings.broker_port, bind),
            "scheduler_port": ("Dask's scheduler", settings.scheduler_port, bind),
            "dashboard_port": ("the dashboard", settings.dashboard_port, LOOPBACK),
            "http_port": ("HTTP", settings.http_port, LOOPBACK),
        }
        if self.tls is not None and self.wish.is_open:
            wanted["join_port"] = ("joining", settings.join_port, bind)
        ports, problems = dict[str, int](), list[str]()
        for name, (what, port, host) in wanted.items():
            if port in ports.values():
                problems.append(f"port {port}, of {what}, is asked for twice: set PROTHEON_{name.upper()} to another (0: any)")
                continue
            found, place = bound_port(port, host, ports.values()), host
            if name == "broker_port" and found is not None and not is_loopback(bind) and bound_port(found) is None:
                found, place = None, LOOPBACK  # where it listens, too
            if found is None:
                problems.append(
                    f"port {port} on {place}, of {what}, is taken: stop what listens there, or set PROTHEON_{name.upper()} (0: any)"
                )
            else:
                ports[name] = found
        if problems:
            raise ConfigError("; ".join(problems))
        return Places(
            bind=bind,
            tls=self.tls,
            broker_port=ports["broker_port"],
            scheduler_port=ports["scheduler_port"],
            dashboard_port=ports["dashboard_port"],
            http_port=ports["http_port"],
            join_port=ports.get("join_port"),
        )

    def _start_all(self) -> None:
        tls_dir = str(self.tls.directory.absolute()) if self.tls else ""
        settings = replace(
            self.settings, home=str(self.home.absolute()), database_url=self.url, direct_url=self._database.direct_url, tls_dir=tls_dir
        )
        env = {
            **rim.environment(),
            **DASK_CONFIG,
            **dask_environment(self.tls),
            **environment(settings),
            HOST_VARIABLE: self._own_name(settings),
            "PROTHEON_KEY_FILE": str(make_key(self.home)),
            "PROTHEON_DRAIN_FILE": str(self._drain_file),
        }
        site = Site(self.home, settings, env, self.places)
        self._processes.start(site.scheduler(), self._stack)
        broker = self._processes.start(site.broker(ephemeral=False, takes_over=self._is_restart()), self._stack)
        if self.wish.n_workers:
            self._drain_file.unlink(missing_ok=True)
            self._processes.start(site.workers(self.wish.n_workers), self._stack)
        try:
            broker.first_line(START_S)
        except ProtheonError:
            self._processes.check()  # it may have been ended because of another: that one's words tell why
            raise
        address = self.places.broker_address
        master = Master(address, read_key(env["PROTHEON_KEY_FILE"]), check=self._processes.check, comes_back=lambda: True, tls=self.tls)
        self.client = self._stack.enter_context(master)
        ledger_id = self.client.info().ledger_id
        told = [announce(self.home, ledger_id, address, os.getpid(), self.tls, stands=True)]
        if not self._database.embedded:  # that is where they load anyway
            told.append(announce_database(self.home, ledger_id, os.getpid(), self._database))
        for path in told:
            self._stack.callback(path.unlink, missing_ok=True)
        if self.tls is not None:
            from protheon_dask.run.trust.membership import note_master

            note_master(self.tls, address)
        end_at = time.monotonic() + START_S
        while self._n_threads() < self.wish.n_workers:
            if time.monotonic() > end_at:
                raise TransientError(f"the workers did not start within {START_S:g} s: see {self.home / 'logs'}")
            time.sleep(POLL_S)

    def _n_threads(self) -> int:
        self._processes.check_each()
        return self.client.info().n_threads

    def _own_name(self, settings: Settings) -> str:
        if self.tls is None:
            return own_name(settings)
        from protheon_dask.run.trust.membership import identity_of

        return identity_of(self.tls).host  # whatever this process was told: hosts that join know the master by it

    # --- while it stands ------------------------------------------------------------------------------------------------

    def _renew(self) -> None:
        """Get a new certificate from our own authority where it is time: also one that ended while the master rested."""
        if self.tls is None or self._authority is None:
            return
        from protheon_dask.run.trust.membership import renew_own_if_due

        if renew_own_if_due(self.tls, self._authority):
            self._on_event("the master's certificate was renewed")

    def _keep_renewed(self) -> None:
        while not self._closing.wait(RENEW_LOOK_S):
            try:
                self._renew()
            except (ProtheonError, OSError) as exc:  # a disk that is full: it is tried again long before the old one ends
                self._on_event(f"the master's certificate could not be renewed, and will be tried again: {exc}")

    def _keep_roll(self) -> None:
        roll: Roll | None = None
        while not self._closing.wait(HOSTS_LOOK_S):
            try:
                hosts = self.client.hosts()
                roll = roll or Roll(self._own_name(self.settings), hosts)
            except ProtheonError:  # the broker is started again: what it tells then counts
                continue
            for line in roll.changes(hosts):
                self._tell(line)

    def _tell(self, line: str) -> None:
        """Also where nobody reads any more: Ctrl-C ends the other end of a pipe as well."""
        with suppress(OSError, SystemExit):
            self._on_event(line)

    # --- its end --------------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """The workers of this host finish what they have, or give it back; they are ended if that takes longer than it may."""
        self._tell("the workers of this host finish what they have, or give it back")
        self._drain_file.touch()
        workers = self._processes["workers"]
        workers.wait_ended(self.settings.exit_grace_s + TOLD_LATE_S + WORKERS_END_S)
        workers.close()
        self._drain_file.unlink(missing_ok=True)


def _identity(effective: Effective, wish: MasterWish) -> tuple[TlsFiles | None, Authority | None]:
    """By which certificate this master is known, and who gave it: both, or neither where everything stays on loopback or in the clear.

    Raises: ConfigError, MissingSetting: it is to be reached by other hosts, and nothing keeps strangers out.
    """
    from protheon_dask.run.trust.authority import Authority

    home, tls = rim.home_of(effective.settings), tls_of(effective.settings)
    has_authority = (home / rim.AUTHORITY_DIR).is_dir()
    if tls is not None and has_authority:
        if wish.is_insecure:
            raise ConfigError(
                f"--insecure is for a host without a certificate, and this one has its own ({tls.directory}): leave --insecure out"
            )
        tls.read()  # says what is missing
        return tls, Authority.open(home)
    if not wish.is_open or wish.is_insecure:
        return None, None
    if tls is not None:
        raise ConfigError(
            f"this host has a certificate of another master's cluster ({tls.directory}): start the master there, "
            "or set PROTHEON_HOME to a home for a cluster of its own and `protheon cluster init`"
        )
    raise MissingSetting(
        f"--bind {wish.bind} lets other hosts in, and nothing tells them from strangers: `protheon cluster init` makes certificates, and "
        "only hosts that you invite get one; or --insecure: then anyone who reaches the ports runs code here, as this user"
    )


def check_reachable(wish: MasterWish, database: Database) -> None:
    """Raise ConfigError if other hosts are let in, and could not reach the database."""
    if not wish.is_open:
        return
    give = "give --into postgresql://user@HOST:5432/database, with an address of its server that the other hosts reach"
    if database.embedded:
        raise ConfigError(f"the embedded PostgreSQL ({database.embedded_dir}) serves this machine alone: {give}")
    hosts = place_of(database.url).host.split(",")
    near: Sequence[str] = [host for host in hosts if is_near(host)]
    if near:
        where = "a socket" if near[0].startswith(("/", "@")) else near[0]
        raise ConfigError(f"{database.origin} names a PostgreSQL by {where}, which only this machine reaches: {give}")
