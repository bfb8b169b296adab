"""The broker's side of ``cluster.chunks()``: sources are cut for those who read them, beside the runs, and kept while they are held."""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from types import TracebackType
from typing import Final, Literal, Self

import psutil
import xxhash

from protheon_dask.broker.chunks import PinnedChunk
from protheon_dask.broker.peers import HERE, Peer
from protheon_dask.broker.pin_wire import PinRequest
from protheon_dask.broker.ports import StoredChunk
from protheon_dask.config import Settings
from protheon_dask.errors import (
    ChunkUnavailable,
    ConfigError,
    InvariantError,
    ProtheonError,
    SourceChanged,
    SourceUnavailable,
    TransientError,
)
from protheon_dask.model import ChunkManifest
from protheon_dask.policy import auto_chunk_lines
from protheon_dask.workspace import source
from protheon_dask.workspace.pins import Located, Part, Pin, PinStore
from protheon_dask.workspace.roots import SourceRoots
from protheon_dask.workspace.splitter import Splitter
from protheon_dask.workspace.splitting import ChunkCut, SplitEnded, SplitEvent, SplitFailed, SplitJob, WideWindow
from protheon_dask.workspace.url import HIDDEN, shown

logger = logging.getLogger(__name__)

MAX_RAW_BYTES: Final = 64 << 20
"""Most raw bytes of a pinned chunk: it becomes a list of lines in one process's memory, where a run's chunk streams."""
CUTTERS: Final = 2
"""Sources that are cut for pins at a time. Their processes give way to those of runs (NICE)."""
NICE: Final = 10
"""POSIX priority of these processes; the splitters of runs have 0."""
SWEEP_S: Final = 15.0
"""Period of the look for pins that have run out."""
MAX_TTL_S: Final = 7 * 86_400.0
"""Longest time for which a pin may be kept without a renewal."""
READ_BYTES: Final = 1 << 20


