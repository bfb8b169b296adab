"""The Python face over a real cluster: its page in a kernel, pipelines of cells, reports by both ways, waits, and attaching."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

import protheon_dask as protheon
from protheon_dask.errors import BrokerUnavailable, ConfigError, NotFound
from protheon_dask.model import RunState
from protheon_dask.run import reporting
from protheon_dask.run.cluster import Cluster
from protheon_dask.run.frames import COLUMNS
from protheon_dask.run.handle import Run
from protheon_dask.run.link import Link
from tests.acceptance.conftest import Gate, World, new_world, numbers, write_numbers, write_pipeline
from tests.fixtures.cluster import wait_until
from tests.fixtures.kernel import run_cells

ROOT = Path(__file__).parents[2]
SETTINGS = {"dead_at_failures": 1}
REPORTS_OF_A_RUN = ("files", "chunks", "attempts", "rejects", "dead_letters")


@pytest.fixture(scope="module")
def module_world(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with new_world(postgres_url, tmp_path_factory.mktemp("world"), **SETTINGS) as made:
        yield made


@pytest.fixture
def near(world: World) -> Cluster:
    """The cluster's object where its database is known."""
    return Cluster(Link(world.cluster.client, world.url, say=pytest.fail))


@pytest.fixture
def far(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The same by its address alone."""
    monkeypatch.setenv("PROTHEON_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setenv("PROTHEON_HOME", str(world.cluster._home))
    with protheon.connect(world.cluster.client.address) as cluster:
        assert not cluster.has_database
        yield cluster


def kernel_environment(world: World) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PROTHEON_", "PG", "DATABASE_URL"))}
    return {**kept, "PROTHEON_HOME": str(world.cluster._home), "PROTHEON_DATABASE_URL": world.url, "PYTHONPATH": str(ROOT)}


# --- the page -------------------------------------------------------------------------------------------------------------------


def page_cells() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "notebook.md").read_text(), re.MULTILINE | re.DOTALL)


def test_the_page_runs_from_its_first_cell_to_its_last(world: World) -> None:
    by_code = {cell.code.strip(): cell for cell in run_cells(page_cells(), world.directory, kernel_environment(world))}

    def shown(part: str) -> str:
        [found] = [cell for code, cell in by_code.items() if part in code]
        return found.text or found.printed

    assert "2 workers" in shown("cluster = protheon.local(workers=2)")
    assert re.search(r"'http://127.0.0.1:\d+/protheon', 2, True", shown("cluster.dashboard_link,"))
    [first] = [cell for code, cell in by_code.items() if 'cluster.load("readings.jsonl", table="lab.raw")' in code]
    assert re.search(r"^run 1\b.*: succeeded", first.text)  # drawn anew by what came after
    assert re.search(r"href=\S+/protheon\b", first.shown["text/html"])
    assert shown("done.state, done.lines") == "(<RunState.SUCCEEDED: 'succeeded'>, 3, 3)"
    assert shown("list(run.pictures())[-1].state").startswith("(<RunState.SUCCEEDED: 'succeeded'>")
    assert shown("run.wait().rejected") == "2"
    assert "colder than possible" in shown("run.rejects()[[")
    assert "succeeded" in shown("run.attempts()[[")
    assert shown("FROM lab.readings").split() == ["sensor", "celsius", "0", "12", "21.5"]
    assert "run 2: verified" in shown("verified = run.verify")
    assert shown("replay.wait().loaded") == "(2, 0, 2)"
    assert [word in shown("run.pause(") for word in ("paused", "CANCELLED")] == [False, True]
    assert "paused" in next(cell.printed for code, cell in by_code.items() if "run.pause(" in code)
    assert "succeeded 2000 0" in next(cell.printed for code, cell in by_code.items() if "final = cluster.load" in code)
    assert shown("cluster.is_closed") == "True"
    assert world.cluster.client.info().n_threads == 2  # it was ours, and stays


@pytest.mark.parametrize(("kind", "word"), [(Cluster, "cluster"), (Run, "run")])
def test_the_pages_name_everything_that_a_person_finds_on_the_objects(kind: type, word: str) -> None:
    told = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    public = {name for name in dir(kind) if not name.startswith("_")} - {"master", "is_ours"}
    assert [name for name in sorted(public) if not re.search(rf"\b(?:{word}|here|replay|same|one|final)\w*\.{name}\b", told)] == []


# --- pipelines of cells ---------------------------------------------------------------------------------------------------------

FORMS = [
    """
import msgspec, pandas, polars, pyarrow
import protheon_dask as protheon

cluster = protheon.connect(ADDRESS)
FACTOR = 2

def doubled(n):
    return FACTOR * n

class Line(msgspec.Struct):
    n: int

class Cell(protheon.Row, table="cells.by_struct"):
    n: int
    twice: int

def table(form):
    return protheon.Table(name=f"cells.{form}", columns=(protheon.Column("n", "bigint"), protheon.Column("twice", "bigint")))
""",
    """
@protheon.pipeline
def by_struct(line: Line) -> Cell:
    return Cell(line.n, doubled(line.n))

@protheon.pipeline(tables=[table("by_dict")])
def by_dict(line: dict):
    return {"n": line["n"], "twice": doubled(line["n"])}

@protheon.pipeline(tables=[table("by_bytes")])
def by_bytes(line: bytes):
    n = msgspec.json.decode(line, type=Line).n
    return (n, doubled(n))

@protheon.pipeline(tables=[table("by_batch")])
def by_batch(lines: list[bytes]):
    decoder = msgspec.json.Decoder(Line)
    return [(at, (n := decoder.decode(line).n, doubled(n))) for at, line in enumerate(lines)]

@protheon.pipeline(tables=[table("by_pandas")])
def by_pandas(frame: pandas.DataFrame):
    return frame.assign(twice=doubled(frame.n))[["_line", "n", "twice"]]

@protheon.pipeline(tables=[table("by_polars")])
def by_polars(frame: polars.DataFrame):
    return frame.select("_line", "n", twice=doubled(polars.col("n")))

@protheon.pipeline(tables=[table("by_arrow")])
def by_arrow(frame: pyarrow.Table):
    import pyarrow.compute as compute
    return frame.select(["_line", "n"]).append_column("twice", compute.multiply(frame["n"], FACTOR))
""",
    """
forms = [by_struct, by_dict, by_bytes, by_batch, by_pandas, by_polars, by_arrow]
runs = [cluster.load("cells.jsonl", pipeline=form) for form in forms]
print([(run.wait(60).state.value, run.progress().loaded) for run in runs])
""",
]


def test_every_form_of_a_pipeline_travels_from_a_cell_with_its_classes_and_globals(world: World) -> None:
    (world.directory / "cells.jsonl").write_text("".join(json.dumps({"n": n}) + "\n" for n in range(300)))
    *_, last = run_cells(
        [FORMS[0].replace("ADDRESS", repr(world.cluster.client.address)), *FORMS[1:]], world.directory, kernel_environment(world)
    )
    forms = re.findall(r"^def (by_\w+)", FORMS[1], re.MULTILINE)
    assert last.printed.strip() == repr([("succeeded", 300)] * len(forms))
    for form in forms:
        assert world.ask(f"SELECT count(*), sum(n), sum(twice) FROM cells.{form}") == [(300, 44_850, 89_700)], form


def test_a_pipeline_by_file_is_found_from_the_kernels_directory(near: Cluster, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pipeline(world.directory, "by_file")
    write_numbers(world.directory / "lines.txt", 30)
    monkeypatch.chdir(world.directory)
    assert near.load(Path("lines.txt"), pipeline="by_file.py:by_file").wait(60).loaded == 30
    assert numbers(world.url, "by_file") == list(range(30))


# --- reports --------------------------------------------------------------------------------------------------------------------

REFUSES = """
if n == 7:
    raise protheon.Reject("seven \\u202e <b>")
if n == 8:
    raise ValueError("eight")
if n >= 100:
    raise MemoryError("no room")
"""


@pytest.fixture(scope="module")
def refused(module_world: World) -> int:
    """A run with two rejects, one of them replayed, and a dead letter."""
    path = write_numbers(module_world.directory / "refused.txt", 130)
    reference = write_pipeline(module_world.directory, "refused", REFUSES)
    done = module_world.load(reference, path, chunk_lines=50)
    assert (done.rejected, done.dead_letters) == (2, 1)
    mended = write_pipeline(module_world.directory, "refused_but_one", REFUSES.replace("n == 8", "n == -8"))
    cluster = Cluster(Link(module_world.cluster.client, module_world.url, say=pytest.fail))
    replay = cluster.run(done.run).replay_rejects(pipeline=mended)
    assert replay is not None
    replay.wait(60)
    return done.run


@pytest.mark.parametrize("name", REPORTS_OF_A_RUN)
def test_a_report_is_the_same_from_the_database_and_from_the_master(name: str, near: Cluster, far: Cluster, refused: int) -> None:
    for options in ({}, {"limit": 0}, {"limit": 1}, {"limit": None}, {"limit": 2**31}) + (
        ({"everything": True},) if name in ("rejects", "dead_letters") else ()
    ):
        here, there = getattr(near.run(refused), name)(**options), getattr(far.run(refused), name)(**options)
        pd.testing.assert_frame_equal(here, there)
        assert here.attrs == there.attrs
        assert set(here.columns) == set(COLUMNS[name])
        assert len(here) >= (options.get("limit") != 0)
    for one in (near, far):
        with pytest.raises(ConfigError, match="limit=-1: give a whole number"):
            getattr(one.run(refused), name)(limit=-1)


def test_the_runs_are_the_same_from_the_database_and_from_the_master(near: Cluster, far: Cluster, refused: int) -> None:
    assert [run.id for run in near.runs(limit=None)] == [run.id for run in far.runs(limit=2**40)]
    with pytest.raises(ConfigError, match="limit=0: give a whole number, 1 or more"):
        near.runs(limit=0)
    here, there = near.runs(limit=2), far.runs(limit=2)
    assert [run.id for run in here] == [run.id for run in there] == [one.id for one in (here[0], here[1:][0])]
    frame = here.to_frame()
    assert set(frame.columns) == set(COLUMNS["runs"])
    for one in (frame, there.to_frame()):
        pd.testing.assert_frame_equal(one.drop(columns="seconds"), frame.drop(columns="seconds"))


def test_what_is_closed_of_rejects_is_shown_on_demand(near: Cluster, refused: int) -> None:
    run = near.run(refused)
    assert len(run.rejects(everything=True)) > len(run.rejects())
    assert set(run.rejects(everything=True).columns) == set(run.rejects().columns)


def test_a_report_that_there_is_not_names_those_there_are(near: Cluster, far: Cluster, refused: int) -> None:
    for link in (near._link, far._link):
        with pytest.raises(
            ConfigError, match="there is no report 'lines': there are attempts, chunks, dead_letters, files, rejects, runs, story"
        ):
            link.report("lines", refused)
        with pytest.raises(NotFound, match="999"):
            link.report("files", 999)
        with pytest.raises(ConfigError, match="limit"):
            list(far.master.report("files", refused, -1))


def test_a_large_report_comes_in_pages_that_are_bounded(near: Cluster, far: Cluster, world: World) -> None:
    """Sixty rejects of nearly 64 KiB each, as base64 more than 4 MiB."""
    path = world.directory / "wide.txt"
    path.write_bytes(b"".join(bytes([65 + n % 26]) * 60_000 + b"\n" for n in range(60)))
    run = near.load(path, pipeline=write_pipeline(world.directory, "wide"), reject_limit=100, chunk_lines=20)
    assert run.wait(60).rejected == 60
    sizes = [len(page) for page in far.master._client.report(reporting.Report("rejects", run.id))]
    assert sum(sizes) > 60 * 80_000
    assert max(sizes) < reporting.PAGE_BYTES + 200_000
    there = far.run(run.id).rejects()
    assert b"".join(raw + b"\n" for raw in there.raw) == path.read_bytes()
    pd.testing.assert_frame_equal(there, near.run(run.id).rejects())


def test_a_reader_that_has_seen_enough_leaves_no_connection_behind(far: Cluster, world: World, refused: int) -> None:
    open_cursors = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'protheon-broker' AND state = 'idle in transaction'"
    pages = far.master._client.report(reporting.Report("attempts", refused))
    next(pages)
    pages.close()
    wait_until(lambda: not world.ask(open_cursors))


# --- sql, verify, client --------------------------------------------------------------------------------------------------------


def test_sql_is_a_frame_that_only_reads_and_says_what_it_needs(near: Cluster, far: Cluster) -> None:
    frame = near.sql("SELECT count(*) AS n, coalesce(max(submitted_at), now()) AS at FROM protheon.run")
    assert [str(dtype) for dtype in frame.dtypes] == ["Int64", "datetime64[us, UTC]"]
    with pytest.raises(ConfigError, match=r"^cluster\.sql only reads"):
        near.sql("DELETE FROM protheon.run")
    for needs in (lambda: far.sql("SELECT 1"), lambda: far.url):
        with pytest.raises(ConfigError, match=r"is not known here: give it, protheon.connect\(.., into="):
            needs()


def test_the_database_is_used_where_it_is_the_masters(near: Cluster, far: Cluster, world: World, database: str) -> None:
    with protheon.connect(far.address, into=world.url) as given:
        assert (given.has_database, given.url) == (True, world.url)
    with pytest.raises(ConfigError, match="the database that --into names is not the one of this master: it has no ledger"):
        protheon.connect(far.address, into=database)


def test_who_has_not_the_clusters_key_loads_through_what_is_installed(world: World, tmp_path: Path) -> None:
    (lines := tmp_path / "keyless.jsonl").write_text('{"n": 1}\n' * 20)
    with protheon.connect(world.cluster.client.address, into=world.url, home=str(tmp_path / "other")) as cluster:
        assert cluster.master.key is None
        done = cluster.load(lines, table="public.keyless").wait(60)
        assert (done.state, done.loaded) == (RunState.SUCCEEDED, 20), done.reason
        with pytest.raises(ConfigError, match="there is no cluster key to sign it with"):
            cluster.load(lines, write_pipeline(tmp_path, "by_value"))


def test_an_address_where_no_master_answers_is_an_error_that_names_it(world: World) -> None:
    with pytest.raises(BrokerUnavailable, match=r"no master answers at 127\.0\.0\.1:1: .*Is the master running"):
        protheon.connect("127.0.0.1:1")


def test_a_run_is_verified_through_the_master_as_from_the_database(near: Cluster, far: Cluster, world: World) -> None:
    lines = write_numbers(world.directory / "v.txt", 250)
    run = near.load(lines, pipeline=write_pipeline(world.directory, "verified"), chunk_lines=100)
    assert run.wait(60).state is RunState.SUCCEEDED
    assert far.run(run.id).verify() == run.verify()
    proved = far.run(run.id).verify(deep=True)
    assert proved == run.verify(deep=True)
    assert (proved.findings, [table.n_rows for table in proved.tables]) == ((), [250])
    world.ask("DELETE FROM public.verified WHERE n = 7 RETURNING n")
    assert far.run(run.id).verify(deep=True).findings == run.verify(deep=True).findings != ()


def test_verify_tells_what_the_command_tells(near: Cluster, refused: int) -> None:
    found = near.run(refused).verify()
    assert found.findings
    assert repr(found).startswith(f"run {refused}: ")
    assert "<table" in found._repr_html_() or "<div" in found._repr_html_()


def test_the_client_is_dasks_and_works(near: Cluster) -> None:
    try:
        assert near.client.submit(sum, [20, 22]).result(30) == 42
        assert near.client is near.client
    finally:
        near._dask.close()  # type: ignore[union-attr]


# --- waits and steering ---------------------------------------------------------------------------------------------------------


def test_a_wait_that_is_over_tells_so_and_the_run_goes_on(near: Cluster, world: World, gate: Gate) -> None:
    path = write_numbers(world.directory / "gated.txt", 200)
    run = near.load(path, pipeline=write_pipeline(world.directory, "gated", gate.body(1, 50)), chunk_lines=50)
    started_s = time.monotonic()
    with pytest.raises(TimeoutError, match=f"run {run.id} had not ended after"):
        run.wait(timeout=0.5)
    assert time.monotonic() - started_s < 8
    assert run.progress().state == "running"
    gate.open()
    assert run.wait(60).loaded == 200


def test_ctrl_c_ends_the_wait_and_not_the_run(near: Cluster, world: World, gate: Gate) -> None:
    path = write_numbers(world.directory / "stopped.txt", 200)
    run = near.load(path, pipeline=write_pipeline(world.directory, "stopped", gate.body(1, 50)), chunk_lines=50)
    world.wait_chunks_done(run.id, 1)
    threading.Timer(0.7, os.kill, [os.getpid(), signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        run.wait()
    assert run.progress().state == "running"
    gate.open()
    assert near.run(run.id).wait(60).state == "succeeded"


def test_a_paused_run_ends_the_wait_and_goes_on_when_it_is_resumed(near: Cluster, world: World, gate: Gate) -> None:
    path = write_numbers(world.directory / "held.txt", 200)
    run = near.load(path, pipeline=write_pipeline(world.directory, "held", gate.body(1, 50)), chunk_lines=50)
    assert run.pause("while I look").reason == "while I look"
    assert (run.wait(30).state, run.wait().reason) == ("paused", "while I look")
    assert run.resume(reject_limit=0.5).state == "running"
    gate.open()
    assert run.wait(60).state == "succeeded"
    assert run.cancel().state == "succeeded"  # what has ended stays as it is


def test_an_empty_choice_of_dead_letters_is_none_of_them(near: Cluster, refused: int) -> None:
    run = near.run(refused)
    letters = run.dead_letters()
    for verb in (run.replay_dead_letters, run.purge_dead_letters):
        assert verb(letters.task_id[:0]).task_ids == ()
    assert len(run.dead_letters()) == len(letters) == 1
    assert run.replay_dead_letters(letters.task_id).task_ids == tuple(letters.task_id)
    assert run.wait(60).state == "incomplete"
    assert run.purge_dead_letters().task_ids == tuple(letters.task_id)
    assert (len(run.dead_letters()), set(run.dead_letters(everything=True).status)) == (0, {"purged", "replayed"})


def test_nothing_to_replay_is_told_and_gives_no_run(world: World) -> None:
    said: list[str] = []
    cluster = Cluster(Link(world.cluster.client, world.url, say=said.append))
    run = cluster.load(write_numbers(world.directory / "clean.txt", 10), pipeline=write_pipeline(world.directory, "clean"))
    assert run.wait(60).rejected == 0
    assert run.replay_rejects() is None
    assert said


def test_a_cluster_that_is_closed_says_what_to_do(world: World) -> None:
    with protheon.connect(world.cluster.client.address, into=world.url) as cluster:
        run = cluster.runs()
    assert "closed" in repr(cluster)
    for call in (cluster.info, lambda: cluster.load("x"), lambda: run[0].progress(), cluster.runs):
        with pytest.raises((ConfigError, NotFound), match=r"this cluster is closed|no such file"):
            call()
    assert world.cluster.client.info().n_threads == 2
