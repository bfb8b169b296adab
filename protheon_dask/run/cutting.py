"""The broker's files: sources are cut ahead, chunks without a file are cut again, and files of no use are put aside or deleted.

Part of the coordinator, and called in its thread: it brings its connection and its epoch, which change when the lead is taken anew.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Container, Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from protheon_dask import failpoints
from protheon_dask.ledger import chunks, replays, runs, verbs
from protheon_dask.ledger.connect import Connection
from protheon_dask.model import RunState, SplitState, TaskState
from protheon_dask.run.replay import LOST
from protheon_dask.run.splitters import FromSplitter, SplitterPool
from protheon_dask.workspace.chunkfile import ChunkStore
from protheon_dask.workspace.splitting import ChunkCut, SplitEnded, SplitFailed, WideWindow
from protheon_dask.workspace.spool import SPOOLS, SpoolStore

logger = logging.getLogger(__name__)

SPLIT_RETRY_S = 10.0
"""Longest pause before a source that could not be read is tried again; the first is 1 s, each the double of the one before."""
REFUSED_TRIES = 4
"""A source that is gone, or may not be read, that often in a row is given up: a mount may be away for a moment (7 s)."""


@dataclass(frozen=True, slots=True)
class SourceWait:
    """A source that cannot be read at the moment."""

    run_id: int
    since_at: float
    n_tries: int
    message: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """Somebody asked for a chunk whose file is missing or short."""

    load_id: int
    first_line: int
    generation: int


class Cutting:
    """What is cut, what is cut again, and which sources are waited for. Of the coordinator's thread, but for what says otherwise."""

    def __init__(self, store: ChunkStore, splitters: SplitterPool, broker_uuid: UUID, host: str) -> None:
        """host: this one, under which an attempt that is over as soon as its line is cut is recorded."""
        self.store, self.splitters, self._broker_uuid = store, splitters, broker_uuid
        self.spools = SpoolStore(store.directory / SPOOLS)
        self._host = host
        self._wanted: dict[int, dict[int, chunks.StoredManifest]] = {}  # load -> first line -> chunk without a file
        self._split_after: dict[int, float] = {}  # loads whose source could not be read -> when to try again
        self._source_waits: dict[int, SourceWait] = {}  # the same, and why

    def adopt(self, ledger_id: str, stored: Sequence[chunks.StoredManifest]) -> None:
        """Put the workspace of this ledger in order: files that match a manifest are kept, the rest is deleted."""
        self.store.move_below(ledger_id)  # clusters over other ledgers have the same workspace
        self.spools.move_below(ledger_id)
        self.store.adopt((item.load_id, item.manifest) for item in stored)  # a file that is missing is noticed when it is wanted
        for item in stored:
            if item.is_waiting:
                self.store.park(item.load_id, item.manifest.first_line)

    def stop(self) -> None:
        """End all splitters."""
        self.splitters.stop_all()

    def source_wait(self, run_id: int) -> SourceWait | None:
        """A source of the run that cannot be read at the moment, the longest waiting one. From any thread."""
        waits = [wait for wait in list(self._source_waits.values()) if wait.run_id == run_id]
        return min(waits, key=lambda wait: wait.since_at, default=None)

    def take(self, conn: Connection, epoch: int, item: FromSplitter) -> bool:
        """Write down what a splitter did; True: its load may have come to its end."""
        load_id, event = item.split.load_id, item.event
        if isinstance(event, WideWindow):
            self.splitters.note(load_id, event, again=item.again)
            return False
        is_over = False
        if not isinstance(event, SplitFailed):
            self._source_waits.pop(load_id, None)
            self._split_after.pop(load_id, None)
        if item.again:
            self._take_again(conn, epoch, item)
        elif isinstance(event, ChunkCut):
            failpoints.hit("manifest.before")
            self.store.add(load_id, event.manifest)
            with conn.transaction():
                if event.manifest.oversized:
                    chunks.enqueue_oversized(
                        conn, epoch, load_id, item.split.run_id, event.manifest, event.raw, self._host, self._broker_uuid
                    )
                else:
                    verbs.enqueue(conn, epoch, load_id, event.manifest)
            failpoints.hit("manifest.after")
        elif isinstance(event, SplitEnded):
            state = SplitState.COMPLETE if event.damaged_at is None else SplitState.DAMAGED
            message = None if event.damaged_at is None else event.message.removeprefix(f"{item.split.path}: ")  # readers name the path
            if event.notice:
                runs.add_notice(conn, load_id, event.notice)
            runs.split_ended(conn, epoch, load_id, state, message=message, damaged_at_bytes=event.damaged_at, n_chunks=event.n_chunks)
            is_over = True
        elif not self._is_tried_again(item, event):
            state = SplitState.CHANGED if event.kind == "changed" else SplitState.FAILED
            message = event.message.removeprefix(f"{item.split.path}: ") if item.split.replay_of is None else LOST
            runs.split_ended(conn, epoch, load_id, state, message=message)
            is_over = True
        self.splitters.note(load_id, event, again=item.again)
        return is_over

    def _take_again(self, conn: Connection, epoch: int, item: FromSplitter) -> None:
        load_id, event = item.split.load_id, item.event
        if isinstance(event, ChunkCut):
            self.store.add(load_id, event.manifest)
            chunks.restored(conn, epoch, load_id, event.manifest)
            self._wanted.get(load_id, {}).pop(event.manifest.first_line, None)
        elif isinstance(event, SplitFailed) and not self._is_tried_again(item, event):
            if item.split.replay_of is None:
                if runs.pause_run(conn, item.split.run_id, event.message):
                    logger.warning("run.pause", extra={"run_id": item.split.run_id, "reason": event.message})
            else:  # nobody can bring back a file of ours: the run ends without what is left of it, and another replay takes that
                with conn.transaction():
                    runs.split_ended(conn, epoch, load_id, SplitState.FAILED, message=LOST)
                    replays.retire(conn, load_id)
            self._wanted.pop(load_id, None)

    def _is_tried_again(self, item: FromSplitter, event: SplitFailed) -> bool:
        """Note a source that cannot be read; False: trying again cannot help."""
        load_id, now = item.split.load_id, time.time()
        before = self._source_waits.pop(load_id, SourceWait(item.split.run_id, now, 0, ""))
        n_tries = before.n_tries + 1
        if event.kind != "unavailable" and (event.kind != "refused" or n_tries >= REFUSED_TRIES or item.split.replay_of is not None):
            return False
        logger.warning("split.unavailable", extra={"load_id": load_id, "error": event.message})
        self._source_waits[load_id] = SourceWait(item.split.run_id, before.since_at, n_tries, event.message)
        self._split_after[load_id] = time.monotonic() + min(SPLIT_RETRY_S, 2.0 ** min(n_tries - 1, 10))
        return True

    def settle(self, conn: Connection, task_ids: Collection[int]) -> set[int]:
        """Delete, park or unpark the files of tasks to which something happened; return those that still run."""
        running: set[int] = set()
        for item in verbs.look(conn, list(task_ids)) if task_ids else ():
            if item.load_id is None or item.first_line is None:
                continue
            if item.state is TaskState.RUNNING:
                running.add(item.task_id)
            key = (item.load_id, item.first_line)
            if item.state in (TaskState.SUCCEEDED, TaskState.CANCELLED):
                self.store.delete(*key)
            elif item.state is TaskState.DEAD or (item.state is TaskState.READY and not item.is_due):
                self.store.park(*key)
            else:
                self.store.unpark(*key)
        return running

    def put_aside(self, conn: Connection, dispatched: Container[int]) -> None:
        """Free the quota for the runs that go on: park what waits for a paused run, delete what a cancelled one left, and what was purged.

        The ledger is asked which those are: workers pause runs, and people cancel and purge, on connections of their own.
        """
        loads = self.store.loads()
        for key in chunks.purged(conn, list(loads)) if loads else ():
            self.store.delete(*key)
        for load_id, state in runs.idle_loads(conn, list(loads)).items() if loads else ():
            if state is RunState.CANCELLED:
                self.store.delete_load(load_id)
                continue
            for item in chunks.stored(conn, load_id) if loads[load_id] else ():
                if item.is_waiting and item.task_id not in dispatched:
                    self.store.park(load_id, item.manifest.first_line)
        if spools := self.spools.found():
            self.spools.sweep(spools, replays.live_spools(conn))

    def work(self, conn: Connection) -> None:
        """Keep splitters at work: chunks that are missing first, then sources that are still to be cut."""
        now = time.monotonic()
        for load_id, missing in list(self._wanted.items()):
            if not missing:
                del self._wanted[load_id]
            elif self._may_cut(load_id, now, again=True):
                split, state = runs.split_of(conn, load_id)
                if state is RunState.RUNNING:
                    self.splitters.start(split, tuple(item.manifest for item in missing.values()))
                else:
                    del self._wanted[load_id]  # a run that is resumed notices again
        pending = runs.pending_splits(conn) if self.splitters.has_room or self.splitters.loads else []
        waiting_loads = {split.load_id for split in pending} | set(self._wanted)
        for load_id in set(self._source_waits) - waiting_loads if self.splitters.has_room else ():
            del self._source_waits[load_id]  # its run was cancelled or paused
        for load_id in set(self.splitters.loads) - {split.load_id for split in pending}:
            self.splitters.stop(load_id)  # its run was cancelled or paused
        # Those that failed come last: a server that never answers holds a splitter for a minute each time, and others would never be read.
        for split in sorted(pending, key=lambda split: self._split_after.get(split.load_id, 0.0)):
            if self.splitters.has_room and self._may_cut(split.load_id, now):
                runs.split_started(conn, split.load_id)
                self.splitters.start(split)
        self.splitters.grant()

    def _may_cut(self, load_id: int, now: float, *, again: bool = False) -> bool:
        return not self.splitters.is_cutting(load_id, again=again) and now >= self._split_after.get(load_id, 0.0)

    @property
    def without_file(self) -> list[int]:
        """Tasks whose chunks are to be cut again."""
        return [item.task_id for missing in self._wanted.values() for item in missing.values()]

    def with_file(self, conn: Connection, ready: Iterable[verbs.Ready]) -> list[verbs.Ready]:
        """Those of these tasks whose files are there, or that need none; the others' are cut again from now on."""
        there: list[verbs.Ready] = []
        missing: set[int] = set()
        for task in ready:
            if task.load_id is None or task.first_line is None or self.store.manifest_of(task.load_id, task.first_line) is not None:
                there.append(task)
            else:
                missing.add(task.load_id)
        for load_id in missing:
            self._want(conn, load_id)
        return there

    def unpark(self, tasks: Iterable[verbs.Ready]) -> None:
        """Files of tasks that are back from backoff or a pause count again."""
        for task in tasks:
            if task.load_id is not None and task.first_line is not None:
                self.store.unpark(task.load_id, task.first_line)

    def note_missing(self, conn: Connection, wanted: Wanted) -> None:
        """Have a chunk cut again that somebody asked for, unless it was since."""
        known = self.store.manifest_of(wanted.load_id, wanted.first_line)
        if known is not None and known.generation == wanted.generation:
            self.store.delete(wanted.load_id, wanted.first_line)  # it was not what it should be
            known = None
        if known is None:
            self._want(conn, wanted.load_id)

    def drop_file(self, conn: Connection, task_id: int) -> None:
        """A file whose bytes are wrong: whoever asks for it next has it cut again."""
        for item in verbs.look(conn, [task_id]):
            if item.load_id is not None and item.first_line is not None:
                self.store.delete(item.load_id, item.first_line)

    def _want(self, conn: Connection, load_id: int) -> None:
        """Have every chunk of the load that may still run and has no file cut again, in one pass."""
        self._wanted[load_id] = {
            item.manifest.first_line: item
            for item in chunks.stored(conn, load_id)
            if item.state is not TaskState.DEAD and self.store.manifest_of(load_id, item.manifest.first_line) is None
        }
