"""Replays on a real ledger with a worker in this process: who closes which reject, and what verify finds where that is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import uuid4

import psycopg
import pytest
from click.testing import CliRunner

from protheon_dask.broker import wire
from protheon_dask.cli.main import protheon
from protheon_dask.config import Settings
from protheon_dask.errors import ConfigError
from protheon_dask.ledger import replays, runs, verbs
from protheon_dask.ledger.leadership import Leadership
from protheon_dask.ledger.statements import statement
from protheon_dask.model import Dispatch, RunState, SplitState
from protheon_dask.pipelines.find import find
from protheon_dask.pipelines.pack import pack
from protheon_dask.run import api
from protheon_dask.run.coordinator import Coordinator
from protheon_dask.run.desk import Place, RunDesk
from protheon_dask.run.replay import LOST
from protheon_dask.run.splitters import FromSplitter
from protheon_dask.workspace.splitting import ChunkCut, Credit, SplitEnded, SplitFailed, SplitJob, split
from protheon_dask.workspace.spool import SpoolWriter
from tests.fixtures.cluster import wait_until
from tests.integration.run.conftest import KEY, Bench, Running, pipeline_file

BAD = "".join(f"{n}\n" if n % 5 else f"bad {n}\n" for n in range(40))  # eight rejects, two in each chunk of ten lines
MENDED = 'line = line.removeprefix(b"bad ")'


@dataclass
class Desk:
    """A bench whose run has rejects, and what submits replays of them. Its coordinator does not run."""

    bench: Bench
    coordinator: Coordinator
    runs: RunDesk

    def submit(self, body: str = MENDED, request_id: str = "") -> wire.Submitted:
        """Ask for a replay through a pipeline with this body."""
        packed = pack(find(pipeline_file(self.bench.directory, body)), KEY)
        return self.runs.replay(wire.Replay(self.bench.run_id, packed, reject_limit_fraction=1.0, request_id=request_id or str(uuid4())))

    def cut(self, load_id: int) -> list[int]:
        """Cut the spool of a replay, as its splitter does; the tasks of its chunks."""
        bench, (found, _) = self.bench, runs.split_of(self.bench.conn, load_id)
        job = SplitJob(
            load_id=load_id,
            path=found.path,
            directory=str(bench.store.directory),
            identity=found.identity,
            chunk_lines=found.chunk_lines,
            max_chunk_raw_bytes=found.max_chunk_bytes,
            max_line_bytes=found.max_line_bytes,
        )
        task_ids = []
        for event in split(job, Credit(1 << 30)):
            if isinstance(event, ChunkCut):
                bench.store.add(load_id, event.manifest)
                task_ids.append(verbs.enqueue(bench.conn, bench.epoch, load_id, event.manifest))
            elif isinstance(event, SplitEnded):
                runs.split_ended(bench.conn, bench.epoch, load_id, SplitState.COMPLETE, n_chunks=event.n_chunks)
        return task_ids

    def load(self, task_id: int) -> str:
        [(attempt_no,)] = self.bench.ask("SELECT attempt_no FROM protheon.task WHERE id = %s", task_id)
        return self.bench.worker().run(Dispatch(task_id, attempt_no, "ingest"))

    def replay(self, body: str = MENDED) -> int:
        """A whole replay; its run."""
        submitted = self.submit(body)
        [load] = submitted.loads
        assert [self.load(task_id) for task_id in self.cut(load.load_id)] == ["succeeded"] * 3
        runs.finish_loads(self.bench.conn)
        return submitted.run_id

    def findings(self, run_id: int) -> list[str]:
        return list(api.verify_run(self.bench.url, run_id).findings)


@pytest.fixture
def desk(bench: Bench) -> Desk:
    bench.submit(BAD)
    bench.load_all(bench.worker())
    coordinator = Coordinator(Settings(), bench.url, "tcp://127.0.0.1:9", bench.store, uuid4(), 1)
    made = RunDesk(Settings(chunk_lines=3), bench.url, coordinator, Place("", "", ""), ephemeral=False)
    return Desk(bench, coordinator, made)


def test_each_chunk_of_a_replay_closes_the_rejects_of_its_lines_as_it_commits(desk: Desk) -> None:
    submitted = desk.submit()
    tasks = desk.cut(submitted.loads[0].load_id)
    closed = []
    for task_id in tasks:
        assert desk.load(task_id) == "succeeded"
        closed.append(desk.bench.ask("SELECT count(*) FROM protheon.reject WHERE replayed_by = %s", submitted.run_id)[0][0])
    assert closed == [3, 6, 8]
    runs.finish_loads(desk.bench.conn)
    assert desk.bench.numbers() == list(range(40))
    assert desk.findings(desk.bench.run_id) == desk.findings(submitted.run_id) == []


def test_a_replay_bears_any_number_of_refusals_unless_a_limit_is_given(desk: Desk) -> None:
    """One pipeline after another mends a part of the lines: that the others are refused again is no fault of the run."""
    packed = pack(find(pipeline_file(desk.bench.directory, MENDED)), KEY)
    for given, is_crossed in (({}, False), ({"reject_limit_fraction": 0.5}, True), ({"reject_limit_lines": 7}, True)):
        made = desk.runs.replay(wire.Replay(desk.bench.run_id, packed, request_id=str(uuid4()), **given))
        assert runs.limit_of(desk.bench.conn, made.run_id).is_crossed(8, 8, at_end=True) is is_crossed
        desk.runs.cancel(made.run_id)


def test_rejects_of_a_load_that_was_undone_start_no_cluster_to_say_that_they_stay(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    assert api.still_refused(desk.bench.url, desk.bench.run_id).n_standing_lines == 8
    desk.bench.conn.execute("UPDATE protheon.load SET retired_at = now()")
    monkeypatch.setattr("protheon_dask.run.local.LocalCluster.__enter__", lambda _: pytest.fail("a cluster is started"))
    typed = CliRunner().invoke(protheon, ["rejects", "replay", str(desk.bench.run_id), "--into", desk.bench.url])
    assert typed.exit_code == 1, typed.exception
    told = " ".join(typed.output.split())
    assert f"8 lines of run {desk.bench.run_id} stay refused: the load was undone (type its `protheon load`" in told


@pytest.mark.slow
def test_reasons_that_differ_in_values_are_one_with_its_first_line(desk: Desk) -> None:
    reasons = [
        "column 'price' (integer) cannot take 'ab': 3 digits",
        "column 'price' (integer) cannot take \"it's\": 12.5 digits",
        "column 'weight' (integer) cannot take 'ab': 3 digits",
        "Expected `int`, got `str` - at `$.items[3].n`",
        "Expected `int`, got `str` - at `$.items[14].n`",
        "column 'price' (integer) cannot take 'c': 1 digits",
        "KeyError: 'a'",
        "KeyError: 'b'",
    ]
    for n, reason in enumerate(reasons):
        desk.bench.ask("UPDATE protheon.reject SET reason = %s WHERE line = %s RETURNING 1", reason, 1 + 5 * n)
    found = api.refusals(desk.bench.url, desk.bench.run_id)
    assert [(item.n, item.line_no, item.reason) for item in found] == [
        (3, 1, reasons[0]),
        (2, 16, reasons[3]),
        (1, 11, reasons[2]),
        (1, 31, reasons[6]),
        (1, 36, reasons[7]),
    ]
    assert {item.n_looked for item in found} == {8}
    assert {item.way_on for item in found if item.line_no != 16} == {None}  # no one wanted JSON there
    assert "bytes" in (found[1].way_on or "")
    runs.end_run(desk.bench.conn, desk.bench.run_id, RunState.INCOMPLETE, None)
    assert api.run_statistics(desk.bench.url, desk.bench.run_id).refusals == found
    replay = desk.replay()
    assert desk.runs.get(replay).statistics["refusals"] == ()
    assert api.run_statistics(desk.bench.url, desk.bench.run_id).refusals == ()


def test_a_repeated_submission_is_the_same_replay(desk: Desk) -> None:
    first = desk.submit(request_id="r")
    assert desk.submit(request_id="r").run_id == first.run_id
    assert desk.bench.ask("SELECT count(*) FROM protheon.load WHERE replay_of IS NOT NULL") == [(1,)]


@pytest.mark.slow
def test_a_chunk_that_would_close_another_number_of_rejects_than_it_has_lines_loads_nothing(desk: Desk) -> None:
    submitted = desk.submit()
    [task_id, *_] = desk.cut(submitted.loads[0].load_id)
    desk.bench.conn.execute("UPDATE protheon.reject SET replay_line = 99 WHERE replay_line = 2")
    assert desk.load(task_id) == "failed"
    [(message,)] = desk.bench.ask("SELECT message FROM protheon.attempt WHERE task_id = %s", task_id)
    assert "of 3 lines from line 1 on 2 are still refused" in message
    assert [n for n in desk.bench.numbers() if n % 5 == 0] == []


def test_lines_that_were_closed_by_another_while_a_chunk_was_at_work_are_not_loaded_twice(desk: Desk) -> None:
    submitted = desk.submit()
    [task_id, *_] = desk.cut(submitted.loads[0].load_id)
    with psycopg.connect(desk.bench.url) as other:
        other.execute("LOCK TABLE public.numbers IN SHARE MODE")
        loading = Running(lambda: desk.load(task_id))
        waiting = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'protheon-worker' AND wait_event_type = 'Lock'"
        wait_until(lambda: desk.bench.ask(waiting))
        desk.bench.conn.execute("UPDATE protheon.reject SET replayed_by = 1 WHERE replay_line = 2")
    assert loading.answer() == "failed"
    [(message,)] = desk.bench.ask("SELECT message FROM protheon.attempt WHERE task_id = %s", task_id)
    assert "2 rejects are closed by 3 lines from line 1 on" in message
    assert [n for n in desk.bench.numbers() if n % 5 == 0] == []


def test_a_chunk_that_is_at_work_when_its_replay_is_given_up_loads_nothing(desk: Desk) -> None:
    submitted = desk.submit()
    [load] = submitted.loads
    [task_id, *_] = desk.cut(load.load_id)
    with psycopg.connect(desk.bench.url) as other:
        other.execute("LOCK TABLE public.numbers IN SHARE MODE")
        loading = Running(lambda: desk.load(task_id))
        waiting = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'protheon-worker' AND wait_event_type = 'Lock'"
        wait_until(lambda: desk.bench.ask(waiting))
        replays.retire(desk.bench.conn, load.load_id)
        runs.end_run(desk.bench.conn, submitted.run_id, RunState.CANCELLED, "a test")
        second = desk.submit()
        assert second.run_id > submitted.run_id
    assert loading.answer() == "lease lost"
    [load] = second.loads
    assert [desk.load(task) for task in desk.cut(load.load_id)] == ["succeeded"] * 3
    assert desk.bench.numbers() == list(range(40))
    assert {row[0] for row in desk.bench.ask("SELECT replayed_by FROM protheon.reject")} == {second.run_id}


@pytest.mark.slow
def test_giving_a_replay_up_waits_for_a_chunk_that_is_committing(desk: Desk) -> None:
    submitted = desk.submit()
    [load] = submitted.loads
    [task_id, *_] = desk.cut(load.load_id)
    desk.bench.conn.execute("UPDATE protheon.task SET state = 'running', attempt_no = 1, lease_until_at = now() WHERE id = %s", (task_id,))
    with psycopg.connect(desk.bench.url) as completing:
        completing.execute("UPDATE protheon.task SET state = 'succeeded', lease_until_at = NULL WHERE id = %s", (task_id,))
        replays.mark_replayed(completing, submitted.run_id, load.load_id, 1, 3)
        with psycopg.connect(desk.bench.url, autocommit=True) as retiring:
            retired = Running(lambda: replays.retire(retiring, load.load_id))
            wait_until(lambda: desk.bench.ask("SELECT 1 FROM pg_locks WHERE NOT granted"))
            completing.commit()
            retired.answer()
    states = desk.bench.ask("SELECT state FROM protheon.task WHERE load_id = %s ORDER BY id", load.load_id)
    assert states == [("succeeded",), ("cancelled",), ("cancelled",)]
    assert len(list(free(desk))) == 5


def free(desk: Desk) -> list[int]:
    with desk.bench.conn.transaction():
        return [reject.line_no for reject in replays.free(desk.bench.conn, desk.bench.load_id)]


def test_tasks_of_a_replay_that_was_given_up_cannot_be_made_ready(desk: Desk) -> None:
    [load] = desk.submit().loads
    tasks = desk.cut(load.load_id)
    replays.retire(desk.bench.conn, load.load_id)
    assert verbs.replay(desk.bench.conn, load.load_id) == []
    assert {row[0] for row in desk.bench.ask("SELECT state FROM protheon.task WHERE id = ANY (%s)", tasks)} == {"cancelled"}


def test_a_spool_is_swept_when_its_replay_has_ended_and_not_before(desk: Desk) -> None:
    spools = desk.coordinator.cutting.spools
    submitted = desk.submit()
    [path] = spools.found()
    assert path.stat().st_mode & 0o777 == 0o600
    assert f"run-{submitted.run_id}-rejects-of-load-{desk.bench.load_id}-" in path.name
    spools.sweep(spools.found(), replays.live_spools(desk.bench.conn))
    assert path.exists()
    runs.cancel_run(desk.bench.conn, submitted.run_id, "a test")
    spools.sweep(spools.found(), replays.live_spools(desk.bench.conn))
    assert spools.found() == []


def test_a_spool_that_is_being_written_is_not_swept(desk: Desk) -> None:
    spools = desk.coordinator.cutting.spools
    with spools.held() as held:
        path = spools.path(9, 1, "/data/a.jsonl")
        held.add(path)
        with SpoolWriter(path) as spool:
            spool.write(b"1")
            spool.end_line()
            assert spools.found() == []
            spool.close()
        assert spools.found() == []
    assert spools.found() == [path]


def test_the_spools_of_a_submission_that_fails_are_deleted(desk: Desk) -> None:
    spools = desk.coordinator.cutting.spools
    path = spools.path(9, 1, "/data/a.jsonl")

    def fail() -> None:
        with spools.held() as held:
            held.add(path)
            with SpoolWriter(path) as spool:
                spool.close()
            raise ConfigError("a test")

    with pytest.raises(ConfigError, match="a test"):
        fail()
    assert not path.exists()


@pytest.mark.slow
@pytest.mark.parametrize("again", [False, True], ids=["cut", "cut again"])
def test_a_replay_without_its_spool_ends_at_once_and_says_what_to_do(desk: Desk, again: bool) -> None:
    assert not desk.coordinator.start_leading(ephemeral=False)  # the bench leads
    submitted = desk.submit()
    [load] = submitted.loads
    desk.cut(load.load_id)
    desk.coordinator._conn, desk.coordinator.leadership = desk.bench.conn, Leadership(desk.bench.epoch, uuid4())
    pending, _ = runs.split_of(desk.bench.conn, load.load_id)
    desk.coordinator._take(FromSplitter(pending, again, SplitFailed("gone: no such file", "refused")))
    [(state, message, retired)] = desk.bench.ask(
        "SELECT split_state, split_message, retired_at IS NOT NULL FROM protheon.load WHERE id = %s", load.load_id
    )
    assert (state, message, retired) == ("failed", LOST, again)
    states = {row[0] for row in desk.bench.ask("SELECT state FROM protheon.task WHERE load_id = %s", load.load_id)}
    assert states == ({"cancelled"} if again else {"ready"})  # what was cut is loaded yet; what has no file is not


def test_a_target_that_is_refused_makes_no_run_and_leaves_no_file(desk: Desk) -> None:
    desk.bench.conn.execute("DROP TABLE public.numbers")
    desk.bench.conn.execute("CREATE VIEW public.numbers AS SELECT 1::bigint AS n")
    with pytest.raises(ConfigError):
        desk.submit()
    assert desk.coordinator.cutting.spools.found() == []
    assert desk.bench.ask("SELECT count(*) FROM protheon.run") == [(1,)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["replay_places", "mark_replayed"])
def test_a_chunk_finds_the_rejects_of_its_lines_by_their_index(desk: Desk, name: str) -> None:
    [load] = desk.submit().loads
    conn = desk.bench.conn
    conn.execute(
        "INSERT INTO protheon.reject (load_id, task_id, attempt_no, line, byte_offset, reason, raw, raw_bytes, replay_load_id, replay_line)"
        " SELECT load_id, task_id, 1, n, n, 'a test', '', 0, replay_load_id, n FROM protheon.reject, generate_series(100, 20000) AS n"
        " WHERE replay_line = 1"
    )
    conn.execute("ANALYZE protheon.reject")
    params = {"run_id": 1, "load_id": load.load_id, "first_line": 5_000, "last_line": 5_099}
    with conn.transaction(force_rollback=True):
        plan = "\n".join(row[0] for row in conn.execute(b"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) " + statement(name), params).fetchall())
    assert "reject_replay" in plan
    assert "Seq Scan" not in plan


def test_verify_finds_a_reject_that_is_marked_and_was_not_replayed(desk: Desk) -> None:
    run_id = desk.replay()
    desk.bench.submit("bad 77\n")
    desk.bench.load_all(desk.bench.worker())
    desk.bench.conn.execute("UPDATE protheon.reject SET replayed_by = %s WHERE replayed_by IS NULL", (run_id,))
    [finding] = desk.findings(desk.bench.run_id)
    assert f"1 rejects are marked as replayed by run {run_id}, which has no chunk that accounts for them" in finding


@pytest.mark.slow
def test_verify_finds_a_replayed_line_whose_reject_is_open(desk: Desk) -> None:
    run_id = desk.replay()
    desk.bench.conn.execute("UPDATE protheon.reject SET replayed_by = NULL WHERE replay_line = 5")
    [finding] = desk.findings(run_id)
    assert "chunk 2 of replay" in finding
    assert "its 3 lines closed 2 rejects" in finding


@pytest.mark.slow
def test_verify_finds_a_line_that_is_refused_twice_and_one_that_was_never_replayed(desk: Desk) -> None:
    run_id = desk.replay('if line == b"bad 20": raise protheon.Reject("no")\n' + MENDED)
    assert desk.findings(run_id) == []
    desk.bench.conn.execute("UPDATE protheon.reject SET line = 1 WHERE reason = 'no'")
    assert desk.findings(run_id) == []  # line 1 was among those that were replayed
    desk.bench.conn.execute("UPDATE protheon.reject SET replayed_by = NULL WHERE line = 1")
    assert any("1 line is refused more than once, the first of them line 1" in text for text in desk.findings(desk.bench.run_id))
    desk.bench.conn.execute("UPDATE protheon.reject SET line = 2 WHERE reason = 'no'")
    assert any("1 of its rejects are of lines that it did not replay" in text for text in desk.findings(run_id))
