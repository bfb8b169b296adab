"""The faults of the campaign. Each kind is a small class: it waits for a moment at which it can hurt, strikes, heals, and says what it hit.

A strike that hit nothing is not counted, and the schedule tries the kind again. What counts as a hit is in the class's first line; the
proof (which attempts were open, which COMMIT was in flight) goes into the campaign's log.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import psutil
from distributed import Client

from protheon_dask.model import Dispatch
from protheon_dask.run.tasks import run_attempt
from tests.chaos.cluster import Cluster, Host, Part, wait_until
from tests.chaos.looks import OpenAttempt
from tests.chaos.proxy import Direction, Link, Loss, Proxy

AIM_S = 8.0
"""How long a fault waits for something to hit."""
YOUNG_S, OLD_S = 0.25, 1.0
"""Age of an attempt that is aimed at: it has its bytes or is fetching them, and is not about to end."""
BEYOND_LEASE_S = (3.0, 8.0)
"""How much longer than a lease that lasts which is to outlive one: the attempt is taken back, and its successor has had time to commit."""
SOON = 6
"""Of the ready chunks those that go next: one that goes much later says nothing within the time of a step."""
MAX_CHARGED = 1
"""Crashes and losses of a task that may be hit once more; a third crash would rightly make it a dead letter."""


@dataclass
class Strike:
    """A fault that was done, whatever it hit. Unix times.

    struck_at .. healed_at: while the fault was there. back_at: when what was stopped was there again (a process, a server).
    attempts: open when it struck. is_counted: it hit what it is meant to hit, and the evidence shows it.
    workers:  whose attempts it may have cost something; none where the ground was taken from all: an outage costs nobody anything.
    """

    kind: str
    target: str
    struck_at: float
    healed_at: float
    evidence: dict[str, Any]
    attempts: list[tuple[int, int]] = field(default_factory=list)
    workers: list[str] = field(default_factory=list)
    back_at: float | None = None
    is_counted: bool = True
    is_alone: bool = False
    recovery_s: dict[str, float] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        return asdict(self)


class Fault:
    """A kind of fault. strike() blocks from aiming to healing. Draws come from the rng that it is given, and from nothing else."""

    kind: ClassVar[str]

    def __init__(self, cluster: Cluster, rng: random.Random) -> None:
        self.cluster, self.rng = cluster, rng

    def strike(self) -> Strike | None:
        raise NotImplementedError

    def rest(self, seconds: float) -> None:
        """Let the fault stand; shorter if the campaign is broken off."""
        self.cluster.ending.wait(seconds)

    # --- aiming -----------------------------------------------------------------------------------------------------------

    def aim(self, wanted: Callable[[OpenAttempt], bool] = lambda _: True, *, in_transaction: bool = True) -> OpenAttempt | None:
        """An open attempt in its middle; drawn where there are several."""

        def fits(attempt: OpenAttempt) -> bool:
            is_young = YOUNG_S < attempt.age_s < OLD_S
            return is_young and attempt.charged <= MAX_CHARGED and (attempt.in_transaction or not in_transaction) and wanted(attempt)

        found = self.cluster.ledger.wait_open(fits, AIM_S)
        return self.rng.choice(found) if found else None

    def part_of(self, attempt: OpenAttempt) -> Part:
        return self.cluster.parts[attempt.worker]

    def on_host(self, host: Host) -> Callable[[OpenAttempt], bool]:
        return lambda attempt: attempt.host == host.name or attempt.worker.startswith(host.name)

    def draw_host(self) -> Host:
        return self.rng.choice(list(self.cluster.hosts.values()))

    def hit(self, target: str, struck_at: float, attempts: Sequence[tuple[int, int]], workers: Sequence[str], **evidence: Any) -> Strike:
        """What was done, healed by now; counted if any of these attempts had not ended before it."""
        healed_at = time.time()
        caught = self.cluster.ledger.still_open(attempts, struck_at)
        return Strike(self.kind, target, struck_at, healed_at, evidence, caught, list(workers), is_counted=bool(caught))


class Worker9(Fault):
    """A worker process dies by kill -9; hit: the attempt in whose data transaction it was."""

    kind = "worker killed"

    def strike(self) -> Strike | None:
        attempt = self.aim(lambda attempt: not attempt.charged)
        process = self.part_of(attempt).worker if attempt else None
        if attempt is None or process is None:
            return None
        struck_at = time.time()
        process.kill()
        return self.hit(attempt.worker, struck_at, [attempt.pair], [attempt.worker], pid=process.pid)


class Nanny9(Fault):
    """A nanny dies by kill -9, and its worker with it; hit: the worker's open attempt."""

    kind = "nanny killed"

    def strike(self) -> Strike | None:
        attempt = self.aim()
        process = self.part_of(attempt).main if attempt else None
        if attempt is None or process is None:
            return None
        struck_at = time.time()
        process.kill()
        return self.hit(attempt.worker, struck_at, [attempt.pair], [attempt.worker], pid=process.pid)


