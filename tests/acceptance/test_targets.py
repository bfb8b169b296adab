"""What happens to a run when its tables are slow to finish, refuse, change or vanish: said in plain words, and mended by typing on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from protheon_dask.errors import ConfigError
from protheon_dask.run import api
from tests.acceptance.conftest import Gate, World, numbers, write_numbers, write_pipeline
from tests.fixtures.cluster import ask, wait_until

FINISHED = """
import protheon_dask as protheon

OTHER = protheon.Table(name="public.{name}_other", columns=(protheon.Column("n", "bigint", not_null=True),), primary_key=("n",))
T = protheon.Table(
    name="public.{name}",
    columns=(protheon.Column("n", "bigint"), protheon.Column("Größe", "bigint")),
    indexes=(("Größe", "n"), ("n",)),
    foreign_keys=(protheon.ForeignKey(("n",), "public.{name}_other", ("n",)),),
)

@protheon.pipeline(version="1", tables=[T, OTHER])
def {name}(line: bytes):
    n = int(line)
    yield T, (n, n % 7)
    if n != 41:
        yield OTHER, (n,)
"""


def write_finished(directory: Path, name: str) -> str:
    """A pipeline with two indexes and a foreign key that line 41 breaks."""
    path = directory / f"{name}.py"
    path.write_text(FINISHED.format(name=name))
    return f"{path}:{name}"


@contextmanager
def held(world: World, name: str, mode: str = "ROW EXCLUSIVE") -> Iterator[None]:
    """Somebody's open transaction has locked the table."""
    with psycopg.connect(world.url, application_name="a nosy editor") as conn:
        conn.execute(f"LOCK TABLE public.{name} IN {mode} MODE".encode())
        yield
        conn.rollback()


def do(world: World, statements: str) -> None:
    with psycopg.connect(world.url, autocommit=True) as conn:
        conn.execute(statements.encode())


def made(world: World, name: str) -> list[str]:
    keys = "SELECT conname FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'f'"
    return [row[0] for row in world.ask(f"SELECT indexname FROM pg_indexes WHERE tablename = %s UNION ALL {keys} ORDER BY 1", name, name)]


def prepared(world: World, name: str) -> str:
    """Load a first file, so that the tables are there, and drop one index, so that the next run has one to make."""
    pipeline = write_finished(world.directory, name)
    assert world.load(pipeline, write_numbers(world.directory / "before.txt", 10)).state == "succeeded"
    do(world, f'DROP INDEX "{name}_Größe_n_idx" RESTRICT')
    return pipeline


def test_what_is_made_at_the_end_is_told_by_every_face_while_the_run_is_running(world: World) -> None:
    pipeline = prepared(world, "slow_end")
    with held(world, "slow_end"):
        run = world.submit(pipeline, write_numbers(world.directory / "n.txt", 30, first=10))
        head = "making index on public.slow_end (Größe, n), 1 of 1: waits for a lock of session "
        told = wait_until(lambda: found if (found := world.cluster.client.get(run.run_id).reason or "").startswith(head) else None)
        assert "(a nosy editor, idle in transaction)" in told
        assert world.cluster.client.get(run.run_id).state == "running"
        [listed] = [row for row in api.report(world.url, "runs", limit=50) if row["run"] == run.run_id]
        assert listed["state_reason"] == told  # from the database alone
    done = world.finish(run.run_id)
    assert (done.state, done.reason, done.loaded) == ("succeeded", None, 30)
    assert made(world, "slow_end") == ["slow_end_Größe_n_idx", "slow_end_n_fkey", "slow_end_n_idx"]


@pytest.mark.slow
def test_a_run_that_is_cancelled_while_an_index_is_made_ends_the_statement(world: World) -> None:
    pipeline = prepared(world, "left_off")
    source = write_numbers(world.directory / "n.txt", 30)
    with held(world, "left_off"):
        run = world.submit(pipeline, source)
        wait_until(lambda: "waits for a lock" in (world.cluster.client.get(run.run_id).reason or ""))
        assert world.cluster.client.cancel(run.run_id).state == "cancelled"
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'protheon-finish' AND wait_event_type = 'Lock'"
        wait_until(lambda: world.ask(waiting) == [(0,)])
    assert len(made(world, "left_off")) == 2
    again = world.load(pipeline, source)
    assert (again.state, again.skipped_files) == ("succeeded", 1)
    assert len(made(world, "left_off")) == 3


def test_a_foreign_key_that_cannot_be_made_leaves_the_run_incomplete_and_is_made_when_it_is_typed_again(world: World) -> None:
    pipeline, source = write_finished(world.directory, "orphans"), write_numbers(world.directory / "n.txt", 50)
    done = world.load(pipeline, source)
    assert (done.state, done.loaded) == ("incomplete", 50)
    assert "foreign key of public.orphans (n) to public.orphans_other (n) could not be made: insert or update on table" in (
        done.reason or ""
    )
    assert "(n)=(41) is not present" in (done.reason or "")
    assert made(world, "orphans") == ["orphans_Größe_n_idx", "orphans_n_idx"]
    do(world, "INSERT INTO orphans_other VALUES (41)")
    again = world.load(pipeline, source)
    assert (again.state, again.skipped_files) == ("succeeded", 1)
    assert made(world, "orphans") == ["orphans_Größe_n_idx", "orphans_n_fkey", "orphans_n_idx"]


