"""Directed campaigns: one fault each, done at the very place where one promise must hold, and the judge's verdict after it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from protheon_dask import failpoints
from protheon_dask.pipelines.find import find
from tests.chaos import judge, material
from tests.chaos.cluster import Cluster, wait_until
from tests.chaos.judge import Interval, Verdict
from tests.chaos.material import Expected
from tests.chaos.proxy import Loss
from tests.chaos.variants import VARIABLE
from tests.fixtures.failpoints import Switch

PIPELINE = f"{Path(__file__).with_name('campaign_pipeline.py')}:campaign"
SETTINGS = {"lease_s": 5.0, "renew_s": 1.0, "exit_grace_s": 4.0, "complete_grace_s": 3.0, "advisory_wait_s": 5.0}
CHUNK_LINES = 60
AIM_S = 30.0
"""How long a process may take to come to the place where it is hit."""
FINISH_S = 60.0
"""How long a load may take on a machine that has other things to do."""
FROZEN_S = SETTINGS["lease_s"] + SETTINGS["complete_grace_s"] + 20.0
"""How long it may take where a worker is frozen in its COMMIT: this is promised of the next attempt."""


@dataclass
class Field:
    """A cluster with failpoints, what was loaded into it so far, and what was done to it."""

    cluster: Cluster
    switch: Switch
    expected: Expected | None = None
    evidence: list[Interval] = field(default_factory=list)

    def campaign(self, scenario: Scenario, finish_s: float = FINISH_S) -> Verdict:
        """Load new sources while the scenario's fault is done, and judge all that was ever loaded here, after finish_s at the latest."""
        n_before = len(self.expected.sources) if self.expected is not None else 0
        made = material.make(
            self.cluster.directory / "sources",
            seed=7,
            n_sources=2,
            n_chunks=4,
            chunk_lines=CHUNK_LINES,
            pad_bytes=100,
            line_s=0.002,
            first_source_no=n_before + 1,
            poison=(1, 1) if scenario.is_poisoned else None,
        )
        self.expected = made if self.expected is None else self.expected.plus(made)
        self.switch.arm(*scenario.rules)
        workers = {part.worker.pid: part.name for part in self.cluster.workers if part.worker is not None}
        with self.cluster.master() as master:
            run_id = master.submit(find(PIPELINE, paths=made.paths), made.paths, chunk_lines=CHUNK_LINES).run_id
        ended = "SELECT FROM protheon.run WHERE id = %s AND ended_at IS NOT NULL"
        started_at = time.monotonic()
        with scenario.fault(self, workers):
            wait_until(lambda: self.cluster.ledger.ask(ended, (run_id,)), finish_s - (time.monotonic() - started_at))
            wait_until(lambda: not any(self.cluster.workspace.glob("*/*/*.zst")), 3)
            self.switch.disarm()
            return judge.judge(self.cluster.url, self.cluster.workspace, self.expected, self.evidence)

    def fired(self, point: str) -> int:
        """Wait until a process fired at this point; its pid."""
        assert wait_until(lambda: self.switch.fired(point), AIM_S), f"nobody came by {point}"
        return self.switch.fired(point)[0]

    def note(self, kind: str, from_at: float, *workers: str) -> None:
        self.evidence.append(Interval(kind, from_at, time.time(), workers))


Workers = Mapping[int, str]
"""By pid of a worker process, its name."""


@dataclass(frozen=True)
class Scenario:
    """rules: of failpoints. fault: done while a load goes on; what it holds is let go when the block that it is entered for ends.

    is_poisoned: one chunk kills every process that works on it, and must die alone.
    """

    rules: tuple[str, ...]
    fault: Callable[[Field, Workers], AbstractContextManager[None]]
    is_poisoned: bool = False


@contextmanager
def undisturbed(field: Field, workers: Workers) -> Iterator[None]:
    """Nothing is done."""
    yield


@contextmanager
def poisoned(field: Field, workers: Workers) -> Iterator[None]:
    """The data do it themselves: whoever works on the chunk dies."""
    struck_at = time.time()
    field.evidence.append(Interval("poison", struck_at, struck_at + 60.0, ("*",), frozenset({"crash"})))
    yield
    field.evidence[-1] = Interval("poison", struck_at, time.time(), ("*",), frozenset({"crash"}))