class HostKilled(Fault):
    """All processes of a host die at once, and it stays away for seconds; hit: its open attempts."""

    kind = "host killed"

    def strike(self) -> Strike | None:
        attempt = self.aim()
        if attempt is None:
            return None
        host = self.cluster.hosts[self.part_of(attempt).host]
        pairs = [item.pair for item in self.cluster.ledger.open_attempts() if self.on_host(host)(item)]
        for part in host.parts:
            part.is_held = True
        struck_at = time.time()
        pids = [pid for part in host.parts for pid in part.kill()]
        self.rest(self.rng.uniform(1.0, 6.0))
        for part in host.parts:
            part.is_held = False
        return self.hit(host.name, struck_at, pairs, [part.name for part in host.parts], pids=pids)


class Stopped(Fault):
    """A worker process stands still (SIGSTOP) beyond its lease, then goes on; hit: the attempt in whose data transaction it was."""

    kind = "worker stopped"

    def strike(self) -> Strike | None:
        attempt = self.aim()
        process = self.part_of(attempt).worker if attempt else None
        if attempt is None or process is None:
            return None
        struck_at = time.time()
        process.suspend()
        try:
            self.rest(self.cluster.lease_s + self.rng.uniform(*BEYOND_LEASE_S))
        finally:
            with suppress(psutil.Error):
                process.resume()
        return self.hit(attempt.worker, struck_at, [attempt.pair], [attempt.worker], pid=process.pid)


class Frozen(Fault):
    """A whole host sleeps (freezer) for longer than a lease, then wakes; hit: its attempts with an open data transaction."""

    kind = "host frozen"

    def strike(self) -> Strike | None:
        attempt = self.aim()
        if attempt is None:
            return None
        host = self.cluster.hosts[self.part_of(attempt).host]
        pairs = [item.pair for item in self.cluster.ledger.open_attempts() if self.on_host(host)(item)]
        freezer = self.cluster.freezer(host.name)
        processes = [process for part in host.parts for process in part.processes()]
        struck_at = time.time()
        try:
            freezer.freeze(processes)
            self.rest(self.cluster.lease_s + self.rng.uniform(*BEYOND_LEASE_S))
        finally:
            freezer.thaw()
        return self.hit(
            host.name, struck_at, pairs, [part.name for part in host.parts], n_processes=len(processes), is_freezer=freezer.is_real
        )


class Network(Fault):
    """Something happens to a line; what is common to these kinds."""

    def draw_line(self) -> tuple[str, Proxy, list[str], list[tuple[int, int]]] | None:
        """A host's line to PostgreSQL, with an open data transaction on it: name, proxy, workers, attempts."""
        host = self.draw_host()
        if self.aim(self.on_host(host)) is None:
            return None
        busy = {link.task_id for link in host.postgres.links if link.is_data}
        pairs = [a.pair for a in self.cluster.ledger.open_attempts() if self.on_host(host)(a) and a.task_id in busy]
        return f"{host.name} to PostgreSQL", host.postgres, [part.name for part in host.parts], pairs


class Cut(Network):
    """All connections of a host to PostgreSQL break, and new ones are refused for a while; hit: its open data transactions."""

    kind = "connections cut"

    def strike(self) -> Strike | None:
        line = self.draw_line()
        if line is None:
            return None
        target, proxy, workers, pairs = line
        away_s = self.rng.choice([0.0, self.rng.uniform(0.5, 4.0)])
        struck_at = time.time()
        proxy.refuse(away_s > 0)
        n_links = proxy.cut()
        self.rest(away_s)
        proxy.refuse(False)
        return self.hit(target, struck_at, pairs, workers, n_connections=n_links, away_s=away_s)


