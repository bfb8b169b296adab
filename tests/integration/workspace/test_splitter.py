"""The real splitting process: pipes, credit, kill -9, a parent that dies, real files."""

from __future__ import annotations

import gzip
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest
import zstandard

from protheon_dask.model import Identity
from protheon_dask.workspace.chunkfile import chunk_path, read_blocks
from protheon_dask.workspace.source import identify
from protheon_dask.workspace.splitter import ChunkCut, SplitEnded, SplitEvent, SplitFailed, SplitJob, Splitter

ENDLESS = 1 << 60
LINE = b'{"_id":"%d","entries":[{"values":{"kills":%d,"deaths":%d}}]}\n'
RAW = b"".join(LINE % (15780000000 + i, i * 7919 % 41, i * 104729 % 37) for i in range(60_000))
FRAME_BYTES = 1 << 20


class Events:
    """What a splitter tells, to be waited for."""

    def __init__(self) -> None:
        self.queue: queue.Queue[SplitEvent] = queue.Queue()
        self.threads: set[str] = set()

    def __call__(self, event: SplitEvent) -> None:
        self.threads.add(threading.current_thread().name)
        self.queue.put(event)

    def next(self) -> SplitEvent:
        return self.queue.get(timeout=30)

    def rest(self) -> list[SplitEvent]:
        """All up to the last one."""
        events = [self.next()]
        while isinstance(events[-1], ChunkCut):
            events.append(self.next())
        return events


