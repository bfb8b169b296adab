"""A chunk that ended its worker's process, run through its pipeline in a child: the kernel lives on, and knows where the child died.

The child notes each line before the pipeline gets it, and Python's faulthandler tells in which line of the code it ended or hung.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pickle
import secrets
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, Final, Literal, cast

from protheon_dask import words
from protheon_dask.pipelines.batches import BatchForm
from protheon_dask.pipelines.pack import PackedPipeline, pack, unpack
from protheon_dask.pipelines.pipeline import ChunkContext, Pipeline

HANG_S: Final = 30.0
"""How long the pipeline may be at one line, or one batch of lines, until it is told as hanging: people wait here."""
Lived = Literal["passed", "raised"]
"""What became of a child that did not die: all lines went through, or the pipeline raised, which the caller can see for itself."""
PASSED, RAISED = 0, 3
"""The same as exit codes."""
PROGRESS: Final = struct.Struct("!qq")
"""The line that is at work (from 0 in the chunk), and how many there are with it."""
FIRST_CHOICE: Final = "1000"
"""For Linux's out-of-memory killer: the child goes first, and the kernel in which a person works stays."""
TOLD_BYTES: Final = 8_192
"""Of what the child said last."""


@dataclass(frozen=True, slots=True)
class Death:
    """What ended the child. index: the line that was at work (from 0), n_lines: that many together, 0: it was before the first one.

    how: in words; said: its last words.
    """

    index: int
    n_lines: int
    how: str
    said: str


def probe(
    pipeline: Pipeline, context: ChunkContext, batches: Iterable[tuple[Sequence[bytes], Sequence[int]]], *, hang_s: float = HANG_S
) -> Death | Lived:
    """Send batches of lines (and their numbers) through the pipeline in a child, and tell how that ended.

    Guarantee: no longer than hang_s at a line, or until the first one. The child ends with this call. Memory here is a batch.
    """
    key = secrets.token_bytes(32)
    packed = pack(pipeline, key)
    place = (context.load_id, context.task_id, context.path)
    with tempfile.TemporaryFile() as progress, tempfile.TemporaryFile() as said:
        # -P: a file of the user's that is called like a module must not be imported from the working directory.
        command = [sys.executable, "-P", "-m", "protheon_dask.run.probe"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=progress, stderr=said) as child:
            stdin = cast("IO[bytes]", child.stdin)
            try:
                if _sent(stdin, (packed, key, place, list(sys.path), hang_s)):
                    for lines, line_nos in batches:
                        if not _sent(stdin, (list(lines), list(line_nos))):
                            break  # its code tells how it went
                with contextlib.suppress(OSError):
                    stdin.close()
                code = child.wait()
            finally:  # also at Ctrl-C, and where the batches end in an error
                child.kill()
                with contextlib.suppress(OSError):
                    stdin.close()
                child.wait()
        progress.seek(0)
        noted = progress.read(PROGRESS.size)
        last = said.seek(0, os.SEEK_END)
        said.seek(max(0, last - TOLD_BYTES))
        told = said.read().decode("utf-8", "backslashreplace")
    if code in (PASSED, RAISED):
        return "passed" if code == PASSED else "raised"
    index, n_lines = PROGRESS.unpack(noted) if len(noted) == PROGRESS.size else (0, 0)
    return Death(index, n_lines, _how(code, told, hang_s), told)


def _how(code: int, said: str, hang_s: float) -> str:
    if "Timeout (" in said:  # faulthandler's word before it ends a process that hangs
        return f"was still at it after {words.duration(hang_s)}"
    if code >= 0:
        return f"ended the process with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = str(-code)
    return f"killed the process by signal {name}" + (", as a system does that has no memory left" if name == "SIGKILL" else "")


def _sent(stdin: IO[bytes], value: object) -> bool:
    """Send the child a value; False: it is gone."""
    data = pickle.dumps(value)
    try:
        stdin.write(len(data).to_bytes(8, "big") + data)
        stdin.flush()
    except OSError:
        return False
    return True


def _receive(stdin: BinaryIO) -> object:
    """The parent's next value; None at the end, or when the parent is gone."""
    head = stdin.read(8)
    size = int.from_bytes(head, "big")
    data = stdin.read(size)
    return pickle.loads(data) if len(head) == 8 and len(data) == size else None


def main() -> None:
    """Be the child: ends with code 0 when all lines went through."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(FIRST_CHOICE)
    stdin = cast("BinaryIO", os.fdopen(os.dup(0), "rb"))
    progress = os.dup(1)
    os.dup2(2, 1)  # what the author's code prints
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    faulthandler.enable()
    received = cast("tuple[PackedPipeline, bytes, tuple[int, int, str], list[str], float] | None", _receive(stdin))
    if received is None:
        return
    packed, key, place, path, hang_s = received
    sys.path[:] = path
    faulthandler.dump_traceback_later(hang_s, exit=True)  # what the author's module does as it is imported may hang, too
    try:
        pipeline = unpack(packed, key)
        transformer = pipeline.open(ChunkContext(*place))
        faulthandler.cancel_dump_traceback_later()
        size = sys.maxsize if isinstance(pipeline.form, BatchForm) else 1
        n_before = 0
        while (batch := cast("tuple[list[bytes], list[int]] | None", _receive(stdin))) is not None:
            lines, line_nos = batch
            for start in range(0, len(lines), min(size, len(lines))):
                some = lines[start : start + size]
                os.lseek(progress, 0, os.SEEK_SET)
                os.write(progress, PROGRESS.pack(n_before + start, len(some)))
                faulthandler.dump_traceback_later(hang_s, exit=True)
                transformer.transform(some, line_nos[start : start + size])
                faulthandler.cancel_dump_traceback_later()  # while it waits for more lines, no line is at work
            n_before += len(lines)
    except Exception:  # noqa: BLE001  # the author's code: the parent runs it where a person can see what it raises
        os._exit(RAISED)
    os._exit(PASSED)  # what the author's module started does not keep this process


if __name__ == "__main__":
    main()