class CutBroker(Network):
    """The broker's connections to PostgreSQL break, its leadership's among them; hit: its log says that it lost the ledger."""

    kind = "broker cut off"

    def strike(self) -> Strike | None:
        proxy, log = self.cluster.broker_postgres, self.cluster.parts["broker"].log
        attempt = self.aim()
        if attempt is None:
            return None
        offset, away_s = log.stat().st_size, self.rng.choice([0.0, self.rng.uniform(0.5, 4.0)])
        struck_at = time.time()
        proxy.refuse(away_s > 0)
        n_links = proxy.cut()
        self.rest(away_s)
        proxy.refuse(False)
        healed_at = time.time()
        is_back = wait_until(lambda: said(log, offset, "ledger.back"), AIM_S)
        evidence = {"n_connections": n_links, "away_s": away_s, "log": "ledger.lost, ledger.back" if is_back else ""}
        return Strike(
            self.kind, "broker to PostgreSQL", struck_at, healed_at, evidence, [attempt.pair], back_at=healed_at, is_counted=is_back
        )


class BlackHole(Network):
    """Bytes of a host's line to PostgreSQL go nowhere in one direction, for longer than a lease; hit: its open data transactions."""

    direction: ClassVar[Direction]

    def strike(self) -> Strike | None:
        line = self.draw_line()
        if line is None:
            return None
        target, proxy, workers, pairs = line
        is_cut_after = self.rng.random() < 0.5  # or all that was held back arrives
        struck_at = time.time()
        proxy.hold_back(self.direction)
        try:
            self.rest(self.cluster.lease_s + self.rng.uniform(*BEYOND_LEASE_S))
            if is_cut_after:
                proxy.cut()
        finally:
            proxy.let_through(self.direction)
        return self.hit(target, struck_at, pairs, workers, direction=self.direction, is_cut_after=is_cut_after)


class BlackHoleUp(BlackHole):
    """What a host says to PostgreSQL goes nowhere."""

    kind = "black hole to PostgreSQL"
    direction = Direction.UP


class BlackHoleDown(BlackHole):
    """What PostgreSQL says to a host goes nowhere."""

    kind = "black hole from PostgreSQL"
    direction = Direction.DOWN


class CommitLost(Network):
    """A COMMIT in flight, its answer, or the connection before it arrives, is lost; hit: that COMMIT, which the proxy saw."""

    kind = "COMMIT dropped"

    def strike(self) -> Strike | None:
        host, loss = self.draw_host(), self.rng.choice(list(Loss))
        late_s = self.rng.uniform(0.5, 5.0)
        struck: list[tuple[float, Loss, Link]] = []
        host.postgres.arm(loss, lambda loss, link: struck.append((time.time(), loss, link)), late_s=late_s)
        wait_until(lambda: struck, AIM_S)
        host.postgres.disarm()
        if not struck:
            return None
        struck_at, _, link = struck[0]
        if loss is Loss.LATE:
            self.rest(late_s)
        pairs = [
            (row[0], row[1])
            for row in self.cluster.ledger.ask(
                "SELECT task_id, max(attempt_no) FROM protheon.attempt"
                " WHERE task_id = %s AND started_at < to_timestamp(%s) GROUP BY task_id",
                (link.task_id, struck_at),
            )
        ]
        evidence = {"loss": loss, "task_id": link.task_id}
        return Strike(self.kind, host.name, struck_at, time.time(), evidence, pairs)


class Transfer(Fault):
    """Something happens to the line over which chunk bytes come; hit: a transfer that had begun."""

    def draw_transfer(self) -> Host | None:
        """A host to which bytes of a chunk are on their way at this moment."""
        hosts = list(self.cluster.hosts.values())
        self.rng.shuffle(hosts)
        busy: list[Host] = []

        def look() -> bool:
            busy[:] = [host for host in hosts if host.broker.is_moving(Direction.DOWN, 0.2, 1 << 12)]
            return bool(busy)

        return busy[0] if wait_until(look, AIM_S, 0.01) else None

    def fetching(self, host: Host) -> list[tuple[int, int]]:
        return [
            attempt.pair for attempt in self.cluster.ledger.open_attempts() if self.on_host(host)(attempt) and not attempt.in_transaction
        ]


class TransferCut(Transfer):
    """A host's connections to the broker break in the middle of a transfer."""

    kind = "transfer cut"

    def strike(self) -> Strike | None:
        host = self.draw_transfer()
        if host is None:
            return None
        struck_at = time.time()
        n_links = host.broker.cut()
        pairs = self.fetching(host)  # who had all of its bytes is in its data transaction, or will be before it is asked
        return self.hit(f"{host.name} to broker", struck_at, pairs, (), n_connections=n_links)


