"""Chunks for the rest of Dask: ``cluster.chunks()`` gives one ``dask.delayed`` object a chunk, each the list of its lines.

Light to import: the scheduler imports it as well, to read the graphs that name ``read_lines``.
"""

from __future__ import annotations

import atexit
import io
import logging
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self
from uuid import uuid4

from dask._task_spec import Task
from dask.base import DaskMethodsMixin
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from dask.threaded import get as get_in_threads

from protheon_dask.broker.chunks import PinnedChunk
from protheon_dask.errors import ChecksumMismatch, ConfigError, InvariantError, NotFound, ProtheonError
from protheon_dask.run.frames import limit_of
from protheon_dask.words import counted, size

if TYPE_CHECKING:
    from protheon_dask.broker.client import BrokerClient
    from protheon_dask.run.master import Master

logger = logging.getLogger(__name__)

FETCH_S: Final = 600.0
"""How long a task waits for its chunk, through restarts of the broker and while it is cut again."""
RENEWALS: Final = 4
"""Renewals within a pin's time: three may be lost."""
RENEW_S: Final = 5.0
"""Deadline of one renewal, and the pause after one that failed."""
SAY_S: Final = 10.0
"""Period of telling how far the cutting is."""
CLOSE_S: Final = 2.0
"""Deadline of letting a pin go at the end of the interpreter: what cannot be said runs out by itself."""


class Hold:
    """A pin in the hands of this process: its files stay as long as somebody refers to this, and are let go of after that.

    Each chunk of a list refers to it, and so does every collection that was made of them: the list itself may go.
    """

    def __init__(self, client: BrokerClient, pin_id: str, ttl_s: float) -> None:
        self.client, self.pin_id, self.ttl_s = client, pin_id, ttl_s
        self.is_closed = False

    def close(self, timeout_s: float | None = None) -> None:
        """Have the files deleted now. Idempotent. Raises BrokerUnavailable: they stay until the pin runs out."""
        if not self.is_closed:
            self.is_closed = True
            self.client.unpin(self.pin_id, *(() if timeout_s is None else (timeout_s,)))


@dataclass(slots=True)
class _Kept:
    hold: weakref.ref[Hold]
    client: BrokerClient
    ttl_s: float
    due_s: float  # monotonic: the next renewal


class HoldKeeper:
    """Renews the holds of this process from one thread, and tells the broker of those that nobody refers to any more."""

    def __init__(self) -> None:
        self._inbox: queue.SimpleQueue[Hold | str] = queue.SimpleQueue()  # a new one, or the pin of one that is gone
        self._kept: dict[str, _Kept] = {}  # of the thread, and of the end of the interpreter
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def keep(self, hold: Hold) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="pins", daemon=True)
                self._thread.start()
                atexit.register(self._close_all, os.getpid())
        self._inbox.put(hold)

    def _run(self) -> None:
        while True:
            due_s = min((kept.due_s for kept in self._kept.values()), default=None)
            with suppress(queue.Empty):
                told = self._inbox.get(timeout=None if due_s is None else max(0.0, due_s - time.monotonic()))
                if isinstance(told, Hold):
                    self._add(told)
                else:
                    self._let_go(told)
                del told  # else this thread would hold it until the next one comes
            for pin_id, kept in list(self._kept.items()):
                if kept.due_s <= time.monotonic():
                    self._renew(pin_id, kept)

    def _add(self, hold: Hold) -> None:
        pin_id = hold.pin_id
        ref = weakref.ref(hold, lambda _: self._inbox.put(pin_id))  # may be called in the midst of anything: it only tells
        self._kept[pin_id] = _Kept(ref, hold.client, hold.ttl_s, time.monotonic() + hold.ttl_s / RENEWALS)

    def _let_go(self, pin_id: str) -> None:
        kept = self._kept.pop(pin_id, None)
        if kept is not None:
            with suppress(ProtheonError):  # it was closed; or the broker is away, and the pin runs out
                kept.client.renew_pin(pin_id, 0.0, RENEW_S)

    def _renew(self, pin_id: str, kept: _Kept) -> None:
        hold = kept.hold()
        if hold is None or hold.is_closed:
            if hold is not None:
                del self._kept[pin_id]
            return
        try:
            kept.client.renew_pin(pin_id, kept.ttl_s, RENEW_S)
            kept.due_s = time.monotonic() + kept.ttl_s / RENEWALS
        except NotFound:  # it ran out: whoever reads it is told
            logger.warning("pin.lost", extra={"pin": pin_id})
            del self._kept[pin_id]
        except ProtheonError as exc:
            logger.warning("pin.renew_failed", extra={"pin": pin_id, "error": str(exc)})
            kept.due_s = time.monotonic() + min(RENEW_S, kept.ttl_s / RENEWALS)

    def _close_all(self, owner_pid: int) -> None:
        """At the end of the interpreter: of a broker that does not answer, only the first hold waits for it."""
        silent: set[str] = set()
        for kept in list(self._kept.values()) if os.getpid() == owner_pid else ():
            hold = kept.hold()
            if hold is not None and kept.client.address not in silent:
                try:
                    hold.close(CLOSE_S)
                except ProtheonError:
                    silent.add(kept.client.address)