class PinDesk:
    """Answers for pins. Thread-safe; needs neither PostgreSQL nor Dask. A context manager.

    n_threads: of the workers, asked when a source is to be cut.
    ephemeral: at a polite end nobody will come back for what is kept, and it is deleted.
    """

    def __init__(self, settings: Settings, store: PinStore, n_threads: Callable[[], int], *, ephemeral: bool = False) -> None:
        self.settings, self.store, self.n_threads, self._ephemeral = settings, store, n_threads, ephemeral
        self.roots = SourceRoots(settings.source_roots)
        self.turns = threading.Semaphore(CUTTERS)
        self._lock = threading.Lock()
        self._cuttings: dict[str, Cutting] = {}
        self._again: dict[tuple[str, int], threading.Thread] = {}  # (pin, source) of which chunks are being cut again
        self._lost: dict[tuple[str, int], ProtheonError] = {}  # and of which they cannot be
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._sweep, name="pins", daemon=True)

    def __enter__(self) -> Self:
        """Take over what a broker before this one left, and delete what runs out, until the end of the block."""
        self.store.adopt(time.monotonic())
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, where: TracebackType | None) -> None:
        self._closing.set()
        with self._lock:
            cuttings = list(self._cuttings.values())
        for cutting in cuttings:
            cutting.close()
        self._thread.join()
        if self._ephemeral and kind is None:
            for pin_id in self.store.pin_ids():
                self.store.delete(pin_id)

    def pin(self, request: PinRequest, peer: Peer = HERE) -> Cutting:
        """Begin to cut, or go on with a pin that was begun under this name.

        peer: who asks; what a client of another host names must lie below source_roots.

        A call that cuts under this name now is ended: the name is its client's own, and asked again because that call was lost.
        Raises: ConfigError: an option that has no meaning.
        """
        if not request.paths:
            raise ConfigError("no path is given: name files, directories, globs or URLs")
        if request.chunk_lines < 0 or request.limit < 0:
            raise ConfigError(f"chunk_lines={request.chunk_lines} and limit={request.limit} must not be negative")
        _check_ttl(request.ttl_s)
        if self._closing.is_set():
            raise ChunkUnavailable("the broker is ending: ask again")
        with self._lock:
            before = self._cuttings.get(request.pin_id)
        if before is not None:  # the same client's, whose connection broke: nothing may have been heard of that here
            before.close()
        with self._lock:
            resolve = source.resolve if peer.is_here else self.roots.resolve
            cutting = Cutting(self, request, resolve, self.store.begin(request.pin_id, time.monotonic()))
            self._cuttings[request.pin_id] = cutting
        return cutting

    def renew(self, pin_id: str, ttl_s: float) -> None:
        """Keep it for ttl_s more; 0: nobody holds it any more, but somebody may still be reading. Raises NotFound."""
        if ttl_s:
            _check_ttl(ttl_s)
        self.store.renew(pin_id, ttl_s, time.monotonic())

    def unpin(self, pin_id: str) -> None:
        """Delete a pin; what cuts it is ended first, without waiting for that here. Idempotent."""
        with self._lock:
            cutting = self._cuttings.get(pin_id)
            if cutting is not None:
                cutting.is_unwanted = True
        if cutting is None:
            self.store.delete(pin_id)
        else:
            cutting.stop()

    def locate(self, pin_id: str, chunk_no: int, generation: int) -> StoredChunk:
        """Find a pinned chunk; generation above 1: its bytes were wrong at the reader, and the file is looked at.

        Raises: NotFound; ChunkUnavailable: it is being cut again; SourceChanged, ConfigError: it cannot be.
        """
        found = self.store.locate(pin_id, chunk_no, time.monotonic())
        if not _is_right(found, by_content=generation > 1):
            self._cut_again(found)
        return StoredChunk(found.path, found.manifest.stored_bytes, generation)

    def ended(self, cutting: Cutting) -> None:
        """Called by a cutting at its end."""
        with self._lock:
            if self._cuttings.get(cutting.pin.pin_id) is cutting:
                del self._cuttings[cutting.pin.pin_id]
            is_unwanted = cutting.is_unwanted
        if is_unwanted:
            self.store.delete(cutting.pin.pin_id)

    def _sweep(self) -> None:
        while not self._closing.wait(SWEEP_S):
            if over := self.store.sweep(time.monotonic()):
                logger.info("pin.expire", extra={"pins": len(over)})
            known = set(self.store.pin_ids())
            with self._lock:
                self._lost = {key: lost for key, lost in self._lost.items() if key[0] in known}

    # --- cutting again ------------------------------------------------------------------------------------------------------

    def _cut_again(self, found: Located) -> None:
        """Have all chunks of the source that are missing or wrong cut again, in one pass. Always raises: why it is not there now."""
        key = (found.pin_id, found.source_no)
        with self._lock:
            if (lost := self._lost.get(key)) is not None:
                raise lost
            if key not in self._again:
                pin, part = self.store.part(*key)
                wrong = [
                    item for item in part.manifests if not (item.oversized or _is_right(_located(pin, key[1], item), by_content=False))
                ]
                wanted = wrong if found.manifest in wrong else [*wrong, found.manifest]
                logger.warning("pin.cut_again", extra={"pin": found.pin_id, "path": part.source.path, "chunks": len(wanted)})
                thread = threading.Thread(target=self._cut_wanted, args=(pin, key, part, wanted), name="pin-again", daemon=True)
                self._again[key] = thread
                thread.start()
        raise ChunkUnavailable(f"a chunk of pin {found.pin_id} is not what it was in the workspace: it is being cut again")

    def _cut_wanted(self, pin: Pin, key: tuple[str, int], part: Part, wanted: Sequence[ChunkManifest]) -> None:
        try:
            for event in self._events_of(pin, key[1], part, tuple(wanted)):
                if isinstance(event, ChunkCut):
                    old = part.manifests[event.manifest.chunk_no - 1]
                    if event.manifest.stored_xxh3 != old.stored_xxh3:  # its readers know the form that it had
                        raise SourceChanged(f"{part.source.path}: it is stored in another form now: make the list of its chunks anew")
                    self.store.add(pin, key[1], event.manifest)
                elif isinstance(event, SplitFailed):
                    raise _error_of(event, part)
        except TransientError as exc:
            logger.warning("pin.unavailable", extra={"pin": pin.pin_id, "error": str(exc)})  # whoever asks next has it tried again
        except ProtheonError as exc:
            with self._lock:
                self._lost[key] = exc
        except OSError as exc:  # it was deleted meanwhile, or the disk is full: whoever asks next hears of it
            logger.warning("pin.unavailable", extra={"pin": pin.pin_id, "error": str(exc)})
        finally:
            with self._lock:
                del self._again[key]

    def _events_of(self, pin: Pin, source_no: int, part: Part, wanted: tuple[ChunkManifest, ...]) -> Generator[SplitEvent]:
        """Cut chunks again in a process of its own."""
        events: queue.Queue[SplitEvent] = queue.Queue()
        splitter = start_splitter(self.settings, pin, source_no, part, events.put, wanted)
        try:
            while True:
                event = events.get()
                yield event
                if isinstance(event, WideWindow):
                    splitter.allow_wide()
                elif isinstance(event, SplitEnded | SplitFailed):
                    return
        finally:
            splitter.stop()