@pytest.mark.parametrize(
    ("name", "harm", "mend", "told"),
    [
        ("dropped", "ALTER TABLE dropped RENAME TO away", "ALTER TABLE away RENAME TO dropped", 'relation "public.dropped" does not exist'),
        (
            "retyped",
            "ALTER TABLE retyped ALTER n TYPE text",
            "ALTER TABLE retyped ALTER n TYPE bigint USING n::bigint",
            "column 'n' is text, the pipeline's is bigint: alter it back",
        ),
        ("narrowed", "ALTER TABLE narrowed ALTER n TYPE smallint", "ALTER TABLE narrowed ALTER n TYPE bigint", "column 'n' is smallint"),
        ("withdrawn", "ALTER TABLE withdrawn RENAME n TO m", "ALTER TABLE withdrawn RENAME m TO n", "n"),
    ],
)
def test_a_table_that_is_altered_in_the_middle_pauses_the_run_which_goes_on_after_it_was_mended(
    world: World, gate: Gate, name: str, harm: str, mend: str, told: str
) -> None:
    """No line is blamed, whatever the new type makes of the bytes of the old one."""
    source = write_numbers(world.directory / "n.txt", 6_000)
    run = world.submit(write_pipeline(world.directory, name, gate.body(2, 1_000)), source, chunk_lines=1_000)
    world.wait_chunks_done(run.run_id, 2)
    wait_until(lambda: world.ask("SELECT count(*) FROM protheon.attempt WHERE run_id = %s AND ended_at IS NULL", run.run_id) != [(0,)])
    do(world, f"{harm}")
    gate.open()
    paused = world.finish(run.run_id)
    assert paused.state == "paused"
    assert told in (paused.reason or "")
    assert (paused.loaded, paused.rejected) == (2_000, 0)
    do(world, f"{mend}")
    assert world.cluster.client.resume(run.run_id).state == "running"
    done = world.finish(run.run_id)
    assert (done.state, done.loaded, done.rejected) == ("succeeded", 6_000, 0)
    assert numbers(world.url, name) == list(range(6_000))
    assert {cost for attempts in world.attempts(done.run).values() for _, cost in attempts} == {"nothing"}


@pytest.mark.slow
def test_a_file_whose_table_is_gone_is_not_just_skipped(world: World) -> None:
    pipeline, source = write_pipeline(world.directory, "lost"), write_numbers(world.directory / "n.txt", 300)
    first = world.load(pipeline, source)
    do(world, "DROP TABLE lost")
    for now in ("gone", "empty"):
        run = world.submit(pipeline, source)
        assert [load.joined for load in run.loads] == ["skipped"]
        said = (
            f"n.txt: counts as loaded, but table public.lost, into which run {first.run} put 300 rows of it, is {now} now: --again loads it"
        )
        assert [notice for notice in run.notices if said in notice]
        world.finish(run.run_id)
    run = world.submit(pipeline, source, again=True)
    assert not [notice for notice in run.notices if "counts as loaded" in notice]
    assert world.finish(run.run_id).loaded == 300
    assert numbers(world.url, "lost") == list(range(300))
    assert not [notice for notice in world.submit(pipeline, source).notices if "counts as loaded" in notice]


def test_a_file_that_is_loaded_in_part_does_not_go_on_without_the_rows_it_had(world: World, gate: Gate) -> None:
    source = write_numbers(world.directory / "n.txt", 4_000)
    pipeline = write_pipeline(world.directory, "half_gone", gate.body(2, 1_000))
    first = world.submit(pipeline, source, chunk_lines=1_000)
    world.wait_chunks_done(first.run_id, 2)
    world.cluster.client.cancel(first.run_id)
    gate.open()
    wait_until(lambda: world.ask("SELECT count(*) FROM protheon.attempt WHERE run_id = %s AND ended_at IS NULL", first.run_id) == [(0,)])
    do(world, "TRUNCATE half_gone")
    [(runs_before,)] = world.ask("SELECT count(*) FROM protheon.run")
    with pytest.raises(ConfigError, match=rf"n.txt is loaded in part, .* run {first.run_id} put 2,000 rows of it, is empty now: --again"):
        world.submit(pipeline, source)
    assert world.ask("SELECT count(*) FROM protheon.run") == [(runs_before,)]
    assert world.load(pipeline, source, again=True).loaded == 4_000
    assert numbers(world.url, "half_gone") == list(range(4_000))