_keeper = HoldKeeper()


@dataclass(frozen=True, slots=True)
class HeldChunk:
    """What Dask pickles: a pinned chunk, and where it is read. Only where it was made does it hold the pin."""

    chunk: PinnedChunk
    address: str  # of the broker as the client sees it; a worker of ours asks the one that it works for
    hold: Hold | None = field(default=None, compare=False, repr=False)

    def __reduce__(self) -> tuple[type[HeldChunk], tuple[PinnedChunk, str]]:
        return HeldChunk, (self.chunk, self.address)

    def __dask_tokenize__(self) -> tuple[str, str, int]:
        return "protheon-chunk", self.chunk.pin_id, self.chunk.chunk_no


def read_lines(held: HeldChunk) -> list[bytes]:
    """Fetch one pinned chunk and return its lines as a pipeline gets them: without LF, CR and byte order mark, blank ones left out.

    Raises:    NotFound: the pin is gone; BrokerUnavailable, ChunkUnavailable: not there within FETCH_S; SourceChanged: its file was
               damaged, and its source is not what it was; ChecksumMismatch: wrong again and again.
    Guarantee: the bytes are those that were cut, by checksum, stored and raw. Memory: the lines, and one frame.
    """
    try:
        return _lines(held)
    except ProtheonError as exc:
        bare = type(exc)(*exc.args)
    raise bare  # without its cause, a call of gRPC's that cannot be pickled: Dask would make a plain Exception of it


def _lines(held: HeldChunk) -> list[bytes]:
    from protheon_dask.pipelines.verdict import BLANK
    from protheon_dask.workspace.chunkfile import read_blocks
    from protheon_dask.workspace.cut import batches

    chunk, lines = held.chunk, list[bytes]()
    blocks = read_blocks(_fetch(_broker_of(held), chunk), chunk.raw_xxh3)
    for batch in batches(blocks, chunk.first_line, 0):
        lines += (line for line in batch.lines if line.strip(BLANK))
    return lines


def _fetch(broker: BrokerClient, chunk: PinnedChunk) -> bytes:
    stored = io.BytesIO()
    try:
        broker.fetch_chunk(chunk.wanted(1), stored, deadline_s=FETCH_S)
    except ChecksumMismatch:  # twice: the file is looked at, and cut again where it is what is wrong
        stored = io.BytesIO()
        broker.fetch_chunk(chunk.wanted(2), stored, deadline_s=FETCH_S)
    return stored.getvalue()


_brokers: dict[str, BrokerClient] = {}
_brokers_lock = threading.Lock()


def _broker_of(held: HeldChunk) -> BrokerClient:
    """The broker of the list, in its own process; of a worker, in one of ours; else, in any other, the one that the list was made at."""
    if held.hold is not None:
        return held.hold.client
    from protheon_dask.run.worker import current_process

    try:
        return current_process().broker
    except InvariantError:
        return _client_of(held.address)


def _client_of(address: str) -> BrokerClient:
    """One of this process for each broker; never closed, since chunks may be read after their cluster's object was closed."""
    from protheon_dask.broker.client import BrokerClient

    with _brokers_lock:
        return _brokers.setdefault(address, BrokerClient(address))


