"""The splitting process and its parent's side: one process a source, so that the broker's event loop never blocks.

``python -m protheon_dask.workspace.splitter`` reads a SplitJob from stdin and then leaves, and writes events to stdout; EOF
of stdin ends it wherever it is, so that a parent that was killed leaves nothing behind. A frame is 4 bytes of length, big
endian, and a msgpack value. Neither side imports dask, grpc or psycopg: the time to start counts.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal, cast

import msgspec

from protheon_dask import failpoints
from protheon_dask.workspace.chunkfile import part_path
from protheon_dask.workspace.splitting import ChunkCut, Credit, SplitEnded, SplitEvent, SplitFailed, SplitJob, WideWindow, split
from protheon_dask.workspace.url import shown

__all__ = ["ChunkCut", "SplitEnded", "SplitEvent", "SplitFailed", "SplitJob", "Splitter", "WideWindow"]

_LENGTH_BYTES = 4
_STOP_S = 5.0  # a child ends within milliseconds of EOF; one that is stuck in the kernel for longer is killed
_EVENTS = msgspec.msgpack.Decoder(SplitEvent)
_JOBS = msgspec.msgpack.Decoder(SplitJob)
_KILLED = -9  # SIGKILL, which Windows has not


class _Leave(msgspec.Struct, frozen=True):
    """What a splitter may do from now on."""

    n_bytes: int = 0  # more stored bytes
    wide: bool = False  # keep a window over WIDE_WINDOW_BYTES


_LEAVES = msgspec.msgpack.Decoder(_Leave)


class Splitter:
    """A running splitting process.

    Guarantee:  on_event is called on one thread of the splitter's own, in order; it must not raise. The last event is
                SplitEnded or SplitFailed, also when the process was killed; after stop() there is none.
                grant(), allow_wide() and stop() are thread-safe.
    Raises:     OSError from start(): no process could be started.
    """

    def __init__(self, job: SplitJob, on_event: Callable[[SplitEvent], None]) -> None:
        self._job, self._on_event = job, on_event
        self._lock = threading.Lock()
        self._is_stopped = False
        # -P: a file of the user's that is called like a module must not be imported from the working directory.
        command = [sys.executable, "-P", "-m", "protheon_dask.workspace.splitter"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self._stdin, self._stdout = cast("BinaryIO", self._process.stdin), cast("BinaryIO", self._process.stdout)
        self._thread = threading.Thread(target=self._read, name=f"splitter-{job.load_id}", daemon=True)

    @classmethod
    def start(cls, job: SplitJob, on_event: Callable[[SplitEvent], None]) -> Splitter:
        """Start a process for the job; it cuts nothing before the first grant, unless it has wanted chunks."""
        splitter = cls(job, on_event)
        splitter._send(msgspec.msgpack.encode(job))
        splitter._thread.start()
        return splitter

    @property
    def pid(self) -> int:
        return self._process.pid

    def grant(self, n_bytes: int) -> None:
        """Let it write n_bytes more of stored chunks. It begins a chunk while any are left, so it may overdraw by one chunk."""
        self._send(msgspec.msgpack.encode(_Leave(n_bytes=n_bytes)))

    def allow_wide(self) -> None:
        """Let it keep the window that it asked for by WideWindow."""
        self._send(msgspec.msgpack.encode(_Leave(wide=True)))

    def wait_ended(self, timeout_s: float | None = None) -> bool:
        """Wait until the last event was handed out; False if that took longer."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def stop(self) -> None:
        """End the process and remove its unfinished file; chunks that were cut stand. Idempotent; not from on_event."""
        with self._lock:
            self._is_stopped = True
            self._stdin.close()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._thread.join()

    def _send(self, message: bytes) -> None:
        with self._lock:
            if not self._stdin.closed:
                try:
                    _write_frame(self._stdin, message)
                except OSError:
                    self._stdin.close()  # the process is gone: the reading thread tells why

    def _read(self) -> None:
        last: SplitEvent | None = None
        while (frame := _read_frame(self._stdout)) is not None:
            last = _EVENTS.decode(frame)
            self._on_event(last)
        code = self._process.wait()
        with self._lock:
            self._stdin.close()
            is_stopped = self._is_stopped
        self._stdout.close()
        directory = Path(self._job.directory) / str(self._job.load_id)
        for part in directory.glob(part_path(directory / "*", self.pid).name):
            part.unlink(missing_ok=True)
        if not is_stopped and not isinstance(last, SplitEnded | SplitFailed):
            # A negative code is a signal's: killed from outside, which says nothing about the source or the program.
            kind: Literal["unavailable", "internal"] = "unavailable" if code < 0 else "internal"
            how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}; the master's log tells why"
            if code == _KILLED:
                how += ", as a system does that has no memory left"
            self._on_event(SplitFailed(f"{shown(self._job.path)}: the process that reads it {how}", kind))


def _write_frame(fileobj: BinaryIO, message: bytes) -> None:
    data = memoryview(len(message).to_bytes(_LENGTH_BYTES, "big") + message)
    while data:
        data = data[fileobj.write(data) :]


def _read_frame(fileobj: BinaryIO) -> bytes | None:
    """Return the next message, or None at the end, be it within a frame."""
    length = _read_exactly(fileobj, _LENGTH_BYTES)
    return None if length is None else _read_exactly(fileobj, int.from_bytes(length, "big"))


def _read_exactly(fileobj: BinaryIO, n_bytes: int) -> bytes | None:
    parts: list[bytes] = []
    while n_bytes:
        data = fileobj.read(n_bytes)
        if not data:
            return None
        parts.append(data)
        n_bytes -= len(data)
    return b"".join(parts)


def main() -> None:
    """Be the splitting process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches the whole group; the parent decides
    stdin = cast("BinaryIO", open(0, "rb", buffering=0, closefd=False))  # noqa: SIM115 - a descriptor; open until the end
    stdout = cast("BinaryIO", os.fdopen(os.dup(1), "wb", buffering=0))
    os.dup2(2, 1)  # what a library prints must not come between the frames
    failpoints.arm_from_environment()
    job = _read_frame(stdin)
    if job is None:
        return

    def tell(event: SplitEvent) -> None:
        _write_frame(stdout, msgspec.msgpack.encode(event))

    credit = Credit(ask_wide=lambda window_bytes: tell(WideWindow(window_bytes)))

    def listen() -> None:
        while (frame := _read_frame(stdin)) is not None:
            leave = _LEAVES.decode(frame)
            credit.grant(leave.n_bytes)
            if leave.wide:
                credit.allow_wide()
        os._exit(0)  # the parent stopped us or is gone; the main thread may be waiting, or reading from a dead disk

    path = "a source"

    def tell_defect(kind: type[BaseException], value: BaseException, where: TracebackType | None) -> None:
        print(f"{path}: the process that reads it failed:", file=sys.stderr)
        sys.__excepthook__(kind, value, where)
        told = f"{path}: a defect of Protheon while it was read: {kind.__name__}: {value}; the master's log has the traceback"
        tell(SplitFailed(told, "internal"))

    sys.excepthook = tell_defect
    threading.Thread(target=listen, daemon=True).start()
    decoded = _JOBS.decode(job)
    path = shown(decoded.path)
    for event in split(decoded, credit):
        tell(event)


if __name__ == "__main__":
    main()
