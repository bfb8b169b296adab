"""undo deletes what a load brought, and nothing else; what another load or person may depend on stays, with the reason."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from protheon_dask.errors import ConfigError, LedgerUnavailable, NotFound
from protheon_dask.ledger import runs
from protheon_dask.ledger import undo as ledger_undo
from protheon_dask.model import RunState
from protheon_dask.run import api
from protheon_dask.run.worker import WorkerProcess
from protheon_dask.sink import undo as sink_undo
from tests.integration.run.conftest import Bench
from tests.integration.run.test_verify_deep import lines, verify, write_pipeline
from tests.properties.effort import examples

KEYED: dict[str, Any] = {"columns": "n bigint, s text", "primary_key": ("n",)}


def load(bench: Bench, pipeline: str, text: str, worker: WorkerProcess | None = None, **options: Any) -> int:
    """Load a new file and end its run; the number of the load."""
    bench.submit(text, pipeline=pipeline, **{"checksum": True, **options})
    assert set(bench.load_all(worker or bench.worker())) == {"succeeded"}
    assert runs.end_run(bench.conn, bench.run_id, RunState.SUCCEEDED, None)
    return bench.load_id


_workers: dict[str, WorkerProcess] = {}


def worker_of(bench: Bench) -> WorkerProcess:
    """One worker for all examples of a property."""
    if bench.url not in _workers:
        _workers[bench.url] = bench.worker()
    return _workers[bench.url]


def rows(bench: Bench, table: str) -> list[tuple[int, str]]:
    return [(n, s) for n, s in bench.ask(f"SELECT n, s FROM public.{table} ORDER BY n")]


def numbers(bench: Bench, table: str = "deep") -> list[int]:
    return [row[0] for row in bench.ask(f"SELECT n FROM public.{table} ORDER BY n")]


def undo(bench: Bench, load_id: int) -> dict[str, int]:
    return api.undo_load(bench.url, load_id).deleted_rows


def refusal(bench: Bench, load_id: int) -> str:
    """Why a load is not undone; nothing has changed then."""
    before = bench.ask("SELECT id, retired_at, undo_started_at FROM protheon.load ORDER BY id")
    with pytest.raises(ConfigError) as refused:
        api.undo_load(bench.url, load_id)
    assert bench.ask("SELECT id, retired_at, undo_started_at FROM protheon.load ORDER BY id") == before
    reasons = api.plan_undo(bench.url, load_id).refusals
    mark = ": " if len(reasons) == 1 else "\n  - "
    assert all(f"{mark}{reason}" in str(refused.value) for reason in reasons)
    return str(refused.value)


@pytest.mark.parametrize(
    ("partitioned", "indexed"),
    [(False, False), (True, False), pytest.param(False, True, marks=pytest.mark.slow), pytest.param(True, True, marks=pytest.mark.slow)],
    ids=["one table page by page", "partitions page by page", "one table by an index", "partitions by an index"],
)
def test_the_rows_of_a_load_go_and_those_of_others_stay(
    bench: Bench, indexed: bool, partitioned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink_undo, "PIECE_ROWS", 7)
    monkeypatch.setattr(sink_undo, "PIECE_PAGES", 1)
    if partitioned:
        bench.conn.execute("CREATE TABLE deep (n bigint, s text, _protheon_chunk bigint) PARTITION BY RANGE (n)")
        bench.conn.execute("CREATE TABLE deep_1 PARTITION OF deep FOR VALUES FROM (0) TO (12)")
        bench.conn.execute("CREATE TABLE deep_2 PARTITION OF deep DEFAULT")
    pipeline = write_pipeline(bench.directory)
    first = load(bench, pipeline, lines(*range(25)))
    if indexed:
        bench.conn.execute("CREATE INDEX ON deep (_protheon_chunk)")
    second = load(bench, pipeline, lines(*range(10, 40)))
    bench.conn.execute("INSERT INTO deep (n) VALUES (999)")

    told: list[int] = []
    undone = api.undo_load(bench.url, first, lambda _, n_rows: told.append(n_rows))
    assert undone.deleted_rows == {"public.deep": 25}
    assert told[-1] == 25
    assert numbers(bench) == [*range(10, 40), 999]
    again = api.undo_load(bench.url, first)
    assert again.was_undone_at is not None
    assert again.deleted_rows == {"public.deep": 25}
    assert undo(bench, second) == {"public.deep": 30}
    assert numbers(bench) == [999]


def test_a_load_an_undo_and_a_load_give_the_same_table(bench: Bench) -> None:
    pipeline = write_pipeline(bench.directory, **KEYED, on_conflict="ignore")
    text = lines(*range(25))
    bench.submit(text, pipeline=pipeline)
    [source] = [Path(path) for (path,) in bench.ask("SELECT path FROM protheon.load")]
    bench.load_all(bench.worker())
    runs.end_run(bench.conn, bench.run_id, RunState.SUCCEEDED, None)
    before = bench.ask("SELECT n, s FROM deep ORDER BY n")
    undo(bench, bench.load_id)
    assert numbers(bench) == []
    second = load(bench, pipeline, source.read_text())
    assert bench.ask("SELECT joined FROM protheon.run_load WHERE load_id = %s", second) == [("new",)]
    assert bench.ask("SELECT n, s FROM deep ORDER BY n") == before
    assert verify(bench).findings == ()


def test_verify_and_the_lists_say_that_a_load_is_undone(bench: Bench) -> None:
    load_id = load(bench, write_pipeline(bench.directory), lines(*range(25)))
    undo(bench, load_id)
    found = verify(bench)
    assert found.findings == ()
    assert any(f"load {load_id} (" in note and "undone at" in note for note in found.notes)
    assert [row["undo_state"] for row in api.report(bench.url, "files", bench.run_id)] == ["undone"]
    assert [row["undone"] for row in api.report(bench.url, "runs", limit=1)] == [1]
    assert any("undone at" in notice for notice in api.run_statistics(bench.url, bench.run_id).notices)
    bench.conn.execute("INSERT INTO deep VALUES (1, 'back', %s)", (bench.task_ids[0],))
    assert any("was undone, and 1 row of it is there" in finding for finding in verify(bench).findings)


def test_no_such_load_is_said(bench: Bench) -> None:
    with pytest.raises(NotFound, match="there is no load 77"):
        api.undo_load(bench.url, 77)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"provenance": False}, "do not say where they came from"),
    ({**KEYED, "columns": "n bigint, s bigint", "on_conflict": "add"}, "its values were added to stored rows"),
    ({**KEYED, "on_conflict": "update"}, "it replaced 3 stored rows"),
]


@pytest.mark.parametrize(("options", "reason"), REFUSED, ids=["no provenance", "add", "update"])
def test_rows_that_cannot_be_told_from_others_stay(bench: Bench, options: dict[str, Any], reason: str) -> None:
    text = '{"n": 1, "s": 1}\n' * 14 if options.get("on_conflict") == "add" else lines(*range(10), 1, 2, 3)
    load_id = load(bench, write_pipeline(bench.directory, **options), text)
    n_rows = bench.ask("SELECT count(*) FROM deep")
    assert reason in refusal(bench, load_id)
    assert bench.ask("SELECT count(*) FROM deep") == n_rows


def test_rows_that_others_were_ignored_for_stay_until_those_are_undone(bench: Bench) -> None:
    pipeline = write_pipeline(bench.directory, **KEYED, on_conflict="ignore")
    first = load(bench, pipeline, lines(*range(10)))
    second = load(bench, pipeline, lines(*range(5, 15)))
    assert f"5 rows of load {second} (" in refusal(bench, first)
    assert undo(bench, second) == {"public.deep": 5}
    assert numbers(bench) == list(range(10))
    assert undo(bench, first) == {"public.deep": 10}


def test_a_load_that_ignored_rows_of_one_before_it_can_go(bench: Bench) -> None:
    pipeline = write_pipeline(bench.directory, **KEYED, on_conflict="ignore")
    load(bench, pipeline, lines(*range(10)))
    second = load(bench, pipeline, lines(*range(20)))
    assert undo(bench, second) == {"public.deep": 10}
    assert numbers(bench) == list(range(10))


BUILT_UPON: dict[str, tuple[str, dict[str, Any], str]] = {
    "passed": ("error", {"on_conflict": "ignore"}, "5 rows of load"),
    "newest": ("error", {"on_conflict": "update", "newer_by": "s"}, "5 rows of load"),
    "unmarked": ("update", {"on_conflict": "update", "provenance": False}, "to 5 stored rows, or replaced them without provenance"),
    "summed": ("error", {"on_conflict": "add"}, "added to 5 stored rows"),
}


@pytest.mark.slow
def test_a_load_stays_while_another_pipelines_rule_stands_on_its_rows(bench: Bench) -> None:
    """The rule of the table is each pipeline's own: what counts is the other one's. Also while that one is still at work."""
    keyed, numbers_only = {**KEYED, "columns": "n bigint, s bigint"}, "".join(f'{{"n": {n}, "s": 1}}\n' for n in range(5, 15))
    other = bench.directory / "other"
    other.mkdir()
    worker = worker_of(bench)
    for name, (own_rule, rule, reason) in BUILT_UPON.items():
        pipeline = write_pipeline(bench.directory, name, **keyed, on_conflict=own_rule)
        first = load(bench, pipeline, "".join(f'{{"n": {n}, "s": 1}}\n' for n in range(10)), worker)
        pipeline = write_pipeline(other, name, **{**keyed, **rule})
        bench.submit(numbers_only, pipeline=pipeline)
        assert f"run {bench.run_id} is running and loads into public.{name}" in refusal(bench, first)
        bench.load_all(worker)
        runs.end_run(bench.conn, bench.run_id, RunState.SUCCEEDED, None)
        assert reason in refusal(bench, first)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("action", "reason"),
    [
        ("NO ACTION", "1 row of table notes refers to its rows in public.deep"),
        ("CASCADE", "which would delete or change its rows as well"),
        ("SET NULL", "which would delete or change its rows as well"),
    ],
)
def test_rows_that_others_refer_to_stay(bench: Bench, action: str, reason: str) -> None:
    load_id = load(bench, write_pipeline(bench.directory, **KEYED), lines(*range(10)))
    bench.conn.execute(f"CREATE TABLE notes (of bigint REFERENCES deep ON DELETE {action})".encode())
    bench.conn.execute("INSERT INTO notes VALUES (4)")
    assert reason in refusal(bench, load_id)
    bench.conn.execute("DROP TABLE notes")
    assert undo(bench, load_id) == {"public.deep": 10}


def test_a_large_table_that_refers_to_the_rows_needs_an_index_for_it(bench: Bench) -> None:
    """PostgreSQL would read all of it for each row that is deleted."""
    load_id = load(bench, write_pipeline(bench.directory, **KEYED), lines(*range(10)))
    bench.conn.execute("INSERT INTO deep VALUES (77)")
    bench.conn.execute("CREATE TABLE notes (id bigint, of bigint REFERENCES deep)")
    bench.conn.execute("INSERT INTO notes SELECT n, 77 FROM generate_series(1, 30000) AS n")
    assert 'each deletion would read all of it; CREATE INDEX ON notes ("of")' in refusal(bench, load_id)
    bench.conn.execute("CREATE INDEX ON notes (of)")
    assert undo(bench, load_id) == {"public.deep": 10}


def test_triggers_on_delete_and_missing_rights_are_named(bench: Bench) -> None:
    load_id = load(bench, write_pipeline(bench.directory), lines(*range(10)))
    bench.conn.execute("CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    bench.conn.execute("CREATE TRIGGER audit BEFORE DELETE ON deep FOR EACH ROW EXECUTE FUNCTION keep()")
    assert "triggers on DELETE, which may change other rows or keep these: audit" in refusal(bench, load_id)
    bench.conn.execute("ALTER TABLE deep DISABLE TRIGGER audit")
    assert undo(bench, load_id) == {"public.deep": 10}


def test_rights_are_needed_on_each_partition(bench: Bench) -> None:
    """Rows are deleted from each by itself: a right to the whole alone would end the undo half-way."""
    bench.conn.execute("CREATE TABLE deep (n bigint, s text, _protheon_chunk bigint) PARTITION BY RANGE (n)")
    bench.conn.execute("CREATE TABLE deep_1 PARTITION OF deep DEFAULT")
    load_id = load(bench, write_pipeline(bench.directory), lines(*range(10)))
    role = f"r_{uuid4().hex[:8]}"
    bench.conn.execute(f"CREATE ROLE {role} LOGIN; GRANT ALL ON deep TO {role}; GRANT USAGE ON SCHEMA protheon TO {role}")
    bench.conn.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA protheon TO {role}")
    try:
        with pytest.raises(ConfigError, match="no right to SELECT and DELETE from table deep_1"):
            api.undo_load(psycopg.conninfo.make_conninfo(bench.url, user=role), load_id)
        assert bench.ask("SELECT undo_started_at FROM protheon.load") == [(None,)]
    finally:
        bench.conn.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_rows_that_were_moved_into_a_table_that_inherits_go_too(bench: Bench) -> None:
    load_id = load(bench, write_pipeline(bench.directory), lines(*range(10)))
    bench.conn.execute("CREATE TABLE old () INHERITS (deep)")
    bench.conn.execute("WITH gone AS (DELETE FROM ONLY deep WHERE n < 4 RETURNING *) INSERT INTO old SELECT * FROM gone")
    assert verify(bench).findings == ()  # the table's rows, as SQL has it
    assert undo(bench, load_id) == {"public.deep": 10}


@pytest.mark.slow
def test_a_time_out_of_the_role_ends_no_look_for_rows_that_refer_to_others(bench: Bench) -> None:
    """Which may take long; here somebody's lock makes it so."""
    load_id = load(bench, write_pipeline(bench.directory, **KEYED), lines(*range(10)))
    bench.conn.execute("CREATE TABLE notes (of bigint REFERENCES deep)")
    bench.conn.execute(f"ALTER DATABASE {bench.conn.info.dbname} SET statement_timeout = '2s'".encode())
    with psycopg.connect(bench.url) as holder:
        holder.execute("LOCK TABLE notes")
        release = threading.Timer(3.0, holder.commit)
        release.start()
        assert undo(bench, load_id) == {"public.deep": 10}
        release.join()