class Cutting:
    """One call that cuts the sources of a pin, and gives their chunks one by one, those first that it has already.

    Guarantee: next() and close() are thread-safe. The pin stays while this is at work, however long that takes.
    """

    def __init__(self, desk: PinDesk, request: PinRequest, resolve: Callable[[Sequence[str]], list[str]], pin: Pin) -> None:
        self.pin, self._resolve = pin, resolve
        self.is_unwanted = False  # to be deleted at its end; under the desk's lock
        self._desk, self._request = desk, request
        self._lock = threading.Lock()  # of the steps, held while one is made
        self._closed = threading.Event()
        self._events: queue.Queue[SplitEvent | None] = queue.Queue()  # None: closed
        self._n_given = 0  # chunks
        self._is_ended = False
        self._steps = self._pin()

    def next(self) -> PinnedChunk | Literal["later"] | None:
        """The next chunk or notice; "later": others are being cut; None: there is none, or it was closed.

        Raises what stands in the way; nothing comes after that.
        Guarantee: a turn is not waited for here. The threads that call this are few, and those who have the turns need one, too.
        """
        with self._lock:
            return next(self._steps, None)

    def stop(self) -> None:
        """Cut no more: next() soon returns None. Does not block."""
        self._closed.set()
        self._events.put(None)

    def close(self) -> None:
        """Cut no more, and wait for that. What was cut stays for a while, so that the same call goes on with it. Idempotent."""
        self.stop()
        with self._lock:
            self._steps.close()
            self._end(is_whole=False)

    def _end(self, *, is_whole: bool) -> None:
        if not self._is_ended:
            self._is_ended = True
            self._desk.store.end(self.pin, self._request.ttl_s, time.monotonic(), is_whole=is_whole)
            self._desk.ended(self)

    def _pin(self) -> Generator[PinnedChunk | Literal["later"]]:
        """Yield what the pin has or gets, source by source."""
        limit = self._request.limit or sys.maxsize
        try:
            for source_no, path in enumerate(self._resolve(self._request.paths), start=1):
                if self._closed.is_set():
                    return
                if self._n_given >= limit:
                    break
                part = self._part(source_no, path)
                yield from self._known(part, limit)
                if not part.is_ended and self._n_given < limit:
                    yield from self._cut(source_no, part, limit)
        except TransientError:
            self._end(is_whole=False)
            raise
        except ProtheonError:
            self._end(is_whole=False)
            self._desk.store.delete(self.pin.pin_id)
            raise
        if not self._closed.is_set():
            self._end(is_whole=True)

    def _part(self, source_no: int, path: str) -> Part:
        identity = source.identify(path)

        def chunk_lines() -> int:
            auto = auto_chunk_lines(source.estimate_lines(path, identity.size_bytes), self._desk.n_threads())
            return self._request.chunk_lines or min(auto, self._desk.settings.chunk_lines)

        return self._desk.store.source(self.pin, source_no, shown(path), path, identity, chunk_lines)

    def _known(self, part: Part, limit: int) -> Generator[PinnedChunk]:
        for manifest in list(part.manifests):
            if self._n_given < limit and not manifest.oversized:
                yield self._chunk(part, manifest)
        for told in list(part.notices):
            yield PinnedChunk(self.pin.pin_id, 0, part.source.path, notice=told)

    def _cut(self, source_no: int, part: Part, limit: int) -> Generator[PinnedChunk | Literal["later"]]:
        """Cut on after the last chunk that the pin has, one ahead of what was given and no more: with a limit nothing is cut in vain."""
        desk, store = self._desk, self._desk.store
        while not desk.turns.acquire(blocking=False):
            if self._closed.is_set():
                return
            yield "later"
        try:
            store.check_room(self.pin, time.monotonic())
            splitter = start_splitter(desk.settings, self.pin, source_no, part, self._events.put)
            try:
                splitter.grant(1)
                while (event := self._events.get()) is not None:
                    match event:
                        case ChunkCut(manifest=manifest):
                            store.add(self.pin, source_no, manifest)
                            yield self._chunk(part, manifest) if not manifest.oversized else self._left_out(source_no, part, manifest)
                            if self._n_given >= limit:
                                return
                            if manifest.stored_bytes:
                                store.check_room(self.pin, time.monotonic())
                                splitter.grant(manifest.stored_bytes)  # it may begin one more
                        case WideWindow():
                            splitter.allow_wide()
                        case SplitEnded():
                            yield from self._ended(source_no, part, event)
                            return
                        case SplitFailed():
                            raise _error_of(event, part)
            finally:
                splitter.stop()
                self._events = queue.Queue()  # what came meanwhile is the ended splitter's
                if self._closed.is_set():
                    self._events.put(None)
        finally:
            desk.turns.release()

    def _ended(self, source_no: int, part: Part, event: SplitEnded) -> Generator[PinnedChunk]:
        told = [event.message] if event.damaged_at is not None else [event.notice] if event.notice else []
        if not part.manifests and not told:
            told.append(f"{part.source.path}: it has no line")
        for notice in told:
            yield self._notice(source_no, part, notice)
        self._desk.store.end_source(self.pin, source_no)

    def _left_out(self, source_no: int, part: Part, manifest: ChunkManifest) -> PinnedChunk:
        most = self._desk.settings.max_line_bytes
        told = f"line {manifest.first_line:,} is left out: it has {manifest.raw_bytes:,} bytes, more than max_line_bytes={most:,}"
        return self._notice(source_no, part, f"{part.source.path}: {told}")

    def _notice(self, source_no: int, part: Part, told: str) -> PinnedChunk:
        self._desk.store.add_notice(self.pin, source_no, told)
        return PinnedChunk(self.pin.pin_id, 0, part.source.path, notice=told)

    def _chunk(self, part: Part, manifest: ChunkManifest) -> PinnedChunk:
        self._n_given += 1
        return PinnedChunk(
            pin_id=self.pin.pin_id,
            chunk_no=self._n_given,
            path=part.source.path,
            first_line=manifest.first_line,
            n_lines=manifest.n_lines,
            raw_bytes=manifest.raw_bytes,
            stored_bytes=manifest.stored_bytes,
            stored_xxh3=manifest.stored_xxh3,
            raw_xxh3=manifest.raw_xxh3,
        )


