"""The workspace's quota, whatever happens in whatever order: never a standstill, never more than its bound.

Real files, the real store, pool, credit and cutting; only the process around each splitter is left out, so that one event at
a time can be taken from it.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from protheon_dask.ledger.runs import PendingSplit
from protheon_dask.model import ChunkManifest
from protheon_dask.run import splitters
from protheon_dask.run.splitters import FromSplitter, SplitterPool
from protheon_dask.workspace.chunkfile import ChunkStore, chunk_path
from protheon_dask.workspace.source import identify
from protheon_dask.workspace.splitting import ChunkCut, Credit, SplitEnded, SplitEvent, SplitJob, split
from tests.properties.effort import examples

LINE_BYTES = 200
MOST_CHUNK_BYTES = 6 * LINE_BYTES + 60  # six lines that do not compress, and what the stored form adds
N_SPLITTERS = 2


class Stepped:
    """A splitter whose next event is taken when somebody asks for it."""

    def __init__(self, job: SplitJob, on_event: Any) -> None:
        self.credit_bytes, self.on_event, self.again = 0, on_event, bool(job.wanted)
        self._credit = Credit()
        self._events = split(job, self._credit)

    @classmethod
    def start(cls, job: SplitJob, on_event: Any) -> Stepped:
        return cls(job, on_event)

    def grant(self, n_bytes: int) -> None:
        self.credit_bytes += n_bytes
        self._credit.grant(n_bytes)

    def step(self) -> bool:
        """Hand out the next event; False: it waits for credit."""
        if self.credit_bytes <= 0 and not self.again:
            return False
        event = next(self._events)
        if isinstance(event, ChunkCut) and not self.again:
            self.credit_bytes -= event.manifest.stored_bytes
        self.on_event(event)
        return True

    def stop(self) -> None:
        self._events.close()  # type: ignore[attr-defined]  # a generator


@dataclass
class Load:
    """One source: what is cut of it, and how it stands with its chunks."""

    split: PendingSplit
    is_cut: bool = False
    manifests: dict[int, ChunkManifest] = field(default_factory=dict)
    ready: set[int] = field(default_factory=set)  # first lines of chunks that workers may take
    waiting: set[int] = field(default_factory=set)  # in backoff, dead, or paused
    done: set[int] = field(default_factory=set)


class Workspace(RuleBasedStateMachine):
    """A coordinator's part in the workspace, without ledger and workers."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="protheon-quota-"))
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(splitters, "Splitter", Stepped)
        self.loads: dict[int, Load] = {}
        self.beyond: dict[tuple[int, int], int] = {}  # stored bytes of files that came back without asking for room
        self.events: list[FromSplitter] = []

    @initialize(quota_bytes=st.integers(1, 4_000), parked_bytes=st.integers(0, 3_000), credit_bytes=st.integers(1, 4_000))
    def begin(self, quota_bytes: int, parked_bytes: int, credit_bytes: int) -> None:
        self.patch.setattr(splitters, "CREDIT_BYTES", credit_bytes)
        self.quota_bytes, self.parked_cap_bytes = quota_bytes, parked_bytes
        self.store = ChunkStore(self.directory / "chunks", quota_bytes, parked_bytes)
        self.pool = SplitterPool(self.store, N_SPLITTERS, self.events.append)
        for chunk_lines in (2, 6):
            self.submit(n_lines=60, chunk_lines=chunk_lines)
        self.start_splitters()

    def teardown(self) -> None:
        if hasattr(self, "pool"):
            self.nothing_stands_still()
            self.pool.stop_all()
        self.patch.undo()
        shutil.rmtree(self.directory)

    # --- what happens -----------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.loads) < 5)
    @rule(n_lines=st.sampled_from([0, 1, 7, 40, 60]), chunk_lines=st.integers(1, 6))
    def submit(self, n_lines: int, chunk_lines: int) -> None:
        load_id = len(self.loads) + 1
        path = self.directory / f"source-{load_id}"
        chance = random.Random(load_id)
        path.write_bytes(b"".join(chance.randbytes(LINE_BYTES - 1).replace(b"\n", b" ") + b"\n" for _ in range(n_lines)))
        limits = {"chunk_lines": chunk_lines, "max_chunk_bytes": 1 << 20, "max_line_bytes": 1 << 20}
        known: dict[str, Any] = {
            "load_id": load_id,
            "run_id": 1,
            "path": str(path),
            "identity": identify(str(path)),
            "last": None,
            **limits,
        }
        self.loads[load_id] = Load(PendingSplit(**known))

    @rule()
    def start_splitters(self) -> None:
        for load_id, load in self.loads.items():
            if self.pool.has_room and not load.is_cut and not self.pool.is_cutting(load_id):
                last = max(load.manifests.values(), key=lambda manifest: manifest.chunk_no, default=None)
                self.pool.start(replace(load.split, last=last))
        self.pool.grant()

    @rule(n=st.integers(1, 6))
    def cut(self, n: int) -> None:
        for running in list(self.pool._running.values()):
            splitter: Any = running.splitter
            for _ in range(n):
                if not splitter.step():
                    break
                if isinstance(self.take(), SplitEnded):
                    break

    @rule()
    def grant(self) -> None:
        self.pool.grant()

    @rule(data=st.data())
    def kill_a_splitter(self, data: st.DataObject) -> None:
        """Its chunks stand; it is started again later, after the last one that was told."""
        if self.pool._running:
            self.pool.stop(data.draw(st.sampled_from(sorted(self.pool._running))))

    @rule(n=st.integers(1, 5))
    def finish_chunks(self, n: int) -> None:
        for load_id, load in self.loads.items():
            for line in sorted(load.ready)[:n]:
                self.work(load_id, line)

    @rule(n=st.integers(1, 5))
    def fail_chunks(self, n: int) -> None:
        for load_id, load in self.loads.items():
            for line in sorted(load.ready)[:n]:
                load.ready.remove(line)
                load.waiting.add(line)
                self.put_aside(load_id, line)

    @rule(data=st.data())
    def pause(self, data: st.DataObject) -> None:
        if self.loads:
            load_id = data.draw(st.sampled_from(sorted(self.loads)))
            for line in sorted(self.loads[load_id].ready):
                self.put_aside(load_id, line)
            self.loads[load_id].waiting |= self.loads[load_id].ready
            self.loads[load_id].ready.clear()

    @rule()
    def retry(self) -> None:
        for load_id, load in self.loads.items():
            for line in sorted(load.waiting):
                if self.store.unpark(load_id, line):
                    self.beyond[load_id, line] = load.manifests[line].stored_bytes
            load.ready |= load.waiting
            load.waiting.clear()

    @rule(data=st.data())
    def lose_a_file(self, data: st.DataObject) -> None:
        known = [(load_id, line) for load_id, load in self.loads.items() for line in load.ready]
        if known:
            self.delete(*data.draw(st.sampled_from(sorted(known))))

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if self.loads:
            load_id = data.draw(st.sampled_from(sorted(self.loads)))
            load = self.loads[load_id]
            self.pool.stop(load_id)
            self.store.delete_load(load_id)
            self.beyond = {key: n_bytes for key, n_bytes in self.beyond.items() if key[0] != load_id}
            load.done |= load.ready | load.waiting
            load.ready.clear()
            load.waiting.clear()
            load.is_cut = True

    @rule()
    def start_the_broker_again(self) -> None:
        """A new store finds the files; of those whose tasks wait, what fits is put aside."""
        self.pool.stop_all()
        self.store = ChunkStore(self.store.directory, self.quota_bytes, self.parked_cap_bytes)
        self.pool = SplitterPool(self.store, N_SPLITTERS, self.events.append)
        still = [(i, load.manifests[line]) for i, load in self.loads.items() for line in sorted(load.ready | load.waiting)]
        self.store.adopt(still)
        for load_id, load in self.loads.items():
            for line in sorted(load.waiting):
                self.put_aside(load_id, line)
        self.beyond = {(i, line): n_bytes for (i, line), n_bytes in self.beyond.items() if self.store.manifest_of(i, line)}

    # --- what holds ---------------------------------------------------------------------------------------------------------

    @invariant()
    def the_accounts_are_what_is_on_the_disk(self) -> None:
        if hasattr(self, "store"):
            files = {path: path.stat().st_size for path in self.store.directory.rglob("*.zst")}
            assert sum(files.values()) == self.store.live_bytes + self.store.parked_bytes
            for load_id, load in self.loads.items():
                for line in load.ready | load.waiting:
                    if (known := self.store.manifest_of(load_id, line)) is not None:
                        path = chunk_path(self.store.directory, load_id, line, known.generation)
                        assert files.pop(path) == known.stored_bytes
            assert not files, "a file that no task needs"

    @invariant()
    def no_area_is_beyond_its_bound(self) -> None:
        if hasattr(self, "store"):
            assert self.store.parked_bytes <= self.parked_cap_bytes
            asked = self.store.live_bytes - sum(self.beyond.values())
            assert asked <= self.quota_bytes + N_SPLITTERS * MOST_CHUNK_BYTES

    def nothing_stands_still(self) -> None:
        """Workers that go on working bring every load to its end."""
        for _ in range(300):
            self.retry()
            self.start_splitters()
            self.cut(50)
            self.finish_chunks(1_000)
            if all(load.is_cut and not load.ready for load in self.loads.values()):
                break
        else:
            raise AssertionError("a standstill")
        assert (self.store.live_bytes, self.store.parked_bytes) == (0, 0)
        assert not list(self.store.directory.rglob("*.part"))

    # --- the coordinator's hands ----------------------------------------------------------------------------------------------

    def take(self) -> SplitEvent:
        [told] = self.events
        self.events.clear()
        load_id, event = told.split.load_id, told.event
        load = self.loads[load_id]
        if isinstance(event, ChunkCut):
            self.store.add(load_id, event.manifest)
            load.manifests[event.manifest.first_line] = event.manifest
            load.ready.add(event.manifest.first_line)
        else:
            assert isinstance(event, SplitEnded)
            load.is_cut = True
        self.pool.note(load_id, event)
        return event

    def work(self, load_id: int, line: int) -> None:
        """A worker asks for the file; one that is missing is cut again first, whatever room there is."""
        load = self.loads[load_id]
        if self.store.manifest_of(load_id, line) is None:
            known = load.split
            job = SplitJob(
                load_id=load_id,
                path=known.path,
                directory=str(self.store.directory),
                identity=known.identity,
                chunk_lines=known.chunk_lines,
                max_chunk_raw_bytes=known.max_chunk_bytes,
                max_line_bytes=known.max_line_bytes,
                wanted=(load.manifests[line],),
            )
            again, _ = split(job, Credit())
            assert isinstance(again, ChunkCut)
            self.store.add(load_id, again.manifest)
            load.manifests[line] = again.manifest
            self.beyond[load_id, line] = again.manifest.stored_bytes
            self.no_area_is_beyond_its_bound()
        self.delete(load_id, line)
        load.ready.remove(line)
        load.done.add(line)

    def put_aside(self, load_id: int, line: int) -> None:
        self.store.park(load_id, line)
        self.beyond.pop((load_id, line), None)

    def delete(self, load_id: int, line: int) -> None:
        self.store.delete(load_id, line)
        self.beyond.pop((load_id, line), None)


TestWorkspace = Workspace.TestCase
TestWorkspace.settings = settings(examples(20), stateful_step_count=30)
TestWorkspace.pytestmark = [pytest.mark.timeout(900)]