class TransferHeld(Transfer):
    """What the broker sends to a host goes nowhere for longer than its keep-alive bears."""

    kind = "transfer black-holed"

    def strike(self) -> Strike | None:
        host = self.draw_transfer()
        if host is None:
            return None
        struck_at = time.time()
        host.broker.hold_back(Direction.DOWN)
        try:
            pairs = self.fetching(host)
            self.rest(self.cluster.lease_s + self.rng.uniform(*BEYOND_LEASE_S))
        finally:
            host.broker.let_through(Direction.DOWN)
        return self.hit(f"broker to {host.name}", struck_at, pairs, ())


class Ground(Fault):
    """What all stand on goes for a while."""

    def outage(self, target: str, struck_at: float, back_at: float, attempts: Sequence[tuple[int, int]], **evidence: Any) -> Strike:
        """It is back: nobody may have been charged for it."""
        strike = self.hit(target, struck_at, attempts, (), **evidence)
        strike.healed_at = strike.back_at = back_at
        return strike

    def open_pairs(self) -> list[tuple[int, int]]:
        return [attempt.pair for attempt in self.cluster.ledger.open_attempts()]


class PostgresStopped(Ground):
    """PostgreSQL is stopped and started again; hit: every open data transaction."""

    signal: ClassVar[signal.Signals]

    def strike(self) -> Strike | None:
        if self.aim() is None:
            return None
        running = [attempt.pair for attempt in self.cluster.ledger.open_attempts() if attempt.in_transaction]
        server, away_s = self.cluster.server, self.rng.choice([0.0, self.rng.uniform(1.0, 12.0)])
        with self.cluster.ground:
            struck_at = time.time()
            server.signal(self.signal)
            self.rest(away_s)
            server.start()
            back_at = time.time()
        return self.outage("PostgreSQL", struck_at, back_at, running, away_s=away_s)


class PostgresFast(PostgresStopped):
    """A fast shutdown."""

    kind = "PostgreSQL stopped fast"
    signal = signal.SIGINT


class PostgresImmediate(PostgresStopped):
    """An immediate shutdown, as of a machine that loses its power: it recovers from its log."""

    kind = "PostgreSQL stopped immediate"
    signal = signal.SIGQUIT


class SchedulerKilled(Ground):
    """The scheduler dies by kill -9, and its workers leave; hit: the attempts that were open."""

    kind = "scheduler killed"

    def strike(self) -> Strike | None:
        part = self.cluster.parts["scheduler"]
        if self.aim(in_transaction=False) is None or (process := part.main) is None:
            return None
        pairs, n_starts = self.open_pairs(), len(part.starts)
        struck_at = time.time()
        process.kill()
        wait_until(lambda: len(part.starts) > n_starts, 10)
        return self.outage("scheduler", struck_at, part.starts[-1], pairs, pid=process.pid)


class SchedulerFrozen(Ground):
    """The scheduler stands still for a while; hit: the attempts that were open, and no worker was given another one meanwhile."""

    kind = "scheduler frozen"

    def strike(self) -> Strike | None:
        if self.aim(in_transaction=False) is None or (process := self.cluster.parts["scheduler"].main) is None:
            return None
        pairs = self.open_pairs()
        struck_at = time.time()
        process.suspend()
        try:
            self.rest(self.rng.uniform(6.0, 16.0))
        finally:
            with suppress(psutil.Error):
                process.resume()
        healed_at = time.time()
        n_started = self.cluster.ledger.n_started(struck_at + 4.0, healed_at)
        strike = self.outage("scheduler", struck_at, healed_at, pairs, pid=process.pid, attempts_started_meanwhile=n_started)
        strike.is_counted = strike.is_counted and not n_started
        return strike


class BrokerKilled(Ground):
    """The broker dies by kill -9, and its splitters with it; hit: the attempts that were open, and sources not yet cut to their end."""

    kind = "broker killed"

    def strike(self) -> Strike | None:
        part = self.cluster.parts["broker"]
        if self.aim(in_transaction=False) is None or (process := part.main) is None:
            return None
        pairs, n_starts = self.open_pairs(), len(part.starts)
        transfers = [host.name for host in self.cluster.hosts.values() if host.broker.is_moving(Direction.DOWN, 0.2, 1)]
        struck_at = time.time()
        process.kill()
        wait_until(lambda: len(part.starts) > n_starts, 10)
        return self.outage("broker", struck_at, part.starts[-1], pairs, pid=process.pid, transfers=transfers)


