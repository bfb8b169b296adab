"""A load can be taken back, and be replaced by one that is right: by real commands, killed in the middle, typed again."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest

from protheon_dask.errors import ConfigError, NotFound
from protheon_dask.run import api
from tests.acceptance.conftest import Gate, World, numbers, write_numbers, write_pipeline
from tests.acceptance.test_cli_load import PROTHEON, environment
from tests.fixtures.cluster import wait_until

PIECE_ROWS = 50_000  # sink.undo's: what one transaction deletes where an index finds the rows


def command(world: World, *arguments: str) -> list[str]:
    return [str(PROTHEON), *arguments, "--database", world.url]


def protheon(world: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One command against the world's database, as a script runs it."""
    env = environment(world.directory / "home")
    return subprocess.run(
        command(world, *arguments), env=env, capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL
    )


def answer(world: World, *arguments: str) -> Any:
    done = protheon(world, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def another(world: World, name: str, body: str) -> str:
    """The same pipeline, by name and version, with other code."""
    directory = world.directory / "changed"
    directory.mkdir()
    return write_pipeline(directory, name, body)


def deep(world: World, run_id: int) -> tuple[str, ...]:
    return api.verify_run(world.url, run_id, deep=True).findings


def test_a_load_is_taken_back_by_the_command_once_and_says_so(world: World) -> None:
    source = write_numbers(world.directory / "n.txt", 500)
    run = world.submit(write_pipeline(world.directory, "taken_back"), source)
    world.finish(run.run_id)
    load = str(run.loads[0].load_id)

    unasked = protheon(world, "undo", load)
    assert unasked.returncode == 2
    assert "500 rows of public.taken_back" in unasked.stderr
    assert "add --yes" in unasked.stderr
    assert len(numbers(world.url, "taken_back")) == 500
    with psycopg.connect(world.url, autocommit=True) as conn:
        conn.execute("DELETE FROM taken_back WHERE n < 3")  # somebody did; else a partition was detached, a table renamed

    first = answer(world, "undo", load, "--yes")
    assert (first["deleted_rows"], first["undone_before"]) == ({"public.taken_back": 497}, None)
    assert first["missing_rows"] == {"public.taken_back": 3}
    assert numbers(world.url, "taken_back") == []
    assert api.undo_load(world.url, int(load)).was_undone_at is not None


def test_a_load_is_taken_back_by_grpc_or_refused_with_the_reason(world: World) -> None:
    source = write_numbers(world.directory / "n.txt", 300)
    run = world.submit(write_pipeline(world.directory, "by_grpc"), source)
    world.finish(run.run_id)
    assert world.cluster.client.undo(run.loads[0].load_id) == {"public.by_grpc": 300}
    assert numbers(world.url, "by_grpc") == []
    with pytest.raises(NotFound, match="there is no load 123456"):
        world.cluster.client.undo(123_456)


@pytest.mark.slow
def test_an_undo_that_is_killed_goes_on_when_it_is_typed_again(world: World) -> None:
    n_lines = PIECE_ROWS + 10_000
    source = write_numbers(world.directory / "n.txt", n_lines)
    run = world.submit(write_pipeline(world.directory, "killed_undo"), source)
    world.finish(run.run_id)
    load_id = run.loads[0].load_id
    with psycopg.connect(world.url, autocommit=True) as conn:
        conn.execute("CREATE INDEX ON killed_undo (_protheon_chunk)")
        [(last,)] = conn.execute("SELECT n FROM killed_undo ORDER BY _protheon_chunk DESC, n DESC LIMIT 1").fetchall()

    with psycopg.connect(world.url) as holder:  # a person holds a row: the undo waits for it, in its middle
        holder.execute("SELECT FROM killed_undo WHERE n = %s FOR UPDATE", (last,))
        process = subprocess.Popen(
            command(world, "undo", str(load_id), "--yes"),
            env=environment(world.directory / "home"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            waits = "SELECT FROM pg_stat_activity WHERE application_name = 'protheon-undo' AND wait_event_type = 'Lock'"
            wait_until(lambda: world.ask(waits))
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(10)
        world.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'protheon-undo'")
        left = len(numbers(world.url, "killed_undo"))
        assert 0 < left < n_lines
        assert left % PIECE_ROWS == n_lines % PIECE_ROWS
        [found] = [finding for finding in deep(world, run.run_id) if "its undo was begun" in finding]
        assert f"protheon undo {load_id} goes on with it" in found
        with pytest.raises(ConfigError, match="is being undone"):
            world.submit(str(world.directory / "killed_undo.py") + ":killed_undo", source)

    assert answer(world, "undo", str(load_id), "--yes")["deleted_rows"] == {"public.killed_undo": n_lines}
    assert numbers(world.url, "killed_undo") == []


def test_replace_takes_the_old_rows_back_and_loads_anew(world: World) -> None:
    source = write_numbers(world.directory / "n.txt", 400)
    old = world.submit(write_pipeline(world.directory, "replaced"), source)
    world.finish(old.run_id)
    run = world.submit(another(world, "replaced", "n = -n"), source, replace=True, checksum=True)
    assert [load.joined for load in run.loads] == ["new"]
    assert any(f"load {old.loads[0].load_id} was undone first: 400 rows of public.replaced deleted" in notice for notice in run.notices)
    assert world.finish(run.run_id).loaded == 400
    assert numbers(world.url, "replaced") == list(range(-399, 1))
    assert deep(world, run.run_id) == ()
    assert deep(world, old.run_id) == ()


@pytest.mark.slow
def test_replace_into_another_table_than_the_old_rows_lie_in_is_refused_with_both_ways_on(world: World) -> None:
    directory = world.directory / "together"
    directory.mkdir()
    alone, other = [write_numbers(directory / f"{name}.jsonl", n) for name, n in (("alone", 30), ("other", 20))]
    old = world.submit("jsonl", directory, checksum=True)
    world.finish(old.run_id)
    [load_id] = [load.load_id for load in old.loads if load.path == str(alone)]
    with pytest.raises(ConfigError) as refused:
        world.submit("jsonl", alone, replace=True)
    assert f"load {load_id} ({alone}) has 30 rows in table public.together, and this one would load into public.alone" in str(refused.value)
    assert "add --table public.together" in str(refused.value)
    assert f"type `protheon undo {load_id}` first" in str(refused.value)
    assert world.ask("SELECT count(*), to_regclass('public.alone') FROM together") == [(50, None)]

    named = world.submit("jsonl", alone, replace=True, table="public.together")
    assert any(f"load {load_id} was undone first: 30 rows of public.together deleted" in notice for notice in named.notices)
    assert any("the replaced rows had checksums, and the new ones have none: --checksum" in notice for notice in named.notices)
    assert world.finish(named.run_id).loaded == 30
    assert world.ask("SELECT count(*) FROM together") == [(50,)]
    assert world.load("jsonl", other, replace=True, table="public.other").loaded == 20  # by its name another load, which takes nothing away
    assert world.ask("SELECT count(*) FROM together") == [(50,)]


def test_replace_of_what_was_never_loaded_just_loads(world: World) -> None:
    source = write_numbers(world.directory / "n.txt", 50)
    assert world.load(write_pipeline(world.directory, "never"), source, replace=True).loaded == 50


@pytest.mark.slow
def test_replace_says_what_stays_that_one_may_take_for_replaced(world: World) -> None:
    """A file that was mended has another content, a pipeline that was mended may have another version: these are other loads."""
    source = write_numbers(world.directory / "n.txt", 20)
    pipeline = write_pipeline(world.directory, "beside")
    first = world.submit(pipeline, source)
    world.finish(first.run_id)
    write_numbers(source, 30)
    second = world.submit(pipeline, source, replace=True)
    world.finish(second.run_id)
    [notice] = second.notices
    assert f"load {first.loads[0].load_id} ({source}) stays, for it is of what the file held before; protheon undo" in notice

    other = Path(another(world, "beside", "n = -n").rpartition(":")[0])
    other.write_text(other.read_text().replace('version="1"', 'version="2"'))
    third = world.submit(f"{other}:beside", source, replace=True)
    world.finish(third.run_id)
    assert any(f"load {second.loads[0].load_id} ({source}) stays, for it is of the pipeline's version '1'" in n for n in third.notices)
    assert not any("was undone first" in notice for notice in third.notices)
    assert len(numbers(world.url, "beside")) == 80

    with psycopg.connect(world.url, autocommit=True) as conn:
        conn.execute("TRUNCATE beside")  # replacing puts right what is gone, too: nobody is sent to --again
    fourth = world.submit(f"{other}:beside", source, replace=True)
    assert not any("--again" in notice for notice in fourth.notices)
    assert any("0 rows of public.beside deleted" in notice for notice in fourth.notices)
    assert world.finish(fourth.run_id).loaded == 30
    assert len(numbers(world.url, "beside")) == 30


def test_replace_of_a_load_that_cannot_be_undone_changes_nothing(world: World) -> None:
    sources = [write_numbers(world.directory / f"{n}.txt", 100, first=100 * n) for n in range(2)]
    pipeline = write_pipeline(world.directory, "kept")
    runs = [world.submit(pipeline, source) for source in sources]
    for run in runs:
        world.finish(run.run_id)
    with psycopg.connect(world.url, autocommit=True) as conn:
        conn.execute("CREATE UNIQUE INDEX ON kept (n)")
        conn.execute("CREATE TABLE kept_notes (n bigint REFERENCES kept (n))")
        conn.execute("INSERT INTO kept_notes VALUES (150)")
    n_runs = world.ask("SELECT count(*) FROM protheon.run")
    with pytest.raises(ConfigError, match="1 row of table kept_notes refers to its rows in"):
        world.submit(pipeline, *sources, replace=True)
    assert numbers(world.url, "kept") == list(range(200))
    assert world.ask("SELECT count(*) FROM protheon.run") == n_runs
    assert world.ask("SELECT count(*) FROM protheon.load WHERE undo_started_at IS NOT NULL AND id = %s", runs[0].loads[0].load_id) == [(0,)]


@pytest.mark.slow
def test_replace_of_a_load_in_progress_is_refused_and_of_a_cancelled_one_begins_anew(world: World, gate: Gate) -> None:
    source = write_numbers(world.directory / "n.txt", 4_000)
    pipeline = write_pipeline(world.directory, "half", gate.body(2, 1_000))
    first = world.submit(pipeline, source, chunk_lines=1_000)
    world.wait_chunks_done(first.run_id, 2)
    with pytest.raises(ConfigError, match=f"run {first.run_id} has it and is running: cancel it first"):
        world.submit(pipeline, source, replace=True)
    world.cluster.client.cancel(first.run_id)
    gate.open()
    world.finish(first.run_id)
    run = world.submit(another(world, "half", "n = -n"), source, replace=True)
    assert any("2,000 rows of public.half deleted" in notice for notice in run.notices)
    assert world.finish(run.run_id).loaded == 4_000
    assert numbers(world.url, "half") == list(range(-3_999, 1))


@pytest.mark.slow
def test_a_replacement_that_is_interrupted_goes_on_when_it_is_typed_again(world: World, gate: Gate) -> None:
    source = write_numbers(world.directory / "n.txt", 4_000)
    old = world.submit(write_pipeline(world.directory, "go_on"), source)
    world.finish(old.run_id)
    pipeline = another(world, "go_on", gate.body(2, 1_000) + "\nn = -n")
    first = world.submit(pipeline, source, replace=True, chunk_lines=1_000)
    world.wait_chunks_done(first.run_id, 2)
    world.cluster.client.cancel(first.run_id)
    gate.open()
    world.finish(first.run_id)
    second = world.submit(pipeline, source, replace=True, chunk_lines=1_000)
    assert [load.joined for load in second.loads] == ["resumed"]
    assert world.finish(second.run_id).own_lines == 2_000
    assert numbers(world.url, "go_on") == list(range(-3_999, 1))
    third = world.submit(pipeline, source, replace=True, chunk_lines=1_000)
    assert [load.joined for load in third.loads] == ["new"]  # it had been replaced wholly: so it is replaced once more
    world.finish(third.run_id)
    assert numbers(world.url, "go_on") == list(range(-3_999, 1))


def test_checksums_are_kept_by_the_command_and_a_changed_value_is_found(world: World) -> None:
    source = write_numbers(world.directory / "n.txt", 2_000)
    pipeline = write_pipeline(world.directory, "summed")
    run = world.submit(pipeline, source, chunk_lines=500, checksum=True)
    world.finish(run.run_id)
    found = api.verify_run(world.url, run.run_id, deep=True)
    assert (found.findings, found.notes) == ((), ())
    assert [(table.n_rows, table.n_summed) for table in found.tables] == [(2_000, 4)]
    with psycopg.connect(world.url, autocommit=True) as conn:
        conn.execute("UPDATE summed SET n = 5000 WHERE n = 777")
    done = protheon(world, "runs", "verify", str(run.run_id), "--deep")
    assert done.returncode == 1
    assert f"chunk 2 of {source} (lines 501 to 1,000): the 500 rows that are there do not hold the values that were loaded" in done.stdout


@pytest.mark.parametrize("by_line", [pytest.param(False, marks=pytest.mark.slow), True], ids=["provenance", "jsonl"])
def test_replays_are_verified_apart_and_taken_back_with_their_load(world: World, by_line: bool) -> None:
    """Lines that a constraint refuses are replayed when it is gone; rows of jsonl name the load that they came from."""
    source = world.directory / "replayed.jsonl"
    source.write_text("".join(f"{n}\n" for n in range(300)))
    name = "replayed_lines" if by_line else "replayed_rows"
    pipeline = "jsonl" if by_line else write_pipeline(world.directory, name)
    columns = "load_id bigint, line_no bigint, doc jsonb, PRIMARY KEY (load_id, line_no)" if by_line else "n bigint, _protheon_chunk bigint"
    check = "(doc::text::int % 10 <> 3)" if by_line else "(n % 10 <> 3)"
    with psycopg.connect(world.url, autocommit=True) as conn:
        conn.execute(f"CREATE TABLE {name} ({columns}, CONSTRAINT no_threes CHECK {check})".encode())
        run = world.submit(pipeline, source, chunk_lines=100, checksum=True, table=f"public.{name}" if by_line else None)
        assert world.finish(run.run_id).rejected == 30
        conn.execute(f"ALTER TABLE {name} DROP CONSTRAINT no_threes".encode())
        again = world.cluster.client.replay(run.run_id)
        assert world.finish(again.run_id).loaded == 30
        for number in (run.run_id, again.run_id):
            found = api.verify_run(world.url, number, deep=True)
            assert (found.findings, [table.n_rows for table in found.tables]) == ((), [270 if number == run.run_id else 30])
        last = "line_no = 4" if by_line else "n = 3"
        conn.execute(f"DELETE FROM {name} WHERE {last}".encode())
        assert deep(world, run.run_id) == ()
        [missing] = deep(world, again.run_id)
        assert f"chunk 1 of rejects of run {run.run_id} (lines 1 to 30): 30 rows were loaded, 29 are there" in missing

        with pytest.raises(ConfigError, match=f"it is a replay of rejects of load {run.loads[0].load_id}, and goes with that one"):
            api.undo_load(world.url, again.loads[0].load_id)
        assert api.undo_load(world.url, run.loads[0].load_id).deleted_rows == {f"public.{name}": 299}
        assert conn.execute(f"SELECT count(*) FROM {name}".encode()).fetchone() == (0,)
        assert [deep(world, number) for number in (run.run_id, again.run_id)] == [(), ()]
        [note, *_] = api.verify_run(world.url, again.run_id).notes
        assert note.startswith(f"load {again.loads[0].load_id} (rejects of run {run.run_id}): undone at ")
    assert world.cluster.client.replay(run.run_id).run_id == 0
