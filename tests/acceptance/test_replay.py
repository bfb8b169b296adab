"""Refused lines are mended outside of their file and replayed: each is loaded once or refused once, whatever happens between."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from protheon_dask.broker.wire import Submitted
from protheon_dask.errors import NotFound
from protheon_dask.pipelines.find import find
from protheon_dask.policy import RejectLimit
from protheon_dask.run import api
from protheon_dask.telemetry.statistics import RunStatistics
from tests.acceptance.conftest import Gate, World, numbers
from tests.fixtures.cluster import wait_until

SETTINGS = {"chunk_lines": 100, "max_line_bytes": 1 << 20}
ANY = RejectLimit(fraction=1.0)
PIPELINE = '''
import os, time
import protheon_dask as protheon

T = protheon.Table(name="public.{table}", columns=(protheon.Column("n", "bigint"),), provenance=True)

@protheon.pipeline(name="{name}", version="1", tables=[T])
def {name}(line: bytes):
    """No key and no rule: a row that is loaded twice shows."""
    mark, _, number = line.partition(b" ")
    if mark.decode() in {refused!r}:
        raise protheon.Reject(f"mark {{mark.decode()}}")
    n = int(number.split()[0])
{body}
    return (n,)
'''


def pipeline(directory: Path, name: str, refused: str, body: str = "", table: str = "") -> str:
    """A file with a pipeline of lines ``mark number`` that refuses those with one of these marks; body sees n."""
    path = directory / f"{name}_{refused or 'none'}_{len(body)}.py"
    indented = "\n".join("    " + line for line in body.splitlines())
    path.write_text(PIPELINE.format(name=name, table=table or name, refused=tuple(refused), body=indented))
    return f"{path}:{name}"


def marked(path: Path, marks: str, pad: str = "") -> Path:
    """A file of as many lines as marks, numbered from 0."""
    path.write_text("".join(f"{mark} {n}{pad}\n" for n, mark in enumerate(marks)))
    return path


def replay(world: World, run_id: int, spec: str | None = None, limit: RejectLimit | None = ANY) -> RunStatistics:
    """Replay and wait for the end."""
    submitted = world.cluster.client.replay(run_id, None if spec is None else find(spec), limit)
    assert submitted.run_id, submitted.notices
    return world.finish(submitted.run_id)


def open_lines(world: World, run_id: int) -> list[tuple[int, str]]:
    """Line and reason of what is still refused of a run."""
    return [(row["line"], row["reason"]) for row in api.report(world.url, "rejects", run_id, limit=None) if row["replayed_by"] is None]


def spools(world: World) -> list[Path]:
    return list((world.cluster._home / "workspace" / "replays").rglob("*.zst"))


def test_a_corrected_pipeline_loads_what_was_refused_and_nothing_else(world: World) -> None:
    source = marked(world.directory / "n.txt", "ok.b.." * 100)
    first = world.load(pipeline(world.directory, "mended", "b"), source)
    assert (first.state, first.lines, first.rejected) == ("succeeded", 600, 100)

    done = replay(world, first.run, pipeline(world.directory, "mended", ""))
    assert (done.state, done.lines, done.loaded, done.chunks) == ("succeeded", 100, 100, 1)
    assert numbers(world.url, "mended") == list(range(600))
    assert open_lines(world, first.run) == []
    assert {row["replayed_by"] for row in api.report(world.url, "rejects", first.run)} == {done.run}
    assert world.cluster.client.get(first.run).rejected == 100  # what a run did stays what it did
    assert [world.findings(run) for run in (first.run, done.run)] == [(), ()]
    assert api.report(world.url, "files", done.run)[0]["path"] == f"rejects of {source}"
    wait_until(lambda: spools(world) == [])
    nothing = world.cluster.client.replay(first.run)
    assert (nothing.run_id, nothing.notices) == (0, (f"no line of run {first.run} is still refused",))


@pytest.mark.slow
def test_what_is_refused_again_stands_at_its_place_in_the_source_and_is_replayed_again(world: World) -> None:
    marks = "".join(random.Random(7).choices("oabc", k=730))
    source = marked(world.directory / "n.txt", marks)
    raw = source.read_bytes()
    first = world.load(pipeline(world.directory, "again", "abc"), source, reject_limit=ANY)
    second = replay(world, first.run, pipeline(world.directory, "again", "bc"))
    third = replay(world, second.run, pipeline(world.directory, "again", "c"))
    since = world.cluster.client.get(first.run)
    assert (since.replayed, since.replayed_by) == (marks.count("a") + marks.count("b"), (third.run, second.run))
    assert (second.rejected, third.rejected) == (marks.count("b") + marks.count("c"), marks.count("c"))
    assert open_lines(world, first.run) == [(n + 1, "mark c") for n, mark in enumerate(marks) if mark == "c"]
    for row in api.report(world.url, "rejects", third.run, limit=None):
        start = row["byte_offset"]
        assert raw[start:].split(b"\n", 1)[0] == row["raw"], row
        assert raw[:start].count(b"\n") + 1 == row["line"]
    fourth = replay(world, third.run, pipeline(world.directory, "again", ""))
    assert fourth.loaded == marks.count("c")
    assert numbers(world.url, "again") == list(range(730))
    assert all(world.findings(run.run) == () for run in (first, second, third, fourth))


def test_without_a_pipeline_the_runs_own_is_used_when_the_cause_was_in_the_database(world: World) -> None:
    source = world.directory / "n.txt"
    source.write_text("".join(json.dumps({"n": n}) + "\n" for n in range(450)))
    first = world.load("jsonl", source, table="public.documents")
    assert first.loaded == 450
    with_rule = world.directory / "ruled.txt"
    with_rule.write_text("".join(json.dumps({"m": n}) + "\n" for n in range(450)))
    alter(world, "ALTER TABLE public.documents ADD CONSTRAINT few CHECK ((doc->>'m')::int % 3 > 0)")
    run = world.load("jsonl", with_rule, table="public.documents", reject_limit=ANY, checksum=True)
    assert (run.loaded, run.rejected) == (300, 150)
    [load] = api.report(world.url, "files", run.run)

    alter(world, "ALTER TABLE public.documents DROP CONSTRAINT few")
    done = replay(world, run.run)
    assert (done.state, done.loaded) == ("succeeded", 150)
    rows = world.ask("SELECT line_no, (doc->>'m')::int FROM public.documents WHERE load_id = %s ORDER BY 1", load["load_id"])
    assert rows == [(n + 1, n) for n in range(450)]
    assert world.ask("SELECT DISTINCT path FROM public.documents_with_path WHERE load_id = %s", load["load_id"]) == [(str(with_rule),)]
    for number in (run.run, done.run):
        verified = api.verify_run(world.url, number, deep=True)
        assert verified.findings == ()
        assert [table.checked for table in verified.tables] == [True]


def alter(world: World, sql: str) -> None:
    with psycopg.connect(world.url, autocommit=True) as conn:
        conn.execute(sql.encode())


@pytest.mark.slow
def test_a_replay_may_go_into_other_tables(world: World) -> None:
    first = world.load(pipeline(world.directory, "moved", "b"), marked(world.directory / "n.txt", "ob" * 50))
    done = replay(world, first.run, pipeline(world.directory, "moved", "", table="moved_elsewhere"))
    assert (done.state, done.loaded) == ("succeeded", 50)
    assert numbers(world.url, "moved") == list(range(0, 100, 2))
    assert numbers(world.url, "moved_elsewhere") == list(range(1, 100, 2))


def test_two_replays_typed_at_the_same_moment_are_one(world: World) -> None:
    first = world.load(pipeline(world.directory, "moment", "b"), marked(world.directory / "n.txt", "ob" * 400), reject_limit=ANY)
    mended = pipeline(world.directory, "moment", "")
    with ThreadPoolExecutor(4) as pool:
        answers: list[Submitted] = list(pool.map(lambda _: world.cluster.client.replay(first.run, find(mended)), range(4)))
    made = [answer for answer in answers if answer.run_id and answer.loads[0].joined == "new"]
    assert len(made) == 1
    assert {answer.run_id for answer in answers} <= {made[0].run_id, 0}  # 0: it was done by then
    assert world.finish(made[0].run_id).loaded == 400
    assert numbers(world.url, "moment") == list(range(800))


@pytest.mark.slow
def test_lines_of_a_replay_that_was_cancelled_in_its_middle_are_taken_over(world: World, gate: Gate) -> None:
    first = world.load(pipeline(world.directory, "taken", "b"), marked(world.directory / "n.txt", "b" * 1_000), reject_limit=ANY)
    body = gate.body(3, 100)
    held = world.cluster.client.replay(first.run, find(pipeline(world.directory, "taken", "", body)))
    world.wait_chunks_done(held.run_id, 3)
    waits = world.cluster.client.replay(first.run)  # while it runs its lines are its own
    assert (waits.run_id, waits.loads[0].joined) == (held.run_id, "attached")
    assert any("700 lines are being replayed by run" in notice for notice in waits.notices)
    world.cluster.client.pause(held.run_id)
    waits = world.cluster.client.replay(first.run)
    assert any(f"protheon runs resume {held.run_id}" in notice for notice in waits.notices)

    world.cluster.client.cancel(held.run_id)
    wait_until(lambda: spools(world) == [])
    gate.open()
    done = replay(world, first.run, pipeline(world.directory, "taken", ""))
    assert (done.state, done.loaded) == ("succeeded", 700)
    assert numbers(world.url, "taken") == list(range(1_000))
    by_run = Counter(row["replayed_by"] for row in api.report(world.url, "rejects", first.run, limit=None))
    assert by_run == {held.run_id: 300, done.run: 700}
    assert world.findings(first.run) == world.findings(done.run) == ()
    states = world.ask("SELECT DISTINCT state FROM protheon.task JOIN protheon.load ON load.id = load_id WHERE retired_at IS NOT NULL")
    assert set(states) == {("succeeded",), ("cancelled",)}


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_worker_that_is_killed_in_the_middle_of_a_replay_costs_no_line(world: World, gate: Gate) -> None:
    first = world.load(pipeline(world.directory, "worker", "b"), marked(world.directory / "n.txt", "b" * 600), reject_limit=ANY)
    held = world.cluster.client.replay(first.run, find(pipeline(world.directory, "worker", "", gate.body(1, 100))))
    world.wait_chunks_done(held.run_id, 1)
    wait_until(lambda: world.cluster.client.get(held.run_id).chunks_running == 2)
    for _, pid in world.cluster.worker_pids():
        os.kill(pid, signal.SIGKILL)
    gate.open()
    done = world.finish(held.run_id)
    assert (done.state, done.loaded) == ("succeeded", 600)
    assert done.retries >= 2
    assert numbers(world.url, "worker") == list(range(600))
    assert world.findings(first.run) == world.findings(done.run) == ()


@pytest.mark.slow
def test_a_replay_that_lost_its_spool_and_its_chunks_ends_with_the_reason_and_another_takes_its_lines(world: World, gate: Gate) -> None:
    first = world.load(pipeline(world.directory, "lost", "b"), marked(world.directory / "n.txt", "b" * 1_000), reject_limit=ANY)
    held = world.cluster.client.replay(first.run, find(pipeline(world.directory, "lost", "", gate.body(2, 100))))
    world.wait_chunks_done(held.run_id, 2)
    world.cluster.client.pause(held.run_id)
    for path in (world.cluster._home / "workspace").rglob("*.zst"):
        path.unlink()
    gate.open()
    world.cluster.client.resume(held.run_id)
    ended = world.finish(held.run_id)
    assert ended.state == "incomplete"
    assert "gone or changed: `protheon rejects replay` writes it anew" in str(ended.reason)
    done = replay(world, held.run_id, pipeline(world.directory, "lost", ""))
    assert ended.loaded + done.loaded == 1_000
    assert done.loaded >= 600
    assert numbers(world.url, "lost") == list(range(1_000))


@pytest.mark.slow
def test_lines_that_the_ledger_keeps_in_part_are_replayed_whole(world: World) -> None:
    sizes = [10, 100_000, 20, 500_000, 65_531, 65_532, 65_533, 30, 1_000_000]  # 64 KiB are 65,532 and the mark
    lines = [b"b %d " % n + b"#" * size for n, size in enumerate(sizes)]
    source = world.directory / "long.txt"
    source.write_bytes(b"\r\n".join(lines))  # the last has no end
    spec = pipeline(world.directory, "long_lines", "b")
    first = world.load(spec, source, reject_limit=ANY)
    assert first.rejected == len(lines)
    lengths = f'if len(line) != {[len(line) for line in lines]}[n]: raise protheon.Reject("cut")'
    done = replay(world, first.run, pipeline(world.directory, "long_lines", "", lengths))
    assert (done.state, done.loaded, done.rejected) == ("succeeded", len(lines), 0)
    assert numbers(world.url, "long_lines") == list(range(len(lines)))


def test_a_line_that_was_too_long_is_replayed_once_it_may_be_that_long(world: World) -> None:
    source = world.directory / "n.txt"
    source.write_bytes(b"b 0\n" + b"b 1 " + b"#" * (1 << 20) + b"\nb 2\n" + b"b 3 " + b"#" * (3 << 20) + b"\n")
    first = world.load(pipeline(world.directory, "too_long", "b"), source, reject_limit=ANY)
    assert first.rejected == 4
    mended = pipeline(world.directory, "too_long", "")
    submitted = world.cluster.client.replay(first.run, find(mended))
    assert any("2 lines stay refused: they have more than max_line_bytes (1,048,576)" in notice for notice in submitted.notices)
    assert world.finish(submitted.run_id).loaded == 2
    left = world.cluster.client.replay(first.run, find(mended))
    assert left.run_id == 0
    assert [line for line, _ in open_lines(world, first.run)] == [2, 4]
    assert world.findings(first.run) == ()


@pytest.mark.slow
def test_lines_whose_rest_is_gone_with_their_source_stay_refused_and_the_others_do_not(world: World) -> None:
    source = world.directory / "n.txt"
    source.write_bytes(b"b 0\n" + b"b 1 " + b"#" * 100_000 + b"\nb 2\n")
    first = world.load(pipeline(world.directory, "gone", "b"), source, reject_limit=ANY)
    kept = source.read_bytes()
    mended = pipeline(world.directory, "gone", "")
    source.unlink()
    submitted = world.cluster.client.replay(first.run, find(mended))
    assert any("1 line stays refused" in notice and "no such file" in notice for notice in submitted.notices), submitted.notices
    assert world.finish(submitted.run_id).loaded == 2
    source.write_bytes(kept.replace(b"#\n", b"!\n"))
    changed = world.cluster.client.replay(first.run, find(mended))
    assert changed.run_id == 0
    assert any("it is not the file that was loaded" in notice for notice in changed.notices)
    source.write_bytes(kept)
    assert replay(world, first.run, mended).loaded == 1
    assert numbers(world.url, "gone") == [0, 1, 2]


@pytest.mark.slow
def test_a_mark_at_the_beginning_is_a_bom_in_line_1_alone(world: World) -> None:
    source = world.directory / "n.txt"
    source.write_bytes(b"\xef\xbb\xbfb 0\nb 1\n")
    spec, mended = pipeline(world.directory, "bom", "b"), pipeline(world.directory, "bom", "")
    assert replay(world, world.load(spec, source, reject_limit=ANY).run, mended).loaded == 2
    source.write_bytes(b"o 2\n\xef\xbb\xbfb 3\nb 4\n")
    strict = pipeline(world.directory, "bom", "b\ufeff", 'if line[:1] not in b"ob": raise protheon.Reject("its first byte")')
    first = world.load(strict, source, reject_limit=ANY)
    again = replay(
        world, first.run, pipeline(world.directory, "bom", "", 'if line[:1] not in b"ob": raise protheon.Reject("its first byte")')
    )
    assert (again.loaded, again.rejected) == (1, 1)
    assert open_lines(world, first.run) == [(2, "its first byte")]


def test_refused_parts_are_left_alone(world: World) -> None:
    body = 'if n % 2: return [(n,), protheon.Reject("odd", part="half")]'
    first = world.load(pipeline(world.directory, "parts", "b", body), marked(world.directory / "n.txt", "oobo" * 10), reject_limit=ANY)
    assert (first.rejected, first.rejected_parts) == (10, 20)
    submitted = world.cluster.client.replay(first.run, find(pipeline(world.directory, "parts", "")))
    assert any("20 refused parts of lines are left as they are" in notice for notice in submitted.notices)
    assert world.finish(submitted.run_id).loaded == 10
    assert numbers(world.url, "parts") == list(range(40))
    nothing = world.cluster.client.replay(first.run)
    assert nothing.run_id == 0
    assert len(nothing.notices) == 2


@pytest.mark.slow
def test_a_file_is_not_loaded_again_beside_a_replay_of_its_lines(world: World, gate: Gate) -> None:
    source = marked(world.directory / "n.txt", "b" * 300)
    spec = pipeline(world.directory, "beside", "b")
    first = world.load(spec, source, reject_limit=ANY)
    held = world.cluster.client.replay(first.run, find(pipeline(world.directory, "beside", "", gate.body(1, 100))))
    with pytest.raises(Exception, match=f"its rejects are being replayed by run {held.run_id}"):
        world.submit(spec, source, again=True)
    gate.open()
    world.finish(held.run_id)
    again = world.load(spec, source, again=True, reject_limit=ANY)
    assert again.rejected == 300
    left = world.cluster.client.replay(first.run)
    assert left.run_id == 0  # all of it was replayed before


@pytest.mark.slow
def test_rejects_of_a_load_that_is_retired_are_not_replayed(world: World) -> None:
    source = marked(world.directory / "n.txt", "b" * 30)
    spec = pipeline(world.directory, "retired", "b")
    first = world.load(spec, source, reject_limit=ANY)
    second = world.load(spec, source, again=True, reject_limit=ANY)
    old = world.cluster.client.replay(first.run)
    assert old.run_id == 0
    assert any("is retired (--again or undo)" in notice for notice in old.notices)
    assert replay(world, second.run, pipeline(world.directory, "retired", "")).loaded == 30


def test_a_run_that_is_not_there_has_no_rejects(world: World) -> None:
    with pytest.raises(NotFound):
        world.cluster.client.replay(4_711)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 8))])
def test_after_any_sequence_of_replays_each_line_is_loaded_once_or_refused_once(world: World, seed: int) -> None:
    chance, name, refused = random.Random(seed), f"sequence_{seed}", "abc"
    marks = "".join(chance.choices("oabc", k=chance.randrange(150, 500)))
    source = marked(world.directory / "n.txt", marks)
    runs = [world.load(pipeline(world.directory, name, refused), source, reject_limit=ANY).run]
    for _ in range(5):
        refused = "".join(mark for mark in "abc" if chance.random() < 0.6)
        submitted = world.cluster.client.replay(chance.choice(runs), find(pipeline(world.directory, name, refused)), ANY)
        if not submitted.run_id:
            break
        if chance.random() < 0.4:
            world.cluster.client.cancel(submitted.run_id)
        runs.append(world.finish(submitted.run_id).run)
        loaded, left = numbers(world.url, name), [line - 1 for line, _ in open_lines(world, runs[0])]
        assert sorted(loaded + left) == list(range(len(marks)))
    assert world.findings(runs[0]) == ()
