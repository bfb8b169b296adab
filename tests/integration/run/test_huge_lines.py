"""Lines of many megabytes: what a worker process needs for them, and what PostgreSQL's jsonb cannot take of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.run.conftest import KEY, Bench

MB = 1_000_000
WIDE = {"chunk_lines": 50_000, "max_chunk_bytes": 512 << 20, "max_line_bytes": 64 << 20}

WORKER = """
import json, pathlib, re, sys
from protheon_dask.broker.client import BrokerClient
from protheon_dask.config import Settings
from protheon_dask.model import Dispatch
from protheon_dask.run.worker import WorkerProcess

def peak_mb():  # of this program alone: ru_maxrss begins with that of the process which started it
    return int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]) / 1000

address, url, key, dispatches = json.loads(sys.argv[1])
with BrokerClient(address) as broker:
    worker = WorkerProcess(Settings(), name="huge", broker=broker, url=url, key=key.encode())
    before = peak_mb()
    words = [worker.run(Dispatch(*one)) for one in dispatches]
    print(json.dumps([words, before, peak_mb()]))
"""

PARTS = """
import msgspec
import protheon_dask as protheon

class Part(msgspec.Struct):
    k: int
    s: str

class Whole(msgspec.Struct):
    id: int
    parts: list[Part]

C = protheon.Column
T = protheon.Table(name="public.parts", columns=(C("id", "bigint"), C("k", "integer"), C("s", "text")))

@protheon.pipeline(tables=[T])
def parts(line: Whole):
    for part in line.parts:
        yield line.id, part.k, part.s
"""


def document(n_bytes: int, id_: int) -> bytes:
    """A document with about this many bytes, as reports have them: objects in a list."""
    one = b'{"k":%07d,"s":"' % 1_000_000 + b"abcdefghij" * 8 + b'"},'
    parts = b"".join(one[:5] + b"%07d" % (1_000_000 + k) + one[12:] for k in range(n_bytes // len(one)))
    return b'{"id":%d,"parts":[' % id_ + parts[:-1] + b"]}"


def run_apart(bench: Bench) -> tuple[list[str], float]:
    """Run the tasks in a process of their own; its words, and by how many MB its memory grew at most."""
    dispatches = [[*vars_of(bench, n)] for n in range(len(bench.task_ids))]
    argument = json.dumps([bench.broker_address, bench.url, KEY.decode(), dispatches])
    environment = {"MALLOC_ARENA_MAX": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", WORKER, argument], check=True, capture_output=True, text=True, timeout=600, env=environment
    )
    words, before_mb, after_mb = json.loads(done.stdout.splitlines()[-1])
    print(f"{before_mb:.0f} MB, and {after_mb - before_mb:.0f} more")  # for who measures
    return words, after_mb - before_mb


def vars_of(bench: Bench, task: int) -> tuple[int, int, str]:
    dispatch = bench.dispatch(task)
    return dispatch.task_id, dispatch.attempt_no, dispatch.handler


def test_a_line_of_46_mb_is_loaded_as_a_document(bench: Bench) -> None:
    line = document(46 * MB, 7)
    bench.submit(line + b'\n{"id":8}\n', pipeline="jsonl", **WIDE)
    words, grown_mb = run_apart(bench)
    assert words == ["succeeded"]
    [(table,)] = bench.ask("SELECT DISTINCT table_name FROM protheon.table_count")
    assert bench.ask(f"SELECT line_no, doc->>'id', jsonb_array_length(doc->'parts') FROM {table} ORDER BY 1") == [
        (1, "7", line.count(b'"k"')),
        (2, "8", None),
    ]
    assert 46 < grown_mb < 300


@pytest.mark.slow
def test_a_line_of_46_mb_is_loaded_through_a_struct(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "parts.py"
    path.write_text(PARTS)
    line = document(46 * MB, 7)
    bench.submit(line + b"\n" + document(200, 8) + b"\n", pipeline=str(path), **WIDE)
    words, grown_mb = run_apart(bench)
    assert words == ["succeeded"]
    assert bench.ask("SELECT id, count(*), max(k) FROM public.parts GROUP BY 1 ORDER BY 1") == [
        (7, line.count(b'"k"'), 1_000_000 + line.count(b'"k"') - 1),
        (8, 1, 1_000_000),
    ]
    assert 46 < grown_mb < 400


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_hundred_lines_of_10_mb_need_no_more_memory_than_a_few(bench: Bench, tmp_path: Path) -> None:
    grown = []
    for n_lines in (5, 200):
        source = tmp_path / f"{n_lines}.jsonl"
        with source.open("wb") as file:
            file.writelines(document(10 * MB, id_) + b"\n" for id_ in range(n_lines))
        bench.submit(source, pipeline="jsonl", **WIDE)
        words, grown_mb = run_apart(bench)
        assert set(words) == {"succeeded"}
        grown.append(grown_mb)
    assert 10 < grown[0] <= grown[1] + 20
    assert grown[1] < 1.5 * grown[0] + 50


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"[" + b"1," * 16_800_000 + b"1]", "more elements than PostgreSQL's jsonb can take: "),
        (b"{" + b'"":1,' * 8_400_000 + b'"":1}', "more elements than PostgreSQL's jsonb can take: "),
    ],
    ids=["array", "object"],
)
def test_a_document_that_jsonb_cannot_hold_is_refused_alone(bench: Bench, line: bytes, reason: str) -> None:
    bench.submit(b'{"id":1}\n' + line + b'\n{"id":3}\n', pipeline="jsonl", **WIDE)
    assert bench.load_all(bench.worker()) == ["succeeded"]
    [(number, why, sqlstate)] = bench.ask("SELECT line, reason, sqlstate FROM protheon.reject WHERE load_id = %s", bench.load_id)
    assert (number, sqlstate) == (2, "XX000")
    assert why.startswith(reason)
    assert bench.ask("SELECT loaded, rejected FROM protheon.attempt WHERE task_id = %s", bench.task_ids[0]) == [(2, 1)]