class Chunks(list[Delayed], DaskMethodsMixin):  # type: ignore[misc]  # dask is not typed here
    """A list of ``dask.delayed`` objects, each the lines of one chunk: a ``list[bytes]``. Also a collection: ``compute()`` gives all.

    Their files stay in the master's workspace while this list, or a collection that was made of it, exists in this process; close(),
    the end of its block or of the interpreter have them deleted.
    """

    __dask_scheduler__: ClassVar[Callable[..., Any]] = staticmethod(get_in_threads)
    __dask_optimize__ = None  # each chunk is a task of its own

    def __init__(self, hold: Hold, chunks: Iterable[PinnedChunk]) -> None:
        self._hold = hold
        found = list(chunks)
        self.pinned = tuple(chunk for chunk in found if chunk.chunk_no)
        """Path, first line, number of lines and size of each."""
        self.notices = tuple(chunk.notice for chunk in found if chunk.notice)
        """What was left out, and why; also said when the list was made."""
        super().__init__(_delayed(HeldChunk(chunk, hold.client.address, hold)) for chunk in self.pinned)

    def close(self) -> None:
        """Delete the files: no chunk can be read any more. Idempotent. Raises BrokerUnavailable: they go when the pin runs out."""
        self._hold.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, where: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        n_lines, raw_bytes = sum(chunk.n_lines for chunk in self.pinned), sum(chunk.raw_bytes for chunk in self.pinned)
        paths = {chunk.path for chunk in self.pinned}
        if self._hold.is_closed:
            return f"{counted(len(self), 'chunk')}, closed"
        return f"{counted(len(self), 'chunk')}: {counted(n_lines, 'line')}, {size(raw_bytes)}, of {counted(len(paths), 'file')}"

    # --- Dask's protocol of collections: else dask.compute(chunks) would give back, without a word, what is no plain list ---

    def __dask_graph__(self) -> HighLevelGraph:
        return HighLevelGraph.merge(*(chunk.__dask_graph__() for chunk in self))

    def __dask_keys__(self) -> list[str]:
        return [chunk.key for chunk in self]

    def __dask_layers__(self) -> tuple[str, ...]:
        return tuple(layer for chunk in self for layer in chunk.__dask_layers__())

    def __dask_tokenize__(self) -> tuple[str, str]:
        return "protheon-chunks", self._hold.pin_id

    def __dask_postcompute__(self) -> tuple[Callable[..., Any], tuple[()]]:
        return list, ()


def _delayed(held: HeldChunk) -> Delayed:
    key = f"lines-{held.chunk.pin_id}-{held.chunk.chunk_no}"  # Dask groups by what is before the number: one name for all, in its pages
    return Delayed(key, {key: Task(key, read_lines, held)})  # type: ignore[no-untyped-call]  # dask is not typed here


def pin_chunks(
    master: Master,
    paths: tuple[str, ...],
    *,
    chunk_lines: int | None = None,
    limit: int | None = None,
    ttl_s: float = 3_600.0,
    say: Callable[[str], object] = lambda _: None,
) -> Chunks:
    """Have sources cut and kept, and return their chunks once all are cut. See Cluster.chunks().

    say: told every SAY_S how far it is.
    """
    from protheon_dask.broker.pin_wire import PinRequest

    if chunk_lines is not None and chunk_lines < 1:
        raise ConfigError(f"chunk_lines={chunk_lines}: give 1 or more lines a chunk, or None for what suits the files")
    most = limit_of(limit, least=1)
    request = PinRequest(uuid4().hex, paths, ttl_s, 0 if chunk_lines is None else chunk_lines, 0 if most is None else most)
    hold = Hold(_client_of(master.address), request.pin_id, ttl_s)
    next_s = time.monotonic() + SAY_S

    def tell(so_far: list[PinnedChunk]) -> None:
        nonlocal next_s
        if time.monotonic() >= next_s:
            next_s = time.monotonic() + SAY_S
            n_chunks, n_lines = sum(chunk.chunk_no > 0 for chunk in so_far), sum(chunk.n_lines for chunk in so_far)
            say(f"cut so far: {counted(n_chunks, 'chunk')}, {counted(n_lines, 'line')}")

    try:
        chunks = Chunks(hold, master.pin(request, tell))
    except (ProtheonError, KeyboardInterrupt):
        with suppress(ProtheonError):
            hold.close(CLOSE_S)
        raise
    _keeper.keep(hold)
    return chunks