def start_splitter(
    settings: Settings,
    pin: Pin,
    source_no: int,
    part: Part,
    on_event: Callable[[SplitEvent], None],
    wanted: tuple[ChunkManifest, ...] = (),
) -> Splitter:
    """Start a process that cuts a source on, or some chunks of it again; it gives way to those of runs.

    Raises: SourceUnavailable: no process could be started. ConfigError: the path's password is not known any more.
    """
    if HIDDEN in part.readable and shown(part.readable) == part.readable:
        raise ConfigError(f"{part.source.path}: the master that knew its password has ended: make the list of its chunks anew")
    job = SplitJob(
        load_id=source_no,
        path=part.readable,
        directory=str(pin.directory),
        identity=part.source.identity,
        chunk_lines=part.source.chunk_lines,
        max_chunk_raw_bytes=min(settings.max_chunk_bytes, MAX_RAW_BYTES),
        max_line_bytes=settings.max_line_bytes,
        resume_after=part.manifests[-1] if part.manifests and not wanted else None,
        wanted=wanted,
    )
    try:
        splitter = Splitter.start(job, on_event)
    except OSError as exc:
        raise SourceUnavailable(f"{part.source.path}: no process could be started to read it: {exc}") from exc
    with contextlib.suppress(psutil.Error):  # it may have ended already
        if sys.platform == "win32":
            psutil.Process(splitter.pid).nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)
        else:
            psutil.Process(splitter.pid).nice(NICE)
    return splitter


def _error_of(event: SplitFailed, part: Part) -> ProtheonError:
    match event.kind:
        case "unavailable":
            return SourceUnavailable(event.message)
        case "changed":
            return SourceChanged(f"{part.source.path}: it is not what it was, or changes while it is read: ask again when it is complete")
        case "refused":
            try:
                source.open_source(part.readable).close()
            except ProtheonError as exc:
                return exc
            return SourceUnavailable(f"{part.source.path}: it could not be read a moment ago")
        case "internal":
            return InvariantError(event.message)


def _located(pin: Pin, source_no: int, manifest: ChunkManifest) -> Located:
    return Located(pin.pin_id, source_no, pin.directory, manifest)


def _is_right(found: Located, *, by_content: bool) -> bool:
    """Is the file there, and as long as it should be; by_content: with the bytes that it should have?"""
    try:
        if not by_content:
            return found.path.stat().st_size == found.manifest.stored_bytes
        digest = xxhash.xxh3_128()
        with found.path.open("rb") as file:
            while data := file.read(READ_BYTES):
                digest.update(data)
        return digest.digest() == found.manifest.stored_xxh3
    except OSError:
        return False


def _check_ttl(ttl_s: float) -> None:
    if not (math.isfinite(ttl_s) and 0 < ttl_s <= MAX_TTL_S):
        raise ConfigError(f"ttl_s={ttl_s:g} must be above 0 and at most {MAX_TTL_S:g} seconds")
