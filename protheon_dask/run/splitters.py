"""The splitting processes of a coordinator: which loads are being cut, with how much credit, and what is cut again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from protheon_dask.ledger.runs import PendingSplit
from protheon_dask.model import ChunkManifest
from protheon_dask.workspace.chunkfile import ChunkStore
from protheon_dask.workspace.splitter import Splitter
from protheon_dask.workspace.splitting import ChunkCut, SplitEvent, SplitJob

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
    again: bool
    credit_bytes: int = 0


@dataclass(slots=True)
class SplitterPool:
    """At most n at a time; one for each load. Not thread-safe: the coordinator's own."""

    store: ChunkStore
    n: int
    on_event: Callable[[FromSplitter], None]
    _running: dict[int, _Running] = field(default_factory=dict)

    def is_cutting(self, load_id: int) -> bool:
        return load_id in self._running

    @property
    def has_room(self) -> bool:
        return len(self._running) < self.n

    def start(self, split: PendingSplit, wanted: tuple[ChunkManifest, ...] = ()) -> None:
        """Cut a load on after its last chunk, or cut the wanted chunks again."""
        job = SplitJob(
            load_id=split.load_id,
            path=split.path,
            directory=str(Path(self.store.directory)),
            identity=split.identity,
            chunk_lines=split.chunk_lines,
            max_chunk_raw_bytes=split.max_chunk_bytes,
            max_line_bytes=split.max_line_bytes,
            resume_after=None if wanted else split.last,
            wanted=wanted,
        )
        again = bool(wanted)
        splitter = Splitter.start(job, lambda event: self.on_event(FromSplitter(split, again, event)))
        self._running[split.load_id] = _Running(splitter, again)
        self.grant()

    def note(self, load_id: int, event: SplitEvent) -> None:
        """Count what an event used up or ended."""
        running = self._running.get(load_id)
        if running is None:
            return
        if isinstance(event, ChunkCut):
            running.credit_bytes -= event.manifest.stored_bytes
        else:
            del self._running[load_id]

    def grant(self) -> None:
        """Share the room of the workspace out among the splitters that have used up their credit."""
        outstanding = sum(max(0, running.credit_bytes) for running in self._running.values())
        for running in self._running.values():
            if running.again or running.credit_bytes > 0:
                continue
            room = self.store.room_bytes - outstanding
            if room <= 0:
                return
            n_bytes = min(CREDIT_BYTES, room) - running.credit_bytes  # what was overdrawn is paid back first
            running.splitter.grant(n_bytes)
            running.credit_bytes += n_bytes
            outstanding += running.credit_bytes

    def stop(self, load_id: int) -> None:
        """End the splitter of a load whose run was cancelled; its chunks stand."""
        running = self._running.pop(load_id, None)
        if running is not None:
            running.splitter.stop()

    def stop_all(self) -> None:
        for load_id in list(self._running):
            self.stop(load_id)

    @property
    def loads(self) -> list[int]:
        return [load_id for load_id, running in self._running.items() if not running.again]
