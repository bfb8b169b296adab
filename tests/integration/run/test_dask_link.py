"""The link to a real scheduler that freezes: every question has an end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from protheon_dask.run import dask_link
from protheon_dask.run.dask_link import DaskLink


@dataclass
class SchedulerProcess:
    """A scheduler without workers, in a process that can be frozen."""

    process: subprocess.Popen[str]
    address: str

    def freeze(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)


@pytest.fixture
def scheduler() -> Iterator[SchedulerProcess]:
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        told = []
        for line in process.stderr:
            told.append(line)
            if found := re.search(r"Scheduler at:\s+(tcp://\S+)", line):
                break
        else:
            pytest.fail("".join(told))
        threading.Thread(target=process.stderr.read, daemon=True).start()  # an unread pipe would fill
        yield SchedulerProcess(process, found[1])
        process.kill()


def test_a_frozen_scheduler_is_an_outage_and_answers_again_when_it_thaws(
    scheduler: SchedulerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = DaskLink(scheduler.address, lambda _: None)
    assert link.workers() == ()
    monkeypatch.setattr(dask_link, "ANSWER_S", 0.3)
    scheduler.freeze()
    with pytest.raises(TimeoutError):
        link.workers()
    scheduler.thaw()
    monkeypatch.setattr(dask_link, "ANSWER_S", 10.0)
    assert link.workers() == ()
    link.close()


def test_a_client_that_is_being_made_is_waited_for_so_long_and_made_once(
    scheduler: SchedulerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, made, real = threading.Event(), [], dask_link.Client

    def slow(*args: Any, **options: Any) -> Any:
        made.append(args)
        go_on.wait(30)
        return real(*args, **options)

    monkeypatch.setattr(dask_link, "Client", slow)
    monkeypatch.setattr(dask_link, "ANSWER_S", 0.1)
    link = DaskLink(scheduler.address, lambda _: None)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            link.workers()
    go_on.set()
    monkeypatch.setattr(dask_link, "ANSWER_S", 10.0)
    assert link.workers() == ()
    assert len(made) == 1
    link.close()
