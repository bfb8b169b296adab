"""A splitting process that is killed within the bytes of a chunk file: the system does it, at a byte that the test chooses."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from protheon_dask.workspace.chunkfile import ChunkStore
from protheon_dask.workspace.splitting import ChunkCut, SplitEvent
from tests.properties.oracle import lines_of, raw_of_chunk_file
from tests.properties.sources import after, cut, job_for

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits and signals of POSIX")

# The first write beyond the limit ends the process where it stands: nothing is flushed, closed or removed.
KILLED_AT_A_BYTE = """
import resource, signal, sys
import msgspec
from protheon_dask.workspace.splitting import Credit, SplitJob, split
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
for event in split(msgspec.json.decode(sys.argv[2], type=SplitJob), Credit(1 << 40)):
    print(msgspec.json.encode(event).decode(), flush=True)
"""
LIMITS = {"chunk_lines": 1_000, "max_chunk_raw_bytes": 3 << 20, "max_line_bytes": 1 << 20}
CHANCE = random.Random(3)
# Chunks of three sizes, so that a limit kills within the first, the second or the fourth; noise, so that raw and stored are alike.
RAW = b"".join(CHANCE.randbytes(n).hex().encode() + b"\n" for n in [20] * 1_000 + [400] * 1_000 + [20] * 1_000 + [1_400] * 2_000)


@pytest.mark.parametrize(("limit_bytes", "n_told"), [(0, 0), (1, 0), (11, 0), (5_000, 0), (300_000, 1), (1_000_000, 3)])
def test_what_it_told_stands_and_the_rest_is_cut_as_if_nothing_had_happened(limit_bytes: int, n_told: int, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(RAW)
    job = job_for(str(source), str(tmp_path / "chunks"), LIMITS)
    expected, ended = cut(job)
    other = str(tmp_path / "resumed")

    command = [sys.executable, "-P", "-c", KILLED_AT_A_BYTE, str(limit_bytes)]
    command += [msgspec.json.encode(after(job, None, other)).decode()]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGXFSZ, done.stderr

    events = [msgspec.json.decode(line, type=SplitEvent) for line in done.stdout.splitlines()]
    before = [event for event in events if isinstance(event, ChunkCut)]
    assert len(before) == n_told
    [unfinished] = Path(other).rglob("*.part")
    assert unfinished.stat().st_size <= limit_bytes < max(chunk.manifest.stored_bytes for chunk in expected)
    rest, last = cut(after(job, before[-1] if before else None, other))
    assert (before + rest, last) == (expected, ended)
    chunks = [chunk.manifest for chunk in before + rest]
    assert [raw_of_chunk_file(Path(other), 1, manifest.first_line, 1) for manifest in chunks] == [
        b"".join(lines_of(RAW)[manifest.first_line - 1 :][: manifest.n_lines]) for manifest in chunks
    ]

    store = ChunkStore(Path(other), quota_bytes=1 << 30)
    assert store.adopt((1, manifest) for manifest in chunks) == []
    assert not unfinished.exists()
    assert store.adopt([(1, replace(chunks[0], generation=9))]) == [(1, replace(chunks[0], generation=9))]
    assert not list(Path(other).rglob("*.*"))