TREE = """
import protheon_dask as protheon

P = protheon.Table(name="public.parent", columns=(protheon.Column("n", "bigint"),), primary_key=("n",), provenance=True)
C = protheon.Table(name="public.child", columns=(protheon.Column("n", "bigint"), protheon.Column("up", "bigint")), provenance=True,
                   primary_key=("n",), foreign_keys=(protheon.ForeignKey(("n",), "public.parent", ("n",)),))

@protheon.pipeline(version="1", tables=[P, C])
def tree(line: dict):
    yield P, (line["n"],)
    yield C, (line["n"], max(line["n"] - 1, 0))
"""


@pytest.mark.slow
def test_tables_of_a_load_that_refer_to_each_other_go_in_order(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also rows that refer to rows of their own table, however small the pieces are."""
    monkeypatch.setattr(sink_undo, "PIECE_PAGES", 1)
    (bench.directory / "tree.py").write_text(TREE)
    pipeline = f"{bench.directory / 'tree.py'}:tree"
    first = load(bench, pipeline, lines(*range(25)))
    bench.conn.execute("ALTER TABLE child ADD FOREIGN KEY (n) REFERENCES parent, ADD FOREIGN KEY (up) REFERENCES child")
    second = load(bench, pipeline, lines(*range(25, 40)))
    assert "1 row of others of table child refers to its rows in public.child" in refusal(bench, first)
    assert undo(bench, second) == {"public.child": 15, "public.parent": 15}
    assert undo(bench, first) == {"public.child": 25, "public.parent": 25}
    assert bench.ask("SELECT count(*) FROM parent") == [(0,)]


def test_a_load_whose_run_has_not_ended_stays(bench: Bench) -> None:
    bench.submit(lines(*range(25)), pipeline=write_pipeline(bench.directory))
    assert f"run {bench.run_id} has it and is running: cancel it first" in refusal(bench, bench.load_id)
    bench.worker().run(bench.dispatch(0))
    with bench.conn.transaction():
        runs.cancel_run(bench.conn, bench.run_id, "enough")
    assert undo(bench, bench.load_id) == {"public.deep": 10}
    assert numbers(bench) == []


def test_a_chunk_that_is_being_completed_is_waited_for(bench: Bench) -> None:
    bench.submit(lines(*range(10)), pipeline=write_pipeline(bench.directory))
    worker, reached = bench.worker(), threading.Event()

    def undo_and_tell() -> None:
        api.undo_load(bench.url, bench.load_id)
        reached.set()

    with psycopg.connect(bench.url) as holder:  # the row is locked as a completion locks it
        bench.conn.execute("UPDATE protheon.task SET state = 'running', attempt_no = 1, lease_until_at = now() + interval '1 min'")
        holder.execute("SELECT FROM protheon.task FOR NO KEY UPDATE")
        with bench.conn.transaction():
            runs.cancel_run(bench.conn, bench.run_id, "enough")
        assert bench.state() == "running"
        thread = threading.Thread(target=undo_and_tell)
        thread.start()
        assert not reached.wait(0.7)
        holder.rollback()
    thread.join(20)
    assert reached.is_set()
    assert bench.state() == "cancelled"
    assert worker.run(bench.dispatch()) == "not claimed"


@pytest.mark.slow
def test_runs_at_work_on_rows_that_would_be_judged_keep_an_undo_out_and_the_other_way_round(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = write_pipeline(bench.directory, **KEYED, on_conflict="ignore")
    first = load(bench, pipeline, lines(*range(25)))
    bench.submit(lines(*range(100, 110)), pipeline=pipeline)
    running = bench.run_id
    assert f"run {running} is running and loads into public.deep" in refusal(bench, first)
    runs.end_run(bench.conn, running, RunState.CANCELLED, "enough")

    interrupted_undo(bench, first, monkeypatch)
    with pytest.raises(ConfigError, match=f"table public.deep: the rows of load {first} are being deleted"):
        bench.submit(lines(7, 8), pipeline=pipeline)
    assert bench.ask("SELECT count(*) FROM protheon.run WHERE state = 'queued'") == [(0,)]
    undo(bench, first)
    bench.submit(lines(7, 8), pipeline=pipeline)


def interrupted_undo(bench: Bench, load_id: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin an undo in small pieces and lose the connection after the first one that deleted something."""
    monkeypatch.setattr(sink_undo, "PIECE_ROWS", 7)
    bench.conn.execute("CREATE INDEX IF NOT EXISTS deep_chunk ON deep (_protheon_chunk)")

    def cut(_table: str, _n_rows: int) -> None:
        bench.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'protheon-undo'")

    with pytest.raises(LedgerUnavailable):
        api.undo_load(bench.url, load_id, cut)
    assert bench.ask("SELECT deleted_rows FROM protheon.undo_count") == [(7,)]


def test_an_interrupted_undo_goes_on_and_counts_each_row_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = write_pipeline(bench.directory)
    load_id = load(bench, pipeline, lines(*range(25)))
    [(path,)] = bench.ask("SELECT path FROM protheon.load")
    interrupted_undo(bench, load_id, monkeypatch)
    assert bench.ask("SELECT count(*) FROM deep") == [(18,)]
    assert [row["undo_state"] for row in api.report(bench.url, "files", bench.run_id)] == ["being undone"]
    assert any("goes on with it" in finding for finding in verify(bench).findings)
    with pytest.raises(ConfigError, match=f"its load {load_id} is being undone"):
        bench.submit(Path(path).read_text(), pipeline=pipeline)
    assert api.plan_undo(bench.url, load_id).began_at is not None
    assert undo(bench, load_id) == {"public.deep": 25}
    assert numbers(bench) == []


def test_two_undos_of_one_load_delete_each_row_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_undo, "PIECE_ROWS", 3)
    load_id = load(bench, write_pipeline(bench.directory), lines(*range(60)))
    bench.conn.execute("CREATE INDEX ON deep (_protheon_chunk)")
    answers: list[dict[str, int]] = []
    threads = [threading.Thread(target=lambda: answers.append(undo(bench, load_id))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == [{"public.deep": 60}] * 2
    assert numbers(bench) == []


@pytest.mark.slow
def test_rows_that_somebody_moves_meanwhile_are_found_as_well(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An update puts a row's new version where the pass has been already."""
    monkeypatch.setattr(sink_undo, "PIECE_PAGES", 1)
    load_id = load(bench, write_pipeline(bench.directory), "".join(f'{{"n": {n}, "s": "{"x" * 600}"}}\n' for n in range(60)))
    assert bench.ask("SELECT pg_relation_size('deep') / 8192 > 3") == [(True,)]
    has_moved: list[bool] = []

    def move(_table: str, _n_rows: int) -> None:
        if not has_moved:
            has_moved.append(True)
            bench.conn.execute("VACUUM deep")  # the first page is free now
            bench.conn.execute("UPDATE deep SET s = 'short' WHERE n > 50")

    assert api.undo_load(bench.url, load_id, move).deleted_rows == {"public.deep": 60}
    assert numbers(bench) == []


def test_lines_of_jsonl_can_be_undone_by_their_load(bench: Bench) -> None:
    first = load(bench, "jsonl", lines(*range(25)))
    [(table,)] = bench.ask("SELECT DISTINCT table_name FROM protheon.table_count")
    assert undo(bench, first) == {table: 25}
    assert bench.ask(f"SELECT count(*) FROM {table}") == [(0,)]


def test_a_table_that_is_gone_is_no_obstacle(bench: Bench) -> None:
    load_id = load(bench, write_pipeline(bench.directory), lines(*range(5)))
    bench.conn.execute("DROP TABLE deep")
    assert undo(bench, load_id) == {"public.deep": 0}
    found = verify(bench)
    assert found.findings == ()  # nothing is to be there
    assert any("public.deep does not exist any more" in note for note in found.notes)


def test_the_lock_that_parts_runs_and_undos_is_nobody_elses() -> None:
    from protheon_dask.ledger.migrate import LOCK_LEADERSHIP, LOCK_MIGRATIONS
    from protheon_dask.sink.targets import LOCK_FINISH, LOCK_TARGETS

    assert len({ledger_undo.LOCK_UNDO, LOCK_FINISH, LOCK_LEADERSHIP, LOCK_MIGRATIONS, LOCK_TARGETS}) == 5


@pytest.mark.slow
@pytest.mark.timeout(900)  # with the thorough profile
@settings(examples(3), phases=[Phase.generate])
@given(
    rule=st.sampled_from(["error", "ignore", "update"]),
    loads=st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=12), min_size=2, max_size=4),
    order=st.randoms(use_true_random=False),
)
def test_an_undo_that_is_allowed_leaves_the_table_as_if_the_load_had_never_been(
    bench: Bench, rule: str, loads: list[list[int]], order: random.Random
) -> None:
    """And one that is refused changes nothing. Each row says which load wrote it."""
    name = f"t_{uuid4().hex[:8]}"
    pipeline = write_pipeline(bench.directory, name, **KEYED, on_conflict=rule)
    made = {}
    for number, keys in enumerate(loads):
        text = "".join(f'{{"n": {n}, "s": "by {number}"}}\n' for n in keys)
        made[load(bench, pipeline, text, worker_of(bench))] = (number, keys)
    for load_id in order.sample(sorted(made), len(made)):
        before = rows(bench, name)
        try:
            api.undo_load(bench.url, load_id)
        except ConfigError:
            assert rows(bench, name) == before
            continue
        undone, _ = made.pop(load_id)
        as_if: dict[int, str] = {}
        for number, keys in made.values():
            for n in keys:
                as_if[n] = f"by {number}" if rule == "update" else as_if.get(n, f"by {number}")
        if rule == "error":  # a key that was taken made its line a reject, which it stays
            assert {(n, s) for n, s in before if s != f"by {undone}"} == set(rows(bench, name))
        else:
            assert rows(bench, name) == sorted(as_if.items())
        assert verify(bench).findings == ()