class WorkspaceFull(Ground):
    """The workspace's file system is full while sources are cut; hit: the broker says that a source cannot be cut."""

    kind = "workspace full"

    def strike(self) -> Strike | None:
        log = self.cluster.parts["broker"].log
        filler, offset = self.cluster.workspace / "filler", log.stat().st_size
        struck_at = time.time()
        try:
            fill(filler)
            is_hit = wait_until(lambda: said(log, offset, "No space left on device"), AIM_S)
            self.rest(self.rng.uniform(0.0, 3.0))
        finally:
            filler.unlink(missing_ok=True)
        healed_at = time.time()
        evidence = {"log": "No space left on device" if is_hit else ""}
        return Strike(self.kind, "workspace", struck_at, healed_at, evidence, back_at=healed_at, is_counted=is_hit)


class ChunkFile(Fault):
    """Something happens to the file of a ready chunk; hit: the chunk is cut again, under another generation."""

    def spoil(self, path: Path) -> None:
        raise NotImplementedError

    def strike(self) -> Strike | None:
        found: list[tuple[Path, int, int]] = []

        def look() -> bool:
            found[:] = list(self._ready_files())
            return bool(found)

        if not wait_until(look, AIM_S):
            return None
        path, task_id, generation = self.rng.choice(found[:SOON])
        struck_at = time.time()
        try:
            self.spoil(path)
        except FileNotFoundError:
            return None
        sql = """SELECT chunk.generation, task.state, task.attempt_no FROM protheon.chunk JOIN protheon.task ON task.id = chunk.task_id
                  WHERE task.id = %s"""

        def look_again() -> bool:
            [(now, state, _)] = self.cluster.ledger.ask(sql, (task_id,))
            return bool(now > generation or state == "succeeded")

        wait_until(look_again, 3 * AIM_S)
        [(now, _, attempt_no)] = self.cluster.ledger.ask(sql, (task_id,))
        evidence = {"file": path.name, "task_id": task_id, "generation": generation, "generation_after": now}
        pairs = [(task_id, max(1, attempt_no))]
        return Strike(self.kind, f"chunk {task_id}", struck_at, time.time(), evidence, pairs, is_counted=now > generation)

    def _ready_files(self) -> list[tuple[Path, int, int]]:
        rows = self.cluster.ledger.ask(
            "SELECT task.id, chunk.load_id, chunk.first_line, chunk.generation FROM protheon.task"
            " JOIN protheon.chunk ON chunk.task_id = task.id JOIN protheon.load ON load.id = task.load_id"
            " WHERE task.state = 'ready' AND task.ready_at <= now()"
            " ORDER BY load.split_state = 'complete' DESC, task.id"  # a source is cut again only when it was cut to its end
        )
        files = {path.parent.name + "/" + path.name: path for path in self.cluster.workspace.glob("*/*/*.zst")}
        places = [
            (f"{load_id}/{first_line:012d}.{generation}.zst", task_id, generation) for task_id, load_id, first_line, generation in rows
        ]
        return [(files[name], task_id, generation) for name, task_id, generation in places if name in files]


class ChunkDeleted(ChunkFile):
    """The file of a ready chunk is deleted."""

    kind = "chunk file deleted"

    def spoil(self, path: Path) -> None:
        path.unlink()


