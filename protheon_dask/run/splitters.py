"""The splitting processes of a coordinator: which loads are being cut, with how much credit, and what is cut again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from protheon_dask.ledger.runs import PendingSplit
from protheon_dask.model import ChunkManifest, Identity
from protheon_dask.workspace.chunkfile import ChunkStore
from protheon_dask.workspace.splitter import Splitter
from protheon_dask.workspace.splitting import ChunkCut, SplitEvent, SplitFailed, SplitJob, WideWindow
from protheon_dask.workspace.url import HIDDEN, shown

CREDIT_BYTES = 32 << 20
"""Stored bytes that a splitter may write ahead of what the coordinator has seen; a chunk or a few."""


@dataclass(frozen=True, slots=True)
class FromSplitter:
    """An event of the splitter that cuts split, for the first time or again."""

    split: PendingSplit
    again: bool
    event: SplitEvent


@dataclass(slots=True)
class _Running:
    splitter: Splitter
    credit_bytes: int = 0
    wide: bool = False  # it may keep a window over WIDE_WINDOW_BYTES
    waits: bool = False  # for that leave: until then it uses no credit


@dataclass(slots=True)
class SplitterPool:
    """At most n at a time, beside those that cut again, one for each load; of those with a wide window one.

    The coordinator's own: only its secrets are thread-safe.
    """

    store: ChunkStore
    n: int
    on_event: Callable[[FromSplitter], None]
    _running: dict[tuple[int, bool], _Running] = field(default_factory=dict)  # (load, again)
    _urls: dict[tuple[str, Identity], str] = field(default_factory=dict)  # as the ledger has it, and what is there -> with its password

    def keep_secret(self, path: str, identity: Identity) -> None:
        """Keep a URL with its password or signature, as long as this process lives: the ledger has it without. Thread-safe.

        identity: of the source. Two URLs may differ in what is hidden alone, as ``?key=a`` and ``?key=b``; of one source the last counts.
        """
        if shown(path) != path:
            self._urls[shown(path), identity] = path

    def with_secret(self, path: str, identity: Identity) -> str:
        """The URL as it was given, where this process knows it; else the path itself. Thread-safe."""
        return self._urls.get((path, identity), path)

    def is_cutting(self, load_id: int, *, again: bool = False) -> bool:
        """Is the load being cut, or chunks of it again? Both may be: a file of hours does not keep a lost chunk waiting for its end."""
        return (load_id, again) in self._running

    @property
    def has_room(self) -> bool:
        return len(self.loads) < self.n

    def start(self, split: PendingSplit, wanted: tuple[ChunkManifest, ...] = ()) -> None:
        """Cut a load on after its last chunk, or cut the wanted chunks again."""
        again = bool(wanted)
        path = self.with_secret(split.path, split.identity)
        if HIDDEN in path and shown(path) == path:
            self._fail(split, again, "refused", "the master that knew its password has ended: type the same command again")
            return
        job = SplitJob(
            load_id=split.load_id,
            path=path,
            directory=str(Path(self.store.directory)),
            identity=split.identity,
            chunk_lines=split.chunk_lines,
            max_chunk_raw_bytes=split.max_chunk_bytes,
            max_line_bytes=split.max_line_bytes,
            resume_after=None if wanted else split.last,
            wanted=wanted,
        )
        try:
            splitter = Splitter.start(job, lambda event: self.on_event(FromSplitter(split, again, event)))
        except OSError as exc:  # no process, no memory, no file descriptor
            self._fail(split, again, "unavailable", f"no process could be started to read it: {exc}")
            return
        self._running[split.load_id, again] = _Running(splitter)
        self.grant()

    def _fail(self, split: PendingSplit, again: bool, kind: Literal["unavailable", "refused"], why: str) -> None:
        self.on_event(FromSplitter(split, again, SplitFailed(f"{split.path}: {why}", kind)))

    def note(self, load_id: int, event: SplitEvent, *, again: bool = False) -> None:
        """Count what an event used up or ended."""
        running = self._running.get((load_id, again))
        if running is None:
            return
        if isinstance(event, ChunkCut):
            running.credit_bytes -= event.manifest.stored_bytes
        elif isinstance(event, WideWindow):
            running.waits = True
        else:
            del self._running[load_id, again]
        self._allow_wide()

    def _allow_wide(self) -> None:
        if any(running.wide for running in self._running.values()):
            return
        for running in self._running.values():
            if running.waits:
                running.wide, running.waits = True, False
                running.splitter.allow_wide()
                return

    def grant(self) -> None:
        """Share the room of the workspace out among the splitters that have used up their credit."""
        # Credit of one that waits for its window is not counted: it would keep the one that has the window from going on.
        outstanding = sum(max(0, running.credit_bytes) for running in self._running.values() if not running.waits)
        for (_, again), running in self._running.items():
            if again or running.waits or running.credit_bytes > 0:
                continue
            room = self.store.room_bytes - outstanding
            if room <= 0:
                return
            n_bytes = min(CREDIT_BYTES, room) - running.credit_bytes  # what was overdrawn is paid back first
            running.splitter.grant(n_bytes)
            running.credit_bytes += n_bytes
            outstanding += running.credit_bytes

    def stop(self, load_id: int, *, again: bool = False) -> None:
        """End the splitter of a load whose run was cancelled; its chunks stand."""
        running = self._running.pop((load_id, again), None)
        if running is not None:
            running.splitter.stop()
            self._allow_wide()

    def stop_all(self) -> None:
        for load_id, again in list(self._running):
            self.stop(load_id, again=again)

    @property
    def loads(self) -> list[int]:
        return [load_id for load_id, again in self._running if not again]