@pytest.mark.parametrize(
    ("ddl", "words"),
    [
        ("CREATE UNLOGGED TABLE refused (n bigint, _protheon_chunk bigint)", "unlogged"),
        ("CREATE VIEW refused AS SELECT 1 AS n", "is a view"),
        ("CREATE TABLE refused (n money, _protheon_chunk bigint)", "column 'n' is money, the pipeline's is bigint"),
    ],
)
def test_a_table_that_cannot_take_the_rows_is_refused_before_there_is_a_run(world: World, ddl: str, words: str) -> None:
    pipeline, source = write_pipeline(world.directory, "refused"), write_numbers(world.directory / "n.txt", 5)
    [(runs_before,)] = world.ask("SELECT count(*) FROM protheon.run")
    do(world, f"{ddl}")
    with pytest.raises(ConfigError, match=words):
        world.submit(pipeline, source)
    assert world.ask("SELECT count(*) FROM protheon.run") == [(runs_before,)]
    do(world, f"DROP {'VIEW' if 'VIEW' in ddl else 'TABLE'} refused")


def test_rows_that_a_trigger_drops_are_ignored_and_the_run_says_so(world: World) -> None:
    pipeline = write_pipeline(world.directory, "filtered")
    world.load(pipeline, write_numbers(world.directory / "one.txt", 1))
    do(
        world,
        """
        CREATE FUNCTION odd_only() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN CASE WHEN NEW.n % 2 = 1 THEN NEW END; END $$;
        CREATE TRIGGER "odd only" BEFORE INSERT ON filtered FOR EACH ROW EXECUTE FUNCTION odd_only()
        """,
    )
    run = world.submit(pipeline, write_numbers(world.directory / "n.txt", 4_000), chunk_lines=1_000)
    assert [notice for notice in run.notices if "public.filtered has triggers" in notice and "odd only" in notice]
    done = world.finish(run.run_id)
    assert (done.state, done.loaded) == ("succeeded", 4_000)
    assert [(count.offered, count.inserted, count.ignored) for count in done.rows] == [(4_000, 2_000, 2_000)]
    assert [notice for notice in done.notices if "drops rows" in notice] == [
        "table public.filtered: a trigger drops rows (odd only): they count as ignored"
    ]
    assert world.findings(done.run) == ()


THREE = """
import protheon_dask as protheon

N = protheon.Column("n", "bigint", not_null=True)
A = protheon.Table(name="public.three_a", columns=(N,), primary_key=("n",))
HITS = protheon.Column("hits", "integer")
B = protheon.Table(name="public.three_b", columns=(N, HITS), primary_key=("n",), on_conflict="add", shared=True)
C = protheon.Table(name="public.three_c", columns=(N,), primary_key=("n",), on_conflict="ignore", shared=True)

@protheon.pipeline(version="1", tables=[A, B, C])
def three(line: bytes):
    n = int(line)
    yield A, (n,)
    yield B, (n % 10, 2**31 - 1 if n == 77 else 1)
    yield C, (n,)
"""


def test_a_line_that_only_a_merge_refuses_is_found_and_leaves_nothing_in_any_table(world: World) -> None:
    path = world.directory / "three.py"
    path.write_text(THREE)
    world.load(f"{path}:three", write_numbers(world.directory / "one.txt", 1, first=5_000))
    do(world, "CREATE TABLE known AS SELECT generate_series(0, 6000) AS n; ALTER TABLE known ADD PRIMARY KEY (n)")
    do(world, "DELETE FROM known WHERE n = 123; ALTER TABLE three_c ADD FOREIGN KEY (n) REFERENCES known")
    done = world.load(f"{path}:three", write_numbers(world.directory / "n.txt", 1_000), chunk_lines=1_000)
    assert (done.state, done.loaded, done.rejected) == ("succeeded", 998, 2)
    rejects = api.report(world.url, "rejects", done.run)
    assert [(row["line"], row["sqlstate"], row["table_name"]) for row in rejects] == [
        (78, "22003", "public.three_b"),
        (124, "23503", "public.three_c"),
    ]
    assert numbers(world.url, "three_a") == numbers(world.url, "three_c") == [n for n in range(1_000) if n not in (77, 123)] + [5_000]
    assert dict(world.ask("SELECT n, hits FROM three_b")) == {n: 101 if n == 0 else 99 if n in (3, 7) else 100 for n in range(10)}


@pytest.mark.slow
def test_a_command_that_ends_with_its_run_leaves_its_table_analysed(database: str, tmp_path: Path) -> None:
    """The cluster lives as long as the command, and statistics are made after the run's end."""
    source = tmp_path / "events.jsonl"
    source.write_text("".join(f'{{"n": {n}}}\n' for n in range(3_000)))
    command = [Path(sys.executable).with_name("protheon"), "load", str(source), "--into", database, "--quiet", "--workers", "1"]
    done = subprocess.run(command, env={**os.environ, "PROTHEON_HOME": str(tmp_path)}, capture_output=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr.decode()
    assert ask(database, "SELECT reltuples FROM pg_class WHERE oid = 'public.events'::regclass") == [(3_000.0,)]