class ChunkCorrupted(ChunkFile):
    """Bytes in the middle of a ready chunk's file are others."""

    kind = "chunk file corrupted"

    def spoil(self, path: Path) -> None:
        with path.open("r+b") as file:
            size = file.seek(0, 2)
            file.seek(size // 2)
            old = file.read(8)
            file.seek(size // 2)
            file.write(bytes(byte ^ 0xFF for byte in old))


class Twice(Ground):
    """The scheduler hands a dispatch out again, while its attempt runs and at once to two; hit: one claimed it, the others got no claim."""

    kind = "attempt executed twice"

    def strike(self) -> Strike | None:
        attempt = self.aim(in_transaction=False)
        if attempt is None:
            return None
        dispatches = [Dispatch(attempt.task_id, attempt.attempt_no - 1, "ingest"), Dispatch(attempt.task_id, attempt.attempt_no, "ingest")]
        rows = self.cluster.ledger.ask(
            "SELECT id, attempt_no FROM protheon.task WHERE state = 'ready' AND ready_at <= now() ORDER BY id LIMIT 1"
        )
        dispatches += [Dispatch(task_id, attempt_no, "ingest") for task_id, attempt_no in rows for _ in range(2)]
        struck_at = time.time()
        with Client(self.cluster.scheduler_address, set_as_default=False, timeout=AIM_S) as client:  # type: ignore[no-untyped-call]
            futures = [client.submit(run_attempt, item, pure=False, retries=0) for item in dispatches]
            words = [answer.word for answer in client.gather(futures, errors="skip")]
        n_refused = words.count("not claimed")
        evidence = {"words": words, "task_id": attempt.task_id}
        return Strike(self.kind, attempt.worker, struck_at, time.time(), evidence, [attempt.pair], is_counted=bool(n_refused))


class ClockShifted(Ground):
    """A worker, or the broker, is started with a clock that is minutes to hours off; hit: with it, it claimed or cut what was committed."""

    kind = "clock shifted"

    def strike(self) -> Strike | None:
        if not self.cluster.can_shift_clocks:
            return None
        part = self.cluster.parts["broker"] if self.rng.random() < 0.3 else self.rng.choice(self.cluster.workers)
        shift_s = self.rng.choice([-1, 1]) * self.rng.choice([45.0, 600.0, 7_200.0])
        pairs = [attempt.pair for attempt in self.cluster.ledger.open_attempts() if attempt.worker == part.name or part.name == "broker"]
        n_starts, part.clock_s = len(part.starts), shift_s
        struck_at = time.time()
        if (process := part.main) is not None:
            process.terminate()
        wait_until(lambda: len(part.starts) > n_starts, 30)
        back_at = part.starts[-1]
        names = [name.name for name in self.cluster.workers] if part.name == "broker" else [part.name]
        sql = """SELECT count(*) FROM protheon.attempt
                  JOIN protheon.task ON task.id = attempt.task_id AND (task.created_at > %(at)s OR %(any)s)
                  WHERE attempt.started_at > %(at)s AND attempt.outcome = 'succeeded' AND attempt.worker = ANY (%(names)s)"""
        facts = {"at": datetime.fromtimestamp(back_at, UTC), "any": part.name != "broker", "names": names}
        wait_until(lambda: bool(self.cluster.ledger.ask(sql, facts)[0][0]), 30, 0.2)
        [(n_committed,)] = self.cluster.ledger.ask(sql, facts)
        evidence = {"shift_s": shift_s, "committed_with_it": n_committed}
        workers = [] if part.name == "broker" else [part.name]
        return Strike(
            self.kind,
            part.name,
            struck_at,
            back_at,
            evidence,
            pairs,
            workers,
            back_at,
            is_counted=n_committed > 0 and len(part.starts) > n_starts,
        )


class ClientKilled(Ground):
    """Whoever submitted and watches is killed -9, and types it again; hit: chunks of the watched run were open."""

    kind = "client killed"

    def strike(self) -> Strike | None:
        clients = [part for part in self.cluster.clients() if not part.is_over and part.main is not None]
        if not clients or self.aim(in_transaction=False) is None:
            return None
        part = self.rng.choice(clients)
        process, offset = part.main, part.log.stat().st_size
        if process is None:
            return None
        struck_at = time.time()
        process.kill()
        is_hit = wait_until(lambda: said(part.log, offset, "submitted"), 20)
        evidence = {"pid": process.pid, "log": "submitted" if is_hit else ""}
        return Strike(self.kind, part.name, struck_at, time.time(), evidence, is_counted=is_hit)


def fill(path: Path) -> None:
    """Write zeros to path until its file system has no byte left."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        for n_bytes in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while file.write(bytes(n_bytes)) == n_bytes:
                    pass


def said(log: Path, offset: int, text: str) -> bool:
    """Has this been written to the log since it had offset bytes?"""
    with log.open("rb") as file:
        file.seek(offset)
        return text.encode() in file.read()


KINDS: dict[str, type[Fault]] = {
    fault.kind: fault
    for fault in (
        Worker9, Nanny9, HostKilled, Stopped, Frozen, Cut, CutBroker, BlackHoleUp, BlackHoleDown, CommitLost, TransferCut, TransferHeld,
        PostgresFast, PostgresImmediate, SchedulerKilled, SchedulerFrozen, BrokerKilled, WorkspaceFull, ChunkDeleted, ChunkCorrupted,
        Twice, ClockShifted, ClientKilled,
    )
}  # fmt: skip
"""Every kind, by the name that ONLY= takes."""