@pytest.fixture(params=["frames.zst", "one.zst", "members.gz", "plain.jsonl"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    pieces = [RAW[i : i + FRAME_BYTES] for i in range(0, len(RAW), FRAME_BYTES)]
    packed = {
        "frames.zst": b"".join(zstandard.ZstdCompressor().compress(piece) for piece in pieces),
        "one.zst": zstandard.ZstdCompressor(level=3, write_checksum=True).compress(RAW),
        "members.gz": b"".join(gzip.compress(piece) for piece in pieces),
        "plain.jsonl": RAW,
    }
    path = tmp_path / str(request.param)
    path.write_bytes(packed[request.param])
    return path


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    path = tmp_path / "plain.jsonl"
    path.write_bytes(RAW)
    return path


def job_for(source: Path, **changes: object) -> SplitJob:
    job = SplitJob(
        load_id=3,
        path=str(source),
        directory=str(source.parent / "ws"),
        identity=identify(str(source)),
        chunk_lines=4_000,
        max_chunk_raw_bytes=512 << 20,
        max_line_bytes=64 << 20,
    )
    return msgspec.structs.replace(job, **changes)


def raw_of(job: SplitJob, chunk: ChunkCut) -> bytes:
    manifest = chunk.manifest
    with chunk_path(Path(job.directory), job.load_id, manifest.first_line, manifest.generation).open("rb") as stored:
        return b"".join(read_blocks(stored, manifest.raw_xxh3))


def parts(job: SplitJob) -> Iterator[Path]:
    return Path(job.directory).rglob("*.part")


def test_a_source_is_cut_and_its_end_told(source: Path) -> None:
    job, events = job_for(source), Events()
    splitter = Splitter.start(job, events)
    splitter.grant(ENDLESS)
    *chunks, last = events.rest()
    assert splitter.wait_ended(30)
    assert last == SplitEnded(15, 60_000, len(RAW))
    assert b"".join(raw_of(job, chunk) for chunk in chunks if isinstance(chunk, ChunkCut)) == RAW
    assert len(events.threads) == 1
    splitter.grant(1)  # too late: no harm
    splitter.stop()


def test_after_kill_9_in_the_middle_the_rest_is_cut_and_nothing_doubled(source: Path) -> None:
    job, events = job_for(source), Events()
    whole = Events()
    Splitter.start(msgspec.structs.replace(job, load_id=4), whole).grant(ENDLESS)
    *expected, ended = whole.rest()

    splitter = Splitter.start(job, events)
    splitter.grant(1)  # one chunk
    cut = [events.next()]
    splitter.grant(300_000)  # and some more, until it waits or is in the middle of one
    cut.append(events.next())
    os.kill(splitter.pid, signal.SIGKILL)
    *more, failed = events.rest()
    assert isinstance(failed, SplitFailed)
    assert failed.kind == "unavailable"
    assert failed.message == f"{source}: the process that reads it was killed by signal 9, as a system does that has no memory left"
    assert splitter.wait_ended(30)
    assert not list(parts(job))
    cut += more

    last_known = cut[-1]
    assert isinstance(last_known, ChunkCut)
    resumed = Events()
    Splitter.start(msgspec.structs.replace(job, resume_after=last_known.manifest), resumed).grant(ENDLESS)
    *rest, last = resumed.rest()
    assert cut + rest == expected
    assert last == ended
    assert b"".join(raw_of(job, chunk) for chunk in cut + rest if isinstance(chunk, ChunkCut)) == RAW


def test_without_credit_nothing_is_cut_and_a_grant_is_overdrawn_by_at_most_one_chunk(plain: Path) -> None:
    job, events = job_for(plain), Events()
    splitter = Splitter.start(job, events)
    try:
        with pytest.raises(queue.Empty):
            events.queue.get(timeout=1.0)  # the one wait on time: that nothing comes cannot be waited for otherwise
        splitter.grant(1)
        first = events.next()
        assert isinstance(first, ChunkCut)
        splitter.grant(first.manifest.stored_bytes - 1)  # exactly what was overdrawn: still none left
        with pytest.raises(queue.Empty):
            events.queue.get(timeout=0.5)
        splitter.grant(1)
        second = events.next()
        assert isinstance(second, ChunkCut)
        assert second.manifest.chunk_no == 2
        assert events.queue.empty()
        assert len(list(Path(job.directory).rglob("*.zst"))) == 2
    finally:
        splitter.stop()


def test_stop_ends_a_splitter_that_waits_for_credit_without_another_event(plain: Path) -> None:
    job, events = job_for(plain), Events()
    splitter = Splitter.start(job, events)
    splitter.grant(1)
    assert isinstance(events.next(), ChunkCut)
    splitter.stop()
    splitter.stop()
    assert events.queue.empty()
    assert not psutil.pid_exists(splitter.pid)
    assert not list(parts(job))


def test_wanted_chunks_are_cut_again_in_one_pass_without_credit(source: Path) -> None:
    job, events = job_for(source), Events()
    Splitter.start(job, events).grant(ENDLESS)
    manifests = [event.manifest for event in events.rest() if isinstance(event, ChunkCut)]
    again = Events()
    Splitter.start(msgspec.structs.replace(job, wanted=(manifests[12], manifests[2], manifests[3])), again)
    *cut, last = again.rest()
    assert [(c.manifest.chunk_no, c.manifest.generation) for c in cut if isinstance(c, ChunkCut)] == [(3, 2), (4, 2), (13, 2)]
    assert b"".join(raw_of(job, c) for c in cut[:2] if isinstance(c, ChunkCut)) == b"".join(RAW.splitlines(keepends=True)[8_000:16_000])
    assert last == SplitEnded(3, 12_000, sum(manifests[i].raw_bytes for i in (2, 3, 12)))


def test_a_source_that_is_missing_or_another_is_told_by_kind(plain: Path) -> None:
    for job, kind in (
        (job_for(plain, path=str(plain) + ".gone"), "refused"),
        (job_for(plain, identity=Identity(1, bytes(16))), "changed"),
    ):
        events = Events()
        splitter = Splitter.start(job, events)
        splitter.grant(ENDLESS)
        [failed] = events.rest()
        assert isinstance(failed, SplitFailed)
        assert failed.kind == kind
        assert splitter.wait_ended(30)


def test_a_defect_is_told_as_one(plain: Path, capfd: pytest.CaptureFixture[str]) -> None:
    events = Events()
    splitter = Splitter.start(job_for(plain, chunk_lines=0, load_id=-1, max_chunk_raw_bytes="no number"), events)
    [failed] = events.rest()
    assert isinstance(failed, SplitFailed)
    assert failed.kind == "internal"
    assert splitter.wait_ended(30)
    assert "a defect of Protheon while it was read: ValidationError: " in failed.message
    err = capfd.readouterr().err
    assert "the process that reads it failed:" in err
    assert "Traceback" in err


PARENT = """
import sys, time
import msgspec
from protheon_dask.workspace.splitter import Splitter, SplitJob
splitter = Splitter.start(msgspec.json.decode(sys.argv[1], type=SplitJob), lambda event: print(splitter.pid, flush=True))
splitter.grant(1)
time.sleep(600)
"""


def test_a_parent_that_is_killed_leaves_no_process_behind(plain: Path) -> None:
    job = msgspec.json.encode(job_for(plain)).decode()
    with subprocess.Popen([sys.executable, "-c", PARENT, job], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))  # it has cut a chunk and waits for credit
        parent.kill()
        assert not psutil.wait_procs([child], timeout=10)[1]


def test_the_process_imports_what_it_needs_and_no_more() -> None:
    code = "import sys, protheon_dask.workspace.splitter; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, check=True, text=True).stdout.split()
    assert not {"dask", "distributed", "grpc", "psycopg", "pandas", "polars", "fsspec", "bokeh"} & set(loaded)