@contextmanager
def stale_writer(field: Field, workers: Workers) -> Iterator[None]:
    """A process is frozen before its data transaction, and thawed when another attempt has committed its chunk."""
    pid, struck_at = field.fired("begin.before"), time.time()
    name = workers[pid]
    try:
        done = (
            "SELECT FROM protheon.task JOIN protheon.attempt ON attempt.task_id = task.id WHERE task.state = 'succeeded' AND worker = %s \
                AND attempt.attempt_no < task.attempt_no AND attempt.ended_at > to_timestamp(%s)"
        )
        assert wait_until(lambda: field.cluster.ledger.ask(done, (name, struck_at)), AIM_S), "nobody took the chunk over"
    finally:
        _send(pid, signal.SIGCONT)
        field.note("worker stopped", struck_at, name)
    log = field.cluster.parts[name].log
    wrote = "SELECT FROM protheon.attempt WHERE worker = %s AND started_at < to_timestamp(%s) AND outcome = 'succeeded' \
             AND ended_at > to_timestamp(%s)"
    assert wait_until(
        lambda: "fence.refused" in log.read_text(errors="replace") or field.cluster.ledger.ask(wrote, (name, struck_at, struck_at)), 15
    ), "the thawed process did not go on"
    yield


@contextmanager
def killed_at_the_end(field: Field, workers: Workers) -> Iterator[None]:
    """A process dies when all its rows are written and its attempt is not ended."""
    struck_at, pid = time.time(), field.fired("complete.before")
    field.note("worker killed", struck_at, workers[pid])
    yield


@contextmanager
def lost_answer(field: Field, workers: Workers) -> Iterator[None]:
    """A COMMIT happens, and its answer is lost."""
    struck_at, is_lost = time.time(), threading.Event()
    proxies = [host.postgres for host in field.cluster.hosts.values()]
    for proxy in proxies:
        proxy.arm(Loss.ANSWER, lambda _loss, _link: is_lost.set())
    assert is_lost.wait(AIM_S), "no data transaction was committed"
    for proxy in proxies:
        proxy.disarm()
    field.note("COMMIT's answer lost", struck_at)
    yield


@contextmanager
def frozen_in_commit(field: Field, workers: Workers) -> Iterator[None]:
    """A host is frozen between complete and COMMIT, and not thawed while the campaign lasts."""
    pid, struck_at = field.fired("complete.after"), time.time()
    nanny = psutil.Process(pid).ppid()
    _send(nanny, signal.SIGSTOP)
    try:
        field.evidence.append(Interval("host frozen", struck_at, struck_at + 60.0, (workers[pid],)))
        yield
    finally:
        field.evidence[-1] = Interval("host frozen", struck_at, time.time(), (workers[pid],))
        _send(pid, signal.SIGCONT)
        _send(nanny, signal.SIGCONT)


@contextmanager
def postgres_away(field: Field, workers: Workers) -> Iterator[None]:
    """PostgreSQL is stopped at once in the midst of a data transaction, and started again."""
    field.fired("complete.before")
    struck_at = time.time()
    with field.cluster.ground:
        field.cluster.server.signal(signal.SIGQUIT)
        time.sleep(0.5)
        field.cluster.server.start()
    field.note("PostgreSQL stopped", struck_at)
    yield


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


SCENARIOS: Mapping[str, Scenario] = {
    "identical chunks": Scenario((), undisturbed),
    "slow attempt": Scenario(("fetch.after=sleep:8*1",), undisturbed),
    "lost answer": Scenario((), lost_answer),
    "killed at the end": Scenario(("complete.before=kill*1",), killed_at_the_end),
    "stale writer": Scenario(("begin.before=stop*1",), stale_writer),
    "PostgreSQL away": Scenario(("complete.before=sleep:3*2",), postgres_away),
    "poisoned chunk": Scenario((), poisoned, is_poisoned=True),
    "frozen in commit": Scenario(("complete.after=stop*1",), frozen_in_commit),
}


@contextmanager
def opened_field(directory: Path, variant: str = "") -> Iterator[Field]:
    """Two hosts with a worker each; variant: how the product is broken (tests/chaos/variants.py)."""
    marks = directory / "failpoints"
    marks.mkdir(parents=True)
    switch = Switch(marks)
    env = {failpoints.VARIABLE: switch.value}
    if variant:
        env[VARIABLE] = variant
    modules = ["tests.chaos.variants"] if variant else []
    with Cluster(directory, (1, 1), variants=modules, env=env, **SETTINGS) as cluster:
        yield Field(cluster, switch)
