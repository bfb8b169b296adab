"""A chunk that ends its process, in a child that dies in the place of the one in which a person works."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest

import protheon_dask as protheon
from protheon_dask.pipelines.pipeline import ChunkContext, Pipeline
from protheon_dask.run.debug import _Chunk
from protheon_dask.run.probe import Death, Lived, probe
from tests.fixtures.cluster import wait_until

T = protheon.Table(name="public.n", columns=(protheon.Column("n", "bigint"),))
HANG_S = 2.0  # an import in the child may take a second on a busy machine
CONTEXT = ChunkContext(1, 2, "numbers.txt")


def of_lines(act: Callable[[], object]) -> Pipeline:
    @protheon.pipeline(tables=[T])
    def by_line(line: bytes) -> Any:
        if line == b"77":
            act()
        return (int(line),)

    return by_line


def numbers(n_lines: int = 100, batch: int = 30) -> Iterator[tuple[list[bytes], range]]:
    for start in range(0, n_lines, batch):
        stop = min(start + batch, n_lines)
        yield [b"%d" % n for n in range(start, stop)], range(start + 1, stop + 1)


def dies(act: Callable[[], object], **options: Any) -> Death:
    ended = probe(of_lines(act), CONTEXT, numbers(), **options)
    assert isinstance(ended, Death)
    return ended


@pytest.mark.parametrize(
    ("kind", "how"), [(signal.SIGSEGV, "killed the process by signal SIGSEGV"), (signal.SIGKILL, "signal SIGKILL, as a system does")]
)
def test_a_signal_is_told_with_the_line_that_was_at_work(kind: signal.Signals, how: str) -> None:
    number = int(kind)
    death = dies(lambda: os.kill(os.getpid(), number))
    assert (death.index, death.n_lines) == (77, 1)
    assert how in death.how


def test_the_line_of_the_code_is_in_what_a_crashing_child_said() -> None:
    death = dies(lambda: os.kill(os.getpid(), signal.SIGSEGV))
    assert "Fatal Python error: Segmentation fault" in death.said
    assert "in by_line" in death.said


def test_an_exit_of_the_code_and_a_hang_are_told() -> None:
    assert dies(lambda: os._exit(9)).how == "ended the process with code 9"
    hung = dies(lambda: time.sleep(600), hang_s=HANG_S)
    assert "still at it after 2" in hung.how
    assert (hung.index, "in by_line" in hung.said) == (77, True)


@pytest.mark.slow
def test_time_in_which_the_next_lines_are_awaited_is_no_lines(tmp_path: Path) -> None:
    done = tmp_path / "done"

    def slowly() -> Iterator[tuple[list[bytes], range]]:
        yield [b"77"], range(1, 2)
        wait_until(done.exists)
        time.sleep(HANG_S + 0.5)

    assert probe(of_lines(done.touch), CONTEXT, slowly(), hang_s=HANG_S) == "passed"


class Ending:
    """Ends whatever process it is imported into."""

    def __init__(self, call: Callable[..., object], argument: float) -> None:
        self.imported = call, (argument,)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[float]]:
        return self.imported


@pytest.mark.parametrize(
    ("ending", "how"), [(Ending(os._exit, 9), "ended the process with code 9"), (Ending(time.sleep, 600), "was still at it after 2")]
)
def test_a_pipeline_that_ends_or_hangs_as_it_is_imported_blames_no_line(ending: Ending, how: str) -> None:
    @protheon.pipeline(tables=[T])
    def by_line(line: bytes) -> Any:
        return (int(line), ending)

    death = probe(by_line, CONTEXT, numbers(), hang_s=HANG_S)
    assert isinstance(death, Death)
    assert (death.index, death.n_lines) == (0, 0)
    assert how in death.how


def test_a_dead_letter_by_an_import_is_told_without_a_line() -> None:
    ending = Ending(os._exit, 9)

    @protheon.pipeline(tables=[T])
    def by_line(line: bytes) -> Any:
        return (int(line), ending)

    row = {"task_id": 2, "path": "numbers.txt", "chunk_no": 1, "first_line": 1, "n_lines": 100, "reason": "2 times worker_death"}
    letter = _Chunk({**row, "error_class": "WorkerDied", "message": "its process ended"}, by_line, CONTEXT, lambda: nullcontext(iter(())))
    told = letter.debug(pdb=False).told
    assert told[0] == "before the first line, as the pipeline is imported and opened"
    assert told[1].startswith("there the pipeline ended the process with code 9")


def test_an_error_of_who_brings_the_lines_is_raised_and_no_verdict() -> None:
    def broken() -> Iterator[tuple[list[bytes], range]]:
        yield [b"1"], range(1, 2)
        raise ConnectionResetError("the source is gone")

    with pytest.raises(ConnectionResetError, match="the source is gone"):
        probe(of_lines(lambda: None), CONTEXT, broken())
    assert children() == []


def test_ctrl_c_leaves_no_child() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite that runs in the background has it ignored
    begun = threading.Event()

    def until_it_hangs() -> Iterator[tuple[list[bytes], range]]:
        yield [b"77"], range(1, 2)
        begun.set()

    def interrupt() -> None:
        begun.wait(60)
        time.sleep(0.3)  # it waits for the child's end by then; before that, Ctrl-C has to do the same
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    person = threading.Thread(target=interrupt)
    person.start()
    with pytest.raises(KeyboardInterrupt):
        probe(of_lines(lambda: time.sleep(600)), CONTEXT, until_it_hangs(), hang_s=60.0)
    person.join()
    signal.signal(signal.SIGINT, before)
    assert children() == []


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "protheon_dask.run.probe" in child.cmdline()]


def raise_value_error() -> None:
    raise MemoryError("no room")


@pytest.mark.parametrize(("act", "ended"), [(lambda: print("said"), "passed"), (raise_value_error, "raised")])
def test_a_child_that_lives_says_whether_the_pipeline_raised(act: Callable[[], object], ended: Lived) -> None:
    assert probe(of_lines(act), CONTEXT, numbers()) == ended


def test_a_batch_function_is_told_with_all_lines_of_its_batch() -> None:
    @protheon.pipeline(tables=[T])
    def by_batch(lines: list[bytes]) -> Any:
        if b"77" in lines:
            os._exit(5)
        return [(index, (int(line),)) for index, line in enumerate(lines)]

    death = probe(by_batch, CONTEXT, numbers())
    assert isinstance(death, Death)
    assert (death.index, death.n_lines) == (60, 30)
