"""The link to a real scheduler that freezes or dies: no call waits for it, and what it had is answered for once."""

from __future__ import annotations

import faulthandler
import gc
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from distributed import Client, Status
from distributed.scheduler import KilledWorker, WorkerState
from distributed.utils import LoopRunner

from protheon_dask.model import Dispatch
from protheon_dask.run import dask_link
from protheon_dask.run.dask_link import Answered, DaskEvent, DaskLink, LinkClient, WorkerGone, WorkerSeen, _Handed
from protheon_dask.run.tasks import CANCELLED, HOST_METRIC, STARTUP_KEY, SUCCEEDED, Answer
from tests.fixtures.cluster import wait_until

AT_ONCE_S = 1.0
ITEMS = [Dispatch(task_id, 0, "ingest") for task_id in (1, 2, 3)]


@dataclass
class SchedulerProcess:
    """A scheduler without workers, in a process that can be frozen, killed and started again."""

    process: subprocess.Popen[str]
    address: str

    @classmethod
    def start(cls, port: int = 0) -> SchedulerProcess:
        command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        told = []
        for line in process.stderr:
            told.append(line)
            if found := re.search(r"Scheduler at:\s+(tcp://\S+)", line):
                break
        else:
            pytest.fail("".join(told))
        threading.Thread(target=process.stderr.read, daemon=True).start()  # an unread pipe would fill
        return cls(process, found[1])

    def freeze(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def start_again(self) -> None:
        again = self.start(int(self.address.rpartition(":")[2]))
        assert again.address == self.address
        self.process = again.process


def stacks() -> str:
    """Of all threads of this process."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()


@pytest.fixture
def scheduler() -> Iterator[SchedulerProcess]:
    made = SchedulerProcess.start()
    yield made
    made.kill()


@dataclass
class Linked:
    """A link, and what it told."""

    link: DaskLink
    events: queue.Queue[DaskEvent]

    def trouble(self) -> str:
        """What workers() raises; it answers at once, whatever the scheduler does."""
        began_s = time.monotonic()
        try:
            self.link.workers()
        except OSError as exc:
            return str(exc)
        finally:
            assert time.monotonic() - began_s < AT_ONCE_S
        return ""

    def wait_well(self) -> None:
        end_s = time.monotonic() + 30
        while trouble := self.trouble():
            assert time.monotonic() < end_s, f"still in trouble: {trouble}; what all threads do:\n{stacks()}"
            time.sleep(0.02)

    def wait_trouble(self, words: str) -> None:
        wait_until(lambda: words in self.trouble())


@pytest.fixture
def linked(scheduler: SchedulerProcess) -> Iterator[Linked]:
    events: queue.Queue[DaskEvent] = queue.Queue()
    link = DaskLink(scheduler.address, events.put)
    yield Linked(link, events)
    link.close()


def test_a_frozen_scheduler_is_an_outage_and_answers_again_when_it_thaws(
    scheduler: SchedulerProcess, linked: Linked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_link, "ANSWER_S", 0.5)
    monkeypatch.setattr(dask_link, "ASK_AGAIN_S", 0.1)
    linked.wait_well()
    linked.link.dispatch(ITEMS)
    scheduler.freeze()
    linked.wait_trouble("has said nothing for 0.5 s")
    with pytest.raises(OSError, match="has said nothing"):
        linked.link.dispatch(ITEMS)
    scheduler.thaw()
    linked.wait_well()
    assert linked.events.empty()  # it still has them


def test_what_a_scheduler_had_is_answered_for_once_when_it_dies_and_the_next_one_is_found(
    scheduler: SchedulerProcess, linked: Linked
) -> None:
    linked.wait_well()
    linked.link.dispatch(ITEMS)
    scheduler.kill()
    lost = [linked.events.get(timeout=10) for _ in ITEMS]
    assert all(isinstance(event, Answered) and event.word.startswith(CANCELLED) for event in lost)
    assert sorted(event.dispatch.task_id for event in lost) == [1, 2, 3]
    assert linked.trouble()
    scheduler.start_again()
    back_s = time.monotonic()
    linked.wait_well()
    assert time.monotonic() - back_s < 10
    linked.link.dispatch(ITEMS)
    assert linked.events.empty()  # each was answered for once


class Killed:
    """A future whose worker the scheduler removed; without a nanny, one whose attempt succeeded."""

    def __init__(self, key: str, nanny: str | None) -> None:
        self.key, self._nanny = key, nanny

    def result(self, timeout: float) -> Answer:
        if self._nanny is None:
            return Answer(SUCCEEDED, "h")
        about: dict[str, Any] = {"pid": 1, "name": "w", "memory_limit": 0, "local_directory": "", "nanny": self._nanny, "server_id": "s"}
        last = WorkerState(address="tcp://127.0.0.1:1", status=Status.closed, **about)
        raise KilledWorker(self.key, last, 0)

    def release(self) -> None:
        pass


def test_other_answers_do_not_wait_for_nannies_that_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_link, "NANNY_PROBE_S", 1.0)
    events: queue.Queue[DaskEvent] = queue.Queue()
    link = DaskLink("tcp://127.0.0.1:9", events.put)
    with socket.socket() as full, ExitStack() as waiting:  # it accepts nobody: those that come when its queue is full hear nothing
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        nanny = f"tcp://127.0.0.1:{full.getsockname()[1]}"
        began_s = time.monotonic()
        for n, killed in enumerate([Killed("1", nanny), Killed("2", nanny), Killed("3", None)]):
            future: Any = killed
            link._handed[killed.key] = _Handed(ITEMS[n], future)
            link._answer(future)
        assert events.get(timeout=10) == Answered(ITEMS[2], SUCCEEDED, "h")
        gone = [events.get(timeout=10) for _ in range(2)]
    assert time.monotonic() - began_s < 1.9  # side by side
    assert sorted(event.dispatch.task_id for event in gone) == [1, 2]
    assert all(event == WorkerGone(event.dispatch, "w", nanny_lives=False) for event in gone)


@pytest.mark.parametrize("dies", [True, False])
def test_a_nanny_that_dies_just_after_its_worker_is_no_living_nanny(dies: bool) -> None:
    events: queue.Queue[DaskEvent] = queue.Queue()
    link = DaskLink("tcp://127.0.0.1:9", events.put)
    with socket.socket() as nanny:
        nanny.bind(("127.0.0.1", 0))
        nanny.listen(8)
        future: Any = Killed("1", f"tcp://127.0.0.1:{nanny.getsockname()[1]}")
        link._handed["1"] = _Handed(ITEMS[0], future)
        link._answer(future)
        nanny.settimeout(10)
        nanny.accept()[0].close()
        if dies:
            nanny.close()
        assert events.get(timeout=10) == WorkerGone(ITEMS[0], "w", nanny_lives=not dies)


def test_a_scheduler_that_stays_frozen_collects_no_tries_to_connect(
    scheduler: SchedulerProcess, linked: Linked, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[None] = []

    def counted(*args: Any, **options: Any) -> Any:
        asked.append(None)
        return Client(*args, **options)  # type: ignore[no-untyped-call]  # distributed is not typed here

    monkeypatch.setattr(dask_link, "LinkClient", counted)
    monkeypatch.setattr(dask_link, "ANSWER_S", 0.1)
    monkeypatch.setattr(dask_link, "ASK_AGAIN_S", 0.01)
    scheduler.freeze()
    linked.wait_trouble("has made no client yet")
    time.sleep(0.5)
    assert len(asked) == dask_link.MAX_LATE
    monkeypatch.setattr(dask_link, "ANSWER_S", 10.0)
    scheduler.thaw()
    linked.wait_well()


def test_nobody_waits_for_a_client_that_is_being_made_and_one_that_comes_too_late_is_closed(
    scheduler: SchedulerProcess, linked: Linked, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, begun, late = threading.Event(), threading.Event(), queue.Queue[Any]()

    def slow(*args: Any, **options: Any) -> Any:
        is_first = not begun.is_set()
        begun.set()
        if is_first:
            go_on.wait(30)
        client: Any = Client(*args, **options)  # type: ignore[no-untyped-call]  # distributed is not typed here
        if is_first:
            late.put(client)
        return client

    monkeypatch.setattr(dask_link, "LinkClient", slow)
    monkeypatch.setattr(dask_link, "ANSWER_S", 0.3)
    linked.wait_trouble("made no client in 0.3 s")
    monkeypatch.setattr(dask_link, "ANSWER_S", 10.0)
    linked.wait_well()
    go_on.set()
    client = late.get(timeout=10)
    wait_until(lambda: client.status == "closed")
    linked.wait_well()


@pytest.mark.parametrize("told", [None, "a word", {}, {"process_uuid": "1.2"}, {"process_uuid": 7, "host": "nuc"}, {"host": "nuc"}])
def test_what_a_worker_says_of_itself_that_nobody_understands_is_as_if_it_said_nothing(told: Any) -> None:
    seen = dask_link._seen("tcp://10.0.0.1:1", {"name": 3, "host": "10.0.0.1", "nthreads": 2, STARTUP_KEY: told})
    assert seen == WorkerSeen("tcp://10.0.0.1:1", "3", "10.0.0.1", None, 2)


def test_a_worker_of_somebody_else_has_the_name_of_its_host_as_soon_as_it_tells_it() -> None:
    said = {"name": 3, "host": "10.0.0.1", "nthreads": 2, "metrics": {HOST_METRIC: "nuc"}}
    assert dask_link._seen("tcp://10.0.0.1:1", said).host == "nuc"


def test_tries_to_connect_in_vain_leave_no_thread_and_no_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler may be away for hours."""
    monkeypatch.setattr(dask_link, "CONNECT_S", 0.05)
    monkeypatch.setattr(dask_link, "ASK_AGAIN_S", 0.01)
    tries: list[None] = []

    def counted(*args: Any, **options: Any) -> Any:
        tries.append(None)
        return LinkClient(*args, **options)  # type: ignore[no-untyped-call]  # as above

    monkeypatch.setattr(dask_link, "LinkClient", counted)
    before = set(threading.enumerate())
    link = DaskLink("tcp://127.0.0.1:9", lambda _: None)
    with pytest.raises(OSError, match="not asked yet"):
        link.workers()
    wait_until(lambda: len(tries) > 6)
    names = sorted(thread.name for thread in set(threading.enumerate()) - before)
    assert "IO loop" not in names
    assert len(names) <= 3 + dask_link.MAX_LATE  # link, loop, and those who try
    link.close()
    wait_until(lambda: set(threading.enumerate()) <= before, timeout_s=60)


def test_a_client_that_could_not_be_made_takes_no_lock_of_dasks_when_it_is_collected() -> None:
    """The collector may run on a thread that has it, which would wait for itself for ever."""

    def forget() -> None:
        with pytest.raises(TypeError, match="ssl_context"):
            LinkClient("tls://127.0.0.1:9", set_as_default=False, timeout=0.2)  # type: ignore[no-untyped-call]  # as above
        with LoopRunner._lock:
            gc.collect()

    forgetting = threading.Thread(target=forget, daemon=True)
    forgetting.start()
    forgetting.join(30)
    assert not forgetting.is_alive()
